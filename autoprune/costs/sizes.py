"""The size of every stored tensor after a plan, for all tensors at once.

A search asks for the cost of thousands of plans, so shapes are kept as one array and a plan is one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoprune.graph import LayerGraph

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Counts:
    """Shapes ``[T, D]`` (filled with ones) and entries ``[T]`` of the stored tensors."""

    shapes: Ints
    numel: Ints


@dataclass(frozen=True, eq=False)
class Sizes:
    """Tables of one network: ``T`` stored tensors in file order, ``G`` groups, ``R`` places where groups stand.

    Attributes:
        groups: position of each group in a vector of removed units.
        shapes: ``[T, D]`` dense shapes, filled with ones; ``has_dim`` marks the real dimensions.
        numel, itemsize: ``[T]`` entries of the dense tensors, bytes of one entry.
        place: ``[R]`` flat positions in ``shapes``; ``per_unit``: ``[R, G]`` what one removed unit takes from each.
        param_weight, mac_weight: ``[T]`` parameters and multiply-accumulates of one entry.
        layers: names of all layers; ``owner``: ``[T]`` the layer of each tensor, or the number of layers for none.
        layer_params, layer_macs: dense values by layer.
        header: bytes of the file's header that hold no number of shape or offset.
    """

    groups: Mapping[str, int]
    shapes: Ints
    has_dim: NDArray[np.bool_]
    numel: Ints
    itemsize: Ints
    place: Ints
    per_unit: Ints
    param_weight: Ints
    mac_weight: Ints
    layers: tuple[str, ...]
    owner: Ints
    layer_params: Ints
    layer_macs: Ints
    dense_params: int
    dense_macs: int
    header: int

    @classmethod
    def of(cls, graph: LayerGraph, tensors: Mapping[str, Tensor]) -> Sizes:
        """Tables for ``graph`` whose network stores ``tensors`` (:func:`autoprune.artifacts.named_tensors`)."""
        from autoprune.costs.file_bytes import file_order

        order, header = file_order(tensors)
        groups = {name: place for place, name in enumerate(graph.groups)}
        shapes, has_dim = _shapes([tuple(tensors[name].shape) for name in order])
        place, per_unit = _places(graph, {name: t for t, name in enumerate(order)}, groups, shapes.shape[1])
        param_weight, mac_weight, owner = _weights(graph, order)
        infos = list(graph.layers.values())
        return cls(
            groups=groups,
            shapes=shapes,
            has_dim=has_dim,
            numel=shapes.prod(axis=1),
            itemsize=np.array([tensors[name].element_size() for name in order], dtype=np.int64),
            place=place,
            per_unit=per_unit,
            param_weight=param_weight,
            mac_weight=mac_weight,
            layers=tuple(graph.layers),
            owner=owner,
            layer_params=np.array([info.params for info in infos], dtype=np.int64),
            layer_macs=np.array([info.macs for info in infos], dtype=np.int64),
            dense_params=graph.params,
            dense_macs=graph.macs,
            header=header + int(np.maximum(has_dim.sum(axis=1) - 1, 0).sum()),  # commas between dimensions
        )

    def after(self, removed: Mapping[str, int]) -> Counts:
        """Sizes once ``removed[group]`` units of each group are gone."""
        units = np.zeros(len(self.groups), dtype=np.int64)
        for name, count in removed.items():
            units[self.groups[name]] = count
        shapes = self.shapes.copy()
        shapes.reshape(-1)[self.place] -= self.per_unit @ units
        return Counts(shapes, shapes.prod(axis=1))

    def by_layer(self, counts: Counts) -> dict[str, tuple[int, int]]:
        """(params, macs) of each layer."""
        saved = self.numel - counts.numel
        bins = len(self.layers) + 1
        params = self.layer_params - _sum(self.owner, saved * self.param_weight, bins)
        macs = self.layer_macs - _sum(self.owner, saved * self.mac_weight, bins)
        return {name: (int(p), int(m)) for name, p, m in zip(self.layers, params, macs, strict=True)}


def _sum(owner: Ints, values: Ints, bins: int) -> Ints:
    total = np.zeros(bins, dtype=np.int64)
    np.add.at(total, owner, values)
    return total[:-1]


def _shapes(shapes: list[tuple[int, ...]]) -> tuple[Ints, NDArray[np.bool_]]:
    width = max((len(shape) for shape in shapes), default=0) or 1
    table = np.ones((len(shapes), width), dtype=np.int64)
    real = np.zeros((len(shapes), width), dtype=np.bool_)
    for row, shape in enumerate(shapes):
        table[row, : len(shape)] = shape
        real[row, : len(shape)] = True
    return table, real


def _places(graph: LayerGraph, row: Mapping[str, int], groups: Mapping[str, int], width: int) -> tuple[Ints, Ints]:
    """Flat position of each (tensor, dim) that a group stands in, and what one unit of each group takes there."""
    entries: dict[int, dict[int, int]] = {}
    for group in graph.groups.values():
        for slot in group.slots:
            if slot.tensor in row:
                at = entries.setdefault(row[slot.tensor] * width + slot.dim, {})
                at[groups[group.name]] = at.get(groups[group.name], 0) + slot.per_unit
    place = np.array(list(entries), dtype=np.int64)
    per_unit = np.zeros((len(entries), len(groups)), dtype=np.int64)
    for line, takes in enumerate(entries.values()):
        for group_at, units in takes.items():
            per_unit[line, group_at] = units
    return place, per_unit


def _weights(graph: LayerGraph, order: list[str]) -> tuple[Ints, Ints, Ints]:
    """Parameters and multiply-accumulates of one entry of each tensor, and the layer it belongs to."""
    owner: dict[str, str] = {}
    for group in graph.groups.values():
        for slot in group.slots:
            owner.setdefault(slot.tensor, slot.layer)
    params, macs = np.zeros((2, len(order)), dtype=np.int64)
    place = {name: at for at, name in enumerate(graph.layers)}
    layer = np.full(len(order), len(place), dtype=np.int64)
    for at, name in enumerate(order):
        if name not in owner or name not in graph.parameters:
            continue
        info = graph.layers[owner[name]]
        layer[at], params[at] = place[info.name], 1
        macs[at] = info.positions if info.weight == name else 0
    return params, macs, layer
