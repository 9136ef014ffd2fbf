"""When to give a trial up while it is retrained: Optuna's pruners, and a rule for searches with several objectives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autoprune.errors import SettingsError, unknown_name
from autoprune.search.records import TrialRecord
from autoprune.search.storage import quiet

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class Stopper(Protocol):
    """Looks at accuracies while trials are retrained."""

    def report(self, record: TrialRecord, step: int, accuracy: float) -> bool:
        """Take in the accuracy of a running trial at ``step``; whether it should be given up."""

    def tell(self, record: TrialRecord) -> None:
        """Take in a finished trial."""


class Never:
    """Lets every trial finish."""

    def report(self, record: TrialRecord, step: int, accuracy: float) -> bool:
        """Never."""
        del record, step, accuracy
        return False

    def tell(self, record: TrialRecord) -> None:
        """Nothing to learn."""


class OptunaStopper:
    """One of Optuna's pruners, over a study in memory that holds nothing but accuracies by step."""

    def __init__(self, pruner: BasePruner, name: str) -> None:
        import optuna

        self._storage = optuna.storages.InMemoryStorage()
        with quiet():
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize",
                pruner=pruner,
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
        self._ids: dict[int, int] = {}
        self._heard: set[int] = set()

    def report(self, record: TrialRecord, step: int, accuracy: float) -> bool:
        """Whether the pruner gives the trial up."""
        trial = self._id(record.number)
        self._heard.add(record.number)
        self._storage.set_trial_intermediate_value(trial, step, accuracy)
        return bool(self._study.pruner.prune(self._study, self._storage.get_trial(trial)))

    def tell(self, record: TrialRecord) -> None:
        """Finish the trial. One of an earlier run is reported anew first: halving marks trials while they report."""
        from optuna.trial import TrialState

        if record.status not in ("ok", "stopped"):
            return
        if record.number not in self._heard:
            for step, accuracy in sorted(record.reports.items()):
                self.report(record, step, accuracy)
        trial = self._id(record.number)
        state = TrialState.COMPLETE if record.status == "ok" else TrialState.PRUNED
        self._storage.set_trial_state_values(trial, state, None if record.accuracy is None else [record.accuracy])

    def _id(self, number: int) -> int:
        """The trial in memory; numbers agree with the study as long as trials come in order, which brackets rely on."""
        while number not in self._ids and len(self._ids) <= number:
            self._ids[len(self._ids)] = self._storage.create_new_trial(self._study._study_id)
        return self._ids[number]


@dataclass
class Dominated:
    """Gives a trial up once ``rivals`` finished trials were more accurate at the same step and cost no more.

    Optuna's pruners refuse studies with several objectives. Costs are known before a trial starts, so the only
    objective that is still open is accuracy, and only trials that cost no more in every metric are fair to compare
    with. With a single objective every finished trial is.

    Attributes:
        metrics: the costs searched for.
        rivals: how many must be ahead.
        margin: by how much.
    """

    metrics: tuple[str, ...] = ()
    rivals: int = 3
    margin: float = 0.0

    def __post_init__(self) -> None:
        self._curves: list[TrialRecord] = []

    def report(self, record: TrialRecord, step: int, accuracy: float) -> bool:
        """Whether enough finished trials were ahead at this step of retraining."""
        if record.cost is None or step == 0:  # before retraining, which changes the order
            return False
        mine = [record.cost.value(m) for m in self.metrics]
        ahead = sum(
            step in other.reports and other.reports[step] > accuracy + self.margin and self._cheaper(other, mine)
            for other in self._curves
        )
        return ahead >= self.rivals

    def tell(self, record: TrialRecord) -> None:
        """Trials that finished are what others are compared with."""
        if record.status == "ok" and record.cost is not None:
            self._curves.append(record)

    def _cheaper(self, other: TrialRecord, mine: list[float]) -> bool:
        assert other.cost is not None
        return all(other.cost.value(m) <= cost for m, cost in zip(self.metrics, mine, strict=True))


def _median() -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=5, n_warmup_steps=1)  # step 0 is before retraining, which changes the order


def _hyperband() -> BasePruner:
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(min_resource=1, max_resource="auto", reduction_factor=3)


def _patience() -> BasePruner:
    from optuna.pruners import MedianPruner, PatientPruner

    return PatientPruner(MedianPruner(n_startup_trials=5, n_warmup_steps=1), patience=1)


PRUNERS: dict[str, tuple[str, Callable[[], BasePruner] | None]] = {
    "none": ("Every trial is retrained to the end.", None),
    "median": ("Gives up trials below the median of the earlier ones at the same step.", _median),
    "hyperband": ("Successive halving in brackets of different patience.", _hyperband),
    "patience": ("As median, but only once a trial has stopped getting better.", _patience),
    "dominated": ("Gives up a trial when three that cost no more were ahead at the same step.", None),
}


def make_stopper(name: str | None, metrics: tuple[str, ...], study: str) -> Stopper:
    """The stopper called ``name`` (a key of ``PRUNERS``; ``None`` is ``none``).

    Args:
        name: which one.
        metrics: costs searched for; empty with a single objective.
        study: name of the study, by which hyperband assigns its brackets.

    Raises:
        UnknownNameError: no such pruner, with near misses.
        SettingsError: a pruner for one objective in a search with several.
    """
    name = name or "none"
    if name not in PRUNERS:
        raise unknown_name("pruner", name, PRUNERS)
    make = PRUNERS[name][1]
    if make is None:
        return Never() if name == "none" else Dominated(metrics)
    if metrics:
        raise SettingsError(
            f"pruner {name!r} compares one objective, but the search has {1 + len(metrics)}; "
            "use pruner 'dominated' or none"
        )
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return OptunaStopper(make(), study)
