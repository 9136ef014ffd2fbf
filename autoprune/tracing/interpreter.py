"""Runs a network once for real and carries a label for every channel along.

A dispatch mode sees each operation with its real tensors. Beside each activation lies a tensor of labels of the same
shape: shape operations are replayed on it, point-wise operations join the labels they combine, convolutions and linear
layers end labels and start new ones. No symbolic tracing, so control flow in the network does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.errors import GraphError
from autoprune.graph import Role
from autoprune.modes import Watch
from autoprune.tracing.labels import FIXED, Ids, LabelStore

# A parameter used as a plain value gets a label an entry; above this many it is left whole instead.
MAX_ELEMENT_LABELS = 1 << 22


@dataclass
class LayerRecord:
    """What was seen of one layer while it ran."""

    kind: str
    weight: str | None
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    conv_groups: int = 1
    macs: int = 0
    calls: int = 0


@dataclass(frozen=True)
class ParameterView:
    """A parameter seen through transpositions: dimension ``d`` of the view is dimension ``perm[d]`` of ``name``."""

    name: str
    perm: tuple[int, ...]


@dataclass
class Records:
    """Everything the interpreter learned, in order of execution."""

    layers: dict[str, LayerRecord] = field(default_factory=dict)
    fixed_macs: int = 0
    norms: dict[str, str] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)


class LabelInterpreter(Watch):
    """Labels for every tensor of one run.

    Args:
        names: qualified name of each parameter and buffer, by ``id``.
        tensors: the same tensors by name.
        time_limit_s: the run is given up after this long.
    """

    def __init__(self, names: Mapping[int, str], tensors: Mapping[str, Tensor], time_limit_s: float) -> None:
        super().__init__()
        self.store = LabelStore()
        self.records = Records()
        self.names, self.tensors = names, tensors
        self.dims: dict[tuple[str, int], Ids] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self.elements: dict[str, Ids] = {}
        self.input_ids: list[Ids] = []
        self.batch = 1
        self._labels: Any = WeakTensorKeyDictionary()
        self._views: Any = WeakTensorKeyDictionary()
        self._made_by: Any = WeakTensorKeyDictionary()
        self._deadline = time.monotonic() + time_limit_s
        self._limit = time_limit_s

    # -- the mode ------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from autoprune.tracing.rules import rule_for

        if time.monotonic() > self._deadline:
            raise GraphError(f"tracing took longer than {self._limit:g} s; raise time_limit_s or protect the network")
        kwargs = kwargs or {}
        self._count_uses(args)
        rule = rule_for(func)
        if rule is None and self._labelled(args, kwargs):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            return self._opaque(func, args, kwargs)
        out = func(*args, **kwargs)
        if rule is not None:
            rule(self, func, args, kwargs, out)
        return out

    def _opaque(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation without a rule: what enters stays whole, what leaves has a fixed size."""
        reason = f"{op_name(func)} has no rule"
        for tensor in tensors_in((args, kwargs)):
            self.protect(tensor, reason)
        out = func(*args, **kwargs)
        self.set_fixed(out)
        return out

    def _labelled(self, args: Any, kwargs: Any) -> bool:
        return any(t in self._labels or self.parameter(t) is not None for t in tensors_in((args, kwargs)))

    def _count_uses(self, args: tuple[Any, ...]) -> None:
        """How often the output of a weighted layer is used, to know which batch norms can be folded into it."""
        for tensor in tensors_in(args):
            layer = self._made_by.get(tensor)
            if layer is not None:
                self.records.uses[layer] = self.records.uses.get(layer, 0) + 1

    # -- labels of activations -----------------------------------------------------------------------------------

    def labels(self, tensor: Tensor) -> Tensor | None:
        """Labels of ``tensor`` (float64, same shape), ``None`` for one that no unit makes."""
        found: Tensor | None = self._labels.get(tensor)
        if found is None:
            view = self.parameter(tensor)
            if view is not None:
                return self._element_labels(view, tuple(tensor.shape))
        return found

    def ids(self, tensor: Tensor) -> Ids:
        """Labels of ``tensor`` as whole numbers, stretched dimensions collapsed to size 1."""
        labels = self.labels(tensor)
        if labels is None:
            return np.zeros((1,) * tensor.dim(), dtype=np.int64)
        return as_ids(labels)

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Give ``tensor`` its labels."""
        self._labels[tensor] = labels

    def set_fixed(self, out: Any) -> None:
        """Everything in ``out`` has a fixed size."""
        for tensor in tensors_in(out):
            self._labels[tensor] = torch.full((1,) * tensor.dim(), float(FIXED), dtype=torch.float64).expand(
                tensor.shape
            )

    def set_channels(self, tensor: Tensor, channels: Ids, axis: int) -> None:
        """``channels`` along ``axis``, the same everywhere else."""
        shape = [1] * tensor.dim()
        shape[axis] = len(channels)
        self._labels[tensor] = from_ids(channels).view(shape).expand(tensor.shape)

    def channels(self, tensor: Tensor, axis: int, where: str) -> Ids:
        """Labels along ``axis``, with everything that stands at one channel joined, ``[C]``."""
        ids = np.moveaxis(self.ids(tensor), axis, -1)
        rows = ids.reshape(-1, ids.shape[-1])
        if len(rows) > 1:
            self.store.join(rows, rows[:1], where)
        size = tensor.shape[axis]
        return rows[0] if len(rows[0]) == size else np.broadcast_to(rows[0], (size,)).copy()

    def protect(self, tensor: Tensor, reason: str) -> None:
        """Keep every unit in ``tensor`` whole."""
        view = self.parameter(tensor)
        if view is not None and any((view.name, d) in self.dims for d in view.perm):
            for dim in view.perm:
                if (view.name, dim) in self.dims:
                    self.store.protect(self.dims[view.name, dim], reason)
            return
        self.store.protect(self.ids(tensor), reason)

    def add_input(self, tensor: Tensor) -> None:
        """A tensor that the caller passes in: every feature of one sample is a unit of its own."""
        if not tensor.is_floating_point() or tensor.dim() < 2:
            return
        features = int(np.prod(tensor.shape[1:]))
        if features > MAX_ELEMENT_LABELS:
            self.set_fixed(tensor)
            return
        ids = self.store.fresh(features)
        self.input_ids.append(ids)
        self._labels[tensor] = from_ids(ids).view(1, *tensor.shape[1:]).expand(tensor.shape)

    # -- parameters ----------------------------------------------------------------------------------------------

    def parameter(self, tensor: Tensor) -> ParameterView | None:
        """Which parameter or buffer ``tensor`` is, perhaps transposed."""
        name = self.names.get(id(tensor))
        if name is not None:
            return ParameterView(name, tuple(range(tensor.dim())))
        found: ParameterView | None = self._views.get(tensor)
        return found

    def set_view(self, tensor: Tensor, view: ParameterView) -> None:
        """``tensor`` is a transposition of a parameter."""
        self._views[tensor] = view

    def weight_dim(self, name: str, dim: int, role: Role) -> Ids:
        """Labels of a weight along one dimension; made at the first use, so a shared weight joins its uses."""
        key = (name, dim)
        if key not in self.dims:
            self.dims[key] = self.store.fresh(self.tensors[name].shape[dim])
            self.roles[key] = role
            if name in self.elements:
                self._conflict(name)
        elif self.roles[key] is not role:
            self.store.protect(self.dims[key], f"weight {name!r} is tied: it makes and consumes the same units")
        return self.dims[key]

    def vector(self, tensor: Tensor | None) -> Ids | None:
        """Labels of a parameter or buffer with one entry a channel (bias, norm), ``None`` without one."""
        if tensor is None:
            return None
        labels = self.labels(tensor)
        return None if labels is None else as_ids(labels).reshape(-1)

    def _element_labels(self, view: ParameterView, shape: tuple[int, ...]) -> Tensor:
        tensor = self.tensors[view.name]
        if view.name not in self.elements:
            if tensor.numel() > MAX_ELEMENT_LABELS or not tensor.is_floating_point():
                return torch.full((1,) * len(shape), float(FIXED), dtype=torch.float64).expand(shape)
            self.elements[view.name] = self.store.fresh(tensor.numel()).reshape(tensor.shape)
            if any(name == view.name for name, _ in self.dims):
                self._conflict(view.name)
        return from_ids(self.elements[view.name]).permute(view.perm)

    def _conflict(self, name: str) -> None:
        reason = f"parameter {name!r} is used as a weight and as a plain value"
        self.store.protect(self.elements[name].reshape(-1), reason)
        for (owner, _), ids in self.dims.items():
            if owner == name:
                self.store.protect(ids, reason)

    # -- layers --------------------------------------------------------------------------------------------------

    def record(self, layer: str, kind: str, weight: str | None, x: Tensor, out: Tensor, **facts: Any) -> LayerRecord:
        """Note one call of ``layer``; ``macs`` in ``facts`` is for the whole batch."""
        macs = int(facts.pop("macs", 0)) // self.batch
        record = self.records.layers.get(layer)
        if record is None:
            record = LayerRecord(kind, weight, tuple(x.shape[1:]), tuple(out.shape[1:]), **facts)
            self.records.layers[layer] = record
        record.macs += macs
        record.calls += 1
        if kind in ("conv", "linear"):
            self._made_by[out] = layer
        return record

    def maker(self, tensor: Tensor) -> str | None:
        """The convolution or linear layer whose output ``tensor`` is."""
        found: str | None = self._made_by.get(tensor)
        return found


def layer_of(name: str) -> str:
    """The module that owns a parameter or buffer."""
    return name.rpartition(".")[0]


def op_name(func: Any) -> str:
    """``aten.add`` of ``aten.add.Tensor``."""
    return str(func.overloadpacket)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples, mappings and objects with fields."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_in(vars(value) if hasattr(value, "__dict__") else ())


def from_ids(ids: Ids) -> Tensor:
    """Labels as float64: every kernel knows it, and it is exact up to 2**53."""
    return torch.from_numpy(ids.astype(np.float64))


def as_ids(labels: Tensor) -> Ids:
    """Labels as whole numbers; dimensions that are only stretched come back with size 1."""
    for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1 and stride == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels.contiguous().numpy().astype(np.int64)
