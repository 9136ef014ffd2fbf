"""One ranking over several groups, cut where a budget is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from autoprune.errors import BudgetError


def shares(scores: Tensor) -> Tensor:
    """Scores divided by the mean of their absolute values, so that groups of different scale compare."""
    mean = scores.abs().mean()
    return scores / mean if mean > 0 else scores


def smallest_prefix(
    scores: Mapping[str, Tensor], fits: Callable[[dict[str, int]], bool], floors: Mapping[str, int]
) -> dict[str, int]:
    """Units to remove of each group, lowest score of all first, as few as fit.

    Of equal scores the one of the earlier group goes first, within a group the lower index, so that what is removed of
    a group is always a prefix of its own order.

    Args:
        scores: ``[U]`` of each group, on one scale.
        fits: whether a network that lost so many units of each group meets the budget; must stay true as more go. It is
            called at most ``2 + log2(units)`` times.
        floors: units of each group that always stay.

    Raises:
        BudgetError: the budget is not met with everything removed that may be.
    """
    names = list(scores)
    free = {name: max(0, scores[name].numel() - floors[name]) for name in names}
    values = torch.cat([scores[name].flatten().sort().values[: free[name]] for name in names])
    owners = torch.cat([torch.full((free[name],), place, dtype=torch.int32) for place, name in enumerate(names)])
    owners = owners[torch.argsort(values, stable=True)]

    def counts(prefix: int) -> dict[str, int]:
        return dict(zip(names, torch.bincount(owners[:prefix], minlength=len(names)).tolist(), strict=True))

    low, high = 0, len(owners)
    if fits(counts(low)):
        return counts(low)
    if not fits(counts(high)):
        raise BudgetError(
            f"the budget cannot be met: it is exceeded even when {high} of {sum(s.numel() for s in scores.values())} "
            f"units of {len(names)} groups are removed; raise it or include more groups"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(counts(middle)) else (middle, high)
    return counts(high)
