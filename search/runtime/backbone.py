"""The backbone's turns: along a path of widths first, then through what the controller greedily runs of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autoprune.data import DataSplits, Split
from autoprune.runtime import (
    Chain,
    Controller,
    KnobTable,
    RuntimePrunedNetwork,
    TrainingWalk,
    Walk,
    calibrate,
    recalibrate,
)
from autoprune.search.runtime.judging import Greedy, judge
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.width_path import WidthPath
from autoprune.seeding import derive, seeded
from autoprune.train_loop import TrainLoop

_MEASURED, _ROWS = 1024, 9  # samples and rows of the table that says which knob gives which share
_MARGIN = 0.005  # about the standard error of a difference on as many samples
_SETTLED, _PARTS = 2048, 16  # samples of which norms see what knobs run, in parts of one knob each

Decide = Callable[[Walk | TrainingWalk], Tensor]  # groups of every sample at the next stage, int64 [N] (1 to k)


class Serving(Protocol):
    """Decides for samples that are to be run at a share of the dense multiply-accumulates."""

    def start(self, share: float, size: int) -> Decide:
        """What decides for ``size`` samples at ``share`` on average."""


class Along:
    """The widths of a path, and no others: all samples of a batch have the row of actions at the share."""

    def __init__(self, path: WidthPath) -> None:
        self._path = path

    def start(self, share: float, size: int) -> Decide:
        """The row at the share."""
        row = self._path.row(share)
        return lambda walk: row[walk.stage].expand(size)


class Greedily:
    """What a controller scores best, with the bias for each further group that gives a share on average.

    For training, what is decided for one sample of a batch is dealt to another: where hard samples run more than
    others, the moments of those that read the same width would be those of hard samples, and a norm that takes them
    would take away what tells hard samples from easy ones.
    """

    def __init__(self, controller: Controller, table: KnobTable | None, *, dealt: bool) -> None:
        self._controller, self._table, self._dealt = controller, table, dealt

    def start(self, share: float, size: int) -> Decide:
        """At the knob of the share, 0 without a table; who is dealt what is drawn from torch's generator."""
        own = Greedy(self._controller, self.knob(share)).start(torch.arange(size))
        if not self._dealt:
            return own
        dealt = torch.randperm(size)
        return lambda walk: own(walk)[dealt]

    def knob(self, share: float) -> float:
        """As near to ``share`` as the table comes."""
        table = self._table
        return 0.0 if table is None else table.knob(table.within(share))


@dataclass(frozen=True)
class _At:
    """A policy that runs images at one share."""

    serving: Serving
    share: float

    def start(self, index: Tensor) -> Decide:
        """Those of the batch."""
        return self.serving.start(self.share, len(index))


