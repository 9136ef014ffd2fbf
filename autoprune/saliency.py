"""Scores of rows of weights: pure functions on tensors. A low score says that little is lost.

``U`` units, ``F`` entries of one unit, ``B`` batches. Everything in and out is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 1e-4  # squared distances below this share of the squared lengths are computed without cancellation
CHUNK_ROWS = 256


def magnitude(weight: Tensor) -> Tensor:
    """``|w|`` of every entry; any shape.

    >>> magnitude(torch.tensor([[-2.0, 1.0]]))
    tensor([[2., 1.]])
    """
    return weight.abs()


def row_norm(rows: Tensor, order: float) -> Tensor:
    """``[U, F] -> [U]``: the L1 (``order=1``) or L2 (``order=2``) norm of each row."""
    norms: Tensor = torch.linalg.vector_norm(rows, order, dim=1)
    return norms


def distance_sums(rows: Tensor) -> Tensor:
    """``[U, F] -> [U]``: for each row, the sum of its Euclidean distances to all rows.

    Distances are exact to rounding: those of rows that nearly coincide, where the product form cancels, are computed
    from differences. Memory is ``O(U * F)``.

    >>> distance_sums(torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64))
    tensor([3., 2., 3.], dtype=torch.float64)
    """
    rows = rows - rows.mean(0)
    lengths = rows.square().sum(1)
    sums = []
    for start in range(0, len(rows), CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS]
        scale = lengths[start : start + CHUNK_ROWS, None] + lengths
        squares = torch.addmm(scale, part, rows.T, alpha=-2)  # [u, U]
        near = squares <= NEAR * scale
        near[torch.arange(len(part)), torch.arange(start, start + len(part))] = False
        distances = squares.clamp(min=0).sqrt()
        close = near.any(1).nonzero().flatten()
        distances[close] = torch.cdist(part[close], rows, compute_mode="donot_use_mm_for_euclid_dist")
        distances[torch.arange(len(part)), torch.arange(start, start + len(part))] = 0
        sums.append(distances.sum(1))
    return torch.cat(sums) if sums else rows.new_zeros(0)


def gate_squares(gates: Tensor) -> Tensor:
    """``[U, B] -> [U]``: mean over batches of the squared derivative of the loss along each unit's gate."""
    return gates.square().mean(1)
