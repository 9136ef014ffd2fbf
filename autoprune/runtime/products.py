"""Convolutions of a few small images as one matrix product.

A convolution is compiled for its sizes and lays its weights out anew at every call. For large images neither shows; a
group of a few samples with 2x2 positions and 512 channels takes longer for that than for the arithmetic, and groups of
a mixed batch hardly ever have a size that was seen before. There the product of patches and packed weights, which lie
in memory as the product wants them, is up to twice as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_ROWS = 128  # positions of all samples up to which a product is the faster one, as measured


def is_product(module: nn.Module) -> bool:
    """Whether a convolution can be written as a product of its patches: no groups, no dilation, zeros at the border."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def product(module: Any, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The convolution ``module`` with a packed weight ``[O, I, kh, kw]``: a product where there are few positions."""
    (kh, kw), (sh, sw), (ph, pw) = module.kernel_size, module.stride, module.padding
    matrix = weight.permute(0, 2, 3, 1).flatten(1)  # [O, kh kw I], a view

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows, columns = (h + 2 * ph - kh) // sh + 1, (w + 2 * pw - kw) // sw + 1
        if n * rows * columns > MOST_ROWS:
            return torch.conv2d(x, weight, bias, module.stride, module.padding)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph)).contiguous()  # [n, h, w, c]
        sample, down, right, _ = padded.stride()
        patches = padded.as_strided((n, rows, columns, kh, kw * c), (sample, sh * down, sw * right, down, 1))
        made = F.linear(patches.reshape(n * rows * columns, kh * kw * c), matrix, bias)
        return made.view(n, rows, columns, len(matrix)).permute(0, 3, 1, 2)

    return run
