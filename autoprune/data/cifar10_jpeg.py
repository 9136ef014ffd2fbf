"""CIFAR-10 as JPEG files: an archive with ``train/CLASS/NNNN.jpg`` and ``test/CLASS/NNNN.jpg``."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from autoprune.data.archives import read_tar
from autoprune.data.download import RemoteFile, check_sha256
from autoprune.data.images import decode_image
from autoprune.errors import DataError

# The checksum is of names and contents in order, so that the same images packed anew are as good.
CONTENT = "50ad6748b6e21784d69d60c380dbc30b9b8ec21336aff1d7db52f1607abb89c4"
JPEG_ARCHIVE = RemoteFile(
    "cifar10-jpeg.tar.gz", "b8d22658b5a1be7a9bf0e21e1a989e0240061a7667cf74b19e5ef1918c6cfb66", urls=()
)
PER_CLASS = {"train": 5000, "test": 1000}
_SIDE = 32
_LIMITS = {"member_limit": 1 << 16, "total_limit": 1 << 28}


def read_jpegs(path: Path, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """All images and classes of the archive: ``train_x``, ``train_y``, ``test_x``, ``test_y``, uint8.

    Raises:
        DataError: truncated or corrupt, an unsafe or unknown member, an image of another size, another number of
            images in a class, or other images than the known ones.
    """
    files = {name: data for name, data in read_tar(path, **_LIMITS) if name.endswith(".jpg")}
    labels = {name: _label(path, name, classes) for name in sorted(files)}
    _check_counts(path, labels, classes)
    check_sha256(path, content_sha256(files), CONTENT, "names and contents of its images")
    tensors = {}
    for part in PER_CLASS:
        mine = [name for name, (where, _) in labels.items() if where == part]
        x = torch.empty(len(mine), 3, _SIDE, _SIDE, dtype=torch.uint8)
        for row, name in enumerate(mine):
            x[row] = _image(files.pop(name), f"{path}:{name}")
        tensors[f"{part}_x"] = x
        tensors[f"{part}_y"] = torch.tensor([labels[name][1] for name in mine], dtype=torch.uint8)
    return tensors


def content_sha256(files: dict[str, bytes]) -> str:
    """SHA-256 over names, sizes and contents, sorted by name."""
    state = hashlib.sha256()
    for name in sorted(files):
        state.update(f"{name}\0{len(files[name])}\0".encode())
        state.update(files[name])
    return state.hexdigest()


def _label(path: Path, name: str, classes: tuple[str, ...]) -> tuple[str, int]:
    folders = name.split("/")[:-1]
    if len(folders) != 2 or folders[0] not in PER_CLASS or folders[1] not in classes:
        raise DataError(f"'{path}' should hold train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg, but holds {name!r}")
    return folders[0], classes.index(folders[1])


def _check_counts(path: Path, labels: dict[str, tuple[str, int]], classes: tuple[str, ...]) -> None:
    counts = Counter(labels.values())
    for part, wanted in PER_CLASS.items():
        for label, name in enumerate(classes):
            if counts[part, label] != wanted:
                raise DataError(
                    f"'{path}' should hold {wanted} images in {part}/{name}, "
                    f"but holds {counts[part, label]}; get it again"
                )


def _image(data: bytes, where: str) -> Tensor:
    image = decode_image(data, where)
    if image.shape != (3, _SIDE, _SIDE):
        raise DataError(f"image '{where}' should be {_SIDE}x{_SIDE}, but is {image.shape[1]}x{image.shape[2]}")
    return image
