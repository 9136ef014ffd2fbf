"""A batch on its way through the stages for training: really smaller while its samples agree, then the masked form.

Sorted into groups, as a :class:`autoprune.runtime.walk.Walk` has it, a batch of many different actions falls into so
many small convolutions that a training step takes many times as long as that of the whole network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import ChainError
from autoprune.runtime.execution import Layers, Masked, Sliced
from autoprune.runtime.walk import pool

if TYPE_CHECKING:
    from autoprune.runtime.chain import Chain
    from autoprune.runtime.gates import Lane


class TrainingWalk:
    """Where a batch stands; going on changes it, since the graph of its gradients is one.

    Attributes:
        stage: the next stage to decide; the number of stages at the end.
        actions: ``[N, stage]`` int64, what was decided (1 to k).
    """

    def __init__(self, chain: Chain, x: Tensor) -> None:
        self._chain = chain
        self._row: list[int] | None = []  # the actions of all samples, while these agree
        self.actions = torch.zeros(len(x), 0, dtype=torch.int64)
        self._value: Any = chain.network.run(chain.prelude, 0, chain.enters, x, self._layers)

    @property
    def stage(self) -> int:
        """The next stage to decide."""
        return self.actions.shape[1]

    @property
    def done(self) -> bool:
        """Whether every stage has run."""
        return self.stage == len(self._chain.stages)

    @property
    def pooled(self) -> Tensor:
        """Mean over positions of what enters the next stage, ``[N, channels]``; zeros for channels that were skipped.

        Raises:
            ChainError: every stage has run.
        """
        if self.done:
            raise ChainError("every stage has run; there is nothing left to look at")
        pooled, lane = pool(self._value), self._chain.stages[self.stage].lane
        return Masked(self._chain.norms, self.actions).kept(pooled if lane is None else _widened(pooled, lane), lane)

    @property
    def output(self) -> Tensor:
        """Logits ``[N, classes]``.

        Raises:
            ChainError: stages are left.
        """
        if not self.done:
            raise ChainError(f"stage {self.stage} of {len(self._chain.stages)} has not run yet, so there is no output")
        out: Tensor = self._value
        return out

    def step(self, actions: Tensor) -> TrainingWalk:
        """Run the next stage with ``actions``, int64 ``[N]`` (1 to k), as :attr:`actions` on the CPU."""
        stage = self._chain.stages[self.stage]
        if self._row is not None and self._agree(actions):
            self._row.append(int(actions[0]))
        elif self._row is not None:
            self._row = None
            self._value = self._value if stage.lane is None else _widened(self._value, stage.lane)
        self.actions = torch.cat([self.actions, actions[:, None]], 1)
        self._value = self._chain.network.run(stage.steps, stage.enters, stage.leaves, self._value, self._layers)
        return self

    @staticmethod
    def _agree(actions: Tensor) -> bool:
        return bool((actions == actions[:1]).all())

    @property
    def _layers(self) -> Layers:
        if self._row is not None:
            return Sliced(self._chain.norms, self._row, own=True)
        return Masked(self._chain.norms, self.actions, own=True)


def _widened(value: Tensor, lane: Lane) -> Tensor:
    """``value`` with zeros for the channels that are not there."""
    missing = lane.sizes[-1] - value.shape[1]
    return F.pad(value, [0, 0] * (value.dim() - 2) + [0, missing]) if missing else value
