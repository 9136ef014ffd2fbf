"""The settings of ``autoprune runtime``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from autoprune.settings.base import Number, Settings, Switch, Text, Texts, Whole, option
from autoprune.settings.parts import BasePart, DevicePart, RunPart


class ChainPart(Settings):
    """How a network is cut into stages."""

    groups: Whole = option(4, "Groups of channels of each gated convolution.", panel="Stages", ge=1)
    first: Switch = option(False, "Decide about the first convolution too.", panel="Stages")
    order: Text = option(
        "l1_norm",
        "Method whose most important channels come first; none leaves them as they are.",
        panel="Stages",
    )
    include: Texts = option((), "Only convolutions that match.", panel="Stages", metavar="GLOB")
    exclude: Texts = option((), "No convolution that matches.", panel="Stages", metavar="GLOB")


class RuntimeTrainSettings(BasePart, ChainPart, RunPart):
    """``autoprune runtime train``; for controller and backbone see ``autoprune.search.runtime.RuntimeSettings``."""

    command: ClassVar[str] = "runtime train"

    agent: Literal["dqn", "recurrent_ppo"] = option("dqn", "What the controller learns by.", panel="Controller")
    penalty: Number = option(-0.1, "Reward of each further group, at most 0.", panel="Controller", le=0)
    price: Literal["groups", "macs"] = option(
        "groups", "What a group costs: the same at every stage, or by its multiply-accumulates.", panel="Controller"
    )
    alpha: Number | None = option(
        None, "Factor on the loss in the reward. Default: for a mean of about 1.", panel="Controller", gt=0
    )
    episodes: Whole = option(8192, "Images that it learns from in a round.", panel="Controller", ge=1)
    envs: Whole = option(256, "Images that go through the network together.", panel="Controller", ge=1)
    code: Whole = option(64, "Size of the code of a stage.", panel="Controller", ge=1)
    hidden: Whole = option(64, "Size of the recurrent state.", panel="Controller", ge=1)
    lr: Number = option(3e-4, "Learning rate.", panel="Controller", gt=0)
    gamma: Number = option(1.0, "Discount.", panel="Controller", ge=0, le=1)
    batch_size: Whole = option(512, "Transitions in a gradient step.", panel="Controller", ge=1)
    updates: Whole = option(16, "Gradient steps after each batch of episodes (dqn).", panel="Controller", ge=1)
    memory: Whole = option(8192, "Episodes that the replay buffer holds (dqn).", panel="Controller", ge=1)
    target_every: Whole = option(
        1, "Batches of episodes between two updates of the target network (dqn).", panel="Controller", ge=1
    )
    epsilon: Number = option(
        0.1, "Share of random actions at the end of exploration (dqn).", panel="Controller", ge=0, le=1
    )
    exploration: Number = option(
        0.5, "Part of all episodes in which that share falls from 1 (dqn).", panel="Controller", ge=0, le=1
    )
    epochs: Whole = option(4, "Passes over the episodes of an update (recurrent_ppo).", panel="Controller", ge=1)
    clip: Number = option(0.2, "Largest change of a probability ratio (recurrent_ppo).", panel="Controller", gt=0)
    entropy: Number = option(0.01, "Weight of the entropy bonus (recurrent_ppo).", panel="Controller", ge=0)
    rounds: Whole = option(3, "Rounds of controller and backbone.", panel="Backbone", ge=1)
    path: Literal["measured", "even"] = option(
        "measured",
        "Which widths go together: those of least measured loss, or even ones (try them where the network is small).",
        panel="Backbone",
    )
    prepare_steps: Whole = option(
        200, "Steps of the backbone before the first round, along a path of widths.", panel="Backbone", ge=0
    )
    finetune_steps: Whole = option(200, "Steps of the backbone in a round; 0 for none.", panel="Backbone", ge=0)
    finetune_lr: Number = option(0.01, "Highest learning rate.", panel="Backbone", gt=0)
    finetune_batch_size: Whole = option(128, "Samples a step.", panel="Backbone", ge=1)
    finetune_weight_decay: Number = option(5e-4, "Weight decay.", panel="Backbone", ge=0)
    finetune_optimizer: Literal["sgd", "adamw"] = option("sgd", "Optimizer.", panel="Backbone")
    finetune_precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Numbers of the forward pass.", panel="Backbone"
    )
    finetune_clip_norm: Number | None = option(None, "Longest gradient.", panel="Backbone", gt=0)
    distill_weight: Number = option(
        0.5, "Share of the backbone's loss that follows the dense network's outputs.", panel="Backbone", ge=0, le=1
    )
    distill_temperature: Number = option(4.0, "Temperature of those outputs.", panel="Backbone", gt=0)
    serve: tuple[Number, ...] = option(
        (0.3, 0.5, 0.7, 1.0),
        "Shares of the dense MACs, growing, decisions included, that the knob is to give; each batch of the backbone "
        "is trained at the first and between each two of them.",
        panel="Backbone",
        metavar="SHARE",
    )
    out: Path | None = option(
        None, "Folder of the network; the same folder goes on. Default: runs/DATA-MODEL-runtime.", panel="Run"
    )


class RuntimeEvaluateSettings(DevicePart):
    """``autoprune runtime evaluate``."""

    command: ClassVar[str] = "runtime evaluate"

    threads: Whole | None = option(None, "Threads that torch may use. Default: torch's own choice.", ge=1)
    split: Literal["train", "calibration", "validation", "test"] = option("test", "Samples to judge on.")
    samples: Whole | None = option(None, "Only so many of them. Default: all.", ge=2)
    data: Text | None = option(None, "Name of 'autoprune list datasets', or package.module:factory. Default: its own.")
    data_dir: Path | None = option(None, "Folder of the datasets. Default: $AUTOPRUNE_DATA, or the user's cache.")
    budget: tuple[Number, ...] = option(
        (0.3, 0.4, 0.5, 0.6, 0.8), "Shares of the dense MACs to set the knob to.", min_length=1, metavar="SHARE"
    )
    baselines: Switch = option(True, "Judge static, random and confidence baselines at equal MACs too.")
    oracle: Switch = option(False, "Search the cheapest right actions of every image too.")
    images: Whole = option(8, "Easy and hard images to show.", ge=1)
    seed: Whole = option(0, "Seed of the random baseline and of the confidence interval.", ge=0)
    out: Path | None = option(None, "Folder for tables and pictures. Default: evaluation/ in the network's folder.")

    @pydantic.field_validator("budget")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for share in value:
            if not 0 < share <= 1.5:
                raise ValueError(f"every share of the dense MACs must be above 0 and at most 1.5, and {share:g} is not")
        return value


class RuntimeExportSettings(Settings):
    """``autoprune runtime export``."""

    command: ClassVar[str] = "runtime export"

    actions: tuple[Whole, ...] = option(
        (), "Groups of every stage, or one number for all: the network to write.", metavar="GROUPS"
    )
    budget: Number | None = option(
        None, "In place of actions: those that are run most often at this share of the dense MACs.", gt=0
    )
    format: Literal["safetensors", "torch", "onnx"] = option("onnx", "What to write.")
    data_dir: Path | None = option(None, "Folder of the datasets. Default: $AUTOPRUNE_DATA, or the user's cache.")
    out: Path | None = option(None, "Folder to write to. Default: exported/ in the network's folder.")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _one_source(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("actions") and values.get("budget") is not None:
            raise ValueError("give actions or a budget, one of the two")
        return values
