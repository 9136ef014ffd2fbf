"""Stored networks: a folder with ``model.safetensors`` (every tensor) and ``model.json`` (how to make the network).

A pruned network is stored with the sizes its tensors have; :func:`load` makes the dense one from its factory, sets the
sizes from the tensors and loads them. Nothing is pickled, and a folder that is not what it says is refused with the
reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune import surgery
from autoprune.errors import ArtifactError, AutopruneError, ModelError
from autoprune.files import write_text
from autoprune.plan import Plan
from autoprune.tensors import (
    named_tensors,
    network_digest,
    places,
    put_tensors,
    read_tensors,
    tensors_digest,
    write_tensors,
)

__all__ = [
    "FORMAT",
    "MODEL_JSON",
    "MODEL_TENSORS",
    "VERSION",
    "NetworkSpec",
    "StoredNetwork",
    "load",
    "named_tensors",
    "network_digest",
    "read_network",
    "rebuild",
    "save_network",
    "write_tensors",
]

FORMAT = "autoprune-network"
RUNTIME_FORMAT = "autoprune-runtime-network"  # read by autoprune.runtime.storing
VERSION = 1
MODEL_JSON = "model.json"
MODEL_TENSORS = "model.safetensors"


@dataclass(frozen=True)
class NetworkSpec:
    """How a network is made: ``factory`` as in :func:`autoprune.models.build_model`, and its options (JSON values).

    Raises:
        ModelError: an option that is not JSON, so that it could not be stored.
    """

    factory: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            same = json.loads(
                json.dumps(self.options, allow_nan=False)
            )  # as a stored one will be read: lists, no tuples
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"options of {self.factory!r} must be JSON values, so that they can be stored: {error}"
            ) from None
        object.__setattr__(self, "options", same)

    def build(self) -> nn.Module:
        """The dense network, with fresh weights."""
        from autoprune.models import build_model

        return build_model(self.factory, **self.options)


@dataclass(frozen=True)
class StoredNetwork:
    """What a folder holds; the tensors stay on disk until they are asked for.

    Attributes:
        folder: where it stands.
        spec: how the network is made.
        plan: what was removed from it, ``None`` for a dense network.
        metrics: accuracies and costs, as stored.
        data: name, seed and digest of the data it was trained on.
        attributes: attributes of modules that cannot be read off the tensors.
        digest: :func:`network_digest` of the tensors.
    """

    folder: Path
    spec: NetworkSpec
    plan: Plan | None
    metrics: dict[str, Any]
    data: dict[str, Any]
    attributes: dict[str, dict[str, Any]]
    digest: str

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name.

        Raises:
            ArtifactError: the file is missing, corrupt, or not the one that ``model.json`` describes.
        """
        tensors = read_tensors(self.folder / MODEL_TENSORS)
        if tensors_digest(tensors) != self.digest:
            raise ArtifactError(
                f"{str(self.folder / MODEL_TENSORS)!r} is not the file that {MODEL_JSON} describes "
                "(its SHA-256 differs): it was changed, or a save was cut short; save the network again"
            )
        return tensors


