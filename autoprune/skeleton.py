"""One network structure in which the tensors of one candidate after another are put: the quick form of ``slim``.

Copying the structure of a network takes longer than cutting its tensors, and with racing as long as looking at the
first images. A search holds one structure (one for each thread) and swaps what the plan cuts or masks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph import LayerGraph
from autoprune.plan import Pattern
from autoprune.surgery import fit, with_tensors

Key = tuple[Hashable, ...]  # for each cut what its tensor depends on
Known = dict[tuple[int, Hashable], Tensor]  # tensors by number of the cut and its part of the key


@dataclass(frozen=True, eq=False)
class Cut:
    """A tensor that a plan can change.

    Attributes:
        name: its qualified name.
        tensor: as it is in the whole network.
        places: (table of a module, key) where it hangs in the structure.
        dims: (dimension, its index maps) for each dimension along which units lie.
        groups: the groups that stand in it, sorted.
    """

    name: str
    tensor: Tensor
    places: tuple[tuple[dict[str, Any], str], ...]
    dims: tuple[tuple[int, _Index], ...]
    groups: tuple[str, ...]


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

    Attributes:
        module: the structure, with the tensors of the last candidate.
        cuts: the tensors that candidates change, in an order of their own.
    """

    def __init__(self, model: nn.Module, graph: LayerGraph) -> None:
        self._graph = graph
        self.module = with_tensors(model, {}, share=True)
        self.cuts = _cuts(self.module, graph)
        owners = {id(table): m for m in self.module.modules() for table in (m._parameters, m._buffers)}
        touched = {id(owners[id(t)]): owners[id(t)] for cut in self.cuts for t, _ in cut.places}
        self._sizes = [(m, {k: v for k, v in vars(m).items() if isinstance(v, int | tuple)}) for m in touched.values()]

    def fits(self, kept: Mapping[str, Tensor]) -> bool:
        """Whether these groups can be cut here: a layer that must select among the network's inputs cannot."""
        return not any(self._graph.groups[name].pattern is Pattern.INPUT for name in kept)

    def tensors(
        self,
        kept: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        *,
        keys: Key = (),
        known: Known | None = None,
    ) -> list[Tensor]:
        """The tensors of the network with only the units ``kept``, one for each of :attr:`cuts`.

        Args:
            kept: ``[k]`` sorted indices for each group that loses units; see :meth:`fits`.
            masks: masks of single weights by parameter name, in the shape that the weight has once it is cut.
            keys: for each of :attr:`cuts` what its tensor depends on; with ``known`` equal ones are made once.
            known: tensors made so far by (place in :attr:`cuts`, key); new ones are added.
        """
        masks, made = masks or {}, []
        gone = {name: _gone(self._graph.groups[name].size, index) for name, index in kept.items()}
        found: dict[int, Tensor | None] = {}
        for place, cut in enumerate(self.cuts):
            value = known.get((place, keys[place])) if known is not None else None
            if value is None:
                changed = cut.name in masks or any(group in gone for group in cut.groups)
                value = _cut(cut, gone, masks.get(cut.name), found) if changed else cut.tensor
            if known is not None:
                known[place, keys[place]] = value
            made.append(value)
        return made

    def put(self, tensors: Sequence[Tensor]) -> nn.Module:
        """The structure with ``tensors`` in it, as :meth:`tensors` of an equal skeleton gave them."""
        for cut, value in zip(self.cuts, tensors, strict=True):
            for table, key in cut.places:
                table[key] = value
        for module, sizes in self._sizes:
            vars(module).update(sizes)
            fit(module)
        return self.module

    def candidate(self, kept: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The network with only the units ``kept``, its weights masked; it is valid until the next call."""
        return self.put(self.tensors(kept, masks))


def _gone(size: int, kept: Tensor) -> Tensor:
    gone = torch.ones(size, dtype=torch.bool)
    gone[kept] = False
    return gone


def _cut(cut: Cut, gone: Mapping[str, Tensor], mask: Tensor | None, found: dict[int, Tensor | None]) -> Tensor:
    value = cut.tensor.detach()
    for dim, index in cut.dims:
        if id(index) not in found:
            found[id(index)] = index.stays(gone)
        stays = found[id(index)]
        if stays is not None:
            value = value.index_select(dim, stays)
    if mask is not None:
        value = value * mask
    if value.dim() == 4:
        value = value.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(value, requires_grad=False) if isinstance(cut.tensor, nn.Parameter) else value


def _cuts(module: nn.Module, graph: LayerGraph) -> tuple[Cut, ...]:
    """Every tensor that a plan can change; equal index maps are one object, so that each is computed once."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = defaultdict(list)
    tensors: dict[str, Tensor] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in (part._parameters, part._buffers):
            for leaf, tensor in table.items():
                if tensor is not None:
                    tensors[f"{prefix}.{leaf}" if prefix else leaf] = tensor
                    if not any(known is table and key == leaf for known, key in places[id(tensor)]):
                        places[id(tensor)].append((table, leaf))
    indices: dict[object, _Index] = {}
    cuts = []
    for name, dims in _standing(graph).items():
        if name in tensors:
            maps = tuple((dim, _index(tensors[name].shape[dim], entries, indices)) for dim, entries in dims.items())
            groups = sorted({group for entries in dims.values() for group, _ in entries})
            cuts.append(Cut(name, tensors[name], tuple(places[id(tensors[name])]), maps, tuple(groups)))
    return tuple(cuts)


def _standing(graph: LayerGraph) -> dict[str, dict[int, list[tuple[str, Tensor]]]]:
    """tensor -> dimension -> (group, positions); weights that can only be masked have no dimension."""
    standing: dict[str, dict[int, list[tuple[str, Tensor]]]] = defaultdict(lambda: defaultdict(list))
    for group in graph.prunable:
        for slot in group.slots:
            standing[slot.tensor][slot.dim].append((group.name, slot.positions))
    for layer in graph.weight_layers:
        standing.setdefault(str(graph.layers[layer].weight), defaultdict(list))
    return standing


def _index(size: int, entries: list[tuple[str, Tensor]], known: dict[object, _Index]) -> _Index:
    key = (size, tuple((group, positions.numpy().tobytes()) for group, positions in entries))
    return known.setdefault(key, _Index(size, tuple(entries)))
