"""``random``: units, inputs, channels or single weights go in a random order.

``s_j ~ U[0, 1)`` from the generator alone: neither weights nor data are looked at, and one seed gives one order. The
yardstick that every other method has to beat.

Source: L. Mauch, B. Yang, "A Novel Layerwise Pruning Method for Model Reduction of Fully Connected Deep Neural
Networks", 2017, section 2.4, where it is the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoprune.methods.base import STRUCTURED, Member, joint
from autoprune.plan import Pattern


def score(members: Sequence[Member], pattern: Pattern, generator: torch.Generator) -> Tensor:
    """``[U]``, or ``[O, I]`` for single weights."""
    weight = members[0].weight
    shape = weight.shape if pattern is Pattern.WEIGHT else weight.shape[:1]
    return torch.rand(shape, dtype=torch.float64, generator=generator)


METHOD = joint(
    "random",
    "L. Mauch, B. Yang, A Novel Layerwise Pruning Method for Fully Connected Deep Neural Networks, 2017",
    score,
    patterns=STRUCTURED | {Pattern.WEIGHT},
)
