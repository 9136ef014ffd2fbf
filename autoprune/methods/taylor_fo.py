"""``taylor_fo``: units whose removal changes the loss least, by its first-order expansion, go first.

``s_j = mean over batches of (dL/dg_j)^2`` with a gate ``g_j = 1`` on all that unit ``j`` gives out, in every layer that
makes it: the layers' criteria ``sum w * dL/dw`` are summed before they are squared, so that a channel shared through
skip connections is judged by what removing all of it does. Doubling the loss multiplies the scores by four.

Source: P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz, "Importance Estimation for Neural Network Pruning", CVPR
2019 (the form with gates); P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, "Pruning Convolutional Neural Networks
for Resource Efficient Inference", ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoprune import saliency
from autoprune.calibration.stats import Need
from autoprune.methods.base import Member, joint
from autoprune.plan import Pattern


def score(members: Sequence[Member], pattern: Pattern, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """``[U]``."""
    gates = torch.stack([member.taylor for member in members]).sum(0)  # [U, B]
    return saliency.gate_squares(gates)


METHOD = joint(
    "taylor_fo",
    "P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz, Importance Estimation for Neural Network Pruning, 2019",
    score,
    needs={Need.GRADIENT},
)
