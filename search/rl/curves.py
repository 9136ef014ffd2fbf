"""A learner's losses and rewards for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat


def curves(folder: str, name: str) -> Logger:
    """Where a learner's numbers go: to ``folder/name``, or nowhere."""
    if not folder:
        return Logger(None, [])
    path = str(Path(folder) / name)
    return Logger(path, [TensorBoardOutputFormat(path)])
