"""Statistics of one layer, and how they go to a file and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoprune.errors import ArtifactError
from autoprune.files import atomic_file

STATS_VERSION = 1


class Need(StrEnum):
    """A statistic that a method or a repair can ask for."""

    MOMENTS = "moments"  # mean and covariance of a layer's inputs; no labels
    GRADIENT = "gradient"  # first-order criteria w * dL/dw of a layer's units; labels


@dataclass(frozen=True, eq=False)
class LayerStats:
    """What calibration saw at one layer. All tensors are float64 and on the CPU.

    ``I`` counts the layer's inputs as its unfolded weight does: features of a linear layer, ``channels * kh * kw`` of a
    convolution. ``B`` counts batches.

    Attributes:
        samples: rows behind the moments: samples times positions.
        mean: ``[I]``, mean input; ``None`` without moments.
        covariance: ``[I, I]``, ``E[(x - mean)(x - mean)^T]`` with 1/N; ``None`` without moments.
        taylor: (weight's name, dimension) -> ``[n, B]``: for each of the ``n`` positions along that dimension and each
            batch, the derivative of the batch's mean loss along a gate on the position, which is the sum of
            ``w * dL/dw`` over what makes it (see :class:`autoprune.calibration.gradients.Gate`).
    """

    samples: int = 0
    mean: Tensor | None = None
    covariance: Tensor | None = None
    taylor: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def gram(self) -> Tensor | None:
        """``[I, I]``, ``E[x x^T]``: uncentred second moments, computed at each call."""
        if self.mean is None or self.covariance is None:
            return None
        return torch.addr(self.covariance, self.mean, self.mean)

    def has(self, need: Need) -> bool:
        """Whether ``need`` was collected here."""
        return bool(self.taylor) if need is Need.GRADIENT else self.covariance is not None


def _flat(stats: Mapping[str, LayerStats]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by number, and the JSON that says what each number is."""
    tensors: dict[str, Tensor] = {}
    entries: list[dict[str, object]] = []

    def put(tensor: Tensor, **facts: object) -> None:
        tensors[str(len(entries))] = tensor.contiguous()
        entries.append(facts)

    for layer, one in stats.items():
        if one.mean is not None and one.covariance is not None:
            put(one.mean, layer=layer, kind="mean")
            put(one.covariance, layer=layer, kind="covariance")
        for (weight, dim), sums in one.taylor.items():
            put(sums, layer=layer, kind="taylor", weight=weight, dim=dim)
    samples = {layer: one.samples for layer, one in stats.items()}
    return tensors, {"stats": json.dumps({"version": STATS_VERSION, "samples": samples, "entries": entries})}


def write_stats(path: str | Path, stats: Mapping[str, LayerStats]) -> None:
    """Write ``stats`` as safetensors, whole or not at all.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    tensors, facts = _flat(stats)
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=facts)
        except SafetensorError as error:
            raise ArtifactError(f"cannot write {str(path)!r}: {error}; free some room") from None


def read_stats(path: str | Path) -> dict[str, LayerStats]:
    """Read what :func:`write_stats` wrote; the tensors stay in the file, which processes that read it share.

    Raises:
        ArtifactError: no such file, a damaged one, or one of another release.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["stats"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if facts["version"] != STATS_VERSION:
            raise ArtifactError(
                f"{str(path)!r} holds statistics of version {facts['version']!r}, but this release reads version "
                f"{STATS_VERSION}; delete the file to collect them again"
            )
        return _read(facts, tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"cannot read statistics from {str(path)!r}: {error}; delete the file to collect again"
        ) from None


def _read(facts: dict[str, object], tensors: dict[str, Tensor]) -> dict[str, LayerStats]:
    samples, entries = facts["samples"], facts["entries"]
    if not isinstance(samples, dict) or not isinstance(entries, list):
        raise ValueError("its index is not what this release writes")
    dense: dict[str, dict[str, Tensor]] = {layer: {} for layer in samples}
    taylor: dict[str, dict[tuple[str, int], Tensor]] = {layer: {} for layer in samples}
    for number, entry in enumerate(entries):
        tensor = tensors[str(number)]
        if entry["kind"] == "taylor":
            taylor[entry["layer"]][(entry["weight"], entry["dim"])] = tensor
        else:
            dense[entry["layer"]][entry["kind"]] = tensor
    return {
        layer: LayerStats(count, dense[layer].get("mean"), dense[layer].get("covariance"), taylor[layer])
        for layer, count in samples.items()
    }


def stats_digest(stats: Mapping[str, LayerStats]) -> str:
    """A short SHA-256 of the contents: equal statistics, equal digest."""
    tensors, facts = _flat(stats)
    digest = hashlib.sha256(facts["stats"].encode())
    for tensor in tensors.values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