class ServingForward(nn.Module):
    """The chain under what is decided, several times for each sample; only the chain has parameters here.

    Args:
        chain: trained.
        serving: decides.
        serve: growing shares of the dense multiply-accumulates, at least one. Each sample goes through the network at
            the first, and once between each two of them, at a share that is drawn from torch's generator.
    """

    def __init__(self, chain: Chain, serving: Serving, serve: Sequence[float]) -> None:
        super().__init__()
        self.chain = chain
        self._serving, self._serve = serving, torch.tensor(serve, dtype=torch.float64)

    @property
    def passes(self) -> int:
        """How often each sample goes through the network."""
        return len(self._serve)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[passes * N, classes]``: those of the first share first."""
        low = torch.cat([self._serve[:1], self._serve[:-1]])
        shares = low + (self._serve - low) * torch.rand(self.passes, dtype=torch.float64)
        return torch.cat([self._pass(x, share) for share in shares.tolist()])

    def _pass(self, x: Tensor, share: float) -> Tensor:
        walk, decide = self.chain.begin_training(x), self._serving.start(share, len(x))
        while not walk.done:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # scores differ by less than bfloat16
                actions = decide(walk)
            walk = walk.step(actions)
        return walk.output


class ServingLoop(TrainLoop):
    """Steps in which each batch goes through the network at several shares, the loss being the mean over all of them.

    J. Yu, T. Huang, "Universally Slimmable Networks and Improved Training Techniques", 2019: a network that serves
    several widths learns them best in the same step, the least among them.
    """

    module: ServingForward

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        wanted, every = self._wanted(x, y), y.repeat(self.module.passes)
        wanted = None if wanted is None else wanted.repeat(self.module.passes, 1)
        return self._against(self._outputs(self.module, x, every), every, wanted)


class Backbone:
    """Fine-tuning of the backbone over all turns: one learning rate that falls, one optimizer.

    While it is trained, norms take the moments of the samples that read the same width; at the end of a turn all
    statistics are estimated anew on the calibration split.
    """

    def __init__(self, chain: Chain, data: DataSplits, settings: RuntimeSettings, path: WidthPath) -> None:
        self.chain, self.data, self.settings, self.path = chain, data, settings, path
        self.teacher = copy.deepcopy(chain.backbone).requires_grad_(False)  # as it was given
        self.state: dict[str, Tensor] = {}

    def prepare(self) -> float:
        """Train along the path; the mean loss.

        Raises:
            TrainingDiverged: a loss or a weight that is not finite.
        """
        along = Along(self.path)
        loss = self._train(along, self.settings.prepare_steps)
        self.settle(along)
        return loss

    def turn(self, controller: Controller, number: int) -> float:
        """Train up to the end of round ``number`` (from 0); the mean loss.

        Raises:
            TrainingDiverged: a loss or a weight that is not finite.
        """
        s, table = self.settings, self._table(controller)
        loss = self._train(Greedily(controller, table, dealt=True), s.prepare_steps + (number + 1) * s.finetune_steps)
        self.settle(Greedily(controller, self._table(controller), dealt=False), number + 1)
        return loss

    def _table(self, controller: Controller) -> KnobTable | None:
        return self.table(controller) if self.settings.serve else None

    def _train(self, serving: Serving, until: int) -> float:
        s, module = self.settings, ServingForward(self.chain, serving, self._serve)
        self.chain.backbone.requires_grad_(True)
        named: dict[str, Any] = {"seed": derive(s.seed, "backbone"), "augment": self.data.augment}
        loop = ServingLoop(module, self.data.train, s.finetune, teacher=self.teacher, **named)
        if self.state:
            loop.load_state(self.state)
        with loop.running():
            loss = loop.advance(until)
        recalibrate(self.chain, self.data.calibration, whole=True)
        self.state = loop.state()
        self.chain.eval()
        return loss

    def settle(self, serving: Serving, turn: int = 0) -> None:
        """Statistics of norms as samples really come there: of the widths that are run from the least share that is
        served to the largest, so that they hold at every knob in between. Which sample comes with which widths is drawn
        anew, see :class:`Greedily`."""
        split, serve = self._settling, self._serve
        ends = torch.linspace(0, len(split), min(_PARTS, len(split)) + 1).long().tolist()
        with seeded(self.settings.seed, "settling", turn):
            within = (torch.arange(len(ends) - 1) + torch.rand(len(ends) - 1, dtype=torch.float64)) / (len(ends) - 1)
            shares = (serve[0] + (serve[-1] - serve[0]) * within).tolist()
            parts = [split.subset(slice(*part)) for part in pairwise(ends)]
            judged = [judge(self.chain, p, _At(serving, s)) for p, s in zip(parts, shares, strict=True)]
            actions = torch.cat([j.actions for j in judged])[torch.randperm(len(split))]
        recalibrate(self.chain, split.inputs(slice(0, len(split))), actions)

    @property
    def _serve(self) -> tuple[float, ...]:
        return self.path.reached(self.settings.serve or (1.0,))

    @property
    def _settling(self) -> Split:
        return self.data.calibration.subset(slice(0, _SETTLED))

    def table(self, controller: Controller) -> KnobTable:
        """What the knob of a controller gives, measured next to the shares that are to be served."""
        few = self.data.validation.subset(slice(0, _MEASURED))
        return calibrate(RuntimePrunedNetwork(self.chain, controller), few, rows=_ROWS, shares=self.settings.serve)

    def trust(self, controllers: Mapping[float, Controller]) -> float:
        """The key of the controller that is right most often at the shares that are to be served.

        It is the last one, what was known before, unless another is right for :data:`_MARGIN` more of the samples.
        """
        if not self.settings.serve:
            return next(iter(controllers))

        def score(controller: Controller) -> float:
            table = self.table(controller)
            return sum(table.accuracy(table.within(share)) for share in self.settings.serve)

        scores = {trust: score(controller) / len(self.settings.serve) for trust, controller in controllers.items()}
        best, last = max(scores, key=lambda trust: scores[trust]), next(reversed(scores))
        return best if scores[best] > scores[last] + _MARGIN else last
