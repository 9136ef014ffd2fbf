"""One search or training at a time in a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from autoprune.errors import AutopruneError

LOCK_FILE = ".autoprune.lock"
OWNER_FILE = ".autoprune.owner"


@contextlib.contextmanager
def folder_lock(folder: Path | None, work: str, error: type[AutopruneError]) -> Iterator[None]:
    """Hold ``folder``. The system lets go of it when the process ends, however it ends.

    Args:
        folder: which; made where it is missing. ``None`` holds nothing.
        work: what is done there, told to those who come later.
        error: the class of what is raised.

    Raises:
        AutopruneError: another process holds the folder, or it cannot be written.
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
        raise error(f"another {_owner(folder)}; wait for it, stop it, or choose another run folder") from None
    except (OSError, NotImplementedError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise error(
            f"cannot write the run folder {str(folder)!r}: {reason}; choose another run folder or make it writable"
        ) from None
    try:
        _write_owner(folder, work)
        yield
    finally:
        (folder / OWNER_FILE).unlink(missing_ok=True)
        lock.release()


def _write_owner(folder: Path, work: str) -> None:
    owner = {
        "work": work,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with contextlib.suppress(OSError):
        (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")


def _owner(folder: Path) -> str:
    """``search runs in 'folder' (process 123 on host since ...)``, as far as it can be read."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        return f"{owner['work']} runs in {str(folder)!r} ({who})"
    except (OSError, ValueError, KeyError, TypeError):
        return f"process runs in {str(folder)!r}"
