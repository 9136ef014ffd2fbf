"""Episodes that are taken together, in the form that stable-baselines3 takes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from autoprune.errors import EnvError

Infos = dict[str, Any]


class SameStepVecEnv(VecEnv):
    """A vector environment of gymnasium, plain or in wrappers, for stable-baselines3.

    It does what a ``DummyVecEnv`` of as many single environments does: an episode that ends begins anew in the same
    step, its last observation is ``info["terminal_observation"]``, and what the new one told is in ``reset_infos``.

    Raises:
        EnvError: one that does not begin anew in the same step.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode: Any = getattr(envs.unwrapped, "autoreset_mode", None)
        if mode is not AutoresetMode.SAME_STEP:
            raise EnvError(
                f"stable-baselines3 resets in the same step, but autoreset_mode is {getattr(mode, 'value', mode)!r}; "
                "make the environment with autoreset_mode='SameStep'"
            )
        self.envs = envs
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Begin every episode, with the seeds and options that were set before; observations ``[N, ...]``."""
        seeds: Any = list(self._seeds)
        if any(options != self._options[0] for options in self._options):
            raise EnvError("episodes that are taken together begin with the same options; set one dictionary for all")
        seen, infos = self.envs.reset(seed=seeds, options=dict(self._options[0]) or None)
        self.reset_infos = split(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return np.asarray(seen)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions ``[N, ...]`` of the next step."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations ``[N, ...]``, rewards ``[N]`` float32, whether each ended ``[N]``, and their infos."""
        seen, rewards, terminated, truncated, told = self.envs.step(self._actions)
        done, infos = terminated | truncated, split(told, self.num_envs)
        for place in np.flatnonzero(done):
            begun = infos[place]
            infos[place] = {**begun.pop("final_info"), "terminal_observation": begun.pop("final_obs")}
            self.reset_infos[place] = begun
        for info, cut in zip(infos, truncated & ~terminated, strict=True):
            info["TimeLimit.truncated"] = bool(cut)
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
        """Never: what wraps is around all of them."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]


def split(infos: Infos, number: int) -> list[Infos]:
    """The info of each of ``number`` environments, from gymnasium's dictionary of arrays with masks."""
    each: list[Infos] = [{} for _ in range(number)]
    for name, values in infos.items():
        mask = infos.get(f"_{name}")
        if mask is None:  # a mask itself
            continue
        parts = split(values, number) if isinstance(values, dict) else values
        for place in np.flatnonzero(mask):
            part = parts[place]
            each[place][name] = part.item() if isinstance(part, np.generic) else part
    return each
