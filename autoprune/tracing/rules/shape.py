"""Operations that move values without changing them: replayed on the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoprune.tracing.interpreter import LabelInterpreter, ParameterView, tensors_in


def replay(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Run the same operation on the labels of its first argument."""
    view = _transposed(interp, func, args)
    if view is not None:
        interp.set_view(out, view)
        return
    labels = interp.labels(args[0])
    if labels is not None:
        _assign(interp, _rerun(func, labels, args, kwargs), out)


def _rerun(func: Any, labels: Tensor, args: Any, kwargs: Any) -> Any:
    """The operation on labels; stretched labels cannot always be viewed as the values can."""
    try:
        return func(labels, *args[1:], **kwargs)
    except RuntimeError:
        return func(labels.contiguous(), *args[1:], **kwargs)


def identity(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Same values, same shape: copies, casts, dropout in evaluation."""
    if out is args[0]:
        return
    view = interp.parameter(args[0])
    if view is not None:
        interp.set_view(out, view)
        return
    labels = interp.labels(args[0])
    if labels is not None:
        interp.set_labels(out, labels)


def join_list(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Concatenation and stacking: replayed on the labels of all parts."""
    labels = [interp.labels(t) for t in args[0]]
    if any(label is not None for label in labels):
        parts = [
            torch.zeros(t.shape, dtype=torch.float64) if label is None else label
            for t, label in zip(args[0], labels, strict=True)
        ]
        _assign(interp, func(parts, *args[1:], **kwargs), out)


def pad(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Padding: new positions of a channel belong to it, new channels are neutral; a mirrored pad repeats labels."""
    labels = interp.labels(args[0])
    if labels is None:
        return
    mode = kwargs.get("mode", args[2] if len(args) > 2 and isinstance(args[2], str) else "constant")
    if mode != "constant":
        interp.set_labels(out, torch.nn.functional.pad(labels, args[1], mode=mode))
        return
    for place in range(len(args[1]) // 2):
        axis, (before, after) = labels.dim() - 1 - place, args[1][2 * place : 2 * place + 2]
        if bool((labels == labels.narrow(axis, 0, 1)).all()):
            shape = list(labels.shape)
            shape[axis] += before + after
            labels = labels.narrow(axis, 0, 1).expand(shape)
        else:
            labels = torch.nn.functional.pad(labels, [0, 0] * place + [before, after])
    interp.set_labels(out, labels)


def fresh_zeros(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A new constant; its labels can be written, so that what is copied into it later is known."""
    for tensor in tensors_in(out):
        interp.set_labels(tensor, torch.zeros(tensor.shape, dtype=torch.float64))


def copy(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Values written into an existing tensor (also through a view of it)."""
    source, old = interp.labels(args[1]), interp.labels(args[0])
    if source is None and old is None:
        return
    if old is None or torch._debug_has_internal_overlap(old) != 0:
        for tensor in (args[0], args[1]):
            interp.protect(tensor, "written into a tensor in place")
        return
    old.copy_(torch.zeros(()) if source is None else source)


def _transposed(interp: LabelInterpreter, func: Any, args: Any) -> ParameterView | None:
    """Transposing a weight keeps it a weight."""
    view = interp.parameter(args[0])
    name = func._schema.name.split("::")[1]
    if view is None or name not in ("t", "transpose", "permute", "numpy_T", "mT") or len(view.perm) < 2:
        return None
    if name == "permute":
        moved = [d % len(view.perm) for d in args[1]]
    else:
        moved = list(range(len(view.perm)))
        a, b = args[1:3] if name == "transpose" else (-1, -2)
        moved[a], moved[b] = moved[b], moved[a]
    return ParameterView(view.name, tuple(view.perm[d] for d in moved))


def _assign(interp: LabelInterpreter, labels: Any, out: Any) -> None:
    for label, tensor in zip(tensors_in(labels), tensors_in(out), strict=True):
        interp.set_labels(tensor, label)


_REPLAYED = (
    "view reshape _unsafe_view flatten unflatten permute transpose t numpy_T mT unsqueeze squeeze expand expand_as "
    "view_as reshape_as slice select narrow split split_with_sizes chunk tensor_split unbind movedim swapaxes swapdims "
    "roll flip repeat tile repeat_interleave index_select index pixel_shuffle pixel_unshuffle channel_shuffle "
    "native_channel_shuffle diagonal unfold moveaxis ravel hsplit vsplit take_along_dim broadcast_to "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d"
)
_SAME = (
    "contiguous clone detach lift_fresh alias to _to_copy type_as dropout feature_dropout alpha_dropout "
    "feature_alpha_dropout float double half bfloat16 requires_grad resolve_conj resolve_neg"
)
_FRESH = (
    "zeros ones empty full rand randn arange zeros_like ones_like empty_like full_like rand_like randn_like new_zeros "
    "new_ones new_empty new_full scalar_tensor eye linspace tril_indices triu_indices"
)

_LISTS = "cat concat concatenate stack hstack vstack dstack column_stack"
_PADS = "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"

RULES = {
    **dict.fromkeys(_REPLAYED.split(), replay),
    **dict.fromkeys(_SAME.split(), identity),
    **dict.fromkeys(_FRESH.split(), fresh_zeros),
    **dict.fromkeys(_LISTS.split(), join_list),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(_PADS.split(), replay),
    "copy": copy,
}
