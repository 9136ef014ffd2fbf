"""The backbone's turn: it is trained through what the controller greedily runs of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoprune.data import DataSplits
from autoprune.runtime import Chain, Controller, RuntimePrunedNetwork, calibrate, recalibrate
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.seeding import derive
from autoprune.train_loop import TrainLoop

_MEASURED, _ROWS = 512, 9  # samples and rows of the table that says which knob gives which share


class GreedyForward(nn.Module):
    """The chain under the greedy actions of a frozen controller; only the chain has parameters here.

    Args:
        chain: trained.
        controller: decides, without gradients.
        knobs: of which every batch draws one from torch's generator.
    """

    def __init__(self, chain: Chain, controller: Controller, knobs: Sequence[float] = (0.0,)) -> None:
        super().__init__()
        self.chain = chain
        self._decides = (controller,)  # in a tuple, so that it is no submodule
        self._knobs = tuple(knobs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        (controller,), walk = self._decides, self.chain.begin(x, own=self.training)
        knob = self._knobs[int(torch.randint(len(self._knobs), ()))]
        bias, state = knob * torch.arange(self.chain.groups), controller.start(len(x))
        while not walk.done:
            with torch.no_grad():
                scores, state = controller.step(walk.stage, walk.pooled.float(), state)
                actions = (scores.cpu() + bias).argmax(1) + 1
            walk = walk.step(actions)
        return walk.output


class Backbone:
    """Fine-tuning of the backbone over all rounds: one learning rate that falls, one optimizer.

    Batch norms keep their statistics of every width within a step, since a batch mixes widths; every so many steps,
    and at the end of a turn, all sets are estimated anew on the calibration split.
    """

    def __init__(self, chain: Chain, data: DataSplits, settings: RuntimeSettings) -> None:
        self.chain, self.data, self.settings = chain, data, settings
        self.teacher = copy.deepcopy(chain.backbone).requires_grad_(False)  # as it was given
        self.state: dict[str, Tensor] = {}

    def turn(self, controller: Controller, number: int) -> float:
        """Train up to the end of round ``number`` (from 0); the mean loss.

        Raises:
            TrainingDiverged: a loss or a weight that is not finite.
        """
        s = self.settings
        module = GreedyForward(self.chain, controller, self._serving(controller))
        self.chain.backbone.requires_grad_(True)
        seed = derive(s.seed, "backbone")
        loop = TrainLoop(
            module, self.data.train, s.finetune, seed=seed, augment=self.data.augment, teacher=self.teacher
        )
        if self.state:
            loop.load_state(self.state)
        total, begin, end = 0.0, loop.step, (number + 1) * s.finetune_steps
        with loop.running():
            while loop.step < end:
                until = min(loop.step + s.recalibrate_every, end)
                steps = until - loop.step
                total += steps * loop.advance(until)
                recalibrate(self.chain, self.data.calibration, whole=True)
        self.state = loop.state()
        self.chain.eval()
        return total / max(1, end - begin)

    def _serving(self, controller: Controller) -> list[float]:
        """Knobs at which the controller runs the shares that are to be served, as near as it comes."""
        if not self.settings.serve:
            return [0.0]
        few = self.data.calibration.subset(slice(0, _MEASURED))
        table = calibrate(RuntimePrunedNetwork(self.chain, controller), few, rows=_ROWS)
        return [table.knob(min(max(share, table.least), table.most)) for share in self.settings.serve]
