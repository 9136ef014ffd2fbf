"""Studies: what is stored, who may go on with it, how it reads elsewhere, and every way it cannot be opened."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from autoprune.costs import Budget
from autoprune.errors import StudyError, UnknownNameError
from autoprune.locking import folder_lock
from autoprune.plan import Plan
from autoprune.problems import KnownAnswer
from autoprune.search import Progress, search
from autoprune.search.facts import check_facts, differences
from autoprune.search.ledger import Ledger
from autoprune.search.mirror import distributions
from autoprune.search.running import facts
from autoprune.search.storage import Address, close
from autoprune.search.studies import list_studies, open_study
from autoprune.search.testing import history
from autoprune.space import SearchSpace


def run(folder, problem=None, **options):
    return search(problem or KnownAnswer(4), **{"budget": "macs=0.5", "trials": 3, "run_dir": folder, **options})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder with a finished search in which one trial failed, and its result."""
    folder = tmp_path_factory.mktemp("studies") / "digits"
    return folder, run(folder, KnownAnswer(4, fail_above=0.8, methods=("l1_norm",)), trials=8, seed=3)


def test_a_trial_holds_its_plan_layers_cost_seed_and_timing(finished):
    folder, result = finished
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder / 'study.db'}")
    assert study.metric_names == ["accuracy"]
    assert study.direction.name == "MAXIMIZE"
    for trial, record in zip(study.trials, result.trials, strict=True):
        user = trial.user_attrs
        assert Plan.from_dict(user["plan"]) == record.plan
        assert user["cost"]["macs"] == record.outcome.cost.macs
        assert user["seed"] == 3
        assert user["wall_s"] >= 0
        assert user["feasible"] is True
        if record.status == "ok":
            assert trial.value == record.accuracy
            assert [layer["name"] for layer in user["layers"]] == [d.layer for d in record.plan.decisions]
            assert sum(user["seconds"].values()) >= 0
        assert set(trial.params) == {f"sparsity/layer0{i}" for i in range(4)}
    assert [t.user_attrs.get("baseline") for t in study.trials[:4]] == ["uniform", "global", "greedy", None]
    assert study.best_trial.number == result.best.number


def test_what_is_read_back_is_what_was_found(finished):
    folder, result = finished
    study = open_study(folder)
    assert study.trials == result.trials
    assert study.best == result.best
    assert study.front == result.front
    assert study.budget == Budget(macs=0.5)
    assert study.dense_cost == result.profile.dense
    assert study.space == SearchSpace.from_graph(KnownAnswer(4).graph)
    assert study.controllers == ("tpe",)
    assert study.counts == result.counts


def test_feasibility_shows_in_optuna_and_in_older_dashboards(tmp_path):
    result = run(tmp_path / "run", handling="reject", trials=12, controller="random")
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}")
    rejected = [t for t in result.trials if t.status == "rejected"]
    assert rejected
    for trial, record in zip(study.trials, result.trials, strict=True):
        assert trial.constraints["macs"] == pytest.approx(record.violations["macs"])
        assert (trial.constraints["macs"] <= 0) is record.feasible
        assert trial.system_attrs["constraints"] == [record.violations["macs"]]
        assert trial.user_attrs["feasible"] is record.feasible
        if record.status == "rejected":
            assert trial.value == -record.violations["macs"]
            assert "outcome" not in trial.user_attrs
    assert study.best_trial.number == result.best.number


def test_the_dashboard_shows_feasibility(finished):
    serializer = pytest.importorskip("optuna_dashboard._serializer")
    folder, _ = finished
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder / 'study.db'}")
    shown = serializer.serialize_frozen_trial(study._study_id, study.trials[0], study.trials[0].system_attrs)
    assert shown["constraints"] == [study.trials[0].constraints["macs"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": KnownAnswer(4, seed=1)}, "the model, the layers and groups"),
        (
            {"problem": KnownAnswer(4, steps=2)},
            r"(?s)the objective's settings changed\n  objective.steps: 0 in the study, now 2",
        ),
        (
            {"space": SearchSpace.from_graph(KnownAnswer(4).graph, round_to=2)},
            "space.rules.round_to: 1 in the study, now 2",
        ),
        ({"space": SearchSpace.from_graph(KnownAnswer(4).graph, methods=("fpgm",))}, r"space.methods: \['l1_norm'\]"),
        ({"budget": "macs=0.4"}, "budget.macs: 0.5 in the study, now 0.4"),
        ({"budget": "params=0.5"}, "budget.params: nothing in the study, now 0.5"),
        ({"pareto": ("macs",)}, r"what is searched for changed"),
    ],
)
def test_a_study_of_something_else_is_refused_with_the_difference(finished, change, message):
    folder, before = finished
    problem = KnownAnswer(4, fail_above=0.8)
    with pytest.raises(StudyError, match=message) as raised:
        run(folder, **{"problem": problem, "study_name": "digits", "trials": 9, **change})
    assert "cannot go on" in str(raised.value)
    assert not change.get("problem", problem).calls
    assert open_study(folder).trials == before.trials


