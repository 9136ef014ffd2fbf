"""Runtime neural pruning: a network that decides for each input how much of itself to run.

J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017.
"""

from __future__ import annotations

from autoprune.runtime.calibrating import calibrate, settle
from autoprune.runtime.chain import EXECUTIONS, PRICES, Chain
from autoprune.runtime.compiled import Compiled
from autoprune.runtime.controller import Controller
from autoprune.runtime.execution import NormRows
from autoprune.runtime.network import Run, RuntimePrunedNetwork
from autoprune.runtime.ordering import by_importance
from autoprune.runtime.recalibration import recalibrate, recalibrate_knobs
from autoprune.runtime.stages import Stage
from autoprune.runtime.storing import save_runtime
from autoprune.runtime.table import KnobRow, KnobTable
from autoprune.runtime.training_walk import TrainingWalk
from autoprune.runtime.walk import Walk

__all__ = [
    "EXECUTIONS",
    "PRICES",
    "Chain",
    "Compiled",
    "Controller",
    "KnobRow",
    "KnobTable",
    "NormRows",
    "Run",
    "RuntimePrunedNetwork",
    "Stage",
    "TrainingWalk",
    "Walk",
    "by_importance",
    "calibrate",
    "recalibrate",
    "recalibrate_knobs",
    "save_runtime",
    "settle",
]
