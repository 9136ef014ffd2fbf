"""Which units go first: scores and orders of every group, kept in memory and on disk; one ranking over all groups."""

from __future__ import annotations

from autoprune.ranking.plans import global_weights
from autoprune.ranking.pooling import smallest_prefix
from autoprune.ranking.ranker import Ranker

__all__ = ["Ranker", "global_weights", "smallest_prefix"]
