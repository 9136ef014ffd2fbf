"""Convolutions whose weights lie in memory as oneDNN's kernels read them.

``torch.conv2d`` lays its weights out for the kernel at every call. Over many positions that does not show, but a single
image, or one of the small groups that a mixed batch falls into, waits longer for it than for the arithmetic. Laid out
once, weights of many channels take a half to a quarter of the time there.

No part of the laid-out form is the form of a smaller layer, so each pair of widths has one of its own, made when it is
first run. A :class:`Room` bounds them all; beyond it, and wherever torch lacks what this takes, ``torch.conv2d`` runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

LEAST = 1 << 16  # weights from which a single image is faster, as measured; a group always is


class Room:
    """What laid-out weights may still take, in bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, tensor: Tensor) -> bool:
        """Whether there is room for a copy of it, which is then taken."""
        size = tensor.numel() * tensor.element_size()
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(eq=False)
class Weights:
    """What a layer computes with at a pair of widths.

    Attributes:
        weight: ``[O, I, ...]``.
        bias: ``[O]``, or none.
        laid: the laid-out form, once a convolution has made it.
    """

    weight: Tensor
    bias: Tensor | None
    laid: Tensor | None = None


def convolution(module: Any, weights: Weights, room: Room, *, part: bool) -> Callable[[Tensor], Tensor]:
    """The two-dimensional convolution ``module`` with packed weights.

    Args:
        module: gives stride, padding and dilation.
        weights: parts of its own, or folded.
        room: for the laid-out form.
        part: it will run on groups of samples, not on one sample or a whole batch.
    """
    weight, bias = weights.weight, weights.bias
    stride, padding, dilation = module.stride, module.padding, module.dilation
    groups = 1 if module.groups == 1 else len(weight) * module.groups // module.out_channels

    def plain(x: Tensor) -> Tensor:
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    if isinstance(padding, str) or not (part or weight.numel() >= LEAST) or not can_lay_out(weight, groups):
        return plain
    where = (list(padding), list(stride), list(dilation))
    call: Any = torch.ops.mkldnn._convolution_pointwise.default
    rest: tuple[Any, ...] = (1, "none", [], "")  # one group, no activation behind it

    def run(x: Tensor) -> Tensor:
        if weights.laid is None:
            if not len(x) or not room.take(weight):
                return plain(x)
            weights.laid = _laid_out(weight, where, tuple(x.shape))
        out: Tensor = call(x, weights.laid, bias, *where, *rest)
        return out

    return run


def can_lay_out(weight: Tensor, groups: int) -> bool:
    """Whether there is a laid-out form for such a weight, here and now."""
    plain = groups == 1 and weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and bool(torch.backends.mkldnn.enabled) and _works()


def _laid_out(weight: Tensor, where: tuple[list[int], ...], size: tuple[int, ...]) -> Tensor:
    lay: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    found: Tensor = lay(weight.to_mkldnn(), *where, 1, list(size))
    return found


@cache
def _works() -> bool:
    """Whether this build of torch has the calls, which are not part of its public interface, and they are right."""
    x, weight, where = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), ([1, 1], [1, 1], [1, 1])
    try:
        laid = _laid_out(weight, where, tuple(x.shape))
        found = torch.ops.mkldnn._convolution_pointwise.default(x, laid, None, *where, 1, "none", [], "")
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return bool(torch.allclose(found, torch.conv2d(x, weight, None, 1, 1)))
