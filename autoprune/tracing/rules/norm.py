"""Normalisations: each channel for itself joins with its parameters; statistics over channels keep them whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from autoprune.tracing.interpreter import LabelInterpreter, layer_of, op_name


def batch_norm(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Batch and instance norm: ``(x, weight, bias, running_mean, running_var, ...)``, a channel at a time."""
    x, *vectors = args[:5]
    channels = _affine(interp, x, vectors, op_name(func))
    interp.set_channels(out, channels, 1)
    layer = _record(interp, x, out, vectors)
    maker = interp.maker(x)
    if layer and maker and func._schema.name == "aten::batch_norm":
        interp.records.norms[maker] = layer


def group_norm(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Group norm: statistics over the channels of a group, so those channels are one unit."""
    x, groups = args[:2]
    weight = args[2] if len(args) > 2 else kwargs.get("weight")
    bias = args[3] if len(args) > 3 else kwargs.get("bias")
    channels = _affine(interp, x, [weight, bias], op_name(func))
    members = channels.reshape(groups, -1)
    if members.shape[1] > 1:
        if groups == 1:
            interp.store.protect(channels, f"{op_name(func)} takes statistics over all channels")
        else:
            interp.store.join(members, members[:, :1], op_name(func))
    interp.set_channels(out, channels, 1)
    _record(interp, x, out, [weight, bias])


def layer_norm(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Layer and RMS norm: statistics over the last dimensions; what varies there is left whole."""
    x, shape = args[:2]
    weight = args[2] if len(args) > 2 else kwargs.get("weight")
    bias = args[3] if len(args) > 3 else kwargs.get("bias")
    _record(interp, x, out, [weight, bias])
    if interp.labels(x) is None:
        return
    ids = interp.ids(x)
    if any(size > 1 for size in ids.shape[x.dim() - len(shape) :]):
        interp.protect(x, f"{op_name(func)} takes statistics over all channels")
    for vector in (weight, bias):
        if vector is not None:
            found = interp.ids(vector)
            interp.store.join(ids, found.reshape((1,) * (ids.ndim - found.ndim) + found.shape), op_name(func))
    labels = interp.labels(x)
    if labels is not None:
        interp.set_labels(out, labels)


def _affine(interp: LabelInterpreter, x: Tensor, vectors: list[Tensor | None], where: str) -> Any:
    channels = interp.channels(x, 1, where)
    if not channels.any():
        return channels
    for vector in vectors:
        ids = interp.vector(vector)
        if ids is not None:
            interp.store.join(channels, ids, where)
    return channels


def _record(interp: LabelInterpreter, x: Tensor, out: Tensor, vectors: list[Tensor | None]) -> str | None:
    for vector in vectors:
        if vector is not None:
            view = interp.parameter(vector)
            if view is not None:
                interp.record(layer_of(view.name), "norm", None, x, out)
                return layer_of(view.name)
    return None


RULES = {
    "batch_norm": batch_norm,
    "instance_norm": batch_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
}
