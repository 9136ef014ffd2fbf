"""What a search tells whoever watches it. Every call comes from the process that runs the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.search.records import TrialRecord

if TYPE_CHECKING:
    from autoprune.fitting import Profile
    from autoprune.outcome import Outcome
    from autoprune.search.result import SearchResult


@dataclass(frozen=True)
class Start:
    """What is known when a search starts.

    Attributes:
        controller: its name.
        trials: proposals asked for in all; ``done``: those that earlier runs have finished.
        baselines: baselines that are still to be evaluated.
        waiting: trials that were in flight when an earlier run ended; they come first.
        dense: outcome of the dense network.
        profile: costs of the smallest, middle and largest sub-network, and the limits.
        where: the study, for a reader.
    """

    controller: str
    trials: int
    done: int
    baselines: int
    waiting: int
    dense: Outcome
    profile: Profile
    where: str


class Progress:
    """Watches a search; every method may be left as it is.

    An exception from one of these (such as ``KeyboardInterrupt``) ends the search as if it had happened there.
    """

    def started(self, start: Start) -> None:
        """Before the first trial."""

    def notice(self, what: str, done: int, total: int) -> None:
        """Something takes its time: ``sensitivity``, ``confirm``; ``done`` of ``total``."""

    def trial_started(self, record: TrialRecord) -> None:
        """A trial goes to evaluation."""

    def reported(self, number: int, step: int, accuracy: float) -> None:
        """Accuracy of a running trial after ``step`` steps of retraining."""

    def trial_finished(self, record: TrialRecord, best: TrialRecord | None, done: int) -> None:
        """A trial ended (or was rejected unseen); ``best`` so far, ``done`` of the proposals asked for."""

    def finished(self, result: SearchResult) -> None:
        """Everything is done and stored."""


class Both(Progress):
    """Passes everything on to several watchers, in order."""

    def __init__(self, *watchers: Progress) -> None:
        self._watchers = watchers

    def started(self, start: Start) -> None:
        """As in :class:`Progress`."""
        for watcher in self._watchers:
            watcher.started(start)

    def notice(self, what: str, done: int, total: int) -> None:
        """As in :class:`Progress`."""
        for watcher in self._watchers:
            watcher.notice(what, done, total)

    def trial_started(self, record: TrialRecord) -> None:
        """As in :class:`Progress`."""
        for watcher in self._watchers:
            watcher.trial_started(record)

    def reported(self, number: int, step: int, accuracy: float) -> None:
        """As in :class:`Progress`."""
        for watcher in self._watchers:
            watcher.reported(number, step, accuracy)

    def trial_finished(self, record: TrialRecord, best: TrialRecord | None, done: int) -> None:
        """As in :class:`Progress`."""
        for watcher in self._watchers:
            watcher.trial_finished(record, best, done)

    def finished(self, result: SearchResult) -> None:
        """As in :class:`Progress`."""
        for watcher in self._watchers:
            watcher.finished(result)
