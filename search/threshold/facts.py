"""What features need to know of a network, as data: it is stored with every study, so that each trial can teach.

A study holds the plans and what became of them; this adds the layers' shapes and costs, who feeds whom, and the sorted
norms, a few bytes a filter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import StudyError
from autoprune.thresholds import Floats, sorted_shares

if TYPE_CHECKING:
    from autoprune.graph import Group, LayerGraph, LayerInfo
    from autoprune.search.base import SearchObjective
    from autoprune.sensitivity import Sensitivity
    from autoprune.space import SearchSpace

LAYERS = "layers"  # note of a study
VERSION = 1
LOWEST = 0.05  # share of the dense accuracy; what is below is as bad as can be, so that harm stays finite


def harm_of(accuracy: float | None, dense: float) -> float:
    """``-log(accuracy / dense)``: what a plan costs, so that layers add up. ``None`` (a failure) is the worst.

    For small drops it is the drop over the dense accuracy; what two layers do to a network multiplies rather than adds.
    """
    share = LOWEST if accuracy is None else max(accuracy / max(dense, 1e-9), LOWEST)
    return -math.log(share)


def drop_of(harm: float, dense: float) -> float:
    """Accuracy lost at ``harm``."""
    return dense * (1.0 - math.exp(-harm))


@dataclass(frozen=True, eq=False)
class GroupFacts:
    """One group.

    Attributes:
        name, size: which, and its units.
        layer: values of the features that never change (:data:`autoprune.search.threshold.features.LAYER`).
        before, after: groups that the layers of this one read, and groups whose layers read it.
        norms: by method, the scores of its units ascending, in units of their mean ``[U]``.
        alone: (sparsity, harm) where it was pruned alone without retraining, ascending; empty where it was not.
    """

    name: str
    size: int
    layer: Mapping[str, float]
    before: tuple[str, ...]
    after: tuple[str, ...]
    norms: Mapping[str, Floats]
    alone: tuple[tuple[float, float], ...] = ()

    def harm_alone(self, sparsity: float) -> float | None:
        """Harm without retraining, read off straight lines; ``None`` where nothing is known."""
        if not self.alone:
            return None
        x, y = zip((0.0, 0.0), *self.alone, strict=True)
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
        return float(np.interp(sparsity, x, y) + max(sparsity - x[-1], 0.0) * max(slope, 0.0))


@dataclass(frozen=True, eq=False)
class NetworkFacts:
    """One network in one study.

    Attributes:
        groups: by name, in the order of the network.
        accuracy: of the dense network on the validation split.
        images: validation samples.
        steps, batch: of retraining a trial, and samples in a step; 0 where nothing is retrained.
    """

    groups: Mapping[str, GroupFacts]
    accuracy: float
    images: int
    steps: int = 0
    batch: int = 0

    @cached_property
    def places(self) -> dict[str, int]:
        """Position of each group."""
        return {name: place for place, name in enumerate(self.groups)}

    def knowing(self, found: Sensitivity) -> NetworkFacts:
        """The same with what each group does alone."""
        groups = dict(self.groups)
        for curve in found.curves:
            if curve.group in groups:
                points = zip(curve.sparsity, curve.accuracy, strict=True)
                alone = tuple((s, harm_of(a, found.accuracy or 1.0)) for s, a in points)
                groups[curve.group] = replace(groups[curve.group], alone=alone)
        return replace(self, groups=groups)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, versioned; what groups do alone is stored apart."""
        return {
            "version": VERSION,
            "accuracy": self.accuracy,
            "images": self.images,
            "steps": self.steps,
            "batch": self.batch,
            "groups": {
                g.name: {
                    "size": g.size,
                    "layer": {name: float(f"{value:.6g}") for name, value in g.layer.items()},
                    "before": list(g.before),
                    "after": list(g.after),
                    "norms": {m: [float(f"{v:.4g}") for v in norms] for m, norms in g.norms.items()},
                }
                for g in self.groups.values()
            },
        }

    @classmethod
    def from_dict(cls, data: Any) -> NetworkFacts:
        """Read what :meth:`to_dict` wrote.

        Raises:
            StudyError: another version, a missing field, or a number that is not finite.
        """
        try:
            if data["version"] != VERSION:
                raise StudyError(f"layers are described in version {data['version']!r}, this release reads {VERSION}")
            groups = {name: _group(name, g) for name, g in data["groups"].items()}
            values = [data["accuracy"], *(v for g in groups.values() for v in g.layer.values())]
            if not all(math.isfinite(v) for v in values):
                raise StudyError("layers are described with numbers that are not finite")
            return cls(groups, float(data["accuracy"]), *(int(data[name]) for name in ("images", "steps", "batch")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StudyError(f"the description of the layers cannot be read: {error!r}") from None


def _group(name: str, data: Mapping[str, Any]) -> GroupFacts:
    norms = {m: np.array(values, dtype=np.float64) for m, values in data["norms"].items()}
    for method, values in norms.items():
        if values.shape != (data["size"],) or not np.isfinite(values).all():
            raise ValueError(f"norms of {name!r} by {method!r} must be {data['size']} finite numbers")
    layer = {key: float(value) for key, value in data["layer"].items()}
    return GroupFacts(name, int(data["size"]), layer, tuple(data["before"]), tuple(data["after"]), norms)


def facts_of(objective: SearchObjective, space: SearchSpace) -> NetworkFacts:
    """What can be said of the groups of ``space`` before any trial.

    Raises:
        MethodError: a method of the space cannot score a group.
    """
    graph = objective.graph
    names = [g.name for g in space.groups]
    neighbours = neighbours_of(graph, names)
    groups = {
        name: GroupFacts(
            name,
            graph.groups[name].size,
            layer_facts(graph, graph.groups[name]),
            *neighbours[name],
            {m: _rounded(sorted_shares(objective.ranker.scores(name, m))) for m in space.methods},
        )
        for name in names
    }
    finetune = getattr(getattr(objective, "settings", None), "finetune", None)
    steps = int(getattr(objective, "steps", 0) if finetune is None else finetune.steps)
    batch = int(finetune.batch_size) if finetune is not None and steps else 0
    dense = objective.dense
    return NetworkFacts(groups, float(dense.accuracy or 0.0), dense.images, steps, batch)


def _rounded(values: Floats) -> Floats:
    """As they are stored, so that live and stored features are the same."""
    return np.array([float(f"{v:.4g}") for v in values])


def layer_facts(graph: LayerGraph, group: Group) -> dict[str, float]:
    """Features that never change; units in :data:`autoprune.search.threshold.features.LAYER`."""
    makers = [graph.layers[name] for name in group.layers] or [graph.layers[s.layer] for s in group.consumers]
    place = list(graph.layers).index(makers[0].name)
    params, macs = sum(m.params for m in makers), sum(m.macs for m in makers)
    return {
        "convolution": float(makers[0].kind.startswith("conv")),
        "layers": float(len(makers)),
        "units": math.log2(group.size),
        "inputs": math.log2(max(_inputs(makers), 1)),
        "kernel": float(max((k for m in makers for k in m.kernel), default=1)),
        "stride": float(max((s for m in makers for s in m.stride), default=1)),
        "output": math.log2(max(_side(makers[0]), 1.0)),
        "params": math.log10(max(params, 1)),
        "macs": math.log10(max(macs, 1)),
        "params_share": params / max(graph.params, 1),
        "macs_share": macs / max(graph.macs, 1),
        "depth": (place + 1) / len(graph.layers),
    }


def _inputs(makers: Sequence[LayerInfo]) -> float:
    """Input channels that one unit reads, over all layers that make it."""
    return sum(m.weight_shape[1] if len(m.weight_shape) > 1 else 1 for m in makers)


def _side(layer: LayerInfo) -> float:
    """Side of a square with as many positions as the output has."""
    shape = layer.output_shape
    axes = shape[1:] if layer.kind.startswith("conv") else shape[:-1]
    return math.sqrt(math.prod(axes))


def neighbours_of(graph: LayerGraph, names: Sequence[str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each group of ``names``: those among them that its layers read, and those whose layers read it."""
    makes: dict[str, set[str]] = {}
    for name in names:
        for layer in graph.groups[name].layers:
            makes.setdefault(layer, set()).add(name)
    before: dict[str, list[str]] = {name: [] for name in names}
    after: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        readers = {maker for slot in graph.groups[name].consumers for maker in makes.get(slot.layer, ())}
        for reader in sorted(readers - {name}):
            after[name].append(reader)
            before[reader].append(name)
    return {name: (tuple(before[name]), tuple(after[name])) for name in names}
