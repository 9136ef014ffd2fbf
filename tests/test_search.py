"""Searches on a real network: the best is stored and rebuilt bit for bit, trials are stopped early, workers agree."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

from autoprune.artifacts import NetworkSpec, load, network_digest, read_network, save_network
from autoprune.costs import Budget, LatencySettings
from autoprune.data import DataSplits, load_data
from autoprune.errors import SettingsError, StudyError
from autoprune.finetune import FinetuneSettings, finetune
from autoprune.models import build_model
from autoprune.objective import Objective, ObjectiveSettings, RaceSettings
from autoprune.outcome import Status
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.search import Progress, search
from autoprune.search.evaluators import Job
from autoprune.search.records import TrialRecord
from autoprune.search.result import cheapest_near, pareto_front
from autoprune.search.stopping import Dominated, make_stopper
from autoprune.search.studies import export_trial, open_study
from autoprune.search.testing import history
from autoprune.search.workers import Pool
from autoprune.seeding import seeded
from autoprune.space import SearchSpace

SPEC = NetworkSpec("digits_cnn")
RETRAIN = FinetuneSettings(steps=12, lr=0.02, report_every=3)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def model(data: DataSplits) -> nn.Module:
    with seeded(0, "model"):
        network = build_model("digits_cnn")
    finetune(network, data.train, FinetuneSettings(steps=120, lr=0.05), seed=0)
    return network


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


@pytest.mark.parametrize("pruner", ["median", "hyperband", "patience", "dominated"])
def test_pruners_stop_trials_on_the_way(pruner):
    problem = KnownAnswer(8, steps=8, seed=1)
    result = search(problem, budget="macs=0.5", controller="random", trials=30, pruner=pruner, seed=0)
    stopped = [t for t in result.trials if t.status == "stopped"]
    assert all(not t.baseline and max(t.reports) < 8 for t in stopped)
    assert all(max(t.reports) == 8 for t in result.trials if t.status == "ok")
    # patience waits for a trial that gets no better, which the problem's curves never do
    assert bool(stopped) is (pruner != "patience")
    assert result.best.status == "ok"
    assert len(result.trials) == 33


@pytest.mark.parametrize(
    ("pruner", "controller"),
    [
        ("hyperband", "tpe"),
        ("median", "cmaes"),
        pytest.param("hyperband", "nsga2", marks=pytest.mark.slow),
        pytest.param("median", "tpe", marks=pytest.mark.slow),
        pytest.param("dominated", "tpe", marks=pytest.mark.slow),
    ],
)
def test_stopped_trials_resume_as_if_straight(tmp_path, pruner, controller):
    options = {"budget": "macs=0.5", "controller": controller, "pruner": pruner, "study_name": "s", "seed": 4}
    straight = search(KnownAnswer(5, steps=6), trials=20, **options)
    for trials in (5, 13, 20):
        resumed = search(KnownAnswer(5, steps=6), trials=trials, run_dir=tmp_path / "run", **options)
    assert history(resumed) == history(straight)
    assert [t.reports for t in resumed.trials] == [t.reports for t in straight.trials]
    assert any(t.status == "stopped" for t in resumed.trials)


def test_without_a_pruner_nothing_is_evaluated_on_the_way():
    class Counts(KnownAnswer):
        asked = False

        def __call__(self, plan, *, report=None, race=None):
            self.asked = self.asked or report is not None
            return super().__call__(plan, report=report, race=race)

    problem = Counts(3, steps=4)
    search(problem, budget="macs=0.5", trials=2)
    assert not problem.asked
    search(problem, budget="macs=0.5", trials=2, pruner="median")
    assert problem.asked


def test_a_pruner_without_retraining_is_refused(model, data):
    with pytest.raises(SettingsError, match="pruner 'median' stops retraining early, but there is none"):
        search(objective(model, data), budget="macs=0.5", pruner="median")


@pytest.mark.parametrize("controller", ["tpe", "nsga2", "nsga3", "random"])
@pytest.mark.parametrize("pareto", [("macs",), ("params", "latency_ms")])
def test_pareto_fronts(controller, pareto, tmp_path):
    problem = KnownAnswer(5, steps=6)
    options = {"controller": controller, "pareto": pareto, "pruner": "dominated", "seed": 5}
    result = search(problem, trials=30, run_dir=tmp_path / "run", **options)
    assert len(result.trials) == 33
    values = [t.objectives(pareto) for t in result.front]
    everything = [t.objectives(pareto) for t in result.trials if t.usable]
    for mine in values:
        assert not any(
            other[0] >= mine[0] and all(a <= b for a, b in zip(other[1:], mine[1:], strict=True)) and other != mine
            for other in everything
        )
    assert result.best in result.front
    assert any(t.status == "stopped" for t in result.trials) or controller != "random"
    again = search(KnownAnswer(5, steps=6), trials=30, **options, study_name="run")
    assert history(again) == history(result)


def test_a_front_within_a_budget(tmp_path):
    problem = KnownAnswer(5)
    result = search(problem, budget="macs=0.6", pareto=("params",), trials=20, controller="nsga2")
    assert all(t.outcome.cost.macs <= 0.6 * problem.dense_cost.macs for t in result.trials)
    assert result.best.accuracy == max(t.accuracy for t in result.trials)
    macs = {t.outcome.cost.macs for t in result.trials if not t.baseline}
    assert min(macs) < 0.5 * problem.dense_cost.macs  # smaller ones are not blown up to the budget


def test_fronts_and_their_best_by_hand():
    problem, space = KnownAnswer(2), SearchSpace.from_graph(KnownAnswer(2).graph)
    records = []
    for number, sparsity in enumerate((0.0, 0.25, 0.5, 0.5, 0.75)):
        plan = space.plan(space.point(dict.fromkeys(problem.graph.groups, sparsity)))
        records.append(TrialRecord(number, "ok", plan, outcome=problem(plan)))
    worse = space.plan(space.point({"layer00": 0.9}))
    records.append(TrialRecord(5, "failed", worse, outcome=problem(worse)))
    records.append(TrialRecord(6, "ok", worse, outcome=problem(worse), violations={"macs": 0.1}))
    front = pareto_front(records, ("macs",))
    assert [t.number for t in front] == [0, 1, 2, 4]
    dense = {"macs": float(problem.dense_cost.macs), "accuracy": 0.95}
    near = [t.number for t in front if t.accuracy >= 0.93]
    assert cheapest_near(front, ("macs",), dense).number == max(near)
    assert cheapest_near(front, ("macs",), {**dense, "accuracy": 1.0}).number == 0
    assert cheapest_near((), ("macs",), dense) is None


def test_dominated_compares_only_with_what_costs_no_more():
    problem, space = KnownAnswer(2, steps=4), SearchSpace.from_graph(KnownAnswer(2).graph)

    def record(number, sparsity, reports):
        plan = space.plan(space.point(dict.fromkeys(problem.graph.groups, sparsity)))
        outcome = problem(plan)
        return TrialRecord(number, "ok", plan, outcome=outcome, cost=outcome.cost, reports=reports)

    stopper = Dominated(("macs",), rivals=2)
    for number, sparsity in enumerate((0.2, 0.3, 0.6, 0.7)):
        stopper.tell(record(number, sparsity, {1: 0.5, 2: 0.8}))
    running = record(9, 0.5, {})
    assert not stopper.report(running, 1, 0.5)
    assert stopper.report(running, 1, 0.49)  # behind the two that are cheaper
    assert not stopper.report(record(10, 0.65, {}), 1, 0.1)  # only one is cheaper
    assert not stopper.report(running, 3, 0.0)  # nobody was seen at this step
    assert make_stopper("dominated", (), "s").metrics == ()


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


class Faulty(KnownAnswer):
    """Raises, kills its process, or does both, where it is told to."""

    def __init__(self, *args, raises=(), kills=(), **named):
        super().__init__(*args, **named)
        self.raises, self.kills, self.parent = raises, kills, os.getpid()

    def __call__(self, plan, **named):
        sparsity = plan.sparsities().get("layer00", 0.0)
        if any(low <= sparsity < high for low, high in self.raises):
            raise ValueError(f"sparsity {sparsity:.3f} does not suit me\nsecond line")
        if any(low <= sparsity < high for low, high in self.kills) and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(plan, **named)


def test_a_plan_that_raises_is_a_failed_trial():
    result = search(Faulty(4, raises=[(0.6, 1.0)]), budget="macs=0.5", controller="random", trials=15)
    failed = [t for t in result.trials if t.status == "failed"]
    assert failed
    assert all(t.outcome.status is Status.FAILED for t in failed)
    assert all(t.outcome.reason.startswith("ValueError: sparsity 0.") for t in failed)
    assert all("second line" not in t.outcome.reason for t in failed)
    assert len(result.trials) == 18


def test_when_everything_raises_the_search_says_why():
    with pytest.raises(StudyError, match=r"all 16 evaluations of the sensitivity .* the last one with ValueError"):
        search(Faulty(4, raises=[(0.0, 1.0)]), budget="macs=0.5", trials=15)


def test_when_only_whole_plans_raise_the_search_says_why():
    class OnlySingle(KnownAnswer):
        def __call__(self, plan, **named):
            if plan.steps is None:
                raise ValueError("no")
            return super().__call__(plan, **named)

    with pytest.raises(StudyError, match="the first 5 evaluations all failed; the last one with ValueError: no"):
        search(OnlySingle(4), budget="macs=0.5", trials=15)


def test_greedy_goes_around_a_group_that_cannot_be_evaluated():
    result = search(Faulty(4, raises=[(0.01, 1.0)]), budget="macs=0.5", trials=0)
    assert [t.status for t in result.trials] == ["failed", "failed", "ok"]
    assert "layer00" not in result.best_plan.sparsities()


def test_a_worker_that_dies_is_replaced_and_its_plan_fails_the_second_time():
    problem = Faulty(4, kills=[(0.7, 1.0)])
    result = search(problem, budget="macs=0.5", controller="random", trials=3, workers=2, seed=2)
    died = [t for t in result.trials if t.plan.sparsities().get("layer00", 0.0) >= 0.7]
    assert died
    assert {t.status for t in died} == {"failed"}
    assert all("died 2 times (signal 9)" in t.outcome.reason for t in died)
    assert {t.status for t in result.trials if t not in died} == {"ok"}
    assert len(result.trials) == 6


def test_what_cannot_be_sent_to_a_worker_is_a_clear_error(model, data):
    class Local(KnownAnswer):
        pass

    with pytest.raises(StudyError, match=r"cannot be sent to worker processes.*use workers=1"):
        search(Local(3), budget="macs=0.5", trials=1, workers=2)


class Unreadable(KnownAnswer):
    """Can be sent, but not read in another process."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.parent, self.ballast = os.getpid(), bytes(1 << 20)

    def __setstate__(self, state):
        if os.getpid() != state["parent"]:
            raise ValueError("not here")
        self.__dict__.update(state)


