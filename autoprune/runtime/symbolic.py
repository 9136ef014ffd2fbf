"""A network's forward as a list of calls, read off with torch.fx, and the places where it can be cut.

A cut is a place in the order of execution where exactly one value is alive: all that runs later depends on it alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoprune.errors import ChainError


@dataclass(frozen=True)
class Value:
    """Stands in the arguments of a call for the result of call ``index``; 0 is the network's input."""

    index: int


@dataclass(frozen=True)
class Attribute:
    """Stands in the arguments of a call for a parameter or buffer."""

    name: str


@dataclass(frozen=True)
class Method:
    """Calls the method ``name`` of its first argument."""

    name: str

    def __call__(self, receiver: Any, *args: Any, **kwargs: Any) -> Any:
        """``receiver.name(*args, **kwargs)``."""
        return getattr(receiver, self.name)(*args, **kwargs)


@dataclass(frozen=True)
class Call:
    """One call of a forward.

    Attributes:
        index: its place; results of earlier calls stand in ``args`` as :class:`Value`.
        name: what fx calls it, for messages.
        module: qualified name of the module that is called, ``None`` for a function.
        function: the function, where no module is called.
        args, kwargs: arguments.
        reads: calls whose results it takes, each once, in order.
    """

    index: int
    name: str
    module: str | None
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name for messages: that of the module, else of the function with its place."""
        return self.module if self.module is not None else self.name


@dataclass(frozen=True)
class Forward:
    """Calls in order (``calls[i].index == i + 1``) and the one whose result is the output."""

    calls: tuple[Call, ...]
    output: int


def filled(template: Any, values: Callable[[Value], Any], attribute: Callable[[Attribute], Any]) -> Any:
    """``template`` (nested tuples, lists, mappings, slices) with values and attributes put in."""
    if isinstance(template, Value):
        return values(template)
    if isinstance(template, Attribute):
        return attribute(template)
    if isinstance(template, (tuple, list)):
        return type(template)([filled(entry, values, attribute) for entry in template])
    if isinstance(template, Mapping):
        return {key: filled(entry, values, attribute) for key, entry in template.items()}
    if isinstance(template, slice):
        ends = (filled(e, values, attribute) for e in (template.start, template.stop, template.step))
        return slice(*ends)
    return template


def forward_of(model: nn.Module) -> Forward:
    """The forward of ``model`` in evaluation mode.

    Raises:
        ChainError: fx cannot follow it, it takes several inputs, or it does not return one tensor; the place is named.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model, _defaults(model))
    except Exception as error:
        where = f"in module {tracer.inside[-1]!r}" if tracer.inside else "in its own forward"
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ChainError(
            f"torch.fx cannot follow the network {where}: {first}; runtime pruning needs a forward without control "
            "flow that depends on tensors: put that part into a module of its own and call torch.fx.wrap on it, "
            "or rewrite it"
        ) from error
    return _converted(graph)


def cuts(forward: Forward) -> dict[int, int]:
    """Places where one value is alive: {index of the call that would run next: index of that value}."""
    last = {0: 0}
    for call in forward.calls:
        last.update(dict.fromkeys(call.reads, call.index))
        last.setdefault(call.index, call.index)
    last[forward.output] = len(forward.calls) + 1
    alive, found = {0}, {}
    for call in forward.calls:
        alive = {value for value in alive if last[value] >= call.index}
        if len(alive) == 1:
            found[call.index] = next(iter(alive))
        alive.add(call.index)
    return found


class _Tracer(fx.Tracer):
    """Knows in which module it stands when something goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result


def _defaults(model: nn.Module) -> dict[str, Any]:
    """What stands in for every argument of the forward but the first.

    Raises:
        ChainError: an argument without a default.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    named = [p for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = [p.name for p in named if p.default is p.empty]
    if needed:
        raise ChainError(
            f"runtime pruning needs a network of one input, but its forward also takes {', '.join(map(repr, needed))}; "
            "wrap it in a module that takes the image alone"
        )
    return {p.name: p.default for p in named}


def _without_assertions(graph: fx.Graph) -> None:
    """Assertions (fx adds one for each default) go, and what only they looked at."""
    gone = [node for node in graph.nodes if node.target is torch._assert]
    while gone:
        node = gone.pop()
        inputs = list(node.all_input_nodes)
        graph.erase_node(node)
        gone += [n for n in inputs if not n.users and n.op != "placeholder"]


def _converted(graph: fx.Graph) -> Forward:
    _without_assertions(graph)
    known: dict[fx.Node, Any] = {}
    calls: list[Call] = []
    inputs = 0
    output: Any = None
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = Value(0) if inputs == 0 else None
            inputs += 1
        elif node.op == "get_attr":
            known[node] = Attribute(str(node.target))
        elif node.op == "output":
            output = known.get(node.args[0])
        else:
            calls.append(_call(len(calls) + 1, node, known))
            known[node] = Value(calls[-1].index)
    if not isinstance(output, Value):
        raise ChainError("runtime pruning needs a network that returns one tensor of logits; wrap it in one that does")
    return Forward(tuple(calls), output.index)


def _call(index: int, node: fx.Node, known: Mapping[fx.Node, Any]) -> Call:
    args, kwargs = (fx.node.map_arg(part, lambda n: known[n]) for part in (node.args, node.kwargs))
    args, kwargs = _plain(args), _plain(kwargs)
    reads = tuple(dict.fromkeys(_values((args, kwargs))))
    module = str(node.target) if node.op == "call_module" else None
    function: Any = None
    if node.op == "call_method":
        function = Method(str(node.target))
    elif node.op == "call_function":
        function = node.target
    return Call(index, node.name, module, function, args, kwargs, reads)


def _plain(template: Any) -> Any:
    """fx's immutable lists and mappings as plain ones."""
    if isinstance(template, tuple):
        return tuple(map(_plain, template))
    if isinstance(template, list):
        return [_plain(entry) for entry in template]
    if isinstance(template, Mapping):
        return {key: _plain(entry) for key, entry in template.items()}
    return template


def _values(template: Any) -> Iterator[int]:
    if isinstance(template, Value):
        yield template.index
    elif isinstance(template, (tuple, list)):
        for entry in template:
            yield from _values(entry)
    elif isinstance(template, Mapping):
        yield from _values(tuple(template.values()))
    elif isinstance(template, slice):
        yield from _values((template.start, template.stop, template.step))


def run_calls(model: nn.Module, forward: Forward, x: Tensor, see: Callable[[Call, Sequence[Any], Any], None]) -> Any:
    """The output for ``x``; ``see(call, inputs, result)`` looks at each call on the way."""
    values: dict[int, Any] = {0: x}
    for call in forward.calls:
        args, kwargs = (
            filled(part, lambda v: values[v.index], lambda a: attribute(model, a.name))
            for part in (call.args, call.kwargs)
        )
        target: Any = model.get_submodule(call.module) if call.module is not None else call.function
        values[call.index] = target(*args, **kwargs)
        see(call, [values[index] for index in call.reads], values[call.index])
    return values[forward.output]


def attribute(model: nn.Module, name: str) -> Any:
    """The parameter, buffer or other attribute called ``name``."""
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    return value
