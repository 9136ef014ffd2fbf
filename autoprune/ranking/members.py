"""A group's weights as rows of units: what a method is shown."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoprune.calibration.gradients import scored_slots
from autoprune.calibration.stats import LayerStats
from autoprune.errors import MethodError
from autoprune.graph import Group, LayerGraph, Role
from autoprune.methods.base import Member


def group_members(group: Group, tensors: Mapping[str, Tensor], stats: Mapping[str, LayerStats]) -> list[Member]:
    """The layers that make the units of ``group`` (for ``input``: that consume them), in order.

    The ``k`` rows of a unit in one layer become one row of ``F`` entries.

    Raises:
        MethodError: no weights make or consume the units.
    """
    members = []
    for slot in scored_slots(group):
        rows = tensors[slot.tensor].detach().cpu().movedim(slot.dim, 0)[slot.positions]  # [U, k, ...]
        weight = rows.reshape(group.size, -1).to(torch.float64)  # [U, F]
        members.append(Member(slot.layer, weight, stats.get(slot.layer), slot.positions, slot.tensor, slot.dim))
    if not members:
        raise MethodError(f"group {group.name!r} has no weights by which its units could be ranked; leave it whole")
    return members


def weight_member(
    graph: LayerGraph, layer: str, tensors: Mapping[str, Tensor], stats: Mapping[str, LayerStats]
) -> Member:
    """The weight of ``layer`` as ``[O, I]``, every entry a unit.

    Raises:
        UnknownNameError: no such layer.
        MethodError: a layer without a weight that could be masked.
    """
    info = graph.layer(layer)
    if info.weight is None or layer not in graph.weight_layers:
        raise MethodError(
            f"layer {layer!r} has no weights to mask; layers that have: {', '.join(graph.weight_layers) or 'none'}"
        )
    tensor, dim = tensors[info.weight].detach().cpu(), output_dim(graph, layer)
    weight = tensor.movedim(dim, 0).flatten(1).to(torch.float64)  # [O, I]
    return Member(layer, weight, stats.get(layer), torch.arange(len(weight))[:, None], info.weight, dim)


def output_dim(graph: LayerGraph, layer: str) -> int:
    """The dimension of a layer's weight along which its outputs lie."""
    info = graph.layer(layer)
    for group in graph.groups.values():
        for slot in group.producers:
            if slot.tensor == info.weight and slot.role is Role.OUT:
                return slot.dim
    return 1 if info.kind == "conv_transpose" and info.conv_groups == 1 else 0


def as_stored(scores: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Scores ``[O, I]`` of :func:`weight_member` in the shape in which the weight is stored."""
    moved = [shape[dim], *shape[:dim], *shape[dim + 1 :]]
    return scores.view(moved).movedim(0, dim)
