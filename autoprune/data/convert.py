"""From what a user has (loaders, datasets, arrays) to four splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.data.reading import is_array, read
from autoprune.data.splits import DataSplits, Split
from autoprune.data.splitting import Samples, Sizes, check_samples, deal, draw
from autoprune.errors import DataError, unknown_name
from autoprune.seeding import generator

_PARTS = ("train", "validation", "test", "calibration")
_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}
_FACTS = ("num_classes", "augment", "classes", "mean", "std", "normalise", "source")
_FORMS = (
    "splits are given as DataSplits, as a mapping with 'train' and perhaps 'validation' and 'test', or as a tuple in "
    "that order; each a DataLoader, a Dataset or a pair (x, y) of arrays"
)


def from_any(
    obj: Any,
    *,
    seed: int = 0,
    name: str = "custom",
    validation: float | int = 0.2,
    test: float | int = 0.2,
    calibration: float | int | None = None,
    **facts: Any,
) -> DataSplits:
    """Splits from whatever a user has.

    Args:
        obj: :class:`DataSplits` (returned as it is); a mapping with ``train`` and, where there are any,
            ``validation``, ``test`` and ``calibration``; a tuple (train, validation, test), also shorter; or the
            training samples alone. Each of them is a DataLoader, a Dataset, a :class:`Split`, or a pair (x, y) of
            arrays. They are read once, in a fixed order, and kept in memory as they come: float as float32, uint8 as
            uint8, integers as int64.
        seed: decides what is held out of train, where ``validation`` is not given, and what is drawn for calibration.
        name: what to call the data.
        validation: how much is held out of train where no validation samples are given.
        test: how much is held out of train where neither test nor validation samples are given; where there are
            validation samples but no test samples, half of the validation samples become the test split.
        calibration: how much is drawn from train.
        facts: ``num_classes`` (highest class + 1 by default), ``augment``, ``classes``, ``source``; ``mean`` and
            ``std`` per channel that inputs are to be normalised by, or ``normalise=True`` to take them from the train
            split. A mapping may hold these too.

    Raises:
        DataError: nothing that could be samples, or samples that do not fit together.
    """
    if isinstance(obj, DataSplits):
        return obj
    parts, found = _parts(obj)
    facts = {**found, **facts}
    for fact in facts:
        if fact not in _FACTS:
            raise unknown_name("option of data", fact, _FACTS)
    normalise = _normalise(parts["train"], facts)
    samples = {part: read(value, f"{part} data of {name!r}", seed) for part, value in parts.items()}
    for part, some in samples.items():
        check_samples(f"{name}:{part}", some)
    if "validation" in samples and "test" not in samples:
        samples["validation"], samples["test"] = _halve(samples["validation"], name)
    pool = samples.pop("train")
    sizes = Sizes(validation, test, calibration)
    given: dict[str, Any] = dict(samples)
    return deal(name, pool, seed=seed, sizes=sizes, **given, normalise=normalise, **_told(facts))


def _parts(obj: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each split's samples, and the facts that came with them."""
    if isinstance(obj, Mapping):
        return _from_mapping(obj)
    if isinstance(obj, (tuple, list)) and not _is_pair(obj):
        if not 1 <= len(obj) <= 3:
            raise DataError(f"{_FORMS}; but got a {type(obj).__name__} of {len(obj)}")
        named = dict(zip(("train", "validation", "test"), obj, strict=False))
        return {part: value for part, value in named.items() if value is not None}, {}
    if obj is None:
        raise DataError(f"{_FORMS}; but got None")
    return {"train": obj}, {}


def _from_mapping(given: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    parts: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for key, value in given.items():
        key = _ALIASES.get(key, key)
        if key not in (*_PARTS, *_FACTS):
            raise unknown_name("split", str(key), (*_PARTS, *_FACTS))
        if value is not None:
            (parts if key in _PARTS else facts)[key] = value
    if "train" not in parts:
        raise DataError(f"{_FORMS}; but got a mapping without 'train' ({', '.join(map(str, given)) or 'empty'})")
    return parts, facts


def _is_pair(obj: Sequence[Any]) -> bool:
    return len(obj) == 2 and all(is_array(part) for part in obj)


def _halve(validation: Samples, name: str) -> tuple[Samples, Samples]:
    taken, rest = draw(validation.y, len(validation.y) // 2, generator(0, "test"), name, keep=0)
    return Samples(validation.x[rest], validation.y[rest]), Samples(validation.x[taken], validation.y[taken])


def _normalise(train: Any, facts: dict[str, Any]) -> bool | tuple[Tensor, Tensor]:
    mean, std = facts.get("mean"), facts.get("std")
    if isinstance(train, Split) and mean is None and std is None:
        mean, std = train.mean, train.std
    if (mean is None) != (std is None):
        raise DataError("mean and std go together: give both or neither")
    if mean is None or std is None:
        return bool(facts.get("normalise", False))
    return _statistic(mean, "mean"), _statistic(std, "std")


def _statistic(value: Any, label: str) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{label} must be numbers, one a channel, but got {value!r}") from error


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    told = {key: facts[key] for key in ("num_classes", "augment", "source") if facts.get(key) is not None}
    if facts.get("classes"):
        told["classes"] = tuple(str(label) for label in facts["classes"])
    return told
