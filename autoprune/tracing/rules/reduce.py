"""Pooling, reductions and normalising activations: fine across positions, not across channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from autoprune.tracing.interpreter import LabelInterpreter, from_ids, op_name, tensors_in


def spatial(nd: int) -> Any:
    """Pooling and resizing over the last ``nd`` dimensions: every position of a channel is alike."""

    def rule(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        x = args[0]
        if interp.labels(x) is None:
            return
        axes = range(x.dim() - nd, x.dim())
        if not _settle(interp, x, axes, op_name(func)):
            interp.set_fixed(out)
            return
        ids = interp.ids(x)
        for axis in axes:
            ids = ids.take([0], axis)
        for tensor in tensors_in(out):
            interp.set_labels(tensor, from_ids(ids).expand(tensor.shape))

    return rule


def reduction(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Mean, sum, maximum and the like over some dimensions."""
    x = args[0]
    if interp.labels(x) is None:
        return
    given = _argument(func, args, kwargs, ("dim", "axis"))
    keep = bool(_argument(func, args, kwargs, ("keepdim",)) or False)
    axes = _axes(given, x.dim())
    if not _settle(interp, x, axes, op_name(func)):
        interp.set_fixed(out)
        return
    ids = interp.ids(x)
    for axis in sorted(axes, reverse=True):
        ids = np.asarray(ids.take([0], axis) if keep else ids.take(0, axis))
    for tensor in tensors_in(out):
        interp.set_labels(tensor, from_ids(ids).expand(tensor.shape))


def along(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Softmax, cumulative sums: couple the values along one dimension."""
    x = args[0]
    labels = interp.labels(x)
    if labels is None:
        return
    if _settle(interp, x, _axes(_argument(func, args, kwargs, ("dim",)), x.dim()), op_name(func)):
        interp.set_labels(out, labels)
    else:
        interp.set_fixed(out)


def glu(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """The two halves are multiplied, so they are joined."""
    x, axis = args[0], args[1] if len(args) > 1 else -1
    labels = interp.labels(x)
    if labels is None:
        return
    a, b = labels.chunk(2, axis)
    first = a.contiguous().numpy().astype(np.int64)
    interp.store.join(first, b.contiguous().numpy().astype(np.int64), op_name(func))
    interp.set_labels(out, a)


def _settle(interp: LabelInterpreter, x: Tensor, axes: Any, where: str) -> bool:
    """Whether the labels are the same along ``axes``; where they are not, the units are protected."""
    ids = interp.store.find(interp.ids(x))
    for axis in axes:
        if (ids != ids.take([0], axis)).any():
            interp.protect(x, f"{where} mixes its channels")
            return False
    return True


def _axes(given: Any, dims: int) -> list[int]:
    if given is None or (isinstance(given, (list, tuple)) and not given):
        return list(range(dims))
    chosen = given if isinstance(given, (list, tuple)) else [given]
    return [d % dims for d in chosen] if dims else []


def _argument(func: Any, args: Any, kwargs: Any, names: tuple[str, ...]) -> Any:
    """The argument of one of these names, wherever it stands in the call."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name in names:
            if argument.name in kwargs:
                return kwargs[argument.name]
            if place < len(args):
                return args[place]
            return argument.default_value if argument.has_default_value() else None
    return None


_POOLS = (
    "max_pool{n}d avg_pool{n}d adaptive_avg_pool{n}d adaptive_max_pool{n}d max_pool{n}d_with_indices "
    "_adaptive_avg_pool{n}d lp_pool{n}d mkldnn_max_pool{n}d"
)
_REDUCED = (
    "mean sum amax amin max min var std var_mean std_mean norm linalg_vector_norm prod logsumexp median nansum nanmean "
    "all any argmax argmin aminmax"
)

_ALONG = "softmax log_softmax _softmax _log_softmax cumsum cumprod"

RULES = {
    **{name: spatial(n) for n in (1, 2, 3) for name in _POOLS.format(n=n).split()},
    "upsample_linear1d": spatial(1),
    "upsample_bilinear2d": spatial(2),
    "upsample_bicubic2d": spatial(2),
    "_upsample_bilinear2d_aa": spatial(2),
    "upsample_trilinear3d": spatial(3),
    **dict.fromkeys(_REDUCED.split(), reduction),
    **dict.fromkeys(_ALONG.split(), along),
    "glu": glu,
}
