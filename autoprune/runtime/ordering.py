"""The order in which channels are added: a prefix of a layer is worth most when its best channels stand first.

J. Yu, T. Huang, "Universally Slimmable Networks and Improved Training Techniques", 2019, and H. Cai et al., "Once-for-
All", 2020, sort channels by importance before a network is trained to serve several widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autoprune.errors import ChainError
from autoprune.graph import Group, LayerGraph
from autoprune.plan import Pattern

if TYPE_CHECKING:
    from autoprune.data import Split

Orders = Mapping[str, Tensor]  # group -> its units [U], the first to be computed first


def by_importance(model: nn.Module, graph: LayerGraph, method: str, calibration: Split, *, seed: int = 0) -> Orders:
    """For every group of channels its units, the most important first.

    Args:
        model: the network; not changed.
        graph: its graph.
        method: whose scores say what is important (a key of :data:`autoprune.methods.METHODS`).
        calibration: samples for methods that need statistics.
        seed: for methods that draw.

    Raises:
        UnknownNameError: another method.
    """
    from autoprune.calibration import collect
    from autoprune.methods import get_method
    from autoprune.ranking import Ranker

    needs = get_method(method).needs
    stats = collect(model, graph, calibration, needs) if needs else {}
    ranker = Ranker(model, graph, stats=stats, seed=seed)
    channels = [name for name, group in graph.groups.items() if group.pattern is Pattern.CHANNEL]
    return {name: ranker.order(name, method).flip(0) for name in channels}


@torch.no_grad()
def reorder(model: nn.Module, groups: Iterable[Group], orders: Orders) -> None:
    """Put the units of ``groups`` in these orders, in place: the same network up to the rounding of sums.

    Every slot of a group must hold its units in a row and nothing else, as those of a :class:`Chain` do.

    Raises:
        ChainError: an order that is none of the group's units.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for group in groups:
        order = orders.get(group.name)
        if order is None:
            continue
        if not torch.equal(order.sort().values, torch.arange(group.size)):
            raise ChainError(f"the order of {group.name!r} must hold each of its {group.size} units once")
        for slot in group.slots:
            tensor = tensors[slot.tensor]
            tensor.copy_(tensor.index_select(slot.dim, slot.positions[order].flatten()))
