"""Trains the network that comes with the package: ``python -m autoprune.envs.make_assets``.

The folder is an ordinary stored network (:mod:`autoprune.artifacts`): ``autoprune.load`` reads it, and every command
takes it as ``--base``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from autoprune.artifacts import NetworkSpec, load, read_network, save_network
from autoprune.data import load_data
from autoprune.envs.tasks import ASSETS
from autoprune.models import default_options
from autoprune.training import TrainSettings, train_network

DATA, MODEL, SEED = "digits", "digits_cnn", 0


def make(folder: Path) -> dict[str, Any]:
    """Train ``digits_cnn`` on the digits and store it in ``folder``; accuracy and loss on validation and test."""
    data = load_data(DATA, seed=SEED)
    spec = NetworkSpec(MODEL, default_options(MODEL, data))
    options: dict[str, Any] = {"data": DATA, "seed": SEED, "options": {}}
    options |= {"input_shape": list(data.input_shape), "input_type": str(data.example(1).dtype)}
    with tempfile.TemporaryDirectory() as work:
        metrics = train_network(spec, data, TrainSettings.fitting(MODEL, data), Path(work), data_options=options)
        module, stored = load(work), read_network(work)
        kept = {split: metrics[split] for split in ("validation", "test")}  # no times: the same bytes each time
        save_network(folder, module, spec, data=stored.data, metrics=kept)
    return kept


if __name__ == "__main__":
    print(make(ASSETS / MODEL))
