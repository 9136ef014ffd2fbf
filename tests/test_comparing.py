"""Studies side by side: golden values worked by hand, what may be compared, and what must not change the answer."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from autoprune import Objective, ObjectiveSettings, build_model, load_data, plots
from autoprune.cli.compare import studies_of
from autoprune.cli.main import app
from autoprune.costs import Budget, Cost
from autoprune.errors import SettingsError, StudyError
from autoprune.finetune import FinetuneSettings
from autoprune.hypervolume import hypervolume
from autoprune.outcome import Outcome, Status
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.search import search
from autoprune.search.comparing import compare
from autoprune.search.comparison import Difference, Summary
from autoprune.search.records import TrialRecord
from autoprune.search.running import facts
from autoprune.search.studies import StoredStudy, open_study
from autoprune.seeding import seeded
from autoprune.space import SearchSpace

DENSE = Cost(params=100, macs=1000, bytes=500)
FACTS: dict[str, Any] = {
    "version": 1,
    "model": "m",
    "graph": "g",
    "data": "d",
    "objective": {"finetune": {"steps": 30}, "precision": "auto", "race": None, "seed": 0},
    "space": {"methods": ["l1_norm"]},
    "metrics": ["accuracy"],
    "budget": {"macs": 0.5},
}


def trial(number: int, accuracy: float | None, status: str = "ok", **given: Any) -> TrialRecord:
    """A trial of a study made by hand; each has a plan of its own."""
    macs, params = given.pop("macs", 500), given.pop("params", 50)
    plan = Plan(steps=given.pop("plan", number))
    cost = Cost(params=params, macs=macs, bytes=250)
    judged = status not in ("rejected", "running")
    outcome = Outcome(plan, Status(status), cost, accuracy=accuracy) if judged else None
    record = TrialRecord(number, status, plan, outcome=outcome, cost=cost, controller="tpe", wall_s=float(number))
    return replace(record, **given)


def study(name: str, trials: Sequence[TrialRecord], *, by: str = "tpe", seed: int = 0, **facts: Any) -> StoredStudy:
    named = tuple(replace(t, seed=seed, controller=t.baseline or by) for t in trials)
    return StoredStudy(name, f"'{name}/study.db'", {**FACTS, **facts}, named, DENSE)


def plain(accuracies: Sequence[float], name: str = "s", **given: Any) -> StoredStudy:
    return study(name, [trial(i, a) for i, a in enumerate(accuracies)], **given)


MIXED = [
    trial(0, 0.80, baseline="uniform"),
    trial(1, 0.99, baseline="greedy", violations={"macs": 0.1}),  # over budget: no reference
    trial(2, None, "failed"),
    trial(3, 0.70),
    trial(4, None, "rejected", violations={"macs": 0.2}),
    trial(5, 0.95, "stopped"),  # of a part of the images
    trial(6, 0.99, violations={"macs": 0.3}),
    trial(7, 0.75, plan=3),
    trial(8, 0.72, plan=0),
    trial(9, None, "rejected", violations={"macs": 0.2}),
    trial(10, None, "running"),
]


def test_what_counts_as_an_evaluation_and_what_as_best() -> None:
    found = compare([study("a", MIXED)])
    (group,) = found.groups
    assert group.members[0].curve == (None, 0.70, 0.70, 0.70, 0.75, 0.75)
    assert (found.evaluations, found.checkpoints) == (6, (2, 3, 6))
    assert group.counts(6) == {"failed": 1, "stopped": 1, "rejected": 1, "repeated": 2}
    assert group.counts(2) == {"failed": 1, "stopped": 0, "rejected": 0, "repeated": 0}
    assert group.seconds(6) == pytest.approx((2 + 3 + 5 + 6 + 7 + 8) / 6)
    assert found.baselines == {"uniform": Summary(0.80, None, 1)}
    assert found.differences == ()


def test_means_spreads_and_paired_differences_by_hand() -> None:
    studies = [
        plain([0.50, 0.70, 0.60, 0.80], "a0", seed=0),
        plain([0.60, 0.60, 0.90, 0.50, 0.99], "a1", seed=1),
        plain([0.55, 0.75, 0.75, 0.70], "b1", by="sac", seed=1),
        plain([0.40, 0.95, 0.10, 0.70], "b0", by="sac", seed=0),
        plain([0.10, 0.20, 0.10, 0.97], "b7", by="sac", seed=7),
    ]
    found = compare(studies)
    tpe, sac = found.groups
    assert (found.evaluations, found.checkpoints) == (4, (1, 2, 4))
    assert [tpe.at(n).mean for n in (1, 2, 4)] == pytest.approx([0.55, 0.65, 0.85])
    assert tpe.at(4).spread == pytest.approx(math.sqrt(0.005))  # (0.80, 0.90)
    assert sac.at(4).mean == pytest.approx((0.75 + 0.95 + 0.97) / 3)
    assert sac.at(4).seeds == 3
    (difference,) = found.differences
    assert difference.values == pytest.approx((0.75 - 0.90, 0.95 - 0.80))  # seeds 1 and 0; seed 7 has no partner
    assert difference.summary.mean == pytest.approx(0.0)
    assert difference.summary.spread == pytest.approx(math.sqrt(2) * 0.15)
    assert (difference.higher, difference.p_value) == (1, None)
    assert found.notes == ("Every study has 4 evaluations; more have tpe (4 to 5).",)
    assert found.groups[0].members[1].curve[-1] == 0.99  # curves are whole


def test_one_seed_claims_no_spread_and_no_common_seed_no_difference() -> None:
    found = compare([plain([0.5], "a"), plain([0.6], "b", by="sac", seed=1)])
    assert [g.at(1) for g in found.groups] == [Summary(0.5, None, 1), Summary(0.6, None, 1)]
    assert found.differences[0].summary == Summary(None, None, 0)
    assert Summary.of([0.5, None]) == Summary(None, None, 2)


def test_a_study_that_found_nothing_leaves_no_mean() -> None:
    nothing = study("n", [trial(0, None, "failed"), trial(1, 0.9, violations={"macs": 0.1})], seed=1)
    both = [plain([0.5, 0.6], "b0", by="sac", seed=0), plain([0.5, 0.7], "b1", by="sac", seed=1)]
    found = compare([plain([0.5, 0.5], "a"), nothing, *both])
    assert found.groups[0].at(2) == Summary(None, None, 2)
    assert found.differences[0].values == pytest.approx((0.1,))
    (note,) = found.notes
    assert note.startswith("tpe found nothing within the budget in 1 of 2 studies")


def test_the_p_value_is_the_share_of_sign_patterns_that_are_as_far_apart() -> None:
    values = (0.03, 0.01, -0.005, 0.02, 0.015, 0.01)
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=6)
    ]
    share = sum(total >= abs(sum(values)) - 1e-12 for total in sums) / len(sums)
    assert Difference("b", "a", values).p_value == pytest.approx(share)
    assert Difference("b", "a", (0.1,) * 5).p_value == pytest.approx(2 / 32)
    assert Difference("b", "a", (0.1,) * 4).p_value is None
    assert Difference("b", "a", (0.0,) * 5).p_value == 1


def test_baselines_of_one_seed_count_once() -> None:
    def with_baseline(value: float, **given: Any) -> StoredStudy:
        return study(f"{value}{given}", [trial(0, value, baseline="uniform"), trial(1, value)], **given)

    found = compare([with_baseline(0.5, seed=0), with_baseline(0.7, seed=1), with_baseline(0.5, seed=0, by="sac")])
    assert found.baselines["uniform"].mean == pytest.approx(0.6)
    assert found.baselines["uniform"].seeds == 2


def test_fronts_are_compared_by_hypervolume() -> None:
    trials = [
        trial(0, 0.8, baseline="uniform", macs=500),
        trial(1, 0.6, baseline="greedy", macs=250),
        trial(2, 0.9, macs=1200),  # dearer than the dense network: covers nothing
        trial(3, 0.8, macs=600),
        trial(4, 0.5, macs=200),
        trial(5, 0.5, macs=700),  # beaten
        trial(6, None, "failed"),
    ]
    found = compare([study("a", trials, metrics=["accuracy", "macs"], budget={})])
    assert found.quantity == "hypervolume"
    first, second = 0.8 * 0.4, 0.8 * 0.4 + 0.5 * (0.8 - 0.4)
    assert found.groups[0].members[0].curve == pytest.approx((0.0, first, second, second, second))
    assert found.baselines["all"].mean == pytest.approx(0.8 * 0.5 + 0.6 * 0.25)


@settings(deadline=None)
@given(st.integers(1, 3).flatmap(lambda k: st.lists(st.tuples(*[st.integers(-1, 4)] * k), max_size=6)))
def test_hypervolume_counts_the_cells_that_are_covered(points: list[tuple[int, ...]]) -> None:
    cells = itertools.product(range(4), repeat=len(points[0])) if points else ()
    covered = sum(any(all(c < x for c, x in zip(cell, p, strict=True)) for p in points) for cell in cells)
    assert hypervolume(points) == covered


ACCURACIES = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12)


@settings(deadline=None)
@given(ACCURACIES, st.randoms(use_true_random=False), st.sampled_from([["accuracy"], ["accuracy", "macs", "params"]]))
def test_curves_never_fall_and_order_matters_only_where_it_should(accuracies, random, metrics) -> None:
    trials = [
        trial(i, a, "failed" if a is None else "ok", macs=random.randint(100, 1100), params=random.randint(1, 110))
        for i, a in enumerate(accuracies)
    ]

    def curve(trials: Sequence[TrialRecord]) -> tuple[float | None, ...]:
        return compare([study("a", trials, metrics=metrics)]).groups[0].members[0].curve

    before = curve(trials)
    known = [value for value in before if value is not None]
    assert known == sorted(known)
    shuffled = random.sample(trials, len(trials))
    assert curve(shuffled) == before  # where a trial stands in a list says nothing: its number does
    renumbered = curve([replace(t, number=i) for i, t in enumerate(shuffled)])
    assert renumbered[-1] == (None if before[-1] is None else pytest.approx(before[-1]))


@settings(deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_studies_changes_no_mean(order) -> None:
    studies = [plain([0.1 * i + 0.03, 0.7 - 0.1 * i], f"s{i}", seed=i) for i in range(4)]
    assert compare([studies[i] for i in order]).rows() == compare(studies).rows()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "n"}, r"(?s)they differ in the model\n  model: m in 'a', n in 'b'\n.*--base"),
        ({"data": "e"}, r"(?s)they differ in the data\n  data: d in 'a', e in 'b'\ncompare studies of the same"),
        ({"budget": {"macs": 0.4}}, r"budget.macs: 0.5 in 'a', 0.4 in 'b'"),
        ({"metrics": ["accuracy", "macs"]}, "what is searched for"),
        ({"version": 2}, "the release that wrote them"),
        ({"objective": FACTS["objective"] | {"finetune": {"steps": 9}}}, "objective.finetune.steps: 30 in 'a', 9 in"),
        ({"objective": FACTS["objective"] | {"recalibrate": False}}, "recalibrate: nothing in 'a', False in 'b'"),
    ],
)
def test_studies_of_different_things_are_refused_with_the_difference(other, message) -> None:
    for loose in (False, True):
        with pytest.raises(StudyError, match=message) as raised:
            compare([plain([0.5], "a"), plain([0.6], "b", seed=1, **other)], loose=loose)
        assert "cannot compare the study 'b' in 'b/study.db' with 'a' in 'a/study.db'" in str(raised.value)


def test_other_spaces_take_loose_and_seeds_and_races_are_notes() -> None:
    a = plain([0.5], "a")
    objective = FACTS["objective"] | {"seed": 1, "race": {"delta": 0.01}}
    b, c = (plain([0.6], n, seed=s, objective=objective) for n, s in (("b", 1), ("c", 2)))
    race = "Not the same in all: objective.race is nothing in 'a', {'delta': 0.01} in 'b', 'c'."
    assert compare([a, b, c]).notes == (race, "Retraining, and methods that draw, have each study's own seed.")
    wide = plain([0.6], "d", seed=3, space={"methods": ["l1_norm", "fpgm"]})
    with pytest.raises(StudyError, match=r"(?s)the search space.*space.methods.*\(--loose\) compares them"):
        compare([a, wide])
    (note,) = compare([a, wide], loose=True).notes
    assert note == "Not the same in all: space.methods is ['l1_norm'] in 'a', ['l1_norm', 'fpgm'] in 'd'."


def test_studies_that_say_nothing_are_refused() -> None:
    a = plain([0.5], "a")
    with pytest.raises(SettingsError, match="got 0 studies"):
        compare([])
    with pytest.raises(SettingsError, match="a label or None for each"):
        compare([a], labels=["x", "y"])
    with pytest.raises(StudyError, match=r"'e' in 'e/study.db' has no evaluated proposal .*\(1 ok, 1 rejected, basel"):
        compare([study("e", [trial(0, 0.5, baseline="uniform"), trial(1, None, "rejected")]), a])
    with pytest.raises(StudyError, match=r"'copy' in .* and 'a' in .* are the same study"):
        compare([a, replace(a, name="copy")], labels=["x", "y"])
    other = plain([0.6], "other")
    with pytest.raises(StudyError, match=r"'a' .* and 'other' .* same controller and seed \(0\).*LABEL=RUN"):
        compare([a, other])
    assert [g.label for g in compare([a, other], labels=[None, "tuned"]).groups] == ["tpe", "tuned"]


# From here on, studies that searches have left.


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["study", "compare", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of run folders: two controllers with two seeds each, of different lengths."""
    folder = tmp_path_factory.mktemp("compare") / "runs"
    problem = KnownAnswer(3)
    space = SearchSpace.from_graph(problem.graph, levels=4)
    for name, trials in (("random", 6), ("cmaes", 8)):
        for seed in (0, 1):
            options: dict[str, Any] = {"controller": name, "trials": trials, "seed": seed, "space": space}
            search(KnownAnswer(3), budget="macs=0.5", run_dir=folder / f"{name}-{seed}", confirm=False, **options)
    return folder


