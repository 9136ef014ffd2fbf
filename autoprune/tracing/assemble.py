"""From labels to groups: components of joined labels, gathered by the places where they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from autoprune.graph import Group, Role, Slot
from autoprune.plan import Pattern
from autoprune.tracing.interpreter import LabelInterpreter, layer_of
from autoprune.tracing.labels import FIXED, Ids

Place = tuple[str, int, Role]


@dataclass
class _Component:
    """One unit: the places of its labels, and why it must stay."""

    places: dict[Place, list[int]] = field(default_factory=lambda: defaultdict(list))
    reason: str | None = None
    is_input: bool = False


def assemble(interp: LabelInterpreter) -> dict[str, Group]:
    """All groups of a run, in the order in which their first layer ran; protected ones keep their reason."""
    units = _units(interp)
    families: dict[tuple[object, ...], list[_Component]] = defaultdict(list)
    for unit in units:
        key = (unit.is_input, unit.reason, frozenset((p, len(v)) for p, v in unit.places.items()))
        families[key].append(unit)
    order = {name: place for place, name in enumerate(interp.records.layers)}
    groups: dict[str, Group] = {}
    for members in sorted(families.values(), key=lambda family: _rank(family[0], order)):
        group = _group(members, order, interp, groups)
        groups[group.name] = group
    return groups


def _units(interp: LabelInterpreter) -> list[_Component]:
    units: dict[int, _Component] = defaultdict(_Component)
    for (name, dim), ids in interp.dims.items():
        _add(units, interp, (name, dim, interp.roles[name, dim]), interp.store.find(ids))
    for name, ids in interp.elements.items():
        axis = _dimension(interp, name, interp.store.find(ids))
        if axis is not None:
            roots = np.moveaxis(interp.store.find(ids), axis, 0).reshape(ids.shape[axis], -1)[:, 0]
            _add(units, interp, (name, axis, Role.ALONG), roots)
    for ids in interp.input_ids:
        for root in np.unique(interp.store.find(ids)).tolist():
            if root in units:
                units[root].is_input = True
    kept = [unit for unit in units.values() if _matters(unit)]
    for unit in kept:
        if unit.is_input and unit.reason is None and any(role is Role.OUT for _, _, role in unit.places):
            unit.reason = "joined with the network's input"
    return kept


def _add(units: dict[int, _Component], interp: LabelInterpreter, place: Place, roots: Ids) -> None:
    for position, root in enumerate(roots.tolist()):
        if root > FIXED:
            unit = units[root]
            unit.places[place].append(position)
            unit.reason = interp.store.reason(root)


def _dimension(interp: LabelInterpreter, name: str, roots: Ids) -> int | None:
    """The one dimension of a plain value along which its units lie; with more than one they are protected."""
    varying = [d for d in range(roots.ndim) if (roots != roots.take([0], d)).any()]
    if len(varying) > 1:
        interp.store.protect(roots, f"units of {name!r} do not lie along one dimension")
        return None
    return varying[0] if varying else next((d for d, size in enumerate(roots.shape) if size == 1), None)


def _matters(unit: _Component) -> bool:
    """A unit is something that a layer makes, or a feature of the input that a layer consumes."""
    roles = {role for _, _, role in unit.places}
    return Role.OUT in roles or (unit.is_input and Role.IN in roles)


def _rank(unit: _Component, order: Mapping[str, int]) -> tuple[int, int, str]:
    makers = [(order.get(layer_of(n), len(order)), n) for n, _, role in unit.places if role is Role.OUT]
    if unit.is_input and unit.reason is None:
        return (-1, min(min(v) for v in unit.places.values()), "")
    first = min(makers) if makers else (len(order), "")
    return (first[0], min(v[0] for (n, _, _), v in unit.places.items() if n == first[1]) if makers else 0, first[1])


def _group(
    members: list[_Component], order: Mapping[str, int], interp: LabelInterpreter, taken: Mapping[str, Group]
) -> Group:
    first = members[0]
    places = sorted(first.places, key=lambda p: (order.get(layer_of(p[0]), len(order)), p[2] is not Role.OUT, p[0]))
    makers = [p for p in places if p[2] is Role.OUT]
    if first.is_input and first.reason is None:
        name, pattern, places = "input", Pattern.INPUT, [p for p in places if p[2] is Role.IN]
        anchor = places[0]
    else:
        anchor = makers[0] if makers else places[0]
        name = layer_of(anchor[0]) or "network"
        kind = interp.records.layers[layer_of(anchor[0])].kind
        pattern = Pattern.UNIT if kind == "linear" else Pattern.CHANNEL
    members = sorted(members, key=lambda unit: unit.places[anchor])
    shared: dict[tuple[tuple[int, ...], ...], Tensor] = {}
    slots = tuple(
        Slot(n, layer_of(n), dim, role, _positions([unit.places[n, dim, role] for unit in members], shared))
        for n, dim, role in places
    )
    return Group(_free(name, taken), pattern, len(members), slots, first.reason)


def _free(name: str, taken: Mapping[str, Group]) -> str:
    if name not in taken:
        return name
    count = 2
    while f"{name}#{count}" in taken:
        count += 1
    return f"{name}#{count}"


def _positions(index: list[list[int]], shared: dict[tuple[tuple[int, ...], ...], Tensor]) -> Tensor:
    """``[units, k]``; equal ones are one tensor."""
    key = tuple(map(tuple, index))
    if key not in shared:
        shared[key] = torch.tensor(index, dtype=torch.int64)
    return shared[key]
