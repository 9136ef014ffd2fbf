"""Statistics on disk, so that workers and later runs collect them once and share one copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from autoprune.calibration.stats import LayerStats, Need, read_stats, write_stats
from autoprune.errors import ArtifactError
from autoprune.files import keyed_path

Stats = dict[str, LayerStats]

LOCK_FILE = ".statistics.lock"


class StatsStore:
    """Statistics of one network, a safetensors file for each need; a damaged or missing file counts as none.

    Args:
        folder: where the files stand; several processes may use it at a time.
        facts: all that the statistics depend on, as JSON, beside the need and the release.
    """

    def __init__(self, folder: str | Path, facts: Mapping[str, object]) -> None:
        self.folder, self._facts = Path(folder), dict(facts)

    def path(self, need: Need) -> Path:
        """The file for the statistics of ``need``."""
        return keyed_path(self.folder, f"statistics-{need.value}", {**self._facts, "need": need.value})

    def get(self, needs: Collection[Need], collect: Callable[[frozenset[Need]], Stats]) -> dict[Need, Stats]:
        """The statistics of each of ``needs``: read where they are stored, else collected in one pass and stored.

        Of processes that want them at the same time one collects them, and the others wait for it.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        found = self._read(needs)
        if len(found) < len(needs):
            with self._alone():
                found |= self._read(set(needs) - found.keys())  # another process may have been quicker
                missing = frozenset(needs) - found.keys()
                collected = collect(missing) if missing else {}
                for need in missing:
                    found[need] = self._stored(need, collected)
        return found

    def _read(self, needs: Collection[Need]) -> dict[Need, Stats]:
        found = {}
        for need in needs:
            try:
                found[need] = read_stats(self.path(need))
            except ArtifactError:  # missing or damaged: it is collected again
                continue
        return found

    def _stored(self, need: Need, collected: Stats) -> Stats:
        """``collected``, less what serves another need, written and read again: what is read is shared memory."""
        part = {name: _only(need, stats) for name, stats in collected.items() if stats.has(need)}
        write_stats(self.path(need), part)
        return self._read([need]).get(need, part)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Other processes that collect statistics in this folder wait; where files cannot be locked they do not."""
        from filelock import FileLock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK_FILE)
            lock.acquire()
        except (OSError, NotImplementedError):
            yield
            return
        try:
            yield
        finally:
            lock.release()


def _only(need: Need, stats: LayerStats) -> LayerStats:
    if need is Need.MOMENTS:
        return replace(stats, taylor={})
    return LayerStats(taylor=stats.taylor)
