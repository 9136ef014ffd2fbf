"""A search that is killed at any moment and started again ends with exactly the trials that were asked for."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from autoprune.problems import KnownAnswer
from autoprune.search import Progress, search
from autoprune.search.eventlog import read_log
from autoprune.search.studies import list_studies, open_study
from autoprune.search.testing import history

TRIALS = 12
PROGRAM = """
import os, sys
from autoprune.problems import KnownAnswer
from autoprune.search import search
import optuna.samplers, optuna.storages, sqlalchemy, cmaes  # once, not in every child

if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        folder, controller, workers = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                search(KnownAnswer(5, seconds=0.02), budget="macs=0.5", controller=controller, trials=12,
                       run_dir=folder, workers=int(workers), seed=7)
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        sys.stdin.readline()  # until then the process can be killed, even if it has ended
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Starts searches in processes of their own; the imports are paid once."""
    script = tmp_path_factory.mktemp("program") / "program.py"
    script.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def start(folder, controller, workers, kill_after_s=None, how=signal.SIGKILL):
            """Run a search, killed after so many seconds; its exit code (-9 when it was)."""
            process.stdin.write(f"{folder} {controller} {workers}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            if kill_after_s is not None:
                time.sleep(kill_after_s)
                os.kill(child, how)
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield start
        process.stdin.close()


def check_study(folder, trials=TRIALS):
    """Exactly the trials asked for, in order, none twice, every file readable."""
    study = open_study(folder)
    assert [t.number for t in study.trials] == list(range(3 + trials))
    assert [t.baseline for t in study.trials[:3]] == ["uniform", "global", "greedy"]
    assert all(t.status == "ok" and t.plan is not None and t.outcome is not None for t in study.trials)
    assert study.best is not None
    with sqlite3.connect(folder / "study.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT COUNT(*) FROM trials").fetchone() == (3 + trials,)
        assert connection.execute("SELECT COUNT(*) FROM trial_params").fetchone() == ((3 + trials) * 5,)
    connection.close()
    assert not list(folder.glob("study.db-*"))
    assert json.loads((folder / "best" / "plan.json").read_text())["decisions"]
    assert read_log(folder)[-1]["event"] == "finished"
    return study


def kill_and_resume(searches, folder, kills, draw, controller="tpe", workers=1, longest_s=0.7):
    """Kill a search at random moments, then let it end; how many kills came before it had ended by itself."""
    codes = [searches(folder, controller, workers, draw.uniform(0.0, longest_s)) for _ in range(kills)]
    assert set(codes) <= {0, -9}
    assert searches(folder, controller, workers) == 0
    return codes.count(-9)


def test_killed_three_times(tmp_path, searches):
    folder = tmp_path / "run"
    assert kill_and_resume(searches, folder, 3, random.Random(1)) >= 1
    resumed = check_study(folder)
    straight = search(KnownAnswer(5), budget="macs=0.5", trials=TRIALS, seed=7, study_name="run")
    assert history(resumed) == history(straight)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("controller", ["tpe", "cmaes", "nsga2", "nsga3", "random"])
def test_killed_twenty_times(tmp_path, searches, controller, seed):
    folder = tmp_path / "run"
    landed = kill_and_resume(searches, folder, 20, random.Random(seed), controller, longest_s=0.25)
    resumed = check_study(folder)
    assert landed >= 3
    straight = search(KnownAnswer(5), budget="macs=0.5", trials=TRIALS, seed=7, study_name="run", controller=controller)
    assert history(resumed) == history(straight)


@pytest.mark.slow
def test_killed_with_workers(tmp_path, searches):
    folder = tmp_path / "run"
    assert kill_and_resume(searches, folder, 5, random.Random(3), workers=2, longest_s=8.0) >= 1
    check_study(folder)


def test_a_real_ctrl_c(tmp_path, searches):
    folder = tmp_path / "run"
    codes = [searches(folder, "tpe", 1, seconds, signal.SIGINT) for seconds in (0.5, 0.3, 0.3)]
    assert set(codes) <= {0, 1}  # 1: pressed before there was a search
    if codes[0] == 0:
        assert all(t.status in ("ok", "waiting") for t in open_study(folder).trials)
    assert searches(folder, "tpe", 1) == 0
    straight = search(KnownAnswer(5), budget="macs=0.5", trials=TRIALS, seed=7, study_name="run")
    assert history(check_study(folder)) == history(straight)


class InterruptAt(Progress):
    """Presses Ctrl-C when a trial starts, or when one has finished."""

    def __init__(self, number, *, finished=False):
        self.number, self.finished_ = number, finished

    def trial_started(self, record):
        if record.number == self.number and not self.finished_:
            raise KeyboardInterrupt

    def trial_finished(self, record, best, done):
        if record.number == self.number and self.finished_:
            raise KeyboardInterrupt


class InterruptIn(KnownAnswer):
    """Presses Ctrl-C in the middle of an evaluation."""

    def __call__(self, plan, **named):
        if len(self.calls) == 30:
            self.calls.append(plan)
            raise KeyboardInterrupt
        return super().__call__(plan, **named)


@pytest.mark.parametrize("where", ["between", "start", "within", "baseline"])
def test_ctrl_c_ends_with_what_there_is_and_the_same_call_goes_on(tmp_path, where):
    problem = InterruptIn(5) if where == "within" else KnownAnswer(5)
    progress = {
        "between": InterruptAt(8, finished=True),
        "start": InterruptAt(8),
        "baseline": InterruptAt(1),
    }.get(where)
    options = {"budget": "macs=0.5", "trials": TRIALS, "seed": 7, "run_dir": tmp_path / "run"}
    first = search(problem, progress=progress, **options)
    assert first.interrupted
    waiting = [t for t in first.trials if t.status == "waiting"]
    assert len(waiting) == (0 if where == "between" else 1)
    assert all(t.finished for t in first.trials if t not in waiting)
    assert first.best is not None
    assert first.best.feasible
    assert [row.name for row in first.rows] == ["dense", "uniform", "global", "greedy", "best found"]
    second = search(KnownAnswer(5), **options)
    assert not second.interrupted
    assert history(second) == history(search(KnownAnswer(5), **{**options, "run_dir": None, "study_name": "run"}))


def test_no_finished_trial_is_repeated(tmp_path):
    options = {"budget": "macs=0.5", "seed": 7, "run_dir": tmp_path / "run"}
    search(KnownAnswer(5), trials=4, **options)
    problem = KnownAnswer(5)
    again = search(problem, trials=4, **options)
    assert problem.calls == []
    assert len(again.trials) == 7
    more = search(problem, trials=6, **options)
    assert len(problem.calls) == 2
    assert len(more.trials) == 9
    fewer = search(problem, trials=1, **options)
    assert len(fewer.trials) == 9


def test_sensitivities_are_not_evaluated_again(tmp_path):
    problem = KnownAnswer(5)
    search(problem, budget="macs=0.5", trials=1, run_dir=tmp_path / "run")
    single = [plan for plan in problem.calls if plan.steps == 0]
    assert len(single) == 20
    other = KnownAnswer(5)
    search(other, budget="macs=0.4", trials=1, run_dir=tmp_path / "run", study_name="other")
    assert not [plan for plan in other.calls if plan.steps == 0]


def test_a_run_that_stopped_for_time_goes_on(tmp_path):
    options = {"budget": "macs=0.5", "trials": 6, "seed": 7, "run_dir": tmp_path / "run"}
    first = search(KnownAnswer(4, seconds=0.02), timeout_s=0.05, **options)
    assert first.timed_out
    assert len(first.trials) < 9
    assert all(t.finished for t in first.trials)
    second = search(KnownAnswer(4), **options)
    assert not second.timed_out
    assert len(second.trials) == 9


def test_a_log_with_a_torn_line_is_read_and_mended(tmp_path):
    options = {"budget": "macs=0.5", "run_dir": tmp_path / "run"}
    search(KnownAnswer(3), trials=1, **options)
    log = tmp_path / "run" / "log.jsonl"
    whole = read_log(tmp_path / "run")
    with log.open("a") as file:
        file.write('{"time": "2026-01-01", "eve')
    assert read_log(tmp_path / "run") == whole
    search(KnownAnswer(3), trials=2, **options)
    lines = log.read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines].count("finished") == 2
    assert list_studies(tmp_path)[0].counts == {"ok": 5}
