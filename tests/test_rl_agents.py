"""Every learner in a search, small enough to learn in a few episodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from autoprune import Budget
from autoprune.errors import MissingExtraError, SettingsError, StudyError, UnknownNameError
from autoprune.problems import KnownAnswer
from autoprune.search import CONTROLLERS, search
from autoprune.search.rl import AGENTS
from autoprune.search.testing import history
from autoprune.space import SearchSpace

OFF, ON = {"warmup": 3, "hidden": [16], "checkpoint": 2}, {"episodes": 2, "hidden": [16], "checkpoint": 2}
QUICK = {"ddpg": OFF, "td3": OFF, "sac": OFF, "ppo": ON, "maskable_ppo": ON, "a2c": ON}


def options(name, **given):
    return {"budget": "macs=0.5", "controller": name, "trials": 9, "seed": 7, "options": QUICK[name]} | given


class Noisy(KnownAnswer):
    """Draws from the generators of the process, as a careless objective might."""

    def __call__(self, plan, **named):
        torch.manual_seed(0)
        torch.rand(3)
        return super().__call__(plan, **named)


@pytest.mark.parametrize("name", AGENTS)
def test_what_an_evaluation_draws_does_not_reach_the_learner(name):
    before = torch.get_rng_state()
    straight = search(KnownAnswer(3), **options(name))
    assert torch.equal(torch.get_rng_state(), before)
    assert history(search(Noisy(3), **options(name))) == history(straight)


@pytest.mark.parametrize("damage", ["none", "missing", "torn", "other", "stale"])
@pytest.mark.parametrize("name", ["ddpg", "sac", "maskable_ppo"])
def test_a_search_goes_on_from_its_checkpoint_or_from_the_start(tmp_path, name, damage):
    folder = tmp_path / "run"
    search(KnownAnswer(3), **options(name, trials=6), run_dir=folder)
    (file,) = (folder / "cache" / "learners").glob("*.pt")
    if damage == "missing":
        file.unlink()
    elif damage == "torn":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other":
        file.write_bytes(b"not a checkpoint")
    elif damage == "stale":
        search(KnownAnswer(3), **options(name, seed=8), run_dir=tmp_path / "second")
        (other,) = (tmp_path / "second" / "cache" / "learners").glob("*.pt")
        shutil.copy(other, file)
    problem = KnownAnswer(3)
    more = search(problem, **options(name), run_dir=folder)
    assert len(problem.calls) == 3
    assert history(more) == history(search(KnownAnswer(3), **options(name)))


def test_a_checkpoint_spares_the_episodes_before_it(tmp_path, monkeypatch):
    from autoprune.search.driving import Judge

    folder, asked = tmp_path / "run", []
    search(KnownAnswer(3), **options("ddpg", trials=6), run_dir=folder)
    call = Judge.__call__
    monkeypatch.setattr(Judge, "__call__", lambda self, values: asked.append(values) or call(self, values))
    search(KnownAnswer(3), **options("ddpg"), run_dir=folder)
    assert len(asked) == 3


def test_checkpoints_hold_tensors_and_plain_values_alone(tmp_path):
    folder = tmp_path / "run"
    search(KnownAnswer(3), **options("sac"), run_dir=folder)
    (file,) = (folder / "cache" / "learners").glob("*.pt")
    stored = torch.load(file, weights_only=True)
    assert stored["facts"]["episodes"] == 9
    assert stored["learner"]["counters"]["_episode_num"] == 9
    assert not list(file.parent.glob(".*"))


def test_other_settings_of_the_learner_are_refused_with_the_difference(tmp_path):
    folder = tmp_path / "run"
    search(KnownAnswer(3), **options("ddpg", trials=6), run_dir=folder)
    with pytest.raises(StudyError, match=r"settings.noise: 0.5 in the study, now 0.3"):
        search(KnownAnswer(3), **options("ddpg", options=OFF | {"noise": 0.3}), run_dir=folder)
    with pytest.raises(StudyError, match=r"seed: 7 in the study, now 8"):
        search(KnownAnswer(3), **options("ddpg", seed=8), run_dir=folder)
    search(KnownAnswer(3), **options("ddpg", options=OFF | {"checkpoint": 50}), run_dir=folder)


@pytest.mark.parametrize("name", AGENTS)
def test_methods_are_decided_too(name):
    problem = KnownAnswer(3, methods=("l1_norm", "l2_norm"))
    space = SearchSpace.from_graph(problem.graph, methods=problem.methods)
    result = search(problem, **options(name), space=space)
    mine = [t.values[f"method/{g.name}"] for t in result.trials if not t.baseline for g in space.groups]
    assert set(mine) == {"l1_norm", "l2_norm"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"options": {"warmpu": 3}},
            UnknownNameError,
            "unknown option of controller 'ddpg' 'warmpu'; did you mean 'warmup'",
        ),
        ({"options": {"warmup": -3}}, SettingsError, "option 'warmup' must be a whole number from 0, but got -3"),
        ({"options": {"reward": "acuracy"}}, UnknownNameError, "unknown reward 'acuracy'; did you mean 'accuracy'"),
        ({"options": {"reward": "latency"}}, SettingsError, "reward 'latency' depends on more than the plan"),
        ({"options": {"reward": "hypervolume"}}, SettingsError, "reward 'hypervolume' depends on more than the plan"),
        ({"workers": 2}, SettingsError, "learns from one plan before it decides the next: use workers=1"),
        ({"budget": "latency_ms=0.5"}, SettingsError, "use handling='reject'"),
        ({"budget": None, "pareto": ("macs",)}, SettingsError, "'ddpg' searches one objective"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(given, error, message):
    problem = KnownAnswer(3)
    with pytest.raises(error, match=message):
        search(problem, **options("ddpg", **given))
    assert not problem.calls


def test_several_repairs_are_refused():
    problem = KnownAnswer(3)
    space = SearchSpace.from_graph(problem.graph, reconstruction=("none", "bias_only"))
    with pytest.raises(SettingsError, match="give one reconstruction, not none, bias_only"):
        search(problem, **options("td3"), space=space)


def test_curves_need_tensorboard(monkeypatch):
    from autoprune.search import rl

    monkeypatch.setattr(rl, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="option 'tensorboard' needs the package 'tensorboard'"):
        search(KnownAnswer(3), **options("ddpg", options={"tensorboard": "curves"}))


class Writer:
    """In place of TensorBoard's writer."""

    def __init__(self, log_dir):
        self.log_dir, self.scalars = log_dir, []
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, step))

    def flush(self):
        pass

    def close(self):
        pass


