"""Options of the controller ``threshold_mlp``: frozen, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from autoprune.checks import in_range, whole
from autoprune.errors import SettingsError, unknown_name
from autoprune.search.threshold.ensemble import FitSettings

if TYPE_CHECKING:
    from autoprune.space import SearchSpace


def option(default: Any, text: str) -> Any:
    """One option with its default and what it is."""
    return field(default=default, metadata={"text": text})


@dataclass(frozen=True)
class ThresholdOptions:
    """What the controller is told. The sentences are those of ``autoprune list controllers``."""

    predictor: str = option("", "folder of a stored predictor to start from (default none: it knows nothing)")
    drop: float = option(0.02, "in a Pareto search: accuracy that may be lost, in [0, 1) (default 0.02)")
    kappa: float = option(1.0, "standard deviations on the safe side of that (default 1)")
    startup: int | None = option(None, "random trials to begin with (default: by the number of trials)")
    curves: bool = option(True, "learn from the greedy baseline's curves of each group pruned alone (default true)")
    patience: int = option(
        8, "stop when the choice repeats and so many trials brought nothing; 0 for never (default 8)"
    )
    fit_steps: int = option(150, "steps of each fit (default 150)")
    members: int = option(5, "networks of the ensemble, at least 2 (default 5)")
    hidden: int = option(64, "units of their two hidden layers (default 64)")
    monotone: float = option(0.1, "penalty on a drop that falls as the threshold rises; 0 for none (default 0.1)")

    def __post_init__(self) -> None:
        for name in ("startup", "patience"):
            if getattr(self, name) is not None:
                whole(f"option {name!r}", getattr(self, name))
        in_range("option 'drop'", self.drop, least=0.0, below=1.0)
        in_range("option 'kappa'", self.kappa, least=0.0)
        if not isinstance(self.curves, bool):
            raise SettingsError(f"option 'curves' must be true or false, but got {self.curves!r}")
        if not isinstance(self.predictor, str):
            raise SettingsError(f"option 'predictor' must be a folder, but got {self.predictor!r}")
        self.fitting()

    @classmethod
    def make(cls, given: Mapping[str, Any]) -> Self:
        """Options from names and values.

        Raises:
            SettingsError: a value that an option cannot take.
            UnknownNameError: no such option.
        """
        known = cls.described()
        for name in given:
            if name not in known:
                raise unknown_name("option of controller 'threshold_mlp'", name, known)
        return cls(**given)

    @classmethod
    def described(cls) -> dict[str, str]:
        """Names with what they are."""
        return {f.name: f.metadata["text"] for f in fields(cls)}

    def fitting(self) -> FitSettings:
        """How the surrogate is fitted."""
        return FitSettings(members=self.members, hidden=self.hidden, steps=self.fit_steps, monotone=self.monotone)


def verify(options: Mapping[str, Any], space: SearchSpace) -> None:
    """Refuse options and spaces that cannot be, before any work.

    Raises:
        SettingsError, UnknownNameError: what cannot be.
        ArtifactError: no predictor in the folder, or one of another version of the features.
    """
    from autoprune.search.threshold.stored import read_predictor

    settings = ThresholdOptions.make(options)
    refuse_repairs("threshold_mlp", space)
    if settings.predictor:
        read_predictor(settings.predictor)


def refuse_repairs(name: str, space: SearchSpace) -> None:
    """Refuse a space with several repairs to choose from."""
    if len(space.reconstructions) > 1:
        raise SettingsError(
            f"controller {name!r} decides how much of each group goes and by which method, not the repair: "
            f"give one reconstruction, not {', '.join(space.reconstructions)}"
        )
