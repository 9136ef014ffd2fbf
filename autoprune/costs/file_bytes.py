"""Bytes on disk: the exact size of the safetensors file that stores the network.

A safetensors file is eight bytes with the length of its header, the header (JSON, filled with spaces to a multiple of
eight), and the tensors one after the other. The header holds each tensor's shape and offsets in decimal, so its length
moves with the plan; both are counted here without writing anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from autoprune.costs.base import Metric
from autoprune.costs.sizes import Counts, Sizes

METRIC = Metric(
    name="bytes",
    unit="bytes",
    units={"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    measured=False,
    counts="size of the safetensors file, header included; a masked weight is stored as a zero",
)


def digits(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Decimal digits of each value (at least 0)."""
    powers = 10 ** np.arange(1, 19, dtype=np.int64)
    return 1 + np.searchsorted(powers, values, side="right").astype(np.int64)


def file_order(tensors: Mapping[str, Tensor]) -> tuple[list[str], int]:
    """The order in which safetensors stores ``tensors``, and the length of the header without any number in it."""
    empty = {name: torch.empty((0,), dtype=tensor.dtype) for name, tensor in tensors.items()}
    blob = save(empty)
    length = int.from_bytes(blob[:8], "little")
    text = blob[8 : 8 + length].decode().rstrip(" ")
    order = list(json.loads(text))
    numbers = 3 * len(order)  # "shape":[0] and "data_offsets":[0,0], one digit each
    return order, len(text.encode()) - numbers


def count(sizes: Sizes, counts: Counts) -> int:
    """Bytes of the file that stores tensors with ``counts``."""
    data = counts.numel * sizes.itemsize
    ends = np.cumsum(data)
    shape = counts.shapes[sizes.has_dim]
    text = int(digits(shape).sum() + digits(ends).sum() + digits(ends - data).sum())
    header = sizes.header + text
    return 8 + -(-header // 8) * 8 + int(ends[-1] if len(ends) else 0)
