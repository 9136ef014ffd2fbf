"""Plans that follow from one ranking over the whole network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.errors import BudgetError, PlanError
from autoprune.methods.base import Method
from autoprune.plan import LayerDecision, Pattern, Plan
from autoprune.ranking.ranker import Ranker


def global_weights(
    ranker: Ranker,
    sparsity: float,
    *,
    method: str | Method = "magnitude",
    layers: Sequence[str] | None = None,
    normalise: bool = False,
    floor: int | None = None,
) -> Plan:
    """The plan that masks the lowest of all single weights, whatever layer they stand in.

    ``floor(sparsity * n + 0.5)`` of the ``n`` weights go. Global magnitude pruning as in H. Baktash, E. Natale, L.
    Viennot, "A Comparative Study of Neural Network Compression", 2019, with a floor so that no layer is emptied.

    Args:
        ranker: of the network.
        sparsity: fraction of all weights, in [0, 1).
        method: ranks single weights.
        layers: layers that take part; all with weights by default.
        normalise: compare scores as shares of their layer's mean instead of as they are.
        floor: weights of each layer that always stay; by default one for each output, at least 1.

    Raises:
        PlanError: a sparsity outside [0, 1), or one that the floors do not allow.
    """
    if not 0 <= sparsity < 1:
        raise PlanError(f"sparsity must be in [0, 1), but got {sparsity!r}")
    names = list(ranker.graph.weight_layers if layers is None else layers)
    sizes = {name: math.prod(ranker.graph.layer(name).weight_shape) for name in names}
    total = sum(sizes.values())
    wanted = math.floor(sparsity * total + 0.5)
    least = None if floor is None else max(1, floor)
    try:
        removed = ranker.global_removed(
            names,
            method,
            lambda counts: sum(counts.values()) >= wanted,
            pattern=Pattern.WEIGHT,
            normalise=normalise,
            floor=least,
        )
    except BudgetError:
        share = "one for each output" if least is None else least
        raise PlanError(
            f"sparsity {sparsity:g} over {len(names)} layers would remove {wanted} of {total} weights and leave one "
            f"with fewer than {share}; lower it"
        ) from None
    label = method if isinstance(method, str) else method.name
    return Plan(tuple(LayerDecision(n, label, Pattern.WEIGHT, k / sizes[n]) for n, k in removed.items() if k))
