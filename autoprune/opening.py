"""From settings to what they name: the data, the network, the objective, and what a run folder is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from autoprune.artifacts import NetworkSpec, StoredNetwork
    from autoprune.costs import LatencySettings
    from autoprune.data import DataSplits
    from autoprune.finetune import FinetuneSettings
    from autoprune.graph import LayerGraph
    from autoprune.objective import Objective
    from autoprune.settings.parts import BasePart, EvaluationPart, NetworkPart

DEFAULT_DATA = "digits"
RETRAINING = {"sgd": {"lr": 0.02, "weight_decay": 5e-4}, "adamw": {"lr": 5e-4, "weight_decay": 0.01}}
LOOKS = 5  # of a pruner while a trial is retrained, unless the settings say how often
DEFAULT_MODELS = {
    "digits": "digits_cnn",
    "iris": "mlp",
    "wine": "mlp",
    "breast_cancer": "mlp",
    "mnist": "lenet5",
    "cifar10": "resnet20",
}


@dataclass(frozen=True, eq=False)
class Opened:
    """A network and its data.

    Attributes:
        spec: how the dense network is made.
        data: in four splits.
        data_options: what loads the same data again, stored beside networks.
        stored: the trained network, ``None`` where none was given.
    """

    spec: NetworkSpec
    data: DataSplits
    data_options: dict[str, Any]
    stored: StoredNetwork | None = None

    @property
    def name(self) -> str:
        """``DATA-MODEL``, fit for a folder."""
        return f"{_plain(self.data.name)}-{_plain(self.spec.factory)}"

    def described(self) -> dict[str, Any]:
        """What is stored with a network about its data."""
        return {"name": self.data.name, "digest": self.data.digest, "options": self.data_options}

    def module(self) -> nn.Module:
        """The network: the trained one, or with fresh weights."""
        from autoprune.artifacts import load

        return self.spec.build() if self.stored is None else load(self.stored.folder)


def open_network(settings: NetworkPart) -> Opened:
    """The network that ``settings`` name, with its data, not trained.

    Raises:
        SettingsError: no model is named and none is known for the data.
        AutopruneError: names, files or contents that cannot be used.
    """
    from autoprune.artifacts import NetworkSpec
    from autoprune.models import default_options

    asked: dict[str, Any] = {
        "data": settings.data or DEFAULT_DATA,
        "seed": settings.data_seed,
        "options": settings.data_options,
    }
    name = settings.model or _default_model(asked["data"])
    data, options = open_data(asked, settings.data_dir, settings.device)
    return Opened(NetworkSpec(name, {**default_options(name, data), **settings.model_options}), data, options)


def open_base(settings: BasePart) -> Opened:
    """The trained network of ``settings.base``; :func:`open_network` where none is given.

    Raises:
        SettingsError: settings that contradict each other.
        AutopruneError: names, files or contents that cannot be used.
    """
    from autoprune.artifacts import read_network

    if settings.base is None:
        return open_network(settings)
    stored = read_network(settings.base)
    _refuse_other(settings, stored)
    asked = {"data": settings.data, "seed": settings.data_seed, "options": settings.data_options}
    data, options = open_data(asked if settings.data else trained_on(stored), settings.data_dir, settings.device)
    return Opened(stored.spec, data, options, stored)


def open_data(asked: dict[str, Any], data_dir: Path | None, device: str = "cpu") -> tuple[DataSplits, dict[str, Any]]:
    """The data called ``asked["data"]``, on ``device``, and what is stored with networks to load them again.

    Raises:
        SettingsError: an option of the data that is a setting of its own, or a device that is not there.
        AutopruneError: names, files or contents that cannot be used.
    """
    from autoprune.data import load_data
    from autoprune.devices import read_device

    place = None if device == "cpu" else read_device(device)
    for name, setting in (("seed", "data_seed"), ("data_dir", "data_dir")):
        if name in asked["options"]:
            raise SettingsError(f"data_options cannot hold {name!r}, which is the setting {setting}; give that instead")
    data = load_data(asked["data"], seed=asked["seed"], data_dir=data_dir, **asked["options"])
    facts = {"input_shape": list(data.input_shape), "input_type": str(data.example(1).dtype)}
    return data if place is None else data.to(place), {**asked, **facts}


def trained_on(stored: StoredNetwork) -> dict[str, Any]:
    """What loads the data that a stored network was trained on.

    Raises:
        SettingsError: the network does not say.
    """
    options = stored.data.get("options")
    names = ("data", "seed", "options")
    if not isinstance(options, dict) or not set(names) <= set(options):
        raise SettingsError(
            f"the network in {str(stored.folder)!r} does not say what data it was trained on; give --data"
        )
    return {name: options[name] for name in names}


def _refuse_other(settings: BasePart, stored: StoredNetwork) -> None:
    for name in ("model", "model_options"):
        if getattr(settings, name):
            raise SettingsError(
                f"{name} cannot be given with base: {str(stored.folder)!r} holds {stored.spec.factory!r}; leave it out"
            )


def _default_model(data: str) -> str:
    from autoprune.data import DATASETS

    if ":" not in data and data not in DATASETS:
        raise unknown_name("dataset", data, DATASETS)
    if data not in DEFAULT_MODELS:
        raise SettingsError(f"no default model for data {data!r}; choose one with --model ('autoprune list models')")
    return DEFAULT_MODELS[data]


def use_threads(threads: int | None) -> None:
    """Let torch use this many threads; ``None`` leaves its own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def default_folder(parent: str, opened: Opened) -> Path:
    """``parent/DATA-MODEL``."""
    return Path(parent) / opened.name


