"""``magnitude``: single weights that are small go first.

``s_ij = |w_ij|``. Within a layer the smallest go first; ranked over several layers
(:meth:`autoprune.ranking.Ranker.global_removed` with ``normalise=False``) it is the paper's global form.

Source: H. Baktash, E. Natale, L. Viennot, "A Comparative Study of Neural Network Compression", 2019, section 3.2.
"""

from __future__ import annotations

from autoprune import saliency
from autoprune.methods.base import recipe
from autoprune.plan import Pattern

METHOD = recipe(
    "magnitude",
    "H. Baktash, E. Natale, L. Viennot, A Comparative Study of Neural Network Compression, 2019",
    lambda member: saliency.magnitude(member.weight),  # [O, I]
    patterns={Pattern.WEIGHT},
)
