"""A plan: what is removed from a network, as data.

A :class:`Plan` is frozen, hashable and goes to JSON and back. With the checkpoint it was made for it rebuilds the same
network bit for bit; it holds no tensors and no model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from autoprune.errors import PlanError

if TYPE_CHECKING:
    from autoprune.graph import LayerGraph

PLAN_VERSION = 1


class Pattern(StrEnum):
    """The unit that is removed. A group has one of the structured patterns; ``weight`` masks single weights."""

    WEIGHT = "weight"
    CHANNEL = "channel"
    UNIT = "unit"
    INPUT = "input"

    @property
    def structured(self) -> bool:
        """Whether units can be physically removed (everything but single weights)."""
        return self is not Pattern.WEIGHT


@dataclass(frozen=True, order=True)
class LayerDecision:
    """One decision: remove ``sparsity`` of the units of ``layer`` in the order that ``method`` gives.

    Attributes:
        layer: a group (any layer of it may be named) for the structured patterns, a layer for ``weight``.
        method: name in :data:`autoprune.methods.METHODS`.
        pattern: the unit removed.
        sparsity: fraction of the units removed, in [0, 1).
    """

    layer: str
    method: str
    pattern: Pattern
    sparsity: float

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "pattern", Pattern(self.pattern))
        except ValueError:
            known = ", ".join(p.value for p in Pattern)
            raise PlanError(
                f"pattern of layer {self.layer!r} must be one of {known}, but got {self.pattern!r}"
            ) from None
        value = self.sparsity
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or not 0 <= value < 1
        ):
            raise PlanError(f"sparsity of layer {self.layer!r} must be in [0, 1), but got {value!r}")
        object.__setattr__(self, "sparsity", float(value))


@dataclass(frozen=True)
class Plan:
    """Decisions in the order of the network, and the choices that hold for the whole plan.

    Attributes:
        decisions: at most one decision for each (layer, pattern).
        reconstruction: name in :data:`autoprune.reconstruction.RECONSTRUCTIONS`; how what is left is repaired.
        steps: retraining steps; ``None`` leaves it to the objective.
    """

    decisions: tuple[LayerDecision, ...] = ()
    reconstruction: str = "none"
    steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "decisions", tuple(self.decisions))
        seen: dict[tuple[str, bool], LayerDecision] = {}
        for decision in self.decisions:
            key = (decision.layer, decision.pattern.structured)
            if key in seen:
                raise PlanError(
                    f"two decisions for layer {decision.layer!r}: sparsity {seen[key].sparsity:g} "
                    f"and {decision.sparsity:g}; keep one of them"
                )
            seen[key] = decision
        if self.steps is not None and (
            isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0
        ):
            raise PlanError(f"steps of a plan must be None or a whole number from 0 on, but got {self.steps!r}")

    @classmethod
    def uniform(
        cls,
        graph: LayerGraph,
        *,
        method: str = "l1_norm",
        sparsity: float = 0.5,
        pattern: Pattern | str | None = None,
        reconstruction: str = "none",
        steps: int | None = None,
    ) -> Plan:
        """The same sparsity for every prunable group (or, with ``pattern="weight"``, for every layer with weights)."""
        if pattern is not None and Pattern(pattern) is Pattern.WEIGHT:
            targets: Iterable[tuple[str, Pattern]] = ((name, Pattern.WEIGHT) for name in graph.weight_layers)
        else:
            wanted = None if pattern is None else Pattern(pattern)
            default = (Pattern.CHANNEL, Pattern.UNIT)
            targets = (
                (group.name, group.pattern)
                for group in graph.prunable
                if (group.pattern in default if wanted is None else group.pattern is wanted)
            )
        decisions = tuple(LayerDecision(name, method, kind, sparsity) for name, kind in targets)
        return cls(decisions, reconstruction, steps)

    def sparsities(self) -> dict[str, float]:
        """Sparsity of each structured decision by group name."""
        return {d.layer: d.sparsity for d in self.decisions if d.pattern.structured}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, versioned."""
        return {
            "version": PLAN_VERSION,
            "reconstruction": self.reconstruction,
            "steps": self.steps,
            "decisions": [
                {"layer": d.layer, "method": d.method, "pattern": d.pattern.value, "sparsity": d.sparsity}
                for d in self.decisions
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read what :meth:`to_dict` wrote.

        Raises:
            PlanError: another version, a missing or an unknown field.
        """
        if not isinstance(data, Mapping):
            raise PlanError(f"a plan must be a JSON object, but got {type(data).__name__}")
        version = data.get("version")
        if version != PLAN_VERSION:
            raise PlanError(f"this plan has version {version!r}, but this release reads version {PLAN_VERSION}")
        unknown = sorted(set(data) - {"version", "reconstruction", "steps", "decisions"})
        if unknown:
            raise PlanError(
                f"unknown field {unknown[0]!r} in a plan (known: decisions, reconstruction, steps, version)"
            )
        if not isinstance(data.get("decisions"), list):
            raise PlanError("a plan must hold a list 'decisions'")
        decisions = []
        for place, entry in enumerate(data["decisions"]):
            try:
                decisions.append(LayerDecision(entry["layer"], entry["method"], entry["pattern"], entry["sparsity"]))
            except (KeyError, TypeError):
                raise PlanError(
                    f"decision {place} of the plan must hold layer, method, pattern and sparsity, but got {entry!r}"
                ) from None
        return cls(tuple(decisions), data.get("reconstruction", "none"), data.get("steps"))

    def to_json(self) -> str:
        """Canonical JSON: equal plans give equal text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises:
            PlanError: not JSON, or not a plan of this version.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"not a plan: {error}") from None
        return cls.from_dict(data)

    @property
    def digest(self) -> str:
        """A short SHA-256 of the canonical JSON, to name and to compare plans."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
