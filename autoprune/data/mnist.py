"""MNIST from its four IDX files.

Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition", 1998.
"""

from __future__ import annotations

import hashlib
import struct
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoprune.data.archives import read_bytes
from autoprune.data.download import RemoteFile, check_sha256, fetch
from autoprune.data.sources import data_root
from autoprune.data.splits import DataSplits
from autoprune.data.splitting import Samples, Sizes, deal
from autoprune.errors import DataError

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
# Of the uncompressed content: copies of the .gz files differ from mirror to mirror.
CHECKSUMS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
COUNTS = {"train": 60_000, "t10k": 10_000}
_SIDE = 28
_FOLDERS = ("mnist", "MNIST/raw")


def load_mnist(
    *,
    seed: int = 0,
    data_dir: Path | None = None,
    validation: float | int = 5000,
    calibration: float | int | None = None,
    download: bool = True,
) -> DataSplits:
    """70,000 hand-written digits, uint8 ``[N, 1, 28, 28]``, 10 classes; the published test split.

    Args:
        seed: decides what is held out for validation.
        data_dir: the data root; the files lie in its folder ``mnist``.
        validation: samples held out of train.
        calibration: samples drawn from train.
        download: whether missing files may be downloaded.

    Raises:
        DataError: a file is missing and could not be had, or is not the published one.
    """
    root = data_root(data_dir)
    paths = _paths(root, download)
    pool, test = (_samples(paths, part) for part in COUNTS)
    classes = tuple(str(digit) for digit in range(10))
    sizes = Sizes(validation, calibration=calibration)
    return deal(
        "mnist", pool, seed=seed, sizes=sizes, test=test, classes=classes, num_classes=10, source="MNIST, IDX files"
    )


def _paths(root: Path, download: bool) -> dict[str, Path]:
    """Where each of the four files lies, compressed or not."""
    found: dict[str, Path] = {}
    for name in CHECKSUMS:
        places = [root / folder / file for folder in _FOLDERS for file in (f"{name}.gz", name)]
        found.update((name, path) for path in reversed(places) if path.is_file())
    missing = [name for name in CHECKSUMS if name not in found]
    files = [
        RemoteFile(f"{name}.gz", CHECKSUMS[name], tuple(f"{m}{name}.gz" for m in MIRRORS), "its uncompressed content")
        for name in missing
    ]
    new = fetch(files, root / _FOLDERS[0], dataset="mnist", check=_check, download=download)
    return {**found, **{name: new[f"{name}.gz"] for name in missing}}


def _check(file: RemoteFile, path: Path) -> None:
    name = file.name.removesuffix(".gz")
    _read(path, name, _shape(name))


def _shape(name: str) -> tuple[int, ...]:
    count = COUNTS[name.partition("-")[0]]
    return (count, _SIDE, _SIDE) if "images" in name else (count,)


def _samples(paths: dict[str, Path], part: str) -> Samples:
    names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
    images, labels = (_read(paths[name], name, _shape(name)) for name in names)
    return Samples(images.unsqueeze(1), labels.long())  # [N, 1, 28, 28], [N]


def _read(path: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    """The form is checked first, since its faults say more than a checksum does."""
    data = read_bytes(path, limit=4 + 4 * len(shape) + prod(shape))
    values = parse_idx(data, path, dimensions=len(shape))
    if values.shape != shape:
        raise DataError(f"'{path}' should hold {list(shape)} values, but its header says {list(values.shape)}")
    if len(shape) == 1 and int(values.max()) > 9:
        raise DataError(
            f"labels in '{path}' must be in [0, 9], but sample {int(values.argmax())} has {int(values.max())}"
        )
    check_sha256(path, hashlib.sha256(data).hexdigest(), CHECKSUMS[name], "its uncompressed content")
    return torch.from_numpy(values.copy())


def parse_idx(data: bytes, path: Path, *, dimensions: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The uint8 array in an IDX file: a big-endian header (magic 2048 + dimensions, then sizes), then the values.

    Args:
        data: the uncompressed content.
        path: where it came from, for messages.
        dimensions: how many the array must have: 3 for images (magic 2051), 1 for labels (magic 2049).

    Raises:
        DataError: another magic number, or more or fewer bytes than the header says.
    """
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise DataError(f"'{path}' is truncated: {len(data)} bytes are too few for an IDX header of {header}")
    magic, *sizes = struct.unpack(f">{dimensions + 1}I", data[:header])
    if magic != 0x800 + dimensions:
        kinds = {2051: "images", 2049: "labels"}
        other = f" (that of {kinds[magic]})" if magic in kinds else ""
        raise DataError(f"'{path}' should be an IDX file of magic {0x800 + dimensions}, but has {magic}{other}")
    if len(data) - header != prod(sizes):
        raise DataError(
            f"'{path}' should hold {prod(sizes)} values for its sizes {sizes}, but holds {len(data) - header}; "
            "delete it and get it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(sizes)
