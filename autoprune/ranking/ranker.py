"""The order in which each group's units go, computed once for a method and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from autoprune.errors import unknown_name
from autoprune.graph import LayerGraph
from autoprune.masking import mask_from_order, order_of
from autoprune.methods import get_method
from autoprune.methods.base import COMBINE, Method
from autoprune.plan import Pattern
from autoprune.ranking.members import output_dim
from autoprune.ranking.pooling import shares, smallest_prefix
from autoprune.ranking.scoring import Scorer, StatsSource


class Ranker:
    """Scores and orders of the groups and layers of one network.

    The order in which a method removes units does not depend on how many go, so it is computed once for each group and
    method; a sparsity is a prefix of it. With ``cache_dir`` the scores are also stored there, keyed by the checkpoint,
    the graph, the method and every setting that matters, and shared with other processes.

    Args:
        model: the dense network; not changed, and not to be changed while the ranker lives.
        graph: its graph.
        stats: calibration statistics, or a function from the needs to them, called only when they are needed.
        combine: how the scores of a group's layers become one: a name in :data:`autoprune.methods.COMBINE`.
        seed: of the methods that draw.
        cache_dir: folder for stored scores.
        digest: digest of the checkpoint, computed from ``model`` by default.
        stats_key: text that determines ``stats`` (data, samples, seed), for the key of stored scores; by default the
            digest of their contents, for which they have to be collected.

    Raises:
        UnknownNameError: an unknown ``combine``.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: LayerGraph,
        *,
        stats: StatsSource = None,
        combine: str = "mean",
        seed: int = 0,
        cache_dir: str | Path | None = None,
        digest: str | None = None,
        stats_key: str | None = None,
    ) -> None:
        if combine not in COMBINE:
            raise unknown_name("combination", combine, COMBINE)
        self.graph = graph
        self._scorer = Scorer(model, graph, stats, combine, seed, cache_dir, digest, stats_key)
        self._scores: dict[tuple[str, str], Tensor] = {}  # by method and group; scores of weights are too many to keep
        self._orders: dict[tuple[str, str, bool], Tensor] = {}  # by method, group or layer, and whether of weights

    def scores(self, group: str, method: str | Method) -> Tensor:
        """Scores ``[U]`` (float64) of the units of ``group`` (or of the group that makes layer ``group``).

        Raises:
            UnknownNameError: no such group, layer or method.
            MethodError: the method cannot rank this pattern, its statistics are missing, or a score is not finite.
        """
        found, method = self.graph.group(group), _resolved(method)
        key = (method.name, found.name)
        if key not in self._scores:
            for name, scores in self._scorer.groups(found, method).items():
                self._scores.setdefault((method.name, name), scores)
        return self._scores[key]

    def order(self, group: str, method: str | Method) -> Tensor:
        """Units of ``group`` ``[U]`` (int64), first removed first; of equal scores the lower index first."""
        method = _resolved(method)
        key = (method.name, self.graph.group(group).name, False)
        if key not in self._orders:
            self._orders[key] = order_of(self.scores(group, method))
        return self._orders[key]

    def kept(self, group: str, method: str | Method, removed: int) -> Tensor:
        """Sorted units ``[U - removed]`` (int64) that stay when the first ``removed`` of the order go."""
        return self.order(group, method)[removed:].sort().values

    def weight_scores(self, layer: str, method: str | Method) -> Tensor:
        """Scores (float64) of the weights of ``layer``, in the shape in which the weight is stored.

        Raises:
            UnknownNameError: no such layer or method.
            MethodError: a layer without weights to mask, a method that cannot rank them, or a score is not finite.
        """
        return self._scorer.weight(layer, _resolved(method))

    def weight_order(self, layer: str, method: str | Method) -> Tensor:
        """Flat indices (int64) into the stored weight of ``layer``, first removed first."""
        method = _resolved(method)
        key = (method.name, layer, True)
        if key not in self._orders:
            self._orders[key] = order_of(self.weight_scores(layer, method))
        return self._orders[key]

    def weight_mask(self, layer: str, method: str | Method, sparsity: float) -> Tensor:
        """Mask (bool, ``True`` = kept) of the stored weight of ``layer``."""
        return mask_from_order(self.weight_order(layer, method), sparsity, self.graph.layer(layer).weight_shape)

    def global_removed(
        self,
        names: Sequence[str],
        method: str | Method,
        fits: Callable[[dict[str, int]], bool],
        *,
        pattern: Pattern | str | None = None,
        normalise: bool = True,
        floor: int | None = None,
    ) -> dict[str, int]:
        """Units to remove of each group by one ranking over all of them: the shortest prefix that ``fits``.

        Args:
            names: groups, or layers with ``pattern="weight"``.
            method: by which they are ranked.
            fits: whether a network that lost so many units of each name meets the budget; must stay true as more go.
            pattern: ``"weight"`` ranks single weights.
            normalise: divide the scores by their mean in each group first, because scores of layers of different size
                and scale do not compare; ``False`` compares them as they are.
            floor: units of each group that always stay; by default 1, of weights one for each output of the layer.

        Raises:
            UnknownNameError: no such group, layer or method.
            BudgetError: the budget is not met with all removed that may be.
        """
        single = pattern is not None and Pattern(pattern) is Pattern.WEIGHT
        scores = {name: (self.weight_scores if single else self.scores)(name, method) for name in names}
        floors = {name: self._floor(name, single, floor) for name in names}
        return smallest_prefix({n: shares(s) if normalise else s for n, s in scores.items()}, fits, floors)

    def _floor(self, name: str, single: bool, floor: int | None) -> int:
        if not single:
            return max(1, floor or 1)
        outputs = self.graph.layer(name).weight_shape[output_dim(self.graph, name)]
        return outputs if floor is None else max(0, floor)


def _resolved(method: str | Method) -> Method:
    return get_method(method) if isinstance(method, str) else method
