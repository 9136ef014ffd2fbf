"""``fpgm``: filters, units or inputs that lie closest to all others go first, as those can best stand in for them.

``s_j = sum_i || F_i - F_j ||_2`` over all units ``i`` of the layer. Not a magnitude: a large filter that others
resemble goes before a small one that stands alone. Scores are those of the whole layer, not computed again as units go.

Source: Y. He, P. Liu, Z. Wang, Z. Hu, Y. Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural
Networks Acceleration", CVPR 2019.
"""

from __future__ import annotations

from autoprune import saliency
from autoprune.methods.base import recipe

METHOD = recipe(
    "fpgm",
    "Y. He, P. Liu, Z. Wang, Z. Hu, Y. Yang, Filter Pruning via Geometric Median for Deep CNN Acceleration, 2019",
    lambda member: saliency.distance_sums(member.weight),  # [U]
)
