from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from autoprune import training
from autoprune.artifacts import NetworkSpec, load, read_network
from autoprune.cli.main import app
from autoprune.data import DataSplits, Split, load_data
from autoprune.errors import ArtifactError, SettingsError, TrainingDiverged
from autoprune.evaluation import evaluate
from autoprune.models import default_options
from autoprune.seeding import generator
from autoprune.training import Epoch, TrainSettings, train_network

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """What no part of the program catches, as a signal."""


def tiny(seed: int = 0) -> DataSplits:
    g = generator(seed, "tiny")

    def split(n: int) -> Split:
        y = torch.randint(0, 3, (n,), generator=g)
        x = torch.randint(0, 80, (n, 1, 8, 8), generator=g, dtype=torch.uint8)
        x[torch.arange(n), 0, y, y] = 255
        return Split(x, y, torch.tensor([0.2]), torch.tensor([0.2]))

    return DataSplits("tiny", split(120), split(20), split(40), split(50), num_classes=3, augment="flip_crop")


DATA = tiny()
SPEC = NetworkSpec("digits_cnn", {"input_shape": [1, 8, 8], "num_classes": 3, "width": 0.25})
SETTINGS = TrainSettings(epochs=4, batch_size=32, lr=0.05, seed=3)


def bits(folder: Path) -> str:
    return read_network(folder).digest


