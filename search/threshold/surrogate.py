"""The surrogate: features in, harm with its uncertainty out. Scaling is scikit-learn's, the ensemble torch's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoprune.search.threshold.ensemble import Batch, Ensemble, FitSettings, fit, sums
from autoprune.search.threshold.examples import Examples
from autoprune.search.threshold.features import NAMES, REMOVED, RETRAINING, THRESHOLD, Rows
from autoprune.seeding import generator

Floats = NDArray[np.float64]
_STEPS = 1  # place of the steps in RETRAINING
_RISE = 0.1  # of the threshold in units of the mean norm, for the penalty on harm that falls


@dataclass(frozen=True, eq=False)
class Predicted:
    """Harm of ``T`` plans (or rows).

    Attributes:
        members: ``[M, T]`` mean of each member.
        within: ``[T]`` variance that members see in the outcomes themselves, their mean.
    """

    members: Floats
    within: Floats

    @property
    def mean(self) -> Floats:
        """``[T]`` mean of the ensemble."""
        found: Floats = self.members.mean(0)
        return found

    @property
    def std(self) -> Floats:
        """``[T]`` how unsure the ensemble is of its mean."""
        found: Floats = self.members.std(0)
        return found

    def spread(self, noise: Floats | float = 0.0) -> Floats:
        """``[T]`` standard deviation of what a measurement with this variance of its own will give."""
        found: Floats = np.sqrt(self.members.var(0) + self.within + noise)
        return found


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted ensemble.

    Attributes:
        mean, scale: ``[F]`` of the features, from what it was fitted on.
        net: the ensemble.
        settings: it was fitted with.
    """

    mean: Rows
    scale: Rows
    net: Ensemble
    settings: FitSettings

    @classmethod
    def fitted(cls, examples: Examples, settings: FitSettings, seed: int) -> Surrogate:
        """A new one."""
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(examples.rows.astype(np.float64))
        mean, scale = scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)
        net = Ensemble(len(NAMES), len(RETRAINING), settings, generator(seed, "ensemble"))
        made = cls(mean, scale, net, settings)
        made._fit(examples, settings, seed)
        return made

    def refitted(self, examples: Examples, settings: FitSettings, seed: int) -> Surrogate:
        """One that knows ``examples`` too: fitted on from here, and held near."""
        net = Ensemble(len(NAMES), len(RETRAINING), self.settings, generator(seed, "ensemble"))
        net.load_state_dict(self.net.state_dict())
        made = Surrogate(self.mean, self.scale, net, self.settings)
        made._fit(examples, settings, seed, dict(self.net.state_dict()))
        return made

    def _fit(
        self, examples: Examples, settings: FitSettings, seed: int, start: dict[str, Tensor] | None = None
    ) -> None:
        rise = torch.zeros(len(NAMES))
        rise[THRESHOLD], rise[REMOVED] = _RISE / float(self.scale[THRESHOLD]), _RISE / float(self.scale[REMOVED])
        with one_thread():
            batch = self._batch(examples, seed)
            fit(self.net, batch, settings, seed, rise, start)

    def rows(self, rows: Rows) -> Predicted:
        """What pruning each group does by itself, ``rows [R, F]``."""
        with torch.inference_mode(), one_thread():
            mean, variance = self.net(*self._standard(rows))
        return Predicted(mean.double().numpy(), variance.double().mean(0).numpy())

    def plans(self, examples: Examples) -> Predicted:
        """What whole plans do; measured harms in ``examples`` are not looked at."""
        with torch.inference_mode(), one_thread():
            mean, variance = sums(self.net, self._batch(examples, None))
        return Predicted(mean.double().numpy(), variance.double().mean(0).numpy())

    def _standard(self, rows: Rows) -> tuple[Tensor, Tensor]:
        x = ((rows - self.mean) / self.scale).clip(-5, 5)
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(rows[:, REMOVED].copy())

    def _batch(self, examples: Examples, seed: int | None) -> Batch:
        """Tensors; with a ``seed`` each member gets weights of its own on the examples (a Bayesian bootstrap)."""
        x, removed = self._standard(examples.rows)
        places = list(RETRAINING)
        context = ((examples.retraining - self.mean[places]) / self.scale[places]).clip(-5, 5)
        weight = torch.from_numpy(examples.weight).expand(self.settings.members, -1)
        if seed is not None:
            draws = np.random.default_rng(seed)
            weight = weight * torch.from_numpy(0.5 + 0.5 * draws.exponential(size=weight.shape).astype(np.float32))
        return Batch(
            x,
            removed,
            torch.from_numpy(examples.owner),
            torch.from_numpy(context.astype(np.float32)),
            torch.from_numpy((examples.retraining[:, _STEPS] > 0).astype(np.float32)),
            torch.from_numpy(examples.harm),
            torch.from_numpy(examples.noise),
            weight,
            torch.from_numpy(examples.counts),
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """The matrices are small, and sums of several threads are not the same every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
