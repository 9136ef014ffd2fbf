"""How samples are dealt out to the splits: stratified by class, by seed, with exact sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data.splits import DataSplits, Split
from autoprune.errors import DataError, SettingsError
from autoprune.seeding import generator

CALIBRATION_SAMPLES = 2000
_BLOCK = 1 << 22  # entries turned into float64 at a time


@dataclass(frozen=True)
class Sizes:
    """How much each held-out split takes: a number of samples (1 or more) or a share in (0, 1).

    Attributes:
        validation: held out of the training samples (of all samples where the test split is held out too).
        test: held out of all samples, where none is published. It is the same for every seed, so that a network
            trained under one seed has never seen the test split of another.
        calibration: drawn from train; ``None``: half of train, at most 2,000.
    """

    validation: float | int = 0.2
    test: float | int = 0.2
    calibration: float | int | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs ``[N, ...]`` and classes ``[N]``, not yet dealt out."""

    x: Tensor
    y: Tensor


def deal(
    name: str,
    pool: Samples,
    *,
    seed: int,
    sizes: Sizes,
    validation: Samples | None = None,
    test: Samples | None = None,
    calibration: Samples | None = None,
    num_classes: int | None = None,
    normalise: bool | tuple[Tensor, Tensor] = True,
    impute: bool = False,
    **facts: Any,
) -> DataSplits:
    """Deal samples out to the four splits.

    Args:
        name: the dataset's name, for messages.
        pool: the training samples; what is not given besides is held out of them.
        seed: decides what goes into validation and calibration, and the order of samples.
        sizes: how much goes where; a size for a split that is given is not used.
        validation: the validation samples, where they are given.
        test: the test samples, where they are given or published.
        calibration: the calibration samples, where they are given.
        num_classes: highest class + 1 by default.
        normalise: by mean and deviation of the train split (``True``), by those given, or not at all.
        impute: put the train split's mean of the column where a value is NaN.
        facts: ``augment``, ``classes``, ``source`` of :class:`DataSplits`.

    Raises:
        DataError: too few samples, or samples that cannot be (see :class:`DataSplits`).
        SettingsError: a size that cannot be.
    """
    check_samples(name, pool)
    total = len(pool.y)
    if test is None:
        taken, rest = draw(pool.y, _count(sizes.test, total, "test", name, total - 1), generator(0, "test"), name)
        test, pool = _take(pool, taken), _take(pool, rest)
    else:
        test = _shuffled(test, generator(0, "test"))
    if validation is None:
        count = _count(sizes.validation, total, "validation", name, len(pool.y) - 1)
        taken, rest = draw(pool.y, count, generator(seed, "validation"), name)
        validation, pool = _take(pool, taken), _take(pool, rest)
    else:
        validation = _shuffled(validation, generator(0, "validation"))
    if calibration is None:
        default = min(CALIBRATION_SAMPLES, max(1, len(pool.y) // 2))
        wanted = default if sizes.calibration is None else sizes.calibration
        count = _count(wanted, len(pool.y), "calibration", name, len(pool.y))
        calibration = _take(pool, draw(pool.y, count, generator(seed, "calibration"), name, keep=0)[0])
    given = {"train": pool, "calibration": calibration, "validation": validation, "test": test}
    highest = max(int(samples.y.max()) for samples in given.values() if len(samples.y))
    if impute:
        given = _imputed(given, name)
    mean, std = _statistics(given["train"].x, normalise)
    splits: dict[str, Any] = {part: Split(samples.x, samples.y, mean, std) for part, samples in given.items()}
    return DataSplits(name=name, **splits, num_classes=num_classes or highest + 1, **facts)


def _imputed(given: dict[str, Samples], name: str) -> dict[str, Samples]:
    mean = given["train"].x.double().nanmean(0).float()
    if bool(mean.isnan().any()):
        column = int(mean.isnan().nonzero()[0])
        raise DataError(f"input {column} of {name!r} has no value at all in the train split; leave that column out")
    return {part: Samples(torch.where(some.x.isnan(), mean, some.x), some.y) for part, some in given.items()}


def _statistics(x: Tensor, normalise: bool | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    if isinstance(normalise, tuple):
        return normalise
    return moments(x) if normalise else (None, None)


def check_samples(name: str, samples: Samples) -> None:
    """Raise a :class:`DataError` unless there are two samples, a class for each, and no class below 0."""
    if len(samples.x) != len(samples.y):
        raise DataError(f"{name!r} has {len(samples.x)} inputs, but {len(samples.y)} classes for them")
    if len(samples.y) < 2:
        raise DataError(f"{name!r} has {len(samples.y)} samples; at least 2 are needed")
    if int(samples.y.min()) < 0:
        raise DataError(f"classes of {name!r} must be 0 or more, but got {int(samples.y.min())}")


def _shuffled(samples: Samples, rng: torch.Generator) -> Samples:
    return _take(samples, torch.randperm(len(samples.y), generator=rng))


def _take(samples: Samples, index: Tensor) -> Samples:
    return Samples(samples.x[index], samples.y[index])


def _count(size: float | int, total: int, part: str, name: str, available: int) -> int:
    """A size as a number of samples; a share is one of ``total``."""
    fraction = isinstance(size, float) and 0.0 < size < 1.0
    if not fraction and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise SettingsError(f"{part} must be a number of samples or a share in (0, 1), but got {size!r}")
    count = max(1, int(size * total + 0.5)) if fraction else int(size)
    if count > available:
        raise SettingsError(
            f"{part}={size!r} asks for {count} samples of {name!r}, but at most {available} can be given"
        )
    return count


def draw(y: Tensor, count: int, rng: torch.Generator, name: str, *, keep: int = 1) -> tuple[Tensor, Tensor]:
    """Draw ``count`` samples, each class in proportion.

    Args:
        y: ``[N]`` classes.
        count: how many to draw.
        rng: decides which, and the order of both results.
        name: the dataset's name, for messages.
        keep: how many samples of each class must stay behind.

    Returns:
        Indices drawn ``[count]`` and indices left ``[N - count]``, both shuffled.
    """
    order = torch.randperm(len(y), generator=rng)
    labels = y[order]
    classes, counts = torch.unique(labels, return_counts=True)
    quota = quotas(counts.tolist(), count, keep=keep)
    if quota is None:
        raise DataError(
            f"cannot hold {count} of {len(y)} samples out of {name!r} "
            f"and keep {keep} of each of its {len(classes)} classes; ask for fewer"
        )
    drawn = torch.zeros(len(y), dtype=torch.bool)
    for label, number in zip(classes.tolist(), quota, strict=True):
        drawn[torch.nonzero(labels == label).flatten()[:number]] = True
    return _mixed(order[drawn], rng), _mixed(order[~drawn], rng)


def _mixed(index: Tensor, rng: torch.Generator) -> Tensor:
    """Shuffled anew: what is left starts with the classes whose quota was filled first, and no prefix would be fair."""
    return index[torch.randperm(len(index), generator=rng)]


def quotas(counts: list[int], count: int, *, keep: int = 1) -> list[int] | None:
    """How many of each class make ``count`` in all: proportional, by largest remainder, at most ``counts - keep``.

    ``None`` where there are not enough.
    """
    total = sum(counts)
    room = [max(0, c - keep) for c in counts]
    if count > sum(room):
        return None
    taken = [min(r, count * c // total) for c, r in zip(counts, room, strict=True)]
    turn = sorted(range(len(counts)), key=lambda i: (-(count * counts[i] % total), i))
    while sum(taken) < count:
        for i in [i for i in turn if taken[i] < room[i]][: count - sum(taken)]:
            taken[i] += 1
    return taken


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel (dimension 1), float32 ``[C]``, without a float copy of ``x``.

    uint8 is counted exactly and given in units of 255; floats are summed in float64. A channel that never changes
    gets the deviation 1.
    """
    mean, std = _moments_uint8(x) if x.dtype == torch.uint8 else _moments_float(x)
    constant = std <= 1e-12 * mean.abs()
    return mean.float(), torch.where(constant, torch.ones_like(std), std).float()


def _moments_uint8(x: Tensor) -> tuple[Tensor, Tensor]:
    counts = np.zeros((x.shape[1], 256), dtype=np.int64)
    for block in _blocks(x):
        for channel in range(x.shape[1]):
            counts[channel] += np.bincount(block[:, channel].flatten().numpy(), minlength=256)
    values = np.arange(256) / 255.0
    total = counts.sum(1)
    mean = counts @ values / total
    square = (counts * (values - mean[:, None]) ** 2).sum(1)
    return torch.from_numpy(mean), torch.from_numpy(np.sqrt(square / total))


def _moments_float(x: Tensor) -> tuple[Tensor, Tensor]:
    entries = x.numel() // x.shape[1]
    mean = torch.zeros(x.shape[1], dtype=torch.float64)
    for block in _blocks(x):
        mean += _columns(block).sum(1)
    mean /= entries
    square = torch.zeros_like(mean)
    for block in _blocks(x):
        square += (_columns(block) - mean[:, None]).square_().sum(1)
    return mean, (square / entries).sqrt()


def _blocks(x: Tensor) -> Iterator[Tensor]:
    step = max(1, _BLOCK // max(1, x[0].numel()))
    return (x[start : start + step] for start in range(0, len(x), step))


def _columns(block: Tensor) -> Tensor:
    return block.to(torch.float64).transpose(0, 1).flatten(1)  # [C, n * positions]
