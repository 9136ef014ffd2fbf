"""A trial as the search sees it, and how it is kept in an Optuna storage and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoprune.costs import Cost
from autoprune.errors import AutopruneError, StudyError
from autoprune.outcome import Outcome
from autoprune.plan import Plan

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

REJECTED = "rejected"  # never evaluated: the plan cannot meet the budget
WAITING = "waiting"  # was in flight when a run ended; comes first in the next one
RUNNING = "running"
_OLD_CONSTRAINTS = "constraints"  # where releases of Optuna before 5, and dashboards, look for feasibility


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study.

    Attributes:
        number: position in the study, from 0.
        status: ``ok``, ``failed``, ``stopped``, ``rejected``, ``waiting`` or ``running``.
        plan: what was tried; ``None`` where a run was killed before it was decided.
        values: the point of the search space.
        outcome: what became of it, ``None`` unless it was evaluated.
        cost: of the plan, known before it is evaluated.
        violations: ``value / limit - 1`` by budget metric; at most 0 where it fits.
        controller: who proposed it; ``baseline``: ``uniform``, ``global`` or ``greedy`` for those, else empty.
        seed: of the search.
        reports: accuracy by retraining step.
        wall_s: seconds from start to end.
        decided_s: seconds before, in which the controller learned and decided.
    """

    number: int
    status: str
    plan: Plan | None
    values: Mapping[str, float | str] = field(default_factory=dict)
    outcome: Outcome | None = None
    cost: Cost | None = None
    violations: Mapping[str, float] = field(default_factory=dict)
    controller: str = ""
    baseline: str = ""
    seed: int = 0
    reports: Mapping[int, float] = field(default_factory=dict)
    wall_s: float = 0.0
    decided_s: float = 0.0

    @property
    def feasible(self) -> bool:
        """Whether the plan meets every limit of the budget."""
        return all(v <= 0 for v in self.violations.values())

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status not in (WAITING, RUNNING)

    @property
    def usable(self) -> bool:
        """Whether it gave a network within the budget."""
        return self.status == "ok" and self.feasible and self.accuracy is not None

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy, ``None`` without one."""
        return None if self.outcome is None else self.outcome.accuracy

    @property
    def name(self) -> str:
        """How a table calls it: ``baseline uniform`` or ``trial 17 (tpe)``."""
        return f"baseline {self.baseline}" if self.baseline else f"trial {self.number} ({self.controller})"

    def objectives(self, metrics: tuple[str, ...]) -> tuple[float, ...] | None:
        """Accuracy and the cost metrics searched for; ``None`` without an accuracy."""
        if self.outcome is None or self.outcome.accuracy is None:
            return None
        return (self.outcome.accuracy, *(self.outcome.cost.value(m) for m in metrics))


def attributes_at_start(record: TrialRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """User and system attributes that are known before a trial is evaluated."""
    assert record.plan is not None
    user: dict[str, Any] = {
        "plan": record.plan.to_dict(),
        "controller": record.controller,
        "seed": record.seed,
        "feasible": record.feasible,
        "decided_s": round(record.decided_s, 6),
    }
    if record.cost is not None:
        user["cost"] = record.cost.to_dict()
    if record.baseline:
        user["baseline"] = record.baseline
    return user, constraint_attributes(record.violations)


def constraint_attributes(violations: Mapping[str, float]) -> dict[str, Any]:
    """Constraints as Optuna 5 stores what ``Trial.set_constraint`` sets, and in the one old key for dashboards."""
    if not violations:
        return {}
    new = {f"{_OLD_CONSTRAINTS}:{metric}": value for metric, value in violations.items()}
    return {_OLD_CONSTRAINTS: list(violations.values()), **new}


def attributes_at_end(record: TrialRecord) -> dict[str, Any]:
    """User attributes of a finished trial; plan and layers stand apart, so that a dashboard shows them as tables."""
    user: dict[str, Any] = {"status": record.status, "wall_s": round(record.wall_s, 6)}
    if record.outcome is not None:
        outcome = record.outcome.to_dict()
        del outcome["plan"]
        user["layers"] = outcome.pop("layers")
        user["seconds"] = outcome.pop("seconds")
        user["cost"] = outcome.pop("cost")
        user["outcome"] = outcome
    return user


def read_record(trial: FrozenTrial) -> TrialRecord:
    """The record behind a stored trial.

    Raises:
        StudyError: it was not written by a search of this release.
    """
    from optuna.trial import TrialState

    user = trial.user_attrs
    try:
        plan = Plan.from_dict(user["plan"]) if "plan" in user else None
        outcome = None
        if trial.state.is_finished() and "outcome" in user:
            parts = {key: user[key] for key in ("layers", "seconds", "cost", "plan")}
            outcome = Outcome.from_dict({**user["outcome"], **parts})
        if not trial.state.is_finished():
            status = WAITING if trial.state == TrialState.WAITING else RUNNING
        else:
            status = str(user["status"])
        return TrialRecord(
            number=trial.number,
            status=status,
            plan=plan,
            values=dict(trial.params),
            outcome=outcome,
            cost=Cost.from_dict(user["cost"]) if "cost" in user else None,
            violations=_violations(trial),
            controller=str(user.get("controller", "")),
            baseline=str(user.get("baseline", "")),
            seed=int(user.get("seed", 0)),
            reports=dict(trial.intermediate_values) if trial.state.is_finished() else {},
            wall_s=float(user.get("wall_s", 0.0)),
            decided_s=float(user.get("decided_s", 0.0)),
        )
    except (KeyError, TypeError, ValueError, AutopruneError) as error:
        raise StudyError(f"trial {trial.number} was not written by a search of this release: {error!r}") from None


def _violations(trial: FrozenTrial) -> dict[str, float]:
    prefix = f"{_OLD_CONSTRAINTS}:"
    return {k.removeprefix(prefix): float(v) for k, v in trial.system_attrs.items() if k.startswith(prefix)}
