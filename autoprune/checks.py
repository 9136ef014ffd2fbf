"""Checks of settings: a number inside its range, a name among those known."""

from __future__ import annotations

import math

from autoprune.errors import SettingsError, unknown_name


def whole(name: str, value: object, least: int = 0) -> None:
    """Check a whole number.

    Raises:
        SettingsError: not one, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{name} must be a whole number from {least} on, but got {value!r}")


def in_range(
    name: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Check a number.

    Raises:
        SettingsError: not a finite number, or outside.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if (
        not number
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    ):
        bounds = {"above": above, "from": least, "below": below, "at most": most}
        told = [
            f"{word} {bound:g}{' on' if word == 'from' else ''}" for word, bound in bounds.items() if bound is not None
        ]
        raise SettingsError(f"{name} must be a number {' and '.join(told)}, but got {value!r}")


def one_of(kind: str, value: str, known: tuple[str, ...]) -> None:
    """Check a choice.

    Raises:
        UnknownNameError: not one of ``known``.
    """
    if value not in known:
        raise unknown_name(kind, str(value), known)
