"""What the processor offers: bfloat16 arithmetic, and caches that decide how many samples go through at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from autoprune.graph import LayerGraph

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_DEFAULT_CACHE = 8 * 2**20
_SIZE = re.compile(r"(\d+)\s*([KMG]?)")
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "arm_bf16")


@cache
def bfloat16_in_hardware() -> bool:
    """Whether the processor multiplies bfloat16 itself; torch also runs it where it is only imitated, and slower."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return any(capabilities.get(flag) for flag in _BFLOAT16_FLAGS)
    return bool(torch.cpu._is_avx512_bf16_supported())


@cache
def cache_bytes() -> int:
    """Size of the processor's last cache; 8 MiB where it is not known."""
    return max(_cache_sizes(_CACHES), default=_DEFAULT_CACHE)


def _cache_sizes(folder: Path) -> Iterable[int]:
    """Sizes under ``folder`` in the form of Linux: ``index*/size`` holding ``32768K``."""
    for path in folder.glob("index*/size"):
        try:
            match = _SIZE.match(path.read_text())
        except OSError:
            continue
        if match:
            yield int(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]]


def batch_size(graph: LayerGraph, *, itemsize: int = 4, cache: int | None = None) -> int:
    """Samples in one forward pass: the largest power of two for which a layer's input and output fill half the cache.

    It follows from sizes alone, never from a timing, so that two runs evaluate alike. At least 64, where a batch pays
    for reading the weights, at most 1024.

    Args:
        graph: layers with their input and output shapes.
        itemsize: bytes of one activation.
        cache: bytes of the last cache; :func:`cache_bytes` by default.
    """
    cache = cache_bytes() if cache is None else cache
    widest = max(
        (_entries(layer.input_shape) + _entries(layer.output_shape) for layer in graph.layers.values()), default=1
    )
    fits = cache // 2 // max(widest * itemsize, 1)
    return min(1024, max(64, 1 << max(fits.bit_length() - 1, 0)))


def _entries(shape: tuple[int, ...]) -> int:
    entries = 1
    for size in shape:
        entries *= size
    return entries
