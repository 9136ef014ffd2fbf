"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count() or 1)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real datasets: ``AUTOPRUNE_DATA``, or ``shared/data`` beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("AUTOPRUNE_DATA") or beside)
    if not root.is_dir():
        pytest.skip(f"no datasets at {root}; set AUTOPRUNE_DATA")
    return root
