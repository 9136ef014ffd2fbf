"""Pictures of thresholds and of what predicts them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.plots import ACCENT, APART, INK, KEPT, QUIET, _canvas, _label, _plain
from autoprune.thresholds import Floats, units_below

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from autoprune.search.threshold.training import Calibration

COLUMNS = 4


@dataclass(frozen=True, eq=False)
class NormPlot:
    """Norms of one group, and thresholds on them.

    Attributes:
        name: of the group.
        shares: ``[U]`` ascending, in units of their mean.
        thresholds: by what chose them, such as ``knee``.
    """

    name: str
    shares: Floats
    thresholds: Mapping[str, float]


def norms(groups: Sequence[NormPlot], title: str) -> Figure:
    """Sorted norms of every layer, small beside each other; a threshold is a line across, a dot where it cuts."""
    columns = min(COLUMNS, max(len(groups), 1))
    rows = math.ceil(len(groups) / columns)
    figure, first = _canvas(3.0 * columns, 0.6 + 2.1 * rows)
    first.remove()
    names = list(dict.fromkeys(name for g in groups for name in g.thresholds))
    for place, group in enumerate(groups):
        _norms(figure.add_subplot(rows, columns, place + 1), group, names)
    figure.suptitle(_plain(title), fontsize=10, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel("filters, smallest norm first", fontsize=9)
    figure.supylabel("norm / mean norm of the layer", fontsize=9)
    if names:
        handles = [_line(color) for _, color in zip(names, _colors(), strict=False)]
        figure.legend(handles, names, fontsize=8, frameon=False, loc="upper right", ncols=len(names))
    return figure


def _colors() -> tuple[str, ...]:
    return (ACCENT, *APART[2:], INK)


def _line(color: str) -> Artist:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle="--", marker="o", markersize=4)


def _norms(axes: Axes, group: NormPlot, names: Sequence[str]) -> None:
    axes.plot(range(1, len(group.shares) + 1), group.shares, color=KEPT, linewidth=1.3)
    for name, color in zip(names, _colors(), strict=False):
        if name in group.thresholds:
            threshold = group.thresholds[name]
            axes.axhline(threshold, color=color, linestyle="--", linewidth=0.9)
            axes.plot([units_below(group.shares, threshold)], [threshold], color=color, marker="o", markersize=4)
    axes.set_title(_plain(group.name), fontsize=8, loc="left")
    axes.tick_params(labelsize=7)
    axes.set_ylim(bottom=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def calibration(found: Sequence[Calibration], title: str = "Predicted against measured drop") -> Figure:
    """A dot for each trial with the interval that should hold 68 % of them; the line is where both agree."""
    figure, axes = _canvas(6.5, 5.0)
    values = [100 * v for one in found for v in (*one.predicted, *one.measured)]
    ends = (min(values, default=0.0), max(values, default=1.0))
    axes.plot(ends, ends, color=QUIET, linestyle="--", linewidth=1)
    for place, one in enumerate(found):
        axes.errorbar(
            [100 * v for v in one.predicted],
            [100 * v for v in one.measured],
            xerr=[100 * v for v in one.spread],
            fmt="o",
            markersize=4,
            linewidth=0.8,
            color=APART[place % len(APART)],
            label=_plain(f"{one.study}{'' if one.seen else ' (not trained on)'}"),
        )
    _label(axes, title, "predicted drop in accuracy (points)", "measured drop (points)")
    axes.legend(fontsize=8, frameon=False)
    return figure
