"""What an agent sees: AMC's eleven features of the group that is to be decided.

Source: Y. He, J. Lin, Z. Liu, H. Wang, L.-J. Li, S. Han, "AMC: AutoML for Model Compression and Acceleration on Mobile
Devices", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from autoprune.graph import Group, LayerGraph, LayerInfo
from autoprune.space import SearchSpace

Floats = NDArray[np.float32]

#: (name, meaning, unit before scaling). The first eight never change in an episode; they are scaled to [0, 1] by the
#: smallest and the largest value over the groups of the space (0 where all groups agree). The last three are shares.
FEATURES: tuple[tuple[str, str, str], ...] = (
    ("t", "place of the group in the order of the network", "index"),
    ("n", "units of the group before pruning", "units"),
    ("c", "inputs that one unit reads, summed over the layers that make the units", "channels"),
    ("h", "height of the input of these layers, the largest (1 for a linear layer)", "pixels"),
    ("w", "width of the input of these layers, the largest (rows of the input for a linear layer)", "pixels"),
    ("stride", "stride of these layers, the largest (1 for a linear layer)", "pixels"),
    ("k", "side of the kernel of these layers, the largest (1 for a linear layer)", "pixels"),
    ("macs", "multiply-accumulates of these layers before pruning, summed", "multiply-accumulates for one sample"),
    ("reduced", "multiply-accumulates that the decisions so far have saved", "share of the dense network"),
    (
        "rest",
        "multiply-accumulates, before pruning, of the layers of groups that come later",
        "share of the dense network",
    ),
    ("previous", "sparsity that the previous decision achieved (0 at the first group)", "share of its units"),
)
REDUCED, REST, PREVIOUS = 8, 9, 10


def static_features(graph: LayerGraph, space: SearchSpace) -> Floats:
    """Features ``[G, 11]`` in [0, 1] of every group of ``space``, with ``reduced`` and ``previous`` at 0."""
    groups = [graph.groups[g.name] for g in space.groups]
    makers = [_makers(graph, group) for group in groups]
    raw = np.array([_raw(t, g, graph, made) for t, (g, made) in enumerate(zip(groups, makers, strict=True))])
    low, high = raw.min(0), raw.max(0)
    scaled = (raw - low) / np.where(high > low, high - low, 1.0)
    features = np.zeros((len(groups), len(FEATURES)), np.float32)
    features[:, :REDUCED] = scaled
    features[:, REST] = _rest(graph, makers)
    return features


def _makers(graph: LayerGraph, group: Group) -> dict[str, LayerInfo]:
    """Layers that make the units; for features of the network's input, those that read them."""
    names = group.layers or tuple(dict.fromkeys(slot.layer for slot in group.consumers))
    return {name: graph.layers[name] for name in names}


def _raw(place: int, group: Group, graph: LayerGraph, makers: dict[str, LayerInfo]) -> list[float]:
    infos = makers.values()
    spatial = [_plane(info) for info in infos]
    return [
        place,
        group.size,
        _inputs(group, graph),
        _most(h for h, _ in spatial),
        _most(w for _, w in spatial),
        _most(s for info in infos for s in info.stride),
        _most(k for info in infos for k in info.kernel),
        sum(info.macs for info in infos),
    ]


def _plane(info: LayerInfo) -> tuple[int, int]:
    """Height and width of a layer's input; a sequence has height 1, a volume's depth counts as height."""
    shape = info.input_shape
    axes = shape[1:] if info.kind in ("conv", "conv_transpose") else shape[:-1]
    return (math.prod(axes[:-1]), axes[-1]) if axes else (1, 1)


def _inputs(group: Group, graph: LayerGraph) -> float:
    """Inputs that one unit reads (for features of the network's input: outputs that read it)."""
    total = 0.0
    for slot in group.producers or group.consumers:
        shape = graph.shapes[slot.tensor]
        total += math.prod(shape) / shape[slot.dim] / math.prod(graph.layers[slot.layer].kernel)
    return total


def _most(values: Iterable[int]) -> int:
    return max(values, default=1)


def _rest(graph: LayerGraph, makers: list[dict[str, LayerInfo]]) -> list[float]:
    """Share of the dense multiply-accumulates in the layers of later groups, each layer once."""
    shares, seen, later = [0.0] * len(makers), set[str](), 0
    for place in reversed(range(len(makers))):
        shares[place] = later / max(graph.macs, 1)
        later += sum(info.macs for name, info in makers[place].items() if name not in seen)
        seen |= makers[place].keys()
    return shares
