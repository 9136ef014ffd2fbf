"""Settings that several commands share. Each becomes a flag and a TOML key of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from autoprune.settings.base import Number, Settings, Switch, Text, Texts, Whole, option


def read_pairs(value: Any) -> Any:
    """``["width=0.5", "norm=false"]`` as ``{"width": 0.5, "norm": False}``; a table of TOML stays as it is."""
    if not isinstance(value, (list, tuple)):
        return value
    pairs = {}
    for entry in value:
        key, sign, text = str(entry).partition("=")
        if not sign or not key:
            raise ValueError(f"must be written as NAME=VALUE, but got {entry!r}")
        pairs[key] = _value(text)
    return pairs


def _value(text: str) -> Any:
    """``text`` as TOML reads it (number, true, [1, 2], "text"); what is not TOML is taken as text."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


Pairs = Annotated[dict[str, Any], pydantic.BeforeValidator(read_pairs)]


class DevicePart(Settings):
    """Where networks run."""

    device: Text = option(
        "cpu", "Where networks are trained and evaluated: cpu, cuda, cuda:1. Latency is the CPU's.", panel="Run"
    )


class NetworkPart(DevicePart):
    """Which network, on which data."""

    model: Text | None = option(
        None,
        "Name of 'autoprune list models', or package.module:factory. Default: what fits the data.",
        panel="Network and data",
    )
    model_options: Pairs = option({}, "Arguments of the model's factory.", panel="Network and data")
    data: Text | None = option(
        None,
        "Name of 'autoprune list datasets', or package.module:factory. Default: the base network's own, or digits.",
        panel="Network and data",
    )
    data_options: Pairs = option({}, "Arguments of the dataset's loader.", panel="Network and data")
    data_dir: Path | None = option(
        None, "Folder of the datasets. Default: $AUTOPRUNE_DATA, or the user's cache.", panel="Network and data"
    )
    data_seed: Whole = option(0, "Seed of the splits.", panel="Network and data", ge=0)


class BasePart(NetworkPart):
    """A trained network, or one to be trained first."""

    base: Path | None = option(
        None, "Folder of a trained network, as 'autoprune train' stores it.", panel="Network and data"
    )


class RunPart(Settings):
    """How a command runs."""

    seed: Whole = option(0, "Seed of everything random but the splits.", panel="Run", ge=0)
    threads: Whole | None = option(
        None,
        "Threads that torch may use. Default: torch's own choice, and one to search a small network.",
        panel="Run",
        ge=1,
    )


class RetrainPart(Settings):
    """Retraining of a pruned network, in steps; the names without ``retrain_`` are those of ``FinetuneSettings``."""

    retrain_steps: Whole = option(30, "Steps of retraining after pruning; 0 for none.", panel="Retraining", ge=0)
    retrain_lr: Number | None = option(
        None, "Highest learning rate. Default: 0.02 with sgd, 0.0005 with adamw.", panel="Retraining", gt=0
    )
    retrain_optimizer: Literal["sgd", "adamw"] | None = option(
        None,
        "Optimizer. Default: sgd for the networks of 'autoprune list models', adamw for others.",
        panel="Retraining",
    )
    retrain_momentum: Number = option(0.9, "Momentum of sgd.", panel="Retraining", ge=0, lt=1)
    retrain_schedule: Literal["cosine", "constant"] = option("cosine", "Learning rate over time.", panel="Retraining")
    retrain_warmup_steps: Whole = option(0, "Steps in which the learning rate rises.", panel="Retraining", ge=0)
    retrain_batch_size: Whole = option(128, "Samples a step.", panel="Retraining", ge=1)
    retrain_weight_decay: Number | None = option(
        None, "Weight decay. Default: 0.0005 with sgd, 0.01 with adamw.", panel="Retraining", ge=0
    )
    retrain_label_smoothing: Number = option(
        0.0, "Share of the target spread over all classes.", panel="Retraining", ge=0, lt=1
    )
    retrain_clip_norm: Number | None = option(None, "Longest gradient.", panel="Retraining", gt=0)
    retrain_augment: Literal["none", "flip_crop"] | None = option(
        None, "Changes to images while retraining. Default: by dataset.", panel="Retraining"
    )
    retrain_precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Numbers of the forward pass.", panel="Retraining"
    )
    retrain_report_every: Whole = option(
        0, "Steps between two looks of a pruner; 0 for five looks.", panel="Retraining", ge=0
    )
    distill_weight: Number = option(
        0.0, "Share of the loss that follows the dense network's outputs.", panel="Retraining", ge=0, le=1
    )
    distill_temperature: Number = option(4.0, "Temperature of those outputs.", panel="Retraining", gt=0)


class EvaluationPart(Settings):
    """How a pruned network is judged and measured."""

    recalibrate: Switch = option(True, "Estimate batch-norm statistics anew after pruning.", panel="Evaluation")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Numbers that rank candidates; the best is confirmed in float32.", panel="Evaluation"
    )
    eval_batch_size: Whole | None = option(None, "Samples a forward pass. Default: chosen.", panel="Evaluation", ge=1)
    calibration_samples: Whole | None = option(
        None, "Calibration samples that methods see. Default: all.", panel="Evaluation", ge=1
    )
    combine: Literal["mean", "sum", "max", "first"] = option(
        "mean", "How the scores of layers that go together become one.", panel="Evaluation"
    )
    latency_batch: Whole = option(1, "Samples a call when latency is measured.", panel="Evaluation", ge=1)
    latency_threads: Whole = option(1, "Threads when latency is measured.", panel="Evaluation", ge=1)


class SpacePart(Settings):
    """What may be decided."""

    methods: Texts = option(
        ("l1_norm",), "Methods to choose from for each group.", panel="Search space", min_length=1, metavar="METHOD"
    )
    include: Texts = option((), "Only groups with a layer that matches.", panel="Search space", metavar="GLOB")
    exclude: Texts = option((), "No group with a layer that matches.", panel="Search space", metavar="GLOB")
    max_sparsity: Number = option(0.9, "Most that a group may lose.", panel="Search space", gt=0, lt=1)
    round_to: Whole = option(1, "Kept channels are a multiple of this.", panel="Search space", ge=1)
    levels: Whole | None = option(
        None, "Allow only this many evenly spaced sparsities for a group.", panel="Search space", ge=2
    )
    reconstruction: Texts = option(
        ("none",),
        "Repair of what is left: none, bias_only, mauch_yang; of several the search chooses.",
        panel="Search space",
        min_length=1,
        metavar="NAME",
    )
