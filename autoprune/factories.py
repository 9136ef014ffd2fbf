"""Functions of the user's own, named ``package.module:function``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune.errors import AutopruneError, unknown_name


@contextmanager
def importable_here() -> Iterator[None]:
    """The working folder stands on the import path, as it does for ``python -c``."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def import_factory(name: str, kind: str, error: type[AutopruneError]) -> Callable[..., Any]:
    """The function called ``package.module:function``.

    Args:
        name: where it lives; modules of the working folder are found too.
        kind: what it makes, for messages (``model``, ``dataset``).
        error: the class of error to raise.

    Raises:
        AutopruneError: of class ``error``: a malformed name, no such module or attribute, a module that cannot be
            imported, or something that cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise error(f"a {kind} of your own is named 'package.module:function', but got {name!r}")
    module = _import(module_name, kind, error)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise error(f"{kind} {name!r}: {unknown_name('attribute', part, _public(value))}")
        value = getattr(value, part)
    if not callable(value):
        raise error(f"{kind} {name!r} must be a function, but is a {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def call_factory(
    factory: Callable[..., Any], name: str, options: Mapping[str, object], kind: str, error: type[AutopruneError]
) -> Any:
    """``factory(**options)``.

    Raises:
        AutopruneError: of class ``error``: options that do not fit the signature, or an error inside the function.
    """
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        signature = None  # built in: only the call itself can tell
    if signature is not None:
        try:
            signature.bind(**options)
        except TypeError as reason:
            raise error(
                f"{kind} {name!r} cannot be called with options {sorted(options)!r}: {reason}; "
                f"its signature is {signature}"
            ) from None
    try:
        with importable_here():
            return factory(**options)
    except AutopruneError:
        raise
    except Exception as reason:  # the user's code may raise anything: told with its place
        raise error(f"{kind} {name!r} raised {_told(reason)}") from reason


def accepted(factory: Callable[..., Any], options: Mapping[str, object]) -> dict[str, object]:
    """Those of ``options`` that ``factory`` names; ``**kwargs`` takes none, as their meaning would be unknown."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {k: v for k, v in options.items() if k in parameters and parameters[k].kind in kinds}


def _import(module_name: str, kind: str, error: type[AutopruneError]) -> Any:
    try:
        with importable_here():
            importlib.invalidate_caches()
            return importlib.import_module(module_name)
    except ModuleNotFoundError as reason:
        missing = reason.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise error(
                f"{kind}: no module named {missing!r}; run from the folder that holds it (now {str(Path.cwd())!r}) "
                "or install it"
            ) from None
        raise error(f"importing {kind} module {module_name!r} failed: it needs {missing!r}") from reason
    except Exception as reason:
        raise error(f"importing {kind} module {module_name!r} failed: {_told(reason)}") from reason


def _public(value: object) -> list[str]:
    return [name for name in dir(value) if not name.startswith("_")]


def _told(error: Exception) -> str:
    """Class, message and the last place, on one line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
