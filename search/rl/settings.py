"""Settings of the learners: frozen, checked when they are made, each with its default and a sentence on what it is.

They are the options of the controllers (``options={"warmup": 50}``, ``--controller-options warmup=50``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from autoprune.errors import SettingsError, unknown_name

BOX_ACTIONS = ("auto", "sparsity", "sparsity_method")
DISCRETE_ACTIONS = ("discrete", "multidiscrete")
AUTO = "auto"
KEEPING = ("checkpoint", "tensorboard")  # how a learner is kept and watched; changes nothing that it does


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    auto: bool = False,
) -> Any:
    """One setting: its default, what it is, and what it must hold; ``auto`` allows the word in place of a number."""
    checks = {"text": text, "low": low, "above": above, "high": high, "choices": choices, "auto": auto}
    return field(default=default, metadata=checks)


@dataclass(frozen=True)
class AgentSettings:
    """What every learner takes."""

    actions: str = option(
        AUTO,
        "kind of action: sparsity, or sparsity_method where the space has several methods; auto goes by the space",
        choices=BOX_ACTIONS,
    )
    reward: str = option("accuracy", "a reward of autoprune.envs.REWARDS, or package.module:function")
    gamma: float = option(1.0, "discount", low=0, high=1)
    hidden: tuple[int, ...] = option((300, 300), "units of the hidden layers of each network", low=1)
    checkpoint: int = option(10, "episodes between two checkpoints of the learner in the run folder", low=1)
    tensorboard: str = option("", "folder for the learner's curves, to be watched with TensorBoard")

    @classmethod
    def make(cls, options: Mapping[str, Any]) -> Self:
        """Checked settings from the options of a controller.

        Raises:
            UnknownNameError: a name that is no setting.
            SettingsError: a value that a setting cannot take.
        """
        known = {f.name: f for f in fields(cls)}
        for name in options:
            if name not in known:
                raise unknown_name("option", name, known)
        return cls(**{name: _checked(known[name], value) for name, value in options.items()})

    @classmethod
    def described(cls) -> dict[str, str]:
        """Name -> what it is, with its default."""
        return {f.name: f"{f.metadata['text']}{_default(f.default)}" for f in fields(cls)}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that :meth:`make` reads."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def learning(self) -> dict[str, Any]:
        """What decides how it learns; may not change while a study lasts."""
        return {name: value for name, value in self.to_dict().items() if name not in KEEPING}


@dataclass(frozen=True)
class OffPolicySettings(AgentSettings):
    """What learners from a replay buffer take."""

    demonstrations: bool = option(True, "whether the baselines are in the replay buffer from the start")
    warmup: int = option(20, "episodes of uniformly random actions before it learns", low=0)
    memory: int = option(100, "episodes that the replay buffer holds", low=1)
    credit: str = option(
        "every",
        "which transitions are given the reward of their episode: every one of it (as in AMC), or the last",
        choices=("every", "last"),
    )
    baseline: float = option(
        0.5,
        "weight of a batch in the running mean of rewards that is subtracted (as in AMC); 0 for none",
        low=0,
        high=1,
    )
    batch_size: int = option(64, "transitions in a gradient step", low=1)
    updates: int = option(1, "gradient steps for each step of an episode, done after it", low=1)
    tau: float = option(0.01, "share of the learned networks in the target networks' update", above=0, high=1)


@dataclass(frozen=True)
class DeterministicSettings(OffPolicySettings):
    """What learners with a deterministic actor take: noise for exploration, two learning rates."""

    noise: float = option(
        0.5, "standard deviation of the truncated normal around the actor's action, as a share of its range", low=0
    )
    decay: float = option(0.98, "factor on the noise from one episode to the next", above=0, high=1)
    actor_lr: float = option(1e-3, "learning rate of the actor", above=0)
    critic_lr: float = option(1e-3, "learning rate of the critic", above=0)


@dataclass(frozen=True)
class DDPGSettings(DeterministicSettings):
    """Options of ``ddpg``; the defaults are those of AMC's code but for three, which suit some hundred episodes.

    AMC's code has 100 episodes of warm-up, a decay of 0.95 and an actor's rate of 1e-4, for 800 episodes. On problems
    with a known answer those stood still after 50 episodes; with these, three of four came near it within 75.
    """


@dataclass(frozen=True)
class TD3Settings(DeterministicSettings):
    """Options of ``td3``."""

    delay: int = option(2, "updates of the critics for one of the actor", low=1)
    target_noise: float = option(0.2, "standard deviation of the noise on target actions, which are in [-1, 1]", low=0)
    target_clip: float = option(0.5, "largest noise on target actions", low=0)


@dataclass(frozen=True)
class SACSettings(OffPolicySettings):
    """Options of ``sac``."""

    lr: float = option(1e-3, "learning rate of all networks", above=0)
    entropy: float | str = option(AUTO, "weight of the entropy bonus; auto learns it", low=0, auto=True)
    target_entropy: float | str = option(
        AUTO, "entropy that auto aims at; auto is minus the entries of an action", auto=True
    )


@dataclass(frozen=True)
class OnPolicySettings(AgentSettings):
    """What learners from their latest episodes take."""

    episodes: int = option(4, "episodes between two updates", low=2)
    lr: float = option(1e-3, "learning rate", above=0)
    gae_lambda: float = option(
        1.0, "trade-off of bias and variance in the advantages; 1 takes whole episodes", low=0, high=1
    )
    entropy: float = option(0.0, "weight of the entropy bonus", low=0)
    value: float = option(0.5, "weight of the value loss", low=0)
    clip_norm: float = option(0.5, "longest gradient", above=0)


@dataclass(frozen=True)
class A2CSettings(OnPolicySettings):
    """Options of ``a2c``."""

    log_std: float = option(-0.5, "logarithm of the first standard deviation of actions, which are in [-1, 1]")


@dataclass(frozen=True)
class ClippedSettings(OnPolicySettings):
    """What the learners with a clipped objective take."""

    epochs: int = option(10, "passes over the episodes of an update", low=1)
    clip: float = option(0.2, "largest change of an action's probability ratio", above=0)


@dataclass(frozen=True)
class PPOSettings(ClippedSettings):
    """Options of ``ppo``."""

    log_std: float = option(-0.5, "logarithm of the first standard deviation of actions, which are in [-1, 1]")


@dataclass(frozen=True)
class MaskablePPOSettings(ClippedSettings):
    """Options of ``maskable_ppo``."""

    entropy: float = option(0.02, "weight of the entropy bonus", low=0)
    actions: str = option(
        "multidiscrete",
        "kind of action: discrete, or multidiscrete; the levels are those of the space, or 11",
        choices=DISCRETE_ACTIONS,
    )


def _default(value: Any) -> str:
    if value == "":
        return ""
    return f" (default {list(value) if isinstance(value, tuple) else value})"


def _checked(known: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` as the setting takes it.

    Raises:
        SettingsError: it cannot be.
    """
    rules, default = known.metadata, known.default
    if rules["auto"] and value == AUTO:
        return value
    if isinstance(default, bool):
        return _switch(known.name, value)
    if isinstance(default, tuple):
        return _sizes(known.name, value, rules["low"])
    if isinstance(default, str) and not rules["auto"]:
        return _text(known.name, value, rules["choices"])
    return _number(known.name, value, rules, whole=isinstance(default, int))


