"""Datasets in four splits: ``load_data(name)``; a new dataset is one file and one line in ``DATASETS``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.data.cifar10 import load_cifar10
from autoprune.data.csv_table import load_csv
from autoprune.data.image_folder import load_image_folder
from autoprune.data.loading import load
from autoprune.data.mnist import load_mnist
from autoprune.data.small import load_breast_cancer, load_digits, load_iris, load_wine
from autoprune.data.sources import DatasetSource, data_root
from autoprune.data.splits import DataSplits, Split

DATASETS: dict[str, DatasetSource] = {
    "digits": DatasetSource(load_digits, "1,797 hand-written digits, 8x8, 10 classes (scikit-learn; the default)"),
    "iris": DatasetSource(load_iris, "150 flowers, 4 measurements, 3 classes (scikit-learn)"),
    "wine": DatasetSource(load_wine, "178 wines, 13 measurements, 3 classes (scikit-learn)"),
    "breast_cancer": DatasetSource(load_breast_cancer, "569 tumours, 30 measurements, 2 classes (scikit-learn)"),
    "mnist": DatasetSource(load_mnist, "70,000 hand-written digits, 28x28, 10 classes (IDX files, downloaded)"),
    "cifar10": DatasetSource(
        load_cifar10, "60,000 colour images, 32x32, 10 classes (published binary files or JPEG archive)"
    ),
    "image_folder": DatasetSource(load_image_folder, "images in class folders: image_folder:PATH"),
    "csv": DatasetSource(load_csv, "a table with a class column: csv:PATH"),
}
DEFAULT_DATASET = "digits"

__all__ = ["DATASETS", "DEFAULT_DATASET", "DataSplits", "DatasetSource", "Split", "data_root", "load_data"]


def load_data(name: str, *, seed: int = 0, data_dir: str | Path | None = None, **options: Any) -> DataSplits:
    """A dataset in four splits, in memory.

    Args:
        name: a key of :data:`DATASETS`; ``csv:FILE`` or ``image_folder:FOLDER``; or ``package.module:factory``, a
            function that returns :class:`DataSplits` or anything that :meth:`DataSplits.from_any` takes (it gets
            ``seed`` and ``data_dir`` where it has parameters of those names, and the options).
        seed: decides what is held out for validation, what is drawn for calibration, and the order of samples.
        data_dir: folder of the data files; else ``AUTOPRUNE_DATA``, else the user's cache folder.
        options: those of the dataset, such as ``validation`` (how much is held out: samples, or a share in (0, 1)).

    Raises:
        UnknownNameError: a dataset or an option that does not exist.
        SettingsError: an option outside what it may be.
        DataError: files that are missing, truncated, corrupt or not what they say.
    """
    root = None if data_dir is None else Path(data_dir)
    return load(name, DATASETS, seed=seed, data_dir=root, options=options)
