"""``load_data``: from a name to four splits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.data.sources import DatasetSource
from autoprune.data.splits import DataSplits
from autoprune.errors import DataError, SettingsError, unknown_name
from autoprune.factories import accepted, call_factory, import_factory


def load(
    name: str, registry: Mapping[str, DatasetSource], *, seed: int, data_dir: Path | None, options: dict[str, Any]
) -> DataSplits:
    """:func:`autoprune.data.load_data` for a given registry."""
    head, colon, tail = name.partition(":")
    if colon and head in registry and "path" in registry[head].options:
        return load(head, registry, seed=seed, data_dir=data_dir, options={"path": tail, **options})
    if colon:
        return _from_factory(name, seed=seed, data_dir=data_dir, options=options)
    if name not in registry:
        raise unknown_name("dataset", name, registry)
    source = registry[name]
    _check_options(name, source, options)
    return source.load(seed=seed, data_dir=data_dir, **options)


def _check_options(name: str, source: DatasetSource, options: dict[str, Any]) -> None:
    for option in options:
        if option not in source.options:
            raise unknown_name(f"option of dataset {name!r}:", option, source.options)
    parameters = inspect.signature(source.load).parameters
    for option in source.options:
        if parameters[option].default is inspect.Parameter.empty and option not in options:
            raise SettingsError(f"dataset {name!r} needs the option {option!r}, for instance {name}:{option.upper()}")


def _from_factory(name: str, *, seed: int, data_dir: Path | None, options: dict[str, Any]) -> DataSplits:
    factory = import_factory(name, "dataset", DataError)
    given = {**accepted(factory, {"seed": seed, "data_dir": data_dir}), **options}
    made = call_factory(factory, name, given, "dataset", DataError)
    return DataSplits.from_any(made, seed=seed, name=name)
