"""The analytic cost of a plan: parameters, multiply-accumulates and bytes, known before anything is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autoprune.artifacts import named_tensors
from autoprune.costs import file_bytes, macs, params
from autoprune.costs.base import Cost
from autoprune.costs.sizes import Sizes
from autoprune.graph import LayerGraph


class CostModel:
    """Costs of one network's plans. Tables are made once; a cost takes microseconds."""

    def __init__(self, model: nn.Module, graph: LayerGraph) -> None:
        self._sizes = Sizes.of(graph, named_tensors(model))

    def cost(self, removed: Mapping[str, int] | None = None, *, zeros: int = 0) -> Cost:
        """Cost once ``removed[group]`` units of each group are gone and ``zeros`` of the weights left are masked."""
        counts = self._sizes.after(removed or {})
        return Cost(
            params=params.count(self._sizes, counts) - zeros,
            macs=macs.count(self._sizes, counts),
            bytes=file_bytes.count(self._sizes, counts),
        )

    def layers(self, removed: Mapping[str, int] | None = None) -> dict[str, tuple[int, int]]:
        """(params, macs) of each layer, in order; masks aside."""
        return self._sizes.by_layer(self._sizes.after(removed or {}))