def test_the_stored_network_is_the_best_epoch_and_has_the_stored_accuracy(tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    metrics = train_network(SPEC, DATA, SETTINGS, tmp_path / "net", progress=epochs.append)
    assert [e.epoch for e in epochs] == [1, 2, 3, 4]
    best = max(epochs, key=lambda e: (e.accuracy, -e.loss))
    assert metrics["best_epoch"] == best.epoch
    assert metrics["validation"]["accuracy"] == best.accuracy == epochs[-1].best_accuracy
    module = load(tmp_path / "net")
    assert evaluate(module, DATA.validation).accuracy == best.accuracy
    assert evaluate(module, DATA.test).accuracy == metrics["test"]["accuracy"]
    lines = (tmp_path / "net" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
    assert not (tmp_path / "net" / "checkpoint").exists()
    assert read_network(tmp_path / "net").data["digest"] == DATA.digest


def test_same_seed_same_bits_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(len(name) * 7)
        train_network(SPEC, DATA, TrainSettings(epochs=2, batch_size=32, seed=seed), tmp_path / name)
    assert bits(tmp_path / "a") == bits(tmp_path / "b") != bits(tmp_path / "c")


def stop_at(epoch: int) -> Callable[[Epoch], None]:
    def stop(e: Epoch) -> None:
        if e.epoch == epoch:
            raise Killed

    return stop


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_killed_and_continued_equals_straight(tmp_path: Path, optimizer: str) -> None:
    settings = TrainSettings(epochs=5, batch_size=32, optimizer=optimizer, lr=0.01, seed=1)
    straight = train_network(SPEC, DATA, settings, tmp_path / "straight")
    for epoch in (1, 3):
        with pytest.raises(Killed):
            train_network(SPEC, DATA, settings, tmp_path / "killed", progress=stop_at(epoch))
    seen: list[int] = []
    continued = train_network(SPEC, DATA, settings, tmp_path / "killed", progress=lambda e: seen.append(e.epoch))
    assert seen == [4, 5]
    assert bits(tmp_path / "killed") == bits(tmp_path / "straight")
    assert {**straight, "wall_s": 0} == {**continued, "wall_s": 0}


CHILD = """
import sys, time, torch
torch.set_num_threads(1)
from autoprune.artifacts import NetworkSpec
from autoprune.data import load_data
from autoprune.training import TrainSettings, train_network
spec = NetworkSpec("mlp", {"input_shape": [1, 8, 8], "dropout": 0.2})
pause = float(sys.argv[2])
settings = TrainSettings(epochs=8, seed=5, optimizer="adamw", lr=0.003)
train_network(spec, load_data("digits"), settings, sys.argv[1], progress=lambda _: time.sleep(pause))
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "straight"), "0"], check=True)
    killed, draw, kills = tmp_path / "killed", random.Random(0), 0
    while not (killed / "model.json").exists():
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(killed), "0.05"])
        before = (killed / "log.jsonl").read_text() if (killed / "log.jsonl").exists() else ""
        while child.poll() is None and (not (log := killed / "log.jsonl").exists() or log.read_text() == before):
            time.sleep(0.002)
        time.sleep(draw.random() * 0.1)
        kills += child.poll() is None
        child.kill()
        child.wait()
    assert kills >= 3
    assert bits(killed) == bits(tmp_path / "straight")


def test_a_second_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder), "60"]) as other:
        try:
            log = folder / "log.jsonl"  # the last that is written after an epoch
            while other.poll() is None and not (log.exists() and log.stat().st_size):
                time.sleep(0.02)
            (folder / "config.toml").write_text("theirs")
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            message = rf"another training runs in .* \(process {other.pid} on .* since .*\); wait for it"
            for resume in (True, False):
                with pytest.raises(ArtifactError, match=message):
                    train_network(SPEC, DATA, SETTINGS, folder, resume=resume)
            said = CliRunner().invoke(app, ["train", "--out", str(folder)], env={"COLUMNS": "300"})
            assert said.exit_code == 2
            assert re.search(message, said.output)
            assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        finally:
            other.kill()
    train_network(SPEC, DATA, SETTINGS, folder, resume=False)


def test_a_kill_between_the_files_of_a_checkpoint_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_network(SPEC, DATA, SETTINGS, tmp_path / "straight")
    with pytest.raises(Killed):
        train_network(SPEC, DATA, SETTINGS, tmp_path / "killed", progress=stop_at(2))

    write = training.write_text

    def die_at_the_state(path: Path, text: str) -> None:
        if path.name == "state.json":
            raise Killed
        write(path, text)

    with monkeypatch.context() as patched:  # the tensors of epoch 3 are written, the state is not
        patched.setattr(training, "write_text", die_at_the_state)
        with pytest.raises(Killed):
            train_network(SPEC, DATA, SETTINGS, tmp_path / "killed")
    assert {p.name for p in (tmp_path / "killed" / "checkpoint").iterdir()} == {
        "state.json",
        "epoch-2.safetensors",
        "epoch-3.safetensors",
    }
    train_network(SPEC, DATA, SETTINGS, tmp_path / "killed")
    assert bits(tmp_path / "killed") == bits(tmp_path / "straight")


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch_size=32)
    first = train_network(SPEC, DATA, settings, tmp_path)
    seen: list[Epoch] = []
    assert train_network(SPEC, DATA, settings, tmp_path, progress=seen.append) == first
    assert not seen
    train_network(SPEC, DATA, settings, tmp_path, progress=seen.append, resume=False)
    assert len(seen) == 1


def test_another_training_in_the_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    train_network(SPEC, DATA, TrainSettings(epochs=1, batch_size=32), tmp_path)
    with pytest.raises(ArtifactError, match=r"settings was \{'lr': 0.05\}, now \{'lr': 0.2\}; choose another folder"):
        train_network(SPEC, DATA, TrainSettings(epochs=1, batch_size=32, lr=0.2), tmp_path)
    with pytest.raises(ArtifactError, match=r"holds another training: data was"):
        train_network(SPEC, tiny(1), TrainSettings(epochs=1, batch_size=32), tmp_path)
    other = NetworkSpec(SPEC.factory, {**SPEC.options, "width": 0.5})
    with pytest.raises(ArtifactError, match=r"options was \{'width': 0.25\}, now \{'width': 0.5\}"):
        train_network(other, DATA, TrainSettings(epochs=1, batch_size=32), tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "json", "missing"])
def test_a_damaged_checkpoint_is_refused_with_the_way_out(tmp_path: Path, damage: str) -> None:
    with pytest.raises(Killed):
        train_network(SPEC, DATA, SETTINGS, tmp_path, progress=stop_at(1))
    state = tmp_path / "checkpoint" / "state.json"
    tensors = tmp_path / "checkpoint" / "epoch-1.safetensors"
    if damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-9])
    elif damage == "missing":
        tensors.unlink()
    else:
        state.write_text(state.read_text()[:-9])
    with pytest.raises(ArtifactError, match=r"checkpoint in .* cannot be read \(.*start anew without resuming"):
        train_network(SPEC, DATA, SETTINGS, tmp_path)
    train_network(SPEC, DATA, TrainSettings(epochs=1, batch_size=32), tmp_path, resume=False)


def test_early_stop_keeps_the_best(tmp_path: Path) -> None:
    noise = Split(DATA.validation.x, DATA.validation.y.roll(1), DATA.validation.mean, DATA.validation.std)
    data = DataSplits("noise", DATA.train, DATA.calibration, noise, DATA.test, num_classes=3)
    epochs: list[Epoch] = []
    settings = TrainSettings(epochs=40, batch_size=32, patience=3, lr=0.02)
    metrics = train_network(SPEC, data, settings, tmp_path, progress=epochs.append)
    assert metrics["epochs"] < 40
    assert metrics["epochs"] == metrics["best_epoch"] + 3
    assert evaluate(load(tmp_path), noise).accuracy == metrics["validation"]["accuracy"]


def test_divergence_ends_the_training_with_a_reason(tmp_path: Path) -> None:
    data = tiny()
    data.train.std.fill_(1e-30)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        train_network(NetworkSpec("mlp", {"input_shape": [1, 8, 8], "num_classes": 3}), data, SETTINGS, tmp_path)


def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("autoprune.train_loop.TrainLoop.advance", lambda *args: pytest.fail("it trained"))
    for resume in (True, False):
        with pytest.raises(ArtifactError, match=r"cannot (write|start anew)"):
            train_network(SPEC, DATA, TrainSettings(epochs=1), tmp_path / "file" / "net", resume=resume)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number from 1 on, but got 0"),
        ({"epochs": 2, "warmup_epochs": 3}, r"warmup_epochs must be at most epochs \(2\), but got 3"),
        ({"lr": -1}, "lr must be a number above 0, but got -1"),
        ({"patience": 1.5}, "patience must be a whole number from 0 on, but got 1.5"),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainSettings(**values)


def test_settings_that_fit() -> None:
    assert TrainSettings.fitting("digits_cnn", DATA, lr=None).optimizer == "sgd"
    theirs = TrainSettings.fitting("mine:net", DATA, epochs=1)
    assert (theirs.optimizer, theirs.lr, theirs.epochs, theirs.warmup_epochs) == ("adamw", 1e-3, 1, 0.5)
    assert TrainSettings.fitting("digits_cnn", DATA, optimizer="adamw", lr=0.3).lr == 0.3
    assert TrainSettings.fitting("digits_cnn", DATA, optimizer="adamw").lr == 1e-3


@pytest.mark.slow
def test_lenet5_learns_mnist(tmp_path: Path, real_data: Path) -> None:
    data = load_data("mnist", data_dir=real_data)
    settings = TrainSettings.fitting("lenet5", data, epochs=4)
    metrics = train_network(NetworkSpec("lenet5", default_options("lenet5", data)), data, settings, tmp_path)
    assert metrics["test"]["accuracy"] >= 0.985


@pytest.mark.parametrize(("model", "dataset", "least"), [("digits_cnn", "digits", 0.96), ("mlp", "iris", 0.89)])
def test_real_data_are_learnt_with_the_settings_that_fit(
    tmp_path: Path, model: str, dataset: str, least: float
) -> None:
    data = load_data(dataset)
    spec = NetworkSpec(model, default_options(model, data))
    settings = TrainSettings.fitting(model, data, epochs=8 if dataset == "digits" else 60)
    assert train_network(spec, data, settings, tmp_path)["test"]["accuracy"] >= least
