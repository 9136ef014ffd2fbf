"""What a search leaves for a reader: the best plan, the table that says what was won, every trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.search.records import TrialRecord

NEAR_ENOUGH = 0.02  # accuracy that the best of a front may lose

if TYPE_CHECKING:
    from autoprune.costs import Budget, Cost
    from autoprune.fitting import Profile
    from autoprune.outcome import Outcome
    from autoprune.plan import Plan


@dataclass(frozen=True)
class Row:
    """One network of the result table.

    Attributes:
        name: ``dense``, ``uniform``, ``global``, ``greedy`` or ``best found``.
        outcome: what the search judged by, ``None`` where there is none (a baseline that was not reached or failed).
        trial: number in the study, ``None`` for the dense network.
        latency_ms: measured at the end, ``None`` where it was not.
        confirmed: validation accuracy of the network built again, in float32; ``None`` where it was not.
        test: the same on the test split, looked at once; ``None`` where it was not asked for.
        note: why a number is missing.
    """

    name: str
    outcome: Outcome | None
    trial: int | None = None
    latency_ms: float | None = None
    confirmed: float | None = None
    test: float | None = None
    note: str = ""

    @property
    def accuracy(self) -> float | None:
        """Confirmed validation accuracy where there is one, else the one the search judged by."""
        if self.confirmed is not None or self.outcome is None:
            return self.confirmed
        return self.outcome.accuracy

    @property
    def cost(self) -> Cost | None:
        """Parameters, multiply-accumulates, bytes."""
        return None if self.outcome is None else self.outcome.cost


@dataclass(frozen=True)
class SearchResult:
    """What :func:`autoprune.search.search` returns.

    Attributes:
        rows: dense, the baselines and the best found, in this order.
        best: the best trial within the budget, baselines included; ``None`` without any. In a Pareto search without a
            budget, the cheapest of the front that loses at most two points of accuracy, else the most accurate.
        front: in a Pareto search, the trials that no other beats in everything, most accurate first; else the best.
        trials: every trial of the study, in order.
        dense: outcome of the dense network.
        profile: smallest, middle and largest sub-network, and the limits.
        budget, metrics, controller, seed: what was asked for.
        study_name, storage, run_dir: where it is kept.
        interrupted: ended by Ctrl-C; what was finished is here and the same command goes on.
        timed_out: ended by its time limit.
        exhausted: the controller had nothing left to propose.
        wall_s: seconds of this run.
    """

    rows: tuple[Row, ...]
    best: TrialRecord | None
    front: tuple[TrialRecord, ...]
    trials: tuple[TrialRecord, ...]
    dense: Outcome
    profile: Profile
    budget: Budget | None
    metrics: tuple[str, ...]
    controller: str
    seed: int
    study_name: str
    storage: str
    run_dir: Path | None = None
    interrupted: bool = False
    timed_out: bool = False
    exhausted: bool = False
    wall_s: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def best_plan(self) -> Plan | None:
        """The plan of the best trial."""
        return None if self.best is None else self.best.plan

    @property
    def baselines(self) -> dict[str, TrialRecord]:
        """The baselines that were evaluated, by name."""
        return {t.baseline: t for t in self.trials if t.baseline and t.finished}

    @property
    def counts(self) -> dict[str, int]:
        """Trials by status."""
        return dict(Counter(t.status for t in self.trials))

    @property
    def evaluated(self) -> int:
        """Trials that were evaluated, baselines included."""
        return sum(t.finished and t.outcome is not None for t in self.trials)


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The most accurate usable trial; of equal ones the cheaper, then the earlier."""
    usable = [r for r in records if r.usable]
    return min(usable, key=_rank, default=None)


def _rank(record: TrialRecord) -> tuple[float, float, int]:
    assert record.outcome is not None
    assert record.accuracy is not None
    return -record.accuracy, record.outcome.cost.macs, record.number


def pareto_front(records: Iterable[TrialRecord], metrics: tuple[str, ...]) -> tuple[TrialRecord, ...]:
    """Usable trials that no other beats in accuracy and every metric; of equal ones the first, most accurate first."""
    points = [(r, r.objectives(metrics)) for r in records if r.usable]
    front: list[tuple[TrialRecord, tuple[float, ...]]] = []
    for record, values in points:
        assert values is not None
        if any(_covers(other, values) for _, other in front):
            continue
        front = [(r, v) for r, v in front if not _covers(values, v)] + [(record, values)]
    return tuple(record for record, _ in sorted(front, key=lambda entry: (-entry[1][0], entry[0].number)))


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether ``one`` is at least as accurate and costs no more."""
    return one[0] >= other[0] and all(a <= b for a, b in zip(one[1:], other[1:], strict=True))


def cheapest_near(
    front: Iterable[TrialRecord], metrics: tuple[str, ...], dense: Mapping[str, float]
) -> TrialRecord | None:
    """The cheapest trial that loses at most two points of accuracy, else the most accurate.

    What is cheap is the mean share of the dense costs.

    Args:
        front: trials with an accuracy.
        metrics: costs that count.
        dense: values of the dense network by metric, and its ``accuracy``.
    """
    points = [(r, v) for r, v in ((r, r.objectives(metrics)) for r in front) if v is not None]
    near = [(r, v) for r, v in points if v[0] >= dense["accuracy"] - NEAR_ENOUGH]
    if not near:
        return max(points, key=lambda p: (p[1][0], -p[0].number), default=(None, ()))[0]

    def share(values: tuple[float, ...]) -> float:
        return sum(v / dense[m] for v, m in zip(values[1:], metrics, strict=True))

    return min(near, key=lambda p: (share(p[1]), p[0].number))[0]
