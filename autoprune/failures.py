"""Which exceptions mean that a plan has no usable network, and how that is said. Everything else is a fault."""

from __future__ import annotations

import torch

from autoprune.errors import AutopruneError, TrainingDiverged
from autoprune.evaluation import NotFinite

_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad alloc")


class EmptyLayer(AutopruneError):  # noqa: N818 - it names what happened
    """A layer in which nothing is left."""


def failure(error: BaseException) -> str | None:
    """Why a plan failed, ``None`` for an exception that is no plan's fault."""
    if isinstance(error, EmptyLayer | NotFinite | TrainingDiverged):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"out of memory: {_first_line(error)}"
    if isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return f"a matrix could not be factored: {_first_line(error)}"
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY):
        return f"out of memory: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
