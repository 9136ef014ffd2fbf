"""Proof of each group: the network without a unit and the network with that unit masked give the same outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.applied import masked, slim
from autoprune.errors import GraphError
from autoprune.graph import Group, LayerGraph
from autoprune.tracing.interpreter import tensors_in

# A wrong index map changes outputs by much more; networks that compute in float32 inside stay well below it.
TOLERANCE = 1e-5

Call = Callable[[nn.Module], Any]


def prove(model: nn.Module, graph: LayerGraph, call: Call) -> LayerGraph:
    """``graph`` with every group protected, by name and reason, that cannot be removed without changing the rest.

    Args:
        model: the network; not changed.
        graph: what the labels said.
        call: runs a network on the example.
    """
    wide = _widened(model, call)
    names = [group.name for group in graph.prunable]
    reference = _outputs(wide, call)
    if isinstance(reference, str) or isinstance(again := _outputs(wide, call), str):
        raise GraphError(f"the network's forward failed in evaluation mode: {reference}")
    if not all(bool(t.isfinite().all()) for t in reference):
        return _protect(graph, dict.fromkeys(names, "outputs are not finite on the example, so nothing can be proved"))
    if not _equal(reference, again):
        return _protect(graph, dict.fromkeys(names, "outputs are not deterministic in evaluation mode"))
    if all(_agrees(wide, graph, names, call, pick) is None for pick in (_one, _half)):
        return graph
    reasons = {name: reason for name in names if (reason := _group_fault(wide, graph, name, call)) is not None}
    proved = _protect(graph, reasons)
    left = [group.name for group in proved.prunable]
    if left and _agrees(wide, proved, left, call, _half) is not None:
        return _protect(proved, dict.fromkeys(left, "removing several groups at once changes the outputs"))
    return proved


def _group_fault(model: nn.Module, graph: LayerGraph, name: str, call: Call) -> str | None:
    for pick in (_one, _half):
        reason = _agrees(model, graph, [name], call, pick)
        if reason is not None:
            return reason
    return None


def _agrees(
    model: nn.Module, graph: LayerGraph, names: Iterable[str], call: Call, pick: Callable[[Group], Tensor]
) -> str | None:
    """``None`` where removing and masking agree, else what went wrong."""
    kept = {name: pick(graph.groups[name]) for name in names if graph.groups[name].size > 1}
    if not kept:
        return None
    without = _outputs(slim(model, graph, kept, share=True), call)
    if isinstance(without, str):
        return f"without a unit the network fails: {without}"
    with_masks = _outputs(masked(model, graph, kept), call)
    if isinstance(with_masks, str) or not _equal(without, with_masks):
        return "without a unit the network gives other outputs than with that unit masked"
    return None


def _one(group: Group) -> Tensor:
    stays = torch.ones(group.size, dtype=torch.bool)
    stays[group.size // 2] = False
    return stays.nonzero().flatten()


def _half(group: Group) -> Tensor:
    order = torch.randperm(group.size, generator=torch.Generator().manual_seed(group.size))
    return order[: max(group.size // 2, 1)].sort().values


def _widened(model: nn.Module, call: Call) -> nn.Module:
    """A float64 copy with slightly moved parameters, so that no zero hides a mistake; as it is where that fails."""
    wide = copy.deepcopy(model).double()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wide.parameters():
            scale = 0.05 * float(parameter.abs().mean()) + 0.01
            parameter.data.add_(scale * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return model if isinstance(_outputs(wide, call), str) else wide


def _outputs(model: nn.Module, call: Call) -> list[Tensor] | str:
    """Floating-point outputs, or why the call failed."""
    try:
        with torch.no_grad():
            return [t for t in tensors_in(call(model)) if t.is_floating_point()]
    except Exception as error:  # noqa: BLE001 - whatever the user's forward raises is the reason we report
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"[:160]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    if [t.shape for t in a] != [t.shape for t in b]:
        return False
    for x, y in zip(a, b, strict=True):
        scale = 1 + float(x.abs().max()) if x.numel() else 1.0
        if x.numel() and not float((x - y).abs().max()) <= TOLERANCE * scale:
            return False
    return True


def _protect(graph: LayerGraph, reasons: Mapping[str, str]) -> LayerGraph:
    groups = {
        name: replace(group, protected=reasons[name]) if name in reasons else group
        for name, group in graph.groups.items()
    }
    return replace(graph, groups=groups)
