"""Pictures of runtime pruning (PNG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.plots import ACCENT, INK, KEPT, QUIET, _canvas, _label, _plain, save


def curves(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy and share of multiply-accumulates on the validation split, turn after turn."""
    figure, axes = _canvas(8.0, 4.0)
    turns = range(1, len(log) + 1)
    for name, label, color in (
        ("accuracy", "accuracy", KEPT),
        ("dense_accuracy", "accuracy of the whole network", QUIET),
        ("macs", "multiply-accumulates (share)", ACCENT),
    ):
        axes.plot(turns, [line[name] for line in log], marker="o", markersize=3, color=color, label=label)
    axes.set_xticks(list(turns), [f"{line['round'] + 1} {line['turn'][0]}" for line in log], fontsize=7)
    _label(
        axes,
        "Preparation (p), then turns of controller (c) and backbone (b)",
        "round and turn",
        "on the validation split",
    )
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    save(figure, path)


def trade_off(
    rows: Sequence[dict[str, Any]], others: Mapping[str, Sequence[tuple[float, float]]], path: Path, title: str
) -> None:
    """Accuracy against mean multiply-accumulates with the knob swept, and what it is measured against."""
    figure, axes = _canvas(8.0, 4.6)
    axes.plot(
        [r["macs"] for r in rows], [r["accuracy"] for r in rows], marker="o", markersize=4, color=KEPT, label="runtime"
    )
    looks = {
        "static uniform": (ACCENT, "s"),
        "random": (QUIET, "v"),
        "confidence": ("#009e73", "^"),
        "oracle": (INK, "*"),
    }
    for name, points in others.items():
        color, marker = looks.get(name, (INK, "x"))
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, color=color, linewidth=1, label=name)
    _label(axes, title, "mean multiply-accumulates over the dense network's", "accuracy")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    save(figure, path)


def by_class(table: Sequence[Sequence[float]], stages: Sequence[str], classes: Sequence[str], path: Path) -> None:
    """Mean groups of every stage for every class: a map."""
    figure, axes = _canvas(max(6.0, 0.5 * len(stages) + 3), 1.4 + 0.26 * len(classes))
    image = axes.imshow(table, aspect="auto", cmap="viridis", vmin=1)
    axes.set_xticks(range(len(stages)), [_plain(s) for s in stages], fontsize=7, rotation=60, ha="right")
    axes.set_yticks(range(len(classes)), [_plain(c) for c in classes], fontsize=8)
    _label(axes, "Mean groups run by class", "", "class")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="groups")
    save(figure, path)


def easy_and_hard(easy: Sequence[Any], hard: Sequence[Any], told: Sequence[Sequence[str]], path: Path) -> None:
    """Images for which least and most was run, each ``[C, H, W]`` in [0, 1], with a line of text below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(easy), len(hard))
    figure = Figure(figsize=(1.1 * columns + 0.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (name, images) in enumerate((("least", easy), ("most", hard))):
        for place, image in enumerate(images):
            axes = figure.add_subplot(2, columns, row * columns + place + 1)
            picture = image.permute(1, 2, 0)[..., : 3 if len(image) >= 3 else 1].numpy()
            axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(_plain(told[row][place]), fontsize=6)
            if place == 0:
                axes.set_ylabel(name, fontsize=8)
    save(figure, path)
