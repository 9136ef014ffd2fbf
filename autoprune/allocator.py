"""Keep freed memory in the process: big activations are not handed back to the operating system after every layer.

By default glibc maps each large block anew and returns it at once, so that every forward pass faults in its activations
page by page. Raising two thresholds at start makes a forward pass up to twice as fast (measured on one network). Peak
memory is the same; what was the peak stays reserved. Set ``AUTOPRUNE_MALLOC=default`` to leave the allocator alone.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

SWITCH = "AUTOPRUNE_MALLOC"
_M_TRIM_THRESHOLD = -1  # free memory at the top of the heap above which it is returned
_M_MMAP_THRESHOLD = -3  # size from which a block is mapped on its own and returned when freed
_TRIM_BYTES = 2**31 - 1
_MMAP_BYTES = 2**30


@cache
def keep_memory() -> bool:
    """Raise the thresholds of this process, once; whether they are raised.

    ``False`` where the C library is not glibc, where it refuses, or where ``AUTOPRUNE_MALLOC`` is ``default``.
    """
    if os.environ.get(SWITCH, "").lower() in {"default", "off", "0"}:
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - only glibc has it, and only there the two numbers mean this
        return bool(libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES) and libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES))
    except (AttributeError, OSError, TypeError):
        return False
