"""What a run leaves for a reader."""

from __future__ import annotations

from autoprune.report.content import Bar, Point, Report, Row
from autoprune.report.page import COLUMNS, cells_of, render, write_report

__all__ = ["COLUMNS", "Bar", "Point", "Report", "Row", "cells_of", "render", "write_report"]
