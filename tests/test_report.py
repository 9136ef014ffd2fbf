"""The report: one page that needs nothing else, and shows what it was given."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoprune.report import Bar, Point, Report, Row, bars_of, cells_of, front_of, render, write_report
from autoprune.report.format import duration, milliseconds, number, percent, size

EVIL = '</script><script>alert("x")</script>'
ROWS = (
    Row("dense", 0.9712, macs=266_200, params=266_610, bytes=1_066_440, latency_ms=0.2134, test=0.96),
    Row("uniform", 0.93, 0.5, 0.6, 0.93, 0.92, 133_000, 133_222, 533_444, 0.15, True, 0),
    Row("greedy", None, fits=False, trial=2, note=f"failed: {EVIL}"),
    Row("best found", 0.9691, 0.7, 0.8, 0.9691, 0.955, 133_000, 133_222, 533_444, 0.14, True, 31),
)
POINTS = (
    Point(0, 0.93, {"macs": 0.5}, source="uniform", baseline=True),
    Point(1, 0.95, {"macs": 0.4}, source="tpe", front=True),
    Point(2, None, {"macs": 0.45}, status="failed", source=EVIL),
    Point(3, 0.97, {"macs": 0.6}, feasible=False, source="tpe"),
)
BARS = (Bar("conv1", 16, 4, "l1_norm"), Bar(EVIL, 32, 32), Bar("a$b$c", 10, 1, "fpgm"))
REPORT = Report(f"net on data {EVIL}", (("budget", "macs <= 50%"), (EVIL, EVIL)), ROWS, POINTS, BARS, notes=("a < b",))


class Page(HTMLParser):
    """What a browser makes of the page: its cells, and everything that would be fetched or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self._where = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._where = tag
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._where = ""

    def handle_data(self, data: str) -> None:
        if self._where in ("td", "th"):
            self.cells[-1] += data
        if self._where == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(REPORT))


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert page.links == []
    assert sum(len(script) for script in page.scripts) > 1_000_000  # the library for the figures is inside, once
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1


def test_names_cannot_become_code(page: Page) -> None:
    assert not any(re.match(r"\s*alert\(", script) for script in page.scripts)
    assert EVIL not in render(REPORT)
    assert EVIL in page.cells  # but it is shown, letter for letter


def test_the_table_shows_every_row(page: Page) -> None:
    for row in ROWS:
        for cell in cells_of(row):
            assert cell in page.cells
    assert "97.12%" in page.cells
    assert "266,200" in page.cells


def test_cells_say_what_is_missing_and_why() -> None:
    greedy = cells_of(ROWS[2])
    assert greedy[0] == "greedy"
    assert greedy[2].startswith("failed")
    assert greedy[-1] == "not met"
    assert cells_of(ROWS[0])[-1] == ""
    assert cells_of(ROWS[3])[1] == "80.00%"  # before retraining: after recalibration, where there was one
    assert cells_of(ROWS[0])[1] == "-"


def test_figures_hold_the_data(page: Page) -> None:
    figures = " ".join(script for script in page.scripts if len(script) < 1_000_000)
    assert figures.count("Plotly.newPlot") == 3
    assert "trial 1 (tpe)" in figures
    assert "4 of 16" in figures
    assert "over budget" in figures
    assert "no result" in figures


def test_a_page_without_trials_or_plan_is_a_page() -> None:
    text = render(Report("empty", (), (Row("dense", 0.9),), (), ()))
    assert "90.00%" in text


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path / "deep" / "report.html")
    text = (tmp_path / "deep" / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>\n")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (percent(0.97123), "97.12%"),
        (percent(None), "-"),
        (percent(1.0, 0), "100%"),
        (number(1234567), "1,234,567"),
        (size(999), "999 B"),
        (size(94_500), "94.5 kB"),
        (size(1_500_000), "1.5 MB"),
        (size(2.5e9), "2.50 GB"),
        (milliseconds(0.09541), "0.0954 ms"),
        (milliseconds(None), "-"),
        (duration(5), "0:05"),
        (duration(95.4), "1:35"),
        (duration(3725), "1:02:05"),
        (duration(None), "-"),
    ],
)
def test_numbers_as_people_read_them(text: str, wanted: str) -> None:
    assert text == wanted


def test_the_front_is_what_nothing_beats_in_both() -> None:
    pairs = [(0.9, 0.5), (0.9, 0.4), (0.8, 0.45), (0.95, 0.6), (0.95, 0.6), (0.7, 0.1)]
    points = [Point(i, accuracy, {"macs": cost}) for i, (accuracy, cost) in enumerate(pairs)]
    outside = [Point(9, 1.0, {"macs": 0.01}, feasible=False), Point(10, None), Point(11, 1.0, {"params": 0.1})]
    assert front_of([*points, *outside], "macs") == {1, 3, 5}


def test_bars_follow_the_network_and_then_what_it_does_not_know() -> None:
    from autoprune.costs import Cost
    from autoprune.outcome import LayerOutcome, Outcome, Status
    from autoprune.plan import Plan

    lines = (
        LayerOutcome("b", "fpgm", "channel", 8, 6, 0.75, 1, 1),
        LayerOutcome("input", "l1_norm", "input", 4, 1, 0.25, 0, 0),
    )
    outcome = Outcome(Plan(), Status.OK, Cost(1, 1, 1), layers=lines)
    assert bars_of(outcome, {"a": 16, "b": 8}) == (
        Bar("a", 16, 16),
        Bar("b", 8, 2, "fpgm"),
        Bar("input", 4, 3, "l1_norm"),
    )
    weights = (LayerOutcome("fc", "magnitude", "weight", 100, 60, 0.6, 40, 100),)
    masked = Outcome(Plan(), Status.OK, Cost(1, 1, 1), layers=weights)
    assert bars_of(masked, {"a": 16}) == (Bar("fc", 100, 40, "magnitude"),)
