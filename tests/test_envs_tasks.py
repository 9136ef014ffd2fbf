"""Tasks by name, of the user's own network and data, and of an objective; specs as JSON; errors before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from autoprune.artifacts import NetworkSpec, load, read_network, save_network
from autoprune.costs import Budget
from autoprune.data import DataSplits
from autoprune.envs import TASKS, BudgetClip, LayerwiseEnv, Task, make_task
from autoprune.envs.tasks import ASSETS, read_budget
from autoprune.envs.testing import CHECKS
from autoprune.errors import AutopruneError, BudgetError, SettingsError, UnknownNameError
from autoprune.evaluation import evaluate
from autoprune.objective import Objective, ObjectiveSettings
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.seeding import seeded

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERWISE = "autoprune/Layerwise-v0"
OWN = """
from pathlib import Path
import torch
from autoprune import load, load_data

def network(folder):
    return load(folder)

def samples(seed=0):
    whole = load_data("digits", seed=seed)
    part = whole.train.subset(slice(0, 60))
    return {"train": (part.inputs(), part.y), "validation": (part.inputs(), part.y), "test": (part.inputs(), part.y)}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of the user's own."""
    (tmp_path / "own_things.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_things", None)


def test_the_network_that_comes_along_is_an_ordinary_one(data: DataSplits) -> None:
    folder = ASSETS / "digits_cnn"
    stored = read_network(folder)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 300_000
    assert stored.data["digest"] == data.digest
    for split in ("validation", "test"):
        found = evaluate(load(folder), getattr(data, split))
        assert found.accuracy == pytest.approx(stored.metrics[split]["accuracy"], abs=0.003)
    assert stored.metrics["validation"]["accuracy"] > 0.97
    assert make_task().dense_accuracy == pytest.approx(stored.metrics["validation"]["accuracy"], abs=0.005)
    assert make_task().chance == 0.1


def test_a_known_answer_is_known() -> None:
    """The best plan passes through the environment step by step, and no episode does better."""
    env: Any = BudgetClip(gymnasium.make(LAYERWISE, task="known_answer", groups=5, seed=3))
    problem, space, budget = env.unwrapped.task.objective, env.unwrapped.task.space, Budget(macs=0.5)
    assert isinstance(problem, KnownAnswer)
    best = problem.best(space, budget)
    env.reset(seed=0)
    for group in space.groups:
        share = float(best[f"sparsity/{group.name}"]) / group.max_sparsity
        _, reward, done, _, info = env.step(np.array([2 * share - 1], np.float32))
    assert done
    assert info["values"] == best
    assert reward == problem(space.plan(best)).accuracy <= problem.bound(budget)


def test_equal_options_share_one_task() -> None:
    assert make_task() is make_task("digits", budget={"macs": 0.5})
    assert make_task("known_answer", methods="l1_norm") is make_task("known_answer", methods=["l1_norm"])
    assert make_task("known_answer", groups=3) is not make_task("known_answer", groups=4)
    one, other = (LayerwiseEnv("digits", actions=kind) for kind in ("sparsity", "discrete"))
    assert one.task is other.task
    narrow = make_task(budget={"macs": 0.7})
    assert narrow is not make_task()


def test_options_of_the_space_arrive() -> None:
    task = make_task(
        methods=["l1_norm", "fpgm"], exclude="fc1", round_to=8, max_sparsity=0.75, reconstruction="bias_only"
    )
    assert [g.name for g in task.space.groups] == ["conv1.0", "conv2.0", "conv3.0"]
    assert task.space.methods == ("l1_norm", "fpgm")
    assert task.space.reconstructions == ("bias_only",)
    assert [g.removals for g in task.space.groups] == [(0, 8), (0, 8, 16, 24), (0, 8, 16, 24)]


def test_options_of_the_objective_arrive() -> None:
    settings = make_task(retrain_steps=3, retrain_lr=0.01, precision="float32", recalibrate=False, seed=7).objective
    assert isinstance(settings, Objective)
    assert (settings.settings.finetune.steps, settings.settings.finetune.lr, settings.settings.seed) == (3, 0.01, 7)
    assert (settings.settings.precision, settings.settings.recalibrate) == ("float32", False)
    default = make_task().objective
    assert isinstance(default, Objective)
    assert default.settings.finetune.steps == 0  # an episode is cheap unless more is asked for


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("macs=0.5,params=60%", Budget(macs=0.5, params="60%")),
        (["macs=0.5", "params=60%"], Budget(macs=0.5, params="60%")),
        ({"macs": 0.5, "params": "60%"}, Budget(macs=0.5, params="60%")),
        (Budget(bytes=0.5), Budget(bytes=0.5)),
        (None, None),
        ([], None),
        ({}, None),
        ("", None),
    ],
)
def test_budgets_come_in_many_forms(given: Any, read: Budget | None) -> None:
    assert read_budget(given) == read


