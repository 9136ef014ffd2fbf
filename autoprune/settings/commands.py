"""The settings of each command."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from autoprune.settings.base import Number, Settings, Switch, Text, Texts, Whole, option
from autoprune.settings.parts import BasePart, EvaluationPart, NetworkPart, Pairs, RetrainPart, RunPart, SpacePart
from autoprune.settings.runtime import RuntimeEvaluateSettings, RuntimeExportSettings, RuntimeTrainSettings
from autoprune.settings.thresholds import (
    PredictorReportSettings,
    PredictorTrainSettings,
    ReproducePredictorSettings,
)


class TrainSettings(NetworkPart, RunPart):
    """``autoprune train``. Training settings that are not given are chosen to suit the network and the data."""

    command: ClassVar[str] = "train"

    out: Path | None = option(None, "Folder of the trained network. Default: checkpoints/DATA-MODEL.", panel="Run")
    epochs: Whole | None = option(None, "Passes over the training split.", panel="Training", ge=1)
    lr: Number | None = option(None, "Highest learning rate.", panel="Training", gt=0)
    optimizer: Literal["sgd", "adamw"] | None = option(None, "Optimizer.", panel="Training")
    momentum: Number | None = option(None, "Momentum of sgd.", panel="Training", ge=0, lt=1)
    schedule: Literal["cosine", "constant"] | None = option(None, "Learning rate over time.", panel="Training")
    warmup_epochs: Number | None = option(None, "Epochs in which the learning rate rises.", panel="Training", ge=0)
    batch_size: Whole | None = option(None, "Samples a step.", panel="Training", ge=1)
    weight_decay: Number | None = option(None, "Weight decay.", panel="Training", ge=0)
    label_smoothing: Number | None = option(
        None, "Share of the target spread over all classes.", panel="Training", ge=0, lt=1
    )
    clip_norm: Number | None = option(None, "Longest gradient.", panel="Training", gt=0)
    patience: Whole | None = option(
        None, "Epochs without a better validation accuracy before it stops; 0 for never.", panel="Training", ge=0
    )
    augment: Literal["none", "flip_crop"] | None = option(None, "Changes to images while training.", panel="Training")
    precision: Literal["auto", "float32", "bfloat16"] = option("auto", "Numbers of the forward pass.", panel="Training")
    resume: Switch = option(True, "Go on with what the folder holds; otherwise start anew.", panel="Run")


class InspectSettings(BasePart, EvaluationPart, RunPart):
    """``autoprune inspect``."""

    command: ClassVar[str] = "inspect"

    sensitivity: Switch = option(
        False, "Prune each group alone and show how accuracy falls (evaluates the network).", panel="Sensitivity"
    )
    sparsities: tuple[Number, ...] = option(
        (0.25, 0.5, 0.75, 0.9), "Sparsities to try.", panel="Sensitivity", min_length=1, metavar="SPARSITY"
    )
    norms: Switch = option(
        False, "Draw the sorted norms of every layer with their knees, and write these as thresholds.", panel="Norms"
    )
    predictor: Path | None = option(
        None, "Stored predictor: draw and write the thresholds that it would choose, too.", panel="Norms"
    )
    drop: Number = option(0.02, "Accuracy that these may lose.", panel="Norms", ge=0, lt=1)
    retrain_steps: Whole = option(30, "Steps of retraining after which it may be lost.", panel="Norms", ge=0)
    method: Text = option("l1_norm", "Name of 'autoprune list methods'.", panel="Sensitivity")
    include: Texts = option((), "Only groups with a layer that matches.", panel="Sensitivity", metavar="GLOB")
    exclude: Texts = option((), "No group with a layer that matches.", panel="Sensitivity", metavar="GLOB")
    out: Path | None = option(None, "Folder for tables and pictures.", panel="Run")

    @pydantic.model_validator(mode="after")
    def _predicted_norms(self) -> InspectSettings:
        if self.predictor is not None and not self.norms:
            raise ValueError("predictor goes with norms; give norms too")
        return self

    @pydantic.field_validator("sparsities")
    @classmethod
    def _in_range(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for level in value:
            if not 0 < level < 1:
                raise ValueError(f"every sparsity must be above 0 and below 1, and {level:g} is not")
        return value


class PruneSettings(BasePart, EvaluationPart, RetrainPart, RunPart):
    """``autoprune prune``."""

    command: ClassVar[str] = "prune"

    plan: Path | None = option(None, "Plan file (JSON) to follow, in place of one method.", panel="Plan")
    thresholds: Path | None = option(
        None,
        "File (JSON or TOML) with a threshold for each layer, in units of its mean norm: what lies below goes.",
        panel="Plan",
    )
    method: Text = option("l1_norm", "Name of 'autoprune list methods'.", panel="Plan")
    pattern: Literal["channel", "weight", "input"] = option(
        "channel",
        "What goes: channels and hidden units, single weights (masked only), or inputs.",
        panel="Plan",
    )
    sparsity: Number | None = option(None, "Share of units that every group loses.", panel="Plan", ge=0, lt=1)
    budget: Texts = option(
        (), "In place of a sparsity: the smallest that meets this, like macs=0.5.", panel="Plan", metavar="METRIC=LIMIT"
    )
    include: Texts = option((), "Only groups with a layer that matches.", panel="Plan", metavar="GLOB")
    exclude: Texts = option((), "No group with a layer that matches.", panel="Plan", metavar="GLOB")
    reconstruction: Text = option("none", "Repair of what is left: none, bias_only, mauch_yang.", panel="Plan")
    out: Path | None = option(None, "Folder of the pruned network. Default: runs/DATA-MODEL-pruned.", panel="Run")

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> PruneSettings:
        given = [n for n in ("plan", "thresholds", "sparsity", "budget") if getattr(self, n) not in (None, ())]
        if len(given) != 1:
            what = " and ".join(given) if given else "none of them"
            raise ValueError(f"exactly one of plan, thresholds, sparsity and budget must be given, but got {what}")
        if self.budget and self.pattern != "channel":
            raise ValueError(f"budget goes with pattern 'channel', but got {self.pattern!r}; give sparsity instead")
        return self


class SearchSettings(BasePart, SpacePart, EvaluationPart, RetrainPart, RunPart):
    """``autoprune search``."""

    command: ClassVar[str] = "search"

    budget: Texts = option(
        ("macs=0.5",),
        "What the result must meet: macs, params, bytes or latency_ms; a share of the dense network or absolute.",
        panel="Search",
        metavar="METRIC=LIMIT",
    )
    controller: Text = option("tpe", "Name of 'autoprune list controllers'.", panel="Search")
    policy: Path | None = option(
        None, "In place of a controller: run folder of a learner, whose policy decides here.", panel="Search"
    )
    predictor: Path | None = option(
        None, "Stored predictor that the controller threshold_mlp starts from.", panel="Search"
    )
    trials: Whole = option(50, "Plans that the controller tries, on top of the baselines.", panel="Search", ge=1)
    timeout_s: Number | None = option(None, "Stop after this many seconds.", panel="Search", gt=0)
    pareto: Texts = option(
        (), "Search a front: accuracy against this cost (one or two).", panel="Search", max_length=2, metavar="METRIC"
    )
    handling: Literal["project", "reject"] = option(
        "project", "A proposal over budget is moved onto it, or refused unseen.", panel="Search"
    )
    controller_options: Pairs = option({}, "Options of the controller.", panel="Search")
    pruner: Text | None = option(
        None, "Stops hopeless retraining early: median, hyperband, patience or dominated.", panel="Search"
    )
    race: Switch = option(False, "Stop evaluating a plan once it cannot be the best.", panel="Search")
    workers: Whole = option(1, "Processes that evaluate.", panel="Search", ge=1)
    train_epochs: Whole | None = option(
        None, "Epochs of the base network, where none is given. Default: by model.", panel="Network and data", ge=1
    )
    storage: Text | None = option(
        None, "Optuna storage URL. Default: SQLite in the run folder.", panel="Run", metavar="URL"
    )
    study_name: Text | None = option(None, "Name of the study. Default: the folder's name.", panel="Run")
    out: Path | None = option(None, "Run folder; the same folder goes on. Default: runs/DATA-MODEL.", panel="Run")
    test: Switch = option(True, "Judge dense, baselines and best once on the test split.", panel="Run")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _front_alone(cls, values: Any) -> Any:
        """A front needs no budget: without one given there is none."""
        if isinstance(values, dict) and values.get("pareto") and "budget" not in values:
            return {**values, "budget": ()}
        return values

    @pydantic.model_validator(mode="before")
    @classmethod
    def _policy_decides(cls, values: Any) -> Any:
        """A policy is a controller of its own, with its folder as an option."""
        if not isinstance(values, dict) or not values.get("policy"):
            return values
        if values.get("controller", "policy") != "policy":
            raise ValueError(
                f"policy takes the place of the controller, but got {values['controller']!r}; leave one out"
            )
        return {**values, "controller": "policy"}

    @pydantic.model_validator(mode="after")
    def _predictor_helps(self) -> SearchSettings:
        if self.predictor is not None and self.controller != "threshold_mlp":
            raise ValueError(f"predictor goes with controller threshold_mlp, but got {self.controller!r}")
        return self

    @pydantic.model_validator(mode="after")
    def _something_to_meet(self) -> SearchSettings:
        if not self.budget and not self.pareto:
            raise ValueError("a search needs a budget, for example macs=0.5, or a front, for example pareto macs")
        return self


class EvaluateSettings(Settings):
    """``autoprune evaluate``."""

    command: ClassVar[str] = "evaluate"

    threads: Whole | None = option(None, "Threads that torch may use. Default: torch's own choice.", ge=1)
    split: Literal["train", "calibration", "validation", "test"] = option("test", "Samples to judge on.")
    data: Text | None = option(None, "Name of 'autoprune list datasets', or package.module:factory. Default: its own.")
    data_dir: Path | None = option(None, "Folder of the datasets. Default: $AUTOPRUNE_DATA, or the user's cache.")
    latency: Switch = option(True, "Measure latency too.")
    latency_batch: Whole = option(1, "Samples a call when latency is measured.", ge=1)
    latency_threads: Whole = option(1, "Threads when latency is measured.", ge=1)


class ExportSettings(Settings):
    """``autoprune export``."""

    command: ClassVar[str] = "export"

    format: Literal["safetensors", "torch", "onnx"] = option("onnx", "What to write.")
    out: Path | None = option(None, "Folder to write to. Default: exported/ in the network's folder.")
    input_shape: str | None = option(None, "Shape of one input, such as 3x32x32. Default: as stored with the network.")


class StudyExportSettings(Settings):
    """``autoprune study export``."""

    command: ClassVar[str] = "study export"

    trial: Whole | None = option(None, "Number of the trial. Default: the best.", ge=0)
    format: Literal["safetensors", "torch", "onnx"] = option(
        "safetensors", "What to write beside the stored network.", panel="Options"
    )
    out: Path | None = option(None, "Folder to write to. Default: best/ or trial-N/ in the run folder.")
    data_dir: Path | None = option(None, "Folder of the datasets. Default: as in the search.")


COMMANDS: dict[str, type[Settings]] = {
    cls.command: cls
    for cls in (
        TrainSettings,
        InspectSettings,
        PruneSettings,
        SearchSettings,
        EvaluateSettings,
        ExportSettings,
        StudyExportSettings,
        PredictorTrainSettings,
        PredictorReportSettings,
        ReproducePredictorSettings,
        RuntimeTrainSettings,
        RuntimeEvaluateSettings,
        RuntimeExportSettings,
    )
}
