"""The study on disk: what was decided, tried and found, trial by trial. Only the coordinator writes it.

A trial is written in three steps: begun (with its plan and cost, known in advance), its outcome, its end. A process
that is killed between any two leaves a trial that is not finished; :meth:`Ledger.sweep` sets such trials to wait, with
the same number and plan, and the next run evaluates them first. So a study ends with exactly the trials asked for.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.errors import StudyError
from autoprune.search.bulk import write_trial
from autoprune.search.facts import check_facts
from autoprune.search.records import (
    REJECTED,
    TrialRecord,
    attributes_at_end,
    attributes_at_start,
    read_record,
)
from autoprune.search.storage import Address, close, quiet, storage_errors, study_id, study_names

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

FACTS = "autoprune"  # user attribute of the study
DENSE_COST = "dense_cost"  # note of the study: what fractions of its budget refer to
OWN_NOTES = frozenset({FACTS, DENSE_COST, "layers", "sensitivity"})


class Ledger:
    """One study in one storage; :meth:`open` makes or continues it, :meth:`read` only looks."""

    def __init__(self, storage: BaseStorage, study: int, name: str, address: Address) -> None:
        self.storage, self.study, self.name, self.address = storage, study, name, address
        self._ids: dict[int, int] = {}

    @classmethod
    def open(cls, address: Address, name: str, facts: Mapping[str, Any]) -> Ledger:
        """The study called ``name``, made if there is none.

        Raises:
            StudyError: the storage is out of reach, or the study is about something else (with the difference).
        """
        facts = json.loads(json.dumps(facts))
        storage = address.open(make=True)
        try:
            with storage_errors(address), quiet():
                known = study_names(storage)
                if address.file is not None:
                    _refuse_foreign(storage, known, name, facts, address)
                if name not in known:
                    ledger = cls(storage, _make(storage, name, facts["metrics"]), name, address)
                    storage.set_study_user_attr(ledger.study, FACTS, facts)
                    return ledger
                ledger = cls(storage, known[name], name, address)
                if not ledger._begun():
                    storage.delete_study(ledger.study)
                    ledger.study = _make(storage, name, facts["metrics"])
                    storage.set_study_user_attr(ledger.study, FACTS, facts)
                check_facts(ledger._stored(), facts, f"the study {name!r} in {address.shown}")
                return ledger
        except BaseException:
            close(storage, address)
            raise

    @classmethod
    def read(cls, address: Address, name: str) -> Ledger:
        """The study called ``name``, to look at.

        Raises:
            StudyError: no storage, or no study in it.
            UnknownNameError: no such study, with near misses.
        """
        storage = address.open(make=False)
        with storage_errors(address):
            return cls(storage, study_id(storage, name, address), name, address)

    def facts(self) -> dict[str, Any]:
        """What the study is about.

        Raises:
            StudyError: it was not made by autoprune.
        """
        with storage_errors(self.address):
            stored = self._stored()
        if stored is None:
            raise StudyError(f"the study {self.name!r} in {self.address.shown} was not made by autoprune")
        return stored

    def records(self) -> list[TrialRecord]:
        """Every trial, in order."""
        with storage_errors(self.address):
            trials = self.storage.get_all_trials(self.study, deepcopy=False)
        self._ids = {trial.number: trial._trial_id for trial in trials}
        return [read_record(trial) for trial in sorted(trials, key=lambda t: t.number)]

    def sweep(self) -> list[TrialRecord]:
        """Set trials that an ended run left in flight to wait, and return every trial."""
        from optuna.trial import TrialState

        with storage_errors(self.address):
            for trial in self.storage.get_all_trials(self.study, deepcopy=False, states=(TrialState.RUNNING,)):
                self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        return self.records()

    def begin(self, record: TrialRecord, distributions: Mapping[str, BaseDistribution]) -> None:
        """Write down a trial that starts now, or one that waited.

        Raises:
            StudyError: another process has added trials to the study meanwhile.
        """
        from optuna.trial import TrialState

        user, system = attributes_at_start(record)
        with storage_errors(self.address):
            if record.number in self._ids:
                self.storage.set_trial_state_values(self._ids[record.number], TrialState.RUNNING)
            else:
                trial_id = self.storage.create_new_trial(self.study)
                number = self.storage.get_trial_number_from_id(trial_id)
                if number != record.number:
                    write_trial(self.storage, trial_id, user={"status": "failed", "controller": "a second search"})
                    self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
                    raise StudyError(
                        f"another process adds trials to the study {self.name!r} in {self.address.shown}: "
                        f"expected number {record.number}, but got {number}; one search at a time may write a study"
                    )
                self._ids[record.number] = trial_id
            write_trial(
                self.storage,
                self._ids[record.number],
                params=record.values,
                distributions=distributions,
                user=user,
                system=system,
            )

    def finish(self, record: TrialRecord, values: Sequence[float] | None) -> None:
        """Write down how a trial ended; ``values`` are its objectives, ``None`` where it has none."""
        from optuna.trial import TrialState

        states = {"ok": TrialState.COMPLETE, "stopped": TrialState.PRUNED, REJECTED: TrialState.COMPLETE}
        state = states.get(record.status, TrialState.FAIL)
        trial_id = self._ids[record.number]
        with storage_errors(self.address):
            write_trial(self.storage, trial_id, user=attributes_at_end(record), reports=record.reports)
            self.storage.set_trial_state_values(trial_id, state, values)

    def wait(self, number: int) -> None:
        """Put a trial that is in flight back to wait."""
        from optuna.trial import TrialState

        if number in self._ids:
            with storage_errors(self.address):
                self.storage.set_trial_state_values(self._ids[number], TrialState.WAITING)

    def note(self, key: str, value: Any) -> None:
        """Attach something to the study that may change (JSON)."""
        with storage_errors(self.address):
            self.storage.set_study_user_attr(self.study, key, value)

    def notes(self) -> dict[str, Any]:
        """Everything attached to the study."""
        with storage_errors(self.address):
            return dict(self.storage.get_study_user_attrs(self.study))

    def close(self) -> None:
        """Let go of the storage."""
        close(self.storage, self.address)

    def _begun(self) -> bool:
        """Whether there is anything to lose: a trial, or something that others have attached."""
        noted = set(self.storage.get_study_user_attrs(self.study)) - OWN_NOTES
        return bool(noted or self.storage.get_all_trials(self.study, deepcopy=False))

    def _stored(self) -> dict[str, Any] | None:
        stored = self.storage.get_study_user_attrs(self.study).get(FACTS)
        return stored if isinstance(stored, dict) else None


def _make(storage: BaseStorage, name: str, metrics: Sequence[str]) -> int:
    from optuna import load_study
    from optuna.exceptions import ExperimentalWarning
    from optuna.study import StudyDirection

    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(metrics) - 1)]
    study = storage.create_new_study(directions, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        load_study(study_name=name, storage=storage).set_metric_names(list(metrics))
    return study


def _refuse_foreign(
    storage: BaseStorage, known: Mapping[str, int], name: str, facts: Mapping[str, Any], address: Address
) -> None:
    """A file is one network's: refuse to put a study of another beside."""
    for other, study in known.items():
        stored = storage.get_study_user_attrs(study).get(FACTS)
        if other != name and isinstance(stored, dict) and stored.get("model") != facts["model"]:
            raise StudyError(
                f"{address.shown} holds the study {other!r} of another network "
                f"({stored.get('model')} there, {facts['model']} here); choose another run folder"
            )
