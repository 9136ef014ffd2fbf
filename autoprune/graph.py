"""What a network is made of: its layers in the order they run, and the groups of channels that must go together.

:func:`autoprune.trace` makes a :class:`LayerGraph`; nothing here holds a copy of a parameter or makes a decision.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from torch import Tensor

from autoprune.errors import UnknownNameError, unknown_name
from autoprune.masking import removed_count
from autoprune.plan import Pattern


class Role(StrEnum):
    """What a tensor does for a unit."""

    OUT = "out"  # its rows make the unit: weight of a convolution or linear layer, along the outputs
    IN = "in"  # its columns consume the unit
    ALONG = "along"  # it has an entry for the unit: bias, norm, scale, running statistics


@dataclass(frozen=True)
class LayerInfo:
    """Facts of one layer (a module that owns parameters, or makes multiply-accumulates).

    Attributes:
        name: qualified module name.
        kind: class of operation: ``conv``, ``conv_transpose``, ``linear``, ``norm``, ``embedding`` or ``other``.
        weight: qualified name of the weight, ``None`` without one.
        weight_shape: its shape.
        input_shape, output_shape: shapes at the first call, without the batch dimension.
        kernel, stride: of a convolution, else empty.
        conv_groups: groups of a convolution, else 1.
        params: entries of all its parameters.
        macs: multiply-accumulates for one sample.
        positions: ``macs`` of one weight entry (how often each is used for one sample); 0 where that has no meaning.
    """

    name: str
    kind: str
    weight: str | None
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    conv_groups: int
    params: int
    macs: int
    positions: int


@dataclass(frozen=True, eq=False)
class Slot:
    """One place where the units of a group stand in a tensor.

    Attributes:
        tensor: qualified name of a parameter or buffer.
        layer: the module that owns it.
        dim: dimension along which the units lie.
        role: what the tensor does for the unit.
        positions: ``[units, k]`` int64, the ``k`` positions of each unit along ``dim``.
    """

    tensor: str
    layer: str
    dim: int
    role: Role
    positions: Tensor

    @property
    def per_unit(self) -> int:
        """Positions of one unit."""
        return int(self.positions.shape[1])


@dataclass(frozen=True, eq=False)
class Group:
    """Units (channels, neurons, inputs) that can only be removed together in all their slots.

    Attributes:
        name: the first layer that makes the units (``input`` for features of the network's input).
        pattern: what a unit is.
        size: number of units.
        slots: every place where they stand.
        protected: why the group must stay whole, ``None`` where it can be pruned.
    """

    name: str
    pattern: Pattern
    size: int
    slots: tuple[Slot, ...]
    protected: str | None = None

    @property
    def producers(self) -> tuple[Slot, ...]:
        """Slots whose rows make the units."""
        return tuple(s for s in self.slots if s.role is Role.OUT)

    @property
    def consumers(self) -> tuple[Slot, ...]:
        """Slots whose columns consume the units."""
        return tuple(s for s in self.slots if s.role is Role.IN)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that make the units, in order of execution."""
        return tuple(dict.fromkeys(s.layer for s in self.producers))

    def removed(self, sparsity: float) -> int:
        """Units that ``sparsity`` removes; see :func:`autoprune.masking.removed_count`."""
        return removed_count(self.size, sparsity)


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """Layers and groups of one network.

    Attributes:
        layers: by name, in the order in which they run first.
        groups: by name, in the order of their first layer; the protected ones too.
        shapes: shape of every parameter and buffer that stands in a slot.
        norms: pairs (convolution or linear layer, batch norm that alone consumes it), foldable for inference.
        fixed_macs: multiply-accumulates that no weight makes (attention products), for one sample.
        fixed_params: parameters that belong to no slot.
        batch: batch size of the example that was traced.
        notes: what was left whole and why, a line each.
    """

    layers: Mapping[str, LayerInfo]
    groups: Mapping[str, Group]
    shapes: Mapping[str, tuple[int, ...]]
    norms: tuple[tuple[str, str], ...] = ()
    fixed_macs: int = 0
    batch: int = 1
    notes: tuple[str, ...] = ()
    trace_s: float = field(default=0.0)

    @cached_property
    def prunable(self) -> tuple[Group, ...]:
        """Groups that can be pruned, in order."""
        return tuple(g for g in self.groups.values() if g.protected is None)

    @cached_property
    def weight_layers(self) -> tuple[str, ...]:
        """Layers whose single weights can be masked."""
        return tuple(n for n, layer in self.layers.items() if layer.kind in ("conv", "conv_transpose", "linear"))

    @cached_property
    def _owner(self) -> dict[str, str]:
        owner: dict[str, str] = {}
        for group in self.groups.values():
            for layer in group.layers:
                owner.setdefault(layer, group.name)
        return owner

    def group(self, name: str) -> Group:
        """The group called ``name``, or the group that layer ``name`` makes.

        Raises:
            UnknownNameError: no such group or layer, with near misses.
        """
        if name in self.groups:
            return self.groups[name]
        if name in self._owner:
            return self.groups[self._owner[name]]
        raise unknown_name("group or layer", name, {*self.groups, *self._owner})

    def layer(self, name: str) -> LayerInfo:
        """The layer called ``name``.

        Raises:
            UnknownNameError: no such layer, with near misses.
        """
        if name not in self.layers:
            raise unknown_name("layer", name, self.layers)
        return self.layers[name]

    def select(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> tuple[Group, ...]:
        """Prunable groups whose name, or one of whose layers, matches a glob of ``include`` and none of ``exclude``.

        Raises:
            UnknownNameError: a glob that matches nothing.
        """

        def hits(group: Group, globs: Iterable[str]) -> bool:
            return any(fnmatch.fnmatchcase(n, g) for g in globs for n in (group.name, *group.layers))

        for glob in (*include, *exclude):
            if not any(hits(group, [glob]) for group in self.groups.values()):
                raise unknown_name("layer or glob", glob, {*self.groups, *self._owner})
        chosen = tuple(g for g in self.prunable if (not include or hits(g, include)) and not hits(g, exclude))
        if not chosen:
            raise UnknownNameError(
                f"no prunable group is left by include {list(include)!r} and exclude {list(exclude)!r}; "
                f"prunable are: {', '.join(g.name for g in self.prunable) or 'none'}"
            )
        return chosen

    @cached_property
    def _places(self) -> dict[str, dict[int, list[tuple[str, int]]]]:
        """tensor -> dim -> [(group, positions of one unit)]."""
        places: dict[str, dict[int, list[tuple[str, int]]]] = {}
        for group in self.groups.values():
            for slot in group.slots:
                places.setdefault(slot.tensor, {}).setdefault(slot.dim, []).append((group.name, slot.per_unit))
        return places

    def shape_after(self, tensor: str, removed: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of ``tensor`` once ``removed[group]`` units of each group are gone."""
        shape = list(self.shapes[tensor])
        for dim, entries in self._places.get(tensor, {}).items():
            shape[dim] -= sum(removed.get(name, 0) * per_unit for name, per_unit in entries)
        return tuple(shape)

    def layer_costs(self, removed: Mapping[str, int] | None = None) -> dict[str, tuple[int, int]]:
        """(params, macs) of each layer once ``removed[group]`` units of each group are gone."""
        removed = removed or {}
        costs: dict[str, tuple[int, int]] = {}
        for name, layer in self.layers.items():
            params, macs = layer.params, layer.macs
            for tensor in self._layer_tensors.get(name, ()):
                before = math.prod(self.shapes[tensor])
                after = math.prod(self.shape_after(tensor, removed))
                params -= before - after
                if tensor == layer.weight:
                    macs -= (before - after) * layer.positions
            costs[name] = (params, macs)
        return costs

    def cost(self, removed: Mapping[str, int] | None = None) -> tuple[int, int]:
        """(params, macs for one sample) of the network once ``removed[group]`` units of each group are gone."""
        costs = self.layer_costs(removed).values()
        return sum(p for p, _ in costs), sum(m for _, m in costs) + self.fixed_macs

    @cached_property
    def _layer_tensors(self) -> dict[str, tuple[str, ...]]:
        """Parameters (not buffers) in slots, by layer."""
        tensors: dict[str, dict[str, None]] = {}
        for group in self.groups.values():
            for slot in group.slots:
                if slot.tensor in self.parameters:
                    tensors.setdefault(slot.layer, {})[slot.tensor] = None
        return {layer: tuple(names) for layer, names in tensors.items()}

    parameters: frozenset[str] = frozenset()

    @property
    def params(self) -> int:
        """Parameters of the dense network."""
        return sum(layer.params for layer in self.layers.values())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense network for one sample."""
        return sum(layer.macs for layer in self.layers.values()) + self.fixed_macs

    @cached_property
    def digest(self) -> str:
        """A short SHA-256 of layers and groups: two networks with one digest take the same plans."""
        lines = [f"{n}|{i.kind}|{i.weight_shape}|{i.macs}" for n, i in self.layers.items()]
        lines += [f"{g.name}|{g.pattern}|{g.size}|{g.protected is None}" for g in self.groups.values()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
