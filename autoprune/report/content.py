"""What a report shows, as plain data: rows of the table, trials in order, layers of the best network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One network of the result table. Accuracies are fractions of the validation split unless they say otherwise.

    Attributes:
        name: ``dense``, a baseline, or ``best found``.
        accuracy: what the search judged by: after everything that was done to it.
        pruned: right after pruning, before batch-norm statistics were estimated anew or anything was retrained.
        recalibrated: after batch-norm statistics were estimated anew.
        retrained: after retraining; ``None`` without retraining.
        test: on the test split, once; ``None`` where it was not asked for.
        macs, params, bytes: for one sample, of the stored network.
        latency_ms: measured, for one call at the stated batch size and threads.
        fits: whether the budget is met; ``None`` without one.
        trial: its number in the study.
        note: why there is no number.
    """

    name: str
    accuracy: float | None
    pruned: float | None = None
    recalibrated: float | None = None
    retrained: float | None = None
    test: float | None = None
    macs: int | None = None
    params: int | None = None
    bytes: int | None = None
    latency_ms: float | None = None
    fits: bool | None = None
    trial: int | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Point:
    """One trial.

    Attributes:
        number: in the study.
        accuracy: ``None`` where there is none; of a stopped trial, of the images and steps it got to.
        ratios: cost over the dense network's, by metric.
        feasible: whether it meets the budget.
        status: ``ok``, ``failed``, ``stopped`` (given up early), or ``rejected`` (over budget, never evaluated).
        source: the baseline or controller that proposed it; ``baseline``: whether it is one of the first.
        front: whether nothing is better in everything.
    """

    number: int
    accuracy: float | None
    ratios: Mapping[str, float] = field(default_factory=dict)
    feasible: bool = True
    status: str = "ok"
    source: str = ""
    baseline: bool = False
    front: bool = False

    @property
    def judged(self) -> bool:
        """Whether its accuracy may be the best: it was evaluated to the end and meets the budget."""
        return self.status == "ok" and self.feasible and self.accuracy is not None


def sorts(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Trials that have an accuracy, by what they are; a stopped one has that of its last images or steps alone."""
    shown = [p for p in points if p.accuracy is not None]
    judged = [p for p in shown if p.judged]
    return {
        "over budget": [p for p in shown if not p.feasible],
        "stopped early": [p for p in shown if p.feasible and not p.judged],
        "within budget": [p for p in judged if not p.baseline],
        "baselines": [p for p in judged if p.baseline],
    }


@dataclass(frozen=True)
class Bar:
    """One group of the best network: how many of its units stay."""

    name: str
    size: int
    kept: int
    method: str = ""

    @property
    def share(self) -> float:
        """Units kept over units of the dense network."""
        return self.kept / self.size if self.size else 1.0


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        title: of the page.
        facts: name and value, in the order they stand.
        rows: the result table.
        points: every trial, in order.
        bars: the best network, group by group.
        metric: the cost on the x-axis of the front.
        notes: sentences under the table.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    points: tuple[Point, ...]
    bars: tuple[Bar, ...]
    metric: str = "macs"
    notes: tuple[str, ...] = ()
