"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.data import DataSplits, load_data
from autoprune.finetune import FinetuneSettings, finetune
from autoprune.models import build_model
from autoprune.seeding import seeded


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count() or 1)))


@contextmanager
def single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from a second thread."""
    with single_thread():
        yield


@pytest.fixture(scope="session")
def data() -> DataSplits:
    """Hand-written digits."""
    return load_data("digits")


@pytest.fixture(scope="session")
def model(data: DataSplits) -> nn.Module:
    """A network trained on ``data``; no test may change it."""
    with seeded(0, "model"):
        network = build_model("digits_cnn")
    with single_thread():
        finetune(network, data.train, FinetuneSettings(steps=120, lr=0.05), seed=0)
    return network


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real datasets: ``AUTOPRUNE_DATA``, or ``shared/data`` beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("AUTOPRUNE_DATA") or beside)
    if not root.is_dir():
        pytest.skip(f"no datasets at {root}; set AUTOPRUNE_DATA")
    return root
