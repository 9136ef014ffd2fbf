"""Weights of one layer laid out for every width: a prefix of its outputs is a contiguous view, nothing is copied.

For each width that is read, the columns are packed into a tensor of their own (channels-last for images), with the
batch norm behind the layer folded in at the statistics of that width. Rows of that tensor are a contiguous prefix. For
k groups this takes (k + 1) / 2 times the memory of the weights.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from autoprune.runtime.execution import NormRows
from autoprune.runtime.kernels import Weights
from autoprune.runtime.stages import Kind, Step

Parameters = tuple[Tensor, Tensor | None]


class PackedLayer:
    """One convolution or linear layer, perhaps with the norm behind it, at all widths."""

    def __init__(self, step: Step, module: nn.Module, norms: NormRows, norm: tuple[Step, nn.Module] | None) -> None:
        """``norm`` is the batch norm that alone reads the layer's output, with its step."""
        self.step, self.module = step, module
        self._norms, self._norm = norms, norm
        self._packed: dict[tuple[int | None, int | None], Parameters] = {}
        self._cut: dict[tuple[int | None, ...], Weights] = {}

    def at(self, action: Any) -> Weights:
        """Those when ``action[stage]`` is the action of each stage: contiguous views of what is packed."""
        lane = self.step.incoming
        selector = None if self._norm is None else self._norm[0].selector
        size = None if lane is None else lane.size(action[lane.stage])
        row = None if selector is None else action[selector]
        out = self.step.outgoing
        rows = None if out is None else out.size(action[out.stage])
        if (size, row, rows) not in self._cut:
            if (size, row) not in self._packed:
                self._packed[size, row] = self._pack(size, row)
            weight, bias = self._packed[size, row]
            self._cut[size, row, rows] = Weights(weight[:rows], None if bias is None else bias[:rows])
        return self._cut[size, row, rows]

    @torch.no_grad()
    def _pack(self, size: int | None, row: int | None) -> Parameters:
        module: Any = self.module
        weight: Tensor = module.weight if self.step.kind is Kind.DEPTHWISE else module.weight[:, :size]
        bias: Tensor | None = module.bias
        if self._norm is not None:
            step, norm = self._norm[0], cast(Any, self._norm[1])
            mean, var = self._norms.row(str(step.call.module), row)
            fuse = fuse_linear_bn_weights if isinstance(module, nn.Linear) else fuse_conv_bn_weights
            weight, bias = fuse(weight, bias, mean, var, norm.eps, norm.weight, norm.bias)
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        return _frozen(weight, layout), None if bias is None else _frozen(bias)


def _frozen(tensor: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """A copy that nothing else writes to, laid out as :func:`autoprune.deploy.lay_out` does it.

    Plain strides come first: with a single channel both layouts are one, and the strides that a tensor happens to have
    would choose the kernel, so that a stored network and the loaded one could differ in the last bit.
    """
    return tensor.detach().clone(memory_format=torch.contiguous_format).contiguous(memory_format=layout)
