"""What a policy does with every image of a split: one walk for each batch, whoever decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.devices import batch_for
from autoprune.evaluation import checked_logits
from autoprune.runtime import Chain, Controller, NormRows, TrainingWalk, Walk

BATCH = 256


class Policy(Protocol):
    """Decides stage by stage for a batch."""

    def start(self, index: Tensor) -> Decide:
        """What decides for the images at ``index`` ``[N]`` of the split."""


Decide = Callable[[Walk], Tensor]  # a walk before a stage -> groups for each image, int64 [N] (1 to k)


@dataclass(frozen=True, eq=False)
class Judged:
    """What a policy did, image by image in the order of the split.

    Attributes:
        actions: int64 ``[N, m]``, groups that were run.
        correct: bool ``[N]``.
        losses: float64 ``[N]``, cross-entropies.
        macs: int64 ``[N]``, multiply-accumulates of the network.
        dense_macs: those of the whole network.
        controller_macs: int64 ``[N]``, those of the decisions, zeros where they are free.
    """

    actions: Tensor
    correct: Tensor
    losses: Tensor
    macs: Tensor
    dense_macs: int
    controller_macs: Tensor

    @property
    def accuracy(self) -> float:
        """Fraction classified right."""
        return float(self.correct.double().mean())

    @property
    def share(self) -> float:
        """Mean multiply-accumulates, decisions included, over the dense network's."""
        return float((self.macs + self.controller_macs).double().mean()) / self.dense_macs


@torch.no_grad()
def judge(
    chain: Chain, split: Split, policy: Policy, *, batch: int | None = None, norms: NormRows | None = None
) -> Judged:
    """Run every image of ``split`` as ``policy`` decides, ``batch`` at a time.

    ``norms`` gives other statistics of norms than the common ones of the chain, those of a knob, say.
    """
    batch = batch or batch_for(split.device, BATCH)
    actions, correct, losses = [], [], []
    for at in range(0, len(split), batch):
        index = torch.arange(at, min(at + batch, len(split)))
        walk, decide = chain.begin(split.inputs(index), norms), policy.start(index)
        while not walk.done:
            walk = walk.step(decide(walk))
        y = split.y[index].cpu()
        logits = checked_logits(walk.output.cpu(), y)
        actions.append(walk.actions)
        correct.append(logits.argmax(1) == y)
        losses.append(nn.functional.cross_entropy(logits.double(), y, reduction="none"))
    table = torch.cat(actions)
    own = policy.macs(chain.reads(table)) if isinstance(policy, Greedy) else torch.zeros(len(table), dtype=torch.int64)
    return Judged(table, torch.cat(correct), torch.cat(losses), chain.macs(table), chain.dense_macs, own)


@dataclass(frozen=True, eq=False)
class Table:
    """Actions that are known beforehand: int64 ``[N, m]`` for the images of a split, or one row ``[m]`` for all."""

    actions: Tensor

    def start(self, index: Tensor) -> Decide:
        """The rows of the batch."""
        rows = self.actions[index] if self.actions.dim() > 1 else self.actions.expand(len(index), -1)
        return lambda walk: rows[:, walk.stage].contiguous()


class Greedy:
    """What a controller scores best, with the knob's bias for each further group."""

    def __init__(self, controller: Controller, knob: float | Tensor = 0.0) -> None:
        """``knob`` for all images, or ``[N, 1]`` for those of one batch."""
        self.controller = controller
        self._biases = [knob * controller.bias(stage) for stage in range(len(controller.channels))]

    def start(self, index: Tensor) -> Callable[[Walk | TrainingWalk], Tensor]:
        """A state of its own for the batch."""
        state = [self.controller.start(len(index))]

        def decide(walk: Walk | TrainingWalk) -> Tensor:
            scores, state[0] = self.controller.step(walk.stage, walk.pooled, state[0])
            return (scores.cpu() + self._biases[walk.stage]).argmax(1) + 1

        return decide

    def macs(self, reads: Tensor) -> Tensor:
        """Multiply-accumulates of the decisions."""
        return self.controller.macs(reads)
