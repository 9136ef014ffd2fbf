"""How hard a sample looks, learned before any decision is: from what it loses along a path of widths.

A decision at one stage changes what a sample loses by far less than chance does, so that telling hard samples from easy
ones by single decisions takes very many episodes. Where all stages are narrow together it changes by much, and one
number a sample is enough to say by how much: the factor on what is lost on average.

What is lost is the chance of the right class. A cross-entropy would make most of samples that are wrong at any width,
which is where further groups are wasted.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.evaluation import checked_logits
from autoprune.runtime import Chain, Controller
from autoprune.runtime.controller import difficulty
from autoprune.search.runtime.judging import Table, judge
from autoprune.search.runtime.path_losses import error
from autoprune.search.runtime.width_path import WidthPath

_EPOCHS, _BATCH, _LR, _DECAY = 12, 256, 1e-3, 1e-2
_DRAWS = 8  # of a sample, at most
_POWERS = tuple(at / 10 for at in range(1, 13))  # of the difficulty, that may count at a stage


@dataclass(frozen=True, eq=False)
class Passed:
    """What samples showed and lost.

    Attributes:
        index: int64 ``[N]``, places of the samples in their split.
        features: ``[N, width]``, pooled channels of all stages.
        lost: ``[N]``, chance of a wrong class less that of the same sample under a common row of actions.
        expected: ``[N]``, the same for a sample of average difficulty.
    """

    index: Tensor
    features: Tensor
    lost: Tensor
    expected: Tensor


@torch.no_grad()
def passed(
    chain: Chain, split: Split, path: WidthPath, least: float, middle: Tensor, worth: Tensor, *, count: int, batch: int
) -> Passed:
    """Run ``count`` samples at shares from ``least`` to the most of the path, drawn from torch's generator.

    Args:
        chain: the network.
        split: samples.
        path: of widths, whose rows they run.
        least: the smallest share.
        middle: int64 ``[m]``, the actions that are compared with.
        worth: ``[m, k]``, see :meth:`autoprune.search.runtime.width_path.WidthPath.worth`, of chances of error.
        count: samples, each of them again only after all others, and at most eight times.
        batch: that go through the network together.
    """
    stage, most = torch.arange(len(chain.stages)), float(path.shares[-1])
    order = torch.cat([torch.randperm(len(split)) for _ in range(min(-(-count // len(split)), _DRAWS))])[:count]
    distinct, common = order[: len(split)], torch.zeros(len(split), dtype=torch.float64)
    common[distinct] = error(judge(chain, split.subset(distinct), Table(middle)).losses)
    found: list[tuple[Tensor, ...]] = []
    for index in torch.split(order, batch):
        actions = path.taken(least + (most - least) * torch.rand(len(index), dtype=torch.float64))
        x, y = split.inputs(index), split.y[index].cpu()
        walk, pooled = chain.begin(x), []
        while not walk.done:
            pooled.append(walk.pooled)
            walk = walk.step(actions[:, walk.stage].contiguous())
        losses = nn.functional.cross_entropy(checked_logits(walk.output.cpu(), y).double(), y, reduction="none")
        expected = worth[stage, actions - 1].sum(1) - worth[stage, middle - 1].sum()
        found.append((index, torch.cat(pooled, 1), error(losses) - common[index], expected))
    return Passed(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def fit(controller: Controller, samples: Passed, unseen: Passed) -> float:
    """Teach ``controller``, in place, the difficulty of samples at every stage; the mean squared error on ``unseen``.

    At each stage the factor on the expected loss is fitted to the loss by least squares, with all that was seen so far.
    The epoch stays that is best on samples that neither controller nor network have learned from. They also say how
    much is made of the difficulty at each stage: the least power of it that is as good as the best within a standard
    error (L. Breiman et al., "Classification and Regression Trees", 1984). Even where nothing helps a little stays, so
    that the knob moves one sample after the other. At each stage the mean becomes 1, so that samples of average
    difficulty stay on the path. Batches are drawn from torch's generator.
    """
    optimizer = torch.optim.AdamW(controller.parameters(), lr=_LR, weight_decay=_DECAY)
    found: list[tuple[float, _Powers, dict[str, Tensor]]] = []
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(samples.lost)), _BATCH):
            optimizer.zero_grad()
            said = controller.decoded(samples.features[rows])[..., -1:]
            lost = difficulty(said)[..., 0] * samples.expected[rows].float()[:, None]
            (lost - samples.lost[rows].float()[:, None]).square().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        powers = _Powers(controller, unseen)
        found.append((powers.error, powers, copy.deepcopy(controller.state_dict())))
    least, powers, kept = min(found, key=lambda epoch: epoch[0])
    controller.load_state_dict(kept)
    powers.put(controller)
    return least


class _Powers:
    """What is made of the difficulties that a controller says, each stage on its own.

    Attributes:
        error: mean over stages of the squared error with the best power.
    """

    @torch.no_grad()
    def __init__(self, controller: Controller, unseen: Passed) -> None:
        powers = torch.tensor(_POWERS)
        said = controller.decoded(unseen.features)[..., -1:]  # [N, m, 1]
        factors = difficulty(said, powers).double()  # [N, m, P]
        found = factors * unseen.expected[:, None, None]
        scale = (found * unseen.lost[:, None, None]).sum(0) / found.square().sum(0).clamp(min=1e-12)
        errors = (scale * found - unseen.lost[:, None, None]).square()
        means = errors.mean(0)  # [m, P]
        best = means.argmin(1)
        more = errors - errors.gather(2, best.expand(len(errors), -1)[..., None])  # than with the best power
        least = (means - means.amin(1, keepdim=True) <= _deviation(more, unseen.index)).long().argmax(1)
        self._reliance, self._usual = powers[least], factors.mean(0)[torch.arange(len(least)), least]
        self.error = float(means.amin(1).mean())

    def put(self, controller: Controller) -> None:
        """They are what counts from now on."""
        with torch.no_grad():
            controller.reliance.copy_(self._reliance)
            controller.offsets.div_(self._usual[:, None])


def _deviation(values: Tensor, index: Tensor) -> Tensor:
    """Standard error of the mean over the first dimension, whose rows with the same index come from the same sample."""
    about = values - values.mean(0)
    sums = torch.zeros(int(index.max()) + 1, *values.shape[1:], dtype=values.dtype).index_add_(0, index, about)
    return sums.square().sum(0).sqrt() / len(values)
