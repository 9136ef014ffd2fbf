"""Deep Q-learning of stable-baselines3 with a :class:`autoprune.runtime.Controller` as its network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor

from autoprune.runtime import Controller
from autoprune.search.runtime.memory import EpisodeMemory
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.vecenv import RuntimeVecEnv

_APART = 0.2  # of the random actions, that follow no level


def parts(observations: Tensor, controller_stages: int) -> tuple[Tensor, Tensor]:
    """(features ``[N, width]``, stage ``[N]``) of observations ``[N, width + 1]``; after the last stage: the last."""
    return observations[:, :-1].float(), observations[:, -1].long().clamp(0, controller_stages - 1)


class ControllerQ(QNetwork):
    """A controller as a Q-network: encoders, core over the stages, shared decoder."""

    def __init__(self, shape: dict[str, Any], **given: Any) -> None:
        super().__init__(**{**given, "net_arch": []})
        self.controller = Controller(**shape)
        self.q_net = torch.nn.Sequential()  # theirs is not used

    def forward(self, obs: Any) -> Tensor:
        """Q-values ``[N, k]``."""
        scores: Tensor = self.controller(*parts(obs, len(self.controller.channels)))
        return scores


class ControllerPolicy(DQNPolicy):
    """DQN's policy around a controller; ``shape`` is what :class:`~autoprune.runtime.Controller` takes."""

    def __init__(self, *given: Any, shape: dict[str, Any], **named: Any) -> None:
        self.shape = shape
        super().__init__(*given, **named)

    def make_q_net(self) -> QNetwork:
        """A controller, with fresh weights."""
        named = self._update_features_extractor(self.net_args, features_extractor=None)
        return ControllerQ(self.shape, **named).to(self.device)


class RuntimeDQN(DQN):
    """DQN whose episodes explore each on its own, with a share of random actions that falls over all rounds.

    Most random actions of an episode lie around a level of its own: a network is trained where its layers are about as
    narrow as each other, so actions that are drawn apart from each other say little of what is worth while.

    Attributes:
        planned: steps of all rounds.
    """

    planned: int = 1
    _levels: Any = None

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        del total_timesteps
        self._current_progress_remaining = 1.0 - min(1.0, num_timesteps / self.planned)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Greedy actions; unless ``deterministic`` each is random with the exploration rate."""
        actions, state = self.policy.predict(observation, state, episode_start, True)
        if not deterministic:
            chance = np.random.random(np.shape(actions))
            actions = np.where(chance < self.exploration_rate, self._random(observation), actions)
        return actions, state

    def _random(self, observation: Any) -> Any:
        """Random actions ``[N]``."""
        size, k = len(observation), int(self.action_space.n)  # type: ignore[attr-defined]
        if self._levels is None or len(self._levels) != size or not observation[:, -1].any():
            self._levels = np.random.uniform(-0.5, k - 0.5, size)
        near = np.clip(np.rint(np.random.normal(self._levels, k / 8)), 0, k - 1).astype(np.int64)
        return np.where(np.random.random(size) < _APART, np.random.randint(0, k, size), near)


def build(settings: RuntimeSettings, envs: RuntimeVecEnv, shape: dict[str, Any], seed: int) -> RuntimeDQN:
    """The learner, new; it seeds the generators of the process."""
    stages = len(shape["channels"])
    batch = stages * envs.num_envs
    model = RuntimeDQN(
        ControllerPolicy,
        envs,
        learning_rate=settings.lr,
        buffer_size=max(settings.memory, envs.num_envs) * stages,
        learning_starts=0,
        batch_size=settings.batch_size,
        tau=1.0,
        gamma=settings.gamma,
        train_freq=stages,
        gradient_steps=settings.updates,
        replay_buffer_class=EpisodeMemory,
        replay_buffer_kwargs={"channels": tuple(shape["channels"])},
        target_update_interval=settings.target_every * batch,
        exploration_fraction=max(settings.exploration, 1e-9),
        exploration_initial_eps=1.0,
        exploration_final_eps=settings.epsilon,
        policy_kwargs={"shape": shape},
        seed=seed,
        device="cpu",
    )
    model.planned = settings.rounds * settings.batches * batch
    return model
