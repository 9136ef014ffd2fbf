"""The four splits of a dataset, held in memory: train, calibration, validation, test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import DataError, SettingsError

AUGMENTATIONS = ("none", "flip_crop")
SPLITS = ("train", "calibration", "validation", "test")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Samples of one split, as they are stored.

    Attributes:
        x: ``[N, ...]`` raw inputs: uint8 images ``[N, C, H, W]``, floats, or int64 token indices.
        y: ``[N]`` int64 classes.
        mean: ``[C]`` float32, taken off along dimension 1 by :meth:`inputs`; ``None`` where ``x`` is used as it is.
        std: ``[C]`` float32, divided by after ``mean``. For uint8 both are in units of 255.

    Raises:
        DataError: shapes, types or numbers that cannot be samples.
    """

    x: Tensor
    y: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or self.y.ndim != 1 or len(self.x) != len(self.y):
            raise DataError(
                f"a split needs inputs [N, ...] and as many classes [N], "
                f"but got {list(self.x.shape)} and {list(self.y.shape)}"
            )
        if self.y.dtype != torch.int64 or self.x.dtype not in (torch.uint8, *_FLOATS, *_INTEGERS):
            raise DataError(
                f"inputs must be uint8, float32 or int64 and classes int64, but got {self.x.dtype} and {self.y.dtype}"
            )
        if (self.mean is None) != (self.std is None):
            raise DataError("mean and std go together: give both or neither")
        if self.mean is not None and self.std is not None:
            _check_statistics(self.mean, self.std, self.x)

    def __len__(self) -> int:
        return len(self.x)

    def inputs(self, index: Tensor | slice | None = None) -> Tensor:
        """What the network is fed: ``(x - mean) / std`` as float32, where uint8 is first divided by 255.

        Without ``mean``, ``x`` is only turned into float32; int32 and int64 (token indices) stay as they are.

        Args:
            index: samples to take, all by default; a tensor of indices or booleans, or a slice.

        Returns:
            A new tensor ``[n, ...]``; the stored one is never handed out.
        """
        chosen = self.x if index is None else self.x[index]
        if chosen.dtype in _INTEGERS:
            return chosen.clone()
        out = chosen.to(torch.float32, copy=True)
        if self.mean is None or self.std is None:
            return out
        shape = (1, -1, *[1] * (out.ndim - 2))
        unit = 255.0 if self.x.dtype == torch.uint8 else 1.0
        return out.sub_((self.mean * unit).view(shape)).mul_((1.0 / (self.std * unit)).view(shape))

    def subset(self, index: Tensor | slice) -> Split:
        """The samples at ``index``, normalised as this split is."""
        return Split(self.x[index], self.y[index], self.mean, self.std)

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on ``device``."""
        mean = None if self.mean is None else self.mean.to(device)
        std = None if self.std is None else self.std.to(device)
        return Split(self.x.to(device), self.y.to(device), mean, std)

    @property
    def device(self) -> torch.device:
        """Where the samples lie, and with them what is trained and evaluated on them."""
        return self.x.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A dataset in four splits; what is evaluated stands in shuffled order, so that a prefix is a fair sample.

    Attributes:
        name: its name in the registry, or what the user calls it.
        train: what networks are trained and retrained on.
        calibration: drawn from ``train``; statistics of layers are collected on it.
        validation: held out of ``train``; all that a search may look at.
        test: looked at once, for the report.
        num_classes: classes are ``0 ... num_classes - 1``.
        augment: what training may do to a batch: ``none``, or ``flip_crop`` (mirror, and shift by up to 4 pixels).
        classes: names of the classes, empty where they have none.
        source: where the samples came from, in words.

    Raises:
        DataError: an empty split, splits of different shapes, a class out of range.
    """

    name: str
    train: Split
    calibration: Split
    validation: Split
    test: Split
    num_classes: int
    augment: str = "none"
    classes: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if self.augment not in AUGMENTATIONS:
            raise SettingsError(f"augment must be one of {', '.join(AUGMENTATIONS)}, but got {self.augment!r}")
        if self.augment == "flip_crop" and self.train.x.ndim != 4:
            raise SettingsError(
                f"augment 'flip_crop' needs images [N, C, H, W], but {self.name!r} is {self._shape_text()}"
            )
        if self.num_classes < 2:
            raise DataError(f"{self.name!r} needs at least 2 classes, but has {self.num_classes}")
        if self.classes and len(self.classes) != self.num_classes:
            raise DataError(f"{self.name!r} has {self.num_classes} classes, but {len(self.classes)} names for them")
        for part, split in self.parts():
            self._check(part, split)

    def _shape_text(self) -> str:
        return str(["N", *self.train.shape]).replace("'", "")

    def _check(self, part: str, split: Split) -> None:
        if len(split) == 0:
            raise DataError(f"the {part} split of {self.name!r} is empty")
        if split.shape != self.train.shape or split.x.dtype != self.train.x.dtype:
            raise DataError(
                f"the {part} split of {self.name!r} holds {split.x.dtype} samples of shape {list(split.shape)}, "
                f"its train split {self.train.x.dtype} of {list(self.train.shape)}"
            )
        low, high = int(split.y.min()), int(split.y.max())
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"classes in the {part} split of {self.name!r} must be in [0, {self.num_classes - 1}], "
                f"but got {low if low < 0 else high}"
            )
        if split.x.is_floating_point() and not bool(torch.isfinite(split.x).all()):
            raise DataError(f"the {part} split of {self.name!r} holds inputs that are NaN or infinite")

    def parts(self) -> Iterable[tuple[str, Split]]:
        """The four splits with their names."""
        return [(part, getattr(self, part)) for part in SPLITS]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch: ``(C, H, W)`` or ``(F,)``."""
        return self.train.shape

    def example(self, batch: int = 2) -> Tensor:
        """The first ``batch`` inputs of the train split, normalised, on the CPU: something to trace a network with."""
        return self.train.inputs(slice(0, batch)).cpu()

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 over all samples, classes, statistics and what is in which split."""
        state = hashlib.sha256(f"{self.num_classes}".encode())
        for part, split in self.parts():
            for key in ("x", "y", "mean", "std"):
                tensor = getattr(split, key)
                if tensor is not None:
                    state.update(f"{part}.{key}:{tensor.dtype}:{list(tensor.shape)};".encode())
                    state.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return state.hexdigest()[:16]

    def to(self, device: torch.device | str) -> DataSplits:
        """The same splits with all tensors on ``device``; what is trained and evaluated on them runs there."""
        moved = {part: split.to(device) for part, split in self.parts()}
        return DataSplits(
            self.name,
            moved["train"],
            moved["calibration"],
            moved["validation"],
            moved["test"],
            num_classes=self.num_classes,
            augment=self.augment,
            classes=self.classes,
            source=self.source,
        )

    @classmethod
    def from_any(cls, obj: Any, *, seed: int = 0, name: str = "custom", **options: Any) -> DataSplits:
        """Splits from whatever a user has: see :func:`autoprune.data.convert.from_any`."""
        from autoprune.data.convert import from_any

        return from_any(obj, seed=seed, name=name, **options)

    @classmethod
    def from_loaders(
        cls,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        seed: int = 0,
        name: str = "custom",
        **options: Any,
    ) -> DataSplits:
        """Splits from DataLoaders, Datasets or ``(x, y)`` pairs; what is not given is held out.

        Each loader is read once, in a fixed order, and kept in memory as it yields the samples (a random augmentation
        in its transforms would be frozen: give ``augment="flip_crop"`` instead). Options as in
        :func:`autoprune.data.convert.from_any`.
        """
        given: Mapping[str, Any] = {"train": train, "validation": validation, "test": test}
        return cls.from_any({k: v for k, v in given.items() if v is not None}, seed=seed, name=name, **options)


def _check_statistics(mean: Tensor, std: Tensor, x: Tensor) -> None:
    channels = x.shape[1]
    for label, value in (("mean", mean), ("std", std)):
        if value.shape != (channels,) or value.dtype != torch.float32:
            raise DataError(
                f"{label} must be float32 [{channels}], one number a channel of {list(x.shape)}, "
                f"but got {value.dtype} {list(value.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{label} must be finite, but got {value.tolist()}")
    if bool((std <= 0).any()):
        raise DataError(f"std must be above 0, but got {std.tolist()}")
