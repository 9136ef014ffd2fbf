"""A chain ready to run: for each stage and combination of actions a short list of calls on packed weights.

The lists are made when they are first needed and kept; there are at most k * k of them for a stage of a plain chain,
for groups of a batch and for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.deploy import foldable
from autoprune.runtime.chain import Chain
from autoprune.runtime.execution import NormRows
from autoprune.runtime.kernels import Room, Weights, convolution
from autoprune.runtime.packing import PackedLayer
from autoprune.runtime.stages import Kind, Step
from autoprune.runtime.symbolic import Attribute, Value, attribute, filled
from autoprune.runtime.walk import Part, Walk

Function = Callable[..., Any]

ROOM = 8  # times the size of all convolutions, for weights laid out for pairs of widths; up to k = 4 all fit


@dataclass(frozen=True, eq=False)
class Plan:
    """Calls of one stage. With ``line``, each takes the result of the one before; else they name what they read."""

    line: tuple[Function, ...] | None
    calls: tuple[tuple[Function | None, tuple[int, ...], int, tuple[int, ...]], ...]
    enters: int
    leaves: int

    def __call__(self, x: Any) -> Any:
        """What leaves the stage."""
        if self.line is not None:
            for function in self.line:
                x = function(x)
            return x
        values = {self.enters: x}
        for call, reads, index, last in self.calls:
            values[index] = values[reads[0]] if call is None else call(*[values[r] for r in reads])
            for gone in last:
                if gone != self.leaves:
                    del values[gone]
        return values[self.leaves]


class Compiled:
    """A frozen copy of a chain's weights, norms folded, packed for every width."""

    def __init__(self, chain: Chain, norms: NormRows | None = None) -> None:
        """``norms`` gives other statistics than the chain's common ones."""
        self.chain, self._norms = chain, chain.norms if norms is None else norms
        self._modules: Mapping[str, nn.Module] = chain.network.modules
        steps = {str(step.call.module): step for step in chain.steps if step.call.module is not None}
        pairs = foldable(chain.backbone, chain.graph.norms)
        self._folded = {norm: layer for layer, norm in pairs if norm in steps and steps[norm].kind is Kind.NORM}
        norm_of = {layer: norm for norm, layer in self._folded.items()}
        self._layers = {
            name: PackedLayer(step, self._modules[name], self._norms, self._behind(norm_of.get(name), steps))
            for name, step in steps.items()
            if step.kind in (Kind.CONV, Kind.DEPTHWISE, Kind.LINEAR) and self._packable(self._modules[name])
        }
        convolutions = (module for name in self._layers if isinstance(module := self._modules[name], nn.Conv2d))
        self._room = Room(ROOM * sum(_bytes(module) for module in convolutions))
        self._plans: list[dict[tuple[int | bool, ...], Plan]] = [{} for _ in chain.stages]
        self._prelude = self._plan(chain.prelude, 0, chain.enters, False, ())

    def begin(self, x: Tensor) -> Walk:
        """A walk of ``[N, ...]`` that stands before the first decision."""
        size = len(x)

        def run(stage: int, value: Tensor, actions: Sequence[int]) -> Tensor:
            return self.run_stage(stage, value, actions, part=len(value) < size)

        nothing = torch.zeros(size, 0, dtype=torch.int64)
        parts = (Part(None, self.prelude(x)),)
        return Walk(self.chain.stages, self.chain.groups, run, size, 0, nothing, parts)

    def prelude(self, x: Tensor) -> Tensor:
        """What enters the first stage."""
        out: Tensor = self._prelude(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
        return out

    def run_stage(self, stage: int, value: Tensor, actions: Sequence[int], *, part: bool = False) -> Tensor:
        """What leaves a stage for samples of equal actions (one for each stage up to this one).

        ``part`` says that they are some of a batch, in groups: :func:`autoprune.runtime.kernels.convolution`.
        """
        here = self.chain.stages[stage]
        key = (part, *[actions[s] for s in here.needs], actions[stage])
        plan = self._plans[stage].get(key)
        if plan is None:
            chosen = dict(zip((*here.needs, stage), key[1:], strict=True))
            plan = self._plan(here.steps, here.enters, here.leaves, here.overwrites, chosen, part)
            self._plans[stage][key] = plan
        out: Tensor = plan(value)
        return out

    def _behind(self, norm: str | None, steps: Mapping[str, Step]) -> tuple[Step, nn.Module] | None:
        return None if norm is None else (steps[norm], self._modules[norm])

    @staticmethod
    def _packable(module: nn.Module) -> bool:
        return not (isinstance(module, nn.Conv2d) and module.padding_mode != "zeros")

    def _plan(
        self, steps: Sequence[Step], enters: int, leaves: int, overwrites: bool, action: Any, part: bool = False
    ) -> Plan:
        functions = [(self._function(step, action, part), step) for step in steps]
        calls = tuple((f, s.call.reads, s.call.index, s.last) for f, s in functions)
        before = (enters, *(step.call.index for step in steps))
        straight = all(s.call.reads == (b,) for s, b in zip(steps, before, strict=False)) and before[-1] == leaves
        first = (torch.clone,) if overwrites else ()
        line = (*first, *(f for f, _ in functions if f is not None)) if straight else None
        if overwrites and line is None:
            calls = ((torch.clone, (enters,), enters, ()), *calls)
        return Plan(line, calls, enters, leaves)

    def _function(self, step: Step, action: Any, part: bool) -> Function | None:
        """What a step does to what it reads; ``None`` where it does nothing."""
        name = step.call.module
        if name is None:
            return self._other(step, step.call.function)
        module = self._modules[name]
        if name in self._folded and self._folded[name] in self._layers:
            return None
        if name in self._layers:
            weights = self._layers[name].at(action)
            linear = isinstance(module, nn.Linear)
            return _linear(weights) if linear else convolution(module, weights, self._room, part=part)
        if step.kind is Kind.NORM:
            row = None if step.selector is None else action[step.selector]
            size = None if step.outgoing is None else step.outgoing.size(action[step.outgoing.stage])
            return _norm(module, *(part[:size].clone() for part in self._norms.row(name, row)))
        if isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)):
            return None
        return self._other(step, _plain(module))

    def _other(self, step: Step, target: Any) -> Function:
        call = step.call
        if not call.kwargs and call.args == tuple(Value(index) for index in call.reads):
            return target  # type: ignore[no-any-return]
        rest, named = call.args[1:], call.kwargs
        if len(call.reads) == 1 and call.args[:1] == (Value(call.reads[0]),) and _constant((rest, named)):
            return lambda x: target(x, *rest, **named)
        places = {index: at for at, index in enumerate(call.reads)}

        def general(*values: Any) -> Any:
            args, kwargs = (
                filled(part, lambda v: values[places[v.index]], lambda a: attribute(self.chain.backbone, a.name))
                for part in (call.args, call.kwargs)
            )
            return target(*args, **kwargs)

        return general


def _bytes(module: nn.Conv2d) -> int:
    return module.weight.numel() * module.weight.element_size()


def _linear(weights: Weights) -> Function:
    weight, bias = weights.weight, weights.bias
    return lambda x: F.linear(x, weight, bias)


def _norm(module: Any, mean: Tensor, var: Tensor) -> Function:
    weight, bias = (None if p is None else p.detach()[: len(mean)].clone() for p in (module.weight, module.bias))
    eps = module.eps
    return lambda x: F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _plain(module: nn.Module) -> Function:
    """The module's work without what a call of a module adds, where it is one of torch's own without hooks."""
    if isinstance(module, nn.ReLU):
        return torch.relu_ if module.inplace else torch.relu
    if type(module).__module__.startswith("torch.nn.") and not (module._forward_hooks or module._forward_pre_hooks):
        forward: Function = module.forward
        return forward
    return module


def _constant(template: Any) -> bool:
    """Whether no value and no attribute stands in it."""
    if isinstance(template, (Value, Attribute)):
        return False
    if isinstance(template, (tuple, list)):
        return all(map(_constant, template))
    if isinstance(template, Mapping):
        return all(map(_constant, template.values()))
    return not isinstance(template, slice)
