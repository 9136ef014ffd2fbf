"""How base networks are trained, and settings that suit a network and its data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from autoprune.checks import in_range, whole
from autoprune.errors import SettingsError
from autoprune.models import MODELS
from autoprune.optimizer_settings import OptimizerSettings
from autoprune.train_loop import FinetuneSettings

if TYPE_CHECKING:
    from autoprune.data import DataSplits


@dataclass(frozen=True, kw_only=True)
class TrainSettings(OptimizerSettings):
    """How a base network is trained; the other fields are those of :class:`OptimizerSettings`.

    Attributes:
        epochs: passes over the training split.
        warmup_epochs: epochs in which the learning rate rises.
        patience: epochs without a better validation accuracy after which the training stops; 0 never stops early.
        seed: of initial weights, order, augmentation and dropout.
    """

    lr: float = 0.05
    epochs: int = 20
    warmup_epochs: float = 1.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("epochs", 1), ("patience", 0), ("seed", 0)):
            whole(name, getattr(self, name), least)
        in_range("warmup_epochs", self.warmup_epochs, least=0)
        if self.warmup_epochs > self.epochs:
            raise SettingsError(f"warmup_epochs must be at most epochs ({self.epochs}), but got {self.warmup_epochs!r}")

    @classmethod
    def fitting(cls, factory: str, data: DataSplits, **given: Any) -> TrainSettings:
        """Settings that suit the network called ``factory`` on ``data``; ``given`` ones stand, ``None`` leaves ours.

        Epochs and batch size follow the number of samples. Networks of our own are trained by SGD (residual networks
        and MobileNets on many samples at 0.1, others at 0.05), others by AdamW, which forgives more.
        """
        given = {name: value for name, value in given.items() if value is not None}
        many, ours = len(data.train) >= 10_000, factory in MODELS
        epochs, batch = (15, 128) if many else (30, 64) if len(data.train) >= 500 else (100, 32)
        epochs = given.get("epochs", 2 * epochs if data.augment == "flip_crop" else epochs)
        optimizer = given.get("optimizer", "sgd" if ours else "adamw")
        values: dict[str, Any] = {"epochs": epochs, "batch_size": batch, "warmup_epochs": min(1.0, epochs / 2)}
        if optimizer == "adamw":
            values |= {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01}
        elif many and ours and factory.startswith(("resnet", "mobilenet")):
            values["lr"] = 0.1
        return cls(**(values | given))

    def steps(self, steps_per_epoch: int) -> FinetuneSettings:
        """The same settings in steps."""
        return FinetuneSettings(
            steps=self.epochs * steps_per_epoch,
            warmup_steps=int(self.warmup_epochs * steps_per_epoch),
            **{field.name: getattr(self, field.name) for field in fields(OptimizerSettings)},
        )
