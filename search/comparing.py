"""Studies side by side at equal numbers of evaluations: best so far, mean and spread over seeds.

An evaluation is a proposal of a controller that was judged: it finished, failed or was stopped early. Proposals that
were rejected unseen cost none. Baselines stand in every study; they are what curves are held against, not part of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.errors import SettingsError, StudyError
from autoprune.hypervolume import hypervolume
from autoprune.search.comparable import check_comparable
from autoprune.search.comparison import Comparison, Curve, Difference, Group, Member, Summary, proposals
from autoprune.search.records import REJECTED, TrialRecord

if TYPE_CHECKING:
    from autoprune.search.studies import StoredStudy

SHARES = (0.25, 0.5, 1.0)  # of the evaluations that all have: where the table looks


def compare(
    studies: Iterable[StoredStudy], *, labels: Sequence[str | None] | None = None, loose: bool = False
) -> Comparison:
    """Put studies side by side at the largest number of evaluations that all have.

    Studies of the same controller are one group, in which each has another seed.

    Args:
        studies: of :func:`autoprune.search.studies.open_study`.
        labels: the group of each study; ``None`` for the name of its controller.
        loose: let search spaces, and settings of evaluation that change little, differ; notes say where they do.

    Raises:
        SettingsError: no study, or not one label for each.
        StudyError: a study without an evaluation, one that is given twice, two with the same seed in a group, or
            studies that are about different things, with the difference.
    """
    studies = tuple(studies)
    labels = [None] * len(studies) if labels is None else labels
    if not studies or len(labels) != len(studies):
        raise SettingsError(f"compare needs studies, and a label or None for each, but got {len(studies)} studies")
    for place, study in enumerate(studies):
        _refuse(study, studies[:place])
    notes = check_comparable(studies, loose=loose)
    score = _Score.of(studies)
    groups: dict[str, list[Member]] = {}
    for study, label in zip(studies, labels, strict=True):
        evaluated = tuple(record for record in proposals(study) if record.status != REJECTED)
        member = Member(study, evaluated, score.curve(evaluated))
        members = groups.setdefault(label or "+".join(study.controllers), [])
        _refuse_same_seed(member, members)
        members.append(member)
    made = tuple(Group(label, tuple(members)) for label, members in groups.items())
    count = min(group.length for group in made)
    return Comparison(
        metrics=studies[0].metrics,
        evaluations=count,
        checkpoints=tuple(sorted({math.ceil(count * share) for share in SHARES})),
        groups=made,
        baselines=_baselines([m for group in made for m in group.members], score),
        differences=tuple(_difference(made[0], other, count) for other in made[1:]),
        notes=(*_lengths(made, count), *_missing(made, count), *notes),
    )


@dataclass(frozen=True)
class _Score:
    """How good trials are together: the best accuracy, or the hypervolume over accuracy and saved costs.

    A cost is counted as the share of the dense network's that is saved, so that accuracy 0 and the dense cost are 0.
    """

    dense: Mapping[str, float]

    @classmethod
    def of(cls, studies: Sequence[StoredStudy]) -> _Score:
        """With the dense costs of all studies; only those that are measured differ, and they are averaged."""
        metrics = studies[0].metrics
        costs = [study.dense_cost for study in studies if study.dense_cost is not None]
        return cls({metric: statistics.fmean(cost.value(metric) for cost in costs) for metric in metrics})

    def curve(self, records: Iterable[TrialRecord]) -> Curve:
        """Best so far after each record."""
        curve: list[float | None] = []
        best: float | None = 0.0 if self.dense else None
        front: list[tuple[float, ...]] = []
        for record in records:
            gains = self._gains(record) if record.usable else None
            if gains is not None and not any(_covers(other, gains) for other in front):
                front = [other for other in front if not _covers(gains, other)] + [gains]
                now = hypervolume(front) if self.dense else gains[0]
                best = now if best is None else max(best, now)
            curve.append(best)
        return tuple(curve)

    def _gains(self, record: TrialRecord) -> tuple[float, ...] | None:
        values = record.objectives(tuple(self.dense))
        if values is None:
            return None
        return (values[0], *(1 - cost / dense for cost, dense in zip(values[1:], self.dense.values(), strict=True)))


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))


def _refuse(study: StoredStudy, earlier: Sequence[StoredStudy]) -> None:
    """A study with nothing to compare, or one that is there already."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(study.counts.items())) or "no trial"
    if all(record.status == REJECTED for record in proposals(study)):
        raise StudyError(
            f"the study {study.name!r} in {study.where} has no evaluated proposal of a controller yet ({counts}, "
            "baselines included); search on, or leave it out"
        )
    for other in earlier:
        if study.trials == other.trials:
            raise StudyError(
                f"{study.name!r} in {study.where} and {other.name!r} in {other.where} are the same study; "
                "name every study once"
            )


def _refuse_same_seed(member: Member, others: Sequence[Member]) -> None:
    for other in others:
        if member.seeds == other.seeds:
            one, two = other.study, member.study
            raise StudyError(
                f"the studies {one.name!r} in {one.where} and {two.name!r} in {two.where} have the same controller and "
                f"seed ({', '.join(map(str, member.seeds))}); if they are to be told apart, give them labels "
                "(LABEL=RUN)"
            )


def _baselines(members: Sequence[Member], score: _Score) -> dict[str, Summary]:
    """What baselines reach; studies with the same seed count once."""
    found: dict[str, dict[tuple[int, ...], list[float]]] = {}
    for member in members:
        records = [record for record in member.study.trials if record.baseline and record.usable]
        named = {"all": records} if score.dense else {record.baseline: [record] for record in records}
        for name, chosen in named.items():
            value = score.curve(chosen)[-1] if chosen else None
            if value is not None:
                found.setdefault(name, {}).setdefault(member.seeds, []).append(value)
    return {name: Summary.of([statistics.fmean(v) for v in by_seed.values()]) for name, by_seed in found.items()}


def _difference(first: Group, other: Group, evaluations: int) -> Difference:
    base = {member.seeds: member.curve[evaluations - 1] for member in first.members}
    pairs = [(base.get(member.seeds), member.curve[evaluations - 1]) for member in other.members]
    return Difference(other.label, first.label, tuple(b - a for a, b in pairs if a is not None and b is not None))


def _lengths(groups: Sequence[Group], count: int) -> list[str]:
    """Where there are more evaluations than are compared."""
    longer = []
    for group in groups:
        few, many = group.length, max(len(member.curve) for member in group.members)
        if many > count:
            longer.append(f"{group.label} ({few if few == many else f'{few} to {many}'})")
    return [f"Every study has {count} evaluations; more have {', '.join(longer)}."] if longer else []


def _missing(groups: Sequence[Group], count: int) -> list[str]:
    """Where there is no mean, and why a seed is in no difference."""
    notes = []
    for group in groups:
        none = sum(member.curve[count - 1] is None for member in group.members)
        if none:
            notes.append(
                f"{group.label} found nothing within the budget in {none} of {len(group.members)} studies: there is no "
                "mean, and differences leave their seeds out."
            )
    return notes
