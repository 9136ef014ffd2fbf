"""The threshold predictor: a small network that foretells what pruning costs, and controllers that go by it."""

from __future__ import annotations

from autoprune.search.base import Controller
from autoprune.search.threshold.controller import THRESHOLD_MLP
from autoprune.search.threshold.direct import DIRECT

THRESHOLD: dict[str, Controller] = {THRESHOLD_MLP.name: THRESHOLD_MLP, DIRECT.name: DIRECT}

__all__ = ["THRESHOLD"]
