"""Neural network pruning as a search problem.

Public names are loaded when they are first used, so that ``import autoprune`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autoprune._version import __version__

if TYPE_CHECKING:
    from autoprune.applied import PrunedModel, apply
    from autoprune.artifacts import load
    from autoprune.costs import Budget
    from autoprune.data import DataSplits, load_data
    from autoprune.graph import LayerGraph
    from autoprune.models import build_model
    from autoprune.objective import Objective, ObjectiveSettings
    from autoprune.outcome import Outcome
    from autoprune.plan import LayerDecision, Pattern, Plan
    from autoprune.space import SearchSpace
    from autoprune.tracing import trace

_HOMES = {
    "Budget": "autoprune.costs",
    "DataSplits": "autoprune.data",
    "LayerDecision": "autoprune.plan",
    "LayerGraph": "autoprune.graph",
    "Objective": "autoprune.objective",
    "ObjectiveSettings": "autoprune.objective",
    "Outcome": "autoprune.outcome",
    "Pattern": "autoprune.plan",
    "Plan": "autoprune.plan",
    "PrunedModel": "autoprune.applied",
    "SearchSpace": "autoprune.space",
    "apply": "autoprune.applied",
    "build_model": "autoprune.models",
    "load": "autoprune.artifacts",
    "load_data": "autoprune.data",
    "trace": "autoprune.tracing",
}

__all__ = [
    "Budget",
    "DataSplits",
    "LayerDecision",
    "LayerGraph",
    "Objective",
    "ObjectiveSettings",
    "Outcome",
    "Pattern",
    "Plan",
    "PrunedModel",
    "SearchSpace",
    "__version__",
    "apply",
    "build_model",
    "load",
    "load_data",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
