"""A search with a learner that is killed at any moment goes on as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from autoprune.problems import KnownAnswer
from autoprune.search import Progress, search
from autoprune.search.studies import open_study
from autoprune.search.testing import history

OFF, ON = {"warmup": 4, "hidden": [16], "checkpoint": 3}, {"episodes": 3, "hidden": [16], "checkpoint": 3}
QUICK = {"ddpg": OFF, "td3": OFF, "sac": OFF, "ppo": ON, "maskable_ppo": ON, "a2c": ON}
TRIALS = 20
PROGRAM = f"""
import os, sys
from autoprune.problems import KnownAnswer
from autoprune.search import search
import optuna.samplers, optuna.storages, sqlalchemy  # once, not in every child
import autoprune.search.rl.agents, autoprune.search.rl.episodes, autoprune.search.rl.checkpoint

if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        folder, controller = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                search(KnownAnswer(4, seconds=0.02), budget="macs=0.5", controller=controller, trials={TRIALS},
                       run_dir=folder, seed=7, options={QUICK!r}[controller])
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

        def start(folder, controller, kill_after_s=None):
            """Run a search, killed after so many seconds; its exit code (-9 when it was)."""
            process.stdin.write(f"{folder} {controller}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            if kill_after_s is not None:
                time.sleep(kill_after_s)
                os.kill(child, signal.SIGKILL)
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield start
        process.stdin.close()


def straight(controller):
    given = {"budget": "macs=0.5", "controller": controller, "trials": TRIALS, "seed": 7, "study_name": "run"}
    return search(KnownAnswer(4), **given, options=QUICK[controller])


def kill_and_resume(searches, folder, controller, kills, draw, longest_s):
    """Kill a search at random moments, then let it end: exactly the episodes asked for, as if never killed."""
    codes = [searches(folder, controller, draw.uniform(0.0, longest_s)) for _ in range(kills)]
    assert set(codes) <= {0, -9}
    assert searches(folder, controller) == 0
    study = open_study(folder)
    assert [t.number for t in study.trials] == list(range(3 + TRIALS))
    assert history(study) == history(straight(controller))
    assert (folder / "policy" / "policy.json").is_file()
    return codes.count(-9)


def test_killed_three_times(tmp_path, searches):
    assert kill_and_resume(searches, tmp_path / "run", "ddpg", 3, random.Random(1), 1.2) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("controller", QUICK)
def test_killed_ten_times(tmp_path, searches, controller, seed):
    assert kill_and_resume(searches, tmp_path / "run", controller, 10, random.Random(seed), 0.8) >= 3


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


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("controller", ["sac", "ppo"])
def test_ctrl_c_ends_with_what_there_is_and_the_same_call_goes_on(tmp_path, controller, finished):
    given = {"budget": "macs=0.5", "controller": controller, "trials": TRIALS, "seed": 7, "options": QUICK[controller]}
    folder = tmp_path / "run"
    first = search(KnownAnswer(4), **given, run_dir=folder, progress=InterruptAt(14, finished=finished))
    assert first.interrupted
    assert [t.status for t in first.trials].count("waiting") == (0 if finished else 1)
    assert first.best is not None
    assert (folder / "policy" / "policy.json").is_file()
    second = search(KnownAnswer(4), **given, run_dir=folder)
    assert not second.interrupted
    assert history(second) == history(straight(controller))


def test_a_run_that_stopped_for_time_goes_on(tmp_path):
    given = {"budget": "macs=0.5", "controller": "ppo", "trials": TRIALS, "seed": 7, "options": QUICK["ppo"]}
    first = search(KnownAnswer(4, seconds=0.05), **given, run_dir=tmp_path / "run", timeout_s=4.0)
    second = search(KnownAnswer(4), **given, run_dir=tmp_path / "run")
    assert first.timed_out == (len(first.trials) < 3 + TRIALS)
    assert history(second) == history(straight("ppo"))
