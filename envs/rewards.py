"""What an episode is worth: pure functions of its :class:`Result`, chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from autoprune.costs import Cost
from autoprune.errors import EnvError, unknown_name
from autoprune.factories import import_factory
from autoprune.hypervolume import hypervolume

Front = tuple[tuple[float, float], ...]
"""Pairs (share of the dense cost, accuracy) of which none beats another, cheapest first."""


@dataclass(frozen=True)
class Result:
    """What became of the plan of an episode.

    Attributes:
        accuracy: validation accuracy; 0 where the network could not be judged.
        dense_accuracy: of the dense network; ``chance``: of guessing.
        cost, dense: absolute costs of the network and of the dense one; with latencies where the reward asks for them.
        limits: largest value that the budget allows, by metric.
        front: earlier episodes, for a reward that asks for them.
    """

    accuracy: float
    dense_accuracy: float
    chance: float
    cost: Cost
    dense: Cost
    limits: Mapping[str, float] = field(default_factory=dict)
    front: Front = ()

    @property
    def error(self) -> float:
        """``1 - accuracy``."""
        return 1 - self.accuracy

    @property
    def ratios(self) -> dict[str, float]:
        """Each cost as a fraction of the dense network's."""
        return self.cost.ratios(self.dense)


@dataclass(frozen=True)
class Reward:
    """An entry of the registry.

    Attributes:
        name: its key.
        formula: in words or symbols.
        range: smallest and largest value.
        source: authors, title, year.
        function: the reward itself.
        measured: whether it needs a measured latency, so that it is not the same in two processes.
        front: the cost metric of the front of earlier episodes that it needs.
    """

    name: str
    formula: str
    range: str
    source: str
    function: Callable[[Result], float]
    measured: bool = False
    front: str | None = None

    def __call__(self, result: Result) -> float:
        """The reward of ``result``.

        Raises:
            EnvError: a function of the user's that does not give a finite number.
        """
        value = float(self.function(result))
        if not math.isfinite(value):
            raise EnvError(f"reward {self.name!r} must be a finite number, but is {value} for {result}")
        return value


_AMC = (
    "Y. He, J. Lin, Z. Liu, H. Wang, L.-J. Li, S. Han, "
    "AMC: AutoML for Model Compression and Acceleration on Mobile Devices, 2018"
)
_MNASNET = "M. Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile, 2019 (soft constraint)"
_LATENCY_POWER = -0.07
_ZITZLER = "E. Zitzler, L. Thiele, Multiobjective Evolutionary Algorithms, 1999 (hypervolume)"


def _retained(result: Result) -> float:
    return (result.accuracy - result.chance) / max(result.dense_accuracy - result.chance, 1e-9)


def _latency(result: Result) -> float:
    wanted = result.limits.get("latency_ms") or result.dense.value("latency_ms")
    return float(result.accuracy * (result.cost.value("latency_ms") / wanted) ** _LATENCY_POWER)


def _gain(metric: str) -> Callable[[Result], float]:
    def gain(result: Result) -> float:
        point = (result.ratios[metric], result.accuracy)
        joined = extended(result.front, point)
        return covered(joined, result.chance) - covered(result.front, result.chance)

    return gain


def extended(front: Iterable[tuple[float, float]], point: tuple[float, float]) -> Front:
    """``front`` with ``point``, without what is beaten."""
    best, kept = -math.inf, []
    for cost, accuracy in sorted({*front, point}, key=lambda p: (p[0], -p[1])):
        if accuracy > best:
            kept.append((cost, accuracy))
            best = accuracy
    return tuple(kept)


def covered(front: Front, chance: float) -> float:
    """Area that ``front`` covers, from the dense network's cost and the accuracy of guessing on; in [0, 1]."""
    return hypervolume((1 - cost, accuracy - chance) for cost, accuracy in front)


REWARDS: dict[str, Reward] = {
    reward.name: reward
    for reward in (
        Reward(
            "accuracy", "accuracy", "[0, 1]", _AMC + " (resource-constrained, with the budget)", lambda r: r.accuracy
        ),
        Reward(
            "retained",
            "(accuracy - chance) / (dense accuracy - chance)",
            "about [0, 1]",
            "as accuracy, scaled",
            _retained,
        ),
        Reward(
            "amc_macs",
            "-error * log(multiply-accumulates for one sample)",
            "[-log(dense), 0]",
            _AMC + " (accuracy-guaranteed)",
            lambda r: -r.error * math.log(max(r.cost.macs, 1)),
        ),
        Reward(
            "amc_params",
            "-error * log(parameters)",
            "[-log(dense), 0]",
            _AMC + " (accuracy-guaranteed)",
            lambda r: -r.error * math.log(max(r.cost.params, 1)),
        ),
        Reward(
            "latency",
            "accuracy * (latency / target)^-0.07; the target is the budget's latency_ms, else the dense network's",
            "[0, about 1.5]",
            _MNASNET,
            _latency,
            measured=True,
        ),
        Reward(
            "hypervolume",
            "area that the episode adds to the front of accuracy against macs of earlier episodes",
            "[0, 1]",
            _ZITZLER,
            _gain("macs"),
            front="macs",
        ),
        Reward(
            "hypervolume_params",
            "area that the episode adds to the front of accuracy against parameters of earlier episodes",
            "[0, 1]",
            _ZITZLER,
            _gain("params"),
            front="params",
        ),
    )
}


def get_reward(reward: str | Callable[[Result], float] | Reward) -> Reward:
    """A reward by name (:data:`REWARDS`), by ``package.module:function``, or a function of a :class:`Result`.

    Raises:
        UnknownNameError: no such name, with near misses.
        EnvError: the user's function cannot be found.
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, str) and ":" not in reward:
        if reward not in REWARDS:
            raise unknown_name("reward", reward, [*REWARDS, "package.module:function"])
        return REWARDS[reward]
    function = import_factory(reward, "reward", EnvError) if isinstance(reward, str) else reward
    if not callable(function):
        raise EnvError(f"a reward must be a name or a function of a Result, but got {reward!r}")
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", "reward")
    return Reward(str(name), "of the user's own", "", "", function)
