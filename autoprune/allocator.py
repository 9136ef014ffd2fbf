"""Keep freed memory in the process: big activations are not handed back to the operating system after every layer.

By default glibc maps each large block anew and returns it at once, so that every forward pass faults in its activations
page by page. Raising two thresholds at start, and having all threads share one heap, makes a forward pass up to twice
as fast (measured on one network). Peak memory is the same; what was the peak stays reserved. Set
``AUTOPRUNE_MALLOC=default`` to leave the allocator alone.

Convolutions are compiled for their shapes and kept, a thousand of them by default. Every candidate has shapes of its
own, so over a long search those would only pile up (54 MiB over 450 trials of a small network); fewer are kept.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

from torch import nn

SWITCH = "AUTOPRUNE_MALLOC"
_M_TRIM_THRESHOLD = -1  # free memory at the top of the heap above which it is returned
_M_MMAP_THRESHOLD = -3  # size from which a block is mapped on its own and returned when freed
_M_ARENA_MAX = -8  # heaps: those of further threads are made of pieces too small for big activations
_TRIM_BYTES = 2**31 - 1
_MMAP_BYTES = 2**30
_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_PER_LAYER = 16  # forward, two kinds of backward, changes of layout, for two batch sizes; or candidates in turns
_LEAST = 64


def keep_few_kernels(model: nn.Module) -> None:
    """Keep the kernels of one network of this depth; has an effect before the process's first convolution.

    What the user set in the environment stays.
    """
    layers = sum(1 for module in model.modules() if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)))
    for name in _KERNELS:
        os.environ.setdefault(name, str(max(_LEAST, _PER_LAYER * layers)))


@cache
def keep_memory() -> bool:
    """Set this up for the process, once; whether it is.

    ``False`` where the C library is not glibc, where it refuses, or where ``AUTOPRUNE_MALLOC`` is ``default``.
    """
    if os.environ.get(SWITCH, "").lower() in {"default", "off", "0"}:
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - only glibc has it, and only there the two numbers mean this
        options = ((_M_MMAP_THRESHOLD, _MMAP_BYTES), (_M_TRIM_THRESHOLD, _TRIM_BYTES), (_M_ARENA_MAX, 1))
        return all(libc.mallopt(option, value) for option, value in options)
    except (AttributeError, OSError, TypeError):
        return False
