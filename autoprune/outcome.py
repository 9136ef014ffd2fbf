"""What became of a plan: accuracy, loss, cost, stages, a line for each layer. JSON both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from torch import Tensor

from autoprune.costs.base import Cost
from autoprune.costs.model import CostModel
from autoprune.errors import PlanError
from autoprune.evaluation import unpack_bits
from autoprune.graph import LayerGraph
from autoprune.masking import removed_count
from autoprune.plan import Plan
from autoprune.resolve import Resolved


class Status(StrEnum):
    """How a plan ended."""

    OK = "ok"
    FAILED = "failed"  # no usable network; the reason says why
    STOPPED = "stopped"  # given up early: a race or a report said that it cannot win


class Form(StrEnum):
    """What pruning left."""

    REMOVED = "removed"  # units are gone: smaller and faster
    MASKED = "masked"  # single weights are zero: no smaller tensor, no gain in speed


@dataclass(frozen=True)
class LayerOutcome:
    """One group (or, for single weights, one layer) of a plan.

    Attributes:
        name, method, pattern: what was decided.
        size: units before; ``removed``: units gone; ``sparsity``: ``removed / size``, achieved.
        params, macs: of the layers that make these units, after pruning.
    """

    name: str
    method: str
    pattern: str
    size: int
    removed: int
    sparsity: float
    params: int
    macs: int


@dataclass(frozen=True)
class Outcome:
    """Outcome of one plan.

    Attributes:
        plan: what was tried.
        status: :class:`Status`; ``reason`` says why a plan failed or was stopped.
        accuracy: on the validation split (of the ``images`` looked at), ``None`` for a failure.
        loss: mean cross-entropy on the same images.
        stages: accuracy ``dense``, ``pruned``, ``recalibrated``, ``retrained``, those that were evaluated.
        cost: what the network costs; ``ratios``: each metric as a fraction of the dense network's.
        form: :class:`Form`: whether anything was physically removed.
        layers: a line for each decision that changed something.
        seconds: wall time of each step, and ``total``.
        seed: of retraining and of random methods.
        images: validation images behind ``accuracy``.
        precision: numbers of the evaluation pass.
        steps: retraining steps made.
        threads: CPU threads; retraining repeats its bits with the same number.
        latency: how ``cost.latency_ms`` was measured, empty where it was not.
        correct: which validation images are right (:func:`autoprune.evaluation.pack_bits`); later plans race them.
    """

    plan: Plan
    status: Status
    cost: Cost
    reason: str = ""
    accuracy: float | None = None
    loss: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    form: Form = Form.REMOVED
    layers: tuple[LayerOutcome, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    images: int = 0
    precision: str = "float32"
    steps: int = 0
    threads: int = 1
    latency: str = ""
    correct: str = ""

    @property
    def ok(self) -> bool:
        """Whether the plan was evaluated to the end."""
        return self.status is Status.OK

    def correctness(self) -> Tensor | None:
        """``[N]`` bool by position in the validation split; ``None`` unless every image was looked at."""
        return unpack_bits(self.correct) if self.correct else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        return data | {
            "plan": self.plan.to_dict(),
            "status": self.status.value,
            "form": self.form.value,
            "cost": self.cost.to_dict(),
            "stages": dict(self.stages),
            "ratios": dict(self.ratios),
            "seconds": dict(self.seconds),
            "layers": [asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """Read what :meth:`to_dict` wrote; fields of a later release are left aside.

        Raises:
            PlanError: a missing field, or one that is not what it must be.
        """
        try:
            known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            known |= {
                "plan": Plan.from_dict(data["plan"]),
                "status": Status(data["status"]),
                "form": Form(data.get("form", Form.REMOVED)),
                "cost": Cost.from_dict(data["cost"]),
                "layers": tuple(LayerOutcome(**layer) for layer in data.get("layers", ())),
            }
            return cls(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"this is not an outcome: {type(error).__name__}: {error}") from None


def layer_table(resolved: Resolved, graph: LayerGraph, costs: CostModel) -> tuple[LayerOutcome, ...]:
    """A line for each decision that changes something: groups in order, then layers whose single weights are masked."""
    after = costs.layers(resolved.removed)
    lines = []
    for name, count in resolved.removed.items():
        group, decision = graph.groups[name], resolved.units[name]
        params, macs = (sum(after[layer][i] for layer in group.layers) for i in (0, 1))
        lines.append(
            LayerOutcome(
                name, decision.method, group.pattern.value, group.size, count, count / group.size, params, macs
            )
        )
    for name, decision in resolved.weights.items():
        size = math.prod(graph.layer(name).weight_shape)
        count = removed_count(size, decision.sparsity)
        params, macs = after[name]
        lines.append(
            LayerOutcome(name, decision.method, decision.pattern.value, size, count, count / size, params - count, macs)
        )
    return tuple(lines)
