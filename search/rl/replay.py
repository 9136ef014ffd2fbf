"""A replay buffer for episodes that are paid at their end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class EpisodeReplay(ReplayBuffer):
    """Transitions of whole episodes, of which each may be given the reward of its episode's end.

    Actions are kept as they were asked for, before they were clipped to the budget: so the critic learns that asking
    for less than the budget needs changes nothing. When transitions are sampled, a running mean of the rewards of
    batches is subtracted.

    Source: Y. He, J. Lin, Z. Liu, H. Wang, L.-J. Li, S. Han, "AMC: AutoML for Model Compression and Acceleration on
    Mobile Devices", 2018 (one reward for all transitions, and the baseline).

    Args:
        given: as of :class:`stable_baselines3.common.buffers.ReplayBuffer`.
        credit: ``every`` transition is given the last reward of its episode, or only the ``last`` one keeps it.
        weight: of a batch in the running mean; 0 subtracts nothing.
        named: as ``given``.
    """

    def __init__(self, *given: Any, credit: str = "every", weight: float = 0.5, **named: Any) -> None:
        super().__init__(*given, **named)
        self.credit, self.weight = credit, weight
        self.mean: float | None = None
        self._steps = 0  # of the episode that runs

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep a transition; the last one of an episode pays the others."""
        super().add(obs, next_obs, action, reward, done, infos)
        self._steps += 1
        if not bool(done[0]):
            return
        if self.credit == "every":
            self.rewards[(self.pos - 1 - np.arange(self._steps)) % self.buffer_size] = reward
        self._steps = 0

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        if not self.weight:
            return samples
        mean = float(samples.rewards.mean())
        self.mean = mean if self.mean is None else self.mean + self.weight * (mean - self.mean)
        return samples._replace(rewards=samples.rewards - self.mean)
