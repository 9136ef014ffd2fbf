"""Images that go through a network together, in the form that stable-baselines3 takes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from autoprune.envs import RuntimeVectorEnv
from autoprune.errors import EnvError
from autoprune.search.rl.vecenv import split


class RuntimeVecEnv(VecEnv):
    """A :class:`~autoprune.envs.RuntimeVectorEnv` for stable-baselines3.

    It does what a ``DummyVecEnv`` of as many single environments does: episodes begin anew in the step that ends them,
    the last observation is ``info["terminal_observation"]``.

        >>> DQN("MlpPolicy", RuntimeVecEnv(RuntimeVectorEnv(256, autoreset_mode="SameStep")))

    Raises:
        EnvError: an environment that does not begin anew in the same step.
    """

    def __init__(self, envs: RuntimeVectorEnv) -> None:
        if not isinstance(envs, RuntimeVectorEnv) or envs.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise EnvError(
                "stable-baselines3 resets in the same step: RuntimeVecEnv needs a "
                f"RuntimeVectorEnv(..., autoreset_mode='SameStep'), but got {envs!r}"
            )
        self.envs = envs
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Begin every episode, with the seeds that were set before; observations ``[N, width + 1]``."""
        seeds: Any = self._seeds if any(seed is not None for seed in self._seeds) else None
        seen, infos = self.envs.reset(seed=seeds, options=dict(self._options[0]) or None)
        self.reset_infos = split(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return np.asarray(seen)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions ``[N]`` of the next step."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations, rewards ``[N]`` float32, whether each ended, and their infos."""
        seen, rewards, done, _, told = self.envs.step(self._actions)
        infos = split(told, self.num_envs)
        for place in np.flatnonzero(done):
            begun = infos[place]
            infos[place] = {**begun.pop("final_info"), "terminal_observation": begun.pop("final_obs")}
            self.reset_infos[place] = begun
        for info in infos:
            info["TimeLimit.truncated"] = False
        return seen, np.asarray(rewards, np.float32), done, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environment, once for each episode."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute for all episodes together."""
        del indices
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method of the environment returns, once for each episode."""
        found = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [found for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Never: there are no single environments."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]
