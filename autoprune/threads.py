"""Jobs in a few threads of one process, each job on one core.

Several small networks side by side make better use of the cores than the threads of one: these wait for each other
after every layer. The threads live as long as the call, so that a process that is forked never inherits dead ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Event

import torch


def in_threads(jobs: Sequence[Callable[[int], None]], threads: int) -> None:
    """Run ``jobs``, begun in their order, and wait for all of them.

    Args:
        jobs: each is called with the number of the thread that runs it, from 0 on; what it computes does not depend on
            how many there are.
        threads: how many run at a time.

    Raises:
        BaseException: what a job raised; the jobs that had not begun are left out.
    """
    left: SimpleQueue[Callable[[int], None]] = SimpleQueue()
    for job in jobs:
        left.put(job)
    stop, cores, threads = Event(), torch.get_num_threads(), min(threads, len(jobs))
    try:
        if threads <= 1:
            _work(0, left, stop)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="autoprune") as pool:
            try:
                for future in [pool.submit(_work, place, left, stop) for place in range(threads)]:
                    future.result()
            finally:
                stop.set()
    finally:
        torch.set_num_threads(cores)  # a thread's own number is also the default of threads to come


def _work(place: int, left: SimpleQueue[Callable[[int], None]], stop: Event) -> None:
    torch.set_num_threads(1)
    while not stop.is_set():
        try:
            job = left.get_nowait()
        except Empty:
            return
        try:
            job(place)
        except BaseException:
            stop.set()
            raise
