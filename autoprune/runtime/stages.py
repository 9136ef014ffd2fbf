"""A network as a chain of stages, each with one decision: how many groups of its gated channels to compute.

A stage begins at the last cut before the first convolution that it gates. In a plain chain that is the convolution
itself, and the next stage gets the narrower tensor; in a residual network it is the start of a block, whose hidden
channels are gated, so that the stream stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph import Group, LayerGraph, Role
from autoprune.runtime.gates import Lane, is_depthwise, maker, per_unit, prefix_sizes
from autoprune.runtime.symbolic import Call, Forward, cuts, run_calls


class Kind(StrEnum):
    """What a step does with decisions."""

    CONV = "conv"  # reads a prefix, makes a prefix
    DEPTHWISE = "depthwise"  # a convolution whose channels stay apart
    LINEAR = "linear"
    NORM = "norm"  # a batch norm; statistics by the width of what was read before it
    OTHER = "other"  # anything that works at any width, or whole


@dataclass(frozen=True)
class Step:
    """One call, and what decisions do to it.

    Attributes:
        call: the call.
        kind: how it is cut.
        incoming: how the channels it reads follow a decision, ``None`` where they are whole.
        outgoing: the same for what it makes.
        selector: the stage whose action chooses a norm's statistics, ``None`` for those of the dense network.
        last: values that nobody reads after it.
    """

    call: Call
    kind: Kind
    incoming: Lane | None
    outgoing: Lane | None
    selector: int | None
    last: tuple[int, ...]

    @property
    def gated(self) -> bool:
        """Whether any decision changes it."""
        return self.incoming is not None or self.outgoing is not None or self.selector is not None


@dataclass(frozen=True)
class Stage:
    """A part of a network that begins with a decision.

    Attributes:
        name: the first convolution it gates.
        gates: every convolution it gates.
        steps: its calls, in order.
        enters, leaves: the value it starts from, the one it ends with.
        channels: channels of the value it starts from, which the controller looks at.
        lane: how these follow an earlier decision, ``None`` where they are whole.
        needs: earlier stages whose actions its steps depend on.
        keeps: stages up to this one whose actions later stages depend on.
        overwrites: whether the steps work in place on what enters, so that it has to be copied first.
    """

    name: str
    gates: tuple[str, ...]
    steps: tuple[Step, ...]
    enters: int
    leaves: int
    channels: int
    lane: Lane | None
    needs: tuple[int, ...]
    keeps: tuple[int, ...]
    overwrites: bool


@dataclass(frozen=True)
class Staged:
    """``prelude`` runs whole, then the stages."""

    prelude: tuple[Step, ...]
    stages: tuple[Stage, ...]
    enters: int  # the value that the first stage starts from


def staged(
    model: nn.Module, graph: LayerGraph, forward: Forward, gated: Sequence[Group], groups: int, example: Tensor
) -> Staged:
    """The stages of ``model`` (in evaluation mode) for the gated groups, each in ``groups`` parts.

    Raises:
        ChainError: a group with fewer channels than parts.
    """
    places = {call.module: call.index for call in forward.calls if call.module is not None}
    open_at = cuts(forward)
    starts = {g.name: max(c for c in open_at if c <= places[maker(graph, g)]) for g in gated}
    begins = sorted(set(starts.values()))
    stage_of = {name: begins.index(start) for name, start in starts.items()}
    lanes = _Lanes(graph, gated, stage_of, groups)
    shapes, overwritten = _seen(model, forward, example, {start: open_at[start] for start in begins})
    steps = _steps(model, forward, lanes)
    first = begins[0]
    ends = [*begins[1:], len(forward.calls) + 1]
    stages = []
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        mine = tuple(steps[begin - 1 : end - 1])
        enters = open_at[begin]
        leaves = open_at.get(end, forward.output)
        names = tuple(maker(graph, g) for g in gated if stage_of[g.name] == number)
        lane = lanes.of_value(enters, shapes[enters])
        needs = tuple(sorted({s for s in _mentions(mine) if s < number} | ({lane.stage} if lane else set())))
        keeps = tuple(sorted({s for s in _mentions(steps[end - 1 :]) if s <= number}))
        stages.append(
            Stage(names[0], names, mine, enters, leaves, shapes[enters][1], lane, needs, keeps, begin in overwritten)
        )
    return Staged(tuple(steps[: first - 1]), tuple(stages), open_at[first])


@dataclass(frozen=True)
class _Facts:
    """Of one value: the gated group that its channels are, and the stage whose width its statistics depend on."""

    group: str | None = None
    selector: int | None = None


class _Lanes:
    """Which lane each dimension of each layer, and each value on the way, follows."""

    def __init__(self, graph: LayerGraph, gated: Sequence[Group], stage_of: Mapping[str, int], groups: int) -> None:
        self._gated = {g.name: g for g in gated}
        self._stage_of = stage_of
        self._widths = {g.name: prefix_sizes(g.size, groups, maker(graph, g)) for g in gated}
        self._facts: dict[int, _Facts] = {0: _Facts()}

    def of_value(self, value: int, shape: Sequence[int]) -> Lane | None:
        """The lane of dimension 1 of a value of that shape."""
        name = self._facts[value].group
        if name is None or len(shape) < 2:
            return None
        return self._lane(name, shape[1] // self._gated[name].size)

    def _lane(self, group: str, per: int) -> Lane:
        return Lane(self._stage_of[group], tuple(per * size for size in self._widths[group]))

    def _of_layer(self, layer: str, role: Role) -> tuple[str | None, Lane | None]:
        for name, group in self._gated.items():
            per = per_unit(group, layer, role)
            if per is not None:
                return name, self._lane(name, per)
        return None, None

    def step(self, call: Call, kind: Kind, last: tuple[int, ...]) -> Step:
        """The step for ``call``; calls are to be shown in order."""
        before = self._joined(call)
        layer = call.module or ""
        if kind in (Kind.CONV, Kind.LINEAR):
            _, incoming = self._of_layer(layer, Role.IN)
            group, outgoing = self._of_layer(layer, Role.OUT)
            self._facts[call.index] = _Facts(group, None if incoming is None else incoming.stage)
            return Step(call, kind, incoming, outgoing, None, last)
        self._facts[call.index] = before
        if kind is Kind.OTHER:
            return Step(call, kind, None, None, None, last)
        _, outgoing = self._of_layer(layer, Role.OUT if kind is Kind.DEPTHWISE else Role.ALONG)
        return Step(call, kind, None, outgoing, before.selector if kind is Kind.NORM else None, last)

    def _joined(self, call: Call) -> _Facts:
        """Facts of a value made from those that ``call`` reads; sums of unlike ones have the dense statistics."""
        facts = [self._facts[value] for value in call.reads]
        groups = {f.group for f in facts if f.group is not None}
        selectors = {f.selector for f in facts}
        return _Facts(min(groups, default=None), selectors.pop() if len(selectors) == 1 else None)


def _steps(model: nn.Module, forward: Forward, lanes: _Lanes) -> list[Step]:
    last = {value: call.index for call in forward.calls for value in call.reads}
    last.pop(forward.output, None)
    steps = []
    for call in forward.calls:
        module = model.get_submodule(call.module) if call.module is not None else None
        gone = tuple(value for value in call.reads if last.get(value) == call.index)
        steps.append(lanes.step(call, _kind(module), gone))
    return steps


def _kind(module: nn.Module | None) -> Kind:
    if isinstance(module, nn.Conv2d):
        return Kind.DEPTHWISE if is_depthwise(module) else Kind.CONV
    if isinstance(module, nn.Linear):
        return Kind.LINEAR
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
        return Kind.NORM
    return Kind.OTHER


def _mentions(steps: Sequence[Step]) -> set[int]:
    """Stages whose actions the steps depend on."""
    lanes = [lane for step in steps for lane in (step.incoming, step.outgoing) if lane is not None]
    return {lane.stage for lane in lanes} | {step.selector for step in steps if step.selector is not None}


def _seen(
    model: nn.Module, forward: Forward, example: Tensor, entering: Mapping[int, int]
) -> tuple[dict[int, tuple[int, ...]], set[int]]:
    """Shapes of all values; and at which calls of ``entering`` (call: value) the value is overwritten later on."""
    first = example.clone()
    values: dict[int, Tensor] = {0: first}
    versions = {at: first._version for at, value in entering.items() if value == 0 and at == 1}

    def see(call: Call, inputs: Sequence[Any], result: Any) -> None:  # noqa: ARG001 - one signature for all
        if isinstance(result, Tensor):
            values[call.index] = result
        if (value := entering.get(call.index + 1)) is not None:
            versions[call.index + 1] = values[value]._version

    with torch.no_grad():
        run_calls(model, forward, first, see)
    shapes = {index: tuple(value.shape) for index, value in values.items()}
    return shapes, {at for at, version in versions.items() if values[entering[at]]._version != version}
