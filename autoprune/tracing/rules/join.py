"""Point-wise operations: what they combine must stay aligned, so its labels are joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.tracing.interpreter import LabelInterpreter, from_ids, op_name, tensors_in
from autoprune.tracing.labels import NEUTRAL, Ids


def pointwise(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Join the labels of all operands; one that is only stretched over another's channels is left out of the join."""
    operands = [
        (tensor, _aligned(interp.ids(tensor), out.dim()))
        for tensor in tensors_in((args, {k: v for k, v in kwargs.items() if k != "out"}))
        if tensor.dim() > 0 and interp.labels(tensor) is not None
    ]
    if not operands:
        return
    combine(interp, operands, out, op_name(func))


def combine(interp: LabelInterpreter, operands: list[tuple[Tensor, Ids]], out: Tensor, where: str) -> None:
    """Join aligned labels and give the result to ``out``."""
    varies = np.array([[size > 1 for size in ids.shape] for _, ids in operands]).reshape(len(operands), -1)
    aligned = []
    for k, (tensor, ids) in enumerate(operands):
        sizes = (1,) * (out.dim() - tensor.dim()) + tuple(tensor.shape)
        others = [bool(column.any()) for column in np.delete(varies, k, 0).T]
        over = [d for d in range(out.dim()) if sizes[d] == 1 and others[d] and out.shape[d] > 1]
        if over:
            interp.store.protect(ids, f"{where} stretches it over other channels")
        else:
            aligned.append(ids)
    labelled = [ids for ids in aligned if (ids != NEUTRAL).any()]
    if not labelled:
        if not aligned:
            interp.set_fixed(out)
        return
    first = labelled[0]
    for ids in labelled[1:]:
        interp.store.join(first, ids, where)
    write(interp, out, np.broadcast_arrays(first, *aligned)[0])


def write(interp: LabelInterpreter, out: Tensor, ids: Ids) -> None:
    """Labels of a result; those of a tensor changed in place are written through, for the sake of its views."""
    labels = from_ids(np.ascontiguousarray(ids)).expand(out.shape)
    old = interp.labels(out)
    if old is not None and torch._debug_has_internal_overlap(old) == 0:
        old.copy_(labels)
    else:
        interp.set_labels(out, labels)


def prelu(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """A slope for each channel, or one for all."""
    x, slope = args
    if slope.numel() > 1:
        ids = interp.vector(slope)
        channels = interp.channels(x, 1, op_name(func))
        if ids is not None:
            interp.store.join(channels, ids, op_name(func))
        interp.set_channels(out, channels, 1)
    else:
        pointwise(interp, func, (x,), {}, out)


def fill(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """A constant written into a tensor."""
    old = interp.labels(args[0])
    if old is None:
        return
    if torch._debug_has_internal_overlap(old) == 0:
        old.fill_(float(NEUTRAL))
    else:
        interp.protect(args[0], "overwritten in place")


def _aligned(ids: Ids, dims: int) -> Ids:
    return ids.reshape((1,) * (dims - ids.ndim) + ids.shape)


_POINTWISE = "hardswish hardsigmoid hardtanh relu6 where masked_fill softplus log_sigmoid selu celu rrelu glu_jvp logit"

RULES = {
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    "prelu": prelu,
    "fill": fill,
    "zero": fill,
}
