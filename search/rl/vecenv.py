"""Episodes that are judged together, in the form that stable-baselines3 takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from autoprune.envs import BudgetClipVector, LayerwiseVectorEnv
from autoprune.errors import EnvError
from autoprune.search.rl.same_step import SameStepVecEnv


class LayerwiseVecEnv(SameStepVecEnv):
    """A :class:`~autoprune.envs.LayerwiseVectorEnv`, plain or in gymnasium's vector wrappers, for stable-baselines3.

    Methods and attributes are those of the single environments; masks keep the budget within reach where
    :class:`~autoprune.envs.BudgetClipVector` does.

        >>> envs = gymnasium.make_vec("autoprune/Layerwise-v0", num_envs=8, autoreset_mode="SameStep")
        >>> PPO("MlpPolicy", VecMonitor(LayerwiseVecEnv(BudgetClipVector(envs))))

    Raises:
        EnvError: another vector environment, or one that does not begin anew in the same step.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        base = envs.unwrapped
        if not isinstance(base, LayerwiseVectorEnv):
            raise EnvError(
                f"LayerwiseVecEnv needs a LayerwiseVectorEnv, but got {type(base).__name__}; "
                "stable-baselines3 makes its own of single environments (make_vec_env)"
            )
        self.base = base
        super().__init__(envs)

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """A picture of each episode, where they render pictures."""
        pictures: Any = self.envs.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if pictures is None else list(pictures)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each single environment."""
        return [self.base.lanes[i].get_wrapper_attr(attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each single environment."""
        for i in self._get_indices(indices):
            setattr(self.base.lanes[i], attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method of each single environment returns."""
        if method_name == "action_masks":
            method_kwargs.setdefault("within_budget", _clipped(self.envs))
        lanes = [self.base.lanes[i] for i in self._get_indices(indices)]
        return [lane.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for lane in lanes]


def _clipped(envs: VectorEnv[Any, Any, Any]) -> bool:
    """Whether actions are clipped to what keeps the budget within reach."""
    layer: Any = envs
    while layer is not envs.unwrapped and not isinstance(layer, BudgetClipVector):
        layer = layer.env
    return isinstance(layer, BudgetClipVector)
