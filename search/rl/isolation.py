"""A learner and what it asks about, apart: each with its own random numbers and threads.

Libraries of reinforcement learning draw from the generators of the process. So that an evaluation can neither disturb
the learner nor be disturbed by it, these are exchanged whenever one hands over to the other. The learner runs on one
thread, since sums of several are not the same every time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """Generators of the process: Python's, numpy's and torch's."""

    python: Any
    numpy: Any
    torch: Tensor

    @classmethod
    def now(cls) -> RandomState:
        """As they are."""
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)


class Apart:
    """Exchanges random numbers and threads between a learner and everything else."""

    def __init__(self) -> None:
        self._others: tuple[RandomState, int] | None = None

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The learner works; afterwards everything is as it was."""
        self._others = RandomState.now(), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within :meth:`learning`: something else works for a moment."""
        mine = RandomState.now()
        self._leave()
        try:
            yield
        finally:
            self._others = RandomState.now(), torch.get_num_threads()
            torch.set_num_threads(1)
            mine.restore()

    def _leave(self) -> None:
        assert self._others is not None
        state, threads = self._others
        torch.set_num_threads(threads)
        state.restore()
