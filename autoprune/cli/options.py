"""Flags made from settings: each setting becomes a flag of the same name, with its default and sentence."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from autoprune.cli.errors import reported
from autoprune.settings import Settings

S = TypeVar("S", bound=Settings)
PANELS = (
    "Plan",
    "Search",
    "Sensitivity",
    "Norms",
    "Stages",
    "Controller",
    "Backbone",
    "Network and data",
    "Training",
    "Search space",
    "Retraining",
    "Evaluation",
    "Options",
    "Run",
)


def command(
    app: typer.Typer,
    cls: type[S],
    run: Callable[..., None],
    *,
    name: str | None = None,
    arguments: Mapping[str, tuple[Any, str]] | None = None,
) -> None:
    """Add ``run(settings, **arguments)`` to ``app``, with the flags of ``cls`` and ``--config``.

    Args:
        app: where the command goes.
        cls: its settings.
        run: what it does; its docstring is the help.
        name: its name; default: that of the settings.
        arguments: positional ones: name -> (type, help).
    """
    arguments = arguments or {}

    def body(**given: Any) -> None:
        with reported():
            places = {key: given.pop(key) for key in arguments}
            config = given.pop("config")
            flags = {key: value for key, value in given.items() if value not in (None, [], ())}
            run(cls.load(config, flags), **places)

    parameters = [_argument(key, kind, text) for key, (kind, text) in arguments.items()]
    parameters += [_flag(key, field) for key, field in _ordered(cls)]
    parameters.append(_config())
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__annotations__ = {p.name: p.annotation for p in parameters}
    body.__doc__ = _paragraphs(inspect.getdoc(run) or "")
    app.command(name or cls.command)(body)


def _paragraphs(text: str) -> str:
    """Text whose paragraphs are single lines: the terminal decides where they break."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _ordered(cls: type[Settings]) -> list[tuple[str, FieldInfo]]:
    return sorted(cls.model_fields.items(), key=lambda item: PANELS.index(_extra(item[1], "panel")))


def _extra(field: FieldInfo, key: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(key) if isinstance(extra, dict) else None


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _argument(name: str, kind: Any, text: str) -> inspect.Parameter:
    info = typer.Argument(help=text, show_default=False, metavar=name.upper())
    return _parameter(name, Annotated[kind, info], inspect.Parameter.empty)


def _config() -> inspect.Parameter:
    info = typer.Option("--config", help="TOML file with settings of the same names; flags go before it.")
    return _parameter("config", Annotated[Path | None, info], None)


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, several = _flag_type(field.annotation)
    flag = "--" + name.replace("_", "-")
    info = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=(field.description or "") + (" May be given several times." if several else ""),
        show_default=_shown(field.default),
        rich_help_panel=_extra(field, "panel"),
        metavar=_extra(field, "metavar") or ("NAME=VALUE" if several == "pairs" else None),
    )
    wanted = list[kind] if several else kind  # type: ignore[valid-type]
    return _parameter(name, Annotated[Union[wanted, None], info], None)  # noqa: UP007 - built at run time


def _flag_type(annotation: Any) -> tuple[Any, str]:
    """The type of one value of a flag, and whether it comes several times (``list`` or ``pairs``)."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _flag_type(inner[0])
    if origin in (Union, types.UnionType):
        return _flag_type(next(a for a in inner if a is not type(None)))
    if origin is tuple:
        return _flag_type(inner[0])[0], "list"
    if origin is dict:
        return str, "pairs"
    if origin is Literal or isinstance(annotation, type):
        return annotation, ""
    raise TypeError(f"no flag for {annotation!r}")


def _shown(default: Any) -> str | bool:
    """The default as the help shows it; False for none."""
    if default is None or default in ((), {}):
        return False
    if isinstance(default, bool):
        return "on" if default else "off"
    values = default if isinstance(default, tuple) else (default,)
    return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
