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


class NetworkPart(Settings):
    """Which network, on which data."""

    base: Path | None = option(
        None, "Folder of a trained network, as 'autoprune train' stores it.", panel="Network and data"
    )
    model: Text | None = option(
        None,
        "Name of 'autoprune list models', or package.module:factory. Default: what fits the data.",
        panel="Network and data",
    )
    model_options: Pairs = option({}, "Arguments of the model's factory.", panel="Network and data")
    data: Text | None = option(
        None,
        "Name of 'autoprune list datasets', or package.module:factory. Default: those of the base network, or digits.",
        panel="Network and data",
    )
    data_options: Pairs = option({}, "Arguments of the dataset's loader.", panel="Network and data")
    data_dir: Path | None = option(
        None, "Folder of the datasets. Default: $AUTOPRUNE_DATA, or the user's cache.", panel="Network and data"
    )
    data_seed: Whole = option(0, "Seed of the splits.", panel="Network and data", ge=0)


class RunPart(Settings):
    """How a command runs."""

    seed: Whole = option(0, "Seed of everything random but the splits.", panel="Run", ge=0)
    threads: Whole | None = option(None, "Threads that torch may use. Default: torch's own choice.", panel="Run", ge=1)


class RetrainPart(Settings):
    """Retraining of a pruned network, in steps."""

    retrain_steps: Whole = option(0, "Steps of retraining after pruning.", panel="Retraining", ge=0)
    retrain_lr: Number = option(0.01, "Learning rate.", panel="Retraining", gt=0)
    retrain_optimizer: Literal["sgd", "adamw"] = option("sgd", "Optimizer.", panel="Retraining")
    retrain_schedule: Literal["cosine", "constant"] = option("cosine", "Learning rate over time.", panel="Retraining")
    retrain_batch_size: Whole = option(128, "Samples a step.", panel="Retraining", ge=1)
    retrain_weight_decay: Number = option(5e-4, "Weight decay.", panel="Retraining", ge=0)
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
    reconstruction: Text = option("none", "Repair of what is left: none, bias_only, mauch_yang.", panel="Search space")
