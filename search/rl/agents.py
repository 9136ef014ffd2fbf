"""The learners: each an algorithm of stable-baselines3 or sb3-contrib, set up for episodes that are paid at their end.

Sources of the libraries: A. Raffin et al., "Stable-Baselines3: Reliable Reinforcement Learning Implementations", 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Env, spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.ppo_mask.policies import MlpPolicy as MaskablePolicy
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch.optim import Optimizer

from autoprune.search.rl.exploration import Exploration, truncated_normal
from autoprune.search.rl.replay import EpisodeReplay
from autoprune.search.rl.settings import (
    A2CSettings,
    AgentSettings,
    ClippedSettings,
    DeterministicSettings,
    OffPolicySettings,
    OnPolicySettings,
    PPOSettings,
)


class AmcExploration(OffPolicyAlgorithm):
    """Mixed into algorithms with a deterministic actor: AMC's noise, and a learning rate for each of two networks."""

    exploration: Exploration

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        action, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.num_timesteps < learning_starts:
            return action, scaled
        deviation = self.exploration.deviation(self._episode_num)
        scaled = truncated_normal(scaled, deviation, np.random.random(scaled.shape))
        return self.policy.unscale_action(scaled), scaled

    def _update_learning_rate(self, optimizers: list[Optimizer] | Optimizer) -> None:
        """Rates stay what they are: one would be set for both networks."""


class AmcDDPG(AmcExploration, DDPG):
    """DDPG with AMC's exploration."""


class AmcTD3(AmcExploration, TD3):
    """TD3 with AMC's exploration."""


def _off_policy(settings: OffPolicySettings, steps: int) -> dict[str, Any]:
    return {
        "buffer_size": settings.memory * steps,
        "learning_starts": settings.warmup * steps,
        "batch_size": settings.batch_size,
        "tau": settings.tau,
        "gamma": settings.gamma,
        "train_freq": (1, "episode"),
        "gradient_steps": settings.updates * steps,
        "replay_buffer_class": EpisodeReplay,
        "replay_buffer_kwargs": {"credit": settings.credit, "weight": settings.baseline},
    }


def _deterministic(kind: type[Any], settings: DeterministicSettings, env: Env[Any, Any], steps: int, named: Any) -> Any:
    model = kind("MlpPolicy", env, learning_rate=settings.critic_lr, **_off_policy(settings, steps), **named)
    model.exploration = Exploration(settings.warmup, settings.noise, settings.decay)
    for group in model.actor.optimizer.param_groups:
        group["lr"] = settings.actor_lr
    return model


def _ddpg(settings: Any, env: Env[Any, Any], steps: int, named: Any) -> BaseAlgorithm:
    return _deterministic(AmcDDPG, settings, env, steps, named)  # type: ignore[no-any-return]


def _td3(settings: Any, env: Env[Any, Any], steps: int, named: Any) -> BaseAlgorithm:
    extra = {
        "policy_delay": settings.delay,
        "target_policy_noise": settings.target_noise,
        "target_noise_clip": settings.target_clip,
    }
    return _deterministic(AmcTD3, settings, env, steps, named | extra)  # type: ignore[no-any-return]


def _sac(settings: Any, env: Env[Any, Any], steps: int, named: Any) -> BaseAlgorithm:
    return SAC(
        "MlpPolicy",
        env,
        learning_rate=settings.lr,
        ent_coef=settings.entropy,
        target_entropy=settings.target_entropy,
        **_off_policy(settings, steps),
        **named,
    )


def _on_policy(settings: OnPolicySettings, steps: int) -> dict[str, Any]:
    return {
        "learning_rate": settings.lr,
        "n_steps": settings.episodes * steps,
        "gamma": settings.gamma,
        "gae_lambda": settings.gae_lambda,
        "ent_coef": settings.entropy,
        "vf_coef": settings.value,
        "max_grad_norm": settings.clip_norm,
    }


def _clipped(settings: ClippedSettings, steps: int) -> dict[str, Any]:
    whole = settings.episodes * steps  # one batch: an update sees a few episodes only
    return _on_policy(settings, steps) | {
        "n_epochs": settings.epochs,
        "clip_range": settings.clip,
        "batch_size": whole,
    }


def _a2c(settings: Any, env: Env[Any, Any], steps: int, named: Any) -> BaseAlgorithm:
    return A2C("MlpPolicy", env, normalize_advantage=True, **_on_policy(settings, steps), **named)


def _ppo(settings: Any, env: Env[Any, Any], steps: int, named: Any) -> BaseAlgorithm:
    return PPO("MlpPolicy", env, **_clipped(settings, steps), **named)


def _maskable_ppo(settings: Any, env: Env[Any, Any], steps: int, named: Any) -> BaseAlgorithm:
    return MaskablePPO("MlpPolicy", env, **_clipped(settings, steps), **named)


Build = Callable[[Any, Env[Any, Any], int, dict[str, Any]], BaseAlgorithm]
_BUILDS: dict[str, tuple[Build, type[BasePolicy]]] = {
    "ddpg": (_ddpg, TD3Policy),
    "td3": (_td3, TD3Policy),
    "sac": (_sac, SACPolicy),
    "ppo": (_ppo, ActorCriticPolicy),
    "a2c": (_a2c, ActorCriticPolicy),
    "maskable_ppo": (_maskable_ppo, MaskablePolicy),
}


def build(name: str, settings: AgentSettings, env: Env[Any, Any], steps: int, seed: int) -> BaseAlgorithm:
    """The learner called ``name``, new; it seeds the generators of the process.

    Args:
        name: a key of :data:`autoprune.search.rl.AGENTS`.
        settings: its settings.
        env: where it learns.
        steps: of an episode.
        seed: of everything it draws, below 2^32.
    """
    named = {"policy_kwargs": _policy_arguments(settings), "seed": seed, "device": "cpu"}
    return _BUILDS[name][0](settings, env, steps, named)


def build_policy(name: str, settings: AgentSettings, observed: spaces.Box, acted: spaces.Space[Any]) -> BasePolicy:
    """The policy of a learner alone, with fresh weights.

    Args:
        name, settings: as of :func:`build`.
        observed, acted: spaces of observations and actions.
    """
    extra = _policy_arguments(settings)
    if name == "ddpg":
        extra["n_critics"] = 1
    return _BUILDS[name][1](observed, acted, lambda _: 1e-3, **extra)


def _policy_arguments(settings: AgentSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {"net_arch": list(settings.hidden)}
    if isinstance(settings, (A2CSettings, PPOSettings)):
        arguments["log_std_init"] = settings.log_std
    return arguments
