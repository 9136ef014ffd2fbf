"""Around an environment: gymnasium's wrappers and vector environments, the table of episodes, what is drawn."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import data_equivalence

from autoprune.envs import BudgetClip, LayerwiseEnv, RecordOutcomes, make_task
from autoprune.envs.testing import rollout
from autoprune.plan import Plan

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERWISE = "autoprune/Layerwise-v0"
SMALL: dict[str, Any] = {"task": "known_answer", "groups": 3}


def test_gymnasiums_wrappers_work_on_top() -> None:
    env: Any = gymnasium.make(LAYERWISE, **SMALL)
    env = wrappers.RecordEpisodeStatistics(BudgetClip(env))
    env = wrappers.NormalizeReward(wrappers.TransformReward(wrappers.NormalizeObservation(env), lambda r: 10 * r))
    env = wrappers.TimeLimit(wrappers.FlattenObservation(env), 100)
    steps = [step for step in rollout(env, episodes=30) if len(step) == 5]
    ends = [step for step in steps if step[2]]
    assert len(steps) == 90
    assert len(ends) == 30
    for _, _, _, truncated, info in ends:
        assert not truncated
        assert info["episode"]["l"] == 3
        assert info["episode"]["r"] == pytest.approx(info["outcome"]["accuracy"])
    seen = np.array([step[0] for step in steps[45:]])
    assert np.abs(seen).max() < 10
    assert abs(seen.mean()) < 0.5  # normalised by the running mean and variance


def test_a_time_limit_truncates_without_an_outcome() -> None:
    env = RecordOutcomes(wrappers.TimeLimit(gymnasium.make(LAYERWISE, **SMALL), 2))
    env.reset(seed=0)
    env.step(env.action_space.sample())
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "outcome" not in info
    assert env.table()[0]["status"] == "truncated"


@pytest.mark.parametrize("options", [SMALL, {}], ids=["known_answer", "digits"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_of_gymnasium(mode: Any, options: dict[str, Any]) -> None:
    """As two single environments; workers find the task made, and say the same."""
    single = [gymnasium.make(LAYERWISE, **options) for _ in range(2)]
    groups = len(single[0].unwrapped.task)  # type: ignore[attr-defined]
    envs = gymnasium.make_vec(LAYERWISE, num_envs=2, vectorization_mode=mode, wrappers=[BudgetClip], **options)
    seen, _ = envs.reset(seed=[1, 2])
    expected = [BudgetClip(env) for env in single]
    np.testing.assert_array_equal(seen, np.stack([e.reset(seed=s)[0] for e, s in zip(expected, (1, 2), strict=True)]))
    draws = np.random.default_rng(0)
    for step in range(groups):
        actions = draws.uniform(-1, 1, (2, 1)).astype(np.float32)
        seen, rewards, done, _, _ = envs.step(actions)
        alone = [env.step(action) for env, action in zip(expected, actions, strict=True)]
        np.testing.assert_array_equal(seen, np.stack([step[0] for step in alone]))
        assert rewards.tolist() == [step[1] for step in alone]
        assert done.all() == (step == groups - 1)
    envs.close()


def test_environments_of_one_process_share_their_task() -> None:
    envs = gymnasium.make_vec(LAYERWISE, num_envs=3, vectorization_mode="sync", **SMALL)
    tasks = {id(env.unwrapped.task) for env in envs.envs}  # type: ignore[attr-defined]
    assert tasks == {id(make_task(**SMALL))}


def test_forked_workers_make_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders, statistics and the graph come from the parent: whoever computes them again fails."""
    options: dict[str, Any] = {"methods": ["fpgm", "taylor_fo"], "reconstruction": "mauch_yang"}
    make_task(**options)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("this was made already")

    for place in ("candidates.collect", "ranking.scoring.Scorer.groups", "tracing.trace", "artifacts.load"):
        monkeypatch.setattr(f"autoprune.{place}", forbidden)
    envs = gymnasium.make_vec(LAYERWISE, num_envs=2, vectorization_mode="async", actions="discrete", **options)
    envs.reset(seed=0)
    for _ in range(4):
        _, rewards, done, _, _ = envs.step(np.array([5, 15]))
    envs.close()
    assert done.all()
    assert (rewards > 0).any()


