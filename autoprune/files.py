"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autoprune._version import __version__
from autoprune.errors import ArtifactError


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``: a reader sees the old file or the new one, never a part.

    Raises:
        ArtifactError: the folder cannot be written (read-only, full, missing rights).
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A file to write that takes the place of ``path`` when the block ends without an error.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def keyed_path(folder: str | Path, label: str, facts: Mapping[str, object]) -> Path:
    """The safetensors file in ``folder`` for what ``facts`` (JSON) and the release determine.

    ``label`` only makes it readable.
    """
    text = json.dumps({"release": __version__, **facts}, sort_keys=True)
    return Path(folder) / f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.safetensors"


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_bytes` for text in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill that takes the place of ``path`` when the block ends without an error.

    Raises:
        ArtifactError: the parent folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o755)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        old = temporary.with_name(temporary.name + ".old")
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write {str(path)!r}: {error.strerror or error}; choose another folder or free some room"
    )
