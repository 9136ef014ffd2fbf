"""What a run leaves for a reader."""

from __future__ import annotations

from autoprune.report.content import Bar, Point, Report, Row
from autoprune.report.of_search import bars_of, counted, front_of, points_of, report_of, sizes_of
from autoprune.report.page import COLUMNS, cells_of, render, write_report

__all__ = [
    "COLUMNS",
    "Bar",
    "Point",
    "Report",
    "Row",
    "bars_of",
    "cells_of",
    "counted",
    "front_of",
    "points_of",
    "render",
    "report_of",
    "sizes_of",
    "write_report",
]