FORKED = """
import gymnasium, numpy as np, torch
import autoprune.envs
torch.set_num_threads(2)
torch.nn.Conv2d(32, 32, 3)(torch.randn(64, 32, 16, 16))  # OpenMP has threads now, and they do not survive a fork
envs = gymnasium.make_vec("autoprune/Layerwise-v0", num_envs=2, vectorization_mode="async")
envs.reset(seed=0)
for _ in range(4):
    rewards = envs.step(np.zeros((2, 1), np.float32))[1]
print(rewards.tolist())
envs.close()
"""


def test_forked_workers_do_not_wait_for_threads_that_are_gone() -> None:
    if sys.platform != "linux" or sys.version_info >= (3, 14):
        pytest.skip("workers are not forked here")
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=900, check=True)
    assert len(eval(done.stdout)) == 2  # noqa: S307 - our own output


def test_episodes_as_a_table(tmp_path: Path) -> None:
    env = RecordOutcomes(gymnasium.make(LAYERWISE, budget="macs=0.6", **SMALL))
    levels = (-1.0, 0.5, 0.9)
    for number, level in enumerate(levels):
        env.reset(seed=number if number < 2 else None)
        for _ in range(3):
            env.step(np.array([level], np.float32))
    rows = env.table()
    assert [(r["episode"], r["seed"], r["steps"], r["status"]) for r in rows] == [
        (0, 0, 3, "refused"),
        (1, 1, 3, "ok"),
        (2, None, 3, "ok"),
    ]
    assert rows[0]["accuracy"] is None
    assert rows[0]["return"] == pytest.approx(1 - 1 / 0.6)
    for row in rows[1:]:
        plan = Plan.from_dict(row["plan"])
        assert row["return"] == row["accuracy"] == make_task(**SMALL).objective(plan).accuracy
        assert (
            row["macs"] == make_task(**SMALL).objective.cost(plan).macs / make_task(**SMALL).objective.dense_cost.macs
        )
    env.to_csv(tmp_path / "episodes.csv")
    with (tmp_path / "episodes.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["return"]) for row in read] == [row["return"] for row in rows]
    plan = Plan.from_dict(rows[2]["plan"])
    assert {n: float(read[2][f"sparsity/{n}"]) for n in plan.sparsities()} == plan.sparsities()
    assert float(read[0]["sparsity/layer00"]) == 0.0


def test_an_unfinished_episode_leaves_no_row() -> None:
    env = RecordOutcomes(gymnasium.make(LAYERWISE, **SMALL))
    env.reset(seed=0)
    env.step(env.action_space.sample())
    rollout(env, episodes=1)
    assert [row["steps"] for row in env.table()] == [3]


def test_text_shows_the_plan_so_far() -> None:
    env = LayerwiseEnv("known_answer", groups=3, seed=1, budget=["macs=0.5", "bytes=0.9"], render_mode="ansi")
    sizes = [g.size for g in env.task.space.groups]
    env.reset(seed=0)
    env.step(np.array([0.0], np.float32))
    kept = sizes[0] - env.episode.removed["layer00"]
    lines = env.render().splitlines()
    assert lines[0].split()[:4] == ["layer00", str(kept), "of", str(sizes[0])]
    assert lines[0].count("#") == round(24 * kept / sizes[0])
    assert lines[0].endswith("l1_norm")
    assert lines[1].endswith("to be decided")
    ratios = env.episode.ratios
    assert lines[4] == f"macs     {ratios['macs']:.1%} of dense, limit 50.0%"
    assert lines[5] == f"bytes    {ratios['bytes']:.1%} of dense, limit 90.0%"
    assert lines[6] == "known_answer: 1 of 3 groups decided, return 0.0000"
    for level in (-1.0, -1.0):
        env.step(np.array([level], np.float32))
    assert env.render().splitlines()[-1].endswith("refused")


def test_pictures_show_what_is_kept() -> None:
    env = LayerwiseEnv("known_answer", groups=3, render_mode="rgb_array")
    env.reset(seed=0)
    blank = env.render()
    assert data_equivalence(blank, env.render(), exact=True)
    blue = np.array([0x2F, 0x6D, 0xB5])
    amounts = []
    for level in (-1.0, 1.0):
        env.reset()
        for _ in range(3):
            env.step(np.array([level], np.float32))
        picture = env.render()
        assert picture.shape == blank.shape
        amounts.append(int((picture[: len(picture) // 2] == blue).all(-1).sum()))
    assert amounts[0] > 5 * amounts[1] > 0  # everything kept against a tenth


def test_rendering_without_a_mode_says_what_is_missing() -> None:
    env = LayerwiseEnv("known_answer")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='ansi'"):
        assert env.render() is None
