"""Which channels of a network may be skipped at run time, and in which order: prefixes of a layer's output channels.

A group of channels that go together (:class:`autoprune.graph.Group`) is gated where a prefix of it can be computed
alone: one convolution makes it, and every tensor it stands in is cut by a prefix too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoprune.errors import ChainError
from autoprune.graph import Group, LayerGraph, LayerInfo, Role, Slot
from autoprune.plan import Pattern
from autoprune.runtime.symbolic import Forward


@dataclass(frozen=True)
class Lane:
    """How one dimension of a tensor follows a decision.

    Attributes:
        stage: the stage that decides.
        sizes: ``sizes[i - 1]`` entries are there under action ``i``; the last is the whole dimension.
    """

    stage: int
    sizes: tuple[int, ...]

    def size(self, action: int) -> int:
        """Entries under ``action`` (1 to k)."""
        return self.sizes[action - 1]


def prefix_sizes(channels: int, groups: int, layer: str) -> tuple[int, ...]:
    """Cumulative sizes of ``groups`` groups of ``channels`` channels; group sizes differ by at most one.

    Raises:
        ChainError: more groups than channels; ``layer`` is named.
    """
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise ChainError(f"the number of channel groups must be a whole number from 1 on, but got {groups!r}")
    if groups > channels:
        raise ChainError(
            f"layer {layer!r} has {channels} channels, which cannot make {groups} groups; "
            f"ask for at most {channels} groups or exclude the layer"
        )
    return tuple(channels * i // groups for i in range(1, groups + 1))


def gated_groups(
    model: nn.Module,
    graph: LayerGraph,
    forward: Forward,
    *,
    first: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> tuple[Group, ...]:
    """Groups whose channels are computed as a prefix, in the order in which their layers run.

    Args:
        model: the network.
        graph: its layers and groups.
        forward: its calls.
        first: gate the network's first convolution too.
        include, exclude: globs of layers, as in :meth:`autoprune.graph.LayerGraph.select`.

    Raises:
        ChainError: no group is left; the reason for each convolution is told.
        UnknownNameError: a glob that matches nothing.
    """
    wanted = {g.name for g in graph.select(include, exclude)} if include or exclude else set(graph.groups)
    runs: Counter[str | None] = Counter(call.module for call in forward.calls)
    leading = next((name for name, info in graph.layers.items() if info.kind == "conv"), None)
    chosen, reasons = [], {}
    for group in graph.groups.values():
        if group.pattern is not Pattern.CHANNEL:
            continue
        reason = group.protected or _obstacle(model, graph, group, runs)
        if reason is None and group.name not in wanted:
            reason = "it is excluded"
        if reason is None and leading in group.layers and not first:
            reason = "it is the first convolution, which runs whole unless asked otherwise"
        if reason is None:
            chosen.append(group)
        else:
            reasons[group.name] = reason
    if not chosen:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:8])
        raise ChainError(
            "no convolution of this network can be computed in part, so there is nothing to decide at run time "
            f"({told or 'it has no convolutions'}); runtime pruning needs a chain of convolutions or residual blocks"
        )
    return tuple(chosen)


def maker(graph: LayerGraph, group: Group) -> str:
    """The convolution that makes the channels of a gated group."""
    return next(slot.layer for slot in group.producers if not _depthwise(graph.layers[slot.layer]))


def _obstacle(model: nn.Module, graph: LayerGraph, group: Group, runs: Counter[str | None]) -> str | None:
    """Why a prefix of the group cannot be computed alone, ``None`` where it can."""
    makers = [slot.layer for slot in group.producers if not _depthwise(graph.layers[slot.layer])]
    if len(makers) != 1:
        return f"several layers make its channels together ({', '.join(makers)}), so they stay whole"
    for slot in group.slots:
        if (reason := _slot_obstacle(model, graph, slot, runs)) is not None:
            return reason
    return None


def _slot_obstacle(model: nn.Module, graph: LayerGraph, slot: Slot, runs: Counter[str | None]) -> str | None:
    module = model.get_submodule(slot.layer)
    if runs[slot.layer] != 1:
        how = "is not called as a module" if runs[slot.layer] == 0 else "runs several times"
        return f"layer {slot.layer!r} {how}"
    if not _known(module):
        return f"layer {slot.layer!r} is a {type(module).__name__}, of which no part can be computed alone"
    whole = torch.arange(slot.positions.numel()).view_as(slot.positions)
    if graph.shapes[slot.tensor][slot.dim] != slot.positions.numel() or not torch.equal(slot.positions, whole):
        return f"its channels do not stand in order in {slot.tensor!r}, or not alone"
    info = graph.layers[slot.layer]
    if info.kind == "conv" and info.conv_groups > 1 and not _depthwise(info):
        return f"layer {slot.layer!r} is a grouped convolution"
    return None


def _known(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 or module.padding_mode == "zeros"
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return module.running_mean is not None
    return isinstance(module, nn.Linear)


def _depthwise(info: LayerInfo) -> bool:
    """A convolution in which every output channel reads one input channel of its own group."""
    return info.kind == "conv" and info.conv_groups > 1 and info.weight_shape[1] == 1


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output channel of the convolution reads a single input channel, each its own."""
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels


def per_unit(group: Group, layer: str, role: Role) -> int | None:
    """Entries of one channel of ``group`` in ``layer`` in that role; ``None`` where it does not stand there."""
    for slot in group.slots:
        if slot.layer == layer and slot.role is role:
            return slot.per_unit
    return None
