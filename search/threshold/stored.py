"""Predictors on disk: a description (JSON) and tensors (safetensors), no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import ArtifactError
from autoprune.files import atomic_folder
from autoprune.search.threshold.ensemble import Ensemble, FitSettings
from autoprune.search.threshold.features import NAMES, RETRAINING, definition
from autoprune.search.threshold.surrogate import Surrogate
from autoprune.seeding import generator

PREDICTOR_JSON, PREDICTOR_TENSORS = "predictor.json", "predictor.safetensors"
FORMAT, VERSION = "autoprune.predictor", 2


@dataclass(frozen=True)
class PredictorFacts:
    """What ``predictor.json`` says.

    Attributes:
        folder: where it is.
        settings: it was fitted with.
        trained: ``studies`` (name, network, data, trials, pruned layers), ``trials``, ``seed``, and
            ``between_networks``: how far it may be off on a network of which it has seen nothing, as a share of the
            predicted harm.
    """

    folder: Path
    settings: FitSettings
    trained: Mapping[str, Any]

    @property
    def networks(self) -> frozenset[str]:
        """Digests of the networks it has seen."""
        return frozenset(str(study["model"]) for study in self.trained["studies"])

    def between(self, network: str, pruned: Iterable[str]) -> float | None:
        """``between_networks`` where it has not seen a network (its digest) or a layer of it pruned, else ``None``."""
        seen = {layer for study in self.trained["studies"] if study["model"] == network for layer in study["pruned"]}
        return None if network in self.networks and seen.issuperset(pruned) else float(self.trained["between_networks"])


def store_predictor(folder: str | Path, surrogate: Surrogate, trained: Mapping[str, Any]) -> None:
    """Write a predictor, whole or not at all.

    Raises:
        ArtifactError: the folder cannot be written, or holds something else.
    """
    import torch
    from safetensors.torch import save_file

    from autoprune._version import __version__

    folder = Path(folder)
    check_place(folder)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "features": definition(),
        "settings": asdict(surrogate.settings),
        "trained": dict(trained),
        "made_with": {"autoprune": __version__, "torch": torch.__version__},
    }
    tensors = {name: value.contiguous() for name, value in surrogate.net.state_dict().items()}
    tensors |= {"mean": torch.from_numpy(surrogate.mean), "scale": torch.from_numpy(surrogate.scale)}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / PREDICTOR_TENSORS)
        text = json.dumps(facts, indent=1, allow_nan=False)
        (temporary / PREDICTOR_JSON).write_text(text + "\n", encoding="utf-8")


def check_place(folder: Path) -> None:
    """Refuse to put a predictor in the place of something else.

    Raises:
        ArtifactError: the folder holds something else.
    """
    if folder.exists() and not (folder / PREDICTOR_JSON).is_file():
        raise ArtifactError(f"{str(folder)!r} is there and holds no predictor; choose another folder with --out")


def read_predictor(folder: str | Path) -> PredictorFacts:
    """The description of the predictor in ``folder``; no tensor is read yet.

    Raises:
        ArtifactError: there is none, it cannot be read, or it knows other features.
    """
    path = Path(folder) / PREDICTOR_JSON
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ArtifactError(
                f"{str(path)!r} is {data['format']!r} of version {data['version']!r}, but this release reads "
                f"{FORMAT!r} of version {VERSION}; train the predictor again"
            )
        if data["features"] != definition():
            raise ArtifactError(
                f"the predictor in {str(folder)!r} knows version {data['features'].get('version')!r} of the features, "
                f"but this release has version {definition()['version']}; train it again from its studies"
            )
        trained = data["trained"]
        facts = PredictorFacts(Path(folder), FitSettings(**data["settings"]), trained)
        assert facts.between("", ()) is not None
        return facts
    except OSError as error:
        raise ArtifactError(
            f"there is no predictor in {str(folder)!r} ({error.strerror or error}); "
            "'autoprune predictor train STUDY --out FOLDER' makes one"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error!r}") from None


def load_predictor(folder: str | Path) -> Surrogate:
    """The predictor in ``folder``.

    Raises:
        ArtifactError: there is none, it knows other features, or its tensors are not what they must be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts = read_predictor(folder)
    path = facts.folder / PREDICTOR_TENSORS
    net = Ensemble(len(NAMES), len(RETRAINING), facts.settings, generator(0, "stored"))
    try:
        tensors = load_file(path)
        mean, scale = tensors.pop("mean").numpy(), tensors.pop("scale").numpy()
        net.load_state_dict(tensors, strict=True)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        text = str(error).partition("\n")[0]
        raise ArtifactError(f"the tensors of the predictor in {str(path)!r} cannot be read: {text}") from None
    values = [mean, scale, *(value.numpy() for value in tensors.values())]
    if mean.shape != (len(NAMES),) or scale.shape != mean.shape or not all(np.isfinite(v).all() for v in values):
        raise ArtifactError(f"the tensors of the predictor in {str(path)!r} are not finite numbers of its features")
    return Surrogate(mean, scale, net, facts.settings)
