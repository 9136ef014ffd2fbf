"""Runtime-pruned networks in a folder: ``model.safetensors`` (every tensor), ``model.json`` (how to put it together).

:func:`autoprune.load` opens it. Nothing is pickled; each file is written whole or not at all, the description last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune import surgery
from autoprune.artifacts import MODEL_JSON, MODEL_TENSORS, RUNTIME_FORMAT, NetworkSpec, rebuild, write_described
from autoprune.errors import ArtifactError, AutopruneError
from autoprune.runtime.chain import Chain
from autoprune.runtime.controller import Controller
from autoprune.runtime.network import RuntimePrunedNetwork
from autoprune.runtime.table import KnobTable
from autoprune.tensors import named_tensors, put_tensors, read_tensors, tensors_digest

VERSION = 4
_FIELDS: dict[str, Any] = {
    "factory": str,
    "options": dict,
    "attributes": dict,
    "digest": str,
    "input_shape": list,
    "groups": int,
    "gates": list,
    "controller": dict,
    "knob": (int, float),
    "statistics": list,
}


def save_runtime(
    folder: str | Path,
    network: RuntimePrunedNetwork,
    spec: NetworkSpec,
    *,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Store ``network`` in ``folder``; returns the digest of its tensors.

    Args:
        folder: made if need be; other files in it stay.
        network: with a :class:`autoprune.runtime.Controller`.
        spec: how the dense form of its backbone is made.
        data: what it was trained on.
        metrics: accuracies and costs.

    Raises:
        ArtifactError: a controller of another kind, a folder that cannot be written, something that is not JSON.
    """
    chain, controller = network.chain, network.controller
    if type(controller) is not Controller:
        raise ArtifactError(f"only a Controller can be stored, but the network has a {type(controller).__name__}")
    tensors = named_tensors(network)
    digest = tensors_digest(tensors)
    description = {
        "format": RUNTIME_FORMAT,
        "version": VERSION,
        "factory": spec.factory,
        "options": dict(spec.options),
        "attributes": surgery.attributes(chain.backbone),
        "digest": digest,
        "input_shape": list(chain.input_shape),
        "groups": chain.groups,
        "gates": [gate for stage in chain.stages for gate in stage.gates],
        "controller": {
            "code": controller.code,
            "hidden": controller.hidden,
            "prices": list(controller.prices),
        },
        "knob": network.knob,
        "statistics": list(chain.norms.knobs),
        "table": None if network.table is None else network.table.to_dict(),
        "data": dict(data or {}),
        "metrics": dict(metrics or {}),
        "torch": torch.__version__,
    }
    write_described(Path(folder), tensors, description)
    return digest


def load_runtime(folder: str | Path, stored: Mapping[str, Any]) -> RuntimePrunedNetwork:
    """The network stored in ``folder``, whose ``model.json`` holds ``stored``.

    Raises:
        ArtifactError: a field is missing or wrong, or the tensors are not those that were stored.
        AutopruneError: the factory cannot be found, or makes another network.
    """
    place = str(Path(folder) / MODEL_JSON)
    _check(stored, place)
    tensors = read_tensors(Path(folder) / MODEL_TENSORS)
    if tensors_digest(tensors) != stored["digest"]:
        raise ArtifactError(
            f"{str(Path(folder) / MODEL_TENSORS)!r} is not the file that {MODEL_JSON} describes "
            "(its SHA-256 differs): it was changed, or a save was cut short; save the network again"
        )
    own = {name.removeprefix("chain.backbone."): t for name, t in tensors.items() if name.startswith("chain.backbone.")}
    spec = NetworkSpec(stored["factory"], stored["options"])
    backbone = rebuild(spec, own, stored["attributes"], str(folder))
    chain = _chain(backbone, stored, place)
    try:
        chain.norms.hold(stored["statistics"])
        controller = Controller(chain.channels, chain.groups, **stored["controller"])
        table = None if stored.get("table") is None else KnobTable.from_dict(stored["table"])
        network = RuntimePrunedNetwork(chain, controller, table, knob=stored["knob"])
    except (AutopruneError, TypeError, ValueError) as error:
        raise ArtifactError(f"{place!r}: {error}") from None
    network.to(next(t.dtype for t in own.values() if t.is_floating_point()))
    put_tensors(network, tensors)
    return network.eval()


def _chain(backbone: Any, stored: Mapping[str, Any], place: str) -> Chain:
    parameter = next(p for p in backbone.parameters())
    example = torch.zeros(2, *stored["input_shape"], dtype=parameter.dtype)
    gates = [str(gate) for gate in stored["gates"]]
    chain = Chain(backbone, example, groups=stored["groups"], first=True, include=gates)
    found = [gate for stage in chain.stages for gate in stage.gates]
    if found != gates:
        raise ArtifactError(
            f"{place!r}: the network decides at {gates}, but {stored['factory']!r} makes one that decides at {found}; "
            "was the factory changed?"
        )
    return chain


def _check(stored: Mapping[str, Any], place: str) -> None:
    if stored.get("version") != VERSION:
        raise ArtifactError(
            f"{place!r} has version {stored.get('version')!r}, but this release reads version {VERSION}; "
            "install the release that wrote it"
        )
    for name, kind in _FIELDS.items():
        if not isinstance(stored.get(name), kind):
            raise ArtifactError(f"{place!r}: field {name!r} is missing or not what it must be")
