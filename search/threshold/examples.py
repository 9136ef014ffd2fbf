"""Examples to learn from: a plan is a row of features for each group it prunes, and one measured harm for all.

One trial measures what a whole plan loses, not what each layer does, so the rows of a plan share their target: the sum
of what is predicted for them. A group that was pruned alone is a plan with one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoprune.masking import removed_count
from autoprune.search.baselines import IMAGES
from autoprune.search.threshold.facts import GroupFacts, NetworkFacts, harm_of
from autoprune.search.threshold.features import (
    AFTER,
    BEFORE,
    NAMES,
    RETRAINING,
    Judged,
    Rows,
    decided_rows,
    judged,
    plan_rows,
)

if TYPE_CHECKING:
    from autoprune.plan import Plan
    from autoprune.search.records import TrialRecord

Vector = NDArray[np.float32]
CURVE_WEIGHT = 0.3  # of a group pruned alone without retraining, against a trial
FAILED_WEIGHT = 0.1
_SPREAD = 0.001  # what training alone moves an accuracy, as a share of it
_PAIRED = 0.2  # share of the variance of counting that is left between plans judged by the same samples


@dataclass(frozen=True, eq=False)
class Examples:
    """``T`` plans with ``R`` rows of features in all.

    Attributes:
        rows: ``[R, F]``, those of each plan one after the other.
        counts: ``[T]`` rows of each plan.
        retraining: ``[T, 3]`` accuracy, steps and batch of each plan, as in its rows.
        harm: ``[T]`` measured.
        noise: ``[T]`` variance of that measurement: of counting right answers, and of training.
        weight: ``[T]`` how much each counts.
    """

    rows: Rows
    counts: NDArray[np.int64]
    retraining: Rows
    harm: Vector
    noise: Vector
    weight: Vector

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def owner(self) -> NDArray[np.int64]:
        """``[R]`` the plan of each row."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @classmethod
    def none(cls) -> Examples:
        """Nothing yet."""
        empty = np.zeros(0, np.float32)
        return cls(
            np.zeros((0, len(NAMES)), np.float32),
            np.zeros(0, np.int64),
            np.zeros((0, len(RETRAINING)), np.float32),
            empty,
            empty,
            empty,
        )

    @classmethod
    def joined(cls, parts: Iterable[Examples]) -> Examples:
        """All of them, in order."""
        parts = [cls.none(), *parts]
        names = ("rows", "counts", "retraining", "harm", "noise", "weight")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def noise_of(accuracy: float | None, images: int) -> float:
    """Variance of a measured harm: of counting right answers of ``images``, and of what training moves.

    Plans are judged by the same samples, so most of what counting is unsure of is common to all.
    """
    a = min(max(0.02 if accuracy is None else accuracy, 0.02), 1 - 0.5 / max(images, 1))
    return _PAIRED * (1 - a) / (a * max(images, 1)) + _SPREAD**2


def decisions_of(plan: Plan, facts: NetworkFacts) -> dict[str, tuple[str, int]] | None:
    """(method, units that go) by group; ``None`` for a plan that masks weights or prunes a group not in ``facts``."""
    found = {}
    for decision in plan.decisions:
        group = facts.groups.get(decision.layer)
        if group is None or not decision.pattern.structured or decision.method not in group.norms:
            return None
        count = removed_count(group.size, decision.sparsity)
        if count:
            found[decision.layer] = (decision.method, count)
    return found


def example_of(record: TrialRecord, facts: NetworkFacts) -> Examples:
    """What a finished trial teaches; nothing where it was rejected, stopped early, or cannot be said in features."""
    outcome, plan = record.outcome, record.plan
    if plan is None or outcome is None or record.status not in ("ok", "failed"):
        return Examples.none()
    decisions = decisions_of(plan, facts)
    if not decisions:
        return Examples.none()
    failed = outcome.accuracy is None
    how = Judged(outcome.steps, facts.batch, outcome.images or facts.images)
    rows = plan_rows(facts, decisions, how)
    return _one_each(
        rows,
        [len(rows)],
        [harm_of(outcome.accuracy, facts.accuracy)],
        [noise_of(outcome.accuracy, how.images)],
        FAILED_WEIGHT if failed else 1.0,
    )


def _one_each(
    rows: Rows, counts: Sequence[int], harm: Sequence[float], noise: Sequence[float], weight: float
) -> Examples:
    firsts = np.cumsum([0, *counts[:-1]])
    return Examples(
        rows,
        np.array(counts, np.int64),
        rows[firsts][:, list(RETRAINING)],
        np.array(harm, np.float32),
        np.array(noise, np.float32),
        np.full(len(counts), weight, np.float32),
    )


def curve_examples(facts: NetworkFacts) -> Examples:
    """Groups pruned alone without retraining: the sensitivity curves that the greedy baseline goes by."""
    parts = [_curve(group, facts) for group in facts.groups.values() if group.alone]
    return Examples.joined(parts)


def _curve(group: GroupFacts, facts: NetworkFacts) -> Examples:
    method = next(iter(group.norms))
    how = Judged(0, 0, min(IMAGES, facts.images))
    removed = [max(1, round(sparsity * group.size)) for sparsity, _ in group.alone]
    rows = judged(decided_rows(group, method, removed, facts), how)
    rows[:, BEFORE] = rows[:, AFTER] = 1.0
    harms = [harm for _, harm in group.alone]
    noise = [noise_of(facts.accuracy * float(np.exp(-h)), how.images) for h in harms]
    return _one_each(rows, [1] * len(rows), harms, noise, CURVE_WEIGHT)


def study_examples(facts: NetworkFacts, trials: Iterable[TrialRecord], *, curves: bool = True) -> Examples:
    """Everything that a study teaches."""
    own = [example_of(record, facts) for record in trials if record.finished]
    return Examples.joined([*([curve_examples(facts)] if curves else []), *own])
