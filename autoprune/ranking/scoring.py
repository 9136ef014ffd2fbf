"""Scores of one network's groups and layers, read from disk where they are, else computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.calibration.gradients import scored_slots
from autoprune.calibration.stats import LayerStats, Need, stats_digest
from autoprune.errors import MethodError
from autoprune.graph import Group, LayerGraph
from autoprune.methods.base import Member, Method
from autoprune.plan import Pattern
from autoprune.ranking.members import as_stored, group_members, weight_member
from autoprune.ranking.store import ScoreStore, graph_digest
from autoprune.seeding import generator

Stats = Mapping[str, LayerStats]
StatsSource = Stats | Callable[[frozenset[Need]], Stats] | None


class Scorer:
    """Computes scores, and stores them where there is a folder. The arguments are those of :class:`Ranker`."""

    def __init__(
        self,
        model: nn.Module,
        graph: LayerGraph,
        stats: StatsSource,
        combine: str,
        seed: int,
        cache_dir: str | Path | None,
        digest: str | None,
        stats_key: str | None,
    ) -> None:
        self.graph, self.combine, self.seed = graph, combine, seed
        self._model = model
        self._source = stats
        self._collected: dict[frozenset[Need], Stats] = {}
        self._store = None if cache_dir is None else ScoreStore(cache_dir)
        self._digest, self._stats_key = digest, stats_key

    def groups(self, wanted: Group, method: Method) -> dict[str, Tensor]:
        """Scores ``[U]`` of ``wanted`` and, where they are stored, of all other groups that ``method`` can rank."""
        if wanted.pattern not in method.patterns:
            raise _wrong_pattern(method, wanted.pattern, f"group {wanted.name!r}")
        if self._store is None:
            return {wanted.name: self._score(wanted, method)}
        path = self._store.path(method.name, self._facts(method, "groups"))
        found = self._store.read(path)
        if found.get(wanted.name, torch.empty(0)).shape != (wanted.size,):
            found = {wanted.name: self._score(wanted, method)}
            others = [g for g in self.graph.prunable if g is not wanted and self._can(g, method)]
            found |= {group.name: self._score(group, method) for group in others}
            self._store.write(path, found)
        return found

    def weight(self, layer: str, method: Method) -> Tensor:
        """Scores of every entry of the weight of ``layer``, in the shape in which it is stored."""
        if Pattern.WEIGHT not in method.patterns:
            raise _wrong_pattern(method, Pattern.WEIGHT, f"layer {layer!r}")
        shape = tuple(self.graph.layer(layer).weight_shape)
        if self._store is None or not method.needs:
            return self._score_weight(layer, method)  # weights alone: computing is as quick as reading
        path = self._store.path(f"{method.name}-weight", self._facts(method, f"weight of {layer}"))
        found = self._store.read(path).get("scores")
        if found is None or found.shape != shape:
            found = self._score_weight(layer, method)
            self._store.write(path, {"scores": found})
        return found

    def _score(self, group: Group, method: Method) -> Tensor:
        members = group_members(group, self._tensors, self._stats(method.needs))
        _check_needs(method, members)
        scores = method.score(members, group.pattern, self._draws(method, group.name), combine=self.combine)
        return _checked(scores, (group.size,), f"method {method.name!r} for group {group.name!r}")

    def _score_weight(self, layer: str, method: Method) -> Tensor:
        member = weight_member(self.graph, layer, self._tensors, self._stats(method.needs))
        _check_needs(method, [member])
        scores = method.score([member], Pattern.WEIGHT, self._draws(method, f"weight of {layer}"), combine=self.combine)
        scores = _checked(scores, tuple(member.weight.shape), f"method {method.name!r} for the weights of {layer!r}")
        return as_stored(scores, self._tensors[member.tensor].shape, member.dim)

    def _can(self, group: Group, method: Method) -> bool:
        stats = self._stats(method.needs)
        slots = scored_slots(group)
        seen = all(s.layer in stats and stats[s.layer].has(need) for s in slots for need in method.needs)
        return bool(slots) and group.pattern in method.patterns and seen

    def _draws(self, method: Method, name: str) -> torch.Generator:
        return generator(self.seed, "score", method.name, name)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = dict(self._model.named_parameters(remove_duplicate=False))
        return tensors | dict(self._model.named_buffers(remove_duplicate=False))

    def _stats(self, needs: frozenset[Need]) -> Stats:
        if not needs or self._source is None:
            return {}
        if isinstance(self._source, Mapping):
            return self._source
        if needs not in self._collected:
            self._collected[needs] = self._source(needs)
        return self._collected[needs]

    def _facts(self, method: Method, what: str) -> dict[str, object]:
        """Everything that determines the scores."""
        facts = {"what": what, "method": method.name, **self._network}
        if method.needs:
            facts["stats"] = self._stats_key if self._stats_key is not None else self._digest_of(method.needs)
        return facts

    def _digest_of(self, needs: frozenset[Need]) -> str:
        stats = self._stats(needs)
        if Need.MOMENTS not in needs:
            stats = {name: LayerStats(taylor=one.taylor) for name, one in stats.items()}
        return stats_digest(stats)

    @cached_property
    def _network(self) -> dict[str, object]:
        if self._digest is None:
            from autoprune.artifacts import network_digest

            self._digest = network_digest(self._model)
        return {
            "network": self._digest,
            "graph": graph_digest(self.graph),
            "combine": self.combine,
            "seed": self.seed,
        }


def _wrong_pattern(method: Method, pattern: Pattern, where: str) -> MethodError:
    known = ", ".join(sorted(p.value for p in method.patterns))
    return MethodError(f"method {method.name!r} cannot rank pattern {pattern.value!r} of {where}; it ranks: {known}")


def _check_needs(method: Method, members: Sequence[Member]) -> None:
    for need in sorted(method.needs):
        for member in members:
            if member.stats is None or not member.stats.has(need):
                raise MethodError(
                    f"method {method.name!r} needs the {need.value} of {member.layer!r}, "
                    f"which calibration did not collect; pass needs={{Need.{need.name}}} to collect it"
                )


def _checked(scores: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    if tuple(scores.shape) != shape:
        raise MethodError(f"{what} must score {list(shape)}, but gave {list(scores.shape)}")
    bad = ~torch.isfinite(scores)
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise MethodError(f"{what} gave the score {scores[tuple(place)].item()} at {place}; weights must be finite")
    return scores.to(torch.float64)
