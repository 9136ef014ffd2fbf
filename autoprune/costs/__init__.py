"""Costs of a network and budgets for them; every metric is a file of its own."""

from __future__ import annotations

from autoprune.costs.base import Cost, Metric
from autoprune.costs.budget import Budget, Limit
from autoprune.costs.latency import Latency, LatencySettings, measure_latency
from autoprune.costs.model import CostModel
from autoprune.costs.registry import COSTS

__all__ = ["COSTS", "Budget", "Cost", "CostModel", "Latency", "LatencySettings", "Limit", "Metric", "measure_latency"]
