"""Policies that were learned: stored, read, rolled out on other networks."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from autoprune.cli.main import app
from autoprune.errors import ArtifactError, SettingsError
from autoprune.problems import KnownAnswer
from autoprune.search import CONTROLLERS, search
from autoprune.search.rl import AGENTS
from autoprune.search.rl.policy import POLICY_JSON, POLICY_TENSORS, load_policy, read_policy
from autoprune.search.testing import CHECKS, history, small_problem
from autoprune.space import SearchSpace

OFF, ON = {"warmup": 3, "hidden": [16]}, {"episodes": 2, "hidden": [16]}
QUICK = {"ddpg": OFF, "td3": OFF, "sac": OFF, "ppo": ON, "maskable_ppo": ON, "a2c": ON}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of short searches, by learner; made once."""
    made = {}

    def run(name):
        if name not in made:
            problem, space = small_problem()
            made[name] = tmp_path_factory.mktemp(name) / "run"
            options = {"budget": "macs=0.5", "controller": name, "trials": 8, "options": QUICK[name]}
            result = search(problem, **options, space=space, run_dir=made[name])
            assert any("The policy after 8 episodes is in" in note for note in result.notes)
        return made[name]

    return run


@pytest.mark.parametrize("check", CHECKS)
def test_a_policy_does_what_every_controller_must(runs, check):
    CHECKS[check]("policy", {"folder": str(runs("ddpg"))})


def roll(folder, groups=5, **given):
    problem = KnownAnswer(groups, seed=4, methods=("l1_norm", "l2_norm"))
    space = SearchSpace.from_graph(problem.graph, methods=problem.methods, levels=4)
    options = {"budget": "macs=0.5", "controller": "policy", "trials": 4, "options": {"folder": str(folder)}}
    return search(problem, **options | given, space=space)


@pytest.mark.parametrize("name", AGENTS)
def test_a_policy_decides_about_another_network(runs, name):
    result = roll(runs(name))
    mine = [t for t in result.trials if not t.baseline]
    assert [t.controller for t in mine] == ["policy"] * 4
    assert all(t.usable for t in mine)
    assert len({tuple(t.values.items()) for t in mine}) > 1
    assert any("8 episodes on another network: its best plan is trial 3 (validation" in note for note in result.notes)
    assert history(roll(runs(name))) == history(result)
    assert history(roll(runs(name), seed=9))[3] == history(result)[3]


@pytest.mark.parametrize("name", AGENTS)
def test_the_best_plan_is_what_the_learned_network_says(runs, name):
    """Layer by layer through an environment made by hand, the stored policy decides as in the search."""
    from autoprune.envs import BudgetClip, LayerwiseEnv, Task
    from autoprune.fitting import Target

    problem = KnownAnswer(5, seed=4, methods=("l1_norm", "l2_norm"))
    space = SearchSpace.from_graph(problem.graph, methods=problem.methods, levels=4)
    policy = load_policy(runs(name), space)
    from autoprune import Budget

    task = Task(problem, space, Target(problem, Budget(macs=0.5)))
    env = BudgetClip(LayerwiseEnv(task, actions=policy.facts.environment["actions"]))
    seen, _ = env.reset()
    for _ in space.groups:
        masks = env.action_masks() if name == "maskable_ppo" else None
        seen, _, done, _, info = env.step(policy.act(seen, masks))
    assert done
    assert info["values"] == dict(roll(runs(name)).trials[3].values)


def test_a_policy_says_where_it_comes_from(runs):
    facts = read_policy(runs("sac"))
    assert facts.algorithm == "sac"
    assert facts.trained["episodes"] == 8
    assert facts.trained["updates"] > 0
    assert facts.trained["budget"] == {"macs": "0.5"}
    assert facts.environment["actions"] == "sparsity_method"
    assert len(facts.environment["features"]) == 11
    data = json.loads((runs("sac") / "policy" / POLICY_JSON).read_text())
    assert data["made_with"]["stable-baselines3"]
    assert read_policy(runs("sac") / "policy") == facts


def copied(runs, tmp_path, **changes):
    """A copy of a policy with another description."""
    import shutil

    folder = shutil.copytree(runs("ddpg") / "policy", tmp_path / "policy")
    data = json.loads((folder / POLICY_JSON).read_text())
    for path, value in changes.items():
        part = data
        *parents, last = path.split("__")
        for key in parents:
            part = part[key]
        part[last] = value
    (folder / POLICY_JSON).write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"environment__features": ["t", "n"]},
            SettingsError,
            "trained with the features t, n, but this search has t, n, c",
        ),
        (
            {"environment__methods": ["fpgm"]},
            SettingsError,
            "with the methods fpgm, but this search has l1_norm, l2_norm",
        ),
        ({"version": 9}, ArtifactError, "of version 9, but this release reads 'autoprune.policy' of version 1"),
        ({"algorithm": "dqn"}, ArtifactError, "is of 'dqn', which is no learner here"),
        ({"settings__hidden": [8]}, ArtifactError, "the tensors of the policy in .* cannot be read"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(runs, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        roll(copied(runs, tmp_path, **changes))


def test_other_levels_are_refused(runs):
    problem, _ = small_problem()
    space = SearchSpace.from_graph(problem.graph, methods=problem.methods, levels=5)
    with pytest.raises(SettingsError, match="this many levels: 4, but this search has 5"):
        search(
            problem, budget="macs=0.5", controller="policy", space=space, options={"folder": str(runs("maskable_ppo"))}
        )


def test_a_folder_without_a_policy_is_refused(tmp_path, runs):
    with pytest.raises(ArtifactError, match="there is no policy in"):
        roll(tmp_path)
    with pytest.raises(SettingsError, match="needs the option 'folder'"):
        roll(tmp_path, options={})
    with pytest.raises(SettingsError, match="option 'noise' must be a number from 0 to 1, but got 3"):
        roll(tmp_path, options={"folder": str(runs("ddpg")), "noise": 3})
    folder = copied(runs, tmp_path)
    (folder / POLICY_TENSORS).write_bytes(b"\x00" * 20)
    with pytest.raises(ArtifactError, match="tensors of the policy"):
        roll(folder)
    (folder / POLICY_JSON).write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        roll(folder)


def test_no_draws_without_noise_around_a_deterministic_policy(runs):
    result = roll(runs("td3"), options={"folder": str(runs("td3")), "noise": 0})
    assert len({tuple(t.values.items()) for t in result.trials[3:]}) == 1


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def _here(tmp_path, monkeypatch):
    import torch

    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_here")
def test_the_command_line_learns_on_one_network_and_decides_on_another():
    common = ["search", "--train-epochs", "2", "--retrain-steps", "0", "--no-test", "--model"]
    learner = ["--controller", "ddpg", "--trials", "6", "--controller-options", "warmup=2"]
    first = call(*common, "digits_cnn", *learner, "--out", "first")
    assert first.exit_code == 0, first.output
    assert "The policy after 6 episodes is in first/policy." in first.output
    second = call(*common, "mlp", "--policy", "first", "--trials", "3", "--out", "second")
    assert second.exit_code == 0, second.output
    assert "Policy of ddpg, 6 episodes on another network: its best plan is trial 3" in " ".join(second.output.split())
    again = call("search", "--config", "second/config.toml", "--out", "second")
    assert again.exit_code == 0, again.output
    both = call(*common, "mlp", "--policy", "first", "--controller", "tpe")
    assert both.exit_code == 2
    assert "policy takes the place of the controller, but got 'tpe'" in " ".join(both.output.split())


def test_the_registry_has_it():
    assert CONTROLLERS["policy"].drives
