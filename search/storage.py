"""Where a study is kept: an Optuna storage, opened with a clear error, and written by one process only."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import StudyError, unknown_name

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

STUDY_FILE = "study.db"
DEFAULT_NAME = "search"
_SQLITE_WAIT_S = 60.0  # a dashboard may hold the file for a moment


@dataclass(frozen=True)
class Address:
    """A place for studies.

    Attributes:
        url: SQLAlchemy URL, empty for memory.
        file: the SQLite file, ``None`` for a server or memory.
    """

    url: str
    file: Path | None = None

    @classmethod
    def of(cls, run_dir: str | Path | None, storage: str | None = None) -> Address:
        """``storage`` if it is given, else ``study.db`` in the run folder, else memory.

        Raises:
            StudyError: ``storage`` is no URL.
        """
        if storage is None:
            return cls("") if run_dir is None else cls.of_file(Path(run_dir) / STUDY_FILE)
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(storage)
        except (ArgumentError, ValueError):
            raise StudyError(
                "the storage must be a URL such as sqlite:///study.db or postgresql://user@host/name, "
                f"but got {storage!r}"
            ) from None
        inside = url.drivername.startswith("sqlite") and url.database not in (None, "", ":memory:")
        return cls(storage, Path(str(url.database)) if inside else None)

    @classmethod
    def of_file(cls, path: Path) -> Address:
        """The SQLite file at ``path``, whatever characters stand in it."""
        from sqlalchemy.engine import URL

        url = URL.create("sqlite", database=str(path.absolute())).render_as_string(hide_password=False)
        return cls(url.replace("{", "{{").replace("}", "}}"), path)

    @property
    def shown(self) -> str:
        """The address for a reader; no password in it."""
        if self.file is not None:
            return repr(str(self.file))
        if not self.url:
            return "memory"
        from sqlalchemy.engine import make_url

        return repr(make_url(self.url).render_as_string(hide_password=True))

    def open(self, *, make: bool) -> BaseStorage:
        """The storage behind the address.

        Args:
            make: whether a file that is missing may be made.

        Raises:
            StudyError: missing, not a database, of another Optuna, not writable, or out of reach.
        """
        from optuna.storages import InMemoryStorage, RDBStorage

        if not self.url:
            return InMemoryStorage()
        if self.file is not None and not make and not self.file.is_file():
            raise StudyError(f"there is no study at {self.shown}; 'autoprune search' makes one")
        sqlite = self.url.startswith("sqlite")
        arguments: dict[str, Any] = {"connect_args": {"timeout": _SQLITE_WAIT_S}} if sqlite else {"pool_pre_ping": True}
        with storage_errors(self), quiet():
            if self.file is not None and make:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            storage = RDBStorage(self.url, engine_kwargs=arguments)
            if sqlite and make:
                _write_ahead(storage)
        return storage


@contextlib.contextmanager
def storage_errors(address: Address) -> Iterator[None]:
    """Turn what a database raises into a :class:`StudyError` that names the storage and the next step."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

    def failed(reason: object, step: str) -> StudyError:
        text = " ".join(str(reason).split())
        return StudyError(f"cannot use the study storage {address.shown}: {text}; {step}")

    try:
        yield
    except (ImportError, NoSuchModuleError) as error:
        cause = error.__cause__ or error
        raise failed(
            cause, "install the driver that the URL asks for, for example 'pip install psycopg[binary]'"
        ) from None
    except OSError as error:
        raise failed(error.strerror or error, "choose another run folder or make it writable") from None
    except (SQLAlchemyError, StorageInternalError) as error:
        known: BaseException | None = error
        while known is not None and not isinstance(known, DBAPIError):
            known = known.__cause__
        reason = known.orig if isinstance(known, DBAPIError) and known.orig is not None else error
        place = "check the folder, its rights and free space" if address.file else "check the address and the server"
        raise failed(_first_line(reason), place) from None
    except RuntimeError as error:
        if "schema" not in str(error) and "version" not in str(error):
            raise
        raise failed(_first_line(error), "it was written by another release of Optuna") from None


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna says when it makes a study; a command line has its own words for that."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _write_ahead(storage: Any) -> None:
    """SQLite with a write-ahead log: readers do not hold up the writer, a commit needs no disk flush, and a killed
    process loses nothing that was committed. :func:`close` puts everything back into the one file.
    """
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def _set(connection: Any, record: Any) -> None:
        del record
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.remove_session()
    storage.engine.dispose()


def close(storage: BaseStorage, address: Address) -> None:
    """Let go of the storage; a SQLite study that nobody else reads is one file again."""
    from optuna.storages import RDBStorage

    if not isinstance(storage, RDBStorage):
        return
    storage.remove_session()
    storage.engine.dispose()
    if address.file is None:
        return
    import sqlite3

    with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(sqlite3.connect(address.file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def study_names(storage: BaseStorage) -> dict[str, int]:
    """Names and ids of the studies in a storage."""
    return {study.study_name: study._study_id for study in storage.get_all_studies()}


def study_id(storage: BaseStorage, name: str, address: Address) -> int:
    """The id of the study called ``name``.

    Raises:
        UnknownNameError: no such study, with near misses.
        StudyError: the storage holds no study at all.
    """
    known = study_names(storage)
    if not known:
        raise StudyError(f"the storage {address.shown} holds no study; 'autoprune search' makes one")
    if name not in known:
        raise unknown_name("study", name, known)
    return known[name]
