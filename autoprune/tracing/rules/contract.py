"""Convolutions, linear layers, embeddings and products: they end labels and start new ones."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from autoprune.graph import Role
from autoprune.tracing.interpreter import LabelInterpreter, layer_of, op_name, tensors_in
from autoprune.tracing.labels import Ids


def linear(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """``x @ weight.T + bias``."""
    x, weight = args[:2]
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    _dense(interp, func, x, weight, bias, out, out_dim=0, in_dim=1)


def matmul(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """A product; with a parameter on the right it is a linear layer, of two activations it leaves both whole."""
    x, weight = args[:2]
    view = interp.parameter(weight)
    if view is not None and len(view.perm) == 2 and x.dim() >= 2:
        _dense(interp, func, x, weight, None, out, out_dim=1, in_dim=0)
        return
    _product(interp, func, (x, weight), out)


def addmm(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """``bias + x @ weight``."""
    bias, x, weight = args[:3]
    view = interp.parameter(weight)
    if view is not None and len(view.perm) == 2 and interp.parameter(bias) is not None:
        _dense(interp, func, x, weight, bias, out, out_dim=1, in_dim=0)
        return
    interp.protect(bias, f"{op_name(func)} adds it to a product")
    _product(interp, func, (x, weight), out)


def attention(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Scaled dot-product attention: heads keep their size."""
    query, key, value = args[:3]
    for tensor in (query, key, value):
        interp.protect(tensor, "attention: heads are left whole")
    tokens = math.prod(query.shape[:-1]) * key.shape[-2]
    interp.records.fixed_macs += tokens * (query.shape[-1] + value.shape[-1]) // interp.batch
    interp.set_fixed(out)


def conv(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Convolution of any dimension, grouped or depthwise."""
    facts = _arguments(func, args, kwargs)
    x, weight = facts["input"], facts["weight"]
    view = interp.parameter(weight)
    if view is None or view.perm != tuple(range(weight.dim())):
        _product(interp, func, (x, weight), out)
        return
    transposed = "transpose" in op_name(func) or bool(facts.get("transposed", False))
    groups = int(facts.get("groups", 1))
    axis = x.dim() - (weight.dim() - 1)
    inputs = interp.channels(x, axis, op_name(func))
    outputs = _conv_labels(interp, view.name, inputs, groups, transposed, op_name(func))
    _join_bias(interp, facts.get("bias"), outputs, op_name(func))
    interp.set_channels(out, outputs, axis)
    used = out if not transposed else x
    positions = used.numel() // used.shape[axis]
    interp.record(
        layer_of(view.name),
        "conv_transpose" if transposed else "conv",
        view.name,
        x,
        out,
        macs=weight.numel() * positions,
        kernel=tuple(weight.shape[2:]),
        stride=_tuple(facts.get("stride", 1), weight.dim() - 2),
        conv_groups=groups,
    )


def embedding(interp: LabelInterpreter, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """A table look-up: the columns are units, the rows are not."""
    weight, index = args[:2]
    view = interp.parameter(weight)
    if view is None:
        interp.protect(weight, f"{op_name(func)} reads a computed table")
        interp.set_fixed(out)
        return
    interp.set_channels(out, interp.weight_dim(view.name, 1, Role.OUT), out.dim() - 1)
    interp.record(layer_of(view.name), "embedding", view.name, index, out)


def _dense(
    interp: LabelInterpreter,
    func: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    out_dim: int,
    in_dim: int,
) -> None:
    view = interp.parameter(weight)
    if view is None or len(view.perm) != 2:
        _product(interp, func, (x, weight), out)
        return
    where = op_name(func)
    inputs = interp.channels(x, x.dim() - 1, where)
    interp.store.join(inputs, interp.weight_dim(view.name, view.perm[in_dim], Role.IN), where)
    outputs = interp.weight_dim(view.name, view.perm[out_dim], Role.OUT)
    _join_bias(interp, bias, outputs, where)
    interp.set_channels(out, outputs, out.dim() - 1)
    macs = out.numel() * x.shape[-1]
    interp.record(layer_of(view.name), "linear", view.name, x, out, macs=macs)


def _conv_labels(interp: LabelInterpreter, name: str, inputs: Ids, groups: int, transposed: bool, where: str) -> Ids:
    """Labels of the outputs; those of the inputs are joined with the weight's columns on the way."""
    shape = interp.tensors[name].shape
    if groups > 1 and (shape[1] == 1):
        return _depthwise_labels(interp, name, inputs, where, transposed)
    if transposed:
        # [inputs, outputs / groups, ...]
        columns = interp.weight_dim(name, 0, Role.IN)
        interp.store.join(inputs, columns, where)
        if groups > 1:
            interp.store.protect(columns, f"{where} in groups")
        outputs = interp.weight_dim(name, 1, Role.OUT)
        if groups > 1:
            interp.store.protect(outputs, f"{where} in groups")
            outputs = outputs.repeat(groups)
        return outputs
    columns = interp.weight_dim(name, 1, Role.IN)
    interp.store.join(inputs.reshape(groups, -1), columns[None], where)
    outputs = interp.weight_dim(name, 0, Role.OUT)
    if groups > 1:
        # The same places in every group go together: the number of groups stays, each gets smaller.
        members = outputs.reshape(groups, -1)
        interp.store.join(members, members[:1], where)
    return outputs


def _depthwise_labels(interp: LabelInterpreter, name: str, inputs: Ids, where: str, transposed: bool) -> Ids:
    """One input channel a group: it goes together with the outputs it makes."""
    outputs = interp.weight_dim(name, 0, Role.OUT)
    if transposed and len(outputs) != len(inputs):
        interp.store.protect(outputs, f"{where} in groups")
    interp.store.join(outputs.reshape(len(inputs), -1), inputs[:, None], where)
    return outputs


def _join_bias(interp: LabelInterpreter, bias: Tensor | None, outputs: Ids, where: str) -> None:
    ids = interp.vector(bias)
    if ids is not None:
        interp.store.join(outputs, ids, where)


def _product(interp: LabelInterpreter, func: Any, operands: tuple[Tensor, Tensor], out: Tensor) -> None:
    """A product of two activations (or with a computed weight): sizes are left as they are."""
    for tensor in operands:
        interp.protect(tensor, f"{op_name(func)} multiplies it with another activation")
    for tensor in tensors_in(out):
        interp.records.fixed_macs += tensor.numel() * operands[0].shape[-1] // interp.batch
    interp.set_fixed(out)


def _arguments(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _tuple(value: Any, size: int) -> tuple[int, ...]:
    entries = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return entries * size if len(entries) == 1 else entries


_CONVOLUTIONS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"

RULES = {
    "linear": linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), matmul),
    "addmm": addmm,
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(_CONVOLUTIONS.split(), conv),
    "embedding": embedding,
}
