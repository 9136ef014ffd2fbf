"""A controller that owns its loop, with no learner in it: what every driver can rely on."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.errors import MissingExtraError, SettingsError, StudyError
from autoprune.problems import KnownAnswer
from autoprune.search import CONTROLLERS, Controller, Progress, search
from autoprune.search.driving import Driver
from autoprune.search.testing import CHECKS, history


class Walk(Driver):
    """Random points; each depends on all answers before it, as a learner's do."""

    def __init__(self, context):
        self.context, self.state = context, 0.0

    def drive(self, judge):
        episode = 0
        while not judge.over:
            draw = np.random.default_rng([self.context.seed, episode, int(1e6 * abs(self.state))])
            space = self.context.space
            values = space.point({g.name: draw.random() * g.max_sparsity for g in space.groups})
            if self.context.shifted:
                values = space.shift(values, self.context.target.fits)
            record = judge(values)
            self.state += -1.0 if record.accuracy is None else record.accuracy
            episode += 1


class Short(Driver):
    """Tries two points and has nothing left."""

    def __init__(self, context):
        self.context = context

    def drive(self, judge):
        point = self.context.space.point({})
        judge(self.context.space.shift(point, self.context.target.fits))
        judge(self.context.space.shift(point, self.context.target.fits))


class Other(Walk):
    """Forgets what it did."""

    def drive(self, judge):
        self.state = 7.0
        super().drive(judge)


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    for name, kind in (("walk", Walk), ("short", Short)):
        monkeypatch.setitem(CONTROLLERS, name, Controller(name, "Walks.", "none", kind, pareto=False, drives=True))


@pytest.mark.parametrize("check", CHECKS)
def test_a_driver_does_what_every_controller_must(check):
    CHECKS[check]("walk")


OPTIONS = {"budget": "macs=0.5", "controller": "walk", "trials": 8, "seed": 7}


def test_earlier_trials_are_answered_from_the_study(tmp_path):
    search(KnownAnswer(4), **{**OPTIONS, "trials": 5}, run_dir=tmp_path / "run")
    problem = KnownAnswer(4)
    more = search(problem, **OPTIONS, run_dir=tmp_path / "run")
    assert len(problem.calls) == 3
    assert history(more) == history(search(KnownAnswer(4), **OPTIONS))


def test_a_driver_that_decides_otherwise_the_second_time_is_refused(tmp_path, monkeypatch):
    search(KnownAnswer(4), **OPTIONS, run_dir=tmp_path / "run")
    monkeypatch.setitem(CONTROLLERS, "walk", Controller("walk", "Walks.", "none", Other, pareto=False, drives=True))
    with pytest.raises(StudyError, match=r"trial 3 of the study was proposed by 'walk' with another seed"):
        search(KnownAnswer(4), **{**OPTIONS, "trials": 9}, run_dir=tmp_path / "run")


def test_trials_of_others_count_and_are_left_alone(tmp_path):
    search(KnownAnswer(4), **{**OPTIONS, "trials": 3, "controller": "random"}, run_dir=tmp_path / "run")
    result = search(KnownAnswer(4), **OPTIONS, run_dir=tmp_path / "run")
    assert [t.controller for t in result.trials[3:]] == ["random"] * 3 + ["walk"] * 5


class InterruptAt(Progress):
    def __init__(self, number):
        self.number = number

    def trial_started(self, record):
        if record.number == self.number:
            raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 3, 6])
def test_ctrl_c_leaves_one_trial_to_wait_and_the_same_call_goes_on(tmp_path, number):
    first = search(KnownAnswer(4), **OPTIONS, run_dir=tmp_path / "run", progress=InterruptAt(number))
    assert first.interrupted
    assert [t.number for t in first.trials if t.status == "waiting"] == [number]
    second = search(KnownAnswer(4), **OPTIONS, run_dir=tmp_path / "run")
    assert history(second) == history(search(KnownAnswer(4), **OPTIONS))


def test_time_ends_a_driver_and_the_same_call_goes_on(tmp_path):
    first = search(KnownAnswer(4, seconds=0.02), **OPTIONS, run_dir=tmp_path / "run", timeout_s=0.15)
    assert first.timed_out
    assert not first.exhausted
    assert len(first.trials) < 11
    second = search(KnownAnswer(4), **OPTIONS, run_dir=tmp_path / "run")
    assert not second.timed_out
    assert history(second) == history(search(KnownAnswer(4), **OPTIONS))


def test_a_driver_with_nothing_left_is_exhausted():
    result = search(KnownAnswer(4), **{**OPTIONS, "controller": "short"})
    assert result.exhausted
    assert len(result.trials) == 5
    assert not search(KnownAnswer(4), **{**OPTIONS, "controller": "short", "trials": 2}).exhausted


def test_reports_and_pruners_reach_a_driver():
    result = search(KnownAnswer(4, steps=6), **{**OPTIONS, "trials": 20}, pruner="dominated")
    stopped = [t for t in result.trials if t.status == "stopped"]
    assert stopped
    assert all(t.reports for t in result.trials if not t.baseline)


def test_what_a_driver_cannot_do_is_refused_before_any_work():
    problem = KnownAnswer(4)
    with pytest.raises(SettingsError, match="learns from one plan before it decides the next: use workers=1, not 2"):
        search(problem, **OPTIONS, workers=2)
    with pytest.raises(SettingsError, match="latency_ms is not known before it has decided: use handling='reject'"):
        search(problem, **{**OPTIONS, "budget": "latency_ms=0.5"})
    assert not problem.calls


def test_a_missing_package_is_named(monkeypatch):
    controller = Controller("walk", "Walks.", "none", Walk, extra="rl", packages=("no_such_package",))
    monkeypatch.setitem(CONTROLLERS, "walk", controller)
    with pytest.raises(
        MissingExtraError, match=r"controller 'walk' needs the package 'no_such_package'; .*autoprune\[rl\]"
    ):
        search(KnownAnswer(4), **OPTIONS)
