"""Plans that raise, workers that die, objectives that cannot travel."""

from __future__ import annotations

import os
import signal

import pytest

from autoprune.errors import StudyError
from autoprune.outcome import Status
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.search import search
from autoprune.search.evaluators import Job
from autoprune.search.workers import Pool

pytestmark = pytest.mark.usefixtures("one_thread")


class Faulty(KnownAnswer):
    """Raises, kills its process, or does both, where it is told to."""

    def __init__(self, *args, raises=(), kills=(), **named):
        super().__init__(*args, **named)
        self.raises, self.kills, self.parent = raises, kills, os.getpid()

    def __call__(self, plan, **named):
        sparsity = plan.sparsities().get("layer00", 0.0)
        if any(low <= sparsity < high for low, high in self.raises):
            raise ValueError(f"sparsity {sparsity:.3f} does not suit me\nsecond line")
        if any(low <= sparsity < high for low, high in self.kills) and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(plan, **named)


def test_a_plan_that_raises_is_a_failed_trial():
    result = search(Faulty(4, raises=[(0.6, 1.0)]), budget="macs=0.5", controller="random", trials=15)
    failed = [t for t in result.trials if t.status == "failed"]
    assert failed
    assert all(t.outcome.status is Status.FAILED for t in failed)
    assert all(t.outcome.reason.startswith("ValueError: sparsity 0.") for t in failed)
    assert all("second line" not in t.outcome.reason for t in failed)
    assert len(result.trials) == 18


def test_when_everything_raises_the_search_says_why():
    with pytest.raises(StudyError, match=r"all 16 evaluations of the sensitivity .* the last one with ValueError"):
        search(Faulty(4, raises=[(0.0, 1.0)]), budget="macs=0.5", trials=15)


def test_when_only_whole_plans_raise_the_search_says_why():
    class OnlySingle(KnownAnswer):
        def __call__(self, plan, **named):
            if plan.steps is None:
                raise ValueError("no")
            return super().__call__(plan, **named)

    with pytest.raises(StudyError, match="the first 5 evaluations all failed; the last one with ValueError: no"):
        search(OnlySingle(4), budget="macs=0.5", trials=15)


def test_greedy_goes_around_a_group_that_cannot_be_evaluated():
    result = search(Faulty(4, raises=[(0.01, 1.0)]), budget="macs=0.5", trials=0)
    assert [t.status for t in result.trials] == ["failed", "failed", "ok"]
    assert "layer00" not in result.best_plan.sparsities()


def test_a_worker_that_dies_is_replaced_and_its_plan_fails_the_second_time():
    problem = Faulty(4, kills=[(0.7, 1.0)])
    result = search(problem, budget="macs=0.5", controller="random", trials=3, workers=2, seed=2)
    died = [t for t in result.trials if t.plan.sparsities().get("layer00", 0.0) >= 0.7]
    assert died
    assert {t.status for t in died} == {"failed"}
    assert all("died 2 times (signal 9)" in t.outcome.reason for t in died)
    assert {t.status for t in result.trials if t not in died} == {"ok"}
    assert len(result.trials) == 6


def test_what_cannot_be_sent_to_a_worker_is_a_clear_error():
    class Local(KnownAnswer):
        pass

    with pytest.raises(StudyError, match=r"cannot be sent to worker processes.*use workers=1"):
        search(Local(3), budget="macs=0.5", trials=1, workers=2)


class Unreadable(KnownAnswer):
    """Can be sent, but not read in another process."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.parent, self.ballast = os.getpid(), bytes(1 << 20)

    def __setstate__(self, state):
        if os.getpid() != state["parent"]:
            raise ValueError("not here")
        self.__dict__.update(state)


def test_what_a_worker_cannot_read_fails_and_does_not_hang(capfd):
    problem = Unreadable(3)
    pool = Pool(problem, workers=2, threads=1)
    try:
        pool.submit(Job(0, Plan.uniform(problem.graph)))
        done = pool.wait(lambda number, step, accuracy: False)
    finally:
        pool.close()
    assert done.outcome.status is Status.FAILED
    assert "died 2 times (exit code 1)" in done.error
    assert capfd.readouterr().err.count("ValueError: not here") == 2