def test_curves_are_written_when_asked(tmp_path, monkeypatch):
    from stable_baselines3.common import logger

    from autoprune.search import rl

    Writer.made = []
    monkeypatch.setattr(rl, "find_spec", lambda name: object())
    monkeypatch.setattr(logger, "SummaryWriter", Writer)
    folder = str(tmp_path / "curves")
    search(KnownAnswer(3), **options("ddpg", options=OFF | {"tensorboard": folder}), study_name="mine")
    (writer,) = Writer.made
    assert writer.log_dir == str(tmp_path / "curves" / "mine-ddpg-7")
    assert ("rollout/ep_rew_mean", 27) in writer.scalars
    assert any(name == "train/critic_loss" for name, _ in writer.scalars)


def test_without_the_libraries_controllers_are_listed_and_refused():
    program = """
import sys
for name in ("gymnasium", "stable_baselines3", "sb3_contrib"):
    sys.modules[name] = None
from autoprune.errors import MissingExtraError
from autoprune.problems import KnownAnswer
from autoprune.search import CONTROLLERS, search
from typer.testing import CliRunner
from autoprune.cli.main import app
listed = CliRunner().invoke(app, ["list", "controllers"])
assert listed.exit_code == 0 and "maskable_ppo" in listed.output, listed.output
search(KnownAnswer(3), budget="macs=0.5", controller="random", trials=1)
try:
    search(KnownAnswer(3), budget="macs=0.5", controller="sac", trials=1)
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "controller 'sac' needs the package 'gymnasium'; install it with: pip install 'autoprune[rl]'" in done.stdout


def test_baselines_are_in_the_replay_buffer_from_the_start(monkeypatch):
    from autoprune.search.rl.replay import EpisodeReplay

    kept = []
    add = EpisodeReplay.add

    def watched(self, seen, after, action, reward, done, infos):
        add(self, seen, after, action, reward, done, infos)
        kept.append((infos[0]["group"], infos[0]["sparsity"], float(self.rewards[self.pos - 1, 0]), bool(done[0])))

    monkeypatch.setattr(EpisodeReplay, "add", watched)
    problem = KnownAnswer(3, methods=("l1_norm", "l2_norm"))
    space = SearchSpace.from_graph(problem.graph, methods=problem.methods)
    result = search(problem, **options("td3", trials=2), space=space)
    assert len(kept) == (3 + 2) * 3
    for place, record in enumerate(result.trials):
        steps = kept[3 * place : 3 * place + 3]
        assert {f"sparsity/{g}": s for g, s, _, _ in steps} == {
            k: v for k, v in record.values.items() if "sparsity" in k
        }
        assert [done for *_, done in steps] == [False, False, True]
        assert steps[-1][2] == pytest.approx(record.accuracy)
    kept.clear()
    search(KnownAnswer(3), **options("td3", trials=2, options=OFF | {"demonstrations": False}))
    assert len(kept) == 2 * 3


def test_a_latency_that_was_measured_once_decides_again(tmp_path):
    class Hotter(KnownAnswer):
        """Every measurement is slower than the one before."""

        def latency(self, plan):
            self.times = getattr(self, "times", 0) + 1
            return super().latency(plan) * (1 + 0.02 * self.times)

    given = options("ddpg", budget="latency_ms=0.7", handling="reject", run_dir=tmp_path / "run")
    first = search(Hotter(3), **{**given, "trials": 7})
    again = search(Hotter(3), **given)
    assert {t.status for t in first.trials} == {"ok", "rejected"}
    assert history(again)[: len(first.trials)] == history(first)
    assert len(again.trials) == 12


def test_one_group_is_solved():
    """A bandit: the actor comes to the best of all counts, which an exhaustive search knows."""
    problem = KnownAnswer(1, seed=3)
    space = SearchSpace.from_graph(problem.graph)
    given = {"reward": "amc_macs", "warmup": 10, "hidden": [32], "decay": 0.95, "updates": 10}
    result = search(problem, **options("ddpg", budget="macs=0.99", trials=60, options=given), space=space)

    def reward(removed):
        from math import log

        plan = space.plan({"sparsity/layer00": removed / space.groups[0].size})
        return -(1 - problem.accuracy(plan)) * log(problem.cost(plan).macs)

    rewards = {count: reward(count) for count in space.groups[0].removals if count}
    last = [round(t.values["sparsity/layer00"] * space.groups[0].size) for t in result.trials[-5:]]
    spread = max(rewards.values()) - min(rewards.values())
    assert all(max(rewards.values()) - rewards[count] < 0.05 * spread for count in last)


def test_the_registry_has_every_learner_and_lists_it_without_the_libraries():
    assert set(AGENTS) < set(CONTROLLERS)
    for name, agent in AGENTS.items():
        assert CONTROLLERS[name].options == agent.settings.described()
        assert json.dumps(CONTROLLERS[name].options)


def test_a_bound_is_never_exceeded():
    problem = KnownAnswer(4)
    result = search(problem, **options("sac", trials=30, options=OFF | {"updates": 2}))
    assert result.best.accuracy <= problem.bound(Budget(macs=0.5)) + 1e-12
