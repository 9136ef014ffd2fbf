"""Decoded samples kept in the user's cache folder, so that an archive is unpacked and decoded once."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from autoprune.data.sources import cache_root
from autoprune.errors import ArtifactError
from autoprune.files import write_bytes

_log = logging.getLogger(__name__)


def decoded(key: str, decode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors for ``key``: from the cache where they lie there whole, else from ``decode``, and cached.

    Args:
        key: what the tensors are made from (a checksum) and by which version of the code; a file name.
        decode: makes the tensors.
    """
    path = cache_root() / "decoded" / f"{key}.safetensors"
    found = _read(path)
    if found is not None:
        return found
    tensors = decode()
    try:
        _write(path, tensors)
    except ArtifactError as error:
        _log.warning("decoded data are not cached: %s", error)
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    sums = {name: _crc(tensor) for name, tensor in tensors.items()}
    write_bytes(path, save(tensors, metadata={"crc32": json.dumps(sums)}))


def _read(path: Path) -> dict[str, Tensor] | None:
    """The cached tensors; ``None`` where there are none, or not whole: then they are made anew."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            sums = json.loads((file.metadata() or {})["crc32"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        _log.warning("cached data in %s cannot be read (%s) and are made anew", path, error)
        return None
    if sums != {name: _crc(tensor) for name, tensor in tensors.items()}:
        _log.warning("cached data in %s are corrupt and are made anew", path)
        return None
    return tensors


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
