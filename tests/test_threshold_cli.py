"""Norms, thresholds, predictors and the published experiment, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoprune.cli.main import app
from autoprune.plan import Plan

EXPERIMENT = (
    *("reproduce", "predictor", "--bases", "base", "--trials", 3, "--retrain-steps", 2, "--final-steps", 4),
    *("--threads", 1, "--drop", 0.05),
)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Path]:
    """A folder with a trained network and a finished search, which the tests work in."""
    folder = tmp_path_factory.mktemp("thresholds")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        call("train", "--epochs", 3, "--out", "base")
        call("search", "--base", "base", "--out", "run", "--trials", 8, "--retrain-steps", 2, "--no-test")
        yield folder


def test_norms_are_drawn_and_pruned_by(place: Path) -> None:
    shown = call("inspect", "--base", "base", "--norms", "--out", "norms").output
    assert "Norms by l1_norm" in shown
    assert (place / "norms" / "norms.png").read_bytes().startswith(b"\x89PNG")
    knees = json.loads((place / "norms" / "thresholds-knee.json").read_text())
    assert knees["method"] == "l1_norm"
    assert set(knees["thresholds"]) == {"conv1.0", "conv2.0", "conv3.0", "fc1"}
    call("prune", "--base", "base", "--thresholds", "norms/thresholds-knee.json", "--retrain-steps", 0, "--out", "knee")
    plan = Plan.from_json((place / "knee" / "plan.json").read_text())
    assert {d.layer for d in plan.decisions} <= set(knees["thresholds"])
    assert all(0 < d.sparsity < 1 for d in plan.decisions)


def test_a_predictor_is_trained_reported_and_used(place: Path) -> None:
    shown = call("predictor", "train", "run", "--out", "brain", "--fit-steps", 60).output
    assert "rank correlation" in shown
    assert "Stored in brain" in shown
    call("predictor", "report", "brain", "run")
    report = json.loads((place / "brain-report" / "calibration.json").read_text())
    assert report["studies"][0]["seen"] is True
    assert report["predictor"]["trials"] == report["studies"][0]["trials"] == 11
    assert (place / "brain-report" / "calibration.png").is_file()
    warm = ("--controller", "threshold_mlp", "--predictor", "brain", "--trials", 2, "--retrain-steps", 2)
    call("search", "--base", "base", *warm, "--no-test", "--out", "warm")
    call("inspect", "--base", "base", "--norms", "--predictor", "brain", "--out", "foretold")
    assert (place / "foretold" / "thresholds-predicted.json").is_file()


def test_the_experiment_runs_and_goes_on(place: Path) -> None:
    shown = call(*EXPERIMENT, "--out", "paper").output
    for how in ("before pruning", "by hand (knee)", "automated, by drop", "automated, same size"):
        assert how in shown
    result = json.loads((place / "paper" / "result.json").read_text())
    lines = result["lines"]
    assert [(line["scope"], line["how"]) for line in lines] == [
        ("largest", "before pruning"),
        ("largest", "by hand (knee)"),
        ("largest", "automated, by drop"),
        ("all", "before pruning"),
        ("all", "by hand (knee)"),
        ("all", "automated, by drop"),
        ("all", "automated, same size"),
    ]
    assert all(
        line["bytes"] > 0 and line["test_s"] > 0 and line["drop"] == lines[0]["test"] - line["test"] for line in lines
    )
    assert lines[6]["params"] <= lines[4]["params"]
    assert lines[2]["trials"] == 6
    assert (place / "paper" / "base" / "all" / "norms.png").is_file()
    (place / "paper" / "base" / "all" / "lines" / "automated, same size.json").unlink()
    again = call(*EXPERIMENT, "--out", "paper").output
    assert "Going on: 3 of 3 trials are done" in again
    after = json.loads((place / "paper" / "result.json").read_text())["lines"]
    times = ("test_s", "latency_ms")  # of all networks are taken again together
    assert all(line[time] > 0 for line in after for time in times)
    old, new = ([{k: v for k, v in line.items() if k not in times} for line in found[:6]] for found in (lines, after))
    assert new == old
    assert after[6]["test"] == lines[6]["test"]
    other = call(*EXPERIMENT, "--drop", 0.1, "--out", "paper", code=2)
    assert "holds an experiment with drop 0.05, but got 0.1" in other.stderr


def test_a_predictor_of_other_features_is_refused_before_work(place: Path) -> None:
    call("predictor", "train", "run", "--out", "old", "--fit-steps", 5)
    path = place / "old" / "predictor.json"
    path.write_text(path.read_text().replace('"version": 1,\n  "names"', '"version": 8,\n  "names"'))
    for command in (
        ("search", "--base", "base", "--controller", "threshold_mlp", "--predictor", "old", "--out", "none"),
        ("inspect", "--base", "base", "--norms", "--predictor", "old", "--out", "none"),
        ("predictor", "report", "old", "run", "--out", "none"),
        (*EXPERIMENT, "--predictor", "old", "--out", "none"),
    ):
        result = call(*command, code=2)
        assert "knows version 8 of the features, but this release has version 1" in result.stderr
        assert not (place / "none").exists()
