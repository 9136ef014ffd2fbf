"""Studies that are there: list them, look at one, take a trial's network out.

A place is a run folder, a folder of run folders, a SQLite file, or the URL of an Optuna storage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.costs import Budget, Cost
from autoprune.errors import StudyError, UnknownNameError
from autoprune.search.ledger import DENSE_COST, FACTS, Ledger
from autoprune.search.records import TrialRecord
from autoprune.search.result import best_of, cheapest_near, pareto_front
from autoprune.search.storage import STUDY_FILE, Address, close, storage_errors, study_names

if TYPE_CHECKING:
    from autoprune.artifacts import NetworkSpec
    from autoprune.space import SearchSpace


@dataclass(frozen=True)
class StoredStudy:
    """A study and its trials, read once.

    Attributes:
        name, where: which, and the storage for a reader.
        facts: what it is about, see :mod:`autoprune.search.facts`.
        trials: every trial, in order.
        dense_cost: what fractions of the budget refer to; ``None`` where no run got so far.
        notes: everything that is attached to it.
    """

    name: str
    where: str
    facts: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    dense_cost: Cost | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Costs that are objectives beside accuracy; empty for a single objective."""
        return tuple(self.facts["metrics"][1:])

    @property
    def budget(self) -> Budget | None:
        """The budget, ``None`` in a Pareto search without one."""
        return Budget.from_dict(self.facts["budget"]) or None

    @property
    def space(self) -> SearchSpace:
        """What may be decided."""
        from autoprune.space import SearchSpace

        return SearchSpace.from_dict(self.facts["space"])

    @property
    def counts(self) -> dict[str, int]:
        """Trials by status."""
        return dict(Counter(t.status for t in self.trials))

    @property
    def controllers(self) -> tuple[str, ...]:
        """Who proposed trials, in order of appearance; baselines aside."""
        return tuple(dict.fromkeys(t.controller for t in self.trials if not t.baseline and t.controller))

    @property
    def best(self) -> TrialRecord | None:
        """The best trial: as :attr:`autoprune.search.SearchResult.best`."""
        if self.metrics and self.budget is None and self.dense_cost is not None:
            dense = {m: self.dense_cost.value(m) for m in self.metrics if getattr(self.dense_cost, m) is not None}
            accuracies = [t.outcome.stages.get("dense", 1.0) for t in self.trials if t.outcome is not None]
            dense["accuracy"] = accuracies[0] if accuracies else 1.0
            return cheapest_near(self.front, tuple(m for m in self.metrics if m in dense), dense)
        return best_of(self.trials)

    @property
    def front(self) -> tuple[TrialRecord, ...]:
        """Trials that no other beats in everything, most accurate first; of a single objective the best."""
        if self.metrics:
            return pareto_front(self.trials, self.metrics)
        return () if self.best is None else (self.best,)

    def trial(self, number: int) -> TrialRecord:
        """The trial with this number.

        Raises:
            UnknownNameError: no such trial.
        """
        for record in self.trials:
            if record.number == number:
                return record
        last = f"0 to {self.trials[-1].number}" if self.trials else "none"
        raise UnknownNameError(f"the study {self.name!r} has no trial {number} (there are: {last})")


@dataclass(frozen=True)
class StudySummary:
    """One line of a list of studies.

    Attributes:
        name, where, folder: which; ``folder`` is the run folder, ``None`` for a storage by URL.
        metrics, budget: what is searched for.
        counts: trials by status.
        best: number and accuracy of the best trial, ``None`` without one.
        changed: when a trial last ended, ``None`` before the first.
        problem: why it cannot be read; everything else is empty then.
    """

    name: str
    where: str
    folder: Path | None = None
    metrics: tuple[str, ...] = ()
    budget: str = ""
    counts: dict[str, int] | None = None
    best: tuple[int, float] | None = None
    changed: datetime | None = None
    problem: str = ""


def open_study(where: str | Path, name: str | None = None) -> StoredStudy:
    """The study at ``where``; ``name`` may be left out where there is only one.

    Raises:
        StudyError: there is none, several, or what is there was not made by autoprune.
        UnknownNameError: none of this name, with near misses.
    """
    address = _address(where)
    with _reading(address, _only(address) if name is None else name) as ledger:
        return _stored(ledger)


def open_studies(where: str | Path = "runs") -> list[StoredStudy]:
    """Every study in a run folder, in the folders of a folder, in a file or at a URL, by name.

    Raises:
        StudyError: there is none, or one that cannot be read.
    """
    path = Path(where)
    if "://" in str(where) or path.is_file() or (path / STUDY_FILE).is_file():
        addresses = [_address(where)]
    elif path.is_dir():
        addresses = [Address.of_file(file) for file in sorted(path.glob(f"*/{STUDY_FILE}"))]
    else:
        raise StudyError(f"there is no study at {str(where)!r}; 'autoprune search' makes run folders under runs/")
    found = [study for address in addresses for study in _read_all(address)]
    if not found:
        raise StudyError(f"there is no study in {str(where)!r}; 'autoprune search' makes one")
    return found


