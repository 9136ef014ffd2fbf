"""Compressed files read in memory: nothing is unpacked to disk, and nothing unbounded is unpacked at all."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from autoprune.errors import DataError

_PADDING = 1 << 20
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, OSError)


def read_bytes(path: Path, *, limit: int) -> bytes:
    """Content of a file, uncompressed where its name ends in ``.gz``.

    Args:
        path: the file.
        limit: bytes that it may hold at most.

    Raises:
        DataError: truncated, corrupt, unreadable, or longer than ``limit``.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data: bytes = file.read(limit + 1)
    except _BROKEN as error:
        raise broken(path, error) from error
    if len(data) > limit:
        raise DataError(f"'{path}' holds more than the {limit} bytes it should; delete it and get it again")
    return data


def read_tar(path: Path, *, member_limit: int, total_limit: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a ``.tar.gz``, in the archive's order; folders are skipped.

    Raises:
        DataError: truncated or corrupt; a member that is a link or device, whose name leaves the archive
            (``/etc/x``, ``../x``), that comes twice, or that is larger than the limits.
    """
    seen: set[str] = set()
    total = 0
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = _safe_name(path, member)
                if member.isdir():
                    continue
                total += member.size
                if member.size > member_limit or total > total_limit:
                    raise DataError(f"member {name!r} makes '{path}' larger than it may be; get it again")
                if name in seen:
                    raise DataError(f"'{path}' holds {name!r} twice; get it again")
                seen.add(name)
                file = archive.extractfile(member)
                data = b"" if file is None else file.read()
                if len(data) != member.size:
                    raise DataError(f"'{path}' ends inside {name!r}: truncated; delete it and get it again")
                yield name, data
            _drain(path, stream)
    except _BROKEN as error:
        raise broken(path, error) from error


def _drain(path: Path, stream: gzip.GzipFile) -> None:
    """Read what follows the last member, so that gzip's own checksum is verified too."""
    if len(stream.read(_PADDING)) == _PADDING:
        raise DataError(f"'{path}' goes on after its last file; get it again")


def _safe_name(path: Path, member: tarfile.TarInfo) -> str:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name or "\0" in member.name:
        raise DataError(f"'{path}' is refused: member {member.name!r} points outside of the archive")
    if not (member.isfile() or member.isdir()):
        raise DataError(f"'{path}' is refused: member {member.name!r} is a link or a device, not a file")
    return str(name)


def broken(path: Path, error: BaseException) -> DataError:
    """The error for a file that cannot be read, with the reason in words."""
    if isinstance(error, EOFError):
        return DataError(f"'{path}' is truncated (it ends too early); delete it and get it again")
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"cannot read '{path}': {error.strerror}")
    return DataError(f"'{path}' is corrupt ({error}); delete it and get it again")
