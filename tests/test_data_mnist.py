"""MNIST: IDX files, whole, broken and wrong."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.data import DataSplits, load_data
from autoprune.data.mnist import parse_idx
from autoprune.errors import DataError

COUNTS = {"train": 60, "t10k": 20}
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">{values.ndim + 1}I", 0x800 + values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def contents() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    made = {}
    for part, count in COUNTS.items():
        made[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28)))
        made[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return made


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a small MNIST in it, whose counts and checksums stand for the published ones."""
    made = contents()
    monkeypatch.setattr("autoprune.data.mnist.COUNTS", COUNTS)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    monkeypatch.setattr("autoprune.data.mnist.CHECKSUMS", sums)
    (tmp_path / "mnist").mkdir()
    for name, data in made.items():
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(data))
    return tmp_path


def load(root: Path) -> DataSplits:
    return load_data("mnist", data_dir=root, validation=10, download=False)


def test_images_and_labels_stay_together(tiny: Path) -> None:
    data = load(tiny)
    made = contents()
    images = np.frombuffer(made[IMAGES][16:], np.uint8).reshape(60, 28, 28)
    label_of = {image.tobytes(): i % 10 for i, image in enumerate(images)}
    for split in (data.train, data.validation, data.calibration):
        assert [label_of[x.numpy().tobytes()] for x in split.x] == split.y.tolist()
    assert (data.train.x.dtype, data.input_shape, len(data.train), len(data.validation)) == (
        torch.uint8,
        (1, 28, 28),
        50,
        10,
    )
    assert (len(data.test), data.num_classes, data.augment) == (20, 10, "none")


@pytest.mark.parametrize("level", [1, 9])
def test_any_compression_of_the_right_content_will_do(tiny: Path, level: int) -> None:
    digest = load(tiny).digest
    for name, data in contents().items():
        (tiny / "mnist" / f"{name}.gz").write_bytes(gzip.compress(data, level, mtime=level))
    assert load(tiny).digest == digest


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
def test_uncompressed_files_in_either_folder(tiny: Path, folder: str) -> None:
    digest = load(tiny).digest
    (tiny / folder).mkdir(parents=True, exist_ok=True)
    for name, data in contents().items():
        (tiny / "mnist" / f"{name}.gz").unlink()
        (tiny / folder / name).write_bytes(data)
    assert load(tiny).digest == digest


def relabelled(data: bytes) -> bytes:
    return data[:8] + bytes([3]) + data[9:]


BROKEN: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "gz truncated": (IMAGES, lambda data: gzip.compress(data)[:-2000], "is truncated"),
    "gz header only": (IMAGES, lambda data: gzip.compress(data)[:5], "is truncated"),
    "empty file": (IMAGES, lambda data: b"", "0 bytes are too few for an IDX header of 16"),
    "not gzip": (IMAGES, lambda data: b"<html>404</html>", "is corrupt .*gzip"),
    "bit flip": (IMAGES, lambda data: gzip.compress(data)[:-4] + b"abcd", "is corrupt"),
    "labels as images": (
        IMAGES,
        lambda data: gzip.compress(contents()[LABELS]),
        r"magic 2051, but has 2049 \(that of labels\)",
    ),
    "images as labels": (LABELS, lambda data: gzip.compress(contents()[IMAGES][:60]), r"magic 2049, but has 2051"),
    "content cut": (IMAGES, lambda data: gzip.compress(data[:-1]), "should hold 47040 values .* but holds 47039"),
    "content longer": (LABELS, lambda data: gzip.compress(data + b"\0"), "holds more than the 68 bytes"),
    "fewer images": (IMAGES, lambda data: gzip.compress(idx(np.zeros((59, 28, 28)))), r"header says \[59, 28, 28\]"),
    "other size": (IMAGES, lambda data: gzip.compress(idx(np.zeros((60, 28, 27)))), r"should hold \[60, 28, 28\]"),
    "label 10": (
        LABELS,
        lambda data: gzip.compress(data[:9] + b"\x0a" + data[10:]),
        r"in \[0, 9\], but sample 1 has 10",
    ),
    "wrong label": (LABELS, lambda data: gzip.compress(relabelled(data)), "SHA-256 of its uncompressed content is"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_the_reason(tiny: Path, case: str) -> None:
    name, breaking, message = BROKEN[case]
    path = tiny / "mnist" / f"{name}.gz"
    path.write_bytes(breaking(contents()[name]))
    with pytest.raises(DataError, match=message) as caught:
        load(tiny)
    assert str(path) in str(caught.value)


def test_a_file_that_unpacks_without_end_is_read_to_its_limit_only(tiny: Path) -> None:
    path = tiny / "mnist" / f"{LABELS}.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(DataError, match="holds more than the 68 bytes it should"):
        load(tiny)


def test_missing_files_are_all_named(tiny: Path) -> None:
    for name in (IMAGES, LABELS):
        (tiny / "mnist" / f"{name}.gz").unlink()
    with pytest.raises(DataError) as caught:
        load(tiny)
    sums = [hashlib.sha256(contents()[name]).hexdigest() for name in (IMAGES, LABELS)]
    for text in (f"{IMAGES}.gz", f"{LABELS}.gz", *sums, str(tiny / "mnist"), "switched off"):
        assert text in str(caught.value)
    assert "t10k" not in str(caught.value)


def test_header_that_promises_more_than_there_is() -> None:
    data = struct.pack(">4I", 2051, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF) + b"x"
    with pytest.raises(DataError, match="but holds 1"):
        parse_idx(data, Path("x"), dimensions=3)


def test_published_files(real_data: Path) -> None:
    data = load_data("mnist", data_dir=real_data)
    train = data.train.y.bincount() + data.validation.y.bincount()
    assert train.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (len(data.train), len(data.validation), len(data.calibration)) == (55_000, 5_000, 2_000)
    assert data.train.mean is not None
    assert data.train.std is not None
    assert float(data.train.mean) == pytest.approx(0.1307, abs=3e-4)
    assert float(data.train.std) == pytest.approx(0.3081, abs=3e-4)
    assert data.digest != load_data("mnist", data_dir=real_data, seed=1).digest
