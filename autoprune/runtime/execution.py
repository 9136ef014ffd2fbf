"""Running steps: the masked form (whole width, zeros where skipped) and the sliced form (really smaller layers).

In both a channel that is skipped is missing where it is *read*: what follows a convolution (a norm, say) need not map
zero to zero, so nothing is masked where it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.devices import sent
from autoprune.errors import ChainError
from autoprune.runtime.gates import Lane
from autoprune.runtime.stages import Kind, Step
from autoprune.runtime.symbolic import attribute, filled

ENOUGH = 128  # values of a channel from which their own moments are good enough to train with


class Layers(Protocol):
    """How the layers that a decision changes are run."""

    def run(self, step: Step, module: nn.Module, x: Tensor) -> Tensor:
        """The result of a step that is not :attr:`Kind.OTHER`."""
        ...


class NormRows(Protocol):
    """Statistics of norms: ``row(layer, action)`` is (mean ``[C]``, variance ``[C]``); ``None`` the dense ones."""

    def row(self, layer: str, action: int | None) -> tuple[Tensor, Tensor]:
        """Those of one width."""
        ...

    def rows(self, layer: str) -> tuple[Tensor, Tensor]:
        """All, ``[k, C]``."""
        ...


@dataclass(frozen=True, eq=False)
class Network:
    """The modules that steps call, by name, and the module that holds their parameters."""

    root: nn.Module
    modules: Mapping[str, nn.Module]

    def run(self, steps: Sequence[Step], enters: int, leaves: int, x: Any, layers: Layers) -> Any:
        """The value ``leaves`` that the steps make from ``x``, the value ``enters``."""
        values: dict[int, Any] = {enters: x}
        for step in steps:
            values[step.call.index] = self.one(step, values, layers)
            for gone in step.last:
                if gone != leaves:
                    del values[gone]
        return values[leaves]

    def one(self, step: Step, values: Mapping[int, Any], layers: Layers) -> Any:
        """The result of one step."""
        call = step.call
        if step.gated or step.kind is Kind.NORM:
            return layers.run(step, self.modules[str(call.module)], values[call.reads[0]])
        args, kwargs = (
            filled(part, lambda v: values[v.index], lambda a: attribute(self.root, a.name))
            for part in (call.args, call.kwargs)
        )
        target: Any = self.modules[call.module] if call.module is not None else call.function
        return target(*args, **kwargs)


class Sliced:
    """Every sample has the actions ``actions`` (1 to k, one a stage): layers are cut to prefixes, nothing is copied.

    Args:
        norms: statistics of every width.
        actions: of each stage.
        own: batch norms take the moments of the samples, as :class:`Masked` has it.
    """

    def __init__(self, norms: NormRows, actions: Sequence[int], *, own: bool = False) -> None:
        self._norms, self._actions, self._own = norms, actions, own

    def run(self, step: Step, module: nn.Module, x: Tensor) -> Tensor:
        """One layer, cut."""
        o, i = self._size(step.outgoing), self._size(step.incoming)
        if isinstance(module, nn.Conv2d):
            weight, bias = module.weight[:o, :i], _cut(module.bias, o)
            if step.kind is Kind.CONV:
                out: Tensor = module._conv_forward(x, weight, bias)
                return out
            groups = len(weight) * module.groups // module.out_channels
            return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation, groups)
        if isinstance(module, nn.Linear):
            return F.linear(x, module.weight[:o, :i], _cut(module.bias, o))
        if self._own and _enough(x):
            return normed(module, x, None, None)
        action = None if step.selector is None else self._actions[step.selector]
        mean, var = self._norms.row(str(step.call.module), action)
        return normed(module, x, mean[:o], var[:o])

    def _size(self, lane: Lane | None) -> int | None:
        return None if lane is None else lane.size(self._actions[lane.stage])


class Masked:
    """Every sample its own actions ``[N, m]``: layers run whole, and what was skipped is zero where it is read.

    Args:
        norms: statistics of every width.
        actions: int64 ``[N, m]``, or those up to a stage.
        own: batch norms take the moments of the samples that read the same width, where these have :data:`ENOUGH`
            values of a channel, in place of stored statistics: for training.
    """

    def __init__(self, norms: NormRows, actions: Tensor, *, own: bool = False) -> None:
        self._norms, self._actions, self._own = norms, actions, own

    def run(self, step: Step, module: nn.Module, x: Tensor) -> Tensor:
        """One layer, whole, on inputs masked by the samples' actions."""
        if step.kind is not Kind.NORM:
            out: Tensor = module(self.kept(x, step.incoming))
            return out
        layer = str(step.call.module)
        chosen = None if step.selector is None else self._actions[:, step.selector]
        if chosen is None or (len(chosen) and bool((chosen == chosen[0]).all())):
            if self._own and _enough(x):
                return normed(module, x, None, None)
            return normed(module, x, *self._norms.row(layer, None if chosen is None else int(chosen[0])))
        place, (mean, var) = sent(chosen - 1, x.device), self._norms.rows(layer)  # [N], [k, C]
        if self._own:
            count = sent((chosen - 1).bincount(minlength=len(mean)), x.device)
            mean, var = _moments(x, place, count, mean, var)
        return _normed_apart(module, x, mean[place], var[place])

    def kept(self, x: Tensor, lane: Lane | None) -> Tensor:
        """``x`` with zeros where a sample skipped; as it is where nothing is skipped."""
        if lane is None:
            return x
        chosen = self._actions[:, lane.stage]
        if bool((chosen == len(lane.sizes)).all()):
            return x
        sizes = sent(torch.tensor(lane.sizes)[chosen - 1], x.device)  # [N]
        gone = torch.arange(x.shape[1], device=x.device) >= sizes[:, None]  # [N, C]
        return x.masked_fill(gone.view(*gone.shape, *[1] * (x.dim() - 2)), 0.0)


def _enough(x: Tensor) -> bool:
    return x.numel() >= ENOUGH * x.shape[1]


def _moments(x: Tensor, place: Tensor, samples: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """``mean`` and ``var`` ``[k, C]`` with the moments of ``x`` in rows of ``place`` with enough ``samples``."""
    values, positions = x.to(mean.dtype), tuple(range(2, x.dim()))
    first, second = (v.mean(positions) if positions else v for v in (values, values.square()))  # [N, C]
    count = samples[:, None].to(mean.dtype)
    own, squares = (torch.zeros_like(mean).index_add(0, place, v) / count.clamp(min=1) for v in (first, second))
    spread = (squares - own.square()).clamp(min=0)  # a matrix product would be rounded to bfloat16 under autocast
    enough = count * (x.numel() // (x.shape[0] * x.shape[1])) >= ENOUGH
    return torch.where(enough, own, mean), torch.where(enough, spread, var)


def normed(module: nn.Module, x: Tensor, mean: Tensor | None, var: Tensor | None) -> Tensor:
    """A batch norm of as many channels as ``x`` has with given statistics, or with the moments of ``x`` itself."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise ChainError(f"a batch norm was expected, but got {type(module).__name__}")
    size, own = x.shape[1], mean is None
    return F.batch_norm(x, mean, var, _cut(module.weight, size), _cut(module.bias, size), own, 0.0, module.eps)


def _normed_apart(module: Any, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """The same with statistics ``[N, C]`` of each sample's own."""
    shape = (*mean.shape, *[1] * (x.dim() - 2))
    scale: Tensor = (var + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


def _cut(tensor: Tensor | None, size: int | None) -> Tensor | None:
    return None if tensor is None else tensor[:size]
