"""The loop of a search: ask, shift onto the budget, evaluate, tell. The only place that writes the study."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoprune.errors import BudgetError, StudyError
from autoprune.outcome import Outcome
from autoprune.racing import RaceState
from autoprune.search.base import Context, Controller, Point, Proposer
from autoprune.search.baselines import BASELINES
from autoprune.search.driving import Driver, Judge, SearchOver
from autoprune.search.evaluators import Done, Evaluator, Job
from autoprune.search.ledger import Ledger
from autoprune.search.mirror import lesson
from autoprune.search.progress import Progress
from autoprune.search.records import REJECTED, RUNNING, TrialRecord
from autoprune.search.result import best_of
from autoprune.search.stopping import Never, Stopper

_GIVE_UP = 5  # evaluations that raise in a row, with none before them that worked


@dataclass
class Parts:
    """What a coordinator works with.

    Attributes:
        context: objective, space, budget, mirror, seed.
        controller, proposer: who decides.
        ledger: the study.
        evaluator: who evaluates.
        stopper: gives trials up while they are retrained.
        progress: who watches.
        handling: ``project`` or ``reject``.
        budgeted: whether there is a budget to meet.
        race: plans to beat, ``None`` for no racing.
        deadline: time (monotonic) after which nothing new starts.
    """

    context: Context
    controller: Controller
    proposer: Proposer | Driver
    ledger: Ledger
    evaluator: Evaluator
    stopper: Stopper
    progress: Progress
    handling: str = "project"
    budgeted: bool = True
    race: RaceState | None = None
    deadline: float | None = None


class Coordinator:
    """One run of a search; :meth:`resume`, then :meth:`run`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.records: dict[int, TrialRecord] = {}
        self.exhausted = self.timed_out = False
        self._queue: list[TrialRecord] = []
        self._reports: dict[int, dict[int, float]] = {}
        self._raised = 0
        context = parts.context
        self._names = ("accuracy", *context.metrics)

    @property
    def done(self) -> int:
        """Proposals of the controller that are finished."""
        return sum(r.finished and not r.baseline for r in self.records.values())

    @property
    def waiting(self) -> int:
        """Trials that an earlier run left in flight."""
        return len(self._queue)

    @property
    def missing_baselines(self) -> list[str]:
        """Baselines that the study does not have yet."""
        there = {r.baseline for r in self.records.values()}
        return [name for name in BASELINES if name not in there]

    def notes(self, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
        """What the controller says under the result table."""
        proposer = self.parts.proposer
        return proposer.notes(trials) if isinstance(proposer, Driver) else ()

    def resume(self) -> None:
        """Take in what earlier runs of the study left: finished trials to learn from, others to run first."""
        records = self.parts.ledger.sweep()
        while records and records[-1].plan is None:
            records.pop()  # killed before it was decided: its number is used again
        for record in records:
            if record.plan is None:
                raise StudyError(f"trial {record.number} was put into the study by something else; start another study")
            self._restore(record)

    def run(self) -> None:
        """Evaluate until everything that was asked for is done, or the time is over."""
        self._fly()
        if isinstance(self.parts.proposer, Driver) and not self._over():
            self._drive(self.parts.proposer)

    def _fly(self) -> None:
        """Evaluate what waits, the baselines, and what a proposer proposes."""
        flying = 0
        while True:
            while flying < self.parts.evaluator.slots:
                record = self._next()
                if record is None:
                    break
                self._start(record)
                flying += 1
            if not flying:
                return
            done = self.parts.evaluator.wait(self._report)
            flying -= 1
            self._take(done)

    def _drive(self, driver: Driver) -> None:
        """Answer a driver until it has had its trials."""
        name = self.parts.controller.name
        records = [record for _, record in sorted(self.records.items())]
        earlier = [r for r in records if r.controller == name and not r.baseline]
        judge = Judge(
            earlier, [r for r in records if r.baseline and r.usable], self.parts.context.space, self.trial, self._ended
        )
        try:
            driver.drive(judge)
        except SearchOver:
            return
        self.exhausted = not judge.over

    def trial(self, values: Point, decided_s: float) -> TrialRecord:
        """A new trial at ``values``, which took so many seconds to decide, to its end."""
        context = self.parts.context
        record = self._decided(context.mirror.next_number, context.space.snap(values), decided_s)
        if self.parts.budgeted and not record.feasible:
            self._finish(replace(record, status=REJECTED))
        else:
            self._start(record)
            self._take(self.parts.evaluator.wait(self._report))
        return self.records[record.number]

    def _ended(self) -> bool:
        """Whether the trials asked for are done, or the time is over."""
        return self._proposed >= self.parts.context.trials or self._over()

    @property
    def _proposed(self) -> int:
        return sum(not r.baseline for r in self.records.values())

    def _restore(self, record: TrialRecord) -> None:
        parts = self.parts
        mine = record.controller == parts.controller.name and not record.baseline
        proposer = parts.proposer
        if mine and not isinstance(proposer, Driver) and getattr(proposer, "replay", False):
            proposer.propose(record.number)  # its marks on the trial, not its values
        if record.plan is not None and record.cost is not None and record.cost.latency_ms is not None:
            parts.context.target.remember(record.plan, record.cost.latency_ms)
        self._settle(record)
        self.records[record.number] = record
        if not record.finished:
            self._queue.append(record)
            return
        self._learn(record)

    def _next(self) -> TrialRecord | None:
        """The next trial to evaluate; rejected ones are dealt with on the way."""
        while not self._over():
            if self._queue:
                return self._begin(replace(self._queue.pop(0), status=RUNNING))
            record = self._new()
            if record is None:
                return None
            if record.feasible or not self.parts.budgeted:
                return record
            self._finish(replace(record, status=REJECTED))
        return None

    def _over(self) -> bool:
        self.timed_out = self.parts.deadline is not None and time.monotonic() >= self.parts.deadline
        return self.timed_out

    def _new(self) -> TrialRecord | None:
        context, missing = self.parts.context, self.missing_baselines
        number = context.mirror.next_number
        if missing:
            return self._decided(number, self._baseline(missing[0]), baseline=missing[0])
        proposer = self.parts.proposer
        if self._proposed >= context.trials or self.exhausted or isinstance(proposer, Driver):
            return None
        started = time.perf_counter()
        proposed = proposer.propose(number)
        decided_s = time.perf_counter() - started
        if proposed is None:
            self.exhausted = True
            return None
        return self._decided(number, self._handled(proposed), decided_s)

    def _baseline(self, name: str) -> Point:
        """A baseline's point; the smallest of the space where a measured latency now refuses even that."""
        context = self.parts.context
        method = context.space.methods[0]
        try:
            return BASELINES[name](context, method)
        except BudgetError:
            return context.space.point({g.name: g.max_sparsity for g in context.space.groups}, method)

    def _handled(self, values: Point) -> Point:
        """A proposal on the budget, if proposals are projected and the budget can be met from there."""
        space, target = self.parts.context.space, self.parts.context.target
        values = space.snap(values)
        if not self.parts.budgeted or self.parts.handling == "reject":
            return values
        if self.parts.context.metrics and target.fits(space.plan(values)):
            return values  # with costs among the objectives, a smaller network is no waste
        try:
            return space.shift(values, target.fits)
        except BudgetError:
            return values  # a measured latency may refuse what it allowed before: this one is rejected

    def _decided(self, number: int, values: Point, decided_s: float = 0.0, baseline: str = "") -> TrialRecord:
        context = self.parts.context
        plan = context.space.plan(values)
        target = context.target
        record = TrialRecord(
            number=number,
            status=RUNNING,
            plan=plan,
            values=values,
            cost=target.cost(plan),
            violations=target.violations(plan) if self.parts.budgeted else {},
            controller=baseline or self.parts.controller.name,
            baseline=baseline,
            seed=context.seed,
            decided_s=decided_s,
        )
        self._settle(record)
        return self._begin(record)

    def _settle(self, record: TrialRecord) -> None:
        self.parts.context.mirror.settle(record)
        adopt = getattr(self.parts.proposer, "adopt", None)
        if record.baseline and adopt is not None:
            adopt(record.number)

    def _begin(self, record: TrialRecord) -> TrialRecord:
        self.parts.ledger.begin(record, self.parts.context.mirror.distributions)
        self.records[record.number] = record
        return record

    def _start(self, record: TrialRecord) -> None:
        assert record.plan is not None
        self.parts.progress.trial_started(record)
        race = None if record.baseline else self.parts.race
        self._reports[record.number] = {}
        reports = not isinstance(self.parts.stopper, Never)
        self.parts.evaluator.submit(Job(record.number, record.plan, race, reports))

    def _report(self, number: int, step: int, accuracy: float) -> bool:
        record = self.records[number]
        self._reports[number][step] = accuracy
        self.parts.progress.reported(number, step, accuracy)
        stop = self.parts.stopper.report(record, step, accuracy)
        return stop and not record.baseline

    def _take(self, done: Done) -> None:
        record = self.records[done.number]
        self._check_faults(done)
        outcome = self._priced(done.outcome, record)
        reports = self._reports.pop(done.number)
        self._finish(replace(record, status=outcome.status.value, outcome=outcome, reports=reports, wall_s=done.wall_s))

    def _priced(self, outcome: Outcome, record: TrialRecord) -> Outcome:
        """``outcome`` with the latency that was measured before it was evaluated."""
        if record.cost is None or record.cost.latency_ms is None:
            return outcome
        return replace(outcome, cost=replace(outcome.cost, latency_ms=record.cost.latency_ms))

    def _check_faults(self, done: Done) -> None:
        """A plan that raises is a failed trial; when nothing but that happens, it is not the plans."""
        self._raised = self._raised + 1 if done.error else 0
        worked = any(r.status == "ok" for r in self.records.values())
        if self._raised >= _GIVE_UP and not worked:
            raise StudyError(f"the first {_GIVE_UP} evaluations all failed; the last one with {done.error}")

    def _finish(self, record: TrialRecord) -> None:
        self.parts.ledger.finish(record, _stored_values(record, self._names))
        self.records[record.number] = record
        self._learn(record)
        self.parts.progress.trial_finished(record, best_of(self.records.values()), self.done)

    def _learn(self, record: TrialRecord) -> None:
        parts = self.parts
        parts.context.mirror.tell(record)
        parts.proposer.tell(record)
        parts.stopper.tell(record)
        if parts.race is not None and record.usable and record.outcome is not None:
            parts.race.update(record.outcome)


def _stored_values(record: TrialRecord, names: tuple[str, ...]) -> list[float] | None:
    """Objectives as they stand in the study; a trial that was stopped has one only where Optuna allows it."""
    if record.status == "stopped" and len(names) > 1:
        return None
    values = lesson(record, names)
    return None if values is None else list(values)