def test_controller_seed_and_pruner_may_change(finished):
    folder, before = finished
    result = run(folder, KnownAnswer(4, fail_above=0.8), trials=10, controller="random", seed=9)
    assert result.trials[: len(before.trials)] == before.trials
    assert [t.controller for t in result.trials[-2:]] == ["random", "random"]
    assert [t.seed for t in result.trials[-2:]] == [9, 9]


def test_differences_are_short_and_name_the_place():
    stored = {"a": {"b": 1, "c": [1, 2]}, "d": "x" * 200, "e": 0}
    lines = differences(stored, {"a": {"b": 2, "c": [1, 2]}, "d": "y", "f": None, "e": 0})
    assert lines == ["a.b: 1 in the study, now 2", f"d: {'x' * 60}... (200 characters) in the study, now y"]
    assert differences({str(i): i for i in range(9)}, {}, limit=2)[-1] == "and 7 more"
    with pytest.raises(StudyError, match="written by another release"):
        check_facts({"version": 0}, {"version": 1}, "the study")


def test_a_study_of_another_network_in_the_same_folder_is_refused(finished):
    folder, _ = finished
    with pytest.raises(StudyError, match="holds the study 'digits' of another network"):
        run(folder, KnownAnswer(4, seed=5), study_name="other")


def test_an_optuna_study_that_is_not_ours_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    optuna.create_study(storage=url, study_name="theirs").optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="was not made by autoprune"):
        run(tmp_path / "run", storage=url, study_name="theirs")
    with pytest.raises(StudyError, match="no study made by autoprune"):
        open_study(tmp_path / "theirs.db")
    with pytest.raises(StudyError, match=r"'theirs' .* was not made by autoprune"):
        open_study(tmp_path / "theirs.db", "theirs")
    assert list_studies(tmp_path / "theirs.db")[0].problem


def test_a_second_search_in_the_same_folder_is_refused(tmp_path):
    program = (
        "import sys, time, pathlib\n"
        "from autoprune.errors import StudyError\nfrom autoprune.locking import folder_lock\n"
        "with folder_lock(pathlib.Path(sys.argv[1]), 'search', StudyError):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match=rf"another search runs in .* \(process {other.pid} on .* since"):
            run(folder)
        other.kill()
    assert len(run(folder).trials) == 6
    with folder_lock(folder, "search", StudyError):
        pass


def test_a_second_writer_of_one_study_is_noticed(tmp_path):
    class AddsTrials(Progress):
        def trial_finished(self, record, best, done):
            if record.number == 3:
                optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}").ask()

    with pytest.raises(StudyError, match=r"another process adds trials .*'run'.*expected number 4, but got 5"):
        run(tmp_path / "run", progress=AddsTrials())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "the storage must be a URL such as"),
        ("nosuch://host/db", "cannot use the study storage 'nosuch://host/db'.*install the driver"),
        ("postgresql+nosuch://me:secret@host/db", r"postgresql\+nosuch://me:\*\*\*@host/db"),
        ("sqlite:////proc/no/such/study.db", "cannot write the run folder '/proc/no/such'"),
    ],
)
def test_a_storage_out_of_reach_is_a_clear_error(tmp_path, url, message):
    problem = KnownAnswer(3)
    with pytest.raises(StudyError, match=message) as raised:
        run(tmp_path / "run", problem, storage=url)
    assert "secret" not in str(raised.value)
    assert not problem.calls


def test_a_server_that_does_not_answer_is_a_clear_error(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(StudyError, match=r"cannot use the study storage 'postgresql://me:\*\*\*@127.0.0.1:1/db'"):
        run(tmp_path / "run", storage="postgresql://me:secret@127.0.0.1:1/db")


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot write the run folder .*Not a directory; choose another run folder"):
        run(tmp_path / "file" / "run")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o555)
        with pytest.raises(StudyError, match="Permission denied"):
            run(tmp_path / "closed")


def test_files_that_are_no_database_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.db").write_bytes(b"not a database at all, but long enough to look at" * 10)
    with pytest.raises(StudyError, match="file is not a database; check the folder"):
        run(tmp_path / "run")
    with pytest.raises(StudyError, match="file is not a database"):
        open_study(tmp_path / "run")
    assert "not a database" in list_studies(tmp_path)[0].problem


