"""Learners as controllers: algorithms of stable-baselines3 and sb3-contrib that prune layer by layer; their policies.

Importing this needs neither library; starting a search with one of these controllers does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from autoprune.errors import MissingExtraError, SettingsError
from autoprune.search.base import Context, Controller
from autoprune.search.rl.learner import Learner
from autoprune.search.rl.rollout import ROLL_OUT
from autoprune.search.rl.settings import (
    A2CSettings,
    AgentSettings,
    DDPGSettings,
    MaskablePPOSettings,
    PPOSettings,
    SACSettings,
    TD3Settings,
)

if TYPE_CHECKING:
    from autoprune.space import SearchSpace

PACKAGES = ("gymnasium", "stable_baselines3", "sb3_contrib")


@dataclass(frozen=True)
class Agent:
    """An entry of :data:`AGENTS`: a learner, and the settings it takes."""

    name: str
    description: str
    source: str
    settings: type[AgentSettings]

    def start(self, context: Context) -> Learner:
        """At work in one search."""
        return Learner(self.name, self.settings.make(context.options), context)

    def verify(self, options: Mapping[str, Any], space: SearchSpace) -> None:
        """Refuse options and spaces that it cannot work with.

        Raises:
            SettingsError, UnknownNameError: what cannot be.
            MissingExtraError: curves are asked for and TensorBoard is not installed.
        """
        from autoprune.envs.rewards import get_reward

        settings = self.settings.make(options)
        reward = get_reward(settings.reward)
        if reward.measured or reward.front is not None:
            raise SettingsError(
                f"reward {settings.reward!r} depends on more than the plan, so that a search could not be repeated; "
                "choose accuracy, retained, amc_macs or amc_params, or limit latency_ms in the budget"
            )
        if settings.tensorboard and find_spec("tensorboard") is None:
            raise MissingExtraError("tensorboard", None, "option 'tensorboard'")
        if len(space.reconstructions) > 1:
            raise SettingsError(
                f"controller {self.name!r} decides how much of each group goes and by which method, not the repair: "
                f"give one reconstruction, not {', '.join(space.reconstructions)}"
            )

    @property
    def controller(self) -> Controller:
        """Its entry in the registry of controllers."""
        return Controller(
            self.name,
            self.description,
            self.source,
            self.start,
            pareto=False,
            options=self.settings.described(),
            drives=True,
            extra="rl",
            packages=PACKAGES,
            verify=self.verify,
        )


_AMC = "Y. He et al., AMC: AutoML for Model Compression and Acceleration on Mobile Devices, 2018"

AGENTS: dict[str, Agent] = {
    agent.name: agent
    for agent in (
        Agent(
            "ddpg",
            "Deep deterministic policy gradient by the protocol of AMC: a learner that prunes layer by layer.",
            f"T. P. Lillicrap et al., Continuous Control with Deep Reinforcement Learning, 2016; {_AMC}",
            DDPGSettings,
        ),
        Agent(
            "td3",
            "Twin delayed DDPG: two critics, and an actor that follows them slowly.",
            "S. Fujimoto, H. van Hoof, D. Meger, Addressing Function Approximation Error in Actor-Critic Methods, 2018",
            TD3Settings,
        ),
        Agent(
            "sac",
            "Soft actor-critic: a stochastic policy that is also paid for its entropy.",
            "T. Haarnoja et al., Soft Actor-Critic Algorithms and Applications, 2018",
            SACSettings,
        ),
        Agent(
            "ppo",
            "Proximal policy optimisation, which learns from its latest episodes.",
            "J. Schulman et al., Proximal Policy Optimization Algorithms, 2017",
            PPOSettings,
        ),
        Agent(
            "maskable_ppo",
            "PPO over a few sparsities for each group, with those masked that would miss the budget.",
            "S. Huang, S. Ontanon, A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, 2022",
            MaskablePPOSettings,
        ),
        Agent(
            "a2c",
            "Advantage actor-critic, the simplest learner from its latest episodes.",
            "V. Mnih et al., Asynchronous Methods for Deep Reinforcement Learning, 2016",
            A2CSettings,
        ),
    )
}

RL: dict[str, Controller] = {name: agent.controller for name, agent in AGENTS.items()} | {ROLL_OUT.name: ROLL_OUT}

__all__ = ["AGENTS", "RL", "ROLL_OUT", "Agent", "Learner"]
