"""Pictures: they show what they were given, and nothing else in the process changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from autoprune import plots
from autoprune.errors import ArtifactError
from autoprune.report import Bar, Point
from autoprune.sensitivity import Curve, Sensitivity

BARS = [Bar("conv1", 16, 4, "l1_norm"), Bar("a$b", 32, 32), Bar("fc", 10, 1)]
POINTS = [
    Point(0, 0.90, {"macs": 0.5}, baseline=True),
    Point(1, 0.80, {"macs": 0.4}, front=True),
    Point(2, None),
    Point(3, 0.99, {"macs": 0.7}, feasible=False),
    Point(4, 0.95, {"macs": 0.45}, front=True),
]


def curves(groups: int) -> Sensitivity:
    made = [Curve(f"g{i}", 8, (2, 4, 6), (0.9, 0.8, None), (0.1, 0.2, None)) for i in range(groups)]
    return Sensitivity("l1_norm", 0.95, 0.05, tuple(made))


def texts(figure: Figure) -> list[str]:
    (axes,) = figure.axes[:1]
    return [t.get_text() for t in (*axes.texts, *axes.get_yticklabels(), *axes.get_legend().get_texts())]


def test_bars_are_as_long_as_the_shares() -> None:
    figure = plots.bars(BARS)
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [1.0, 1.0, 1.0, 0.25, 1.0, 0.1]
    assert {"4 of 16  l1_norm", "32 of 32", "conv1", r"a\$b"} <= set(texts(figure))


def test_history_sets_trials_apart_and_the_best_never_falls() -> None:
    axes = plots.history(POINTS).axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "over budget",
        "within budget",
        "baselines",
        "best so far",
    ]
    (line,) = axes.lines
    assert list(line.get_ydata()) == [0.90, 0.90, 0.90, 0.90, 0.95]  # what is over budget does not count


def test_a_stopped_trial_is_never_the_best() -> None:
    points = [Point(0, 0.90), Point(1, 0.95, status="stopped"), Point(2, 0.91), Point(3, None, status="rejected")]
    assert plots.best_so_far(points) == ([0, 1, 2, 3], [0.90, 0.90, 0.91, 0.91])
    shown = {text.get_text() for text in plots.history(points).axes[0].get_legend().get_texts()}
    assert shown == {"stopped early", "within budget", "best so far"}


def test_best_so_far_passes_over_what_failed() -> None:
    numbers, values = plots.best_so_far([Point(3, 0.5), Point(4, None), Point(5, 0.4), Point(9, 0.6)])
    assert numbers == [3, 4, 5, 9]
    assert values == [0.5, 0.5, 0.5, 0.6]


def test_the_front_is_in_order_of_cost() -> None:
    (line,) = plots.front(POINTS, "macs").axes[0].lines
    assert list(line.get_xdata()) == [0.4, 0.45]
    assert list(line.get_ydata()) == [0.80, 0.95]


@pytest.mark.parametrize(("groups", "lines"), [(1, 2), (plots.MOST_LINES, plots.MOST_LINES + 1)])
def test_a_few_groups_are_lines_that_start_at_the_dense_network(groups: int, lines: int) -> None:
    axes = plots.sensitivity(curves(groups)).axes[0]
    assert len(axes.lines) == lines
    assert list(axes.lines[0].get_xdata()) == [0.0, 0.25, 0.5]
    assert list(axes.lines[0].get_ydata()) == [0.95, 0.9, 0.8]


def test_many_groups_are_a_map() -> None:
    axes = plots.sensitivity(curves(40)).axes[0]
    (image,) = axes.images
    assert image.get_array().shape == (40, 3)
    assert np.isnan(np.asarray(image.get_array().filled(np.nan), dtype=float)[:, 2]).all()


def test_the_nearest_achieved_sparsity_is_read() -> None:
    curve = curves(1).curves[0]
    assert [plots.nearest(curve, s) for s in (0.1, 0.3, 0.49, 0.9)] == [0.9, 0.9, 0.8, None]
    assert plots.nearest(Curve("g", 1, (), (), ()), 0.5) is None


def test_pictures_are_png_files_written_whole(tmp_path: Path) -> None:
    for name, figure in (
        ("bars", plots.bars(BARS)),
        ("none", plots.bars([])),
        ("history", plots.history(POINTS)),
        ("front", plots.front(POINTS)),
        ("lines", plots.sensitivity(curves(3))),
        ("map", plots.sensitivity(curves(30))),
    ):
        plots.save(figure, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 100
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(ArtifactError, match="cannot write"):
        plots.save(plots.bars(BARS), tmp_path / "bars.png" / "x.png")
