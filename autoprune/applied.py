"""A plan, applied: masks on a copy of the network, or the network without what the plan removes.

Both give the same outputs. A unit is masked where it is consumed, because what follows it need not map zero to zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autoprune.errors import MethodError, SettingsError
from autoprune.graph import Group, LayerGraph, Role
from autoprune.plan import Pattern, Plan
from autoprune.resolve import Resolved, resolve
from autoprune.surgery import KEPT_INPUTS, put_parameter, select_inputs, with_tensors

if TYPE_CHECKING:
    from autoprune.calibration import LayerStats
    from autoprune.data import Split

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
            sliced[name] = _sliced(tensors[name].detach(), dims)
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
    plan: Plan
    graph: LayerGraph
    kept: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    mode: str = "remove"

    @property
    def removed(self) -> dict[str, int]:
        """Units removed of each group."""
        return {name: self.graph.groups[name].size - len(index) for name, index in self.kept.items()}


def apply(
    model: nn.Module,
    plan: Plan,
    example: Any = None,
    *,
    mode: str = "remove",
    graph: LayerGraph | None = None,
    calibration: Split | None = None,
    stats: Mapping[str, LayerStats] | None = None,
) -> PrunedModel:
    """Prune a copy of ``model`` as ``plan`` says: score, remove or mask, repair. Nothing is retrained.

    Args:
        model: the dense network; never changed.
        plan: what goes.
        example: what the network's forward takes; needed where no ``graph`` is given.
        mode: ``remove`` makes a smaller network, ``mask`` one of full size with the same outputs.
        graph: the network's graph, if it was traced already.
        calibration: samples for methods and repairs that need statistics.
        stats: statistics collected already.

    Raises:
        PlanError, UnknownNameError: the plan does not fit the network.
        MethodError: a method or repair needs samples and ``calibration`` is missing.
        GraphError: the network cannot be traced.
    """
    from autoprune.ranking import Ranker
    from autoprune.tracing import trace

    if mode not in ("remove", "mask"):
        raise SettingsError(f"mode must be 'remove' or 'mask', but got {mode!r}")
    if graph is None:
        graph = trace(model, example)
    resolved = resolve(plan, graph)
    if stats is None:
        stats = _statistics(model, graph, plan, resolved, calibration)
    ranker = Ranker(model, graph, stats=stats)
    kept = {n: ranker.kept(n, d.method, resolved.removed[n]) for n, d in resolved.units.items()}
    masks = {
        str(graph.layers[n].weight): ranker.weight_mask(n, d.method, d.sparsity) for n, d in resolved.weights.items()
    }
    return prune(model, graph, plan, kept, masks, stats, mode=mode)


def prune(
    model: nn.Module,
    graph: LayerGraph,
    plan: Plan,
    kept: Kept,
    weight_masks: Mapping[str, Tensor],
    stats: Mapping[str, LayerStats],
    *,
    mode: str = "remove",
    share: bool = False,
) -> PrunedModel:
    """The last step of :func:`apply`, for callers that know which units and weights stay.

    Args:
        model, graph, plan, mode: as in :func:`apply`.
        kept: units that stay, sorted, of each group that loses some.
        weight_masks: masks of single weights of the dense network, by parameter name.
        stats: for the plan's reconstruction.
        share: share untouched tensors with ``model`` (to evaluate only).
    """
    from autoprune.reconstruction import repair_module

    small = slim(model, graph, kept, share=share)
    if plan.reconstruction != "none":
        repair_module(small, model, graph, kept, stats, plan.reconstruction)
    if mode == "mask":
        result, masks = _spread(model, graph, kept, small), unit_masks(model, graph, kept)
        for name, mask in weight_masks.items():
            masks[name] = masks[name] & mask if name in masks else mask
    else:
        result, cuts = small, _cuts(graph, kept)
        masks = {name: _sliced(mask, cuts.get(name, {})) for name, mask in weight_masks.items()}
    _mask_weights(result, masks)
    return PrunedModel(result, plan, graph, dict(kept), masks, mode)


def _statistics(
    model: nn.Module, graph: LayerGraph, plan: Plan, resolved: Resolved, calibration: Split | None
) -> dict[str, LayerStats]:
    from autoprune.calibration import collect
    from autoprune.methods import METHODS
    from autoprune.reconstruction import RECONSTRUCTIONS

    methods = {d.method for d in (*resolved.units.values(), *resolved.weights.values())}
    wanting = [name for name in sorted(methods) if METHODS[name].needs]
    needs = {need for name in wanting for need in METHODS[name].needs} | RECONSTRUCTIONS[plan.reconstruction].needs
    if not needs:
        return {}
    if calibration is None:
        names = ", ".join(repr(n) for n in (*wanting, plan.reconstruction) if n != "none")
        raise MethodError(f"{names} needs samples to collect statistics from; pass calibration=data.calibration")
    return collect(model, graph, calibration, needs)


def _mask_weights(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Parameters replaced by masked ones, so that tensors shared with the dense network stay as they are."""
    for name, mask in masks.items():
        old = model.get_parameter(name)
        put_parameter(model, name, nn.Parameter(old.detach() * mask, requires_grad=old.requires_grad))


def _spread(model: nn.Module, graph: LayerGraph, kept: Kept, small: nn.Module) -> nn.Module:
    """The small network's values in a network of full size, zero where units are gone."""
    dense = dict(model.named_parameters()) | dict(model.named_buffers())
    values = dict(small.named_parameters()) | dict(small.named_buffers())
    cuts = _cuts(graph, kept)
    tensors: dict[str, Tensor] = {}
    for name, tensor in dense.items():
        full = torch.zeros_like(tensor) if name in graph.parameters else tensor.detach().clone()
        index = [torch.arange(size) for size in tensor.shape]
        for dim, positions in cuts.get(name, {}).items():
            index[dim] = positions
        full[torch.meshgrid(*index, indexing="ij") if index else ...] = values[name].detach()
        tensors[name] = full
    return with_tensors(model, tensors)


def _sliced(tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    for dim, positions in dims.items():
        tensor = tensor.index_select(dim, positions.to(tensor.device))
    return tensor


def _cuts(graph: LayerGraph, kept: Kept) -> dict[str, dict[int, Tensor]]:
    """tensor -> dimension -> positions that stay, sorted."""
    gone: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    known: dict[tuple[str, int], Tensor] = {}  # slots of a group share their positions
    for name, index in kept.items():
        group = graph.groups[name]
        lost = torch.ones(group.size, dtype=torch.bool)
        lost[index] = False
        for slot in group.slots:
            key = (name, id(slot.positions))
            if key not in known:
                known[key] = slot.positions[lost].flatten()
            gone[slot.tensor, slot.dim].append(known[key])
    cuts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    stays: dict[tuple[int, ...], Tensor] = {}
    for (tensor, dim), parts in gone.items():
        size = graph.shapes[tensor][dim]
        places = (size, *map(id, parts))
        if places not in stays:
            whole = torch.ones(size, dtype=torch.bool)
            whole[torch.cat(parts)] = False
            stays[places] = whole.nonzero().flatten()
        cuts[tensor][dim] = stays[places]
    return cuts


def _select(model: nn.Module, group: Group, index: Tensor) -> None:
    for slot in group.slots:
        if slot.role is Role.IN:
            module = model.get_submodule(slot.layer)
            already = getattr(module, KEPT_INPUTS, None)
            positions = slot.positions[index].reshape(-1).sort().values
            select_inputs(module, positions if already is None else already[positions])
