"""Learned policies are the best ones where these can be counted; trainings go on as if they had not stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runtime_toy import GROUPS, returns, toy_path, toy_task

from autoprune import load
from autoprune.artifacts import NetworkSpec
from autoprune.envs import RuntimeTask, RuntimeVectorEnv
from autoprune.errors import EnvError, SettingsError, StudyError, UnknownNameError
from autoprune.runtime import RuntimePrunedNetwork
from autoprune.search.runtime import Greedy, RuntimeSettings, Store, judge, train_runtime
from autoprune.search.runtime.agents import Agent
from autoprune.search.runtime.baselines import even_rows
from autoprune.search.runtime.explaining import rank_correlation
from autoprune.search.runtime.memory import EpisodeMemory
from autoprune.search.runtime.settings import PATHS
from autoprune.search.runtime.training import _Course
from autoprune.search.runtime.vecenv import RuntimeVecEnv
from autoprune.tensors import named_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = 6
SMALL: dict[str, Any] = {"alpha": 1.0, "code": 16, "hidden": 16, "envs": 64, "batch_size": 128, "lr": 3e-3}
ALONE: dict[str, dict[str, Any]] = {
    "dqn": {"episodes": 3200, "updates": 16, "lr": 4e-3, "memory": 960, "epsilon": 0.3, "exploration": 1.0},
    "recurrent_ppo": {"lr": 5e-3, "epochs": 10, "entropy": 0.1},
}
TINY: dict[str, Any] = {**SMALL, "rounds": 2, "episodes": 128, "finetune_steps": 4, "finetune_batch_size": 24}


def gaps(agent: str, penalty: float, **more: Any) -> tuple[list[float], list[list[int]]]:
    """How much less than brute force the learned policy is paid, for each prototype, and what it runs."""
    task = toy_task(KINDS)
    often = {
        "rounds": 1,
        "episodes": 1600,
        "envs": 32,
        "hidden": 32,
        "prepare_steps": 0,
        "finetune_steps": 0,
        "serve": (),  # the balance that is asked for alone, whatever else the knob may give
        **ALONE[agent],
        **more,
    }
    settings = RuntimeSettings(agent=agent, penalty=penalty, **{**SMALL, **often})
    network = train_runtime(task, settings)
    paid = returns(task, KINDS, penalty, 1.0)
    judged = judge(task.chain, task.data.train.subset(slice(0, KINDS)), Greedy(network.controller))
    best = torch.stack(list(paid.values())).amax(0)
    rows = judged.actions.tolist()
    return [float(best[n] - paid[tuple(row)][n]) for n, row in enumerate(rows)], rows


@pytest.mark.parametrize("agent", ["dqn", "recurrent_ppo"])
def test_the_learned_policy_is_the_best_one(agent: str) -> None:
    assert max(gaps(agent, -0.1)[0]) <= 0.02


def test_without_a_penalty_nothing_that_helps_is_skipped() -> None:
    assert max(gaps("dqn", 0.0)[0]) <= 0.02


@pytest.mark.parametrize("agent", ["dqn", "recurrent_ppo"])
def test_a_huge_penalty_leaves_the_least(agent: str) -> None:
    assert gaps(agent, -50.0, entropy=0.01)[1] == [[1, 1]] * KINDS


def same(a: RuntimePrunedNetwork, b: RuntimePrunedNetwork) -> None:
    one, other = named_tensors(a), named_tensors(b)
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert a.table == b.table


@pytest.mark.parametrize("agent", ["dqn", "recurrent_ppo"])
def test_a_stopped_training_ends_as_a_straight_one(agent: str, tmp_path: Path) -> None:
    settings = RuntimeSettings(agent=agent, prepare_steps=3, serve=(0.4, 0.9), **TINY)
    straight = train_runtime(toy_task(), settings, folder=tmp_path / "straight")
    for turns in (1, 2, None):
        stopped = train_runtime(toy_task(), settings, folder=tmp_path / "stopped", turns=turns)
    same(straight, stopped)
    lines = [json.loads(line) for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert [(line["round"], line["turn"]) for line in lines] == [
        (0, "prepare"),
        (0, "controller"),
        (0, "backbone"),
        (1, "controller"),
        (1, "backbone"),
    ]
    assert all(0 <= line["accuracy"] <= 1 and line["macs"] > 0 for line in lines)
    assert (tmp_path / "stopped" / "curves.png").is_file()
    assert len(list((tmp_path / "stopped" / "checkpoint").glob("*.safetensors"))) == 1
    with pytest.raises(StudyError, match=r"penalty: -0\.1 there, -0\.2 here"):
        train_runtime(toy_task(), RuntimeSettings(agent=agent, penalty=-0.2, **TINY), folder=tmp_path / "stopped")


@pytest.mark.parametrize("path", list(PATHS))
def test_the_backbone_is_prepared_along_the_path_that_is_named(path: str) -> None:
    task = toy_task()
    course = _Course(task, RuntimeSettings(path=path, **TINY), None)
    expected = even_rows(task.chain) if path == "even" else toy_path(task).rows
    assert torch.equal(course.backbone.path.rows, expected)
    controller = course.agent.controller()
    costs = task.chain.macs(expected) + controller.macs(task.chain.reads(expected))
    assert torch.equal(course.backbone.path.shares, costs.double() / task.chain.dense_macs)


def test_what_is_trained_is_stored_and_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    task = toy_task()
    before, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    weights = {name: p.clone() for name, p in task.chain.backbone.named_parameters()}
    store = Store(NetworkSpec("runtime_toy:Toy", {"classes": 3}), {"name": "toy"})
    network = train_runtime(task, RuntimeSettings(**TINY), folder=tmp_path, store=store)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(drawn, np.random.get_state()[1])  # type: ignore[index]
    assert any(not torch.equal(weights[name], p) for name, p in task.chain.backbone.named_parameters())
    again = load(tmp_path)
    x = task.data.test.inputs()
    assert torch.equal(again(x), network(x))
    assert again.table == network.table


@pytest.mark.parametrize("agent", ["dqn", "recurrent_ppo"])
def test_what_learns_is_the_controller_that_is_deployed(agent: str) -> None:
    task = toy_task()
    envs = RuntimeVecEnv(RuntimeVectorEnv(8, task=task, alpha=1.0, autoreset_mode="SameStep"))
    learner = Agent(RuntimeSettings(agent=agent, **SMALL), envs, task.chain, toy_path(task), 0)
    start, pooled = learner.fresh(), [torch.randn(50, c) * 3 + 1 for c in task.chain.channels]
    start.standardise(pooled)
    start.offsets.normal_().div_(50)
    start.paid.normal_().div_(50)
    learner.begin(start, pooled)
    assert all(torch.equal(t, start.state_dict()[name]) for name, t in learner.controller().state_dict().items())
    learner.learn(0)
    controller, seen, state = learner.controller(), envs.reset(), None
    starts = np.ones(8, bool)
    judged = judge(task.chain, task.data.train.subset(torch.from_numpy(envs.envs.passage.index)), Greedy(controller))
    for stage in range(len(task)):
        actions, state = learner.model.predict(seen, state, starts, deterministic=True)
        assert np.array_equal(actions + 1, judged.actions[:, stage])
        seen, *_ = envs.step(actions)
        starts = np.zeros(8, bool)


def test_the_memory_gives_back_what_was_seen() -> None:
    task = toy_task()
    envs = RuntimeVecEnv(RuntimeVectorEnv(4, task=task, alpha=1.0, autoreset_mode="SameStep"))
    memory = EpisodeMemory(
        3 * 4 * len(task), envs.observation_space, envs.action_space, n_envs=4, channels=task.chain.channels
    )
    envs.seed(0)
    seen, episodes, draws = envs.reset(), set(), np.random.RandomState(0)
    for batch in range(5):
        told = []
        for _ in range(len(task)):
            actions = draws.randint(0, GROUPS, 4)
            after, rewards, done, infos = envs.step(actions)
            memory.add(seen, after, actions, rewards, done, infos)
            told.append((actions, rewards.astype(np.float32)))
            last, seen = seen, after
        if batch >= 2:  # of five batches the last three stay
            each = (np.stack(part, 1) for part in zip(*told, strict=True))
            episodes |= {tuple(part.tobytes() for part in row) for row in zip(last[:, :-1], *each, strict=True)}
    assert memory.size() == 12
    drawn = {tuple(part.numpy().tobytes() for part in row) for row in zip(*memory.draw(200), strict=True)}
    assert drawn == episodes
    with pytest.raises(EnvError, match="whole episodes"):
        memory.sample(4)
    with pytest.raises(EnvError, match="must begin and end together"):
        memory.add(seen, seen, actions, rewards, np.ones(4, bool), infos)


def test_rank_correlation_knows_order_alone() -> None:
    losses = torch.rand(80, generator=torch.Generator().manual_seed(0))
    found = rank_correlation(losses, losses.exp())
    assert found.rho == pytest.approx(1)
    assert found.low == pytest.approx(1)
    mixed = rank_correlation(losses, losses + torch.rand(80, generator=torch.Generator().manual_seed(1)))
    assert mixed.low is not None
    assert mixed.high is not None
    assert mixed.low < (mixed.rho or 0) < mixed.high
    assert rank_correlation(losses, torch.ones(80)).rho is None


BAD = [
    ({"penalty": 0.1}, SettingsError, "penalty must be a number of at most 0"),
    ({"penalty": float("nan")}, SettingsError, "penalty must be a number of at most 0"),
    ({"agent": "sarsa"}, UnknownNameError, "unknown agent 'sarsa'"),
    ({"path": "odd"}, UnknownNameError, "unknown path 'odd'"),
    ({"rounds": 0}, SettingsError, "rounds must be a whole number from 1 on"),
    ({"epsilon": 1.5}, SettingsError, "epsilon must be a number from 0 on and at most 1"),
    ({"finetune_lr": -1.0}, SettingsError, "lr must be a number above 0"),
    ({"serve": (0.5, 1.5)}, SettingsError, "serve must be"),
    ({"serve": (0.5, 0.3)}, SettingsError, "serve must grow from share to share, but got 0.5, 0.3"),
    ({"prepare_steps": -1}, SettingsError, "prepare_steps must be"),
]


@pytest.mark.parametrize(("values", "error", "match"), BAD)
def test_bad_settings(values: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RuntimeSettings(**values)


def test_images_that_are_not_finite_stop_the_training() -> None:
    task: RuntimeTask = toy_task()
    task.data.train.x[:, 0, 0, 0] = float("nan")
    with pytest.raises(EnvError, match="holds NaN or infinite values"):
        train_runtime(task, RuntimeSettings(**TINY))
