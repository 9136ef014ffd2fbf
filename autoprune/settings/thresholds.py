"""The settings of commands about thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pydantic

from autoprune.settings.base import Number, Settings, Text, Texts, Whole, option
from autoprune.settings.parts import DevicePart, EvaluationPart, Pairs, RetrainPart, RunPart


class PredictorTrainSettings(Settings):
    """``autoprune predictor train``."""

    command: ClassVar[str] = "predictor train"

    out: Path = option(Path("predictor"), "Folder of the predictor.")
    fit_steps: Whole = option(1000, "Steps of the fit.", ge=1)
    members: Whole = option(5, "Networks of the ensemble.", ge=2)
    hidden: Whole = option(64, "Units of their two hidden layers.", ge=1)
    seed: Whole = option(0, "Seed of the fit.", ge=0)


class PredictorReportSettings(Settings):
    """``autoprune predictor report``."""

    command: ClassVar[str] = "predictor report"

    out: Path | None = option(None, "Folder for the numbers and the picture. Default: beside the predictor.")


class ReproducePredictorSettings(DevicePart, EvaluationPart, RetrainPart, RunPart):
    """``autoprune reproduce predictor``."""

    command: ClassVar[str] = "reproduce predictor"

    bases: Texts = option(
        (),
        "Folders of trained networks. Default: the models are trained first.",
        panel="Network and data",
        metavar="FOLDER",
    )
    models: Texts = option(
        ("vgg16_bn", "resnet20"),
        "Models to train, where no folders are given.",
        panel="Network and data",
        metavar="MODEL",
    )
    model_options: Pairs = option({}, "Arguments of the models' factories.", panel="Network and data")
    data: Text = option("cifar10", "Data to train them on.", panel="Network and data")
    data_options: Pairs = option({}, "Arguments of the dataset's loader.", panel="Network and data")
    data_dir: Path | None = option(None, "Folder of the datasets.", panel="Network and data")
    train_epochs: Whole | None = option(None, "Epochs. Default: by model.", panel="Network and data", ge=1)
    scopes: Texts = option(
        ("largest", "all"),
        "Layers that may lose filters: largest (the one with most parameters) or all.",
        panel="Search",
        min_length=1,
    )
    targets: Texts = option(
        ("drop", "size"),
        "What the automated choice meets: drop (of accuracy), or size (that the thresholds by hand give).",
        panel="Search",
        min_length=1,
    )
    drop: Number = option(0.02, "Accuracy that may be lost.", panel="Search", ge=0, lt=1)
    cost: Literal["params", "macs"] = option("params", "What is to become small.", panel="Search")
    trials: Whole = option(20, "Plans that the predictor tries for each target.", panel="Search", ge=3)
    predictor: Path | None = option(None, "Stored predictor to start from.", panel="Search")
    method: Text = option("l1_norm", "Whose scores are the norms: l1_norm, l2_norm or fpgm.", panel="Search space")
    max_sparsity: Number = option(0.9, "Most that a layer may lose.", panel="Search space", gt=0, lt=1)
    final_steps: Whole = option(1000, "Steps of the full retraining at the end.", panel="Retraining", ge=0)
    out: Path = option(Path("runs/predictor"), "Run folder; the same folder goes on.", panel="Run")

    @pydantic.field_validator("scopes", "targets")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: pydantic.ValidationInfo) -> tuple[str, ...]:
        known = {"scopes": ("largest", "all"), "targets": ("drop", "size")}[str(info.field_name)]
        for name in value:
            if name not in known:
                raise ValueError(f"each must be {' or '.join(known)}, and {name!r} is not")
        return tuple(dict.fromkeys(value))

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> ReproducePredictorSettings:
        if self.bases and self.model_options:
            raise ValueError("model_options cannot be given with bases, which are trained already")
        return self
