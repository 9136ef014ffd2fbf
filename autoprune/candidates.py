"""Pruned networks made from plans: slices of one folded network to evaluate, or networks of their own to train."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.applied import PrunedModel, slim
from autoprune.artifacts import network_digest
from autoprune.calibration import LayerStats, Need, StatsStore, collect
from autoprune.data import DataSplits, Split
from autoprune.deploy import deploy, deployed, foldable, folded_graph, lay_out
from autoprune.evaluation import DTYPES
from autoprune.failures import EmptyLayer
from autoprune.graph import LayerGraph
from autoprune.masking import removed_count
from autoprune.objective_settings import ObjectiveSettings
from autoprune.plan import Pattern, Plan
from autoprune.ranking import Ranker
from autoprune.ranking.store import graph_digest
from autoprune.reconstruction import get_reconstruction, repair_module
from autoprune.resolve import Resolved
from autoprune.seeding import derive
from autoprune.skeleton import Key, Known, Skeleton
from autoprune.surgery import put_parameter

_FOLD_TOLERANCE = 1e-3  # of the largest logit, in float32


class Candidates:
    """Makes the networks of plans for one dense network. Nothing it hands out shares a tensor that is written to.

    Attributes:
        model: the dense network, float32, in eval mode.
        graph: its layers and groups.
        norms: batch norms that are folded to evaluate; their folding was checked.
        ranker: orders in which units go.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: LayerGraph,
        data: DataSplits,
        settings: ObjectiveSettings,
        cache_dir: Path | None,
    ) -> None:
        self.model, self.graph, self.settings = model, graph, settings
        self.calibration = _prefix(data.calibration, settings.calibration_samples)
        self.norms = _proved(model, foldable(model, graph.norms), data)
        digest = None if cache_dir is None else network_digest(model)
        seen = None if cache_dir is None else f"{data.digest} {len(self.calibration)} {settings.seed}"
        self.ranker = Ranker(
            model,
            graph,
            stats=self.stats,
            combine=settings.combine,
            seed=derive(settings.seed, "methods"),
            cache_dir=cache_dir,
            digest=digest,
            stats_key=seen,
        )
        facts = {"network": digest, "graph": graph_digest(graph), "samples": seen}
        self._stored = None if cache_dir is None else StatsStore(cache_dir, facts)
        self._stats: dict[Need, dict[str, LayerStats]] = {}
        self._bases: dict[str, nn.Module] = {}
        self._skeletons: dict[str, Skeleton] = {}

    def stats(self, needs: frozenset[Need]) -> Mapping[str, LayerStats]:
        """Statistics of the calibration split; each need is collected once, all layers in one pass."""
        missing = frozenset(needs) - self._stats.keys()
        if missing and self._stored is not None:
            self._stats |= self._stored.get(missing, self._collected)
        elif missing:
            self._stats |= dict.fromkeys(missing, self._collected(missing))
        if len(needs) == 1 or len({id(self._stats[need]) for need in needs}) == 1:
            return self._stats[next(iter(needs))]
        return _merged([self._stats[need] for need in sorted(needs)])

    def _collected(self, needs: frozenset[Need]) -> dict[str, LayerStats]:
        seed = derive(self.settings.seed, "calibration")
        return collect(self.model, self.graph, self.calibration, needs, seed=seed)

    def kept(self, resolved: Resolved) -> dict[str, Tensor]:
        """Sorted units that stay of each group that loses some."""
        return {
            name: self.ranker.kept(name, resolved.units[name].method, count) for name, count in resolved.removed.items()
        }

    def masks(self, resolved: Resolved, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of single weights by parameter name, in the shape that the weight has once only ``kept`` is left."""
        masks = {}
        for layer, decision in resolved.weights.items():
            name = self.graph.layer(layer).weight
            assert name is not None
            mask = self.ranker.weight_mask(layer, decision.method, decision.sparsity)
            masks[name] = cut(mask, name, self.graph, kept)
        return masks

    def _living(self, resolved: Resolved, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        masks = self.masks(resolved, kept)
        for name, mask in masks.items():
            if not mask.any():
                raise EmptyLayer(f"layer {name.rpartition('.')[0]!r} is left without a weight; lower its sparsity")
        return masks

    def zeros(self, resolved: Resolved) -> int:
        """Weights that are left in the network's tensors and held at zero."""
        if not resolved.weights:
            return 0
        if not resolved.removed:
            sizes = {name: self.graph.layer(name).weight_shape for name in resolved.weights}
            return sum(removed_count(torch.Size(sizes[n]).numel(), d.sparsity) for n, d in resolved.weights.items())
        return sum(int((~mask).sum()) for mask in self.masks(resolved, self.kept(resolved)).values())

    def sliced(self, resolved: Resolved, precision: str) -> nn.Module:
        """The plan's network in its deployed form, cut from the folded dense one; valid until the next call.

        Raises:
            EmptyLayer: a layer keeps no weight.
        """
        base, kept = self._base(precision), self.kept(resolved)
        masks = self._living(resolved, kept)
        if not kept and not masks:
            return base
        skeleton = self._skeleton(precision)
        if skeleton.fits(kept):
            return skeleton.candidate(kept, masks)
        module = slim(base, self._folded, kept, share=True)
        _hold(module, masks)
        lay_out(module)
        return module

    def quick(self, resolved: Resolved) -> bool:
        """Whether the plan's network can be cut in a structure that is there already; see :meth:`Skeleton.fits`."""
        return not any(self.graph.groups[name].pattern is Pattern.INPUT for name in resolved.removed)

    def key(self, resolved: Resolved, precision: str) -> Key:
        """For each of a skeleton's cuts what its tensor depends on; :meth:`quick` plans only.

        Raises:
            EmptyLayer: a layer keeps no weight.
        """
        kept = self.kept(resolved)
        self._living(resolved, kept)
        marks = {name: index.numpy().tobytes() for name, index in kept.items()}
        masks = {str(self.graph.layer(n).weight): (d.method, d.sparsity) for n, d in resolved.weights.items()}
        cuts = self._skeleton(precision).cuts
        return tuple((*((n, marks[n]) for n in cut.groups if n in marks), masks.get(cut.name)) for cut in cuts)

    def tensors(self, resolved: Resolved, precision: str, key: Key, known: Known) -> list[Tensor]:
        """The plan's network as tensors for a :class:`Skeleton` of :meth:`whole`; see :meth:`Skeleton.tensors`."""
        kept = self.kept(resolved)
        return self._skeleton(precision).tensors(kept, self.masks(resolved, kept), keys=key, known=known)

    def whole(self, precision: str) -> tuple[nn.Module, LayerGraph]:
        """The dense network in its deployed form, and its graph."""
        return self._base(precision), self._folded

    def made(self, plan: Plan, resolved: Resolved) -> PrunedModel:
        """The plan's network in float32 with tensors of its own, repaired as the plan says; not retrained.

        Raises:
            EmptyLayer: a layer keeps no weight.
        """
        kept = self.kept(resolved)
        masks = self._living(resolved, kept)
        module = slim(self.model, self.graph, kept)
        how = get_reconstruction(plan.reconstruction)
        if plan.reconstruction != "none" and kept:
            repair_module(module, self.model, self.graph, kept, self.stats(how.needs), plan.reconstruction)
        if masks:
            _hold(module, masks)
        return PrunedModel(module.eval(), plan, self.graph, kept=kept, masks=masks)

    def deployed(self, module: nn.Module, precision: str, *, last: bool = False) -> nn.Module:
        """A network of :meth:`made` in its deployed form; in place where this is the ``last`` that is wanted of it."""
        return (deploy if last else deployed)(module, self.norms, dtype=DTYPES[precision])

    def _base(self, precision: str) -> nn.Module:
        if precision not in self._bases:
            self._bases[precision] = self.deployed(self.model, precision)
        return self._bases[precision]

    def _skeleton(self, precision: str) -> Skeleton:
        if precision not in self._skeletons:
            self._skeletons[precision] = Skeleton(self._base(precision), self._folded)
        return self._skeletons[precision]

    @cached_property
    def _folded(self) -> LayerGraph:
        return folded_graph(self.graph, self.norms)


def cut(tensor: Tensor, name: str, graph: LayerGraph, kept: Mapping[str, Tensor]) -> Tensor:
    """``tensor``, shaped as the dense parameter ``name``, without what stands for units that are not ``kept``."""
    stays = [torch.ones(size, dtype=torch.bool) for size in tensor.shape]
    for group_name, index in kept.items():
        group = graph.groups[group_name]
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[index] = False
        for slot in group.slots:
            if slot.tensor == name:
                stays[slot.dim][slot.positions[gone].flatten()] = False
    for dim, stay in enumerate(stays):
        if not stay.all():
            tensor = tensor.index_select(dim, stay.nonzero().flatten())
    return tensor


@torch.no_grad()
def _hold(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put masked copies of the parameters into ``module``; the tensors it had are not written to."""
    for name, mask in masks.items():
        old = module.get_parameter(name)
        put_parameter(module, name, nn.Parameter(old * mask, requires_grad=old.requires_grad))


def _proved(model: nn.Module, pairs: tuple[tuple[str, str], ...], data: DataSplits) -> tuple[tuple[str, str], ...]:
    """``pairs`` if the network with all of them folded gives its own outputs on a few samples, else none."""
    if not pairs:
        return ()
    x = data.calibration.inputs(slice(0, 16)).cpu()
    with torch.no_grad():
        plain, folded = model(x), deployed(model, pairs)(x)
    if not isinstance(plain, Tensor) or not isinstance(folded, Tensor):
        return ()
    close = torch.allclose(plain, folded, rtol=0, atol=_FOLD_TOLERANCE * (1 + float(plain.abs().max())))
    return pairs if close else ()


def _prefix(split: Split, samples: int | None) -> Split:
    return split if samples is None or samples >= len(split) else split.subset(slice(0, samples))


def _merged(parts: list[dict[str, LayerStats]]) -> dict[str, LayerStats]:
    """Statistics that were collected in several passes, as one."""
    merged: dict[str, LayerStats] = {}
    for part in parts:
        for name, new in part.items():
            old = merged.get(name)
            if old is not None:
                first = old if old.covariance is not None else new
                new = LayerStats(first.samples, first.mean, first.covariance, {**old.taylor, **new.taylor})
            merged[name] = new
    return merged
