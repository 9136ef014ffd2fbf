"""Recurrent PPO of sb3-contrib whose actor has the parts of a :class:`autoprune.runtime.Controller`.

The encoder of the stage is the features extractor, the controller's core takes the place of the actor's LSTM, and the
decoder is the action network; so what is learned is a controller. The critic has an encoder and an LSTM of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from autoprune.runtime import Controller
from autoprune.runtime.controller import composed
from autoprune.search.runtime.q_learning import parts
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.vecenv import RuntimeVecEnv
from autoprune.search.runtime.width_path import WidthPath

_COOLEST = 0.01  # temperature where a group costs next to nothing


class StageEncoder(BaseFeaturesExtractor):
    """Codes ``[N, code]`` of the features of each observation's own stage."""

    def __init__(self, observation_space: spaces.Box, *, shape: dict[str, Any]) -> None:
        super().__init__(observation_space, shape["code"])
        self.encoders = Controller(**shape).encoders
        self.channels = tuple(shape["channels"])

    def forward(self, observations: Tensor) -> Tensor:
        """Codes of observations ``[N, width + 1]``."""
        features, stages = parts(observations, len(self.channels))
        self.stages = stages
        each = torch.split(features, list(self.channels), 1)
        codes = features.new_zeros(len(features), self.features_dim)
        for stage in sorted(set(stages.tolist())):
            rows = (stages == stage).nonzero()[:, 0]
            codes = codes.index_copy(0, rows, self.encoders[stage](each[stage][rows]))
        return codes


class Core(nn.Module):
    """A controller's core in the form of an LSTM of one layer; the second state is not used."""

    num_layers = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.cell = nn.GRUCell(input_size, hidden_size)

    def forward(self, sequence: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs ``[T, N, hidden]`` of ``[T, N, input]``, and the states ``[1, N, hidden]`` after it."""
        state, found = states[0][0], []
        for step in sequence:
            state = self.cell(step, state)
            found.append(state)
        return torch.stack(found), (state[None], states[1])


class RecurrentControllerPolicy(RecurrentActorCriticPolicy):
    """The policy: chances grow with a controller's scores over a temperature.

    Attributes:
        temperature: difference of two scores at which one action is e times as likely as the other.
        offsets, paid, reliance: those of the controller.
    """

    offsets: Tensor
    paid: Tensor
    reliance: Tensor

    def __init__(self, *given: Any, shape: dict[str, Any], temperature: float, **named: Any) -> None:
        """``shape`` is what :class:`~autoprune.runtime.Controller` takes."""
        parts_of_a_controller: dict[str, Any] = {
            "net_arch": {"pi": [], "vf": []},
            "features_extractor_class": StageEncoder,
            "features_extractor_kwargs": {"shape": shape},
            "share_features_extractor": False,
            "lstm_hidden_size": shape["hidden"],
        }
        super().__init__(*given, **{**named, **parts_of_a_controller})
        core: Any = Core(shape["code"], shape["hidden"])
        self.lstm_actor, self.temperature = core, temperature
        self.action_net = nn.Linear(shape["hidden"], shape["groups"] + 1)
        for name, known in Controller(**shape).named_buffers():
            self.register_buffer(name, known)
        fresh: Any = self.optimizer_class
        self.optimizer = fresh(self.parameters(), lr=given[2](1), **self.optimizer_kwargs)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        encoder: Any = self.pi_features_extractor  # it has seen the same observations just before
        offsets, paid = (part[encoder.stages] / self.temperature for part in (self.offsets, self.paid))
        logits = composed(self.action_net(latent_pi), offsets, paid, self.reliance[encoder.stages, None])
        return self.action_dist.proba_distribution(action_logits=logits)


def build(
    settings: RuntimeSettings, envs: RuntimeVecEnv, shape: dict[str, Any], path: WidthPath, seed: int
) -> RecurrentPPO:
    """The learner, new; it seeds the generators of the process. It explores by its own chances, not by ``path``."""
    del path
    return RecurrentPPO(
        RecurrentControllerPolicy,
        envs,
        learning_rate=lambda left: settings.lr * max(left, 1 / settings.batches),  # none is left at the last batch
        n_steps=len(shape["channels"]),
        batch_size=min(settings.batch_size, len(shape["channels"]) * envs.num_envs),
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=1.0,
        clip_range=settings.clip,
        ent_coef=settings.entropy,
        policy_kwargs={"shape": shape, "temperature": max(-settings.penalty, _COOLEST)},
        seed=seed,
        device="cpu",
    )
