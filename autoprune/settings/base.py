"""Settings: frozen, checked when they are made, and the same in flags, in TOML and in Python."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pydantic

from autoprune.errors import SettingsError, unknown_name
from autoprune.files import write_text

Whole = Annotated[int, pydantic.Field(strict=True)]
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, pydantic.Field(strict=True)]
Text = Annotated[str, pydantic.Field(strict=True, min_length=1)]
Texts = tuple[Text, ...]

NOTES = "made_with"
"""Table of a stored file that says what made it; it is left out when the file is read."""


def option(default: Any, text: str, *, panel: str = "Options", metavar: str | None = None, **checks: Any) -> Any:
    """One setting: its default, the sentence that explains it, where it stands in the help, and what it must hold."""
    return pydantic.Field(default, description=text, json_schema_extra={"panel": panel, "metavar": metavar}, **checks)


class Settings(pydantic.BaseModel):
    """Base of the settings of one command; unknown names are refused with near misses."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    command: ClassVar[str]

    @classmethod
    def make(cls, values: Mapping[str, Any], *, source: str = "") -> Self:
        """Checked settings from names and values; ``source`` says in errors where they came from.

        Raises:
            UnknownNameError: a name that is no setting of this command.
            SettingsError: a value that a setting cannot take.
        """
        values = {name.replace("-", "_"): value for name, value in values.items()}
        for name in values:
            if name not in cls.model_fields:
                raise _unknown(name, cls, source)
        try:
            return cls(**values)
        except pydantic.ValidationError as error:
            raise SettingsError(_explain(error, source)) from None

    @classmethod
    def load(cls, path: Path | None = None, given: Mapping[str, Any] | None = None) -> Self:
        """Settings of the TOML file at ``path`` with those of ``given`` (flags) on top.

        Raises:
            UnknownNameError: the file names a setting that this command does not have.
            SettingsError: the file is missing, is not TOML, is for another command, or holds a bad value.
        """
        stored = {} if path is None else read_file(path, cls)
        if path is not None:
            cls.make(stored, source=f" in {path}")
        return cls.make({**stored, **(given or {})})

    def values(self) -> dict[str, Any]:
        """Names and values as TOML holds them; settings without a value are left out."""
        return {k: v for k, v in self.model_dump(mode="json").items() if v is not None}

    def to_toml(self, notes: Mapping[str, Any] | None = None) -> str:
        """The whole of the settings as a TOML file; ``notes`` go to a table that reading leaves out."""
        import tomli_w

        data: dict[str, Any] = {"command": self.command, **self.values()}
        if notes:
            data[NOTES] = dict(notes)
        tables = {k: v for k, v in data.items() if isinstance(v, dict)}
        return tomli_w.dumps({**{k: v for k, v in data.items() if k not in tables}, **tables})

    def save(self, path: Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write :meth:`to_toml` to ``path``, whole or not at all."""
        write_text(path, self.to_toml(notes))

    def differences(self, other: Settings, *, ignore: frozenset[str] = frozenset()) -> dict[str, tuple[Any, Any]]:
        """Settings that differ: name -> (here, there), as TOML holds them."""
        here, there = self.values(), other.values()
        names = sorted({*here, *there} - ignore)
        return {n: (here.get(n), there.get(n)) for n in names if here.get(n) != there.get(n)}


def read_file(path: Path, cls: type[Settings]) -> dict[str, Any]:
    """Names and values of a TOML file for the command of ``cls``.

    Raises:
        SettingsError: it cannot be read, is not TOML, or is for another command.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read settings {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"settings {str(path)!r} are not text in UTF-8; a TOML file is needed") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings {str(path)!r} are not TOML: {error}") from None
    command = data.pop("command", cls.command)
    if command != cls.command:
        raise SettingsError(f"settings {str(path)!r} are for 'autoprune {command}', not for 'autoprune {cls.command}'")
    data.pop(NOTES, None)
    return data


def _unknown(name: str, cls: type[Settings], source: str) -> Exception:
    error = unknown_name("setting", name, cls.model_fields, limit=0)
    text = str(error).rsplit(" (known:", 1)[0]
    return type(error)(f"{text}{source}; 'autoprune {cls.command} --help' lists the settings")


def _explain(error: pydantic.ValidationError, source: str) -> str:
    """The first fault in one line: the setting, what must hold, what came."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "settings"
    text = str(first["msg"]).removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    if first["type"] == "value_error" and name == "settings":
        return f"{text}{source}"
    return f"setting {name!r}{source}: {text}, but got {first['input']!r}"
