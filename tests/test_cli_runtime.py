"""``autoprune runtime``, in this process, on the network that comes with the package."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from test_cli import call, good

from autoprune import load
from autoprune.runtime import RuntimePrunedNetwork

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ("--episodes", 256, "--envs", 128, "--rounds", 1, "--finetune-steps", 5, "--code", 16, "--hidden", 16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime") / "net"
    text = good("runtime", "train", "--out", folder, *QUICK)
    assert "What the knob gives" in text
    assert f"Stored in {folder}" in text
    return folder


def test_training_stores_a_network_with_a_table(trained: Path) -> None:
    network = load(trained)
    assert isinstance(network, RuntimePrunedNetwork)
    assert network.table is not None
    assert len((trained / "log.jsonl").read_text().splitlines()) == 3
    assert {p.name for p in trained.iterdir()} >= {"config.toml", "curves.png", "model.json", "model.safetensors"}
    before = (trained / "log.jsonl").read_bytes()
    good("runtime", "train", "--out", trained, *QUICK)
    assert (trained / "log.jsonl").read_bytes() == before


def test_evaluation_tells_and_draws(trained: Path, tmp_path: Path) -> None:
    what = ("--split", "validation", "--samples", 120, "--budget", 0.5, "--budget", 0.8, "--oracle", "--images", 3)
    text = good("runtime", "evaluate", trained, "--out", tmp_path, *what)
    assert "static uniform" in text
    assert "Mean groups run of each stage, by class" in text
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert [row["wanted"] for row in told["runtime"]] == [0.5, 0.8]
    assert set(told["others"]) == {"static uniform", "random", "confidence", "oracle", "oracle, unlimited"}
    assert len(told["by_class"]) == 10
    assert all(1 <= g <= 4 for row in told["by_class"].values() for g in row)
    assert len(told["images"]["easy"]) == len(told["images"]["hard"]) == 3
    rows = list(csv.reader((tmp_path / "trade_off.csv").read_text().splitlines()))
    assert len(rows) == 3
    for name in ("trade_off", "by_class", "images"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_constant_actions_are_exported(trained: Path, tmp_path: Path) -> None:
    text = good("runtime", "export", trained, "--actions", 2, "--format", "torch", "--out", tmp_path / "a")
    assert "of the dense MACs" in text
    good("runtime", "export", trained, "--budget", 0.6, "--format", "safetensors", "--out", tmp_path / "b")
    result = call("runtime", "export", trained)
    assert result.exit_code == 2
    assert "cannot be written as a fixed graph" in result.output
    result = call("runtime", "export", trained, "--actions", 5)
    assert result.exit_code == 2
    assert "an action must be 1 to 4, but got 5" in result.output


def test_bad_input_is_one_line(trained: Path, tmp_path: Path) -> None:
    from autoprune.envs.tasks import ASSETS

    for arguments, match in (
        (("train", "--penalty", 0.1), "setting 'penalty'"),
        (("train", "--serve", 1.5, "--base", "none"), "serve must be a number above 0 and at most 1, but got 1.5"),
        (("train", "--serve", 0.5, "--serve", 0.3), "serve must grow from share to share, but got 0.5, 0.3"),
        (("train", "--order", "l3_norm", "--base", "none"), "unknown method 'l3_norm'"),
        (("train", "--groups", 99, "--out", tmp_path / "x"), "has 32 channels, which cannot make 99 groups"),
        (("train", "--data", "mnist"), "needs a trained network"),
        (("train", "--out", trained, *QUICK, "--penalty", -0.3), "was begun with other settings"),
        (("evaluate", trained, "--budget", 0.001), "can be set to"),
        (("evaluate", trained, "--budget", 0), "must be above 0"),
        (("evaluate", ASSETS / "digits_cnn"), "does not decide at run time"),
        (("export", trained, "--actions", 2, "--budget", 0.5), "one of the two"),
    ):
        result = call("runtime", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert match in result.output
        assert "Traceback" not in result.output


def test_a_budget_is_kept_by_what_was_stored(trained: Path) -> None:
    network = load(trained)
    assert isinstance(network, RuntimePrunedNetwork)
    network.use(budget=0.7)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
