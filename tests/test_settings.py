"""Settings: one set of names for flags, TOML and Python; checked before work starts."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import SettingsError, UnknownNameError
from autoprune.settings import COMMANDS, NOTES, PruneSettings, SearchSettings, Settings, TrainSettings

MADE = [PruneSettings(sparsity=0.5) if cls is PruneSettings else cls() for cls in COMMANDS.values()]


@pytest.mark.parametrize("settings", MADE, ids=lambda s: s.command)
def test_defaults_survive_a_file(settings: Settings, tmp_path: Path) -> None:
    settings.save(tmp_path / "config.toml", {"torch": "2.13"})
    assert type(settings).load(tmp_path / "config.toml") == settings
    data = tomllib.loads((tmp_path / "config.toml").read_text())
    assert data["command"] == settings.command
    assert data[NOTES] == {"torch": "2.13"}


@given(
    trials=st.integers(1, 10**6),
    sparsity=st.floats(0.01, 0.99),
    methods=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3),
    options=st.dictionaries(st.text(min_size=1, max_size=5), st.one_of(st.integers(-9, 9), st.booleans(), st.text())),
)
def test_any_values_survive_toml(trials: int, sparsity: float, methods: list[str], options: dict[str, Any]) -> None:
    settings = SearchSettings.make(
        {"trials": trials, "max_sparsity": sparsity, "methods": methods, "model_options": options}
    )
    read = tomllib.loads(settings.to_toml())
    assert read.pop("command") == "search"
    assert SearchSettings.make(read) == settings


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('trials = 7\nbudget = ["params=0.3"]\n[model_options]\nwidth = 0.5\n')
    settings = SearchSettings.load(path, {"trials": 9, "model-options": ["width=0.25"]})
    assert (settings.trials, settings.budget, settings.model_options) == (9, ("params=0.3",), {"width": 0.25})


def test_dashes_and_underscores_are_one_name() -> None:
    assert SearchSettings.make({"max-sparsity": 0.5}) == SearchSettings.make({"max_sparsity": 0.5})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("w=0.5", 0.5),
        ("w=3", 3),
        ("w=true", True),
        ("w=[1, 2]", [1, 2]),
        ('w="3"', "3"),
        ("w=relu", "relu"),
        ("w=", ""),
    ],
)
def test_pairs_are_read_as_toml_or_as_text(text: str, value: object) -> None:
    assert SearchSettings.make({"model_options": [text]}).model_options == {"w": value}


def test_settings_cannot_be_changed() -> None:
    settings = SearchSettings()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        settings.trials = 3  # type: ignore[misc]


BAD = [
    (SearchSettings, {"trails": 5}, UnknownNameError, r"unknown setting 'trails'; did you mean 'trials'"),
    (SearchSettings, {"trials": 0}, SettingsError, r"setting 'trials': .* greater than or equal to 1, but got 0"),
    (SearchSettings, {"trials": True}, SettingsError, r"setting 'trials': .*valid integer, but got True"),
    (SearchSettings, {"trials": 2.5}, SettingsError, r"setting 'trials'"),
    (SearchSettings, {"max_sparsity": 1.0}, SettingsError, r"setting 'max_sparsity': .* less than 1, but got 1.0"),
    (SearchSettings, {"max_sparsity": float("nan")}, SettingsError, r"setting 'max_sparsity'"),
    (SearchSettings, {"budget": []}, SettingsError, r"a search needs a budget"),
    (SearchSettings, {"pareto": ["a", "b", "c"]}, SettingsError, r"setting 'pareto'"),
    (
        SearchSettings,
        {"handling": "clip"},
        SettingsError,
        r"setting 'handling': .*'project' or 'reject', but got 'clip'",
    ),
    (SearchSettings, {"model_options": ["width"]}, SettingsError, r"must be written as NAME=VALUE, but got 'width'"),
    (SearchSettings, {"seed": -1}, SettingsError, r"setting 'seed'"),
    (SearchSettings, {"base": 3}, SettingsError, r"setting 'base'"),
    (TrainSettings, {"base": "x"}, UnknownNameError, r"unknown setting 'base'"),
    (TrainSettings, {"lr": 0}, SettingsError, r"setting 'lr': .* greater than 0"),
    (
        PruneSettings,
        {},
        SettingsError,
        r"exactly one of plan, thresholds, sparsity and budget must be given, but got none",
    ),
    (PruneSettings, {"sparsity": 0.5, "budget": ["macs=0.5"]}, SettingsError, r"but got sparsity and budget"),
    (PruneSettings, {"sparsity": 1.0}, SettingsError, r"setting 'sparsity': .*less than 1, but got 1.0"),
    (
        PruneSettings,
        {"budget": ["macs=0.5"], "pattern": "weight"},
        SettingsError,
        r"budget goes with pattern 'channel'",
    ),
]


@pytest.mark.parametrize(("cls", "values", "error", "match"), BAD)
def test_bad_values_are_refused_with_the_setting_and_the_value(
    cls: type[Settings], values: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        cls.make(values)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("trials =", r"are not TOML: "),
        ('command = "train"\n', r"are for 'autoprune train', not for 'autoprune search'"),
        ("trails = 3\n", r"unknown setting 'trails'.* in .*s\.toml"),
        ("trials = 0\n", r"setting 'trials' in .*s\.toml: .*but got 0"),
    ],
)
def test_bad_files_are_refused_with_their_name(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises((SettingsError, UnknownNameError), match=match):
        SearchSettings.load(path, {"trials": 3})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read settings .*No such file"):
        SearchSettings.load(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="Is a directory"):
        SearchSettings.load(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="UTF-8"):
        SearchSettings.load(tmp_path / "b.toml")


def test_differences_name_both_sides() -> None:
    first, second = SearchSettings(trials=5), SearchSettings(trials=6, seed=1, timeout_s=3.0)
    assert first.differences(second, ignore=frozenset({"trials"})) == {"seed": (0, 1), "timeout_s": (None, 3.0)}


def test_every_training_setting_of_the_engine_can_be_given() -> None:
    from autoprune.cli.train import TRAINING
    from autoprune.training import TrainSettings as Engine

    assert set(TRAINING) == {f.name for f in dataclasses.fields(Engine)} <= set(TrainSettings.model_fields)


def test_retraining_has_the_names_and_defaults_of_the_engine() -> None:
    from autoprune.finetune import FinetuneSettings
    from autoprune.opening import finetune_of

    settings = SearchSettings(retrain_steps=0)
    for field in dataclasses.fields(FinetuneSettings):
        name = field.name if field.name.startswith("distill") else f"retrain_{field.name}"
        assert getattr(settings, name) in (field.default, None), name
    assert finetune_of(settings, "resnet20") == FinetuneSettings()


def test_retraining_of_other_networks_forgives_more() -> None:
    from autoprune.opening import finetune_of

    own = finetune_of(SearchSettings(retrain_steps=10), "package.module:factory")
    assert (own.optimizer, own.lr, own.weight_decay, own.steps) == ("adamw", 5e-4, 0.01, 10)
    given = finetune_of(SearchSettings(retrain_lr=0.3, retrain_optimizer="sgd"), "package.module:factory")
    assert (given.optimizer, given.lr, given.weight_decay) == ("sgd", 0.3, 5e-4)
    looked = finetune_of(SearchSettings(retrain_steps=50, pruner="median"), "mlp")
    assert looked.report_every == 10
