"""Static pictures (PNG), drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from autoprune.report.content import Bar, Point
    from autoprune.search.comparison import Comparison
    from autoprune.sensitivity import Curve, Sensitivity

KEPT, REMOVED, ACCENT, QUIET, BAD, INK = "#2f6db5", "#dfe5ec", "#d9622b", "#8b98a5", "#c0392b", "#1c2733"
APART = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # for every kind of eye
DOTS_PER_INCH = 130
MOST_LINES = 16


def bars(layers: Sequence[Bar], title: str = "Units kept in each group") -> Figure:
    """A plan as a picture: for each group, in order, the units that stay of those that were."""
    figure, axes = _canvas(8.0, 1.1 + 0.32 * max(1, len(layers)))
    places = range(len(layers))
    axes.barh(places, [1.0] * len(layers), color=REMOVED, label="removed", height=0.72)
    axes.barh(places, [b.share for b in layers], color=KEPT, label="kept", height=0.72)
    for place, bar in enumerate(layers):
        text = f"{bar.kept} of {bar.size}" + (f"  {bar.method}" if bar.method else "")
        axes.text(1.015, place, _plain(text), va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set_yticks(list(places), [_plain(b.name) for b in layers], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_title(_plain(title), loc="left", fontsize=10, fontweight="bold")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=8)
    return figure


def sensitivity(found: Sensitivity, title: str = "Each group pruned alone") -> Figure:
    """Accuracy against sparsity when one group alone is pruned: lines for a few groups, a map for many."""
    return _lines(found, title) if len(found.curves) <= MOST_LINES else _map(found, title)


def _lines(found: Sensitivity, title: str) -> Figure:
    import matplotlib as mpl

    figure, axes = _canvas(8.0, 4.5)
    colors = mpl.colormaps["viridis"]
    for place, curve in enumerate(found.curves):
        pairs = [(0.0, found.accuracy), *zip(curve.sparsity, curve.accuracy, strict=True)]
        xs, ys = zip(*((x, y) for x, y in pairs if y is not None), strict=True)
        shade = colors(place / max(1, len(found.curves) - 1) * 0.9)
        axes.plot(xs, ys, marker="o", markersize=3, linewidth=1.3, color=shade, label=_plain(curve.group))
    if found.accuracy is not None:
        axes.axhline(found.accuracy, color=QUIET, linestyle="--", linewidth=1, label="dense")
    _label(axes, title, "sparsity of the group", "validation accuracy")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _map(found: Sensitivity, title: str) -> Figure:
    """A row for each group from the input down, a column for each sparsity; dark is lost accuracy."""
    levels = max((curve.sparsity for curve in found.curves), key=len)
    figure, axes = _canvas(7.0, 1.2 + 0.2 * len(found.curves))
    values = [
        [float("nan") if (a := nearest(curve, level)) is None else a for level in levels] for curve in found.curves
    ]
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmax=found.accuracy)
    axes.set_xticks(range(len(levels)), [f"{level:.0%}" for level in levels])
    axes.set_yticks(range(len(found.curves)), [_plain(c.group) for c in found.curves], fontsize=7)
    _label(axes, title, "sparsity of the group", "")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="validation accuracy")
    return figure


def nearest(curve: Curve, sparsity: float) -> float | None:
    """Accuracy at the achieved sparsity of ``curve`` that is nearest to ``sparsity``."""
    if not curve.sparsity:
        return None
    place = min(range(len(curve.sparsity)), key=lambda i: abs(curve.sparsity[i] - sparsity))
    return curve.accuracy[place]


def history(points: Sequence[Point], title: str = "Trials in order") -> Figure:
    """Accuracy of every trial, those over budget apart, and the best so far as a step."""
    figure, axes = _canvas(8.0, 4.0)
    from autoprune.report.content import sorts

    looks = {
        "over budget": (QUIET, "o"),
        "stopped early": (QUIET, "v"),
        "within budget": (KEPT, "o"),
        "baselines": (INK, "D"),
    }
    for name, chosen in sorts(points).items():
        if chosen:
            xs, ys = [p.number for p in chosen], [p.accuracy or 0.0 for p in chosen]
            color, marker = looks[name]
            axes.scatter(xs, ys, color=color, s=18, marker=marker, label=name)
    if any(p.judged for p in points):
        axes.step(*best_so_far(points), where="post", color=ACCENT, linewidth=1.4, label="best so far")
    _label(axes, title, "trial", "validation accuracy")
    _legend(axes)
    return figure


def front(points: Sequence[Point], metric: str = "macs", title: str = "Accuracy against cost") -> Figure:
    """Accuracy against one cost, and the front: the trials that nothing beats in both."""
    figure, axes = _canvas(8.0, 4.0)
    shown = [p for p in points if p.accuracy is not None and metric in p.ratios]
    axes.scatter(
        [p.ratios[metric] for p in shown], [p.accuracy or 0.0 for p in shown], color=QUIET, s=14, label="trials"
    )
    best = sorted((p for p in shown if p.front), key=lambda p: p.ratios[metric])
    if best:
        xs, ys = [p.ratios[metric] for p in best], [p.accuracy or 0.0 for p in best]
        axes.plot(xs, ys, color=ACCENT, marker="o", markersize=4, linewidth=1.4, label="front", drawstyle="steps-post")
    _label(axes, title, f"{metric} over the dense network's", "validation accuracy")
    _legend(axes)
    return figure


def comparison(found: Comparison, title: str = "Best so far at equal numbers of evaluations") -> Figure:
    """Best so far against evaluations: a step and a band (mean and standard deviation over seeds) for each group.

    Baselines are dashed lines across. What lies far below the first checkpoint is cut off.
    """
    figure, axes = _canvas(8.5, 4.6)
    scale = 1.0 if found.metrics else 100.0
    for place, group in enumerate(found.groups):
        points = [(float(n), group.at(n)) for n in range(1, group.length + 1)]
        known = [(n, s.mean, s.spread or 0.0) for n, s in points if s.mean is not None]
        known += [(group.length + 0.5, mean, s) for _, mean, s in known[-1:]]  # the last step has a length too
        xs, means = [n for n, _, _ in known], [scale * mean for _, mean, _ in known]
        low, high = [scale * (mean - s) for _, mean, s in known], [scale * (mean + s) for _, mean, s in known]
        color, dashes = APART[place % len(APART)], ("-", "--", "-.")[place // len(APART) % 3]
        axes.fill_between(xs, low, high, step="post", color=color, alpha=0.18, linewidth=0)
        label = f"{group.label} ({len(group.members)} seed{'s' if len(group.members) > 1 else ''})"
        axes.step(xs, means, dashes, where="post", color=color, linewidth=1.7, label=_plain(label))
    for place, (name, summary) in enumerate(found.baselines.items()):
        label, dashes = "baselines" if name == "all" else f"baseline {name}", ("--", "-.", ":")[place % 3]
        axes.axhline(scale * (summary.mean or 0.0), color=QUIET, linestyle=dashes, linewidth=1.2, label=_plain(label))
    if any(group.length > found.evaluations for group in found.groups):
        axes.axvline(found.evaluations, color=QUIET, linewidth=0.8, label=f"compared at {found.evaluations}")
    _zoom(axes, found, scale)
    what = "hypervolume so far (share of the box)" if found.metrics else "best validation accuracy so far (%)"
    _label(axes, title, "evaluations (proposals judged)", what)
    several = any(len(group.members) > 1 for group in found.groups)
    heading = "mean ± standard deviation" if several else None
    axes.legend(
        fontsize=8, title=heading, title_fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    return figure


def _zoom(axes: Axes, found: Comparison, scale: float) -> None:
    """Limits by what the table shows: the first proposals may be so bad that nothing else could be told apart."""
    from matplotlib.ticker import MaxNLocator

    shown = [s for group in found.groups for s in (group.at(n) for n in found.checkpoints)]
    ends = [group.at(group.length) for group in found.groups]
    values = [
        scale * (s.mean + side * (s.spread or 0.0))
        for s in (*shown, *ends, *found.baselines.values())
        if s.mean is not None
        for side in (-1, 1)
    ]
    if values and max(values) > min(values):
        margin = 0.06 * (max(values) - min(values))
        axes.set_ylim(min(values) - margin, max(values) + margin)
    axes.set_xlim(1, max(group.length for group in found.groups) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def best_so_far(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    """Trial numbers, from the first that can be the best on, and the highest accuracy of such trials up to each."""
    numbers, values, best = [], [], float("-inf")
    for point in points:
        if point.judged:
            best = max(best, point.accuracy or 0.0)
        if best > float("-inf"):
            numbers.append(point.number)
            values.append(best)
    return numbers, values


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    write_bytes(path, buffer.getvalue())


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own: no global state, no window, nothing to close."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(_plain(title), loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(_plain(x), fontsize=9)
    axes.set_ylabel(_plain(y), fontsize=9)
    axes.grid(axis="y", color=REMOVED, linewidth=0.7)
    axes.set_axisbelow(True)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4)


def _plain(text: str) -> str:
    """Text that is not read as mathematics."""
    return text.replace("$", r"\$")
