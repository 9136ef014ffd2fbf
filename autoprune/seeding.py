"""Random numbers: every generator is derived from a seed and labels, and nothing seeds the process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *labels: object) -> int:
    """A 63-bit seed made from ``seed`` and ``labels``; equal inputs give equal seeds on every machine."""
    text = "\x1f".join([str(int(seed)), *(str(label) for label in labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: object) -> torch.Generator:
    """A CPU generator of its own, seeded by :func:`derive`."""
    return torch.Generator().manual_seed(derive(seed, *labels))


@contextmanager
def seeded(seed: int, *labels: object) -> Iterator[None]:
    """What draws from torch's own generator (initial weights, dropout) draws from ``seed``, which is then put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, *labels))
        yield