def test_what_a_worker_cannot_read_fails_and_does_not_hang(capfd):
    problem = Unreadable(3)
    pool = Pool(problem, workers=2, threads=1)
    try:
        pool.submit(Job(0, Plan.uniform(problem.graph)))
        done = pool.wait(lambda number, step, accuracy: False)
    finally:
        pool.close()
    assert done.outcome.status is Status.FAILED
    assert "died 2 times (exit code 1)" in done.error
    assert capfd.readouterr().err.count("ValueError: not here") == 2


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

    search(
        KnownAnswer(2, steps=2),
        budget="macs=0.5",
        trials=1,
        progress=Hears(),
        pruner="median",
        run_dir=tmp_path / "run",
    )
    assert heard[0] == ("started", 1, 0, 3, 0)
    assert [h for h in heard if h[0] == "begin"] == [("begin", n) for n in range(4)]
    assert [h[1] for h in heard if h[0] == "end"] == [0, 1, 2, 3]
    assert [h[3] for h in heard if h[0] == "end"] == [0, 0, 0, 1]
    assert ("sensitivity", 8, 8) in heard
    assert [h for h in heard if h[0] == "report"][:2] == [("report", 0, 1), ("report", 0, 2)]
    assert heard[-1][0] == "finished"
    heard.clear()
    search(
        KnownAnswer(2, steps=2),
        budget="macs=0.5",
        trials=2,
        progress=Hears(),
        pruner="median",
        run_dir=tmp_path / "run",
    )
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
