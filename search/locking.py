"""One search at a time in a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from autoprune.errors import StudyError

LOCK_FILE = ".search.lock"
OWNER_FILE = ".search.owner"


@contextlib.contextmanager
def folder_lock(folder: Path | None) -> Iterator[None]:
    """Hold ``folder`` for one search. The system lets go of it when the process ends, however it ends.

    Raises:
        StudyError: another search holds it, or the folder cannot be written.
    """
    if folder is None:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(
            f"another search runs in {str(folder)!r}{_owner(folder)}; "
            "wait for it, stop it, or choose another run folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"cannot write the run folder {str(folder)!r}: {reason}; choose another run folder or make it writable"
        ) from None
    try:
        _write_owner(folder)
        yield
    finally:
        (folder / OWNER_FILE).unlink(missing_ok=True)
        lock.release()


def _write_owner(folder: Path) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):
        (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")


def _owner(folder: Path) -> str:
    """`` (process 123 on host since ...)``, where it can be read."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return f" (process {owner['pid']} on {owner['host']} since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
