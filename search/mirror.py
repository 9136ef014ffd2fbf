"""The study in memory: what Optuna's samplers look at.

It holds the trials of the ledger under the same numbers. Asking a study on disk reads and writes it for every
parameter; this one costs nothing but the sampling itself, and holds exactly what a sampler should learn from:

- the point that was evaluated (a proposal is shifted onto the budget), not the one proposed;
- a plan that cannot meet the budget as a value below every accuracy, so that samplers without constraints avoid it;
- where :attr:`Lessons.stopped` says so, a trial that was stopped early as finished with its last accuracy, since only
  TPE makes something of Optuna's pruned trials.

A sampler is made anew for every trial with a seed from (study seed, trial number) and keeps its state in the study, so
a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.search.records import REJECTED, TrialRecord, constraint_attributes
from autoprune.search.storage import quiet

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from autoprune.space import SearchSpace


@dataclass(frozen=True)
class Lessons:
    """What a controller's sampler is shown.

    Attributes:
        constraints: by how much each plan misses the budget.
        stopped: trials stopped early count as finished with their last accuracy.
    """

    constraints: bool = False
    stopped: bool = True


class Mirror:
    """An in-memory Optuna study with the trials of a search."""

    def __init__(self, space: SearchSpace, metrics: Sequence[str], name: str) -> None:
        import optuna
        from optuna.study import StudyDirection

        self.metrics = tuple(metrics)
        self.distributions = distributions(space)
        self.lessons = Lessons()
        self._baselines: list[int] = []
        self.storage = optuna.storages.InMemoryStorage()
        directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(self.metrics) - 1)]
        with quiet():
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=name,
                directions=directions,
                sampler=optuna.samplers.RandomSampler(seed=0),
                pruner=optuna.pruners.NopPruner(),
            )

    @property
    def next_number(self) -> int:
        """Number of the next trial."""
        return len(self.storage.get_all_trials(self.study._study_id, deepcopy=False))

    def ask(self, sampler: optuna.samplers.BaseSampler) -> dict[str, float | str]:
        """Open the next trial and let ``sampler`` propose a point for it."""
        self.study.sampler = sampler
        with quiet():
            return dict(self.study.ask(self.distributions).params)

    def settle(self, record: TrialRecord) -> None:
        """Open a trial at its point, or move it there when a sampler has opened it."""
        if record.number == self.next_number:
            self.storage.create_new_trial(self.study._study_id)
        trial = self._id(record.number)
        for name, value in record.values.items():
            distribution = self.distributions[name]
            self.storage.set_trial_param(trial, name, distribution.to_internal_repr(value), distribution)
        if record.baseline:
            self._baselines.append(record.number)
        if self.lessons.constraints:
            for key, value in constraint_attributes(record.violations).items():
                if ":" in key:  # the old key beside it would count every constraint twice
                    self.storage.set_trial_system_attr(trial, key, value)

    def trial(self, number: int) -> FrozenTrial:
        """A trial as samplers see it."""
        return self.storage.get_trial(self._id(number))

    def baselines(self) -> list[FrozenTrial]:
        """The baselines so far."""
        return [self.trial(number) for number in self._baselines]

    def best(self) -> FrozenTrial | None:
        """The most accurate finished trial of a single objective, ``None`` before the first."""
        from optuna.trial import TrialState

        finished = self.storage.get_all_trials(self.study._study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        return max(finished, key=lambda t: (float(t.value or 0.0), -t.number), default=None)

    def tell(self, record: TrialRecord) -> None:
        """Finish a trial: what samplers and pruners learn from it."""
        from optuna.trial import TrialState

        values = lesson(record, self.metrics)
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        if values is not None and record.status == "stopped" and not self._stopped_as_finished:
            self.storage.set_trial_intermediate_value(self._id(record.number), *_last_report(record))
            state, values = TrialState.PRUNED, None
        with quiet():
            self.study.tell(record.number, None if values is None else list(values), state)

    @property
    def _stopped_as_finished(self) -> bool:
        return self.lessons.stopped or len(self.metrics) > 1  # no sampler takes pruned trials of several objectives

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)


def _last_report(record: TrialRecord) -> tuple[int, float]:
    """(step, accuracy) by which TPE ranks a stopped trial: the later it was stopped, the better.

    One that was stopped in its final evaluation got further than every one that was stopped while it was retrained.
    """
    assert record.outcome is not None
    assert record.outcome.accuracy is not None
    step = max(record.reports, default=0)
    return (step if record.reports else record.outcome.images), record.outcome.accuracy


def lesson(record: TrialRecord, metrics: Sequence[str]) -> tuple[float, ...] | None:
    """Objectives a sampler should see; ``None`` for a failure.

    A rejected plan counts as ``-violation``, below every accuracy, and with the cost it has.
    """
    if record.status == REJECTED:
        assert record.cost is not None
        return (-max(record.violations.values()), *(record.cost.value(m) for m in metrics[1:]))
    if record.status not in ("ok", "stopped"):
        return None
    return record.objectives(tuple(metrics[1:]))


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's distributions of a space's parameters."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: CategoricalDistribution(p.choices) if p.choices else FloatDistribution(p.low, p.high)
        for name, p in space.parameters.items()
    }