def test_a_trained_network_of_the_users_own(tmp_path: Path, data: DataSplits) -> None:
    options = {"data": "digits", "seed": 0, "options": {}}
    spec = NetworkSpec("digits_cnn", {"input_shape": [1, 8, 8], "num_classes": 10})
    with seeded(0, "model"):
        model = spec.build()
    save_network(tmp_path, model, spec, data={"name": "digits", "digest": data.digest, "options": options})
    env = gymnasium.make(LAYERWISE, base=str(tmp_path), budget="params=0.5")
    task: Task = env.unwrapped.task  # type: ignore[attr-defined]
    direct = Objective(model, data, settings=ObjectiveSettings())
    assert task.objective.identity == direct.identity
    assert task is make_task(base=tmp_path, budget="params=0.5")
    CHECKS["goes_to_json_and_back"](lambda **options: gymnasium.make(LAYERWISE, base=str(tmp_path), **options))
    save_network(tmp_path, load(ASSETS / "digits_cnn"), spec, data={"name": "digits", "options": options})
    assert task is not make_task(base=tmp_path, budget="params=0.5")  # the folder holds another network now


def test_a_model_and_data_of_the_users_own(own: Path) -> None:
    options: dict[str, Any] = {
        "model": "own_things:network",
        "model_options": {"folder": str(ASSETS / "digits_cnn")},
        "data": "own_things:samples",
        "data_seed": 1,
    }
    env = gymnasium.make(LAYERWISE, **options)
    task: Task = env.unwrapped.task  # type: ignore[attr-defined]
    assert len(task.objective.data.validation) == 60  # type: ignore[attr-defined]
    assert task.dense_accuracy > 0.95
    CHECKS["goes_to_json_and_back"](lambda **more: gymnasium.make(LAYERWISE, **options, **more))


def test_an_objective_in_python() -> None:
    problem = KnownAnswer(3)
    env = gymnasium.make(LAYERWISE, objective=problem, levels=4, actions="discrete")
    env.reset(seed=0)
    for _ in range(3):
        _, reward, done, _, info = env.step(np.int64(2))
    assert done
    assert reward == problem(Plan.from_dict(info["plan"])).accuracy
    assert env.spec is not None
    with pytest.raises(TypeError, match="not JSON serializable"):
        env.spec.to_json()


def test_specs_with_a_task_share_it() -> None:
    task = make_task("known_answer", budget={"macs": 0.4})
    env = gymnasium.make(LAYERWISE, task=task)
    assert env.spec is not None
    assert env.spec.kwargs["task"] is task
    assert env.unwrapped.task is task  # type: ignore[attr-defined]
    other = LayerwiseEnv(task, budget="macs=0.7").task
    assert other.objective is task.objective
    assert other.target is not None
    assert str(other.target.budget) == "macs <= 70% of dense"
    assert LayerwiseEnv(task, budget=None).task.target is None


def test_wrapped_specs_go_to_json_and_back() -> None:
    env = BudgetClip(gymnasium.make(LAYERWISE, task="known_answer", budget={"macs": 0.4}, actions="discrete"))
    assert env.spec is not None
    text = env.spec.to_json()
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(text))
    assert isinstance(again, BudgetClip)
    assert json.loads(text)["kwargs"] == {"task": "known_answer", "budget": {"macs": 0.4}, "actions": "discrete"}
    assert again.unwrapped.task is env.unwrapped.task  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "digit"}, UnknownNameError, "unknown task 'digit'; did you mean 'digits'"),
        ({"task": "mnist"}, SettingsError, "autoprune train --data mnist"),
        ({"data": "mnist"}, SettingsError, "need a trained network: give base"),
        ({"model": "resnet20"}, SettingsError, "has no trained weights"),
        ({"base": "nowhere"}, AutopruneError, "no folder 'nowhere'"),
        ({"bases": "x"}, UnknownNameError, "did you mean 'base'"),
        ({"max_sparsity": 1.5}, SettingsError, "max_sparsity"),
        ({"methods": ["l1"]}, UnknownNameError, "unknown method 'l1'"),
        ({"include": "conv9"}, UnknownNameError, "conv9"),
        ({"round_to": 64}, SettingsError, "nothing can be removed"),
        ({"budget": "flops=0.5"}, UnknownNameError, "unknown budget metric 'flops'"),
        ({"budget": "macs=0.01"}, BudgetError, "cannot be met"),
        ({"budget": "macs"}, BudgetError, "metric=amount"),
        ({"task": "known_answer", "base": "x"}, UnknownNameError, "unknown option of task 'known_answer': 'base'"),
        ({"task": "known_answer", "groups": 0}, SettingsError, "groups"),
        (
            {"objective": KnownAnswer(2), "groups": 3},
            UnknownNameError,
            "unknown option of a task about an objective: 'groups'",
        ),
        ({"task": make_task("known_answer"), "levels": 3}, SettingsError, "made already takes no further options"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LayerwiseEnv(**options)


def test_every_task_is_described() -> None:
    for name, source in TASKS.items():
        assert name == name.lower()
        assert len(source.description) > 20
        assert "budget" not in source.options.model_fields


def test_a_missing_gymnasium_is_named() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "from autoprune.errors import MissingExtraError\n"
        "try:\n    import autoprune.envs\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'autoprune[rl]'" in done.stdout
