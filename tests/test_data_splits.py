"""Split and DataSplits: what is fed to networks, and what is refused."""

from __future__ import annotations

import pytest
import torch

from autoprune.data import DataSplits, Split
from autoprune.errors import DataError, SettingsError
from autoprune.seeding import generator

MEAN, STD = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.25, 0.3])


def images(n: int = 12, label: str = "images") -> Split:
    rng = generator(0, label)
    x = torch.randint(0, 256, (n, 3, 8, 8), generator=rng, dtype=torch.uint8)
    return Split(x, torch.arange(n) % 3, MEAN, STD)


def splits(**changes: object) -> DataSplits:
    parts = {part: images(label=part) for part in ("train", "calibration", "validation", "test")}
    return DataSplits(**{"name": "toy", **parts, "num_classes": 3, **changes})  # type: ignore[arg-type]


def test_inputs_of_uint8_images_match_float64() -> None:
    split = images()
    expected = (split.x.double() / 255 - MEAN.double().view(1, 3, 1, 1)) / STD.double().view(1, 3, 1, 1)
    assert split.inputs().dtype == torch.float32
    torch.testing.assert_close(split.inputs().double(), expected, rtol=0, atol=2e-6)


def test_inputs_of_a_table_far_from_zero_keep_their_digits() -> None:
    x = torch.tensor([[1e6], [1e6 + 1], [1e6 + 3]])
    split = Split(x, torch.tensor([0, 1, 0]), torch.tensor([1e6]), torch.tensor([2.0]))
    assert split.inputs().flatten().tolist() == [0.0, 0.5, 1.5]


@pytest.mark.parametrize(
    "index", [slice(2, 5), torch.tensor([2, 3, 4]), torch.arange(12).clamp(2, 4) == torch.arange(12)]
)
def test_index_takes_the_same_rows_in_every_form(index: torch.Tensor | slice) -> None:
    split = images()
    assert torch.equal(split.inputs(index), split.inputs()[2:5])
    assert torch.equal(split.subset(index).inputs(), split.inputs()[2:5])
    assert torch.equal(split.subset(index).y, split.y[2:5])


@pytest.mark.parametrize("index", [None, slice(0, 4), torch.arange(4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_inputs_never_hand_out_the_stored_tensor(index: torch.Tensor | slice | None, dtype: torch.dtype) -> None:
    x = torch.ones(6, 2, dtype=dtype)
    split = Split(x, torch.zeros(6, dtype=torch.int64))
    split.inputs(index).zero_()
    assert bool((x == 1).all())


def test_without_statistics_numbers_are_only_turned_into_float32() -> None:
    y = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(Split(torch.full((3, 2), 255, dtype=torch.uint8), y).inputs(), torch.full((3, 2), 255.0))
    tokens = torch.tensor([[5, 6], [7, 8], [9, 10]])
    assert torch.equal(Split(tokens, y).inputs(slice(1, 3)), tokens[1:])
    assert Split(tokens, y).inputs().dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3)}, r"inputs \[N, ...\]"),
        ({"y": torch.zeros(2, dtype=torch.int64)}, r"but got \[3, 2\] and \[2\]"),
        ({"y": torch.zeros(3, 1, dtype=torch.int64)}, "as many classes"),
        ({"x": torch.zeros(3, 2, dtype=torch.float64)}, "float64"),
        ({"y": torch.zeros(3)}, "classes int64"),
        ({"mean": None}, "go together"),
        ({"mean": torch.zeros(3)}, r"mean must be float32 \[2\]"),
        ({"std": torch.tensor([1.0, 0.0])}, "std must be above 0"),
        ({"mean": torch.tensor([0.0, float("nan")])}, "mean must be finite"),
    ],
)
def test_split_refuses(change: dict[str, torch.Tensor | None], message: str) -> None:
    good = {
        "x": torch.zeros(3, 2),
        "y": torch.zeros(3, dtype=torch.int64),
        "mean": torch.zeros(2),
        "std": torch.ones(2),
    }
    Split(**good)
    with pytest.raises(DataError, match=message):
        Split(**{**good, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"test": images().subset(slice(0, 0))}, DataError, "test split of 'toy' is empty"),
        ({"num_classes": 2}, DataError, r"train split of 'toy' must be in \[0, 1\], but got 2"),
        ({"num_classes": 1}, DataError, "at least 2 classes"),
        ({"classes": ("a", "b")}, DataError, "3 classes, but 2 names"),
        ({"augment": "mixup"}, SettingsError, "none, flip_crop"),
        (
            {"validation": Split(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))},
            DataError,
            "validation split",
        ),
    ],
)
def test_data_splits_refuse(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        splits(**change)


def test_nan_inputs_are_refused() -> None:
    table = Split(torch.zeros(4, 2), torch.arange(4) % 2)
    bad = Split(torch.tensor([[0.0, float("inf")], [0.0, 0.0]]), torch.arange(2))
    with pytest.raises(DataError, match="calibration split of 'toy' holds inputs that are NaN or infinite"):
        splits(train=table, calibration=bad, validation=table, test=table, num_classes=2)
    with pytest.raises(SettingsError, match=r"needs images .* but 'toy' is \[N, 2\]"):
        splits(train=table, calibration=table, validation=table, test=table, num_classes=2, augment="flip_crop")


def test_example_and_shape() -> None:
    data = splits()
    assert data.input_shape == (3, 8, 8)
    assert torch.equal(data.example(5), data.train.inputs(slice(0, 5)))
    assert data.example().shape == (2, 3, 8, 8)


def test_digest_changes_with_every_part_and_with_nothing_else() -> None:
    data = splits()
    assert data.digest == splits(name="other", source="elsewhere").digest
    assert len(data.digest) == 16
    other = images(label="other")
    swapped = splits(validation=data.test, test=data.validation)
    one_pixel = images(label="train")
    one_pixel.x[0, 0, 0, 0] ^= 1
    one_label = Split(data.test.x, data.test.y.roll(1), MEAN, STD)
    statistics = Split(data.train.x, data.train.y, MEAN, STD * 1.5)
    changed = [
        {"train": one_pixel},
        {"test": one_label},
        {"train": statistics},
        {"calibration": other},
        {"num_classes": 4},
    ]
    digests = [data.digest, swapped.digest, *(splits(**change).digest for change in changed)]
    assert len(set(digests)) == len(digests)


def test_moved_splits_are_equal() -> None:
    data = splits(classes=("a", "b", "c"), augment="flip_crop")
    moved = data.to("cpu")
    assert (moved.digest, moved.classes, moved.augment) == (data.digest, data.classes, data.augment)
