"""What to remove, from what each layer would cost and lose: the grid of one layer, and all layers under one budget.

Nothing here knows a predictor: tables of costs and of harms go in, so that the choice can be proved on its own.
``K`` options of a layer, ordered by units removed, the first of which removes nothing; ``N`` points of a front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST = 20_000  # points of a front that are kept; more only where costs are nearly continuous


def cheapest_within(cost: Floats, mean: Floats, std: Floats, budget: float, kappa: float = 1.0) -> int:
    """The cheapest of a layer's options (or of any list of plans) that keeps ``mean + kappa * std`` within ``budget``.

    Of equal costs the one that loses less, then the earlier. Where none is feasible, the smallest removal: the first.

    >>> cheapest_within(np.array([9.0, 5.0, 1.0]), np.array([0, 0.1, 0.4]), np.array([0, 0.1, 0.1]), 0.25)
    1
    """
    allowed = np.flatnonzero(mean + kappa * std <= budget)
    if not len(allowed):
        return 0
    return int(allowed[np.lexsort((allowed, mean[allowed], cost[allowed]))[0]])


@dataclass(frozen=True, eq=False)
class Front:
    """Joint choices of which none is both cheaper and less harmful than another.

    Attributes:
        cost: ``[N]`` ascending.
        harm: ``[N]`` descending.
        picks: ``[N, L]`` option of each layer.
    """

    cost: Floats
    harm: Floats
    picks: Ints

    def cheapest(self, budget: float) -> Ints:
        """``[L]`` the cheapest choice whose harm is within ``budget``; the least harmful where there is none."""
        allowed = np.flatnonzero(self.harm <= budget)
        found: Ints = self.picks[allowed[0] if len(allowed) else -1]
        return found

    def least_harm(self, limit: float) -> Ints:
        """``[L]`` the least harmful choice whose cost is within ``limit``; the cheapest where there is none."""
        allowed = np.flatnonzero(self.cost <= limit)
        found: Ints = self.picks[allowed[-1] if len(allowed) else 0]
        return found


def front_of(costs: Sequence[Floats], harms: Sequence[Floats], *, most: int = MOST) -> Front:
    """The front of all joint choices, where costs and harms of layers add up, by dynamic programming over the layers.

    A partial choice that another beats in both can be in no best choice, so only the front is carried on. It is exact
    as long as a front has at most ``most`` points; of more, those are kept that harm least in each slice of cost.

    Args:
        costs: ``[K]`` of each layer.
        harms: ``[K]`` of each layer.
        most: points kept.
    """
    cost, harm, trace = np.zeros(1), np.zeros(1), []
    for own_cost, own_harm in zip(costs, harms, strict=True):
        options = len(own_cost)
        sums = np.add.outer(cost, own_cost).ravel(), np.add.outer(harm, own_harm).ravel()
        kept = _undominated(*sums)
        kept = kept if len(kept) <= most else kept[_thinned(sums[0][kept], most)]
        cost, harm = sums[0][kept], sums[1][kept]
        trace.append(np.divmod(kept, options))
    picks, at = np.zeros((len(cost), len(trace)), np.int64), np.arange(len(cost))
    for layer in reversed(range(len(trace))):
        before, option = trace[layer]
        picks[:, layer] = option[at]
        at = before[at]
    return Front(cost, harm, picks)


def _undominated(cost: Floats, harm: Floats) -> Ints:
    """Places of the points that no other beats, cheapest first; of equal points the first."""
    order = np.lexsort((harm, cost))
    lowest = np.minimum.accumulate(harm[order])
    better = np.concatenate([[True], harm[order][1:] < lowest[:-1]])
    found: Ints = order[better]
    return found


def _thinned(cost: Floats, most: int) -> Ints:
    """Places of ``most`` points at most, the last (least harmful) of each slice of equal width, and both ends."""
    slices = ((cost - cost[0]) / max(cost[-1] - cost[0], 1e-300) * (most - 2)).astype(np.int64)
    last = np.flatnonzero(np.append(slices[1:] != slices[:-1], True))
    return np.unique(np.append(0, last))
