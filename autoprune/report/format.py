"""Numbers with units, as people read them."""

from __future__ import annotations


def percent(value: float | None, digits: int = 2) -> str:
    """``0.9712`` as ``97.12%``."""
    return "-" if value is None else f"{100 * value:.{digits}f}%"


def number(value: float | None) -> str:
    """A count with thousands apart: ``266,610``."""
    return "-" if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes in the largest unit that keeps a digit before the point."""
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def milliseconds(value: float | None) -> str:
    """A time in ms with three digits that count."""
    return "-" if value is None else f"{value:.3g} ms"


def duration(seconds: float | None) -> str:
    """``95`` as ``1:35``."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
