"""What a registry entry is, and where data files are looked for."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoprune.data.splits import DataSplits


@dataclass(frozen=True)
class DatasetSource:
    """A dataset that :func:`autoprune.data.load_data` knows by name.

    Attributes:
        load: called as ``load(seed=..., data_dir=..., **options)``.
        description: one line for lists.
    """

    load: Callable[..., DataSplits]
    description: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that ``load`` takes."""
        return tuple(name for name in inspect.signature(self.load).parameters if name not in ("seed", "data_dir"))


def data_root(data_dir: str | Path | None = None) -> Path:
    """Folder of the data files: ``data_dir``, else ``AUTOPRUNE_DATA``, else the user's cache folder."""
    chosen = data_dir or os.environ.get("AUTOPRUNE_DATA")
    return Path(chosen).expanduser().absolute() if chosen else cache_root() / "data"


def cache_root() -> Path:
    """The user's cache folder, where decoded copies go even when the data folder is read-only."""
    import platformdirs

    return platformdirs.user_cache_path("autoprune")
