"""What users bring: loaders, datasets, arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from autoprune.data import DataSplits, Split
from autoprune.errors import DataError, SettingsError, UnknownNameError

X = torch.arange(60, dtype=torch.float32).view(30, 2)
Y = torch.arange(30) % 3
VAL = (X[:12] + 100, Y[:12])
TEST = (X[:9] + 200, Y[:9])


class Mapped(Dataset[Any]):
    """A map-style dataset; ``form`` makes an item of x and y."""

    def __init__(self, form: Any = lambda x, y: (x, y)) -> None:
        self.form = form

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return self.form(X[index], int(Y[index]))


class Stream(IterableDataset[Any]):
    """A dataset that can only be read through."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(x, int(y)) for x, y in zip(X, Y, strict=True)])


class Noisy(Mapped):
    """A random transform in the dataset."""

    def __getitem__(self, index: int) -> Any:
        return X[index] + torch.rand(2), int(Y[index])


def by_name(x: torch.Tensor, y: int) -> dict[str, Any]:
    return {"pixel_values": x, "labels": y, "id": 7}


def loader(data: Any = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y) if data is None else data, **{"batch_size": 7, **options})


SAME = {
    "pair of tensors": lambda: (X, Y),
    "pair of arrays": lambda: (X.numpy().astype(np.float64), Y.numpy().astype(np.int32)),
    "columns of labels": lambda: (X, Y.view(-1, 1)),
    "float labels": lambda: (X, Y.float()),
    "split": lambda: Split(X, Y),
    "tensor dataset": lambda: TensorDataset(X, Y),
    "dataset": Mapped,
    "dataset of dicts": lambda: Mapped(by_name),
    "subset": lambda: Subset(Mapped(), list(range(30))),
    "concatenated": lambda: ConcatDataset([TensorDataset(X[:20], Y[:20]), TensorDataset(X[20:], Y[20:])]),
    "stream": Stream,
    "loader": loader,
    "shuffled loader": lambda: loader(shuffle=True),
    "loader that drops the last batch": lambda: loader(shuffle=True, drop_last=True),
    "loader of dicts": lambda: loader(Mapped(by_name)),
    "loader of a stream": lambda: loader(Stream()),
    "unbatched loader": lambda: loader([(X[:20], Y[:20]), (X[20:], Y[20:])], batch_size=None),
    "loader with a subset sampler": lambda: loader(sampler=SubsetRandomSampler(list(range(30)))),
    "list of samples": lambda: [(x, y) for x, y in zip(X, Y, strict=True)],
    "list of dicts": lambda: [{"x": x, "y": int(y)} for x, y in zip(X.numpy(), Y, strict=True)],
    "unbatched loader of samples": lambda: loader(batch_size=None),
    "list of batches": lambda: [(X[:20], Y[:20]), (X[20:], Y[20:]), (X[:0], Y[:0])],
}


def first(form: str) -> Any:
    return SAME[form]()


@pytest.mark.parametrize("form", [form for form in SAME if form != "list of batches"])
def test_every_form_gives_the_same_splits(form: str) -> None:
    expected = DataSplits.from_any({"train": (X, Y), "validation": VAL, "test": TEST})
    state = torch.get_rng_state()
    data = DataSplits.from_any({"train": first(form), "val": VAL, "test": TEST})
    assert data.digest == expected.digest
    assert torch.equal(torch.get_rng_state(), state)


def test_an_iterable_of_batches_is_read_in_its_order() -> None:
    data = DataSplits.from_any({"train": SAME["list of batches"](), "validation": VAL, "test": TEST})
    assert torch.equal(data.train.x, X)


def test_a_generator_is_read_once() -> None:
    data = DataSplits.from_any({"train": (pair for pair in [(X, Y)]), "validation": VAL, "test": TEST})
    assert torch.equal(data.train.x, X)


def test_loaders_in_the_public_api() -> None:
    data = DataSplits.from_loaders(train=loader(shuffle=True), validation=loader(TensorDataset(*VAL)), seed=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 6, 6)
    assert data.name == "custom"
    seen = torch.cat([data.validation.x, data.test.x])
    assert torch.equal(seen[seen[:, 0].argsort()], VAL[0])
    assert torch.equal(data.train.x, X)
    other = DataSplits.from_loaders(loader(), loader(TensorDataset(*VAL)), seed=4)
    assert torch.equal(other.test.x, data.test.x)  # the test split does not depend on the seed


def test_train_alone_is_split_by_class_and_seed() -> None:
    one, same, other = (DataSplits.from_any((X, Y), seed=s) for s in (0, 0, 1))
    assert [len(split) for _, split in one.parts()] == [18, 9, 6, 6]
    assert one.test.y.bincount().tolist() == [2, 2, 2]
    assert one.digest == same.digest != other.digest
    assert torch.equal(one.test.x, other.test.x)


def test_tuples_are_train_validation_test() -> None:
    pairs = DataSplits.from_any(((X, Y), VAL, TEST))
    assert pairs.digest == DataSplits.from_any({"train": (X, Y), "validation": VAL, "test": TEST}).digest
    two = DataSplits.from_any([TensorDataset(X, Y), TensorDataset(*VAL)])
    assert (len(two.train), len(two.validation), len(two.test)) == (30, 6, 6)
    gap = DataSplits.from_any([(X, Y), None, TEST])
    assert (len(gap.train), len(gap.validation), len(gap.test)) == (24, 6, 9)
    assert DataSplits.from_any(pairs) is pairs


def test_inputs_are_what_the_loader_yields() -> None:
    data = DataSplits.from_any({"train": (X, Y), "validation": VAL, "test": TEST})
    assert torch.equal(data.train.inputs(), X)
    pixels = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    raw = DataSplits.from_any((pixels, Y))
    assert raw.train.x.dtype == torch.uint8
    assert torch.equal(raw.train.inputs(), raw.train.x.float())
    tokens = DataSplits.from_any((torch.arange(60, dtype=torch.int32).view(30, 2), Y))
    assert tokens.train.inputs().dtype == torch.int64


