"""Data files on disk: found, or downloaded, and let in only with the right content."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import DataError

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset.

    Attributes:
        name: its name in the data folder.
        sha256: SHA-256 in hexadecimal digits of ``what``.
        urls: where it can be had, tried in turn.
        what: what the checksum is of: ``the file``, or ``its uncompressed content`` (compressed copies differ).
    """

    name: str
    sha256: str
    urls: tuple[str, ...]
    what: str = "the file"


def fetch(
    file: RemoteFile, folder: Path, *, dataset: str, check: Callable[[Path], object], download: bool = True
) -> Path:
    """The path of ``file`` in ``folder``, downloaded first where it is missing.

    Args:
        file: what is wanted.
        folder: where it is looked for and put.
        dataset: the dataset's name, for messages.
        check: called with the path of a new download; raises :class:`DataError` unless the content is right.
        download: ``False``: never use the network.

    Raises:
        DataError: missing, and it could not be had; names the file, its checksum and the folder.
    """
    path = folder / file.name
    if path.is_file():
        return path
    if not download:
        raise DataError(_missing(file, folder, dataset, "downloads are switched off"))
    reasons = []
    for url in file.urls:
        try:
            return _download(url, path, check)
        except DataError as error:
            reasons.append(f"{url}: {error}")
        except OSError as error:  # requests' errors are OSErrors
            reasons.append(f"{url}: {_short(error)}")
    raise DataError(_missing(file, folder, dataset, "; ".join(reasons) or "it is not offered for download"))


def _missing(file: RemoteFile, folder: Path, dataset: str, reason: str) -> str:
    return (
        f"{dataset} needs the file {file.name!r}, which could not be had ({reason}); put it into the folder "
        f"'{folder}' (SHA-256 of {file.what}: {file.sha256})"
    )


def _short(error: OSError) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= 200 else text[:200] + "..."


def _download(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """Into a folder of its own first: what lies at ``path`` is always whole and checked."""
    import pooch

    path.parent.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel(logging.WARNING)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    bar = _Bar(path.name)
    try:
        get = pooch.HTTPDownloader(
            progressbar=bar if sys.stderr.isatty() else False, chunk_size=_Bar.chunk, timeout=TIMEOUT_S
        )
        pooch.retrieve(url, known_hash=None, fname=path.name, path=temporary, downloader=get)
        check(temporary / path.name)
        (temporary / path.name).replace(path)
    finally:
        bar.close()
        shutil.rmtree(temporary, ignore_errors=True)
    return path


class _Bar:
    """The progress bar that pooch drives, drawn by rich on standard error."""

    chunk = 1 << 16

    def __init__(self, name: str) -> None:
        self.total = 0
        self._name = name
        self._progress: Any = None
        self._task: Any = None

    def update(self, count: int) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn(self._name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self._name, total=self.total or None)
        self._progress.advance(self._task, count)

    def reset(self) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=0)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}") from error


def check_sha256(path: Path, found: str, expected: str, what: str = "the file") -> None:
    """Raise a :class:`DataError` where a checksum is not the expected one."""
    if found != expected:
        raise DataError(
            f"'{path}' is not the published one: SHA-256 of {what} is {found}, expected {expected}; "
            "delete it and get it again"
        )
