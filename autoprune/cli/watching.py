"""What a user sees while a search runs: trial, best so far, time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from autoprune.cli.console import say, show_table
from autoprune.cli.meter import Meter
from autoprune.report.format import milliseconds, number, percent, size
from autoprune.search import Progress

if TYPE_CHECKING:
    from autoprune.costs import Cost
    from autoprune.search import Start, TrialRecord


class Watch(Progress):
    """Shows a search on the terminal."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self._meter: Meter | None = None
        self._best: int | None = None
        self._text = ""
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._meter is not None:
            self._meter.__exit__(kind, error, trace)
            self._meter = None

    def started(self, start: Start) -> None:
        """The range of the space and the dense network, then the bar."""
        limits = ", ".join(f"{name} <= {value:,.6g}" for name, value in start.profile.limits.items())
        dense = start.profile.dense
        rows = [(name, *_costs(cost, dense)) for name, cost in start.profile.rows()]
        show_table(
            f"Search space ({limits or 'no budget'})", ("sub-network", "MACs", "params", "bytes", "latency"), rows
        )
        say(f"Dense network: validation {percent(start.dense.accuracy)}. Kept in {start.where}.")
        if start.done or start.waiting:
            say(f"Going on: {start.done} of {start.trials} trials are done, {start.waiting} were in flight.")
        self._done = start.done
        self._meter = Meter("Trial", start.trials, done=start.done).__enter__()

    def notice(self, what: str, done: int, total: int) -> None:
        """Work between trials."""
        if self._meter is not None:
            self._meter.update(self._done, f"{what} {done}/{total}  {self._text}", news=False)

    def reported(self, number: int, step: int, accuracy: float) -> None:
        """A trial is being retrained."""
        if self._meter is not None:
            self._meter.update(self._done, f"trial {number} step {step} {percent(accuracy)}  {self._text}", news=False)

    def trial_finished(self, record: TrialRecord, best: TrialRecord | None, done: int) -> None:
        """One more."""
        self._done = done
        self._text = "best -" if best is None else f"best {percent(best.accuracy)} ({_source(best)})"
        news = best is not None and best.number != self._best
        self._best = None if best is None else best.number
        if self._meter is None:
            return
        if record.status == "failed" and record.outcome is not None:
            self._meter.line(f"{record.name} failed: {record.outcome.reason}")
        self._meter.update(done, self._text, news=news or done == self.trials)


def _source(record: TrialRecord) -> str:
    return record.baseline or f"trial {record.number}"


def _costs(cost: Cost, dense: Cost) -> tuple[str, str, str, str]:
    """Costs with their share of the dense network's."""
    shares = cost.ratios(dense)
    texts = (number(cost.macs), number(cost.params), size(cost.bytes), milliseconds(cost.latency_ms))
    names = ("macs", "params", "bytes", "latency_ms")
    return tuple(  # type: ignore[return-value]
        f"{text} ({shares[name]:.0%})" if name in shares else text for name, text in zip(names, texts, strict=True)
    )
