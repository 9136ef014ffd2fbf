"""Mean and covariance of what enters a layer, patches included, summed in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK_ELEMENTS = 4_000_000  # entries of one block of patches: 32 MB in float64
BLOCK = 512  # columns of one block of the covariance

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def has_inputs(module: nn.Module) -> bool:
    """Whether the inputs of ``module`` can be written as rows that its weight ``[O, I]`` multiplies."""
    return isinstance(module, nn.Linear) or (isinstance(module, _CONVOLUTIONS) and module.groups == 1)


def patches(module: nn.Module, x: Tensor, positions: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Blocks of rows ``[R, I]`` of what ``module`` multiplies for input ``x``, padding included.

    Args:
        module: a linear layer or an ungrouped convolution.
        x: its input; ``[..., I]`` for a linear layer, ``[N, C, *spatial]`` or ``[C, *spatial]`` for a convolution.
        positions: how many positions of each sample, drawn without replacement; ``None`` takes all.
        generator: draws them.
    """
    if isinstance(module, nn.Linear):
        rows = x.reshape(x.shape[0] if x.dim() > 1 else 1, -1, x.shape[-1])  # [N, P, I]
        chosen = _choose(rows.shape[0], rows.shape[1], positions, generator).to(x.device)
        yield rows.gather(1, chosen[:, :, None].expand(-1, -1, rows.shape[2])).flatten(0, 1)  # [N * p, I]
    elif isinstance(module, _CONVOLUTIONS):
        yield from _conv_patches(module, x, positions, generator)
    else:
        raise TypeError(f"no patches of a {type(module).__name__}")


def _choose(samples: int, available: int, positions: int | None, generator: torch.Generator) -> Tensor:
    """``[samples, p]`` positions in ``[0, available)``, different ones for each sample."""
    if positions is None or positions >= available:
        return torch.arange(available).expand(samples, available)
    return torch.rand(samples, available, generator=generator).topk(positions, dim=1).indices


def _conv_patches(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor, positions: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    nd = len(module.kernel_size)
    x = x if x.dim() == nd + 2 else x[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)  # [N, C, *padded]
    sizes = list(x.shape[2:])
    pitch = [int(torch.tensor(sizes[d + 1 :]).prod()) for d in range(nd)]  # of the flattened padded plane
    reach = [module.dilation[d] * (module.kernel_size[d] - 1) for d in range(nd)]
    out = [(sizes[d] - reach[d] - 1) // module.stride[d] + 1 for d in range(nd)]
    base = _offsets(out, [module.stride[d] * pitch[d] for d in range(nd)])  # [P]
    taps = _offsets(module.kernel_size, [module.dilation[d] * pitch[d] for d in range(nd)])  # [K]
    chosen = base[_choose(x.shape[0], len(base), positions, generator)]  # [N, p]
    last = nd == 2 and x.is_contiguous(memory_format=torch.channels_last)
    flat = x.permute(0, 2, 3, 1).flatten(1, 2) if last else x.flatten(2).transpose(1, 2)  # [N, plane, C]
    step = max(1, CHUNK_ELEMENTS // (chosen.shape[1] * flat.shape[2] * len(taps)))
    for start in range(0, x.shape[0], step):
        part, place = flat[start : start + step], chosen[start : start + step]
        index = (place[:, :, None] + taps).flatten(1).to(x.device)  # [n, p * K]
        picked = part.gather(1, index[:, :, None].expand(-1, -1, part.shape[2]))  # [n, p * K, C]
        picked = picked.view(len(part), -1, len(taps), part.shape[2])  # [n, p, K, C]
        yield picked.transpose(2, 3).flatten(2).flatten(0, 1)  # [n * p, C * K]


def _offsets(sizes: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Flat offsets of a grid with ``sizes`` points and ``steps`` between them, last dimension fastest."""
    flat = torch.zeros(1, dtype=torch.long)
    for size, step in zip(sizes, steps, strict=True):
        flat = (flat[:, None] + torch.arange(size) * step).flatten()
    return flat


class Moments:
    """Running mean and covariance of rows ``[R, I]``.

    Sums are float64 about the first block's mean, so that a large mean costs no digits of the covariance; only its
    upper triangle is computed.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._shift: Tensor | None = None
        self._sum = torch.empty(0)
        self._products = torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Take in ``rows [R, I]``."""
        rows = rows.detach().to(torch.float64)
        if self._shift is None:
            self._shift = rows.mean(0)
            self._sum = torch.zeros_like(self._shift)
            self._products = rows.new_zeros(rows.shape[1], rows.shape[1])
        rows = rows - self._shift
        self.rows += rows.shape[0]
        self._sum += rows.sum(0)
        for a, b in _blocks(rows.shape[1]):
            self._products[a:b, a:].addmm_(rows[:, a:b].T, rows[:, a:])

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean ``[I]`` and covariance ``[I, I]``, symmetric to the last bit; the sums are used up."""
        assert self._shift is not None, "no rows were added"
        drift = self._sum / self.rows
        covariance = self._products.div_(self.rows).addr_(drift, drift, alpha=-1)
        for a, b in _blocks(len(drift)):
            square = covariance[a:b, a:b]
            square.copy_(square.triu() + square.triu(1).T)
            covariance[b:, a:b] = covariance[a:b, b:].T
        covariance.diagonal().clamp_(min=0)
        return (self._shift + drift).cpu(), covariance.cpu()


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    return itertools.pairwise([*range(0, size, BLOCK), size])
