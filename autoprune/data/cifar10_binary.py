"""CIFAR-10 as published: six files of 10,000 records, each a class and 3 x 32 x 32 bytes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from autoprune.data.archives import read_bytes, read_tar
from autoprune.data.download import RemoteFile
from autoprune.errors import DataError

FOLDER = "cifar-10-batches-bin"
ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
    ),
)
PARTS = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
RECORDS = 10_000  # in each file
NAMES = "batches.meta.txt"
_SIDE = 32
_BYTES = 1 + 3 * _SIDE * _SIDE
_LIMITS = {"member_limit": 1 << 25, "total_limit": 1 << 28}


def read_archive(path: Path, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """``train_x``, ``train_y``, ``test_x``, ``test_y`` as uint8, from the archive.

    Raises:
        DataError: truncated or corrupt, a file missing, or not what the format says.
    """
    files = {PurePosixPath(name).name: data for name, data in read_tar(path, **_LIMITS)}
    return _tensors(files, path, classes)


def read_folder(folder: Path, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """The same from a folder that holds the archive's files."""
    wanted = [NAMES, *(name for names in PARTS.values() for name in names)]
    present = [folder / name for name in wanted if (folder / name).is_file()]
    files = {path.name: read_bytes(path, limit=_LIMITS["member_limit"]) for path in present}
    return _tensors(files, folder, classes)


def _tensors(files: dict[str, bytes], where: Path, classes: tuple[str, ...]) -> dict[str, Tensor]:
    _check_names(files, where, classes)
    tensors = {}
    for part, names in PARTS.items():
        batches = []
        for name in names:
            if name not in files:
                raise DataError(f"'{where}' lacks the file {name!r}; delete it and get the dataset again")
            batches.append(parse_records(files.pop(name), f"{where}/{name}"))
        tensors[f"{part}_x"] = torch.cat([x for x, _ in batches])
        tensors[f"{part}_y"] = torch.cat([y for _, y in batches])
        _check_balance(tensors[f"{part}_y"], f"{part} files of '{where}'", classes)
    return tensors


def parse_records(data: bytes, where: str) -> tuple[Tensor, Tensor]:
    """Images ``[10000, 3, 32, 32]`` and classes ``[10000]``, uint8, of one file.

    Raises:
        DataError: another size than that of 10,000 records, or a class above 9.
    """
    if len(data) != RECORDS * _BYTES:
        raise DataError(
            f"'{where}' should hold {RECORDS} records of {_BYTES} bytes, {RECORDS * _BYTES} in all, "
            f"but holds {len(data)}: truncated or of another dataset"
        )
    records = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(RECORDS, _BYTES).copy())
    labels = records[:, 0].clone()
    if int(labels.max()) > 9:
        raise DataError(
            f"classes in '{where}' must be in [0, 9], but record {int(labels.argmax())} has {int(labels.max())}"
        )
    return records[:, 1:].reshape(RECORDS, 3, _SIDE, _SIDE), labels


def _check_names(files: dict[str, bytes], where: Path, classes: tuple[str, ...]) -> None:
    if NAMES in files:
        names = tuple(files[NAMES].decode("utf-8", "replace").split())
        if names != classes:
            raise DataError(f"'{where}/{NAMES}' should list {', '.join(classes)}, but lists {', '.join(names)[:200]}")


def _check_balance(labels: Tensor, what: str, classes: tuple[str, ...]) -> None:
    counts = torch.bincount(labels.long(), minlength=len(classes)).tolist()
    if len(set(counts)) != 1:
        raise DataError(f"the {what} should hold as many images of each class, but hold {counts}: the labels are wrong")
