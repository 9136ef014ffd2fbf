"""Scores on disk, so that workers and resumed runs compute them once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from autoprune.files import keyed_path, write_bytes
from autoprune.graph import LayerGraph


class ScoreStore:
    """Named score tensors in one safetensors file per key; a damaged or missing file counts as empty.

    Several processes may write the same file: each write is whole, and equal keys hold equal scores.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, label: str, facts: dict[str, object]) -> Path:
        """The file for scores that ``facts`` (JSON) determine; ``label`` only makes it readable."""
        return keyed_path(self.folder, f"scores-{label}", facts)

    def read(self, path: Path) -> dict[str, Tensor]:
        """What the file holds."""
        try:
            tensors: dict[str, Tensor] = load(path.read_bytes())
        except (OSError, SafetensorError, ValueError):
            return {}
        return {name: t for name, t in tensors.items() if t.dtype == torch.float64 and bool(torch.isfinite(t).all())}

    def write(self, path: Path, scores: dict[str, Tensor]) -> None:
        """Write ``scores``, whole or not at all.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        write_bytes(path, save({name: tensor.contiguous() for name, tensor in scores.items()}))


def graph_digest(graph: LayerGraph) -> str:
    """SHA-256 of all that a score depends on in a graph: its groups, their slots and positions."""
    state = hashlib.sha256()
    for group in graph.groups.values():
        state.update(f"{group.name}|{group.pattern}|{group.size}|".encode())
        for slot in group.slots:
            state.update(f"{slot.tensor}|{slot.dim}|{slot.role}|".encode() + slot.positions.numpy().tobytes())
    state.update(repr(graph.norms).encode())
    return state.hexdigest()
