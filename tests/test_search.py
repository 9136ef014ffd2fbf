"""Searches on a real network: the best is stored and rebuilt bit for bit, workers agree, budgets of time hold."""

from __future__ import annotations

import pytest
import torch

from autoprune.artifacts import NetworkSpec, load, network_digest, read_network, save_network
from autoprune.costs import Budget, LatencySettings
from autoprune.errors import StudyError
from autoprune.finetune import FinetuneSettings
from autoprune.objective import Objective, ObjectiveSettings, RaceSettings
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.search import Progress, search
from autoprune.search.studies import export_trial, open_study
from autoprune.search.testing import history

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = NetworkSpec("digits_cnn")
RETRAIN = FinetuneSettings(steps=12, lr=0.02, report_every=3)


def objective(model, data, **settings) -> Objective:
    return Objective(model, data, settings=ObjectiveSettings(**settings))


@pytest.fixture(scope="module")
def found(model, data, tmp_path_factory):
    """A search with retraining, its folder and its result."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    save_network(folder / "base", model, SPEC, data={"options": {"data": "digits"}})
    made = objective(model, data, finetune=RETRAIN)
    before = network_digest(model)
    result = search(made, budget="macs=0.5", trials=6, run_dir=folder, seed=1, spec=SPEC, test=True)
    assert network_digest(model) == before
    return folder, result


def test_the_table_says_what_was_won(found):
    _, result = found
    assert [row.name for row in result.rows] == ["dense", "uniform", "global", "greedy", "best found"]
    dense, *others = result.rows
    assert dense.trial is None
    for row in others:
        assert row.cost.macs <= 0.5 * dense.cost.macs
        assert row.latency_ms > 0
        assert 0 <= row.test <= 1
    best = result.rows[-1]
    assert best.confirmed == pytest.approx(result.best.accuracy, abs=0.01)
    assert result.best.accuracy == max(t.accuracy for t in result.trials)
    assert result.counts == {"ok": 9}
    assert not result.interrupted
    assert result.evaluated == 9


def test_the_best_network_is_stored_small(found):
    folder, result = found
    network = load(folder / "best")
    assert sum(p.numel() for p in network.parameters()) == result.best.outcome.cost.params
    stored = read_network(folder / "best")
    assert stored.plan == result.best_plan == Plan.from_json((folder / "best" / "plan.json").read_text())
    assert stored.data == {"options": {"data": "digits"}}
    assert stored.metrics["trial"] == result.best.number
    assert stored.metrics["confirmed"] == result.rows[-1].confirmed


def test_any_trial_is_rebuilt_bit_for_bit_from_study_and_base(found, data, tmp_path):
    folder, result = found
    study = open_study(folder)
    again = objective(load(folder / "base"), data, finetune=RETRAIN)
    record = export_trial(study, again, SPEC, tmp_path / "best")
    assert record.number == result.best.number
    assert read_network(tmp_path / "best").digest == read_network(folder / "best").digest
    worst = min(study.trials, key=lambda t: t.accuracy)
    export_trial(study, again, SPEC, tmp_path / "worst", worst.number)
    exported = load(tmp_path / "worst")
    x, y = data.validation.inputs(), data.validation.y
    with torch.inference_mode():
        assert float((exported(x).argmax(1) == y).float().mean()) == pytest.approx(worst.accuracy, abs=1e-6)
    other = objective(load(folder / "base"), data)
    with pytest.raises(StudyError, match="objective's settings changed"):
        export_trial(study, other, SPEC, tmp_path / "no")


def test_two_runs_and_a_continued_one_have_one_history(found, model, data, tmp_path):
    _, result = found
    for trials in (2, 6):
        again = search(
            objective(model, data, finetune=RETRAIN),
            budget="macs=0.5",
            trials=trials,
            run_dir=tmp_path / "digits",
            seed=1,
            confirm=False,
        )
    assert history(again) == history(result)


def test_workers_give_the_outcomes_of_one_process(model, data):
    """Baselines and random proposals do not depend on the order in which trials end."""
    made = objective(model, data, finetune=RETRAIN)
    options = {"budget": "macs=0.5", "controller": "random", "trials": 4, "seed": 2, "confirm": False}
    alone = search(made, **options)
    together = search(objective(model, data, finetune=RETRAIN), workers=2, **options)
    assert history(together) == history(alone)


def test_a_search_races(model, data):
    raced = search(
        objective(model, data, race=RaceSettings(delta=0.05, first=16)),
        budget="macs=0.35",
        trials=12,
        controller="random",
        seed=3,
        confirm=False,
    )
    full = search(objective(model, data), budget="macs=0.35", trials=12, controller="random", seed=3, confirm=False)
    stopped = [t for t in raced.trials if t.status == "stopped"]
    assert stopped
    assert all(not t.baseline for t in stopped)
    assert all(t.outcome.images < len(data.validation) for t in stopped)
    assert raced.best.accuracy == full.best.accuracy
    assert raced.best.plan == full.best.plan


def test_a_raced_search_resumes_as_if_straight(model, data, tmp_path):
    options = {"budget": "macs=0.35", "seed": 3, "confirm": False, "study_name": "run"}
    race = RaceSettings(delta=0.05, first=16)
    straight = search(objective(model, data, race=race), trials=12, **options)
    for trials in (4, 12):
        resumed = search(objective(model, data, race=race), trials=trials, run_dir=tmp_path / "run", **options)
    assert history(resumed) == history(straight)
    assert any(t.status == "stopped" for t in resumed.trials)


def test_ctrl_c_while_the_best_is_confirmed(model, data, tmp_path):
    class Impatient(Objective):
        def build(self, plan):
            raise KeyboardInterrupt

    made = Impatient(model, data)
    result = search(made, budget="macs=0.5", trials=1, run_dir=tmp_path / "run", spec=SPEC)
    assert result.interrupted
    assert result.rows[-1].confirmed is None
    assert result.rows[-1].accuracy == result.best.accuracy
    assert (tmp_path / "run" / "best" / "plan.json").is_file()
    again = search(objective(model, data), budget="macs=0.5", trials=1, run_dir=tmp_path / "run", spec=SPEC)
    assert again.rows[-1].confirmed is not None
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_a_latency_budget_is_met_by_what_is_evaluated(model, data):
    made = objective(model, data, latency=LatencySettings(repeats=3))
    result = search(made, budget=Budget(latency_ms="50ms", macs=0.8), trials=3, confirm=False)
    limit = result.profile.limits["latency_ms"]
    for trial in result.trials:
        assert trial.cost.latency_ms <= limit or trial.status == "rejected"
        assert trial.feasible is (trial.status != "rejected")


def test_when_latency_changes_its_mind_trials_are_rejected_unseen():
    class Fickle(KnownAnswer):
        measured = 0

        def latency(self, plan):
            self.measured += 1
            return super().latency(plan) * (1.0 if self.measured < 5 else 10.0)

    problem = Fickle(3)
    result = search(problem, budget="latency_ms=0.5", trials=4)
    rejected = [t for t in result.trials if t.status == "rejected"]
    assert rejected
    assert len(result.trials) == 7
    assert all(t.cost.latency_ms > result.profile.limits["latency_ms"] for t in rejected)
    assert [row.note for row in result.rows[1:4]] == ["rejected"] * 3
    judged = [plan for plan in problem.calls if plan.steps is None]
    assert set(judged) <= {t.plan for t in result.trials if t.feasible}
    assert any("missed the budget and were never evaluated" in note for note in result.notes)


def test_a_relative_latency_limit_stays_what_it_was(tmp_path):
    class Slower(KnownAnswer):
        factor = 1.0

        def latency(self, plan):
            return self.factor * super().latency(plan)

    problem = Slower(4)
    first = search(problem, budget="latency_ms=0.6", trials=2, run_dir=tmp_path / "run")
    problem = Slower(4)
    problem.factor = 1.2
    second = search(problem, budget="latency_ms=0.6", trials=4, run_dir=tmp_path / "run")
    assert second.profile.limits == first.profile.limits
    assert all(t.cost.latency_ms <= first.profile.limits["latency_ms"] for t in second.trials)


def test_progress_hears_everything_in_order(tmp_path):
    heard = []

    class Hears(Progress):
        def started(self, start):
            heard.append(("started", start.trials, start.done, start.baselines, start.waiting))

        def notice(self, what, done, total):
            heard.append((what, done, total))

        def trial_started(self, record):
            heard.append(("begin", record.number))

        def reported(self, number, step, accuracy):
            heard.append(("report", number, step))

        def trial_finished(self, record, best, done):
            heard.append(("end", record.number, best.number, done))

        def finished(self, result):
            heard.append(("finished", result.best.number))

    options = {"budget": "macs=0.5", "pruner": "median", "run_dir": tmp_path / "run"}
    search(KnownAnswer(2, steps=2), trials=1, progress=Hears(), **options)
    assert heard[0] == ("started", 1, 0, 3, 0)
    assert [h for h in heard if h[0] == "begin"] == [("begin", n) for n in range(4)]
    assert [h[1] for h in heard if h[0] == "end"] == [0, 1, 2, 3]
    assert [h[3] for h in heard if h[0] == "end"] == [0, 0, 0, 1]
    assert ("sensitivity", 8, 8) in heard
    assert [h for h in heard if h[0] == "report"][:2] == [("report", 0, 1), ("report", 0, 2)]
    assert heard[-1][0] == "finished"
    heard.clear()
    search(KnownAnswer(2, steps=2), trials=2, progress=Hears(), **options)
    assert heard[0] == ("started", 2, 1, 0, 0)


def test_shifting_onto_the_budget_is_better_than_refusing():
    """Measured: the gap to the bound after 30 proposals, baselines left out, over four problems."""
    gaps = {"project": 0.0, "reject": 0.0}
    for handling in gaps:
        for seed in range(4):
            problem = KnownAnswer(8, seed=seed)
            result = search(problem, budget="macs=0.5", trials=30, seed=seed, handling=handling, options={"near": 0})
            own = max((t.accuracy for t in result.trials if t.usable and not t.baseline), default=0.0)
            gaps[handling] += problem.bound(Budget(macs=0.5)) - own
    assert gaps["project"] < 0.6 * gaps["reject"]
