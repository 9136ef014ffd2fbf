"""What a predictor learns, how sure it is, and how it is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autoprune.drop_curves import DropCurves
from autoprune.errors import ArtifactError, SettingsError, StudyError, UnknownNameError
from autoprune.search import search
from autoprune.search.ledger import Ledger
from autoprune.search.records import TrialRecord
from autoprune.search.storage import Address
from autoprune.search.studies import open_study
from autoprune.search.threshold.ensemble import FitSettings
from autoprune.search.threshold.examples import Examples, study_examples
from autoprune.search.threshold.facts import LAYERS, NetworkFacts, facts_of
from autoprune.search.threshold.foretell import affordable
from autoprune.search.threshold.options import ThresholdOptions
from autoprune.search.threshold.stored import load_predictor, read_predictor, store_predictor
from autoprune.search.threshold.surrogate import Surrogate
from autoprune.search.threshold.training import Lesson, calibration, described, lesson_of, pruned_in, train
from autoprune.search.threshold.transfer import PRIOR, between_networks
from autoprune.sensitivity import sensitivity
from autoprune.space import SearchSpace

QUICK = FitSettings(steps=60, hidden=24, members=4)
TRAINED = {"studies": [], "trials": 0, "seed": 0, "between_networks": 1.0}


def trials(problem: DropCurves, space: SearchSpace, facts: NetworkFacts, count: int, seed: int) -> Examples:
    """Random plans, measured."""
    draw = np.random.default_rng(seed)
    plans = [space.plan(space.point({g.name: draw.random() * 0.9 for g in space.groups})) for _ in range(count)]
    records = [TrialRecord(i, "ok", plan, outcome=problem(plan)) for i, plan in enumerate(plans)]
    return study_examples(facts, records, curves=False)


def known(seed: int, groups: int = 6) -> tuple[DropCurves, SearchSpace, NetworkFacts]:
    problem = DropCurves(groups, seed=seed, noise=0.004)
    space = SearchSpace.from_graph(problem.graph)
    return problem, space, facts_of(problem, space).knowing(sensitivity(problem, space))


def test_sums_over_layers_are_learned_from_whole_plans_and_intervals_hold():
    inside = {1.0: [], 1.96: []}
    for seed in range(3):
        problem, space, facts = known(seed)
        surrogate = Surrogate.fitted(trials(problem, space, facts, 30, 1), FitSettings(), seed)
        new = trials(problem, space, facts, 80, 2)
        found = surrogate.plans(new)
        assert np.corrcoef(found.mean, new.harm)[0, 1] > 0.9
        away = np.abs(found.mean - new.harm) / found.spread(new.noise.astype(np.float64))
        for z, shares in inside.items():
            shares.append((away <= z).mean())
    assert np.mean(inside[1.0]) > 0.55
    assert np.mean(inside[1.96]) > 0.85


def test_equal_examples_give_equal_predictors_and_nothing_removed_harms_nothing():
    problem, space, facts = known(0)
    examples = trials(problem, space, facts, 12, 1)
    one, other = (Surrogate.fitted(examples, QUICK, 3) for _ in range(2))
    assert (one.plans(examples).members == other.plans(examples).members).all()
    rows = examples.rows.copy()
    rows[:, [i for i, name in enumerate(_names()) if name == "removed"]] = 0
    assert (one.rows(rows).mean == 0).all()
    assert (one.rows(examples.rows).mean > 0).all()


def _names():
    from autoprune.search.threshold.features import NAMES

    return NAMES


def test_batches_are_whole_plans():
    """With more plans than a step takes, rows are still summed to the plan they belong to."""
    problem, space, facts = known(1)
    examples = trials(problem, space, facts, 90, 1)
    surrogate = Surrogate.fitted(examples, FitSettings(steps=150, batch=32), 0)
    assert np.corrcoef(surrogate.plans(examples).mean, examples.harm)[0, 1] > 0.97


def test_the_penalty_makes_harm_rise_with_the_threshold():
    problem, space, facts = known(2)
    examples = trials(problem, space, facts, 8, 1)
    falls = []
    for weight in (0.0, 30.0):
        settings = FitSettings(steps=150, monotone=weight)
        surrogate = Surrogate.fitted(examples, settings, 0)
        places = [i for i, name in enumerate(_names()) if name in ("threshold", "removed")]
        higher = examples.rows.copy()
        higher[:, places] += 0.1
        rise = surrogate.rows(higher).members / higher[:, places[1]] - surrogate.rows(
            examples.rows
        ).members / np.maximum(examples.rows[:, places[1]], 1e-9)
        falls.append(float(np.maximum(-rise, 0).mean()))
    assert falls[1] <= falls[0]


def test_a_file_gives_the_same_predictions(tmp_path: Path):
    problem, space, facts = known(0)
    examples = trials(problem, space, facts, 12, 1)
    surrogate = Surrogate.fitted(examples, QUICK, 0)
    store_predictor(tmp_path / "p", surrogate, TRAINED)
    store_predictor(tmp_path / "p", surrogate, TRAINED)  # takes the place of the old one
    again = load_predictor(tmp_path / "p")
    assert (again.plans(examples).members == surrogate.plans(examples).members).all()
    assert again.settings == QUICK
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"predictor.json", "predictor.safetensors"}
    (tmp_path / "mine").mkdir()
    with pytest.raises(ArtifactError, match="holds no predictor; choose another folder"):
        store_predictor(tmp_path / "mine", surrogate, TRAINED)


def test_a_stored_predictor_learns_on(tmp_path: Path):
    problem, space, facts = known(0)
    far, _, _ = known(1)
    surrogate = Surrogate.fitted(trials(far, SearchSpace.from_graph(far.graph), known(1)[2], 40, 1), QUICK, 0)
    new = trials(problem, space, facts, 30, 2)
    before = np.abs(surrogate.plans(new).mean - new.harm).mean()
    learned = surrogate.refitted(new, QUICK, 0)
    assert np.abs(learned.plans(new).mean - new.harm).mean() < before
    untouched = Surrogate.fitted(trials(far, SearchSpace.from_graph(far.graph), known(1)[2], 40, 1), QUICK, 0)
    assert (surrogate.plans(new).members == untouched.plans(new).members).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["features"].update(version=99),
            "knows version 99 of the features, but this release has version 1",
        ),
        (lambda d: d["features"]["names"].pop(), "knows version 1 of the features"),
        (lambda d: d.update(version=3), "of version 3, but this release reads .* of version 2"),
        (lambda d: d.pop("trained"), "cannot be read: KeyError"),
        (lambda d: d.update(settings={"members": "five"}), "members.* must be a whole number"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(change, message, tmp_path: Path):
    problem, space, facts = known(0, groups=2)
    store_predictor(tmp_path / "p", Surrogate.fitted(trials(problem, space, facts, 5, 1), QUICK, 0), TRAINED)
    path = tmp_path / "p" / "predictor.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises((ArtifactError, SettingsError), match=message):
        read_predictor(tmp_path / "p")


def test_tensors_that_are_damaged_are_refused(tmp_path: Path):
    problem, space, facts = known(0, groups=2)
    store_predictor(tmp_path / "p", Surrogate.fitted(trials(problem, space, facts, 5, 1), QUICK, 0), TRAINED)
    path = tmp_path / "p" / "predictor.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "w1": tensors["w1"] * torch.nan}, path)
    with pytest.raises(ArtifactError, match="not finite numbers"):
        load_predictor(tmp_path / "p")
    save_file({k: v for k, v in tensors.items() if k != "w2"}, path)
    with pytest.raises(ArtifactError, match="cannot be read: Error"):
        load_predictor(tmp_path / "p")
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_predictor(tmp_path / "p")
    with pytest.raises(ArtifactError, match=r"no predictor in .*'autoprune predictor train STUDY --out FOLDER'"):
        load_predictor(tmp_path / "none")


def test_studies_of_every_controller_teach_and_warm_searches_start_from_them(tmp_path: Path):
    for seed, controller in ((0, "tpe"), (1, "random")):
        search(
            DropCurves(4, seed=seed), budget="macs=0.5", controller=controller, trials=8, run_dir=tmp_path / controller
        )
    studies = [open_study(tmp_path / name) for name in ("tpe", "random")]
    surrogate = train(studies, settings=QUICK)
    found = calibration(surrogate, studies[0])
    assert found.trials == 11
    assert found.rank_correlation is not None
    assert found.rank_correlation > 0.5
    assert 0 <= found.coverage["68%"] <= found.coverage["95%"] <= 1
    told = described(studies, 0, QUICK)
    store_predictor(tmp_path / "p", surrogate, told)
    kept = read_predictor(tmp_path / "p")
    network, pruned = str(studies[0].facts["model"]), pruned_in(studies[0])
    assert len(pruned) == 4
    assert kept.between(network, pruned) is None
    assert kept.between(network, [*pruned, "a layer that nothing was taken from"]) == told["between_networks"]
    assert kept.between("another", pruned) == told["between_networks"]
    wide = calibration(surrogate, studies[0], between=kept.between("another", pruned))
    assert (found.seen, wide.seen) == (True, False)
    assert all(w > f for w, f in zip(wide.spread, found.spread, strict=True))
    new = DropCurves(4, seed=2)
    options = {"predictor": str(tmp_path / "p"), "fit_steps": 20}
    warm = search(new, budget="macs=0.5", controller="threshold_mlp", trials=4, options=options)
    assert len([t for t in warm.trials if not t.baseline]) == 4
    space = SearchSpace.from_graph(new.graph)
    facts = facts_of(new, space).knowing(sensitivity(new, space))
    some, none = (affordable(surrogate, space, facts, new.costs, drop) for drop in (0.1, 0.0))
    assert some.macs < 1
    assert some.drop <= 0.1
    assert not any(none.thresholds.values())


def test_the_spread_between_networks_is_what_predictions_from_others_are_off_by(tmp_path: Path):
    search(DropCurves(3, seed=0), budget="macs=0.5", controller="random", trials=8, run_dir=tmp_path / "a")
    one = lesson_of(open_study(tmp_path / "a"))
    assert between_networks([one, one], QUICK, 0) == PRIOR  # nothing is known about networks from a single one

    def other(factor: float) -> Lesson:
        """The same network under another name, on which everything costs ``factor`` times as much."""
        study = replace(one.study, facts={**one.study.facts, "model": "other"})
        return replace(one, study=study, trials=replace(one.trials, harm=one.trials.harm * np.float32(factor)))

    alike, unlike = (between_networks([one, other(factor)], QUICK, 0) for factor in (1.0, 6.0))
    assert alike == pytest.approx(PRIOR / np.sqrt(3), rel=0.2)  # two networks of which the other tells all
    assert alike < PRIOR < unlike


def test_studies_that_cannot_teach_are_refused(tmp_path: Path):
    problem = DropCurves(3)
    search(problem, budget="macs=0.5", controller="random", trials=2, run_dir=tmp_path / "few")
    with pytest.raises(StudyError, match=r"at least 10 evaluated trials, but these studies \(few\) have 5"):
        train([open_study(tmp_path / "few")])
    ledger = Ledger.read(Address.of(tmp_path / "few", None), "few")
    ledger.note(LAYERS, {**ledger.notes()[LAYERS], "version": 7})
    ledger.close()
    with pytest.raises(StudyError, match=r"the study 'few' in .*: layers are described in version 7"):
        train([open_study(tmp_path / "few")])
    old = replace(open_study(tmp_path / "few"), notes={})
    with pytest.raises(StudyError, match=r"does not describe its layers.*earlier release"):
        train([old])


def test_an_old_study_is_described_when_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from autoprune.search.running import Run

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_describe", lambda self: None)
        search(DropCurves(3), budget="macs=0.5", controller="random", trials=2, run_dir=tmp_path / "old")
    assert LAYERS not in open_study(tmp_path / "old").notes
    search(DropCurves(3), budget="macs=0.5", controller="random", trials=2, run_dir=tmp_path / "old")
    assert LAYERS in open_study(tmp_path / "old").notes


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kapa": 1}, UnknownNameError, "did you mean 'kappa'"),
        ({"drop": 1.5}, SettingsError, "option 'drop' must be a number from 0 on and below 1, but got 1.5"),
        ({"kappa": float("nan")}, SettingsError, "option 'kappa' must be a number"),
        ({"members": 1}, SettingsError, "'members' must be a whole number from 2 on"),
        ({"startup": -1}, SettingsError, "option 'startup' must be a whole number"),
        ({"curves": "yes"}, SettingsError, "option 'curves' must be true or false"),
    ],
)
def test_options_that_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        ThresholdOptions.make(options)
