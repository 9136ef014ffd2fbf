"""``trace``: the layers of a network, and the groups of channels that must go together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import AutopruneError, GraphError
from autoprune.graph import Group, LayerGraph, LayerInfo
from autoprune.tracing.assemble import assemble
from autoprune.tracing.interpreter import LabelInterpreter, layer_of, tensors_in
from autoprune.tracing.prove import prove as prove_groups

__all__ = ["trace"]


def trace(model: nn.Module, example: Any, *, time_limit_s: float = 60.0, prove: bool = True) -> LayerGraph:
    """Layers in the order they run, with shapes, parameters and MACs, and the groups of units that go together.

    The network runs once on ``example``, with a label on every channel; nothing is changed in it (mode, gradients,
    frozen flags, buffers). Every group is then proved: removing a unit must give the outputs that masking it gives.
    What cannot be pruned safely is protected, and listed with its reason in :attr:`LayerGraph.notes`.

    Args:
        model: any module.
        example: what its forward takes: a tensor, a tuple of positional or a mapping of keyword arguments. The first
            dimension is the batch.
        time_limit_s: give up after this long.
        prove: check every group by execution.

    Raises:
        GraphError: the forward fails on the example, a weight is parametrised, the time limit is over.
    """
    if not isinstance(model, nn.Module):
        raise GraphError(f"trace needs a torch.nn.Module, but got {type(model).__name__}")
    _check(model)
    started = time.monotonic()
    with _unchanged(model):
        interp, outputs = _run(model, example, time_limit_s)
        for tensor in tensors_in(outputs):
            interp.protect(tensor, "it is the network's output")
            if (maker := interp.maker(tensor)) is not None:
                interp.records.uses[maker] = interp.records.uses.get(maker, 0) + 1
        graph = _graph(model, interp)
        if prove:
            graph = prove_groups(model, graph, _caller(example))
    notes = tuple(f"{g.name}: {g.protected}" for g in graph.groups.values() if g.protected is not None)
    return replace(graph, notes=notes, trace_s=time.monotonic() - started)


def call(model: nn.Module, example: Any) -> Any:
    """Run ``model`` on a tensor, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


def _caller(example: Any) -> Callable[[nn.Module], Any]:
    """Runs a network on the example, cast to the network's own precision."""

    def run(network: nn.Module) -> Any:
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
        return call(network, _cast(example, dtype))

    return run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _cast(entry, dtype) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_cast(entry, dtype) for entry in value)
    return value


def _run(model: nn.Module, example: Any, time_limit_s: float) -> tuple[LabelInterpreter, Any]:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    names = {id(tensor): name for name, tensor in tensors.items()}
    interp = LabelInterpreter(names, tensors, time_limit_s)
    inputs = list(tensors_in(example))
    if not inputs:
        raise GraphError(f"the example must hold a tensor, but got {type(example).__name__}")
    interp.batch = max(int(inputs[0].shape[0]) if inputs[0].dim() else 1, 1)
    with torch.inference_mode():
        for tensor in inputs:
            interp.add_input(tensor)
        try:
            with interp:
                outputs = call(model, example)
        except AutopruneError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise GraphError(
                f"the network's forward failed on the example (shapes {shapes}): {type(error).__name__}: {error}"
            ) from error
    return interp, outputs


def _graph(model: nn.Module, interp: LabelInterpreter) -> LayerGraph:
    groups = _sound(assemble(interp))
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(tensor.shape) for name, tensor in interp.tensors.items()}
    norms = tuple(
        (maker, norm)
        for maker, norm in interp.records.norms.items()
        if interp.records.uses.get(maker) == 1 and interp.records.layers[norm].calls == 1
    )
    return LayerGraph(
        layers=_layers(interp, parameters),
        groups=groups,
        shapes=shapes,
        norms=norms,
        fixed_macs=interp.records.fixed_macs,
        batch=interp.batch,
        parameters=frozenset(parameters),
    )


def _sound(groups: dict[str, Group]) -> dict[str, Group]:
    """Groups of a single unit cannot lose any."""
    sound = {}
    for name, group in groups.items():
        reason = group.protected
        if reason is None and group.size < 2:
            reason = "it has a single unit, and one must stay"
        sound[name] = replace(group, protected=reason)
    return sound


def _layers(interp: LabelInterpreter, parameters: Mapping[str, Tensor]) -> dict[str, LayerInfo]:
    counts: dict[str, int] = {}
    for name, tensor in parameters.items():
        counts[layer_of(name)] = counts.get(layer_of(name), 0) + tensor.numel()
    layers: dict[str, LayerInfo] = {}
    for name, seen in interp.records.layers.items():
        shape = tuple(interp.tensors[seen.weight].shape) if seen.weight else ()
        entries = math.prod(shape) if seen.weight else 0
        layers[name] = LayerInfo(
            name,
            seen.kind,
            seen.weight,
            shape,
            seen.input_shape,
            seen.output_shape,
            seen.kernel,
            seen.stride,
            seen.conv_groups,
            counts.pop(name, 0),
            seen.macs,
            seen.macs // entries if entries else 0,
        )
    for name, params in counts.items():
        layers[name] = LayerInfo(name, "other", None, (), (), (), (), (), 1, params, 0, 0)
    return layers


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if torch.nn.utils.parametrize.is_parametrized(module):
            raise GraphError(
                f"layer {name!r} has a parametrised weight; fold it first: "
                "torch.nn.utils.parametrize.remove_parametrizations(module, name)"
            )
        if any(hasattr(hook, "_tensor_name") or "WeightNorm" in type(hook).__name__ for hook in _hooks(module)):
            raise GraphError(
                f"layer {name!r} recomputes its weight before each forward (torch.nn.utils.prune or weight_norm); "
                "make it permanent first: torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm"
            )
        if any(isinstance(p, torch.nn.parameter.UninitializedParameter) for p in module.parameters(recurse=False)):
            raise GraphError(f"layer {name!r} is lazy and not initialised; run the network once on an example first")


def _hooks(module: nn.Module) -> list[Any]:
    return list(module._forward_pre_hooks.values())


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; mode, buffers and the attention fast path are put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer  # a forward pass may have put another tensor in its place
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
