"""Episodes of any agent as trials of a study: tables, exports, ``study compare`` and the dashboard show them as such.

The learners in :data:`autoprune.search.CONTROLLERS` own their loop inside :func:`autoprune.search.search`. An agent of
another library owns its loop outside: it is given an environment whose every episode is recorded.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import BudgetError, SettingsError, StudyError
from autoprune.search.base import Context, Controller
from autoprune.search.driving import Driver, Judge
from autoprune.search.request import checked
from autoprune.search.running import Finish, Run, opened

if TYPE_CHECKING:
    from autoprune.artifacts import NetworkSpec
    from autoprune.envs import Task
    from autoprune.outcome import Outcome
    from autoprune.plan import Plan
    from autoprune.search.base import Point
    from autoprune.search.progress import Progress
    from autoprune.search.records import TrialRecord
    from autoprune.search.result import SearchResult
    from autoprune.search.rl.episodes import TrialEnv


class Recording:
    """An open study that an agent adds its episodes to; :func:`recording` makes it.

    It is also a judge of plans, for any environment that takes one:
    ``gymnasium.make("autoprune/Layerwise-v0", task=task, judge=study)``. Such an environment keeps plans over the
    budget to itself; :meth:`env` records them too, as rejected.

    Attributes:
        result: the table, the best plan and every trial, once the block is left.
    """

    def __init__(self, run: Run) -> None:
        self._run: Run | None = run
        self._answered_at = time.perf_counter()
        self.result: SearchResult | None = None

    def env(self, *, actions: str = "sparsity", reward: str = "accuracy") -> TrialEnv:
        """A :class:`~autoprune.envs.LayerwiseEnv` whose every episode is a trial.

        Args:
            actions, reward: as of the environment. Actions are clipped to the budget, unless the study was opened with
                ``handling="reject"``: then plans over it are rejected, and recorded as that.
        """
        from autoprune.search.rl.episodes import TrialEnv

        return TrialEnv(self._open().context, actions, reward, self.trial)

    def trial(self, values: Point) -> TrialRecord:
        """Judge the plan at a point of the search space, and record it."""
        coordinator, now = self._open().coordinator, time.perf_counter()
        try:
            return coordinator.trial(values, now - self._answered_at)
        finally:
            self._answered_at = time.perf_counter()

    def __call__(self, plan: Plan) -> Outcome | None:
        """The outcome of ``plan``, recorded; ``None`` where it misses the budget.

        Raises:
            PlanError: the plan is no point of the study's search space.
        """
        return self.trial(self._open().context.space.values(plan)).outcome

    def _open(self) -> Run:
        if self._run is None:
            raise StudyError("the recording is over; judge plans inside its with block")
        return self._run

    def close(self, how: Finish, *, interrupted: bool = False) -> None:
        """Gather what was recorded; after an interruption nothing is retrained."""
        run, self._run = self._open(), None
        self.result = run.finish(run.gathered(interrupted), how)


@contextlib.contextmanager
def recording(
    task: str | Task = "digits",
    *,
    agent: str,
    run_dir: str | Path | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    handling: str = "project",
    seed: int = 0,
    progress: Progress | None = None,
    spec: NetworkSpec | None = None,
    confirm: bool = True,
    test: bool = False,
) -> Iterator[Recording]:
    """Open a study for the episodes of an agent of your own, or of another library.

    The baselines are evaluated first, as in every search. Opened again, the study goes on: episodes are added.

    .. code-block:: python

        with recording("digits", agent="mine", run_dir="runs/mine") as study:
            train(study.env())
        print(study.result.best.accuracy)

    Args:
        task: as of :func:`autoprune.envs.make_task`, with a budget.
        agent: what the trials say proposed them.
        run_dir, storage, study_name, handling, seed, progress, spec, confirm, test: as of
            :func:`autoprune.search.search`.

    Raises:
        BudgetError: the task has no budget.
        SettingsError: ``agent`` is empty or the name of a controller, or a setting that cannot be.
        StudyError: the study cannot be opened, is about something else, or another process holds it.
    """
    from autoprune.envs import make_task

    made = make_task(task)
    if made.target is None:
        raise BudgetError("a recording needs a task with a budget: make_task('digits', budget='macs=0.5') or so")
    request = checked(
        made.objective,
        budget=made.target.budget,
        controller=_outside(agent),
        trials=0,
        space=made.space,
        metrics=(),
        handling=handling,
        pruner=None,
        seed=seed,
        workers=1,
        timeout_s=None,
        options=None,
    )
    with opened(made.objective, request, run_dir, storage, study_name, progress) as run:
        run.begin()
        run.coordinator.run()
        study = Recording(run)
        try:
            yield study
        except KeyboardInterrupt:
            study.close(Finish(spec=spec, confirm=False), interrupted=True)
            raise
        study.close(Finish(spec=spec, confirm=confirm, test=test))


class _Outside(Driver):
    """Decides nothing: whoever holds the recording does."""

    def __init__(self, context: Context) -> None:
        del context

    def drive(self, judge: Judge) -> None:
        """Nothing to do."""
        del judge


def _outside(agent: Any) -> Controller:
    from autoprune.search import CONTROLLERS

    if not isinstance(agent, str) or not agent.strip():
        raise SettingsError(f"agent must be a name for who proposes, but got {agent!r}")
    if agent in CONTROLLERS:
        raise SettingsError(f"agent {agent!r} is the name of a controller; choose another, or use search(controller=)")
    return Controller(agent, "An agent that trains outside of the search.", "", _Outside, pareto=False, drives=True)
