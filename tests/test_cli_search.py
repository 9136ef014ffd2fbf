"""The main job as a user runs it: stopped and continued, with workers, with a network and data of the user's own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import autoprune
from autoprune.cli.main import app

OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def make_net(hidden=12):
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))

def make_loaders(samples=240):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 6, generator=generator)
    y = x[:, :3].argmax(1)
    return {"train": DataLoader(TensorDataset(x, y), batch_size=16)}
"""
ENTRY = "from autoprune.cli.main import main; main()"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(autoprune.__file__).resolve().parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def events(folder: Path) -> list[dict[str, object]]:
    log = folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def finished(folder: Path) -> list[object]:
    return [e["number"] for e in events(folder) if e["event"] == "trial_finished"]


def test_ctrl_c_ends_with_what_there_is_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ["search", "--train-epochs", "3", "--trials", "40", "--retrain-steps", "20", "--out", "run", "--no-test"]
    # A job that a shell runs in the background ignores Ctrl-C, and so would everything that it starts.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = subprocess.Popen(
        [sys.executable, "-c", heard + ENTRY, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 240
        while len(finished(tmp_path / "run")) < 5:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert re.search(r"(?m)^ best found +\d+\.\d\d%", output)
    assert "Stopped by Ctrl-C; the same command goes on." in output
    before = finished(tmp_path / "run")
    assert len(before) < 43
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert re.search(r"Going on: \d+ of 40 trials are done", result.output)
    counts = Counter(finished(tmp_path / "run"))
    assert sorted(counts) == list(range(43))
    assert set(counts.values()) == {1}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["counts"] == {"ok": 43}


def test_a_network_and_data_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my_code.py").write_text(OWN)
    options = ("--model-options", "hidden=16", "--data-options", "samples=300", "--train-epochs", 8, "--trials", 2)
    result = call("search", "--model", "my_code:make_net", "--data", "my_code:make_loaders", *options)
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    pruned = autoprune.load(folder / "best")
    assert pruned(torch.zeros(4, 6)).shape == (4, 3)
    rows = {row["name"]: row for row in json.loads((folder / "result.json").read_text())["rows"]}
    assert rows["dense"]["params"] == 6 * 16 + 16 + 16 * 16 + 16 + 16 * 3 + 3
    assert rows["best found"]["macs"] <= 0.5 * rows["dense"]["macs"]
    result = call("evaluate", folder / "best", "--no-latency")
    assert result.exit_code == 0, result.output
    assert f"{100 * rows['best found']['test']:.2f}%" in result.output


@pytest.mark.slow
def test_workers_find_what_one_process_finds_in_the_baselines(tmp_path: Path) -> None:
    common = (
        "--data",
        "iris",
        "--train-epochs",
        "5",
        "--trials",
        "2",
        "--retrain-steps",
        "2",
        "--controller",
        "random",
    )
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, "search", *common, "--workers", "2", "--out", "two"],
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert call("search", *common, "--out", "one").exit_code == 0
    rows = [json.loads((tmp_path / name / "result.json").read_text())["rows"] for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        assert (one["name"], one["macs"], one["accuracy"]) == (two["name"], two["macs"], two["accuracy"])


def test_a_latency_budget_is_measured(tmp_path: Path) -> None:
    common = ("--data", "wine", "--train-epochs", 3, "--trials", 2, "--retrain-steps", 0)
    result = call("search", *common, "--budget", "latency_ms=1000ms", "--budget", "params=0.6", "--out", "run")
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "run" / "result.json").read_text())
    assert data["limits"]["latency_ms"] == 1000
    assert data["rows"][-1]["params"] <= 0.6 * data["rows"][0]["params"]
    assert os.path.isfile("run/study.db")


def test_storage_elsewhere_by_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/all.db"
    common = ("--data", "iris", "--train-epochs", 2, "--trials", 1, "--retrain-steps", 0, "--storage", url)
    assert call("search", *common, "--out", "run", "--study-name", "first").exit_code == 0
    assert not (tmp_path / "run" / "study.db").exists()
    assert re.search(r"first .* 4 ok", call("study", "list", url).output)
    result = call("study", "export", "run", "--out", "again")
    assert result.exit_code == 0, result.output
    digests = [json.loads((tmp_path / f / "model.json").read_text())["digest"] for f in ("again", "run/best")]
    assert digests[0] == digests[1]
