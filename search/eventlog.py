"""``log.jsonl``: what happened when, a JSON object a line, for people and scripts that follow a run."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import StudyError
from autoprune.search.progress import Progress, Start
from autoprune.search.records import TrialRecord

if TYPE_CHECKING:
    from autoprune.search.result import SearchResult

LOG_FILE = "log.jsonl"


class EventLog(Progress):
    """Appends to the log of a run folder. A line is written with one call, and a torn last line is cut off first."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG_FILE
        try:
            _cut_torn(self._path)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StudyError(
                f"cannot write {str(self._path)!r}: {error.strerror or error}; "
                "choose another run folder or make it writable"
            ) from None

    def started(self, start: Start) -> None:
        """A run begins."""
        facts = {"controller": start.controller, "trials": start.trials, "done": start.done, "waiting": start.waiting}
        self._write("started", facts | {"dense_accuracy": start.dense.accuracy, "limits": dict(start.profile.limits)})

    def trial_started(self, record: TrialRecord) -> None:
        """A trial goes to evaluation."""
        self._write("trial_started", {"number": record.number, "source": record.name})

    def trial_finished(self, record: TrialRecord, best: TrialRecord | None, done: int) -> None:
        """A trial ended."""
        facts: dict[str, Any] = {"number": record.number, "source": record.name, "status": record.status}
        if record.outcome is not None:
            facts |= {"accuracy": record.accuracy, "ratios": dict(record.outcome.ratios)}
            facts |= {"reason": record.outcome.reason} if record.outcome.reason else {}
        facts |= {"wall_s": round(record.wall_s, 4), "done": done, "best": None if best is None else best.number}
        self._write("trial_finished", facts)

    def finished(self, result: SearchResult) -> None:
        """A run ends."""
        best = result.best
        self._write(
            "finished",
            {
                "interrupted": result.interrupted,
                "counts": result.counts,
                "best": None if best is None else best.number,
                "accuracy": None if best is None else best.accuracy,
                "wall_s": round(result.wall_s, 3),
            },
        )

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        os.write(self._file, (json.dumps({"time": now, "event": event, **facts}) + "\n").encode())


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Every event of a run folder, oldest first; a line that a killed run left torn is passed over."""
    events = []
    for line in (Path(folder) / LOG_FILE).read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _cut_torn(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        start = max(end - 2**20, 0)
        file.seek(start)
        last = file.read().rfind(b"\n")
        file.truncate(start + last + 1)