def list_studies(where: str | Path = "runs") -> list[StudySummary]:
    """Every study at ``where``, of a folder also those in the folders in it, by name.

    Raises:
        StudyError: there is no such place.
    """
    if "://" in str(where):
        return _summaries(_address(where), None)
    folder = Path(where)
    if folder.is_file():
        return _summaries(Address.of_file(folder), None)
    if not folder.is_dir():
        raise StudyError(f"there is no folder {str(folder)!r}; 'autoprune search' makes run folders under runs/")
    files = [file for file in (folder / STUDY_FILE, *sorted(folder.glob(f"*/{STUDY_FILE}"))) if file.is_file()]
    return [summary for file in files for summary in _summaries(Address.of_file(file), file.parent)]


def export_trial(
    study: StoredStudy,
    objective: Any,
    spec: NetworkSpec,
    folder: str | Path,
    number: int | None = None,
    trained_on: dict[str, Any] | None = None,
) -> TrialRecord:
    """Build the network of a trial again, bit for bit, and store it: weights, plan, description.

    Args:
        study: from :func:`open_study`.
        objective: with the base network, data and settings of the search.
        spec: how the dense network is made.
        folder: where to.
        number: of the trial; the best by default.
        trained_on: what loads the data again, as the base network's description has it.

    Returns:
        The trial.

    Raises:
        StudyError: the objective is not the study's, or the trial has no network.
    """
    import torch

    from autoprune.search.facts import check_facts
    from autoprune.search.finishing import store_network, store_plan

    record = study.best if number is None else study.trial(number)
    if record is None:
        raise StudyError(f"the study {study.name!r} has no trial that meets its budget yet")
    if record.plan is None or record.outcome is None or record.status != "ok":
        raise StudyError(f"trial {record.number} of the study {study.name!r} has no network: it is {record.status}")
    check_facts(
        study.facts,
        {**study.facts, **_json(objective.identity)},
        f"the export from study {study.name!r}",
        next_step="give the network, data and settings that the study was made with",
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(record.outcome.threads)  # sums of several threads differ in the last bit
    try:
        store_network(Path(folder), objective, record, spec, trained_on=trained_on)
    finally:
        torch.set_num_threads(threads)
    store_plan(Path(folder), record)
    return record


def _stored(ledger: Ledger) -> StoredStudy:
    facts, notes = ledger.facts(), ledger.notes()
    dense = Cost.from_dict(notes[DENSE_COST]) if DENSE_COST in notes else None
    return StoredStudy(ledger.name, ledger.address.shown, facts, tuple(ledger.records()), dense, notes)


def _read_all(address: Address) -> list[StoredStudy]:
    storage = address.open(make=False)
    try:
        with storage_errors(address):
            return [_stored(Ledger(storage, i, name, address)) for name, i in study_names(storage).items()]
    finally:
        close(storage, address)


def _summaries(address: Address, folder: Path | None) -> list[StudySummary]:
    """One line for each study; what cannot be read is a line with its reason."""
    try:
        storage = address.open(make=False)
    except StudyError as error:
        if folder is None:
            raise
        return [StudySummary(folder.name, address.shown, folder, problem=str(error))]
    try:
        with storage_errors(address):
            return [_summary(Ledger(storage, i, name, address), folder) for name, i in study_names(storage).items()]
    finally:
        close(storage, address)


def _summary(ledger: Ledger, folder: Path | None) -> StudySummary:
    try:
        study = _stored(ledger)
    except StudyError as error:
        return StudySummary(ledger.name, ledger.address.shown, folder, problem=str(error))
    best = study.best
    ends = [t.datetime_complete for t in ledger.storage.get_all_trials(ledger.study, deepcopy=False)]
    return StudySummary(
        name=study.name,
        where=study.where,
        folder=folder,
        metrics=study.metrics,
        budget=str(study.budget or "no budget"),
        counts=study.counts,
        best=None if best is None or best.accuracy is None else (best.number, best.accuracy),
        changed=max((end for end in ends if end is not None), default=None),
    )


def _address(where: str | Path) -> Address:
    if "://" in str(where):
        return Address.of(None, str(where))
    path = Path(where)
    return Address.of_file(path if path.is_file() else path / STUDY_FILE)


def _only(address: Address) -> str:
    """The name of the one study of autoprune at ``address``."""
    storage = address.open(make=False)
    try:
        with storage_errors(address):
            ours = [n for n, i in study_names(storage).items() if FACTS in storage.get_study_user_attrs(i)]
    finally:
        close(storage, address)
    if len(ours) != 1:
        what = f"{len(ours)} studies ({', '.join(ours)}); name one" if ours else "no study made by autoprune"
        raise StudyError(f"the storage {address.shown} holds {what}")
    return ours[0]


@contextmanager
def _reading(address: Address, name: str) -> Iterator[Ledger]:
    ledger = Ledger.read(address, name)
    try:
        yield ledger
    finally:
        ledger.close()


def _json(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))
