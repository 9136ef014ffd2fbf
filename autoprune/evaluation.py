"""Accuracy and loss of a network on a split: the only place where either is computed.

The samples are prepared once (normalised, channels-last, in the type of the network) and stay in memory; a pass is a
loop over slices of one tensor.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.deploy import deployed
from autoprune.devices import placed
from autoprune.errors import AutopruneError, ModelError, SettingsError
from autoprune.seeding import generator

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PREPARE = 1024  # samples normalised at a time, so that the float32 form never stands whole beside the prepared one


class NotFinite(AutopruneError):  # noqa: N818 - it names what happened
    """A network whose loss is NaN or infinite."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network did on ``images`` samples.

    Attributes:
        correct: ``[images]`` bool, in the order of evaluation.
        loss: mean cross-entropy.
    """

    correct: Tensor
    loss: float

    @property
    def images(self) -> int:
        """Samples looked at."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Fraction classified right."""
        return int(self.correct.sum()) / max(len(self.correct), 1)


class EvalSet:
    """A split, prepared for many passes.

    Attributes:
        x: ``[N, ...]`` inputs in the order of evaluation.
        y: ``[N]`` classes.
        order: ``[N]`` position in the split of each sample.
        batch: samples in one forward pass.
    """

    def __init__(
        self, split: Split, *, dtype: torch.dtype = torch.float32, batch: int = 128, order_seed: int | None = None
    ) -> None:
        """Prepare ``split``; with ``order_seed`` in a fixed random order, so that every prefix is a fair sample."""
        if batch < 1:
            raise SettingsError(f"batch size must be a whole number from 1 on, but got {batch!r}")
        size = len(split)
        order = torch.arange(size)
        if order_seed is not None:
            order = torch.randperm(size, generator=generator(order_seed, "evaluation order"))
        self.order, self.batch = order, batch
        self.y = split.y[order]
        self.x = _prepared(split, order, dtype)

    def __len__(self) -> int:
        return len(self.y)

    def evaluate(self, module: nn.Module, start: int = 0, stop: int | None = None) -> Evaluation:
        """Run ``module`` (in eval mode, deployed in this set's type) on samples ``start`` to ``stop``, where they lie.

        Raises:
            NotFinite: the loss is NaN or infinite.
            ModelError: the network does not return logits ``[N, classes]``.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        module = placed(module, self.x.device)
        with torch.inference_mode():
            parts = list(until_not_finite(self.block(module, *ends) for ends in self.blocks(start, stop)))
        return gathered(parts)

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Samples ``start`` to ``stop`` in forward passes: (first, after the last) of each."""
        return [(at, min(at + self.batch, stop)) for at in range(start, stop, self.batch)]

    def block(self, module: nn.Module, start: int, stop: int) -> tuple[Tensor, float]:
        """One forward pass: which of the samples are right ``[stop - start]``, and the sum of their cross-entropies.

        Raises:
            ModelError: the network does not return logits ``[N, classes]``.
        """
        y = self.y[start:stop]
        logits = checked_logits(module(self.x[start:stop]), y)
        return (logits.argmax(1) == y).cpu(), float(nn.functional.cross_entropy(logits, y, reduction="sum"))

    def predictions(self, module: nn.Module, stop: int | None = None) -> Tensor:
        """Class of each of the first ``stop`` samples ``[stop]``."""
        stop = len(self) if stop is None else min(stop, len(self))
        module = placed(module, self.x.device)
        with torch.inference_mode():
            starts = range(0, stop, self.batch)
            return torch.cat([module(self.x[at : min(at + self.batch, stop)]).argmax(1) for at in starts]).cpu()


def until_not_finite(parts: Iterable[tuple[Tensor, float]]) -> Iterator[tuple[Tensor, float]]:
    """``parts`` as :meth:`EvalSet.block` gives them.

    Raises:
        NotFinite: at the first of them whose loss is NaN or infinite.
    """
    for bits, loss in parts:
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {'NaN' if math.isnan(loss) else 'infinite'} on the validation samples")
        yield bits, loss


def gathered(parts: Sequence[tuple[Tensor, float]]) -> Evaluation:
    """One evaluation from consecutive forward passes."""
    correct = torch.cat([bits for bits, _ in parts]) if parts else torch.empty(0, dtype=torch.bool)
    return Evaluation(correct, sum(loss for _, loss in parts) / max(len(correct), 1))


def evaluate(
    module: nn.Module,
    split: Split,
    *,
    norms: tuple[tuple[str, str], ...] = (),
    precision: str = "float32",
    batch_size: int = 128,
) -> Evaluation:
    """Accuracy and loss of ``module`` on ``split``; the module is not changed, its mode neither.

    Args:
        module: any network that returns logits.
        split: samples.
        norms: batch norms to fold first, as in ``LayerGraph.norms``.
        precision: ``float32`` or ``bfloat16``.
        batch_size: samples in one forward pass.

    Raises:
        NotFinite: the loss is NaN or infinite.
        ModelError: the network does not return logits ``[N, classes]``.
    """
    dtype = DTYPES[precision]
    samples = EvalSet(split, dtype=dtype, batch=batch_size)
    return samples.evaluate(deployed(module, norms, dtype=dtype))


def checked_logits(output: object, y: Tensor) -> Tensor:
    """``output`` as float32 logits ``[N, classes]`` for the classes ``y`` ``[N]``.

    Raises:
        ModelError: anything else.
    """
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the network must return one tensor of logits [N, classes], but returned {type(output).__name__}; "
            "wrap it in a module that returns the logits alone"
        )
    if output.dim() != 2 or output.shape[0] != len(y):
        raise ModelError(f"the network must return logits [{len(y)}, classes], but returned shape {list(output.shape)}")
    if len(y) and int(y.max()) >= output.shape[1]:
        raise ModelError(f"the data hold class {int(y.max())}, but the network has {output.shape[1]} outputs")
    return output.float()


def pack_bits(bits: Tensor) -> str:
    """Bools ``[N]`` as short text (packed, deflated, base 64); :func:`unpack_bits` reads it."""
    raw = np.packbits(bits.numpy()).tobytes()
    return f"{len(bits)}:{base64.b64encode(zlib.compress(raw, 9)).decode()}"


def unpack_bits(text: str) -> Tensor:
    """What :func:`pack_bits` wrote."""
    size, _, data = text.partition(":")
    raw = np.frombuffer(zlib.decompress(base64.b64decode(data)), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(raw, count=int(size)).astype(bool))


def _prepared(split: Split, order: Tensor, dtype: torch.dtype) -> Tensor:
    first = split.inputs(order[:1])
    kind = dtype if first.is_floating_point() else first.dtype
    layout = torch.channels_last if first.dim() == 4 else torch.contiguous_format
    x = torch.empty((len(order), *first.shape[1:]), dtype=kind, device=first.device, memory_format=layout)
    for at in range(0, len(order), _PREPARE):
        x[at : at + _PREPARE] = split.inputs(order[at : at + _PREPARE])
    return x
