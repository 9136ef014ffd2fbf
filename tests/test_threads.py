"""Jobs in threads: all are run, each on one core, and a failure stops the rest and is heard."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch

from autoprune.threads import in_threads


@pytest.mark.parametrize(("count", "threads"), [(0, 2), (1, 2), (2, 2), (7, 2), (7, 3), (5, 1)])
def test_every_job_runs_once(count, threads):
    done: list[tuple[int, int, int]] = []
    cores = torch.get_num_threads()

    def job(number: int, thread: int) -> None:
        done.append((number, thread, torch.get_num_threads()))

    in_threads([partial(job, number) for number in range(count)], threads)
    assert sorted(number for number, _, _ in done) == list(range(count))
    assert {thread for _, thread, _ in done} <= set(range(threads))
    assert {used for _, _, used in done} <= {1}
    assert torch.get_num_threads() == cores


def test_threads_that_come_later_have_the_callers_number():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        in_threads([lambda _: None] * 4, 2)
        seen: list[int] = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [2] == [torch.get_num_threads()]
    finally:
        torch.set_num_threads(before)


def test_threads_run_side_by_side_and_none_is_left():
    meet = threading.Barrier(2, timeout=20)
    in_threads([lambda _: meet.wait() and None] * 2, 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("autoprune")]


def test_a_failure_is_raised_and_the_rest_left_out():
    ran: list[int] = []

    def job(number: int, _: int) -> None:
        if number == 1:
            raise KeyError("job 1")
        ran.append(number)

    cores = torch.get_num_threads()
    with pytest.raises(KeyError, match="job 1"):
        in_threads([partial(job, number) for number in range(500)], 2)
    assert len(ran) < 499
    assert torch.get_num_threads() == cores
