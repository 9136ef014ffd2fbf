"""Images that go through a network together, in the form that stable-baselines3 takes."""

from __future__ import annotations

import torch
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from autoprune.envs import RuntimeVectorEnv
from autoprune.errors import EnvError
from autoprune.search.rl.same_step import SameStepVecEnv
from autoprune.search.runtime.judging import Policy, judge


class RuntimeVecEnv(SameStepVecEnv):
    """A :class:`~autoprune.envs.RuntimeVectorEnv` for stable-baselines3.

        >>> DQN("MlpPolicy", RuntimeVecEnv(RuntimeVectorEnv(256, autoreset_mode="SameStep")))

    Attributes:
        compared: a policy whose loss on the same image is taken off the loss that is paid for. No policy gains or loses
            by a number of the image alone, but what is left to learn varies far less from image to image, least where
            what is learned decides much as this policy (S. Rennie et al., "Self-Critical Sequence Training for Image
            Captioning", 2017).

    Args:
        envs: begin anew in the same step.

    Raises:
        EnvError: another vector environment, or one that does not begin anew in the same step.
    """

    def __init__(self, envs: RuntimeVectorEnv) -> None:
        if not isinstance(envs, RuntimeVectorEnv):
            raise EnvError(f"RuntimeVecEnv needs a RuntimeVectorEnv, but got {type(envs).__name__}")
        super().__init__(envs)
        self._runtime = envs
        self.compared: Policy | None = None

    def step_wait(self) -> VecEnvStepReturn:
        """As of every such environment."""
        index = self._runtime.passage.index
        seen, rewards, done, infos = super().step_wait()
        if self.compared is not None and done.any():
            split = self._runtime.passage.source.subset(torch.from_numpy(index))
            losses = judge(self._runtime.task.chain, split, self.compared, batch=len(split)).losses.numpy()
            rewards = rewards + (self._runtime.passage.pay.alpha * losses).astype(rewards.dtype)
        return seen, rewards, done, infos
