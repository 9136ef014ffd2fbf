"""From an order of removal to a mask with an exact count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from autoprune.errors import PlanError


def removed_count(size: int, sparsity: float) -> int:
    """Units that ``sparsity`` removes of ``size``: ``floor(sparsity * size + 0.5)``, but at least one unit stays.

    >>> [removed_count(5, s) for s in (0.0, 0.1, 0.5, 0.99)]
    [0, 1, 3, 4]

    Raises:
        PlanError: a sparsity outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise PlanError(f"sparsity must be in [0, 1), but got {sparsity!r}")
    return max(0, min(math.floor(sparsity * size + 0.5), size - 1))


def order_of(scores: Tensor) -> Tensor:
    """Flat indices of ``scores``, lowest first; of equal scores the lower index first.

    >>> order_of(torch.tensor([2.0, 1.0, 2.0, 0.5]))
    tensor([3, 1, 0, 2])
    """
    return torch.argsort(scores.flatten(), stable=True)


def mask_from_order(order: Tensor, sparsity: float, shape: Sequence[int]) -> Tensor:
    """Mask of ``shape`` (bool, ``True`` = kept) without the first :func:`removed_count` entries of ``order``.

    >>> mask_from_order(torch.tensor([3, 1, 0, 2]), 0.5, (2, 2))
    tensor([[ True, False],
            [ True, False]])

    Raises:
        PlanError: a sparsity outside [0, 1), or an order of another size.
    """
    size = math.prod(shape)
    if order.numel() != size:
        raise PlanError(f"an order of {order.numel()} entries cannot mask shape {tuple(shape)} with {size} entries")
    mask = torch.ones(size, dtype=torch.bool, device=order.device)
    mask[order[: removed_count(size, sparsity)].long()] = False
    return mask.view(*shape)
