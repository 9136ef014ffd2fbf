"""A replay buffer of whole episodes: what was seen at a stage is the beginning of what was seen at the last one.

So an episode of m stages is stored once, and not as 2 m observations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from autoprune.errors import EnvError


class EpisodeMemory(ReplayBuffer):
    """Transitions of ``autoprune/Runtime-v0``, from episodes that begin and end together.

    Args:
        buffer_size: transitions; whole batches of episodes are kept.
        channels: features of each stage.
        given, named: as of ``ReplayBuffer``.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: Any = "cpu",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        channels: tuple[int, ...],
    ) -> None:
        del optimize_memory_usage  # it is as small as can be
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.stages = len(channels)
        self.batches = max(1, buffer_size // (self.stages * n_envs))
        self.buffer_size = self.batches * n_envs  # episodes
        self.features = np.zeros((self.buffer_size, sum(channels)), np.float32)
        self.actions = np.zeros((self.buffer_size, self.stages), np.int64)
        self.rewards = np.zeros((self.buffer_size, self.stages), np.float32)

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep a stage of every episode of the batch that runs; it can be drawn once the batch has ended."""
        del next_obs, infos
        stage = int(obs[0, -1])
        if not (obs[:, -1] == stage).all() or bool(done.any()) != (stage == self.stages - 1):
            raise EnvError("episodes in this replay buffer must begin and end together; use RuntimeVecEnv")
        rows = slice(self.pos * self.n_envs, (self.pos + 1) * self.n_envs)
        self.actions[rows, stage] = action.reshape(self.n_envs)
        self.rewards[rows, stage] = reward
        if not done.any():
            return
        self.features[rows] = obs[:, :-1]
        self.pos += 1
        if self.pos == self.batches:
            self.full, self.pos = True, 0

    def reset(self) -> None:
        """Forget everything."""
        self.pos, self.full = 0, False

    def size(self) -> int:
        """Episodes that can be drawn."""
        return self.buffer_size if self.full else self.pos * self.n_envs

    def draw(self, episodes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``[N, width]``, actions ``[N, m]`` (from 0) and rewards ``[N, m]`` of ``episodes`` episodes."""
        chosen = np.random.randint(0, self.size(), episodes)
        features, actions, rewards = self.features[chosen], self.actions[chosen], self.rewards[chosen]
        return self.to_torch(features), self.to_torch(actions), self.to_torch(rewards)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Transitions are not kept apart from each other.

        Raises:
            EnvError: always.
        """
        del batch_size, env
        raise EnvError("this replay buffer holds whole episodes; use draw()")
