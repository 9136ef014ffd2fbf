"""A network as a chain of stages that can each be computed in part: the backbone of runtime pruning.

J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017: the whole network is kept, the channels of a layer stand
in k groups, and action i (1 to k) computes the first i of them. What decides is not part of this file.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.applied import slim
from autoprune.errors import ChainError, unknown_name
from autoprune.graph import LayerGraph
from autoprune.runtime.counting import MacTable
from autoprune.runtime.execution import Masked, Network, NormRows, Sliced
from autoprune.runtime.gates import Lane, gated_groups, maker, prefix_sizes
from autoprune.runtime.norms import WidthNorms
from autoprune.runtime.ordering import Orders, reorder
from autoprune.runtime.stages import Kind, Step, staged
from autoprune.runtime.symbolic import forward_of
from autoprune.runtime.training_walk import TrainingWalk
from autoprune.runtime.walk import Part, Walk
from autoprune.tracing import trace

EXECUTIONS = ("grouped", "masked", "sliced")
PRICES = ("groups", "macs")


class Chain(nn.Module):
    """A copy of a network whose gated convolutions can be computed in part, sample by sample.

    An action is a whole number from 1 (the first group alone) to ``groups`` (all); ``actions`` are int64 ``[N, m]`` for
    ``m`` stages. With all groups everywhere the outputs are those of the network, bit for bit.

    The parameters are those of :attr:`backbone` and can be trained through any execution. Batch norms use the
    statistics of :attr:`norms`, in training too, but for :meth:`begin_training`, where the samples that read the same
    width are normalised by their own moments. After training, estimate the statistics anew
    (:func:`autoprune.runtime.recalibrate`). Dropout modules follow ``train()`` and ``eval()``.

    Attributes:
        backbone: the copied network.
        norms: statistics of batch norms by width.
        stages: what is decided, in order.
        groups: k, the number of channel groups.
        graph: layers and groups of the network.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        groups: int = 4,
        first: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        graph: LayerGraph | None = None,
        orders: Orders | None = None,
    ) -> None:
        """Cut ``model`` into stages.

        Args:
            model: a network of images that returns logits; not changed.
            example: an input, ``[1 or more, ...]``.
            groups: k, channel groups of each gated convolution; their sizes differ by at most one channel.
            first: gate the first convolution of the network too.
            include, exclude: globs of convolutions that may be gated, and that may not.
            graph: of ``model``, if it was traced already.
            orders: of channels (:func:`autoprune.runtime.by_importance`); those of gated groups are put in this order,
                after which outputs are those of ``model`` up to rounding.

        Raises:
            ChainError: fx cannot follow the network, nothing in it can be computed in part, a layer has fewer channels
                than groups.
            GraphError: the network cannot be traced.
            UnknownNameError: a glob that matches nothing.
        """
        super().__init__()
        self.graph = trace(model, example) if graph is None else graph
        self.groups = groups
        self.backbone = copy.deepcopy(model).eval()
        forward = forward_of(self.backbone)
        gated = gated_groups(self.backbone, self.graph, forward, first=first, include=include, exclude=exclude)
        reorder(self.backbone, gated, orders or {})
        parts = staged(self.backbone, self.graph, forward, gated, groups, example)
        self.prelude, self.stages, self.enters = parts.prelude, parts.stages, parts.enters
        self.norms = WidthNorms(self.backbone, self.steps, groups)
        self.input_shape = tuple(example.shape[1:])
        self._gated = {group.name: group for group in gated}
        self._macs = MacTable.of(self.graph, self.steps, len(self.stages), groups)
        self.network = Network(self.backbone, dict(self.backbone.named_modules()))
        self.eval()

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every call of the network, in order."""
        return (*self.prelude, *(step for stage in self.stages for step in stage.steps))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of what enters each stage: the widths of :attr:`Walk.pooled`."""
        return tuple(stage.channels for stage in self.stages)

    @property
    def lanes(self) -> tuple[Lane | None, ...]:
        """How the channels that enter each stage follow an earlier decision."""
        return tuple(stage.lane for stage in self.stages)

    def checked(self, actions: Tensor | Sequence[int] | int, size: int) -> Tensor:
        """``actions`` as int64 ``[size, m]``; a single action or a row of ``m`` holds for all samples.

        Raises:
            ChainError: another shape or type, or an action outside 1 to k (the first one is named).
        """
        given = torch.as_tensor(actions)
        if given.is_floating_point() or given.dtype == torch.bool:
            raise ChainError(f"actions must be whole numbers, but got {given.dtype}")
        try:
            table = given.to(torch.int64).expand(size, len(self.stages))
        except RuntimeError:
            raise ChainError(
                f"actions must have shape [{size}, {len(self.stages)}] (samples, stages), but got {list(given.shape)}"
            ) from None
        wrong = ((table < 1) | (table > self.groups)).nonzero()
        if len(wrong):
            sample, stage = wrong[0].tolist()
            raise ChainError(
                f"an action must be 1 to {self.groups}, but got {int(table[sample, stage])} for sample {sample} at "
                f"stage {stage} ({self.stages[stage].name!r})"
            )
        return table

    def forward(self, x: Tensor, actions: Tensor | Sequence[int] | int, execution: str = "grouped") -> Tensor:
        """Logits ``[N, classes]`` under ``actions``.

        Args:
            x: ``[N, ...]``.
            actions: int64 ``[N, m]``, or a row ``[m]`` or a number for all samples.
            execution: ``grouped`` (samples of equal action run together, really smaller), ``sliced`` (all samples have
                one row of actions, really smaller) or ``masked`` (whole layers with zeros: the reference).

        Raises:
            ChainError: actions that do not fit, or differ under ``sliced``.
            UnknownNameError: another execution.
        """
        table = self.checked(actions, len(x))
        if execution not in EXECUTIONS:
            raise unknown_name("execution", execution, EXECUTIONS)
        if execution == "masked":
            return self._masked(x, table)
        if execution == "sliced" and len(table) and not bool((table == table[0]).all()):
            raise ChainError("sliced execution needs the same actions for every sample; use execution='grouped'")
        walk = self.begin(x)
        for stage in range(len(self.stages)):
            walk = walk.step(table[:, stage])
        return walk.output

    def begin(self, x: Tensor, norms: NormRows | None = None) -> Walk:
        """A walk of the samples ``x`` ``[N, ...]`` that stands before the first decision.

        ``norms`` gives other statistics than the common ones of :attr:`norms`.
        """
        norms = self.norms if norms is None else norms
        value = self.network.run(self.prelude, 0, self.enters, x, Sliced(norms, ()))
        nothing = torch.zeros(len(x), 0, dtype=torch.int64)
        run = partial(self.run_stage, norms=norms)
        return Walk(self.stages, self.groups, run, len(x), 0, nothing, (Part(None, value),))

    def begin_training(self, x: Tensor) -> TrainingWalk:
        """The same for training, which goes through many different actions faster; norms take the moments of the
        samples at hand."""
        return TrainingWalk(self, x)

    def run_stage(self, stage: int, value: Tensor, actions: Sequence[int], *, norms: NormRows | None = None) -> Tensor:
        """What leaves a stage for samples of equal actions (one for each stage up to this one); as :meth:`begin`."""
        part, layers = self.stages[stage], Sliced(self.norms if norms is None else norms, actions)
        value = value.clone() if part.overwrites else value
        out: Tensor = self.network.run(part.steps, part.enters, part.leaves, value, layers)
        return out

    def macs(self, actions: Tensor | Sequence[int] | int) -> Tensor:
        """Multiply-accumulates of the network for each row of ``actions`` ``[N, m]``, int64 ``[N]``.

        Never less for a larger action. What decides is not counted here, nor are norms and biases.
        """
        given = torch.as_tensor(actions)
        return self._macs.count(self.checked(given, len(given) if given.dim() > 1 else 1))

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the whole network for one sample."""
        return self.graph.macs

    def prices(self, price: str) -> tuple[float, ...]:
        """What a further group costs at each stage, next to the mean over the stages.

        Args:
            price: ``groups`` for the same everywhere; ``macs`` for the multiply-accumulates of a group while all other
                stages run half of theirs.

        Raises:
            UnknownNameError: another price.
        """
        if price not in PRICES:
            raise unknown_name("price", price, PRICES)
        stages, half = len(self.stages), (self.groups + 1) // 2
        if price == "groups" or self.groups == 1:
            return (1.0,) * stages
        least, most = (torch.full((stages, stages), half).fill_diagonal_(end) for end in (1, self.groups))
        costs = (self.macs(most) - self.macs(least)).double()
        return tuple((costs / costs.mean()).tolist())

    def reads(self, actions: Tensor | Sequence[int] | int) -> Tensor:
        """Channels of what enters each stage that are there, int64 ``[N, m]``: what the controller looks at."""
        given = torch.as_tensor(actions)
        table = self.checked(given, len(given) if given.dim() > 1 else 1)
        columns = [
            torch.full((len(table),), stage.channels)
            if stage.lane is None
            else torch.tensor(stage.lane.sizes)[table[:, stage.lane.stage] - 1]
            for stage in self.stages
        ]
        return torch.stack(columns, 1)

    def at(self, actions: Tensor | Sequence[int] | int, norms: NormRows | None = None) -> nn.Module:
        """The plain network that always takes one row of actions ``[m]`` (or one number everywhere).

        It has the class of the network that was given, with really smaller layers and the statistics of these widths:
        the static baseline, and what can be exported. Nothing is shared with this one. ``norms`` gives other statistics
        than the common ones.

        Raises:
            ChainError: actions that do not fit.
        """
        row, norms = self.checked(actions, 1)[0].tolist(), self.norms if norms is None else norms
        widths = {name: prefix_sizes(g.size, self.groups, name) for name, g in self._gated.items()}
        kept = {name: torch.arange(sizes[row[self._stage_of[name]] - 1]) for name, sizes in widths.items()}
        network = slim(self.backbone, self.graph, kept)
        for step in self.steps:
            if step.kind is Kind.NORM:
                norm: Any = network.get_submodule(str(step.call.module))
                action = None if step.selector is None else row[step.selector]
                mean, var = norms.row(str(step.call.module), action)
                norm.running_mean.copy_(mean[: len(norm.running_mean)])
                norm.running_var.copy_(var[: len(norm.running_var)])
        return network.eval()

    @property
    def _stage_of(self) -> dict[str, int]:
        """Stage of each gated group."""
        owners = {gate: number for number, stage in enumerate(self.stages) for gate in stage.gates}
        return {name: owners[maker(self.graph, group)] for name, group in self._gated.items()}

    def _masked(self, x: Tensor, actions: Tensor) -> Tensor:
        layers = Masked(self.norms, actions)
        value = self.network.run(self.prelude, 0, self.enters, x, layers)
        for stage in self.stages:
            value = self.network.run(stage.steps, stage.enters, stage.leaves, value, layers)
        out: Tensor = value
        return out
