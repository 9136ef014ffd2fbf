"""A long search on digits in a process of its own; prints its peak memory after 50 trials and at the end."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from autoprune import Objective, ObjectiveSettings, build_model, load_data
from autoprune.finetune import FinetuneSettings
from autoprune.search import Progress, TrialRecord, search


class Peaks(Progress):
    """Peak resident memory in MiB, by number of proposals done."""

    def __init__(self) -> None:
        self.mib: dict[int, float] = {}

    def trial_finished(self, record: TrialRecord, best: TrialRecord | None, done: int) -> None:
        self.mib[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: str, trials: int) -> None:
    torch.set_num_threads(1)
    model = build_model("digits_cnn", input_shape=(1, 8, 8), num_classes=10)
    settings = ObjectiveSettings(finetune=FinetuneSettings(steps=2, batch_size=32), stages="final")
    objective = Objective(model, load_data("digits"), settings=settings)
    peaks = Peaks()
    found = search(
        objective, budget="macs=0.5", trials=trials, controller="random", run_dir=Path(folder), progress=peaks
    )
    print(json.dumps({"trials": len(found.trials), "after_50": peaks.mib[50], "after_all": peaks.mib[trials]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
