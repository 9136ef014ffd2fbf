"""Images that go through a network together, in the form that stable-baselines3 takes."""

from __future__ import annotations

from autoprune.envs import RuntimeVectorEnv
from autoprune.errors import EnvError
from autoprune.search.rl.same_step import SameStepVecEnv


class RuntimeVecEnv(SameStepVecEnv):
    """A :class:`~autoprune.envs.RuntimeVectorEnv` for stable-baselines3.

        >>> DQN("MlpPolicy", RuntimeVecEnv(RuntimeVectorEnv(256, autoreset_mode="SameStep")))

    Raises:
        EnvError: another vector environment, or one that does not begin anew in the same step.
    """

    def __init__(self, envs: RuntimeVectorEnv) -> None:
        if not isinstance(envs, RuntimeVectorEnv):
            raise EnvError(f"RuntimeVecEnv needs a RuntimeVectorEnv, but got {type(envs).__name__}")
        super().__init__(envs)
