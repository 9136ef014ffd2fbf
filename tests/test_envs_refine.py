"""Local search as an environment: moves and who pays for them, starts, rewards, what is told, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_checker import check_env as check_sb3

from autoprune.costs import Budget
from autoprune.envs import REWARDS, RecordOutcomes, RefineEnv, Task, make_task
from autoprune.envs.refining import LESS, MORE
from autoprune.envs.testing import CHECKS
from autoprune.errors import BudgetError, EnvError, PlanError, SettingsError, UnknownNameError
from autoprune.outcome import Outcome
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

REFINE = "autoprune/Refine-v0"
METHODS = ("l1_norm", "l2_norm")
QUICK: dict[str, Any] = {"task": "known_answer", "groups": 3, "methods": list(METHODS), "evaluations": 4}


def task_of(counts: int = 5, groups: int = 3, budget: Any = "macs=0.5", methods: tuple[str, ...] = METHODS) -> Task:
    """A problem in whose space every group may lose one of ``counts`` numbers of units."""
    problem = KnownAnswer(groups, methods=methods)
    space = SearchSpace.from_graph(problem.graph, levels=counts, methods=methods)
    return make_task(Task(problem, space), budget=budget)


def played(env: RefineEnv, actions: Any, **reset: Any) -> tuple[list[float], dict[str, Any]]:
    """Rewards of an episode and the info of its last step; ``actions`` are taken in turn."""
    _, info = env.reset(**reset)
    rewards, done = [], False
    for action in itertools.cycle(actions):
        _, reward, done, _, info = env.step(action)
        rewards.append(reward)
        if done:
            return rewards, info
    raise AssertionError


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize(
    "options",
    [
        {"actions": "multidiscrete", "credit": "best"},
        {"rebalance": False, "step": 0.4},
        {"start": "random", "budget": ["params=0.6", "macs=0.7"]},
        {"start": "dense", "budget": None, "reward": "hypervolume"},
        {"methods": ["l1_norm"], "reconstruction": ["none", "mauch_yang"]},
    ],
    ids=["multidiscrete", "refusing", "random", "dense", "one method"],
)
def test_it_keeps_the_contract(check: Callable[..., None], options: dict[str, Any]) -> None:
    check(partial(gymnasium.make, REFINE, **{**QUICK, **options}))


@pytest.mark.parametrize("check", ["follows_gymnasium", "repeats_with_its_seed", "tells_in_json"])
def test_a_network_keeps_the_contract(check: str) -> None:
    CHECKS[check](partial(gymnasium.make, REFINE, evaluations=3, reconstruction="mauch_yang"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrap", [lambda env: env, RecordOutcomes])
@pytest.mark.parametrize("actions", ["discrete", "multidiscrete"])
@pytest.mark.parametrize("task", [{}, QUICK], ids=["digits", "known_answer"])
def test_stable_baselines_finds_nothing(task: dict[str, Any], actions: str, wrap: Callable[[Any], Any]) -> None:
    check_sb3(wrap(gymnasium.make(REFINE, actions=actions, **task)))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_moves_exceed_the_budget_and_masks_tell_what_changes(data: st.DataObject) -> None:
    limits = data.draw(st.sampled_from([{"macs": 0.5}, {"params": 0.4, "macs": 0.7}, {"bytes": 0.5}, None]))
    task, judged = task_of(counts=data.draw(st.integers(2, 9)), budget=limits), []

    def judge(plan: Plan) -> Outcome:
        judged.append(plan)
        return task.objective(plan)

    options = {"rebalance": data.draw(st.booleans()), "step": data.draw(st.floats(0.01, 1))}
    env = RefineEnv(task, judge=judge, start="random", evaluations=12, **options)
    env.reset(seed=data.draw(st.integers(0, 9)))
    for _ in range(12):
        masks, before = env.action_masks(), env.plan
        action = data.draw(st.integers(0, len(masks) - 1))
        _, reward, _, _, info = env.step(action)
        assert (info["status"] == "changed") is (env.plan != before)
        assert (info["status"] == "changed") is bool(masks[action]) or masks.all()
        if info["status"] == "refused":
            assert reward < 0
            assert not options["rebalance"] or not masks[action]
    for plan in judged:
        assert task.target is None or task.target.fits(plan)


def test_masks_of_two_entries_are_those_of_pairs() -> None:
    pairs, both = RefineEnv(**QUICK), RefineEnv(**QUICK, actions="multidiscrete")
    for env in (pairs, both):
        env.reset(options={"plan": {"sparsity/layer00": 0.9, "sparsity/layer01": 0.9, "sparsity/layer02": 0.4}})
    masks = pairs.action_masks().reshape(3, 4)
    assert np.array_equal(both.action_masks(), [*masks.any(axis=1), *masks.any(axis=0)])
    assert not masks.all()


def test_an_action_is_a_group_and_a_move() -> None:
    pairs, both = RefineEnv(**QUICK), RefineEnv(**QUICK, actions="multidiscrete")
    for group, move in itertools.product(range(3), range(4)):
        pairs.reset(seed=0)
        both.reset(seed=0)
        one, other = pairs.step(np.int64(4 * group + move)), both.step(np.array([group, move]))
        assert data_equivalence(one, other, exact=True)
        assert one[-1]["group"] == f"layer{group:02d}"
        assert one[-1]["move"] == pairs.moves.names[move]


def test_an_episode_adds_up_to_what_it_won() -> None:
    objective: Any = make_task("known_answer", groups=3, methods=list(METHODS)).objective
    draw = np.random.default_rng(0)
    for _ in range(5):
        actions = draw.integers(0, 12, 8).tolist()
        found = {}
        for credit in ("current", "best"):
            env = RefineEnv(**{**QUICK, "evaluations": 8}, credit=credit, start="random")
            env.reset(seed=1)
            start = objective(env.plan).accuracy
            env.reset(seed=1)
            rewards = [env.step(action)[1] for action in actions]
            found[credit] = (sum(rewards), env.values, env.best.plan)
            assert min(rewards) >= 0 or credit == "current"
        assert found["current"][1:] == found["best"][1:]
        assert found["current"][0] == pytest.approx(objective(env.plan).accuracy - start)
        assert found["best"][0] == pytest.approx(objective(env.best.plan).accuracy - start)


@pytest.mark.parametrize("reward", [r for r in REWARDS if not REWARDS[r].front])
def test_each_step_pays_the_change_of_the_reward_function(reward: str) -> None:
    env = RefineEnv(**{**QUICK, "evaluations": 6}, reward=reward)
    env.reset(seed=0)
    env.action_space.seed(0)
    worth = env.scoring.pay(env.plan, env.outcome)
    for _ in range(6):
        _, paid, _, _, _ = env.step(env.action_space.sample())
        now = env.scoring.pay(env.plan, env.outcome)
        assert paid == now - worth
        worth = now


def test_a_gain_is_paid_as_it_is() -> None:
    env = RefineEnv(**{**QUICK, "budget": None, "start": "dense"}, reward="hypervolume")
    env.reset(seed=0)
    rewards = [env.step(0)[1], env.step(4)[1], env.step(1)[1], env.step(5)[1]]  # there and back: nothing new
    assert min(rewards[:2]) > 0
    assert rewards[3] == 0.0
    assert env.best.plan == Plan()


def test_episodes_begin_where_they_are_told() -> None:
    env = RefineEnv(**QUICK)
    task = env.task
    assert task.target is not None
    uniform = task.space.plan(task.space.shift(task.space.point({}), task.target.fits))
    env.reset()
    assert env.plan == uniform
    drawn = [env.reset(seed=seed, options={"start": "random"}) and env.plan for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(task.target.fits(plan) for plan in drawn)
    values = {"sparsity/layer00": 0.9, "sparsity/layer01": 0.9, "method/layer01": "l2_norm", "sparsity/layer02": 0.7}
    for plan in (values, task.space.plan({**task.space.point({}), **values})):
        for told in (plan, plan if isinstance(plan, dict) else plan.to_dict()):
            env.reset(options={"plan": told})
            assert env.values == task.space.snap({**task.space.point({}), **values})
    free = RefineEnv(**{**QUICK, "budget": None}, start="dense")
    assert free.reset()[1]["plan"]["decisions"] == []
    repairs = RefineEnv(**QUICK, reconstruction=["none", "mauch_yang"])
    assert repairs.reset(options={"reconstruction": "mauch_yang"})[1]["reconstruction"] == "mauch_yang"
    assert repairs.step(0)[-1]["plan"]["reconstruction"] == "mauch_yang"
    assert (
        repairs.reset(options={"plan": {**values, "reconstruction": "mauch_yang"}})[1]["reconstruction"] == "mauch_yang"
    )


def test_the_observation_says_where_the_search_stands() -> None:
    env = RefineEnv(**QUICK)
    plan = {"sparsity/layer00": 0.9, "sparsity/layer01": 0.9, "method/layer01": "l2_norm", "sparsity/layer02": 0.5}
    seen, _ = env.reset(options={"plan": plan})
    task, groups = env.task, env.task.space.groups
    each, overall = seen[:-4].reshape(3, 6), seen[-4:]
    removed = env.now.episode.removed
    assert each[:, 0] == pytest.approx([1 - removed[g.name] / g.size for g in groups])
    assert each[:, 1] == pytest.approx([g.removals.index(removed[g.name]) / (len(g.removals) - 1) for g in groups])
    assert each[:, 2] == pytest.approx([g.size / sum(x.size for x in groups) for g in groups])
    macs = {name: task.objective.graph.layer_costs()[name][1] for name in removed}
    saved = [macs[g.name] * g.max_sparsity / task.objective.dense_cost.macs for g in groups]
    assert each[:, 3] == pytest.approx(saved)
    assert each[:, 4:].tolist() == [[1, 0], [0, 1], [1, 0]]
    accuracy = task.objective(env.plan).accuracy
    assert overall == pytest.approx([2 * env.now.episode.ratios["macs"], accuracy, accuracy, 1.0])
    seen, *_ = env.step(MORE)
    worse = task.objective(env.plan).accuracy
    assert seen[-3:] == pytest.approx([worse, max(accuracy, worse), 0.75])


def test_the_last_step_tells_the_best_plan() -> None:
    env = RefineEnv(**QUICK)
    _, info = played(env, [0, 4, 8, 1], seed=0)
    best = Plan.from_dict(info["best"]["plan"])
    judged = [env.task.objective(best).accuracy, info["best"]["worth"], info["best"]["outcome"]["accuracy"]]
    assert judged == [judged[0]] * 3
    assert env.task.space.plan(info["best"]["values"]) == best == env.best.plan
    assert env.best.plan != env.plan
    assert info["left"] == 0


def test_what_the_judge_refuses_is_not_entered() -> None:
    task, refused = make_task("known_answer", groups=3), []
    env = RefineEnv(task, judge=lambda plan: refused.append(plan), evaluations=2)
    _, info = env.reset()
    start = env.plan
    assert "outcome" not in info
    _, reward, _, _, info = env.step(0)
    assert (reward, info["status"], env.plan, env.left) == (0.0, "refused", start, 1)
    assert len(refused) == 2
    assert env.outcome is None


def test_a_plan_that_comes_again_is_read_and_not_judged() -> None:
    env = RefineEnv("digits", evaluations=2, step=0.01, budget=None, start="dense")
    env.reset(seed=0)
    first = env.outcome
    env.step(MORE)
    assert env.outcome is not first
    more = env.outcome
    env.step(LESS)
    assert env.outcome is env.task.objective(Plan())
    env.reset()
    env.step(MORE)
    assert env.outcome is more


def test_climbing_by_its_rewards_finds_the_known_answer() -> None:
    """From the uniform plan, each time the best of all moves: ends at a plan that few in the space beat."""
    task = make_task("known_answer", groups=4, budget="macs=0.5", seed=3)
    env = RefineEnv(task, evaluations=1, step=0.02)
    problem: Any = task.objective
    env.reset()
    plan, uniform = env.plan, env.now.accuracy
    for _ in range(200):
        tried = []
        for action in np.flatnonzero(env.action_masks()):
            env.reset(options={"plan": plan.to_dict()})
            tried.append((env.step(action)[1], env.plan))
        gain, better = max(tried, key=lambda pair: pair[0])
        env.reset(options={"plan": plan.to_dict()})
        if gain <= 0:
            break
        plan = better
        env.reset(options={"plan": plan.to_dict()})
    bound = problem.bound(Budget(macs=0.5))
    assert uniform < problem(plan).accuracy <= bound
    assert bound - problem(plan).accuracy < 0.25 * (bound - uniform)


def test_a_masked_agent_of_another_library_trains_on_it() -> None:
    env = gymnasium.make(REFINE, **{**QUICK, "evaluations": 8})
    model = MaskablePPO("MlpPolicy", env, n_steps=16, batch_size=16, seed=0, device="cpu").learn(32)
    masks = env.get_wrapper_attr("action_masks")
    seen, _ = env.reset(seed=0)
    action, _ = model.predict(seen, action_masks=masks(), deterministic=True)
    assert masks()[int(action)]
    assert model.num_timesteps == 32


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasium_makes_many(mode: str) -> None:
    envs = gymnasium.make_vec(REFINE, num_envs=2, vectorization_mode=mode, **{**QUICK, "rebalance": False})
    try:
        envs.reset(seed=0)
        envs.action_space.seed(1)
        for _ in range(10):
            seen, *_, infos = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(seen)
        assert infos["_outcome"].all()
    finally:
        envs.close()


def test_errors_say_what_to_do() -> None:
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UnknownNameError, "uniform", {"start": "unifrom"}),
        (UnknownNameError, "did you mean 'best'", {"credit": "bets"}),
        (UnknownNameError, "multidiscrete", {"actions": "sparsity"}),
        (UnknownNameError, "ansi", {"render_mode": "human"}),
        (SettingsError, "evaluations must be a whole number from 1 on", {"evaluations": 0}),
        (SettingsError, r"step must be in \(0, 1\]", {"step": 0}),
        (SettingsError, "step must be", {"step": float("nan")}),
        (BudgetError, "start 'dense' must meet the budget, but misses it by 100.0%", {"start": "dense"}),
    ]
    for error, match, options in wrong:
        with pytest.raises(error, match=match):
            RefineEnv(**{**QUICK, **options})
    fresh = RefineEnv(**QUICK)
    for call in (partial(fresh.step, 0), fresh.action_masks, partial(getattr, fresh, "plan")):
        with pytest.raises(EnvError, match="call reset"):
            call()
    played(fresh, [0])
    with pytest.raises(EnvError, match="has ended"):
        fresh.step(0)
    resets: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UnknownNameError, "did you mean 'start'", {"starts": "random"}),
        (UnknownNameError, "random", {"start": "anywhere"}),
        (UnknownNameError, "reconstruction", {"reconstruction": "bias_only"}),
        (UnknownNameError, "sparsity/layer00", {"plan": {"sparsity/layer0": 0.5}}),
        (UnknownNameError, "l2_norm", {"plan": {"sparsity/layer00": 0.9, "method/layer00": "l3_norm"}}),
        (PlanError, r"must be a number in \[0, 1\), but got 'half'", {"plan": {"sparsity/layer00": "half"}}),
        (PlanError, r"must be a number in \[0, 1\), but got 1.0", {"plan": {"sparsity/layer00": 1.0}}),
        (PlanError, "not in the space", {"plan": Plan.uniform(fresh.task.objective.graph, method="taylor_fo")}),
        (PlanError, "3 steps of retraining", {"plan": Plan(steps=3)}),
        (UnknownNameError, "mauch_yang", {"plan": Plan(reconstruction="mauch_yang")}),
        (PlanError, "version", {"plan": {"decisions": []}}),
        (BudgetError, "the plan to begin with must meet the budget", {"plan": Plan()}),
        (EnvError, "a start or a plan", {"plan": Plan(), "start": "uniform"}),
    ]
    for error, match, options in resets:
        with pytest.raises(error, match=match):
            fresh.reset(options=options)
