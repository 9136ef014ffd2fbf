"""Every cost metric by name."""

from __future__ import annotations

from autoprune.costs import file_bytes, latency, macs, params
from autoprune.costs.base import Metric

COSTS: dict[str, Metric] = {m.METRIC.name: m.METRIC for m in (params, macs, file_bytes, latency)}
