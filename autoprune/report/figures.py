"""Figures of the report, with what a trial is under the pointer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autoprune.plots import ACCENT, BAD, INK, KEPT, QUIET, REMOVED, best_so_far
from autoprune.report.content import Bar, Point, sorts

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def bars(layers: Sequence[Bar]) -> Figure:
    """Units kept and removed in each group, in order from the input down."""
    import plotly.graph_objects as go

    names = [html.escape(b.name) for b in layers]
    text = [f"{b.kept} of {b.size}" for b in layers]
    kept = go.Bar(y=names, x=[b.share for b in layers], orientation="h", name="kept", marker_color=KEPT, text=text)
    gone = go.Bar(y=names, x=[1 - b.share for b in layers], orientation="h", name="removed", marker_color=REMOVED)
    kept.hovertext = [f"{n}: {t} {html.escape(b.method)}" for n, t, b in zip(names, text, layers, strict=True)]
    kept.hoverinfo = "text"
    gone.hoverinfo = "skip"
    figure = go.Figure([kept, gone])
    _style(figure, "units kept", "", height=140 + 26 * max(1, len(layers)))
    figure.update_layout(barmode="stack", bargap=0.25, legend_traceorder="normal")
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def history(points: Sequence[Point]) -> Figure:
    """Accuracy of every trial in order, and the best so far."""
    import plotly.graph_objects as go

    figure = go.Figure()
    looks = {
        "over budget": (QUIET, "circle"),
        "stopped early": (QUIET, "triangle-down"),
        "within budget": (KEPT, "circle"),
        "baselines": (INK, "diamond"),
    }
    for name, chosen in sorts(points).items():
        if chosen:
            figure.add_trace(_dots(name, [p.number for p in chosen], chosen, *looks[name]))
    if any(p.judged for p in points):
        xs, ys = best_so_far(points)
        line = {"color": ACCENT, "shape": "hv"}
        figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", name="best so far", line=line, hoverinfo="skip"))
    _failed(figure, points)
    _style(figure, "trial", "validation accuracy")
    return figure


def front(points: Sequence[Point], metric: str) -> Figure:
    """Accuracy against cost; the trials that nothing beats in both stand on a line."""
    import plotly.graph_objects as go

    shown = [p for p in points if p.accuracy is not None and metric in p.ratios]
    figure = go.Figure([_dots("trials", [p.ratios[metric] for p in shown], shown, QUIET)])
    best = sorted((p for p in shown if p.front), key=lambda p: p.ratios[metric])
    if best:
        trace = _dots("front", [p.ratios[metric] for p in best], best, ACCENT)
        trace.mode = "lines+markers"
        trace.line = {"shape": "hv", "color": ACCENT}
        figure.add_trace(trace)
    _style(figure, f"{html.escape(metric)} over the dense network's", "validation accuracy")
    return figure


def _dots(name: str, xs: Sequence[float], points: Sequence[Point], color: str, symbol: str = "circle") -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=list(xs),
        y=[p.accuracy for p in points],
        mode="markers",
        name=name,
        marker={"color": color, "size": 8, "symbol": symbol},
        hovertext=[_told(p) for p in points],
        hoverinfo="text",
    )


def _failed(figure: Figure, points: Sequence[Point]) -> None:
    """Marks on the axis for trials without an accuracy: those that failed, and those that were never evaluated."""
    import plotly.graph_objects as go

    without = [p for p in points if p.accuracy is None]
    floor = min([p.accuracy for p in points if p.accuracy is not None], default=0.0)
    unseen = [p for p in without if p.status == "rejected"]
    failed = [p for p in without if p.status != "rejected"]
    for name, chosen, color, symbol in (
        ("rejected unseen", unseen, QUIET, "line-ns-open"),
        ("no result", failed, BAD, "x"),
    ):
        if chosen:
            marker = {"color": color, "symbol": symbol, "size": 8}
            told = {"hovertext": [_told(p) for p in chosen], "hoverinfo": "text"}
            xs, ys = [p.number for p in chosen], [floor] * len(chosen)
            figure.add_trace(go.Scatter(x=xs, y=ys, mode="markers", name=name, marker=marker, **told))


def _told(point: Point) -> str:
    accuracy = "no accuracy" if point.accuracy is None else f"accuracy {point.accuracy:.4f}"
    ratios = ", ".join(f"{html.escape(k)} {v:.3f}" for k, v in point.ratios.items())
    lines = [f"trial {point.number} ({html.escape(point.source)})", accuracy, ratios]
    if not point.feasible:
        lines.append("over budget")
    if point.status != "ok":
        lines.append(html.escape(point.status))
    return "<br>".join(line for line in lines if line)


def _style(figure: Figure, x: str, y: str, *, height: int = 380) -> None:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        xaxis_title=x,
        yaxis_title=y,
        font={"family": "system-ui, sans-serif", "size": 13},
    )
