"""A batch on its way through the stages for training: the masked form, stage by stage.

Sorted into groups, as a :class:`autoprune.runtime.walk.Walk` has it, a batch of many different actions falls into so
many small convolutions that a training step takes many times as long as that of the whole network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoprune.errors import ChainError
from autoprune.runtime.execution import Masked
from autoprune.runtime.walk import pool

if TYPE_CHECKING:
    from autoprune.runtime.chain import Chain


class TrainingWalk:
    """Where a batch stands; going on changes it, since the graph of its gradients is one.

    Attributes:
        stage: the next stage to decide; the number of stages at the end.
        actions: ``[N, stage]`` int64, what was decided (1 to k).
    """

    def __init__(self, chain: Chain, x: Tensor) -> None:
        self._chain = chain
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
        return self._layers.kept(pool(self._value), self._chain.stages[self.stage].lane)

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
        self.actions = torch.cat([self.actions, actions[:, None]], 1)
        self._value = self._chain.network.run(stage.steps, stage.enters, stage.leaves, self._value, self._layers)
        return self

    @property
    def _layers(self) -> Masked:
        return Masked(self._chain.norms, self.actions, own=True)
