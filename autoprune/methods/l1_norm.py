"""``l1_norm``: filters, units or inputs whose weights have a small L1 norm go first.

``s_j = sum |F_j|`` over the weights ``F_j`` of unit ``j`` (a filter: ``[I, kh, kw]``; a hidden unit: its row; an input:
its columns). Where several layers make a unit their shares of the norm are averaged.

Source: H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017.
"""

from __future__ import annotations

from autoprune import saliency
from autoprune.methods.base import recipe

METHOD = recipe(
    "l1_norm",
    "H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, Pruning Filters for Efficient ConvNets, 2017",
    lambda member: saliency.row_norm(member.weight, 1),  # [U]
)
