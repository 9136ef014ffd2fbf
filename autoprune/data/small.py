"""Small sets that scikit-learn carries: nothing to download, loaded in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from autoprune.data.splits import DataSplits
from autoprune.data.splitting import Samples, Sizes, deal


def load_digits(
    *,
    seed: int = 0,
    data_dir: Path | None = None,  # noqa: ARG001 - all loaders are called alike
    validation: float | int = 0.2,
    test: float | int = 0.2,
    calibration: float | int | None = None,
) -> DataSplits:
    """1,797 hand-written digits, float32 ``[N, 1, 8, 8]`` in [0, 1] before normalisation, 10 classes.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998 (its test part).
    """
    bunch = _bunch("load_digits")
    pool = Samples(
        torch.tensor(bunch.images / 16.0, dtype=torch.float32).unsqueeze(1), torch.tensor(bunch.target).long()
    )
    return _deal("digits", pool, bunch, seed, Sizes(validation, test, calibration))


def load_iris(
    *,
    seed: int = 0,
    data_dir: Path | None = None,  # noqa: ARG001 - all loaders are called alike
    validation: float | int = 0.2,
    test: float | int = 0.2,
    calibration: float | int | None = None,
) -> DataSplits:
    """150 flowers, 4 lengths in cm, 3 classes.

    Source: R. A. Fisher, "The use of multiple measurements in taxonomic problems", 1936.
    """
    return _table("iris", seed, Sizes(validation, test, calibration))


def load_wine(
    *,
    seed: int = 0,
    data_dir: Path | None = None,  # noqa: ARG001 - all loaders are called alike
    validation: float | int = 0.2,
    test: float | int = 0.2,
    calibration: float | int | None = None,
) -> DataSplits:
    """178 wines, 13 measurements, 3 growers.

    Source: S. Aeberhard and M. Forina, "Wine", UCI Machine Learning Repository, 1991.
    """
    return _table("wine", seed, Sizes(validation, test, calibration))


def load_breast_cancer(
    *,
    seed: int = 0,
    data_dir: Path | None = None,  # noqa: ARG001 - all loaders are called alike
    validation: float | int = 0.2,
    test: float | int = 0.2,
    calibration: float | int | None = None,
) -> DataSplits:
    """569 tumours, 30 measurements, malignant or benign.

    Source: W. Wolberg, O. Mangasarian, N. Street and W. Street, "Breast Cancer Wisconsin (Diagnostic)", UCI Machine
    Learning Repository, 1993.
    """
    return _table("breast_cancer", seed, Sizes(validation, test, calibration))


def _table(name: str, seed: int, sizes: Sizes) -> DataSplits:
    bunch = _bunch(f"load_{name}")
    pool = Samples(torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target).long())
    return _deal(name, pool, bunch, seed, sizes)


def _deal(name: str, pool: Samples, bunch: Any, seed: int, sizes: Sizes) -> DataSplits:
    classes = tuple(str(label) for label in bunch.target_names)
    return deal(name, pool, seed=seed, sizes=sizes, classes=classes, source=f"scikit-learn's copy of {name}")


def _bunch(loader: str) -> Any:
    import sklearn.datasets

    return getattr(sklearn.datasets, loader)()
