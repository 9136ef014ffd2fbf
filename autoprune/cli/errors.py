"""What a user sees when something goes wrong: one line and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from autoprune.errors import AutopruneError

USER_ERROR = 2
FAULT = 1
INTERRUPTED = 130
DEBUG = "AUTOPRUNE_DEBUG"


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code: 2 for bad input, 130 for Ctrl-C, 1 for our own faults."""
    try:
        yield
    except typer.Exit:
        raise
    except AutopruneError as error:
        _stop(f"error: {error}", USER_ERROR, error)
    except KeyboardInterrupt as error:
        _stop("interrupted", INTERRUPTED, error)
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(FAULT) from None
    except (OSError, MemoryError) as error:
        _stop(f"error: {_environment(error)}", USER_ERROR, error)
    except Exception as error:  # noqa: BLE001 - the last place: whatever is left is a fault of ours, said in one line
        _stop(f"internal error: {_place(error)}; {DEBUG}=1 shows the traceback, please report it", FAULT, error)


def _stop(text: str, code: int, error: BaseException) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    typer.echo(text, err=True)
    raise typer.Exit(code) from None


def _environment(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or take a smaller batch size or network"
    where = f" {str(error.filename)!r}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}:{last.lineno})"
