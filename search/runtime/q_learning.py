"""Deep Q-learning of stable-baselines3 with a :class:`autoprune.runtime.Controller` as its network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from autoprune.runtime import Controller
from autoprune.search.runtime.memory import EpisodeMemory
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.vecenv import RuntimeVecEnv
from autoprune.search.runtime.width_path import WidthPath

_SPREAD = 0.08  # standard deviation of random actions around the path, over the number of groups
_APART = 0.1  # of the random actions, that do not follow the path
_SWING = 0.7  # of the logarithm of the price at which an episode is greedy: mostly half to twice the penalty


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

    It learns from whole episodes, whose stages all come out of one pass of the controller.

    Most random actions of an episode lie around the path that the network was trained along, at a share of its own:
    far from it the network is worth little, so actions that are drawn apart from each other say little.

    The others are greedy at a knob that is drawn for each episode, as if the penalty were some times smaller or larger:
    so it learns what comes of its actions at all the shares that the knob is to give.

    Attributes:
        planned: steps of all rounds.
        path: what is explored.
        penalty: reward of a further group.
    """

    planned: int = 1
    penalty: float = 0.0
    path: WidthPath | None = None
    _widths: Any = None
    _knobs: Any = None

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        del total_timesteps
        self._current_progress_remaining = 1.0 - min(1.0, num_timesteps / self.planned)

    def train(self, gradient_steps: int, batch_size: int = 512) -> None:
        """Gradient steps on about ``batch_size`` transitions each."""
        memory: Any = self.replay_buffer
        q_net: Any = self.q_net
        target: Any = self.q_net_target
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            features, actions, rewards = memory.draw(max(1, batch_size // memory.stages))
            with torch.no_grad():
                best = target.controller.scores(features).amax(2)
                wanted = rewards + self.gamma * nn.functional.pad(best[:, 1:], (0, 1))
            found = q_net.controller.scores(features).gather(2, actions[..., None])[..., 0]
            self.policy.optimizer.zero_grad()
            loss: Any = nn.functional.smooth_l1_loss(found, wanted)
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Greedy actions; unless ``deterministic`` at a knob of each episode's own, or random."""
        if deterministic:
            return self.policy.predict(observation, state, episode_start, True)
        size, k = len(observation), int(self.action_space.n)  # type: ignore[attr-defined]
        if self._widths is None or len(self._widths) != size or not observation[:, -1].any():
            assert self.path is not None
            least, most = float(self.path.shares[0]), float(self.path.shares[-1])
            self._widths = self.path.at(torch.from_numpy(np.random.uniform(least, most, size))).numpy()
            self._knobs = self.penalty * (np.random.lognormal(0.0, _SWING, size) - 1)
        chance, widths = np.random.random(size), self._widths[:, int(observation[0, -1])]
        actions = np.where(chance < self.exploration_rate, self._random(widths, k), self._greedy(observation))
        return actions, state

    @staticmethod
    def _random(widths: Any, k: int) -> Any:
        """Random actions ``[N]`` (from 0), most of them near ``widths`` (from 1)."""
        near = np.clip(np.rint(np.random.normal(widths - 1, _SPREAD * k)), 0, k - 1).astype(np.int64)
        return np.where(np.random.random(len(near)) < _APART, np.random.randint(0, k, len(near)), near)

    @torch.no_grad()
    def _greedy(self, observation: Any) -> Any:
        """What scores best ``[N]`` at the episodes' knobs; all stand before the same stage."""
        controller: Any = self.q_net.controller
        scores = self.q_net(torch.as_tensor(observation, device=self.device)).cpu()
        bias = torch.from_numpy(self._knobs)[:, None] * controller.bias(int(observation[0, -1]))
        return (scores + bias).argmax(1).numpy()


def falling(lr: float, rounds: int, batches: int) -> Callable[[float], float]:
    """A learning rate that falls to a ``batches``-th in each round, by the part of all rounds that is left."""
    return lambda left: lr * (round(left * rounds * batches) % batches + 1) / batches


def build(
    settings: RuntimeSettings, envs: RuntimeVecEnv, shape: dict[str, Any], path: WidthPath, seed: int
) -> RuntimeDQN:
    """The learner, new; it seeds the generators of the process."""
    stages = len(shape["channels"])
    batch = stages * envs.num_envs
    model = RuntimeDQN(
        ControllerPolicy,
        envs,
        learning_rate=falling(settings.lr, settings.rounds, settings.batches),
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
    model.penalty, model.path = settings.penalty, path
    model.planned = settings.rounds * settings.batches * batch
    return model
