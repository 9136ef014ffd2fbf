"""Every tensor of a network by name: read out, put back, compared by digest, stored as safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune import surgery
from autoprune.errors import ArtifactError
from autoprune.files import write_bytes


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, detached; a tensor with several names stands under the first.

    Buffers that torch would not save stand here too: pruning may have cut them. What :mod:`autoprune.surgery` adds is
    left out, as its attributes hold it.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in places(module):
        if id(value) not in seen:
            seen.add(id(value))
            found[name] = value.detach()
    return found


def places(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers under all their names, in the order of the modules."""
    parameters = module.named_parameters(remove_duplicate=False)
    buffers = module.named_buffers(remove_duplicate=False)
    return [*parameters, *((name, b) for name, b in buffers if name.rpartition(".")[2] != surgery.KEPT_INPUTS)]


@torch.no_grad()
def put_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into the tensors of ``module`` that have these names.

    Raises:
        ArtifactError: a name or a shape that the network does not have.
    """
    here = named_tensors(module)
    for name, value in tensors.items():
        if name not in here or here[name].shape != value.shape:
            has = f"shape {list(here[name].shape)}" if name in here else "no such tensor"
            raise ArtifactError(f"tensor {name!r} of shape {list(value.shape)} does not fit: the network has {has}")
        here[name].copy_(value)


def network_digest(module: nn.Module) -> str:
    """SHA-256 over the sorted names, types, shapes and values of every parameter and buffer."""
    return tensors_digest(named_tensors(module))


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, types, shapes and values; the layout in memory plays no part."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        if tensor.numel():
            state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    from safetensors.torch import save

    write_bytes(path, save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ArtifactError: missing, unreadable, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        return dict(from_bytes(Path(path).read_bytes()))
    except OSError as error:
        raise ArtifactError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"{str(path)!r} is not a whole safetensors file: {error}") from None
