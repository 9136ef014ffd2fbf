"""What a few samples tell about a network: moments of each layer's inputs, and first-order gradients of its weights."""

from __future__ import annotations

from autoprune.calibration.collecting import collect
from autoprune.calibration.stats import LayerStats, Need, read_stats, stats_digest, write_stats
from autoprune.calibration.store import StatsStore

__all__ = ["LayerStats", "Need", "StatsStore", "collect", "read_stats", "stats_digest", "write_stats"]
