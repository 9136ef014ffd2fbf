"""What the training of a base network and the retraining of a pruned one have in common."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.augment import AUGMENTS
from autoprune.checks import in_range, one_of, whole
from autoprune.precision import PRECISIONS

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How a step of training is made.

    Attributes:
        optimizer: ``sgd`` (with Nesterov momentum) or ``adamw``.
        lr: highest learning rate.
        momentum: of ``sgd``, in [0, 1).
        weight_decay: L2 penalty (``adamw``: decoupled) of tensors with two or more dimensions: not of norms and biases.
        batch_size: samples of a step; a smaller split is taken whole.
        schedule: ``cosine`` falls to zero at the last step, ``constant`` stays.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        augment: ``none``, ``flip_crop``, or ``None`` for what the data allow.
        precision: ``float32``, ``bfloat16`` (autocast; weights stay float32), or ``auto`` for what is faster here.
        clip_norm: gradients longer than this are shortened to it; ``None`` for no limit.
    """

    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    augment: str | None = None
    precision: str = "auto"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, least=1)
        in_range("lr", self.lr, above=0)
        in_range("momentum", self.momentum, least=0, below=1)
        in_range("weight_decay", self.weight_decay, least=0)
        in_range("label_smoothing", self.label_smoothing, least=0, below=1)
        if self.clip_norm is not None:
            in_range("clip_norm", self.clip_norm, above=0)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("precision", self.precision, PRECISIONS)
        if self.augment is not None:
            one_of("augmentation", self.augment, AUGMENTS)
