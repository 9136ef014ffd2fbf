"""Names to data: the registry, options, factories; the small sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import datasets

from autoprune.data import DATASETS, DEFAULT_DATASET, DatasetSource, DataSplits, data_root, load_data
from autoprune.errors import DataError, SettingsError, UnknownNameError

FACTORY = """
import torch
from autoprune.data import load_data
X, Y = torch.arange(60.).view(30, 2), torch.arange(30) % 3
calls = []
def pair(scale=1.0): return X * scale, Y
def splits(seed, data_dir=None): calls.append((seed, data_dir)); return load_data("iris", seed=seed)
def everything(**options): calls.append(options); return {"train": (X, Y), "augment": "none"}
def broken(): return 1 / 0
def nothing(): return None
value = 3
"""

SMALL = {
    "digits": ((1, 8, 8), 10, [1079, 539, 359, 359]),
    "iris": ((4,), 3, [90, 45, 30, 30]),
    "wine": ((13,), 3, [106, 53, 36, 36]),
    "breast_cancer": ((30,), 2, [341, 170, 114, 114]),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module of the user's in it."""
    (tmp_path / "mine_of_data.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_of_data", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", SMALL)
def test_small_sets(name: str) -> None:
    data = load_data(name)
    shape, classes, sizes = SMALL[name]
    assert (data.name, data.input_shape, data.num_classes, len(data.classes)) == (name, shape, classes, classes)
    assert [len(split) for _, split in data.parts()] == sizes
    bunch = getattr(datasets, f"load_{name}")()
    given = bunch.images[:, None] / 16 if name == "digits" else bunch.data
    label_of = {row.astype(np.float32).tobytes(): label for row, label in zip(given, bunch.target, strict=True)}
    for _, split in data.parts():
        assert [label_of[x.numpy().tobytes()] for x in split.x] == split.y.tolist()
    inputs = data.train.inputs().transpose(0, 1).flatten(1)
    torch.testing.assert_close(inputs.mean(1), torch.zeros(len(inputs)), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.std(1, correction=0), torch.ones(len(inputs)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_seeds(name: str) -> None:
    assert load_data(name).digest == load_data(name, seed=0).digest
    assert load_data(name).digest != load_data(name, seed=1).digest
    assert torch.equal(load_data(name).test.x, load_data(name, seed=1).test.x)


def test_digest_is_the_same_in_another_process() -> None:
    code = "from autoprune.data import load_data; print(load_data('iris', seed=5).digest)"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == load_data("iris", seed=5).digest


def test_the_default_needs_no_file_and_no_network(tmp_path: Path) -> None:
    assert len(load_data(DEFAULT_DATASET, data_dir=tmp_path / "none").train) == 1079


def test_sizes_can_be_chosen() -> None:
    data = load_data("digits", validation=100, test=0.1, calibration=64)
    assert [len(split) for _, split in data.parts()] == [1517, 64, 100, 180]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("digit", {}, UnknownNameError, "unknown dataset 'digit'; did you mean 'digits'"),
        ("", {}, UnknownNameError, "unknown dataset ''"),
        ("digits", {"validatoin": 5}, UnknownNameError, "dataset 'digits': 'validatoin'; did you mean 'validation'"),
        ("digits", {"validation": 5000}, SettingsError, "validation=5000 asks for 5000 samples of 'digits'"),
        ("digits", {"calibration": 0}, SettingsError, "calibration must be a number of samples or a share"),
        ("csv", {}, SettingsError, "dataset 'csv' needs the option 'path', for instance csv:PATH"),
        ("csv:", {}, DataError, "no file"),
        ("image_folder", {}, SettingsError, "needs the option 'path'"),
        ("digits:x", {}, DataError, "digits"),
        ("no_such_module:x", {}, DataError, "no module named 'no_such_module'"),
        ("mine_of_data:", {}, DataError, "package.module:function"),
        ("mine_of_data:pare", {}, DataError, "did you mean 'pair'"),
        ("mine_of_data:value", {}, DataError, "must be a function, but is a int"),
        ("mine_of_data:broken", {}, DataError, "raised ZeroDivisionError"),
        ("mine_of_data:nothing", {}, DataError, "but got None"),
        ("mine_of_data:pair", {"depth": 3}, DataError, r"options \['depth'\]"),
    ],
)
def test_names_and_options_that_do_not_exist(
    here: Path, name: str, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_data(name, **options)


def test_factories(here: Path) -> None:
    pair = load_data("mine_of_data:pair", scale=2.0)
    assert pair.name == "mine_of_data:pair"
    assert float(torch.cat([pair.train.x, pair.validation.x, pair.test.x]).max()) == 118
    assert load_data("mine_of_data:splits", seed=4).digest == load_data("iris", seed=4).digest
    assert load_data("mine_of_data:everything", depth=3).num_classes == 3
    calls = sys.modules["mine_of_data"].calls
    assert calls == [(4, None), {"depth": 3}]


def test_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path / "a"))
    assert data_root(tmp_path / "b") == tmp_path / "b"
    assert data_root() == tmp_path / "a"
    monkeypatch.delenv("AUTOPRUNE_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root("~/c") == tmp_path / "c"
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert data_root() == tmp_path / "cache" / "autoprune" / "data"


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_tells_its_options(name: str) -> None:
    source = DATASETS[name]
    assert source.description
    assert {"validation", "calibration"} <= set(source.options)
    assert not {"seed", "data_dir"} & set(source.options)


def test_a_new_entry_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*, seed: int = 0, data_dir: Path | None = None, noise: float = 0.0) -> DataSplits:
        return load_data("iris", seed=seed, data_dir=data_dir)

    monkeypatch.setitem(DATASETS, "mine", DatasetSource(load, "mine"))
    assert load_data("mine", seed=2, noise=0.5).digest == load_data("iris", seed=2).digest
