"""Images in folders: ``train/CLASS/*``, perhaps ``validation/CLASS/*`` and ``test/CLASS/*``; or ``CLASS/*`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autoprune.data.images import MODES, decode_image
from autoprune.data.sources import data_root
from autoprune.data.splits import DataSplits
from autoprune.data.splitting import Samples, Sizes, deal
from autoprune.errors import DataError, SettingsError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_PARTS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


def load_image_folder(
    *,
    path: str | Path,
    seed: int = 0,
    data_dir: Path | None = None,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    augment: str = "none",
    validation: float | int = 0.2,
    test: float | int = 0.2,
    calibration: float | int | None = None,
) -> DataSplits:
    """Images in class folders, uint8 ``[N, channels, H, W]``; classes are the folder names in order.

    Args:
        path: the folder, seen from the working folder or from the data root. Where it holds ``train``, that one and,
            if they are there, ``validation`` (or ``val``) and ``test`` are the splits; else it holds the class folders.
        seed: decides what is held out.
        data_dir: the data root.
        size: side, or height and width, to resize every image to; by default all must be of one size.
        channels: 3 for colour, 1 for grey.
        augment: ``none``, or ``flip_crop`` where a mirrored and shifted image is of the same class.
        validation: how much is held out of train where there is no such folder.
        test: how much is held out of train where there is no such folder.
        calibration: how much is drawn from train.

    Raises:
        DataError: no such folder, no images, a class that train does not have, an image that cannot be read, or sizes
            that differ.
        SettingsError: an option outside what it may be.
    """
    if channels not in MODES:
        raise SettingsError(f"channels must be 1 or 3, but got {channels!r}")
    folder, wanted = _find(path, data_dir), _size(size)
    parts = _part_folders(folder)
    classes = _class_names(parts["train"])
    samples: dict[str, Any] = {part: _read(where, classes, channels, wanted) for part, where in parts.items()}
    shapes = {part: list(some.x.shape[2:]) for part, some in samples.items()}
    if any(shape != shapes["train"] for shape in shapes.values()):
        raise DataError(f"images in '{folder}' differ in size from split to split ({shapes}); set size")
    sizes = Sizes(validation, test, calibration)
    facts: dict[str, Any] = {"augment": augment, "classes": classes, "num_classes": len(classes)}
    pool = samples.pop("train")
    return deal(folder.name, pool, seed=seed, sizes=sizes, **samples, **facts, source=f"image folder {folder.name}")


def _find(path: str | Path, data_dir: Path | None) -> Path:
    here = Path(path).expanduser()
    there = data_root(data_dir) / here
    for candidate in (here, there):
        if candidate.is_dir():
            return candidate
    raise DataError(f"no folder '{here}' (nor '{there}'); give the path of a folder of images")


def _size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= 4096 for side in sides):
        raise SettingsError(f"size must be one side or height and width, in pixels from 1 to 4096, but got {size!r}")
    return sides[0], sides[1]


def _part_folders(folder: Path) -> dict[str, Path]:
    if not (folder / "train").is_dir():
        return {"train": folder}
    parts: dict[str, Path] = {}
    for name, part in _PARTS.items():
        if (folder / name).is_dir():
            if part in parts:
                raise DataError(f"'{folder}' has two folders for {part}: {parts[part].name!r} and {name!r}")
            parts[part] = folder / name
    return parts


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read '{folder}': {error.strerror or error}") from error


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(entry.name for entry in _folders(folder))
    if len(names) < 2:
        raise DataError(f"'{folder}' should hold a folder of images for each class, but holds {len(names)} folders")
    return names


def _read(folder: Path, classes: tuple[str, ...], channels: int, size: tuple[int, int] | None) -> Samples:
    files = _files(folder, classes)
    x = torch.empty(0, dtype=torch.uint8)
    for row, (path, _) in enumerate(files):
        try:
            image = decode_image(path.read_bytes(), str(path), channels=channels, size=size)
        except OSError as error:
            raise DataError(f"cannot read '{path}': {error.strerror or error}") from error
        if row == 0:
            x = torch.empty(len(files), *image.shape, dtype=torch.uint8)
        if image.shape != x.shape[1:]:
            raise DataError(
                f"images must be of one size, but '{files[0][0]}' is {x.shape[2]}x{x.shape[3]} and '{path}' is "
                f"{image.shape[1]}x{image.shape[2]}; set size to resize them"
            )
        x[row] = image
    return Samples(x, torch.tensor([label for _, label in files]))


def _files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Images and their classes, sorted; files that are not images by their name are left out."""
    found: list[tuple[Path, int]] = []
    for entry in _folders(folder):
        if entry.name not in classes:
            raise DataError(f"'{folder}' holds the class {entry.name!r}, which the train folder does not have")
        images = sorted(file for file in entry.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not images:
            raise DataError(f"class folder '{entry}' holds no images ({', '.join(sorted(SUFFIXES))})")
        found += [(file, classes.index(entry.name)) for file in images]
    if not found:
        raise DataError(f"'{folder}' holds no class folders")
    return found
