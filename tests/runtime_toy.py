"""A two-stage problem small enough for brute force: images of a few kinds, a network that half knows them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from autoprune.data import DataSplits, Split
from autoprune.envs import RuntimeTask
from autoprune.runtime import Chain
from autoprune.search.runtime.width_path import WidthPath

GROUPS = 4


class Toy(nn.Module):
    """Three convolutions, the last two gated, on ``[N, 2, 2, 2]``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 1)
        self.conv2 = nn.Conv2d(6, 4, 1)
        self.conv3 = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc(torch.relu(self.conv3(x)).mean((2, 3)))


def toy_task(kinds: int = 6, seed: int = 0) -> RuntimeTask:
    """A task whose images are ``kinds`` prototypes without noise: the best decisions can be counted."""
    noise = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(kinds, 2, 2, 2, generator=noise)
    labels = torch.arange(kinds) % 3
    model = Toy(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 1.2)
    split = Split(prototypes.repeat(4, 1, 1, 1), labels.repeat(4))
    data = DataSplits("toy", split, split, split, split, 3)
    return RuntimeTask(Chain(model.eval(), data.example(2), groups=GROUPS), data, "toy")


def toy_path(task: RuntimeTask) -> WidthPath:
    """The path that a training of the task goes along."""
    return WidthPath.of_least_harm(task.chain, task.data.calibration)


def returns(task: RuntimeTask, kinds: int, penalty: float, alpha: float) -> dict[tuple[int, ...], Tensor]:
    """What each row of actions pays for each prototype ``[kinds]``, by brute force."""
    x, y = task.data.train.inputs(slice(0, kinds)), task.data.train.y[:kinds]
    found = {}
    for row in itertools.product(range(1, GROUPS + 1), repeat=len(task)):
        with torch.no_grad():
            loss = nn.functional.cross_entropy(task.chain(x, list(row)), y, reduction="none")
        found[row] = penalty * (sum(row) - len(row)) - alpha * loss
    return found