def test_the_table_the_picture_and_the_numbers_of_run_folders(runs: Path, tmp_path: Path) -> None:
    result = call(runs, "--out", tmp_path / "c.png", "--json", tmp_path / "c.json")
    assert result.exit_code == 0, result.output
    assert "Every study has 6 evaluations; more have cmaes (8)." in result.stdout
    assert "Differences from cmaes at 6 evaluations" in result.stdout
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "c.json").read_text())
    assert [(r["controller"], r["evaluations"]) for r in data["rows"]] == [
        (name, n) for name in ("cmaes", "random") for n in (2, 3, 6)
    ]
    for name in ("cmaes", "random"):
        found = [open_study(runs / f"{name}-{seed}") for seed in (0, 1)]
        best = [max(t.accuracy or 0 for t in [t for t in s.trials if not t.baseline][:6]) for s in found]
        row = next(r for r in data["rows"] if r["controller"] == name and r["evaluations"] == 6)
        assert row["mean"] == pytest.approx(sum(best) / 2)
        assert f"{100 * row['mean']:.2f}% ± {100 * row['spread']:.2f}" in result.stdout
    uniform = open_study(runs / "random-0").trials[0].accuracy
    assert data["baselines"]["uniform"] == {"mean": pytest.approx(uniform), "spread": 0, "seeds": 2}
    assert [len(s["curve"]) for s in data["studies"]] == [8, 8, 6, 6]


