"""What a study is about: facts that may not change while it lasts, and the difference when they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autoprune.errors import StudyError

FACTS_VERSION = 1

# what each fact is called in a message, in the order in which a user should look at them
NAMES = {
    "model": "the model",
    "graph": "the layers and groups",
    "data": "the data",
    "objective": "the objective's settings",
    "space": "the search space",
    "metrics": "what is searched for",
    "budget": "the budget",
}


NEXT_STEP = "start the search with what the study has, or choose another run folder or study name"


def check_facts(
    stored: Mapping[str, Any] | None, now: Mapping[str, Any], where: str, *, next_step: str = NEXT_STEP
) -> None:
    """Refuse to go on with a study that is about something else.

    Args:
        stored: facts of the study, ``None`` when it has none.
        now: facts of the search that wants to go on with it.
        where: the study, for the message.
        next_step: what to do about it, for the message.

    Raises:
        StudyError: with the differences, one a line.
    """
    if stored is None:
        raise StudyError(f"{where} was not made by autoprune; choose another study name, storage or run folder")
    if stored.get("version") != FACTS_VERSION:
        raise StudyError(
            f"{where} was written by another release (facts of version {stored.get('version')!r}, "
            f"this release reads {FACTS_VERSION}); go on with the release that made it, or start another study"
        )
    changed = [key for key in NAMES if stored.get(key) != now.get(key)]
    if not changed:
        return
    lines = [f"  {line}" for key in changed for line in differences({key: stored.get(key)}, {key: now.get(key)})]
    what = ", ".join(NAMES[key] for key in changed)
    raise StudyError(f"{where} cannot go on: {what} changed\n" + "\n".join(lines) + f"\n{next_step}")


def differences(stored: Mapping[str, Any], now: Mapping[str, Any], *, limit: int = 6) -> list[str]:
    """One line for each leaf where two nested dicts differ: ``rules.round_to: 1 in the study, now 8``."""
    lines = [
        f"{path}: {'nothing' if a is None else a} in the study, now {'nothing' if b is None else b}"
        for path, a, b in leaves(stored, now)
    ]
    return lines if len(lines) <= limit else [*lines[:limit], f"and {len(lines) - limit} more"]


def leaves(a: Any, b: Any, path: str = "") -> Iterable[tuple[str, Any, Any]]:
    """(path, value in ``a``, value in ``b``) of every leaf where two nested dicts differ; long values are cut."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            yield from leaves(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield path, _short(a), _short(b)


def _short(value: Any, width: int = 60) -> Any:
    text = str(value)
    return value if len(text) <= width else f"{text[:width]}... ({len(text)} characters)"
