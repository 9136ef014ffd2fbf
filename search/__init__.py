"""What decides: controllers, and studies that hold what they tried.

A new controller is a file beside this one and a line in ``CONTROLLERS``.
"""

from __future__ import annotations

from autoprune.search.base import Context, Controller, Proposer
from autoprune.search.baselines import GLOBAL, GREEDY, UNIFORM
from autoprune.search.optuna_controller import CMAES, GP, GRID, NSGA2, NSGA3, RANDOM, TPE
from autoprune.search.progress import Progress, Start
from autoprune.search.recording import Recording, recording
from autoprune.search.records import TrialRecord
from autoprune.search.result import Row, SearchResult
from autoprune.search.rl import RL
from autoprune.search.running import search
from autoprune.search.stopping import PRUNERS
from autoprune.search.threshold import THRESHOLD

CONTROLLERS: dict[str, Controller] = {
    "tpe": TPE,
    "cmaes": CMAES,
    "gp": GP,
    "nsga2": NSGA2,
    "nsga3": NSGA3,
    "random": RANDOM,
    "grid": GRID,
    "uniform": UNIFORM,
    "global": GLOBAL,
    "greedy": GREEDY,
    **THRESHOLD,
    **RL,
}

__all__ = [
    "CONTROLLERS",
    "PRUNERS",
    "Context",
    "Controller",
    "Progress",
    "Proposer",
    "Recording",
    "Row",
    "SearchResult",
    "Start",
    "TrialRecord",
    "recording",
    "search",
]
