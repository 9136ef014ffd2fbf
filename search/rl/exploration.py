"""Exploration of deterministic actors as AMC does it: a normal around the action, cut off at the ends of its range.

Source: Y. He, J. Lin, Z. Liu, H. Wang, L.-J. Li, S. Han, "AMC: AutoML for Model Compression and Acceleration on Mobile
Devices", 2018 (standard deviation 0.5 of the range, times 0.95 each episode after the warm-up).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RANGE = 2.0  # of actions in [-1, 1]


@dataclass(frozen=True)
class Exploration:
    """How much noise there is in each episode.

    Attributes:
        warmup: episodes of uniformly random actions before it.
        noise: standard deviation in the first episode after them, as a share of the range of actions.
        decay: factor from one episode to the next.
    """

    warmup: int
    noise: float
    decay: float

    def deviation(self, episode: int) -> float:
        """Standard deviation in ``episode`` (from 0), for actions in [-1, 1]."""
        return RANGE * self.noise * self.decay ** max(episode - self.warmup, 0)


def truncated_normal(mean: NDArray[Any], deviation: float, uniform: NDArray[Any]) -> NDArray[np.float32]:
    """Draws from normals around ``mean`` on condition that they are in [-1, 1].

    Args:
        mean: ``[...]`` in [-1, 1].
        deviation: of the normals before they are cut off; with 0 the draws are the means.
        uniform: ``[...]`` draws from [0, 1), one for each entry.
    """
    from scipy.special import ndtr, ndtri

    if deviation <= 0:
        return np.asarray(mean, np.float32)
    center = np.asarray(mean, np.float64)
    low, high = ndtr((-1 - center) / deviation), ndtr((1 - center) / deviation)
    drawn = center + deviation * ndtri(low + uniform * (high - low))
    return np.clip(drawn, -1, 1).astype(np.float32)
