"""``search(objective, budget=...)``: from a network and a budget to the best plan found, its study and its table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.costs import COSTS, Budget, Cost
from autoprune.errors import StudyError
from autoprune.fitting import Profile, Target
from autoprune.locking import folder_lock
from autoprune.racing import RaceState
from autoprune.search.base import Context, SearchObjective
from autoprune.search.coordinator import Coordinator, Parts
from autoprune.search.evaluators import Evaluator, Inline
from autoprune.search.eventlog import EventLog
from autoprune.search.facts import FACTS_VERSION
from autoprune.search.finishing import finish
from autoprune.search.ledger import DENSE_COST, Ledger
from autoprune.search.mirror import Mirror
from autoprune.search.progress import Both, Progress, Start
from autoprune.search.records import TrialRecord
from autoprune.search.request import Request, checked
from autoprune.search.result import SearchResult
from autoprune.search.stopping import make_stopper
from autoprune.search.storage import DEFAULT_NAME, Address
from autoprune.space import SearchSpace

if TYPE_CHECKING:
    from autoprune.artifacts import NetworkSpec

_REFERENCE = 0.5  # of the first cost: where the baselines stand in a Pareto search without a budget


def search(
    objective: Any,
    *,
    budget: Budget | str | Sequence[str] | Mapping[str, float | str] | None = None,
    controller: str = "tpe",
    trials: int = 50,
    run_dir: str | Path | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    space: SearchSpace | None = None,
    seed: int = 0,
    pruner: str | None = None,
    handling: str = "project",
    pareto: Sequence[str] = (),
    workers: int = 1,
    timeout_s: float | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    spec: NetworkSpec | None = None,
    confirm: bool = True,
    test: bool = False,
) -> SearchResult:
    """Search for the best plan within a budget.

    The baselines (uniform, global ranking, greedy by sensitivity) are evaluated first, then ``trials`` proposals of
    the controller. No plan that misses the budget is ever evaluated. The same call with the same ``run_dir`` (or
    storage and study name) goes on where an earlier one ended or was killed; it repeats no finished trial, and runs a
    trial that was in flight again. With one worker, and as long as no latency is measured, equal seeds give equal
    histories, and a search that was killed and resumed gives the history of one that was not.

    Args:
        objective: an :class:`autoprune.Objective`, or a problem of :mod:`autoprune.problems`.
        budget: such as ``"macs=0.5"``, several in a sequence, or a :class:`autoprune.Budget`; may be left out with
            ``pareto``.
        controller: a name in :data:`autoprune.search.CONTROLLERS`.
        trials: proposals in all runs of the study together, on top of the baselines; a larger number continues.
        run_dir: folder of the run; ``None`` keeps the study in memory, unless a storage is given.
        storage: URL of an Optuna storage; by default SQLite in ``run_dir``. One search at a time may write a study.
        study_name: by default the name of ``run_dir``.
        space: what may be decided; by default every group, one method, up to 90 %.
        seed: of the controller.
        pruner: gives trials up while they are retrained: a name in :data:`autoprune.search.PRUNERS`.
        handling: ``project`` shifts proposals onto the budget, ``reject`` counts those that miss it, unseen.
        pareto: one or two cost metrics to search a front of accuracy against, instead of a single best.
        workers: processes that evaluate; 1 evaluates in this one.
        timeout_s: seconds after which nothing new is started.
        options: of the controller.
        progress: who watches.
        spec: how the dense network is made; with it the best network is stored in ``run_dir/best``.
        confirm: build the best network once more and judge it in float32.
        test: judge dense, baselines and best on the test split too.

    Raises:
        BudgetError: the budget cannot be met in this space.
        StudyError: the study cannot be opened, is another's, or another search holds it.
        SettingsError, UnknownNameError: something that cannot be.
    """
    request = checked(
        objective, budget, controller, trials, space, tuple(pareto), handling, pruner, seed, workers, timeout_s, options
    )
    how = Finish(spec=spec, confirm=confirm, test=test)
    with opened(objective, request, run_dir, storage, study_name, progress) as run:
        return run.finish(run.go(), how)


@dataclass(frozen=True)
class Finish:
    """What is done once a search is over; the fields are those of :func:`search`."""

    spec: NetworkSpec | None = None
    confirm: bool = True
    test: bool = False


@contextlib.contextmanager
def opened(
    objective: Any,
    request: Request,
    run_dir: str | Path | None,
    storage: str | None,
    study_name: str | None,
    progress: Progress | None,
) -> Iterator[Run]:
    """A run of what ``request`` asks for, with its study held and open; see :func:`search`."""
    folder = None if run_dir is None else Path(run_dir)
    address = Address.of(folder, storage)
    name = study_name or (folder.name if folder is not None and folder.name else DEFAULT_NAME)
    if request.budget is not None:
        request.space.profile(objective, request.budget.analytic)  # refuse before anything is written
    started = time.monotonic()
    with _held(folder, address), _opened(address, name, objective, request) as ledger:
        target, profile = _target(objective, request, ledger)
        log = EventLog(folder) if folder is not None else None
        watch = Both(*([log] if log else []), *([progress] if progress else []))
        try:
            run = Run(objective, request, ledger, target, profile, folder, watch, started)
            try:
                yield run
            finally:
                run.evaluator.close()
        finally:
            if log is not None:
                log.close()


class Run:
    """One run, from an open study to its result."""

    def __init__(
        self,
        objective: SearchObjective,
        request: Request,
        ledger: Ledger,
        target: Target,
        profile: Profile,
        folder: Path | None,
        watch: Progress,
        started: float,
    ) -> None:
        self.objective, self.request, self.ledger = objective, request, ledger
        self.target, self.profile, self.folder, self.watch = target, profile, folder, watch
        self.started = started
        self.context = self._context()
        self._describe()
        self.evaluator = self._evaluator()
        self.coordinator = Coordinator(self._parts())

    def go(self) -> SearchResult:
        """Search; Ctrl-C ends it with what there is."""
        interrupted = False
        try:
            self.begin()
            self.coordinator.run()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self.evaluator.close()
            found = self.gathered(interrupted)
        return found

    def gathered(self, interrupted: bool) -> SearchResult:
        """What the study holds so far."""
        return self._result(self.ledger.sweep(), interrupted)

    def begin(self) -> None:
        """Take in what earlier runs of the study left, and say what is going to be done."""
        self.coordinator.resume()
        self._announce()

    def finish(self, found: SearchResult, how: Finish) -> SearchResult:
        """Confirm, judge and store what was found."""
        try:
            result = finish(found, self.objective, spec=how.spec, confirm=how.confirm, test=how.test, watch=self.watch)
        except KeyboardInterrupt:  # nothing is lost: what was to be built can be exported later
            found = replace(found, interrupted=True)
            result = finish(found, self.objective, spec=how.spec, confirm=False, test=False, watch=self.watch)
        result = replace(result, wall_s=time.monotonic() - self.started)
        self.watch.finished(result)
        return result

    def _context(self) -> Context:
        request = self.request
        return Context(
            objective=self.objective,
            space=request.space,
            target=self.target,
            mirror=Mirror(request.space, ("accuracy", *request.metrics), self.ledger.name),
            metrics=request.metrics,
            seed=request.seed,
            trials=request.trials,
            shifted=request.handling == "project",
            cache_dir=None if self.folder is None else self.folder / "cache",
            run_dir=self.folder,
            options=request.options,
            notice=self.watch.notice,
            keep=self.ledger.note,
        )

    def _result(self, records: Sequence[TrialRecord], interrupted: bool) -> SearchResult:
        request = self.request
        return SearchResult(
            rows=(),
            best=None,
            front=(),
            trials=tuple(records),
            dense=self.objective.dense,
            profile=self.profile,
            budget=request.budget,
            metrics=request.metrics,
            controller=request.controller.name,
            seed=request.seed,
            study_name=self.ledger.name,
            storage=self.ledger.address.shown,
            run_dir=self.folder,
            interrupted=interrupted,
            timed_out=self.coordinator.timed_out,
            exhausted=self.coordinator.exhausted,
            notes=self.coordinator.notes(records),
        )

    def _describe(self) -> None:
        """Keep with the study what features need to know of the network, so that every trial can teach."""
        from autoprune.search.threshold.facts import LAYERS, facts_of

        if LAYERS not in self.ledger.notes():  # a run that goes on scores nothing for it again
            self.context.known[LAYERS] = facts_of(self.objective, self.request.space)
            self.context.keep(LAYERS, self.context.known[LAYERS].to_dict())

    def _parts(self) -> Parts:
        request = self.request
        raced = request.race and not any(COSTS[m].measured for m in request.metrics)
        proposer = request.controller.start(self.context)
        return Parts(
            context=self.context,
            controller=request.controller,
            proposer=proposer,
            ledger=self.ledger,
            evaluator=self.evaluator,
            stopper=make_stopper(request.pruner, request.metrics, self.ledger.name),
            progress=self.watch,
            handling=request.handling,
            budgeted=request.budget is not None,
            race=RaceState(request.metrics) if raced else None,
            deadline=None if request.timeout_s is None else self.started + request.timeout_s,
        )

    def _evaluator(self) -> Evaluator:
        if self.request.workers == 1:
            return Inline(self.objective)
        from autoprune.search.workers import Pool

        return Pool(self.objective, self.request.workers)

    def _announce(self) -> None:
        coordinator = self.coordinator
        self.watch.started(
            Start(
                controller=self.request.controller.name,
                trials=self.request.trials,
                done=coordinator.done,
                baselines=len(coordinator.missing_baselines),
                waiting=coordinator.waiting,
                dense=self.objective.dense,
                profile=self.profile,
                where=f"study {self.ledger.name!r} in {self.ledger.address.shown}",
            )
        )


@contextlib.contextmanager
def _held(folder: Path | None, address: Address) -> Iterator[None]:
    """Hold the run folder, and the folder of a SQLite file that stands elsewhere."""
    beside = address.file.parent if address.file is not None else None
    elsewhere = beside is not None and (folder is None or beside.absolute() != folder.absolute())
    with (
        folder_lock(folder, "search", StudyError),
        folder_lock(beside if elsewhere else None, "search", StudyError),
    ):
        yield


@contextlib.contextmanager
def _opened(address: Address, name: str, objective: SearchObjective, request: Request) -> Iterator[Ledger]:
    ledger = Ledger.open(address, name, facts(objective, request.space, request.metrics, request.budget))
    try:
        yield ledger
    finally:
        ledger.close()


def facts(
    objective: SearchObjective, space: SearchSpace, metrics: tuple[str, ...], budget: Budget | None
) -> dict[str, Any]:
    """What a study is about; none of it may change while it lasts."""
    return {
        "version": FACTS_VERSION,
        **objective.identity,
        "space": space.to_dict(),
        "metrics": ["accuracy", *metrics],
        "budget": {} if budget is None else budget.to_dict(),
    }


def _target(objective: SearchObjective, request: Request, ledger: Ledger) -> tuple[Target, Profile]:
    """The budget with the dense cost it refers to, which stays the one the study began with."""
    budget = request.budget
    if budget is None:
        budget = Budget(**{next((m for m in request.metrics if not COSTS[m].measured), "macs"): _REFERENCE})
        budget = _within_reach(objective, request.space, budget)
    stored = ledger.notes().get(DENSE_COST)
    measure = any(COSTS[m].measured for m in request.metrics)
    target = Target(objective, budget, None if stored is None else Cost.from_dict(stored), measure=measure)
    if stored is None:
        ledger.note(DENSE_COST, target.dense.to_dict())
    profile = request.space.profile(objective, request.budget, dense=target.dense)
    return target, profile


def _within_reach(objective: SearchObjective, space: SearchSpace, budget: Budget) -> Budget:
    """``budget``, or half way to the smallest sub-network where that is larger."""
    metric = budget.metrics[0]
    profile = space.profile(objective)
    dense = objective.dense_cost.value(metric)
    half_way = (dense + profile.smallest.value(metric)) / 2 / dense
    return budget if profile.smallest.value(metric) <= dense * _REFERENCE else Budget(**{metric: half_way})


__all__ = ["Finish", "Run", "facts", "opened", "search"]
