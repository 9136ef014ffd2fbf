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
        self.stages, ends = len(channels), np.cumsum(channels)
        self.batches = max(1, buffer_size // (self.stages * n_envs))
        self.buffer_size = self.batches * n_envs  # episodes
        self._known = np.arange(ends[-1]) < np.append(ends, ends[-1])[:, None]  # [stages + 1, width]
        self.features = np.zeros((self.buffer_size, int(ends[-1])), np.float32)
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

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """``batch_size`` transitions, each of a stage of an episode."""
        del env
        episodes = np.random.randint(0, self.size(), batch_size)
        stages = np.random.randint(0, self.stages, batch_size)
        features = self.features[episodes]
        data = (
            self._seen(features, stages),
            self.actions[episodes, stages][:, None],
            self._seen(features, stages + 1),
            (stages == self.stages - 1).astype(np.float32)[:, None],
            self.rewards[episodes, stages][:, None],
        )
        return ReplayBufferSamples(*map(self.to_torch, data))

    def _seen(self, features: NDArray[np.float32], stages: NDArray[np.int64]) -> NDArray[np.float32]:
        """Observations before ``stages``."""
        out = np.empty((len(features), features.shape[1] + 1), np.float32)
        out[:, :-1] = np.where(self._known[stages], features, np.float32(0))
        out[:, -1] = stages
        return out