def _plain(name: str) -> str:
    """A name without what folders cannot carry: ``package.module:factory`` is called after the factory."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name.rpartition(":")[2]).strip("_.") or "network"


def objective_of(
    settings: EvaluationPart,
    opened: Opened,
    *,
    graph: LayerGraph | None = None,
    race: bool = False,
    latency: bool = False,
    cache_dir: Path | None = None,
) -> Objective:
    """The objective that ``settings`` describe, for the network and the data of ``opened``."""
    from autoprune.objective import Objective, ObjectiveSettings, RaceSettings

    wanted = ObjectiveSettings(
        finetune=finetune_of(settings, opened.spec.factory),
        recalibrate=settings.recalibrate,
        precision=settings.precision,
        batch_size=settings.eval_batch_size,
        race=RaceSettings() if race else None,
        latency=latency_of(settings) if latency else None,
        combine=settings.combine,
        calibration_samples=settings.calibration_samples,
        seed=getattr(settings, "seed", 0),
    )
    return Objective(opened.module(), opened.data, settings=wanted, graph=graph, cache_dir=cache_dir)


def latency_of(settings: EvaluationPart) -> LatencySettings:
    """How latency is measured."""
    from autoprune.costs import LatencySettings

    return LatencySettings(batch=settings.latency_batch, threads=settings.latency_threads)


def finetune_of(settings: EvaluationPart, factory: str) -> FinetuneSettings:
    """Retraining as the settings say; none for a command that does not retrain."""
    from autoprune.finetune import FinetuneSettings
    from autoprune.models import MODELS
    from autoprune.settings.parts import RetrainPart

    if not isinstance(settings, RetrainPart):
        return FinetuneSettings()
    values = {name.removeprefix("retrain_"): getattr(settings, name) for name in RetrainPart.model_fields}
    values["optimizer"] = values["optimizer"] or ("sgd" if factory in MODELS else "adamw")
    for name, value in RETRAINING[values["optimizer"]].items():
        values[name] = value if values[name] is None else values[name]
    if getattr(settings, "pruner", None) and not values["report_every"]:
        values["report_every"] = max(1, values["steps"] // LOOKS)
    return FinetuneSettings(**values)
