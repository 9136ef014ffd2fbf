"""How an objective judges plans."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from autoprune.checks import one_of, whole
from autoprune.costs.latency import LatencySettings
from autoprune.errors import SettingsError
from autoprune.finetune import FinetuneSettings
from autoprune.methods.base import COMBINE
from autoprune.precision import PRECISIONS
from autoprune.racing import RaceSettings

STAGES = ("all", "final")


@dataclass(frozen=True)
class ObjectiveSettings:
    """Settings of an :class:`autoprune.objective.Objective`; with the plan and the checkpoint they decide an outcome.

    Attributes:
        finetune: retraining; ``finetune.steps`` is 0 by default, and a plan's own ``steps`` goes before it.
        recalibrate: estimate batch-norm statistics anew on the calibration split after pruning.
        stages: ``all`` evaluates after pruning, after recalibration and after retraining, ``final`` only at the end;
            ``None`` takes ``all`` with retraining and ``final`` without, where each stage costs as much as the outcome.
        precision: numbers of the evaluation pass: ``float32``, ``bfloat16``, or ``auto`` (:mod:`autoprune.precision`).
        batch_size: samples in one forward pass; ``None`` chooses by layer sizes and cache.
        race: stop evaluating a candidate that cannot match the best one; ``None`` evaluates every image.
        latency: measure the latency of every outcome; ``None`` measures none.
        combine: how the scores of layers that go together become one (:data:`autoprune.methods.COMBINE`).
        calibration_samples: samples of the calibration split that are used; ``None`` for all.
        tune_allocator: keep freed memory in the process (:mod:`autoprune.allocator`).
        seed: of retraining, of methods that draw, and of the order in which images are looked at.
    """

    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    recalibrate: bool = True
    stages: str | None = None
    precision: str = "auto"
    batch_size: int | None = None
    race: RaceSettings | None = None
    latency: LatencySettings | None = None
    combine: str = "mean"
    calibration_samples: int | None = None
    tune_allocator: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
                raise SettingsError(f"objective setting {name!r} must be {wanted}, but got {getattr(self, name)!r}")
        for name in ("batch_size", "calibration_samples"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), least=1)
        whole("seed", self.seed)
        one_of("precision", self.precision, PRECISIONS)
        one_of("combination", self.combine, tuple(COMBINE))
        if self.stages is not None:
            one_of("setting of stages", self.stages, STAGES)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, to store beside results."""
        return asdict(self)


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "finetune": (FinetuneSettings,),
    "recalibrate": (bool,),
    "race": (RaceSettings, _NONE),
    "latency": (LatencySettings, _NONE),
    "tune_allocator": (bool,),
}
