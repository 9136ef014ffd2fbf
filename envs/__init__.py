"""Gymnasium environments over the shared objective; importing this registers their ids.

>>> import gymnasium, autoprune.envs
>>> env = gymnasium.make("autoprune/Layerwise-v0", task="known_answer")
"""

from __future__ import annotations

try:
    import gymnasium  # noqa: F401 - only here to say which extra is missing
except ModuleNotFoundError as error:
    if error.name != "gymnasium":
        raise
    from autoprune.errors import MissingExtraError

    raise MissingExtraError("gymnasium", "rl", "autoprune.envs") from None

from autoprune.envs.actions import ACTIONS
from autoprune.envs.features import FEATURES
from autoprune.envs.layerwise import LayerwiseEnv
from autoprune.envs.refine import RefineEnv
from autoprune.envs.registration import IDS, register
from autoprune.envs.rewards import REWARDS, Result, Reward
from autoprune.envs.runtime import RuntimeEnv
from autoprune.envs.runtime_task import RUNTIME_TASKS, RuntimeTask, make_runtime_task
from autoprune.envs.runtime_vector import RuntimeVectorEnv
from autoprune.envs.task import Task
from autoprune.envs.tasks import TASKS, make_task
from autoprune.envs.vector import BudgetClipVector, LayerwiseVectorEnv
from autoprune.envs.wrappers import BudgetClip, RecordOutcomes

__all__ = [
    "ACTIONS",
    "FEATURES",
    "IDS",
    "REWARDS",
    "RUNTIME_TASKS",
    "TASKS",
    "BudgetClip",
    "BudgetClipVector",
    "LayerwiseEnv",
    "LayerwiseVectorEnv",
    "RecordOutcomes",
    "RefineEnv",
    "Result",
    "Reward",
    "RuntimeEnv",
    "RuntimeTask",
    "RuntimeVectorEnv",
    "Task",
    "make_runtime_task",
    "make_task",
    "register",
]

register()
