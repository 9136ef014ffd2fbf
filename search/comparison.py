"""What a comparison of studies is: groups by controller, their curves, mean and spread over seeds, differences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.search.records import REJECTED, TrialRecord

if TYPE_CHECKING:
    from autoprune.search.studies import StoredStudy

SEEDS_FOR_P = 5  # with fewer, no p-value is below 2 / 2^4
FLIPS = 9999
COUNTS = ("failed", "stopped", REJECTED, "repeated")

Curve = tuple[float | None, ...]


@dataclass(frozen=True)
class Summary:
    """Mean over seeds; ``None`` unless every study has a value.

    Attributes:
        mean: arithmetic mean.
        spread: sample standard deviation, ``None`` with one seed.
        seeds: how many.
    """

    mean: float | None
    spread: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Summary:
        """The summary of one value for each seed."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return cls(None, None, len(values))
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Member:
    """One study of a group.

    Attributes:
        study: its facts and trials.
        evaluated: its evaluations, in order of number.
        curve: best so far after 1, 2, ... evaluations: accuracy (``None`` before the first network within the budget),
            or in a Pareto search the hypervolume.
    """

    study: StoredStudy
    evaluated: tuple[TrialRecord, ...]
    curve: Curve

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of its search; several where it was continued with another."""
        return tuple(dict.fromkeys(record.seed for record in proposals(self.study)))

    def seconds(self, evaluations: int) -> float:
        """Mean time of one of the first so many evaluations; the controller's own time is not in it."""
        return statistics.fmean(record.wall_s for record in self.evaluated[:evaluations])

    def deciding(self, evaluations: int) -> float:
        """Mean time in which the controller learned and decided, before one of the first so many evaluations."""
        return statistics.fmean(record.decided_s for record in self.evaluated[:evaluations])

    def counts(self, evaluations: int) -> dict[str, int]:
        """Of the first so many evaluations those that failed, were stopped, or repeated a plan; rejected on the way."""
        first = self.evaluated[:evaluations]
        seen = {t.plan for t in self.study.trials if t.baseline and t.finished and t.status != REJECTED}
        repeated = 0
        for record in first:
            repeated += record.plan in seen
            seen.add(record.plan)
        return {
            "failed": sum(t.status == "failed" for t in first),
            "stopped": sum(t.status == "stopped" for t in first),
            REJECTED: sum(t.status == REJECTED and t.number < first[-1].number for t in proposals(self.study)),
            "repeated": repeated,
        }


@dataclass(frozen=True)
class Group:
    """Studies of one controller, each with another seed."""

    label: str
    members: tuple[Member, ...]

    @property
    def length(self) -> int:
        """Evaluations that every study of the group has."""
        return min(len(member.curve) for member in self.members)

    def at(self, evaluations: int) -> Summary:
        """Best so far after so many evaluations."""
        return Summary.of([member.curve[evaluations - 1] for member in self.members])

    def seconds(self, evaluations: int) -> float:
        """Mean time of an evaluation."""
        return statistics.fmean(member.seconds(evaluations) for member in self.members)

    def deciding(self, evaluations: int) -> float:
        """Mean time of the controller itself for an evaluation."""
        return statistics.fmean(member.deciding(evaluations) for member in self.members)

    def counts(self, evaluations: int) -> dict[str, int]:
        """As :meth:`Member.counts`, all studies together."""
        found = [member.counts(evaluations) for member in self.members]
        return {name: sum(counts[name] for counts in found) for name in COUNTS}


@dataclass(frozen=True)
class Difference:
    """What a group has more than the first group, seed by seed, at the number of evaluations compared at.

    Attributes:
        label, against: the group, and the first group.
        values: differences by seed, for seeds that both have.
    """

    label: str
    against: str
    values: tuple[float, ...]

    @property
    def summary(self) -> Summary:
        """Mean and spread."""
        return Summary.of(self.values)

    @property
    def higher(self) -> int:
        """Seeds with which this group found more."""
        return sum(value > 0 for value in self.values)

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the sign-flip test of paired differences; ``None`` with fewer than five seeds.

        Were the two alike, each difference could as well have the other sign (R. A. Fisher, The design of experiments,
        1935). Exact up to 13 seeds, by 9999 drawn sign patterns above. It is not adjusted for several comparisons.
        """
        if len(self.values) < SEEDS_FOR_P:
            return None
        import numpy as np
        from scipy.stats import permutation_test

        result = permutation_test(
            (np.array(self.values),),
            lambda values, axis: values.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=FLIPS,
            rng=0,
        )
        return float(result.pvalue)


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` returns.

    Attributes:
        metrics: costs searched for beside accuracy; empty where curves are accuracies, else they are hypervolumes.
        evaluations: the largest number that every study has; ``checkpoints``: a quarter, half and all of it.
        groups: in the order in which they were given.
        baselines: their accuracies by name; in a Pareto search the hypervolume of ``all`` of them.
        differences: of every other group from the first.
        notes: what a reader must know.
    """

    metrics: tuple[str, ...]
    evaluations: int
    checkpoints: tuple[int, ...]
    groups: tuple[Group, ...]
    baselines: Mapping[str, Summary]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def quantity(self) -> str:
        """What is compared: ``accuracy`` or ``hypervolume``."""
        return "hypervolume" if self.metrics else "accuracy"

    def rows(self) -> list[dict[str, Any]]:
        """A flat row for each group and checkpoint."""
        return [
            {
                "controller": group.label,
                "evaluations": n,
                **vars(group.at(n)),
                "seconds_per_evaluation": group.seconds(n),
                "seconds_deciding": group.deciding(n),
                **group.counts(n),
            }
            for group in self.groups
            for n in self.checkpoints
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; whole curves are under ``studies``."""
        return {
            "version": 1,
            "quantity": self.quantity,
            "metrics": list(self.metrics),
            "evaluations": self.evaluations,
            "rows": self.rows(),
            "baselines": {name: vars(summary) for name, summary in self.baselines.items()},
            "differences": [
                {"controller": d.label, "against": d.against, **vars(d.summary), "higher": d.higher, "p": d.p_value}
                for d in self.differences
            ],
            "studies": [
                {
                    "controller": group.label,
                    "study": member.study.name,
                    "where": member.study.where,
                    "seeds": list(member.seeds),
                    "curve": list(member.curve),
                }
                for group in self.groups
                for member in group.members
            ],
            "notes": list(self.notes),
        }


def proposals(study: StoredStudy) -> list[TrialRecord]:
    """What the controller proposed and is finished, in order."""
    return sorted((t for t in study.trials if t.finished and not t.baseline), key=lambda t: t.number)
