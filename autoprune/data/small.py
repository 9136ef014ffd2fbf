"""Small sets that scikit-learn carries: nothing to download, loaded in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.data.splits import DataSplits
from autoprune.data.splitting import Samples, Sizes, deal


def _measurements(bunch: Any) -> Tensor:
    """``[N, F]``, as they are."""
    return torch.tensor(bunch.data, dtype=torch.float32)


def _images(bunch: Any) -> Tensor:
    """``[N, 1, 8, 8]`` in [0, 1]."""
    return torch.tensor(bunch.images / 16.0, dtype=torch.float32).unsqueeze(1)


def _loader(name: str, about: str, inputs: Callable[[Any], Tensor] = _measurements) -> Callable[..., DataSplits]:
    """The function that loads scikit-learn's set called ``name``; ``about`` is its docstring."""

    def load(
        *,
        seed: int = 0,
        data_dir: Path | None = None,  # noqa: ARG001 - all loaders are called alike
        validation: float | int = 0.2,
        test: float | int = 0.2,
        calibration: float | int | None = None,
    ) -> DataSplits:
        import sklearn.datasets

        bunch = getattr(sklearn.datasets, f"load_{name}")()
        return deal(
            name,
            Samples(inputs(bunch), torch.tensor(bunch.target).long()),
            seed=seed,
            sizes=Sizes(validation, test, calibration),
            classes=tuple(str(label) for label in bunch.target_names),
            source=f"scikit-learn's copy of {name}",
        )

    load.__name__, load.__doc__ = f"load_{name}", about
    return load


load_digits = _loader(
    "digits",
    """1,797 hand-written digits, float32 ``[N, 1, 8, 8]`` in [0, 1] before normalisation, 10 classes.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998 (its test part).
    """,
    _images,
)
load_iris = _loader(
    "iris",
    """150 flowers, 4 lengths in cm, 3 classes.

    Source: R. A. Fisher, "The use of multiple measurements in taxonomic problems", 1936.
    """,
)
load_wine = _loader(
    "wine",
    """178 wines, 13 measurements, 3 growers.

    Source: S. Aeberhard and M. Forina, "Wine", UCI Machine Learning Repository, 1991.
    """,
)
load_breast_cancer = _loader(
    "breast_cancer",
    """569 tumours, 30 measurements, malignant or benign.

    Source: W. Wolberg, O. Mangasarian, N. Street and W. Street, "Breast Cancer Wisconsin (Diagnostic)", UCI Machine
    Learning Repository, 1993.
    """,
)
