"""Budget clipping: no sequence of actions exceeds the budget, and no action is changed more than it must be."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Concat, Depthwise, Generated, Residual, SqueezeExcite

from autoprune.costs import Budget, CostModel
from autoprune.data import DataSplits, Split
from autoprune.envs import ACTIONS, BudgetClip, LayerwiseEnv, Task, make_task
from autoprune.envs.testing import rollout
from autoprune.errors import BudgetError, EnvError
from autoprune.fitting import Target
from autoprune.objective import Objective, ObjectiveSettings
from autoprune.problems import KnownAnswer
from autoprune.problems import _graph as independent_layers
from autoprune.problems import _tensors as tensors_of
from autoprune.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("l1_norm", "l2_norm")


@lru_cache
def residual_network() -> Objective:
    """Residual sums, concatenations and depthwise convolutions: groups whose layers share tensors."""
    blocks = [(Residual, 8), (Residual, 8), (Depthwise, 12), (Concat, 8), (SqueezeExcite, 8)]
    network = Generated(blocks, flatten=True, seed=0).eval()
    split = Split(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
    data = DataSplits("synthetic", split, split, split, split, num_classes=3)
    return Objective(network, data, settings=ObjectiveSettings(precision="float32", recalibrate=False))


@lru_cache
def known_answer() -> KnownAnswer:
    return KnownAnswer(5, methods=METHODS)


def task_of(objective: Any, metric: str, share: float, extra: str | None = None, **rules: Any) -> Task:
    """A task whose limit is at ``share`` of the way from the smallest network of its space to the dense one."""
    space = SearchSpace.from_graph(objective.graph, methods=METHODS, **rules)
    smallest = objective.costs.cost({g.name: g.removals[-1] for g in space.groups})
    limits: dict[str, Any] = {}
    for name in [metric] if extra is None else [metric, extra]:
        low, high = smallest.value(name), objective.dense_cost.value(name)
        limits[name] = max(low + share * (high - low), 2.0)
    return Task(objective, space, Target(objective, Budget(**limits)))


actions_asked = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12
)
rules_asked = st.sampled_from([{}, {"round_to": 4}, {"levels": 4}, {"round_to": 2, "levels": 3}, {"max_sparsity": 0.6}])


def as_action(env: gymnasium.Env[Any, Any], asked: tuple[float, float]) -> Any:
    """An action of whatever kind: the first number says how much goes, the second by which method."""
    space: Any = env.action_space
    if isinstance(space, gymnasium.spaces.Box):
        return (2 * np.array(asked) - 1).astype(np.float32)[: space.shape[0]]
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return np.minimum((np.array(asked) * space.nvec).astype(np.int64), space.nvec - 1)
    levels = space.n // 2
    return np.int64(min(int(asked[0] * levels), levels - 1) + levels * int(asked[1] > 0.5))


@pytest.mark.parametrize("network", [known_answer, residual_network], ids=["known_answer", "residual"])
@given(
    metric=st.sampled_from(["macs", "params", "bytes"]),
    extra=st.sampled_from([None, "params"]),
    share=st.floats(0, 1),
    rules=rules_asked,
    actions=st.sampled_from(sorted(ACTIONS)),
    asked=actions_asked,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_actions_exceeds_the_budget(
    network: Any, metric: str, extra: str | None, share: float, rules: Any, actions: str, asked: Any
) -> None:
    task = task_of(network(), metric, share, None if extra == metric else extra, **rules)
    assert task.target is not None
    env = BudgetClip(LayerwiseEnv(task, actions=actions, judge=lambda plan: None))
    env.reset(seed=0)
    for step in range(len(task)):
        _, reward, done, _, info = env.step(as_action(env, asked[step % len(asked)]))
    plan = env.unwrapped.plan  # type: ignore[attr-defined]
    assert done
    assert task.target.fits(plan)
    assert reward == 0.0  # refused by the judge, not by the budget
    assert info["cost"] == task.objective.cost(plan).ratios(task.objective.dense_cost)


@given(
    metric=st.sampled_from(["macs", "params", "bytes"]),
    share=st.floats(0, 1),
    rules=rules_asked,
    actions=st.sampled_from(sorted(ACTIONS)),
    asked=actions_asked,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_action_is_moved_to_the_nearest_that_keeps_the_budget_within_reach(
    metric: str, share: float, rules: Any, actions: str, asked: Any
) -> None:
    """Against trying every count of the group with all later groups at their smallest."""
    task = task_of(residual_network(), metric, share, **rules)
    assert task.target is not None
    env = LayerwiseEnv(task, actions=actions, judge=lambda plan: None)
    env.reset(seed=0)
    for step, group in enumerate(task.space.groups):
        later = {g.name: g.removals[-1] for g in task.space.groups[step:]}
        wanted = as_action(env, asked[step % len(asked)])
        ask = env.coding.decode(wanted, group)
        within = [
            place
            for place, count in enumerate(group.removals)
            if task.target.budget.fits(
                task.cost({**env.episode.removed, **later, group.name: count}), task.objective.dense_cost
            )
        ]
        allowed = [p for p in within if p >= ask.place]
        clipped = env.clipped(wanted)
        got = env.coding.decode(clipped, group)
        assert got.method == ask.method
        if ask.place in within:
            assert clipped is wanted
        elif actions.startswith("sparsity"):
            assert got.place == min(allowed)
        else:
            assert got.place == min(p for p in env.coding.table(group) if p in allowed)
        if not actions.startswith("sparsity"):
            masks = env.action_masks(within_budget=True)
            assert masks.any()
            levels = masks[: env.coding.levels]
            shown = [env.coding.table(group)[level] for level in np.flatnonzero(levels)]
            assert shown == sorted({p for p in env.coding.table(group) if p in within})
        env.step(clipped)


def test_amc_by_hand() -> None:
    """Three layers of 100 multiply-accumulates, half of all to go, at most 0.8 of each, an agent that removes nothing:
    0, then 0.7, then 0.8."""
    problem = KnownAnswer(3)
    graph = independent_layers([10, 10, 10], [10, 10, 10])
    layers = {name: replace(info, macs=100, positions=1) for name, info in graph.layers.items()}
    problem.graph = replace(graph, layers=layers)
    problem.weights = dict.fromkeys(layers, 0.1)
    problem._costs = CostModel(tensors_of(problem.graph), problem.graph)
    problem.dense_cost = problem._costs.cost()
    env: Any = BudgetClip(LayerwiseEnv(objective=problem, max_sparsity=0.8, budget={"macs": 0.5}))
    env.reset(seed=0)
    sparsities = [env.step(np.array([-1.0], np.float32))[4]["sparsity"] for _ in range(3)]
    assert sparsities == [0.0, 0.7, 0.8]
    assert env.unwrapped.episode.cost.macs == 150


def test_masks_narrow_as_the_budget_is_used_up() -> None:
    env: Any = BudgetClip(LayerwiseEnv("known_answer", actions="discrete", methods=METHODS, budget="macs=0.3"))
    env.reset(seed=0)
    free, within = env.unwrapped.action_masks(), env.action_masks()
    assert free.shape == within.shape == (22,)
    assert free[:11].all()
    assert not free[11]  # nothing removed is nothing removed, whatever the method
    assert free[12:].all()
    assert (within <= free).all()
    for _ in range(len(env.unwrapped.task)):
        allowed = np.flatnonzero(env.action_masks())
        assert env.unwrapped.clipped(allowed[0]) == allowed[0]
        if allowed[0] > 0:
            assert env.unwrapped.clipped(np.int64(allowed[0] - 1)) == allowed[0]
        done = env.step(allowed[0])[2]  # the least that is allowed
    assert done
    assert env.unwrapped.task.target.fits(env.unwrapped.plan)


def test_a_clipped_roll_out_is_never_refused() -> None:
    env = BudgetClip(gymnasium.make("autoprune/Layerwise-v0", task="known_answer", budget=["macs=0.3", "bytes=0.5"]))
    ends = [step[-1] for step in rollout(env, episodes=20) if len(step) == 5 and step[2]]
    assert len(ends) == 20
    assert all(end["outcome"] is not None and end["cost"]["macs"] <= 0.3 for end in ends)


def test_budgets_that_cannot_be_are_refused_at_once() -> None:
    with pytest.raises(BudgetError, match=r"cannot be met: the smallest sub-network of this space has .*max_sparsity"):
        make_task("known_answer", budget="macs=0.05")
    with pytest.raises(BudgetError, match="needs a budget"):
        BudgetClip(LayerwiseEnv("known_answer", budget=None))
    with pytest.raises(BudgetError, match="reward='latency'"):
        BudgetClip(LayerwiseEnv("known_answer", budget="latency_ms=0.9"))
    with pytest.raises(EnvError, match="CartPole"):
        BudgetClip(gymnasium.make("CartPole-v1"))
