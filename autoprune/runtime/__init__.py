"""Runtime neural pruning: a network that decides for each input how much of itself to run."""

from __future__ import annotations

from autoprune.runtime.chain import EXECUTIONS, Chain
from autoprune.runtime.controller import Controller
from autoprune.runtime.recalibration import recalibrate
from autoprune.runtime.stages import Stage
from autoprune.runtime.walk import Walk

__all__ = ["EXECUTIONS", "Chain", "Controller", "Stage", "Walk", "recalibrate"]
