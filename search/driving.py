"""Controllers that own their loop: a learner's library calls the environment, which asks for a judgement.

The coordinator stays the only one that writes the study: a :class:`Driver` is handed a :class:`Judge`, and every call
of it is one trial, decided, recorded, evaluated and finished as all others are.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from autoprune.errors import StudyError
from autoprune.search.records import TrialRecord

if TYPE_CHECKING:
    from autoprune.search.base import Point
    from autoprune.space import SearchSpace


class SearchOver(Exception):  # noqa: N818 - it names what happened
    """Nothing more may be tried; raised by a judge, and passed on by drivers as it comes."""


class Judge:
    """Tries points one after the other.

    A search that goes on drives its controller from the start again, or from a checkpoint: the trials of earlier runs
    are then answered from the study, in order, and must be asked for at the very same points.

    Args:
        earlier: finished trials of this controller in the study, in order.
        baselines: that were evaluated within the budget, for drivers that learn from what others tried.
        space: what may be decided.
        trial: makes and finishes one new trial at a point that took so many seconds to decide.
        ended: whether no new trial may begin.
    """

    def __init__(
        self,
        earlier: Sequence[TrialRecord],
        baselines: Sequence[TrialRecord],
        space: SearchSpace,
        trial: Callable[[Point, float], TrialRecord],
        ended: Callable[[], bool],
    ) -> None:
        self.earlier, self.baselines = tuple(earlier), tuple(baselines)
        self.answered = 0
        self._space, self._trial, self._ended = space, trial, ended
        self._answered_at = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether there is nothing left to answer, and no new trial may begin."""
        return self.answered >= len(self.earlier) and self._ended()

    def skip(self, count: int) -> None:
        """Leave out the first ``count`` earlier trials: the driver has learned from them."""
        self.answered = count

    def __call__(self, values: Point) -> TrialRecord:
        """The finished trial at ``values``; one that misses the budget is rejected, and nothing is evaluated.

        Raises:
            SearchOver: no new trial may begin.
            StudyError: an earlier trial was another point.
        """
        try:
            return self._answer(values)
        finally:
            self._answered_at = time.perf_counter()

    def _answer(self, values: Point) -> TrialRecord:
        if self.answered < len(self.earlier):
            record = self.earlier[self.answered]
            self._check(record, values)
            self.answered += 1
            return record
        if self.over:
            raise SearchOver
        return self._trial(values, time.perf_counter() - self._answered_at)

    def _check(self, record: TrialRecord, values: Point) -> None:
        if self._space.plan(values) == record.plan:
            return
        raise StudyError(
            f"trial {record.number} of the study was proposed by {record.controller!r} with another seed, other "
            "options or other releases of its libraries, and cannot be repeated; give what the study was made with, or "
            "start another study"
        )


class Driver(ABC):
    """A controller at work in one search that asks for one judgement after the other."""

    @abstractmethod
    def drive(self, judge: Judge) -> None:
        """Try points until ``judge`` is over, or there is nothing left to try.

        Points may depend on nothing but the context and the earlier answers, so that a search that was killed goes on
        as if it had not been.
        """

    def notes(self, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
        """Sentences under the result table, once all ``trials`` of the study are done."""
        del trials
        return ()

    def tell(self, record: TrialRecord) -> None:
        """A trial has finished, whoever proposed it; a driver goes by what its judge answers."""
        del record
