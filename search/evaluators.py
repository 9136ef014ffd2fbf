"""Who evaluates plans: this process, or several that do nothing else. Only this process writes the study."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.outcome import Outcome, Status
from autoprune.plan import Plan

if TYPE_CHECKING:
    from autoprune.racing import RaceState
    from autoprune.search.base import SearchObjective

OnReport = Callable[[int, int, float], bool]  # (trial number, step, accuracy) -> give it up


@dataclass(frozen=True)
class Job:
    """A plan to evaluate.

    Attributes:
        number: of its trial.
        plan: what to evaluate.
        race: plans to beat, ``None`` to look at every image.
        reports: whether to evaluate during retraining and report.
    """

    number: int
    plan: Plan
    race: RaceState | None = None
    reports: bool = False


@dataclass(frozen=True)
class Done:
    """A plan that was evaluated.

    Attributes:
        number: of its trial.
        outcome: what became of it.
        wall_s: how long it took.
        error: the exception that no plan's fault explains, as text; empty without one.
    """

    number: int
    outcome: Outcome
    wall_s: float
    error: str = ""


class Evaluator(Protocol):
    """Evaluates jobs, ``slots`` at a time."""

    slots: int

    def submit(self, job: Job) -> None:
        """Take a job; at most ``slots`` before :meth:`wait` gives one back."""

    def wait(self, on_report: OnReport) -> Done:
        """The next job that is done; reports are passed on meanwhile."""

    def close(self) -> None:
        """Give up what is in flight and let everything go."""


class Inline:
    """Evaluates in this process, one plan at a time."""

    slots = 1

    def __init__(self, objective: SearchObjective) -> None:
        self._objective = objective
        self._job: Job | None = None

    def submit(self, job: Job) -> None:
        """Keep the job for :meth:`wait`."""
        self._job = job

    def wait(self, on_report: OnReport) -> Done:
        """Evaluate it."""
        assert self._job is not None
        job, self._job = self._job, None
        return evaluate(self._objective, job, lambda step, accuracy: on_report(job.number, step, accuracy))

    def close(self) -> None:
        """Nothing to let go."""


def evaluate(objective: SearchObjective, job: Job, report: Callable[[int, float], bool]) -> Done:
    """Evaluate one job. Whatever goes wrong with a plan is a failed outcome; the search goes on."""
    started = time.perf_counter()
    try:
        outcome = objective(job.plan, report=report if job.reports else None, race=job.race)
    except Exception as error:  # noqa: BLE001 - a search must outlive any one plan
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return Done(job.number, failed(objective, job.plan, text), time.perf_counter() - started, error=text)
    return Done(job.number, outcome, time.perf_counter() - started)


def failed(objective: Any, plan: Plan, reason: str) -> Outcome:
    """An outcome of a plan that could not be evaluated."""
    cost = objective.cost(plan)
    return Outcome(plan, Status.FAILED, cost, reason, ratios=cost.ratios(objective.dense_cost))
