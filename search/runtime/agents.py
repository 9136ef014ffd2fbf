"""The learners by name, and the controller in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from autoprune.runtime import Chain, Controller
from autoprune.search.runtime import q_learning, recurrent
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.vecenv import RuntimeVecEnv
from autoprune.search.runtime.width_path import WidthPath

_BUILDS = {"dqn": q_learning.build, "recurrent_ppo": recurrent.build}


class Agent:
    """A learner of one of the libraries, and the controller that it learns.

    Attributes:
        model: the learner.
        known: the controller that learning began with.
        trust: how far the deployed controller goes from it to what was learned, 0 to 1. One that has learned from few
            episodes takes chance for a reason, and what it does then costs more than it gains.
    """

    def __init__(
        self, settings: RuntimeSettings, envs: RuntimeVecEnv, chain: Chain, path: WidthPath, seed: int
    ) -> None:
        self.settings = settings
        self.shape: dict[str, Any] = {
            "channels": chain.channels,
            "groups": chain.groups,
            "code": settings.code,
            "hidden": settings.hidden,
            "prices": chain.prices(settings.price),
        }
        self.model: BaseAlgorithm = _BUILDS[settings.agent](settings, envs, self.shape, path, seed % 2**32)
        self.model.set_logger(Logger(None, []))
        self.trust = 1.0
        self.known = self._learned()

    def fresh(self) -> Controller:
        """A new controller of the shape of the learner's, that says nothing yet."""
        found = Controller(**self.shape)
        nn.init.zeros_(found.decoder.weight)
        nn.init.zeros_(found.decoder.bias)
        return found

    @torch.no_grad()
    def begin(self, controller: Controller, pooled: Sequence[Tensor]) -> None:
        """Before the first round: what is learned starts from ``controller``.

        Args:
            controller: whose decoder gives no action anything apart (:meth:`fresh`).
            pooled: see :meth:`autoprune.runtime.Controller.standardise`; for what else looks at samples.
        """
        policy: Any = self.model.policy
        self.known.load_state_dict(controller.state_dict())
        if self.settings.agent == "dqn":
            for q_net in (policy.q_net, policy.q_net_target):
                q_net.controller.load_state_dict(controller.state_dict())
            return
        critic = Controller(**self.shape)
        critic.encoders = policy.vf_features_extractor.encoders
        critic.standardise(pooled)
        policy.pi_features_extractor.encoders.load_state_dict(controller.encoders.state_dict())
        policy.lstm_actor.cell.load_state_dict(controller.core.state_dict())
        policy.action_net.load_state_dict(controller.decoder.state_dict())
        for name, known in controller.named_buffers():
            getattr(policy, name).copy_(known)

    @torch.no_grad()
    def controller(self, trust: float | None = None) -> Controller:
        """A copy of the controller as it is, with its own trust or another: weights between those of what was known and
        of what was learned."""
        trust, found = self.trust if trust is None else trust, self._learned()
        if trust < 1:
            for own, known in zip(found.parameters(), self.known.parameters(), strict=True):
                own.copy_(torch.lerp(known, own, trust))
        return found

    @torch.no_grad()
    def _learned(self) -> Controller:
        policy: Any = self.model.policy
        found = Controller(**self.shape)
        if self.settings.agent == "dqn":
            found.load_state_dict(policy.q_net.controller.state_dict())
        else:
            found.encoders.load_state_dict(policy.pi_features_extractor.encoders.state_dict())
            found.core.load_state_dict(policy.lstm_actor.cell.state_dict())
            found.decoder.load_state_dict(policy.action_net.state_dict())
            for part in (found.decoder.weight, found.decoder.bias):
                part[:-1] *= policy.temperature
            for name, known in found.named_buffers():
                known.copy_(getattr(policy, name))
        return found.eval().requires_grad_(False)

    def learn(self, seed: int) -> None:
        """Learn from the episodes of a round, which begin anew; what was remembered of another backbone is forgotten.

        Args:
            seed: of everything that is drawn.
        """
        import numpy as np

        model: Any = self.model
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        model.action_space.seed(seed % 2**31)
        model.env.seed(seed % 2**31)
        model._last_obs = None
        if self.settings.agent == "dqn":
            model.replay_buffer.reset()
            model._update_current_progress_remaining(model.num_timesteps, 0)
            model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)
        steps = self.settings.batches * model.n_envs * len(self.shape["channels"])
        model.learn(steps, reset_num_timesteps=False, log_interval=None)
