"""CIFAR-10: binary files and JPEG archive, whole, broken and wrong; the cache of decoded images."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data import DataSplits, load_data
from autoprune.data.cifar10 import CLASSES
from autoprune.data.cifar10_binary import ARCHIVE, FOLDER, NAMES, PARTS
from autoprune.data.cifar10_jpeg import content_sha256
from autoprune.data.download import RemoteFile, sha256
from autoprune.errors import DataError, SettingsError

RECORDS = 40
PER_CLASS = {"train": 6, "test": 2}


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def batches() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {NAMES: "\n".join(CLASSES).encode() + b"\n\n"}
    for name in (name for names in PARTS.values() for name in names):
        records = rng.integers(0, 256, (RECORDS, 3073), dtype=np.uint8)
        records[:, 0] = rng.permutation(np.arange(RECORDS) % 10)
        files[name] = records.tobytes()
    return files


def jpegs() -> dict[str, bytes]:
    from PIL import Image

    files = {}
    for part, count in PER_CLASS.items():
        for label, name in enumerate(CLASSES):
            for i in range(count):
                image = Image.new("RGB", (32, 32), (25 * label, 40 * i, 200 if part == "test" else 0))
                buffer = io.BytesIO()
                image.save(buffer, "JPEG")
                files[f"{part}/{name}/{i:04d}.jpg"] = buffer.getvalue()
    return files


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, with a cache of its own and the counts of small sets."""
    monkeypatch.setattr("autoprune.data.decoded.cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr("autoprune.data.cifar10_binary.RECORDS", RECORDS)
    monkeypatch.setattr("autoprune.data.cifar10_jpeg.PER_CLASS", PER_CLASS)
    (tmp_path / "cifar10").mkdir()
    return tmp_path


def put_archive(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Path:
    path = root / "cifar10" / ARCHIVE.name
    write_tar(path, ((f"{FOLDER}/{name}", data) for name, data in files.items()))
    monkeypatch.setattr("autoprune.data.cifar10.ARCHIVE", RemoteFile(ARCHIVE.name, sha256(path), ()))
    return path


def put_folder(root: Path, files: dict[str, bytes]) -> None:
    folder = root / "cifar10" / FOLDER
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def put_jpegs(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], known: dict[str, bytes]) -> Path:
    path = root / "cifar10" / "cifar10-jpeg.tar.gz"
    write_tar(path, files.items())
    monkeypatch.setattr("autoprune.data.cifar10_jpeg.CONTENT", content_sha256(known))
    return path


def load(root: Path, **options: Any) -> DataSplits:
    return load_data("cifar10", data_dir=root, download=False, **{"validation": 20, **options})


def test_binary_records_come_out_as_they_went_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = batches()
    put_archive(root, monkeypatch, files)
    data = load(root)
    train = b"".join(files[name] for name in PARTS["train"])
    label_of = {train[i + 1 : i + 3073]: train[i] for i in range(0, len(train), 3073)}
    for split in (data.train, data.validation):
        assert [label_of[x.numpy().tobytes()] for x in split.x] == split.y.tolist()
    assert (len(data.train), len(data.validation), len(data.test)) == (5 * RECORDS - 20, 20, RECORDS)
    assert (data.classes, data.augment, data.train.x.dtype) == (CLASSES, "flip_crop", torch.uint8)
    assert "binary" in data.source


def test_folder_archive_and_cache_agree(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = batches()
    put_archive(root, monkeypatch, files)
    fresh, cached = load(root), load(root)
    (root / "cifar10" / ARCHIVE.name).unlink()
    put_folder(root, files)
    assert fresh.digest == cached.digest == load(root).digest


def cut(files: dict[str, bytes]) -> None:
    files["data_batch_3.bin"] = files["data_batch_3.bin"][:-1]


def wrong_class(files: dict[str, bytes]) -> None:
    files["test_batch.bin"] = files["test_batch.bin"][:3073] + b"\x0b" + files["test_batch.bin"][3074:]


def unbalanced(files: dict[str, bytes]) -> None:
    batch = bytearray(files["data_batch_1.bin"])
    batch[0] = (batch[0] + 1) % 10
    files["data_batch_1.bin"] = bytes(batch)


def lacking(files: dict[str, bytes]) -> None:
    del files["data_batch_5.bin"]


def other_classes(files: dict[str, bytes]) -> None:
    files[NAMES] = b"apple\naquarium_fish\n"


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (cut, "data_batch_3.bin' should hold 40 records of 3073 bytes, 122920 in all, but holds 122919"),
        (wrong_class, r"test_batch.bin' must be in \[0, 9\], but record 1 has 11"),
        (unbalanced, "train files .* as many images of each class"),
        (lacking, "lacks the file 'data_batch_5.bin'"),
        (other_classes, "should list airplane, .* but lists apple, aquarium_fish"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_binary_files_that_are_wrong(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaking: Callable[[dict[str, bytes]], None],
    message: str,
    packed: bool,
) -> None:
    files = batches()
    breaking(files)
    if packed:
        put_archive(root, monkeypatch, files)
    else:
        put_folder(root, files)
    with pytest.raises(DataError, match=message):
        load(root)


def test_an_archive_of_another_checksum(root: Path) -> None:
    path = root / "cifar10" / ARCHIVE.name
    path.write_bytes(b"not the archive")
    with pytest.raises(DataError, match=f"'{path}' is not the published one: .* expected {ARCHIVE.sha256}"):
        load(root)


@pytest.mark.parametrize("kind", ["auto", "binary", "jpeg"])
def test_missing_files(root: Path, kind: str) -> None:
    with pytest.raises(DataError) as caught:
        load(root, format=kind)
    name = "cifar10-jpeg.tar.gz" if kind == "jpeg" else ARCHIVE.name
    assert name in str(caught.value)
    assert str(root / "cifar10") in str(caught.value)
    assert "SHA-256" in str(caught.value)


def test_jpeg_images_keep_their_class(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = jpegs()
    put_jpegs(root, monkeypatch, dict(reversed(files.items())), files)
    data = load(root)
    for part, blue in (("train", 0), ("validation", 0), ("test", 200)):
        split = getattr(data, part)
        red = (split.x[:, 0].float().mean((1, 2)) / 25).round().long()
        assert torch.equal(red, split.y), part
        assert bool(((split.x[:, 2].float().mean((1, 2)) - blue).abs() < 6).all()), part
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 20, 20)
    assert "JPEG" in data.source
    assert data.digest == load(root, format="jpeg").digest


def test_binary_is_preferred_and_the_format_can_be_chosen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = jpegs()
    put_jpegs(root, monkeypatch, files, files)
    put_folder(root, batches())
    assert "binary" in load(root).source
    assert "JPEG" in load(root, format="jpeg").source
    with pytest.raises(SettingsError, match="auto, binary, jpeg, but got 'png'"):
        load(root, format="png")


def small_image(files: dict[str, bytes]) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (31, 32)).save(buffer, "JPEG")
    files["train/cat/0001.jpg"] = buffer.getvalue()


def swapped(files: dict[str, bytes]) -> None:
    files["train/cat/0001.jpg"], files["train/dog/0001.jpg"] = files["train/dog/0001.jpg"], files["train/cat/0001.jpg"]


@pytest.mark.parametrize(
    ("breaking", "known", "message"),
    [
        (swapped, False, "SHA-256 of names and contents of its images"),
        (lambda files: files.pop("test/ship/0001.jpg"), True, "should hold 2 images in test/ship, but holds 1"),
        (lambda files: files.update({"train/cow/0001.jpg": b""}), True, "but holds 'train/cow/0001.jpg'"),
        (lambda files: files.update({"0001.jpg": b""}), True, "but holds '0001.jpg'"),
        (
            lambda files: files.update({"test/cat/0001.jpg": b"GIF?"}),
            True,
            "image '.*test/cat/0001.jpg' cannot be read",
        ),
        (
            lambda files: files.update({"test/cat/0001.jpg": files["test/cat/0001.jpg"][:-90]}),
            True,
            r"test/cat/0001.jpg' cannot be read \(.*[Tt]runcated",
        ),
        (small_image, True, "train/cat/0001.jpg' should be 32x32, but is 32x31"),
    ],
)
def test_jpeg_archives_that_are_wrong(
    root: Path, monkeypatch: pytest.MonkeyPatch, breaking: Callable[[dict[str, bytes]], Any], known: bool, message: str
) -> None:
    files, published = jpegs(), jpegs()
    breaking(files)
    put_jpegs(root, monkeypatch, files, files if known else published)
    with pytest.raises(DataError, match=message):
        load(root)
    assert not (root / "cache").exists()  # nothing wrong is kept


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_jpeg_archive(root: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    files = jpegs()
    path = put_jpegs(root, monkeypatch, files, files)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match="truncated"):
        load(root)


@pytest.mark.parametrize("damage", [b"", b"junk" * 100, "cut", "flip"])
def test_a_damaged_cache_is_made_anew(root: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | str) -> None:
    files = jpegs()
    put_jpegs(root, monkeypatch, files, files)
    digest = load(root).digest
    (cached,) = (root / "cache" / "decoded").iterdir()
    whole = cached.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    cached.write_bytes({"cut": whole[:-5], "flip": flipped}.get(damage, damage) if isinstance(damage, str) else damage)
    assert load(root).digest == digest
    assert cached.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = jpegs()
    put_jpegs(root, monkeypatch, files, files)
    digest = load(root).digest
    (root / "file").write_text("")
    monkeypatch.setattr("autoprune.data.decoded.cache_root", lambda: root / "file" / "below")
    assert load(root).digest == digest


MEMORY = """
import resource, torch, sys
from autoprune.data import load_data
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
load_data("digits")
before = peak()
data = load_data("cifar10", data_dir=sys.argv[1], format="jpeg")
data.digest
print(peak() - before, len(data.train), len(data.validation), len(data.calibration), len(data.test))
"""


@pytest.mark.slow
def test_the_real_archive(real_data: Path, tmp_path: Path) -> None:
    """Decoded once, then loaded with less memory than one float copy of the images would take (738 MB)."""
    if not (real_data / "cifar10" / "cifar10-jpeg.tar.gz").is_file():
        pytest.skip("no cifar10-jpeg.tar.gz")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, str(real_data)]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    megabytes, *sizes = done.stdout.split()
    assert [int(size) for size in sizes] == [45_000, 5_000, 2_000, 10_000]
    assert float(megabytes) < 600
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