def save_network(
    folder: str | Path,
    module: nn.Module,
    spec: NetworkSpec,
    *,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Store ``module`` in ``folder``; each file is written whole or not at all, the description last.

    Args:
        folder: made if need be; other files in it stay.
        module: the network, dense or pruned.
        spec: how its dense form is made.
        data: what it was trained on.
        metrics: accuracies and costs.
        plan: what was removed.
        attributes: what the tensors do not tell; :func:`autoprune.surgery.attributes` of ``module`` by default.

    Returns:
        The network's digest.

    Raises:
        ArtifactError: the folder cannot be written, or something is not JSON.
    """
    tensors = named_tensors(module)
    digest = tensors_digest(tensors)
    attributes = surgery.attributes(module) if attributes is None else attributes
    description = {
        "format": FORMAT,
        "version": VERSION,
        "factory": spec.factory,
        "options": dict(spec.options),
        "digest": digest,
        "plan": None if plan is None else plan.to_dict(),
        "attributes": {name: dict(values) for name, values in attributes.items()},
        "data": dict(data or {}),
        "metrics": dict(metrics or {}),
        "parameters": sum(p.numel() for p in module.parameters()),
        "torch": torch.__version__,
    }
    write_described(Path(folder), tensors, description)
    return digest


def write_described(folder: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a network's tensors and what describes it; nothing is written unless it is JSON.

    Raises:
        ArtifactError: the description is not JSON, or the folder cannot be written.
    """
    try:
        text = json.dumps(description, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"what describes a network must be JSON: {error}") from None
    write_tensors(folder / MODEL_TENSORS, tensors)
    write_text(folder / MODEL_JSON, text + "\n")


def read_network(folder: str | Path) -> StoredNetwork:
    """What ``folder`` holds, checked; no tensor is read yet.

    Raises:
        ArtifactError: no such folder, no network in it, not JSON, another version, a missing or wrong field.
    """
    path = Path(folder) / MODEL_JSON
    stored = _read_json(path)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ArtifactError(f"{str(path)!r} does not describe a stored network (format must be {FORMAT!r})")
    if stored.get("version") != VERSION:
        raise ArtifactError(
            f"{str(path)!r} has version {stored.get('version')!r}, but this release reads version {VERSION}; "
            "install the release that wrote it"
        )
    for name, kind in _FIELDS.items():
        if not isinstance(stored.get(name), kind):
            raise ArtifactError(f"{str(path)!r}: field {name!r} is missing or not what it must be")
    try:
        plan = None if stored.get("plan") is None else Plan.from_dict(stored["plan"])
    except AutopruneError as error:
        raise ArtifactError(f"{str(path)!r}: {error}") from None
    spec = NetworkSpec(stored["factory"], stored["options"])
    return StoredNetwork(
        Path(folder), spec, plan, stored["metrics"], stored["data"], stored["attributes"], stored["digest"]
    )


_FIELDS = {"factory": str, "options": dict, "digest": str, "metrics": dict, "data": dict, "attributes": dict}


def load(folder: str | Path) -> nn.Module:
    """The network stored in ``folder``, dense, pruned or pruned at run time, in evaluation mode.

    Raises:
        ArtifactError: the folder holds no network, or one that is corrupt or that its factory does not fit.
        AutopruneError: the factory cannot be found.
    """
    description = _read_json(Path(folder) / MODEL_JSON)
    if isinstance(description, dict) and description.get("format") == RUNTIME_FORMAT:
        from autoprune.runtime.storing import load_runtime

        return load_runtime(folder, description)
    stored = read_network(folder)
    return rebuild(stored.spec, stored.tensors(), stored.attributes, str(folder))


def rebuild(
    spec: NetworkSpec, tensors: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]], place: str
) -> nn.Module:
    """The network of ``spec`` with the sizes and values of ``tensors``, in evaluation mode.

    Raises:
        ArtifactError: the network has other tensors; ``place`` says where they come from.
    """
    module = spec.build()
    here = named_tensors(module)
    same = {name: (t.shape, t.dtype) for name, t in here.items()} == {n: (t.shape, t.dtype) for n, t in tensors.items()}
    if not same or attributes:
        try:
            module = surgery.resize(module, _with_aliases(module, tensors), _with_biases(module, tensors, attributes))
        except ModelError as error:
            raise ArtifactError(f"{place!r} does not fit {spec.factory!r}: {error}") from None
    put_tensors(module, tensors)
    return module.eval()


def _with_aliases(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` and, for a tensor that stands in several places (tied weights), its other names."""
    first = {id(value): name for name, value in places(module) if name in tensors}
    others = [(name, first[id(value)]) for name, value in places(module) if name not in tensors and id(value) in first]
    return dict(tensors) | {name: tensors[same] for name, same in others}


def _with_biases(
    module: nn.Module, tensors: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """``attributes``, and a bias for each layer that gained one in a repair: it is stored, the dense layer has none."""
    found = {name: dict(values) for name, values in attributes.items()}
    for name in tensors:
        owner, _, kind = name.rpartition(".")
        if kind == "bias" and owner in dict(module.named_modules()):
            parameters = module.get_submodule(owner)._parameters
            if "bias" in parameters and parameters["bias"] is None:
                found.setdefault(owner, {})["bias"] = True
    return found


def _read_json(path: Path) -> Any:
    if not path.parent.is_dir():
        raise ArtifactError(f"no folder {str(path.parent)!r}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = sorted(str(p.parent) for p in _nearby(path.parent))
        hint = f"; did you mean {near[0]!r}?" if near else "; 'autoprune train' makes one"
        raise ArtifactError(f"no stored network in {str(path.parent)!r} ({MODEL_JSON} is missing){hint}") from None
    except OSError as error:
        raise ArtifactError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtifactError(f"{str(path)!r} is not JSON: {error}") from None


def _nearby(folder: Path) -> Iterator[Path]:
    """Stored networks one level below, the best one first: what a user who names a run folder means."""
    for name in ("best", "base"):
        if (folder / name / MODEL_JSON).is_file():
            yield folder / name / MODEL_JSON
