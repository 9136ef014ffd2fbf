"""What runtime pruning is measured against: the same for every image, by chance, and by confidence.

Each comes with what brings it to a wanted mean of multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autoprune.data import Split
from autoprune.errors import ChainError
from autoprune.runtime import Chain, NormRows, Walk
from autoprune.search.runtime.judging import Decide, Judged, Policy, Table, judge
from autoprune.seeding import generator

_HALVINGS = 24  # of a one-dimensional search
_RIDGE = 1e-2  # of the probes, in units of the mean variance of a feature


def uniform(chain: Chain, share: float) -> Table:
    """The same row for every image, as even as can be: the most that stays within ``share`` of the dense MACs.

    Level i everywhere, and level i + 1 in some of the stages, which are spread evenly over the network.

    Raises:
        ChainError: even the least is more.
    """
    rows = even_rows(chain)
    costs = chain.macs(rows)
    fits = costs.double() <= share * chain.dense_macs * (1 + 1e-9)
    if not bool(fits.any()):
        raise _out_of_reach(chain, share)
    return Table(rows[int(fits.nonzero().max())])


def even_rows(chain: Chain) -> Tensor:
    """``[1 + (k - 1) * m, m]``, growing: one stage is raised at a time."""
    stages = len(chain.stages)
    order = sorted(range(stages), key=lambda s: int(f"{s:016b}"[::-1], 2))  # a van der Corput sequence
    row = [1] * stages
    rows = [list(row)]
    for _ in range(chain.groups - 1):
        for stage in order:
            row[stage] += 1
            rows.append(list(row))
    return torch.tensor(rows)


def random_actions(chain: Chain, share: float, size: int, *, seed: int = 0) -> Table:
    """Groups by chance for each of ``size`` images and each stage, with a mean of ``share`` of the dense MACs.

    The chance of action i grows or falls geometrically with i.

    Raises:
        ChainError: a share below the least or above 1.
    """
    draws = torch.rand(size, len(chain.stages), generator=generator(seed, "random actions"), dtype=torch.float64)
    steps = torch.arange(chain.groups, dtype=torch.float64)

    def actions(tilt: float) -> Tensor:
        ends = torch.softmax(tilt * steps, 0).cumsum(0)[:-1]
        return torch.searchsorted(ends, draws) + 1

    def cost(tilt: float) -> float:
        return float(chain.macs(actions(tilt)).double().mean()) / chain.dense_macs

    if not cost(-50.0) <= share <= 1 + 1e-9:
        raise _out_of_reach(chain, share)
    return Table(actions(_bisect(cost, share, -50.0, 50.0)))


class Confidence:
    """The more confident a linear probe is, the fewer groups: one from the threshold on, all where it knows nothing.

    The probe of a stage is a ridge regression from the pooled features of the stages so far to the classes; its
    confidence is the gap between its two largest outputs. One group more is run for each of the k - 1 evenly spaced
    levels up to the threshold that lies above it.

    Attributes:
        threshold: gap from which on it is confident.
    """

    def __init__(self, chain: Chain, probes: Sequence[Tensor], threshold: float = 0.5) -> None:
        self.chain, self.probes, self.threshold = chain, probes, threshold

    @classmethod
    def fit(cls, chain: Chain, split: Split, classes: int, *, seed: int = 0, samples: int = 4096) -> Confidence:
        """Probes of every stage from images of ``split`` under random actions."""
        size = min(samples, len(split))
        noise = generator(seed, "probes")
        rows = torch.randint(1, chain.groups + 1, (size, len(chain.stages)), generator=noise)
        seen = _pooled(chain, split, rows)
        target = torch.nn.functional.one_hot(split.y[:size].cpu(), classes).double()
        probes = [_ridge(torch.cat(seen[: stage + 1], 1), target) for stage in range(len(seen))]
        return cls(chain, probes)

    def at(self, threshold: float) -> Confidence:
        """The same probes with another threshold."""
        return Confidence(self.chain, self.probes, threshold)

    def start(self, index: Tensor) -> Decide:
        """Features of the batch are gathered as it goes."""
        del index
        seen: list[Tensor] = []

        def decide(walk: Walk) -> Tensor:
            seen.append(walk.pooled.double())
            weights = self.probes[walk.stage]
            out = torch.cat(seen, 1) @ weights[:-1] + weights[-1]
            top = out.topk(2, 1).values
            levels = self.threshold * torch.arange(1, self.chain.groups) / max(self.chain.groups - 1, 1)
            return ((top[:, :1] - top[:, 1:]) < levels).sum(1) + 1

        return decide

    def matched(self, split: Split, share: float) -> Confidence:
        """With the threshold at which the mean over ``split`` comes closest to ``share`` from below.

        Raises:
            ChainError: a share below the least or above 1.
        """
        if not float(self.chain.macs(1)) / self.chain.dense_macs <= share <= 1 + 1e-9:
            raise _out_of_reach(self.chain, share)
        cost = lambda threshold: judge(self.chain, split, self.at(threshold)).share  # noqa: E731
        return self.at(_bisect(cost, share, 0.0, 4.0 * self.chain.groups, 16))


def _bisect(cost: Callable[[float], float], share: float, low: float, high: float, halvings: int = _HALVINGS) -> float:
    """The largest argument found at which the growing ``cost`` is at most ``share``."""
    if cost(high) <= share:
        return high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= share else (low, middle)
    return low


@torch.no_grad()
def _pooled(chain: Chain, split: Split, rows: Tensor, batch: int = 256) -> list[Tensor]:
    """Features of every stage, each ``[N, channels]`` float64."""
    found: list[list[Tensor]] = [[] for _ in chain.stages]
    for at in range(0, len(rows), batch):
        own = rows[at : at + batch]
        walk = chain.begin(split.inputs(slice(at, at + len(own))))
        while not walk.done:
            found[walk.stage].append(walk.pooled.double())
            walk = walk.step(own[:, walk.stage].contiguous())
    return [torch.cat(parts) for parts in found]


def _ridge(features: Tensor, target: Tensor) -> Tensor:
    """Weights ``[F + 1, classes]``, the intercept last."""
    mean, aim = features.mean(0), target.mean(0)
    centred = features - mean
    gram = centred.T @ centred / len(features)
    scale = max(float(gram.diagonal().mean()), 1e-12)
    gram.diagonal().add_(_RIDGE * scale)
    weights = torch.linalg.solve(gram, centred.T @ (target - aim) / len(features))
    return torch.cat([weights, (aim - mean @ weights)[None]])


def _out_of_reach(chain: Chain, share: float) -> ChainError:
    least = int(chain.macs(1)) / chain.dense_macs
    return ChainError(
        f"this network can run {least:.4g} to 1 of its multiply-accumulates, but {share:.4g} of them were asked for"
    )


def at_equal_macs(
    chain: Chain,
    split: Split,
    share: float,
    confidence: Confidence,
    seed: int = 0,
    norms: NormRows | None = None,
) -> dict[str, Judged]:
    """Every baseline at a mean of ``share`` of the dense multiply-accumulates, by name.

    ``norms`` gives the statistics of norms at that share, but to the confidence, whose probes know the common ones.
    """
    policies: dict[str, Policy] = {
        "static uniform": uniform(chain, share),
        "random": random_actions(chain, share, len(split), seed=seed),
        "confidence": confidence.matched(split, share),
    }
    return {
        name: judge(chain, split, policy, norms=None if name == "confidence" else norms)
        for name, policy in policies.items()
    }