def _text(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"option {name!r} must be a text, but got {value!r}")
    if choices and value not in choices:
        raise unknown_name(f"value of option {name!r}:", value, choices)
    return value


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"option {name!r} must be true or false, but got {value!r}")
    return value


def _sizes(name: str, value: Any, low: float) -> tuple[int, ...]:
    sizes = value if isinstance(value, (list, tuple)) else [value]
    if not sizes or any(isinstance(s, bool) or not isinstance(s, int) or s < low for s in sizes):
        raise SettingsError(
            f"option {name!r} must be whole numbers from {low} on, such as [300, 300], but got {value!r}"
        )
    return tuple(sizes)


def _number(name: str, value: Any, rules: Mapping[str, Any], *, whole: bool) -> float:
    right = isinstance(value, int) if whole else isinstance(value, (int, float)) and math.isfinite(value)
    low, above, high = rules["low"], rules["above"], rules["high"]
    within = right and not isinstance(value, bool)
    within = within and (low is None or value >= low) and (above is None or value > above)
    if not within or (high is not None and value > high):
        start = f" from {low:g}" if low is not None else f" above {above:g}" if above is not None else ""
        end = "" if high is None else f" to {high:g}" if low is not None else f" and at most {high:g}"
        extra = " or 'auto'" if rules["auto"] else ""
        kind = "a whole number" if whole else "a number"
        raise SettingsError(f"option {name!r} must be {kind}{start}{end}{extra}, but got {value!r}")
    return value if whole else float(value)
