"""Folders of images, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from autoprune.data import DataSplits, load_data
from autoprune.errors import AutopruneError, DataError, SettingsError

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def fill(folder: Path, *, count: int = 6, size: tuple[int, int] = (10, 8), suffix: str = "png") -> Path:
    """``count`` images of width 10 and height 8 in each class folder, of the colour of their class."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, tuple(max(0, c - i) for c in colour)).save(folder / name / f"{i}.{suffix}")
    return folder


def load(path: Path, **options: Any) -> DataSplits:
    return load_data("image_folder", path=path, **options)


def sees_its_class(data: DataSplits) -> None:
    for part, split in data.parts():
        brightest = 2 - split.x.float().mean((2, 3)).argmax(1)  # red is channel 0, and the last class
        assert torch.equal(brightest, split.y), part


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "ppm", "tiff"])
def test_class_folders_alone(tmp_path: Path, suffix: str) -> None:
    data = load(fill(tmp_path / "set", suffix=suffix))
    assert (data.name, data.classes, data.train.x.dtype, data.input_shape) == (
        "set",
        ("blue", "green", "red"),
        torch.uint8,
        (3, 8, 10),
    )
    assert [len(split) for _, split in data.parts()] == [10, 5, 4, 4]
    assert data.augment == "none"
    sees_its_class(data)


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_split_folders(tmp_path: Path, validation: str) -> None:
    for part, count in (("train", 5), (validation, 3), ("test", 2)):
        fill(tmp_path / part, count=count)
    (tmp_path / "train" / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    data = load(tmp_path, augment="flip_crop")
    assert [len(split) for _, split in data.parts()] == [15, 7, 9, 6]
    assert data.augment == "flip_crop"
    sees_its_class(data)


def test_train_folder_only(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    assert load(tmp_path).digest == load(tmp_path / "train").digest


@pytest.mark.parametrize(("size", "shape"), [(16, (16, 16)), ([4, 5], (4, 5)), ((8, 10), (8, 10))])
def test_images_are_resized_when_asked(tmp_path: Path, size: Any, shape: tuple[int, int]) -> None:
    fill(tmp_path)
    Image.new("RGB", (30, 20), COLOURS["red"]).save(tmp_path / "red" / "large.png")
    data = load(tmp_path, size=size)
    assert data.input_shape == (3, *shape)
    sees_its_class(data)
    with pytest.raises(DataError, match=r"'.*0.png' is 8x10 and '.*large.png' is 20x30; set size"):
        load(tmp_path)


def test_grey_and_palette_images(tmp_path: Path) -> None:
    fill(tmp_path)
    Image.new("L", (10, 8), 9).convert("P").save(tmp_path / "red" / "palette.png")
    Image.new("RGBA", (10, 8), (250, 0, 0, 3)).save(tmp_path / "red" / "alpha.png")
    assert load(tmp_path).input_shape == (3, 8, 10)
    assert load(tmp_path, channels=1).input_shape == (1, 8, 10)


def truncated(folder: Path) -> None:
    path = folder / "red" / "0.jpg"
    image = Image.effect_noise((10, 8), 90).convert("RGB")
    image.save(path)
    path.write_bytes(path.read_bytes()[:-60])


def bomb(folder: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(folder / "red" / "0.png")


def missing_class(folder: Path) -> None:
    for file in (folder / "blue").iterdir():
        file.unlink()


def split_up(folder: Path) -> None:
    for part in ("train", "test"):
        fill(folder / part)


def new_class(folder: Path) -> None:
    split_up(folder)
    (folder / "test" / "mauve").mkdir()


def other_size(folder: Path) -> None:
    fill(folder / "train")
    fill(folder / "test", size=(9, 9))


def both_names(folder: Path) -> None:
    split_up(folder)
    fill(folder / "val")
    fill(folder / "valid")


@pytest.mark.parametrize(
    ("breaking", "options", "error", "message"),
    [
        (truncated, {}, DataError, r"image '.*red/0\.jpg' cannot be read \(.*[Tt]runcated"),
        (bomb, {}, DataError, r"image '.*red/0\.png' cannot be read \(.*decompression bomb"),
        (
            lambda f: (f / "red" / "0.png").write_bytes(b""),
            {},
            DataError,
            r"red/0\.png' cannot be read \(cannot identify",
        ),
        (lambda f: (f / "red" / "0.png").write_bytes(b"<svg/>"), {}, DataError, r"red/0\.png' cannot be read"),
        (missing_class, {}, DataError, r"class folder '.*blue' holds no images"),
        (new_class, {}, DataError, "holds the class 'mauve', which the train folder does not have"),
        (other_size, {}, DataError, "differ in size from split to split .*; set size"),
        (both_names, {}, DataError, "two folders for validation: 'val' and 'valid'"),
        (lambda f: None, {"size": 0}, SettingsError, "size must be one side or height and width"),
        (lambda f: None, {"size": (1, 2, 3)}, SettingsError, "size must be"),
        (lambda f: None, {"channels": 2}, SettingsError, "channels must be 1 or 3, but got 2"),
        (lambda f: None, {"augment": "spin"}, SettingsError, "none, flip_crop, but got 'spin'"),
    ],
)
def test_folders_that_are_refused(
    tmp_path: Path, breaking: Any, options: dict[str, Any], error: type[AutopruneError], message: str
) -> None:
    fill(tmp_path, count=4)
    breaking(tmp_path)
    with pytest.raises(error, match=message):
        load(tmp_path, **options)


def test_no_folder_and_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*none' \(nor '"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match="a folder of images for each class, but holds 0 folders"):
        load(tmp_path)
    (tmp_path / "only").mkdir()
    with pytest.raises(DataError, match="holds 1 folders"):
        load_data(f"image_folder:{tmp_path}")
