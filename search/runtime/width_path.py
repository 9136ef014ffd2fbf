"""Which widths of the stages go together: a path from the least to the whole network along which little is lost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.errors import ChainError
from autoprune.evaluation import checked_logits
from autoprune.runtime import Chain

SPREAD = 0.08  # standard deviation of actions around a path, over the number of groups
_SAMPLES = 512  # that losses are measured on
_MEASURED = 9  # rows whose losses are measured
_LEAST = 1e-4  # added loss of a group: what costs nothing goes in the order of its multiply-accumulates


class WidthPath:
    """Rows of actions that grow with their multiply-accumulates.

    Attributes:
        rows: int64 ``[R, m]``, action 1 everywhere first, all groups last.
        shares: ``[R]`` float64, their multiply-accumulates over the dense network's.
        harm: ``[m, k]`` float64, the loss that was taken for that of each action; zeros where nothing was measured.
    """

    def __init__(self, chain: Chain, rows: Tensor, harm: Tensor | None = None) -> None:
        """``rows`` in any order.

        Raises:
            ChainError: rows that do not grow from the least to the whole network.
        """
        shares = chain.macs(rows).double() / chain.dense_macs
        order = shares.argsort(stable=True)
        self.rows, self.shares = rows[order], shares[order]
        self.harm = torch.zeros(len(chain.stages), chain.groups, dtype=torch.float64) if harm is None else harm
        ends = (int(self.rows[0].max()), int(self.rows[-1].min()))
        if ends != (1, chain.groups) or not all(bool((a <= b).all()) for a, b in pairwise(self.rows)):
            raise ChainError("a path must grow from action 1 everywhere to all groups, stage by stage")

    @classmethod
    def of_least_harm(cls, chain: Chain, split: Split, samples: int = _SAMPLES) -> WidthPath:
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
        return cls(chain, torch.tensor(rows), harm)

    def at(self, shares: Tensor) -> Tensor:
        """Widths ``[N, m]`` at ``shares`` ``[N]``, float64 between whole actions; beyond its ends the path stays."""
        known, wanted = self.shares.numpy(), shares.double().numpy()
        columns = [np.interp(wanted, known, column) for column in self.rows.double().T.numpy()]
        return torch.from_numpy(np.stack(columns, 1))

    def expected(self, chain: Chain, split: Split, samples: int = _SAMPLES) -> Tensor:
        """``[m, k]`` float64: :attr:`harm` in the measure of what the rows of the path really lose.

        A network that was trained along the path loses far less than one that was not, and not where stages are
        narrow together what the sum over stages says; a least-squares factor stands for both.
        """
        rows = self.at(torch.linspace(float(self.shares[0]), 1.0, _MEASURED, dtype=torch.float64)).round().long()
        losses = torch.tensor([_loss(chain, row, split, samples) for row in rows], dtype=torch.float64)
        summed = self.harm[torch.arange(rows.shape[1]), rows - 1].sum(1)
        factor = float((summed * (losses - losses[-1])).sum() / summed.square().sum().clamp(min=1e-12))
        return self.harm * max(factor, 0.0)


@torch.no_grad()
def _loss(chain: Chain, row: Tensor, split: Split, samples: int) -> float:
    """Mean cross-entropy under one row of actions, with the statistics that are stored."""
    few = split.subset(slice(0, samples))
    y = few.y.cpu()
    logits = checked_logits(chain(few.inputs(slice(0, len(few))), row, "sliced").cpu(), y)
    return float(nn.functional.cross_entropy(logits.double(), y))


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
    return lower[int(((added + _LEAST) / saved).argmin())]
