"""Data files on disk: found, or downloaded, and let in only with the right content."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    dataset: str,
    check: Callable[[RemoteFile, Path], object],
    download: bool = True,
) -> dict[str, Path]:
    """Paths of ``files`` in ``folder`` by name, downloaded first where they are missing.

    Args:
        files: what is wanted.
        folder: where they are looked for and put.
        dataset: the dataset's name, for messages.
        check: called with a file and the path of its new download; raises :class:`DataError` unless it is right.
        download: ``False``: never use the network.

    Raises:
        DataError: missing, and not to be had; names the files, their checksums and the folder.
    """
    missing = [file for file in files if not (folder / file.name).is_file()]
    while missing:
        reasons = _get(missing[0], folder, check) if download else ["downloads are switched off"]
        if reasons is not None:
            raise DataError(_help(missing, folder, dataset, reasons))
        missing.pop(0)
    return {file.name: folder / file.name for file in files}


def _get(file: RemoteFile, folder: Path, check: Callable[[RemoteFile, Path], object]) -> list[str] | None:
    """Try each address: ``None`` where one served, else what went wrong with each."""
    reasons = []
    for url in file.urls:
        try:
            _download(url, folder / file.name, lambda path: check(file, path))
        except DataError as error:
            reasons.append(f"{urlsplit(url).netloc}: {error}")
        except OSError as error:  # requests' errors are of this class too
            reasons.append(_reason(urlsplit(url).netloc, error))
        else:
            return None
    return reasons or ["it is not offered for download"]


def _help(missing: Sequence[RemoteFile], folder: Path, dataset: str, reasons: list[str]) -> str:
    wanted = ", ".join(f"{file.name!r} (SHA-256 of {file.what}: {file.sha256})" for file in missing)
    source = f" from {missing[0].urls[0].rpartition('/')[0]}/ or elsewhere" if missing[0].urls else ""
    them = "it" if len(missing) == 1 else "them"
    return (
        f"{dataset} needs {wanted} in the folder '{folder}', and downloading failed ({'; '.join(reasons)}); "
        f"get {them}{source} and put {them} there"
    )


def _reason(host: str, error: OSError) -> str:
    import requests

    if isinstance(error, requests.Timeout):
        return f"{host} did not answer within {TIMEOUT_S:g} s"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{host} answered HTTP {error.response.status_code}"
    if isinstance(error, requests.RequestException):
        return f"no connection to {host} ({type(error).__name__})"
    return f"{type(error).__name__}: {error}"


def _download(url: str, path: Path, check: Callable[[Path], object]) -> None:
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
