"""Processes that evaluate plans. They are spawned with threads of their own and know nothing of the study.

A process that dies (out of memory, killed) is replaced and its plan tried once more; the second time the trial fails
with that reason. When the coordinator dies, however it dies, its workers end too.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from autoprune.errors import StudyError
from autoprune.search.evaluators import Done, Job, OnReport, evaluate, failed

if TYPE_CHECKING:
    from autoprune.search.base import SearchObjective

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_TRIES = 2
_PR_SET_PDEATHSIG = 1


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    started: float = 0.0


class Pool:
    """Evaluates in ``workers`` processes.

    Args:
        objective: sent to each of them once.
        workers: how many.
        threads: of torch in each; the machine's are shared evenly by default.

    Raises:
        StudyError: the objective cannot be sent to another process.
    """

    def __init__(self, objective: SearchObjective, workers: int, threads: int | None = None) -> None:
        self.slots = workers
        self._objective = objective
        self._threads = threads or max(1, _threads_here() // workers)
        self._context = multiprocessing.get_context("spawn")
        try:
            # by value: a process argument would put every tensor in shared memory, a file descriptor each
            self._payload = pickle.dumps(objective)
        except Exception as error:  # noqa: BLE001 - anything a user's model may raise
            raise StudyError(
                f"the objective cannot be sent to worker processes: {type(error).__name__}: {error}; "
                "define the model's classes and functions at the top of an importable module, or use workers=1"
            ) from None
        self._tries: dict[int, int] = {}
        self._workers: list[_Worker] = []

    def submit(self, job: Job) -> None:
        """Give the job to a worker that is free; one is started when there is none."""
        free = next((w for w in self._workers if w.job is None), None)
        if free is None:
            free = self._spawn()
            self._workers.append(free)
        free.job, free.started = job, time.perf_counter()
        self._tries[job.number] = self._tries.get(job.number, 0) + 1
        with contextlib.suppress(OSError):  # a worker that is dead is noticed when its answer is awaited
            free.pipe.send(job)

    def wait(self, on_report: OnReport) -> Done:
        """The next job that is done; reports on the way are answered."""
        while True:
            busy = {w.pipe: w for w in self._workers if w.job is not None}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                done = self._hear(worker, on_report)
                if done is not None:
                    return done

    def close(self) -> None:
        """End every process, whatever it does."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _hear(self, worker: _Worker, on_report: OnReport) -> Done | None:
        assert worker.job is not None
        try:
            message = worker.pipe.recv()
            if message[0] == "report":
                worker.pipe.send(on_report(worker.job.number, message[1], message[2]))
                return None
        except (EOFError, OSError):
            return self._bury(worker)
        done: Done = message[1]
        worker.job = None
        return replace(done, wall_s=time.perf_counter() - worker.started)

    def _bury(self, worker: _Worker) -> Done | None:
        """A worker is dead: try its plan in a new process, or give the plan up."""
        job = worker.job
        assert job is not None
        worker.process.join()
        code = worker.process.exitcode
        worker.pipe.close()
        self._workers.remove(worker)
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if self._tries[job.number] < _TRIES:
            self.submit(job)
            return None
        reason = f"the evaluating process died {_TRIES} times ({how}); it may have run out of memory"
        return Done(
            job.number, failed(self._objective, job.plan, reason), time.perf_counter() - worker.started, error=reason
        )

    def _spawn(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._threads, os.getpid())
        process = self._context.Process(target=_main, args=arguments, daemon=True, name="autoprune-worker")
        with _thread_variables(self._threads):
            process.start()
        theirs.close()
        with contextlib.suppress(OSError):  # as in submit
            ours.send_bytes(self._payload)
        return _Worker(process, ours)


def _main(pipe: Connection, threads: int, parent: int) -> None:
    """A worker: evaluate what comes, until nobody is left to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the coordinator, which decides
    _end_with(parent)
    import torch

    torch.set_num_threads(threads)
    objective: SearchObjective = pipe.recv()
    with contextlib.suppress(EOFError, OSError):
        while True:
            job: Job = pipe.recv()

            def report(step: int, accuracy: float) -> bool:
                pipe.send(("report", step, accuracy))
                return bool(pipe.recv())

            pipe.send(("done", evaluate(objective, job, report)))


def _end_with(parent: int) -> None:
    """Ask the system to end this process when the coordinator ends (Linux; elsewhere the closed pipe does)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


@contextlib.contextmanager
def _thread_variables(threads: int) -> Iterator[None]:
    """Environment for a process that starts: libraries read it before any of our code runs."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _threads_here() -> int:
    import torch

    return torch.get_num_threads()
