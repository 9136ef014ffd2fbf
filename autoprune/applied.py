"""A plan, applied: masks on a copy of the network, or the network without what the plan removes.

Both give the same outputs. A unit is masked where it is consumed, because what follows it need not map zero to zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoprune.graph import Group, LayerGraph, Role
from autoprune.plan import Pattern
from autoprune.surgery import KEPT_INPUTS, select_inputs, with_tensors

Kept = Mapping[str, Tensor]


def slim(model: nn.Module, graph: LayerGraph, kept: Kept, *, share: bool = False) -> nn.Module:
    """The network with only the units ``kept`` (sorted indices by group; groups not named stay whole).

    Args:
        model: the dense network that ``graph`` was traced from; not changed.
        graph: its layers and groups.
        kept: ``[k]`` int64 for each group that loses units.
        share: share untouched tensors with ``model`` (to evaluate only).
    """
    cuts = _cuts(graph, kept)
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    sliced: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, dims in cuts.items():
            tensor = tensors[name].detach()
            for dim, positions in dims.items():
                tensor = tensor.index_select(dim, positions.to(tensor.device))
            sliced[name] = tensor
    result = with_tensors(model, sliced, share=share)
    for name, index in kept.items():
        group = graph.groups[name]
        if group.pattern is Pattern.INPUT:
            _select(result, group, index)
    return result


def masked(model: nn.Module, graph: LayerGraph, kept: Kept) -> nn.Module:
    """A copy of the network of full size in which only the units ``kept`` count; see :func:`unit_masks`."""
    masks = unit_masks(model, graph, kept)
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        return with_tensors(model, {name: tensors[name].detach() * mask for name, mask in masks.items()})


def unit_masks(model: nn.Module, graph: LayerGraph, kept: Kept) -> dict[str, Tensor]:
    """Masks (``True`` = kept) of every parameter in which a unit that is not in ``kept`` stands."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks: dict[str, Tensor] = {}
    for name, index in kept.items():
        group = graph.groups[name]
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[index] = False
        for slot in group.slots:
            if slot.tensor not in parameters:
                continue
            mask = masks.get(slot.tensor)
            if mask is None:
                mask = masks[slot.tensor] = torch.ones(parameters[slot.tensor].shape, dtype=torch.bool)
            mask.index_fill_(slot.dim, slot.positions[gone].reshape(-1), False)
    return masks


@dataclass(frozen=True, eq=False)
class PrunedModel:
    """A pruned network and how it came about.

    Attributes:
        module: the network; the caller's own is never changed.
        plan: what was asked for.
        graph: layers and groups of the dense network.
        kept: units that stay, sorted, of each group that lost some.
        masks: masks by parameter name (``True`` = kept): of single weights, and in mask mode of units.
        mode: ``remove`` or ``mask``.
    """

    module: nn.Module
    plan: object
    graph: LayerGraph
    kept: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    mode: str = "remove"

    @property
    def removed(self) -> dict[str, int]:
        """Units removed of each group."""
        return {name: self.graph.groups[name].size - len(index) for name, index in self.kept.items()}


def _cuts(graph: LayerGraph, kept: Kept) -> dict[str, dict[int, Tensor]]:
    """tensor -> dimension -> positions that stay, sorted."""
    gone: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    for name, index in kept.items():
        group = graph.groups[name]
        lost = torch.ones(group.size, dtype=torch.bool)
        lost[index] = False
        for slot in group.slots:
            gone[slot.tensor, slot.dim].append(slot.positions[lost].reshape(-1))
    cuts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for (tensor, dim), positions in gone.items():
        stays = torch.ones(graph.shapes[tensor][dim], dtype=torch.bool)
        for lost in positions:
            stays[lost] = False
        cuts[tensor][dim] = stays.nonzero().flatten()
    return cuts


def _select(model: nn.Module, group: Group, index: Tensor) -> None:
    for slot in group.slots:
        if slot.role is Role.IN:
            module = model.get_submodule(slot.layer)
            already = getattr(module, KEPT_INPUTS, None)
            positions = slot.positions[index].reshape(-1).sort().values
            select_inputs(module, positions if already is None else already[positions])