def test_a_database_of_another_optuna_is_refused(tmp_path):
    run(tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "study.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    connection.close()
    with pytest.raises(StudyError, match="written by another release of Optuna"):
        open_study(tmp_path / "run")


def test_places_without_a_study_say_so(tmp_path):
    with pytest.raises(StudyError, match=r"there is no study at .*; 'autoprune search' makes one"):
        open_study(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StudyError, match="there is no folder"):
        list_studies(tmp_path / "nowhere")
    assert list_studies(tmp_path) == []


def test_unknown_studies_and_trials_are_errors_with_near_misses(finished):
    folder, _ = finished
    with pytest.raises(UnknownNameError, match="unknown study 'digit'; did you mean 'digits'"):
        open_study(folder, "digit")
    with pytest.raises(UnknownNameError, match="has no trial 99"):
        open_study(folder).trial(99)


def test_folders_of_run_folders_are_listed(tmp_path):
    run(tmp_path / "b", trials=2)
    run(tmp_path / "a", KnownAnswer(3), trials=1)
    (tmp_path / "empty").mkdir()
    found = list_studies(tmp_path)
    assert [(s.name, s.counts, s.budget) for s in found] == [
        ("a", {"ok": 4}, "macs <= 50% of dense"),
        ("b", {"ok": 5}, "macs <= 50% of dense"),
    ]
    assert all(s.best is not None and s.changed is not None and not s.problem for s in found)
    assert [s.name for s in list_studies(tmp_path / "a")] == ["a"]


def test_strange_folder_names_work(tmp_path):
    folder = tmp_path / "50% {of} what? #1 é"
    first = run(folder, trials=1)
    assert history(run(folder, trials=2))[:4] == history(first)
    assert open_study(folder).name == "50% {of} what? #1 é"


def test_a_storage_elsewhere_goes_on_from_any_run_folder(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first = run(tmp_path / "one", storage=url, study_name="shared", trials=2)
    second = run(tmp_path / "two", storage=url, study_name="shared", trials=4)
    assert second.trials[:5] == first.trials
    assert [s.name for s in list_studies(url)] == ["shared"]
    assert not (tmp_path / "one" / "study.db").exists()


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(None)
    assert len(result.trials) == 6
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_never_began_takes_new_settings(tmp_path):
    class Refuses(KnownAnswer):
        @property
        def dense(self):
            raise StudyError("no network")

    with pytest.raises(StudyError, match="no network"):
        run(tmp_path / "run", Refuses(4), budget="macs=0.6")
    assert len(run(tmp_path / "run", budget="macs=0.5", pareto=("macs",)).trials) == 6


def test_in_flight_trials_wait_with_their_number_and_plan(tmp_path):
    problem = KnownAnswer(4)
    result = run(tmp_path / "run", problem)
    address = Address.of(tmp_path / "run")
    about = facts(problem, SearchSpace.from_graph(problem.graph), (), Budget(macs=0.5))
    ledger = Ledger.open(address, "run", about)
    ledger.records()
    flying = replace(result.trials[-1], number=6, status="running", outcome=None)
    ledger.begin(flying, distributions(open_study(tmp_path / "run").space))
    ledger.close()
    ledger = Ledger.open(address, "run", about)
    records = ledger.sweep()
    assert [r.status for r in records] == ["ok"] * 6 + ["waiting"]
    assert records[-1].plan == flying.plan
    states = [t.state for t in ledger.storage.get_all_trials(ledger.study)]
    assert states[-1] is TrialState.WAITING
    ledger.close()


def test_a_closed_study_is_one_file_that_others_can_copy(finished, tmp_path):
    folder, result = finished
    copy = tmp_path / "copy.db"
    copy.write_bytes((folder / "study.db").read_bytes())
    assert len(open_study(copy).trials) >= len(result.trials)
    assert sorted(p.name for p in folder.glob("study.db*")) == ["study.db"]


def test_reading_does_not_disturb_a_search_and_sees_it(tmp_path):
    seen = []

    class Looks(Progress):
        def trial_finished(self, record, best, done):
            seen.append(open_study(tmp_path / "run").counts)

    run(tmp_path / "run", progress=Looks())
    assert seen[0] == {"ok": 1}
    assert seen[-1] == {"ok": 6}


def test_a_storage_in_memory_is_closed_without_harm():
    address = Address.of(None)
    storage = address.open(make=True)
    close(storage, address)
    assert address.shown == "memory"
    assert json.dumps(storage.get_all_studies()) == "[]"
