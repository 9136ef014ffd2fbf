"""Which widths of the stages go together: a path from the least to the whole network along which little is lost.

What is lost is measured before the network is trained at any width. Where training mends most of it, as on small
networks, even widths can be the better path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.errors import ChainError
from autoprune.evaluation import checked_logits
from autoprune.runtime import Chain
from autoprune.search.runtime.baselines import even_rows
from autoprune.search.runtime.judging import Table, judge
from autoprune.search.runtime.path_losses import LEAST, Curve, Losses

_SAMPLES = 512  # that losses are measured on
_MEASURED, _ROWS = 2048, 9  # samples and rows that say what is lost along the path

Decisions = Callable[[Tensor], Tensor]  # channels that each stage reads, int64 [N, m] -> multiply-accumulates, [N]


class WidthPath:
    """Rows of actions that grow with their multiply-accumulates.

    Attributes:
        rows: int64 ``[R, m]``, action 1 everywhere first, all groups last.
        shares: ``[R]`` float64, their multiply-accumulates, decisions included, over the dense network's.
    """

    def __init__(self, chain: Chain, rows: Tensor, decisions: Decisions | None = None) -> None:
        """``rows`` in any order; without ``decisions`` these cost nothing.

        Raises:
            ChainError: rows that do not grow from the least to the whole network.
        """
        self._chain, self._decisions = chain, decisions
        shares = self.share(rows)
        order = shares.argsort(stable=True)
        self.rows, self.shares = rows[order], shares[order]
        ends = (int(self.rows[0].max()), int(self.rows[-1].min()))
        if ends != (1, chain.groups) or not all(bool((a <= b).all()) for a, b in pairwise(self.rows)):
            raise ChainError("a path must grow from action 1 everywhere to all groups, stage by stage")

    @classmethod
    def even(cls, chain: Chain, decisions: Decisions | None = None) -> WidthPath:
        """All stages as even as can be: one is raised at a time, the next one far from it."""
        return cls(chain, even_rows(chain), decisions)

    @classmethod
    def of_least_harm(
        cls, chain: Chain, split: Split, samples: int = _SAMPLES, *, decisions: Decisions | None = None
    ) -> WidthPath:
        """From the whole network down, each time what adds the least loss for the multiply-accumulates it saves.

        The loss that a stage adds is measured with all others whole, as in H. Li et al., "Pruning Filters for Efficient
        ConvNets", 2017, and what several add is taken for their sum.

        Raises:
            ModelError: outputs that are not finite.
        """
        harm = sensitivities(chain, split, samples)
        row = [chain.groups] * len(chain.stages)
        rows = [row]
        while max(row) > 1:
            row = _down(chain, harm, row)
            rows.append(row)
        return cls(chain, torch.tensor(rows), decisions)

    def reached(self, shares: Sequence[float]) -> tuple[float, ...]:
        """``shares`` with 1 for all groups, whatever decisions cost on top."""
        return tuple(share if share < 1 else float(self.shares[-1]) for share in shares)

    def share(self, rows: Tensor) -> Tensor:
        """Multiply-accumulates of ``rows`` ``[N, m]``, decisions included, over the dense ones, ``[N]`` float64."""
        macs = self._chain.macs(rows)
        if self._decisions is not None:
            macs = macs + self._decisions(self._chain.reads(rows))
        return macs.double() / self._chain.dense_macs

    def at(self, shares: Tensor) -> Tensor:
        """Widths ``[N, m]`` at ``shares`` ``[N]``, float64 between whole actions; beyond its ends the path stays."""
        known, wanted = self.shares.numpy(), shares.double().numpy()
        columns = [np.interp(wanted, known, column) for column in self.rows.double().T.numpy()]
        return torch.from_numpy(np.stack(columns, 1))

    def taken(self, shares: Tensor) -> Tensor:
        """Whole widths ``[N, m]`` next to those at ``shares`` ``[N]``, int64."""
        return self.at(shares).round().long()

    def row(self, share: float) -> Tensor:
        """Whole widths ``[m]`` next to those at one share, int64."""
        return self.taken(torch.tensor([share], dtype=torch.float64))[0]

    def losses(self, chain: Chain, split: Split, least: float = 0.0, samples: int = _MEASURED) -> Losses:
        """What the samples lose along the path, as the network is trained now.

        Args:
            chain: as trained.
            split: samples.
            least: share from which losses are measured closely; below it, where the network may not have been trained,
                only those at the end of the path are.
            samples: of the split.
        """
        begin = min(max(float(self.shares[0]), least), float(self.shares[-1]))
        rows = self.taken(torch.linspace(begin, float(self.shares[-1]), _ROWS, dtype=torch.float64))
        few = split.subset(slice(0, samples))
        first, *found = (judge(chain, few, Table(row)).losses for row in (self.rows[0], *rows))
        return Losses(float(self.shares[0]), first, begin, self.share(rows), torch.stack(found))

    def worth(self, curve: Curve, prices: Sequence[float]) -> Tensor:
        """``[m, k]`` float64: the loss that each action of a stage adds on average, 0 for all groups.

        It is such that a controller that scores by it alone takes the rows of the path, one after the other, as its
        knob is turned, and that along the path it adds up to the losses that were measured there.

        Args:
            curve: of the losses along the path.
            prices: what a further group costs at each stage, in units of the knob.
        """
        price = torch.tensor(list(prices), dtype=torch.float64)
        moved = self.rows.diff(dim=0).double()  # [R - 1, m]
        middle = (self.shares[1:] + self.shares[:-1]) / 2
        knobs = curve.slope(middle) * (self.shares[-1] - self.shares[0]) / (moved @ price).sum()
        found = torch.zeros(len(price), int(self.rows[-1, 0]), dtype=torch.float64)
        for row, more, knob in zip(self.rows, moved.long(), knobs, strict=False):
            for stage in more.nonzero()[:, 0].tolist():
                low, step = int(row[stage]), float(knob * price[stage])
                groups = torch.arange(1, low + int(more[stage]), dtype=torch.float64)
                found[stage, : len(groups)] += step * (low + int(more[stage]) - groups.clamp(min=low))
        return found


@torch.no_grad()
def sensitivities(chain: Chain, split: Split, samples: int = _SAMPLES) -> Tensor:
    """``[m, k]`` float64: what the mean loss grows by with action a (column a - 1) at one stage and all groups else.

    Norms take the moments of the samples at hand. Never less for a smaller action.
    """
    few = split.subset(slice(0, samples))
    x, y = few.inputs(slice(0, len(few))), few.y.cpu()

    def loss(row: list[int]) -> float:
        walk = chain.begin_training(x)
        while not walk.done:
            walk = walk.step(torch.full((len(x),), row[walk.stage]))
        return float(nn.functional.cross_entropy(checked_logits(walk.output.cpu(), y).double(), y))

    stages, k = len(chain.stages), chain.groups
    whole = loss([k] * stages)
    found = torch.zeros(stages, k, dtype=torch.float64)
    for stage in range(stages):
        for action in range(k - 1, 0, -1):
            row = [k] * stages
            row[stage] = action
            found[stage, action - 1] = max(loss(row) - whole, float(found[stage, action]))
    return found


def _down(chain: Chain, harm: Tensor, row: list[int]) -> list[int]:
    """``row`` with one stage smaller: the one whose harm is least for what it saves."""
    lower = [[*row[:s], a, *row[s + 1 :]] for s, own in enumerate(row) for a in range(1, own)]
    saved = (chain.macs(row) - chain.macs(torch.tensor(lower))).double() / chain.dense_macs
    at = torch.arange(len(row))
    added = torch.stack([(harm[at, torch.tensor(r) - 1] - harm[at, torch.tensor(row) - 1]).sum() for r in lower])
    return lower[int(((added + LEAST) / saved).argmin())]
