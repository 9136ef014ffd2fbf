"""Images that go through a network together, in the form that stable-baselines3 takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch import nn

from autoprune.envs import RuntimeVectorEnv
from autoprune.errors import EnvError
from autoprune.evaluation import checked_logits
from autoprune.search.rl.same_step import SameStepVecEnv


class RuntimeVecEnv(SameStepVecEnv):
    """A :class:`~autoprune.envs.RuntimeVectorEnv` for stable-baselines3.

        >>> DQN("MlpPolicy", RuntimeVecEnv(RuntimeVectorEnv(256, autoreset_mode="SameStep")))

    Args:
        envs: begin anew in the same step.
        compared: actions ``[m]`` whose loss on the same image is taken off the loss that is paid for. No policy gains
            or loses by a number of the image alone, but what is left to learn varies far less from image to image.

    Raises:
        EnvError: another vector environment, or one that does not begin anew in the same step.
    """

    def __init__(self, envs: RuntimeVectorEnv, compared: Sequence[int] | None = None) -> None:
        if not isinstance(envs, RuntimeVectorEnv):
            raise EnvError(f"RuntimeVecEnv needs a RuntimeVectorEnv, but got {type(envs).__name__}")
        super().__init__(envs)
        self._runtime, self._compared = envs, None if compared is None else torch.tensor(list(compared))

    def step_wait(self) -> VecEnvStepReturn:
        """As of every such environment."""
        index = self._runtime.passage.index
        seen, rewards, done, infos = super().step_wait()
        if self._compared is not None and done.any():
            rewards = rewards + (self._runtime.passage.pay.alpha * self._losses(index)).astype(rewards.dtype)
        return seen, rewards, done, infos

    @torch.no_grad()
    def _losses(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cross-entropies ``[N]`` of the images at ``index`` under the actions that are compared with."""
        split, places = self._runtime.passage.source, torch.from_numpy(index)
        y = split.y[places].cpu()
        logits = checked_logits(self._runtime.task.chain(split.inputs(places), self._compared, "sliced").cpu(), y)
        return nn.functional.cross_entropy(logits.double(), y, reduction="none").numpy()
