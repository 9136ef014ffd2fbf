"""One network structure in which the tensors of one candidate after another are put: the quick form of ``slim``.

Copying the structure of a network takes longer than cutting its tensors, and with racing as long as looking at the
first images. A search holds one structure and swaps what the plan cuts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph import LayerGraph
from autoprune.plan import Pattern
from autoprune.surgery import fit, with_tensors


@dataclass(frozen=True, eq=False)
class _Cut:
    """A tensor in which groups stand.

    Attributes:
        tensor: as it is in the whole network.
        places: (table of a module, key) where it hangs in the structure.
        dims: (dimension, its index maps) for each dimension along which units lie.
        groups: the groups that stand in it.
    """

    tensor: Tensor
    places: tuple[tuple[dict[str, Any], str], ...]
    dims: tuple[tuple[int, _Index], ...]
    groups: frozenset[str]


@dataclass(frozen=True, eq=False)
class _Index:
    """Where groups stand along a dimension of ``size``: (group, positions ``[U, k]``)."""

    size: int
    entries: tuple[tuple[str, Tensor], ...]

    def stays(self, gone: Mapping[str, Tensor]) -> Tensor | None:
        """Positions that stay, sorted; ``None`` for all."""
        lost = [positions[gone[group]].flatten() for group, positions in self.entries if group in gone]
        if not lost:
            return None
        stay = torch.ones(self.size, dtype=torch.bool)
        stay[torch.cat(lost)] = False
        return stay.nonzero().flatten()


class Skeleton:
    """A structure to evaluate candidates in, one at a time.

    Args:
        model: a network in eval mode; not changed, and its tensors are shared.
        graph: its graph.
    """

    def __init__(self, model: nn.Module, graph: LayerGraph) -> None:
        self._graph = graph
        self._module = with_tensors(model, {}, share=True)
        self._cuts = _cuts(self._module, graph)
        owners = {id(table): m for m in self._module.modules() for table in (m._parameters, m._buffers)}
        touched = {id(owners[id(t)]): owners[id(t)] for cut in self._cuts for t, _ in cut.places}
        self._sizes = [(m, {k: v for k, v in vars(m).items() if isinstance(v, int | tuple)}) for m in touched.values()]

    def fits(self, kept: Mapping[str, Tensor]) -> bool:
        """Whether these groups can be cut here: a layer that must select among the network's inputs cannot."""
        return not any(self._graph.groups[name].pattern is Pattern.INPUT for name in kept)

    def candidate(self, kept: Mapping[str, Tensor]) -> nn.Module:
        """The network with only the units ``kept``; it is valid until the next call.

        Args:
            kept: ``[k]`` sorted indices for each group that loses units; see :meth:`fits`.
        """
        gone = {name: _gone(self._graph.groups[name].size, index) for name, index in kept.items()}
        found: dict[int, Tensor | None] = {}
        for cut in self._cuts:
            value = cut.tensor
            if not cut.groups.isdisjoint(gone):
                value = _cut(cut, gone, found)
            for table, key in cut.places:
                table[key] = value
        for module, sizes in self._sizes:
            vars(module).update(sizes)
            fit(module)
        return self._module


def _gone(size: int, kept: Tensor) -> Tensor:
    gone = torch.ones(size, dtype=torch.bool)
    gone[kept] = False
    return gone


def _cut(cut: _Cut, gone: Mapping[str, Tensor], found: dict[int, Tensor | None]) -> Tensor:
    value = cut.tensor.detach()
    for dim, index in cut.dims:
        if id(index) not in found:
            found[id(index)] = index.stays(gone)
        stays = found[id(index)]
        if stays is not None:
            value = value.index_select(dim, stays)
    if value.dim() == 4:
        value = value.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(value, requires_grad=False) if isinstance(cut.tensor, nn.Parameter) else value


def _cuts(module: nn.Module, graph: LayerGraph) -> list[_Cut]:
    """Every tensor in which a prunable group stands; equal index maps are one object, so that each is computed once."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = defaultdict(list)
    tensors: dict[str, Tensor] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in (part._parameters, part._buffers):
            for leaf, tensor in table.items():
                if tensor is not None:
                    tensors[f"{prefix}.{leaf}" if prefix else leaf] = tensor
                    if not any(known is table and key == leaf for known, key in places[id(tensor)]):
                        places[id(tensor)].append((table, leaf))
    standing: dict[str, dict[int, list[tuple[str, Tensor]]]] = defaultdict(lambda: defaultdict(list))
    for group in graph.prunable:
        for slot in group.slots:
            if slot.tensor in tensors:
                standing[slot.tensor][slot.dim].append((group.name, slot.positions))
    indices: dict[object, _Index] = {}
    cuts = []
    for name, dims in standing.items():
        maps = tuple((dim, _index(tensors[name].shape[dim], entries, indices)) for dim, entries in dims.items())
        groups = frozenset(group for entries in dims.values() for group, _ in entries)
        cuts.append(_Cut(tensors[name], tuple(places[id(tensors[name])]), maps, groups))
    return cuts


def _index(size: int, entries: list[tuple[str, Tensor]], known: dict[object, _Index]) -> _Index:
    key = (size, tuple((group, positions.numpy().tobytes()) for group, positions in entries))
    return known.setdefault(key, _Index(size, tuple(entries)))
