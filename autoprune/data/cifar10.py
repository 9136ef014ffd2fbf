"""CIFAR-10: the published binary files, or an archive of JPEG files in class folders.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from autoprune.data.cifar10_binary import ARCHIVE, FOLDER, read_archive, read_folder
from autoprune.data.cifar10_jpeg import JPEG_ARCHIVE, read_jpegs
from autoprune.data.decoded import decoded
from autoprune.data.download import RemoteFile, check_sha256, fetch, sha256
from autoprune.data.sources import data_root
from autoprune.data.splits import DataSplits
from autoprune.data.splitting import Samples, Sizes, deal
from autoprune.errors import SettingsError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FORMATS = ("auto", "binary", "jpeg")


def load_cifar10(
    *,
    seed: int = 0,
    data_dir: Path | None = None,
    validation: float | int = 5000,
    calibration: float | int | None = None,
    format: str = "auto",
    download: bool = True,
) -> DataSplits:
    """60,000 colour images, uint8 ``[N, 3, 32, 32]``, 10 classes; the published test split.

    Args:
        seed: decides what is held out for validation.
        data_dir: the data root; the files lie in its folder ``cifar10``.
        validation: samples held out of train.
        calibration: samples drawn from train.
        format: ``binary`` (the published files, downloaded where missing), ``jpeg`` (``cifar10-jpeg.tar.gz``,
            re-encoded and so a little different), or ``auto``: binary where it is there, else jpeg, else binary
            downloaded.
        download: whether missing files may be downloaded.

    Raises:
        DataError: a file is missing and could not be had, or is not the right one.
        SettingsError: an unknown ``format``.
    """
    if format not in FORMATS:
        raise SettingsError(f"format of cifar10 must be one of {', '.join(FORMATS)}, but got {format!r}")
    tensors, source = _tensors(data_root(data_dir) / "cifar10", format, download)
    pool, test = (Samples(tensors[f"{part}_x"], tensors[f"{part}_y"].long()) for part in ("train", "test"))
    sizes = Sizes(validation, calibration=calibration)
    facts: dict[str, Any] = {"num_classes": 10, "classes": CLASSES, "source": source, "augment": "flip_crop"}
    return deal("cifar10", pool, seed=seed, sizes=sizes, test=test, **facts)


def _tensors(folder: Path, kind: str, download: bool) -> tuple[dict[str, Tensor], str]:
    """``train_x``, ``train_y``, ``test_x``, ``test_y`` as uint8, and where they come from."""
    jpeg = folder / JPEG_ARCHIVE.name
    if kind != "binary" and jpeg.is_file() and not (kind == "auto" and _has_binary(folder)):
        key = f"cifar10-jpeg-1-{sha256(jpeg)[:32]}"
        return decoded(key, lambda: read_jpegs(jpeg, CLASSES)), "CIFAR-10, JPEG re-encoding"
    if kind == "jpeg":
        fetch([JPEG_ARCHIVE], folder, dataset="cifar10", check=_check_archive, download=download)
    if (folder / FOLDER).is_dir():
        return read_folder(folder / FOLDER, CLASSES), "CIFAR-10, published binary files"
    archive = fetch([ARCHIVE], folder, dataset="cifar10", check=_check_archive, download=download)[ARCHIVE.name]
    _check_archive(ARCHIVE, archive)
    return decoded(f"cifar10-binary-1-{ARCHIVE.sha256[:32]}", lambda: read_archive(archive, CLASSES)), (
        "CIFAR-10, published binary files"
    )


def _has_binary(folder: Path) -> bool:
    return (folder / FOLDER).is_dir() or (folder / ARCHIVE.name).is_file()


def _check_archive(file: RemoteFile, path: Path) -> None:
    check_sha256(path, sha256(path), file.sha256)