def test_studies_are_named_in_every_way(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    url = f"sqlite:///{runs / 'random-1' / 'study.db'}"
    for text, named in {
        "random": [(None, "random-0"), (None, "random-1")],
        "own=cmaes": [("own", "cmaes-0"), ("own", "cmaes-1")],
        "runs/random-0": [(None, "random-0")],
        "runs/random-0/study.db": [(None, "random-0")],
        f"{url}#random-1": [(None, "random-1")],
        f"two={url}": [("two", "random-1")],
        "a b=runs/random-0#random-0": [("a b", "random-0")],
    }.items():
        assert [(label, study.name) for label, study in studies_of(text, "runs")] == named, text
    result = call("cmaes", "own=runs/random-0", "--where", runs)
    assert result.exit_code == 0, result.output
    assert re.search(r"(?m)^ own +1 +\d", result.stdout)


def test_names_with_signs_in_them_are_places_where_they_are_there(runs: Path, tmp_path: Path) -> None:
    strange = tmp_path / "a=b #1"
    strange.symlink_to(runs / "random-0")
    assert [(label, study.name) for label, study in studies_of(str(strange), "runs")] == [(None, "random-0")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runs/random-0", "runs/nowhere"), "there is no study at 'runs/nowhere'"),
        (("runs/random-0", "randon"), "unknown study or controller 'randon'; did you mean 'random'"),
        (("tpe",), "no study in runs is by the controller 'tpe' alone"),
        (("runs/random-0#other",), "unknown study 'other'"),
        (("runs/random-0", "./runs/random-0"), "are the same study; name every study once"),
        (("broken",), "file is not a database"),
        (("empty",), "there is no study in 'empty'"),
        (("runs", "--out", "c.svg"), "--out must be a .png file, but got 'c.svg'"),
        (("runs", "--json", "broken/study.db/x.json"), "cannot write"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_error(runs, tmp_path, monkeypatch, arguments, message) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "study.db").write_bytes(b"no database at all, but long enough to look at" * 10)
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_picture_shows_a_step_and_a_band_for_each_group(runs: Path) -> None:
    found = compare([open_study(folder) for folder in sorted(runs.iterdir())])
    axes = plots.comparison(found).axes[0]
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels[:2] == ["cmaes (2 seeds)", "random (2 seeds)"]
    assert labels[-1] == "compared at 6"
    lines = dict(zip(labels, axes.lines, strict=True))
    mean = [100 * (found.groups[0].at(n).mean or 0) for n in range(1, 9)]
    assert list(lines["cmaes (2 seeds)"].get_ydata()) == pytest.approx([*mean, mean[-1]])
    assert lines["baseline uniform"].get_ydata()[0] == pytest.approx(100 * (found.baselines["uniform"].mean or 0))
    assert len(axes.collections) == 2


def test_seeds_of_a_real_network_are_one_group_and_other_networks_are_none() -> None:
    data = load_data("iris")

    def facts_of(steps: int, seed: int, **options: Any) -> dict[str, Any]:
        with seeded(0, "model"):
            model = build_model("mlp", input_shape=(4,), num_classes=3, **options)
        retrained = ObjectiveSettings(finetune=FinetuneSettings(steps=steps), seed=seed)
        objective = Objective(model, data, settings=retrained)
        return json.loads(json.dumps(facts(objective, SearchSpace.from_graph(objective.graph), (), Budget(macs=0.5))))

    first = plain([0.5], "a", **facts_of(2, seed=0))
    found = compare([first, plain([0.6], "b", seed=1, **facts_of(2, seed=1))])
    assert found.notes == ("Retraining, and methods that draw, have each study's own seed.",)
    with pytest.raises(
        StudyError, match=r"(?s)the objective's settings\n  objective.finetune.steps: 2 in 'a', 3 in 'b'"
    ):
        compare([first, plain([0.6], "b", seed=1, **facts_of(3, seed=0))], loose=True)
    with pytest.raises(StudyError, match="they differ in the model, the layers and groups, the search space"):
        compare([first, plain([0.6], "b", seed=1, **facts_of(2, seed=0, hidden=(7,)))])