def test_normalisation_and_other_facts() -> None:
    pixels = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    facts = {"mean": [0.5, 0.4, 0.3], "std": (0.2, 0.2, 0.1), "augment": "flip_crop", "num_classes": 5}
    data = DataSplits.from_any({"train": (pixels, Y), **facts}, classes=list("abcde"))
    x = data.test.x.double() / 255
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.2, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(data.test.inputs(), ((x - mean) / std).float(), atol=1e-5, rtol=0)
    assert (data.augment, data.num_classes, data.classes) == ("flip_crop", 5, ("a", "b", "c", "d", "e"))
    learned = DataSplits.from_any((X, Y), normalise=True)
    torch.testing.assert_close(learned.train.inputs().mean(0), torch.zeros(2), atol=1e-5, rtol=0)


def test_random_transforms_are_drawn_from_the_seed_and_leave_no_trace() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = DataSplits.from_any(loader(Noisy(), shuffle=True), seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert one.digest == DataSplits.from_any(loader(Noisy(), shuffle=True), seed=0).digest
    assert one.digest != DataSplits.from_any(loader(Noisy(), shuffle=True), seed=1).digest


def test_a_loaders_own_generator_is_put_back() -> None:
    own = torch.Generator().manual_seed(5)
    state = own.get_state()
    sampler = RandomSampler(TensorDataset(X, Y), replacement=True, num_samples=50, generator=own)
    data = DataSplits.from_any({"train": loader(sampler=sampler, generator=own), "validation": VAL, "test": TEST})
    assert torch.equal(own.get_state(), state)
    assert len(data.train) == 50


def test_a_weighted_sampler_is_followed_as_it_is() -> None:
    weights = [0.0] * 10 + [1.0] * 20
    given = loader(sampler=WeightedRandomSampler(weights, 40))
    data = DataSplits.from_any({"train": given, "validation": VAL, "test": TEST})
    assert len(data.train) == 40
    assert float(data.train.x.min()) >= 20


def raising(x: torch.Tensor, y: int) -> Any:
    raise RuntimeError("disk on fire")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "splits are given as DataSplits, .* but got None"),
        ({}, "a mapping without 'train' \\(empty\\)"),
        ({"validation": VAL}, "without 'train' \\(validation\\)"),
        (((X, Y), VAL, TEST, TEST), "but got a tuple of 4"),
        (5, "train data of 'custom' must be a DataLoader, a Dataset or arrays .* but got int"),
        ([], "but got a list of 0"),
        ({"train": []}, "train data of 'custom' yielded nothing"),
        ({"train": [(X, Y, Y)]}, r"must be \(inputs, classes\), but are tuple of 3"),
        ({"train": [X]}, r"must be \(inputs, classes\), but are Tensor"),
        ({"train": [{"x": X}]}, "must hold one input .* but hold x"),
        ({"train": [{"x": X, "image": X, "y": Y}]}, "must hold one input"),
        ({"train": [(X, Y), (X[:, :1], Y)]}, r"differ in shape: \[1\] and \[2\]"),
        ((X, Y.float() + 0.5), "must be whole numbers, but hold 0.5"),
        ((X, Y.float() * float("nan")), "must be whole numbers, but hold nan"),
        ((X, torch.eye(3)[Y]), "turn one-hot rows into classes with argmax"),
        ((X, Y[:20]), "30 inputs, but 20 classes"),
        ((X, Y - 1), "must be 0 or more, but got -1"),
        ((X.flatten(), Y), r"must be real numbers \[N, ...\], but are torch.float32 \[60\]"),
        ((X.to(torch.complex64), Y), "real numbers"),
        ((np.array([["a"], ["b"]]), np.array([0, 1])), "must hold numbers"),
        ((X / 0, Y), "NaN or infinite"),
        ((X, Y * 0), "at least 2 classes"),
        (Mapped(lambda x, y: (x[: 1 + y % 2], y)), "failed: RuntimeError: stack expects"),
        ({"train": [(Image.new("RGB", (8, 8)), 0)] * 4}, "holds PIL images; turn them into tensors"),
        ({"train": [(X, None)]}, "must hold numbers, but holds NoneType"),
        (Mapped(raising), "reading the train data of 'custom' failed: RuntimeError: disk on fire"),
        ({"train": (X, Y), "mean": [1.0, 2.0]}, "mean and std go together"),
        ({"train": (X, Y), "mean": "a", "std": "b"}, "mean must be numbers"),
        ({"train": (X, Y), "mean": [1.0], "std": [1.0]}, r"mean must be float32 \[2\]"),
        ({"train": (X, Y), "test": (X[:, :1], Y)}, "test split of 'custom' holds .* of shape \\[1\\]"),
        ({"train": (X, Y), "validation": (X[:1], Y[:1])}, "custom:validation' has 1 samples"),
        ({"train": (X, Y), "num_classes": 2}, r"must be in \[0, 1\], but got 2"),
    ],
)
def test_what_cannot_be_samples(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataSplits.from_any(given)


def test_names_that_nothing_has() -> None:
    with pytest.raises(UnknownNameError, match="unknown split 'trian'; did you mean 'train'"):
        DataSplits.from_any({"trian": (X, Y)})
    with pytest.raises(UnknownNameError, match="unknown option of data 'augmnt'; did you mean 'augment'"):
        DataSplits.from_any((X, Y), augmnt="none")
    with pytest.raises(SettingsError, match="asks for 40 samples"):
        DataSplits.from_any((X, Y), validation=40)
