"""Norms, knees, thresholds and features, against values worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import autoprune
from autoprune.errors import PlanError, StudyError, UnknownNameError
from autoprune.plan import LayerDecision, Pattern, Plan
from autoprune.problems import KnownAnswer
from autoprune.search.records import TrialRecord
from autoprune.search.threshold.examples import Examples, curve_examples, example_of
from autoprune.search.threshold.facts import (
    GroupFacts,
    NetworkFacts,
    drop_of,
    facts_of,
    harm_of,
    layer_facts,
    neighbours_of,
)
from autoprune.search.threshold.features import FEATURES, LAYER, NAMES, Judged, plan_rows
from autoprune.sensitivity import sensitivity
from autoprune.space import SearchSpace
from autoprune.thresholds import Thresholds, knee, sorted_shares, threshold_of, units_below

shares_of = st.lists(st.floats(0.001, 100), min_size=2, max_size=30).map(sorted_shares)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()


def graph():
    return autoprune.trace(net(), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("norms", "goes"),
    [
        ([1, 1, 1, 1, 6], 4),  # far below the chord at the fourth, which goes with the flat part
        ([1, 2, 12, 12, 12], 2),  # far above the chord at the third, which stays with the flat part
        ([1, 2, 3, 4], 0),  # a straight line has no knee
        ([2, 2, 2], 0),
        ([1, 5], 0),
        ([0, 0, 0], 0),
        ([0, 1, 1.2, 1.4, 1.6, 1.8, 5], 6),  # the last of the flat part is farther away than the first
    ],
)
def test_the_knee(norms, goes):
    assert knee(sorted_shares(norms)) == goes


@given(shares_of)
def test_a_threshold_stands_for_a_count_and_one_unit_stays(shares):
    for count in range(len(shares)):
        threshold = threshold_of(shares, count)
        if count == 0 or shares[count - 1] < threshold:  # equal norms go together, a threshold cannot tell them apart
            assert units_below(shares, threshold) == count
    assert units_below(shares, math.inf) == len(shares) - 1
    assert 0 <= knee(shares) < len(shares)


def test_facts_of_layers_by_hand():
    found = layer_facts(graph(), graph().groups["2"])
    assert found == {
        "convolution": 1.0,
        "layers": 1.0,
        "units": 3.0,
        "inputs": 2.0,
        "kernel": 3.0,
        "stride": 2.0,
        "output": 2.0,  # 4 x 4
        "params": pytest.approx(math.log10(8 * 4 * 9 + 8)),
        "macs": pytest.approx(math.log10(8 * 4 * 9 * 16)),
        "params_share": pytest.approx(296 / (112 + 296 + 645)),
        "macs_share": pytest.approx(4608 / (6912 + 4608 + 640)),
        "depth": pytest.approx(2 / 3),
    }
    assert neighbours_of(graph(), ["0", "2"]) == {"0": ((), ("2",)), "2": (("0",), ())}
    assert neighbours_of(graph(), ["2"]) == {"2": ((), ())}


def by_hand() -> NetworkFacts:
    zeros = {name: 0.0 for name, *_ in LAYER}
    norms = np.array([0.5, 1.0, 1.0, 1.5])
    one = GroupFacts("one", 4, zeros | {"units": 2.0}, (), ("two",), {"l1_norm": norms}, ((0.5, 0.1), (0.75, 0.4)))
    two = GroupFacts("two", 4, zeros, ("one",), (), {"l1_norm": norms, "fpgm": norms})
    return NetworkFacts({"one": one, "two": two}, accuracy=0.8, images=100, steps=31, batch=63)


def test_features_of_a_plan_by_hand():
    rows = plan_rows(by_hand(), {"one": ("l1_norm", 1), "two": ("fpgm", 3)}, Judged(31, 63, 100))
    one, two = (dict(zip(NAMES, row.tolist(), strict=True)) for row in rows)
    assert [one[f"norm_{q}"] for q in (0, 5, 25, 50, 75, 95, 100)] == pytest.approx(
        [0.5, 0.575, 0.875, 1.0, 1.125, 1.425, 1.5]
    )
    assert (one["by_l1_norm"], one["by_fpgm"], two["by_l1_norm"], two["by_fpgm"]) == (1, 0, 0, 1)
    assert (one["threshold"], one["removed"], two["threshold"], two["removed"]) == (0.75, 0.25, 1.25, 0.75)
    assert (one["kept_before"], one["kept_after"]) == (1.0, 0.25)
    assert (two["kept_before"], two["kept_after"]) == (0.75, 1.0)
    assert (one["units"], one["accuracy"]) == (2.0, pytest.approx(0.8))
    assert (one["steps"], one["batch"], one["images"]) == (5.0, 6.0, 2.0)
    assert one["alone"] == pytest.approx(math.log10(0.003 + 0.05))  # half way to 0.1 at 0.5
    assert (one["alone_known"], two["alone_known"], two["alone"]) == (1, 0, pytest.approx(math.log10(0.003)))
    assert len(FEATURES) == len(set(NAMES)) == rows.shape[1]


def test_harm_and_drop_are_two_ways_to_say_one_thing():
    assert harm_of(0.8, 0.8) == 0
    assert drop_of(harm_of(0.6, 0.8), 0.8) == pytest.approx(0.2)
    assert harm_of(None, 0.8) == harm_of(0.0, 0.8) == pytest.approx(-math.log(0.05))
    assert by_hand().groups["one"].harm_alone(1.0) == pytest.approx(0.7)  # beyond the last point, along its line
    assert by_hand().groups["two"].harm_alone(0.5) is None


def test_a_plan_of_which_nothing_is_known_is_refused_or_left_aside():
    with pytest.raises(StudyError, match="decides about 'three', of which the study does not know the layers"):
        plan_rows(by_hand(), {"three": ("l1_norm", 1)}, Judged(0, 0, 1))
    with pytest.raises(StudyError, match="norms of 'one' by 'fpgm' are not known"):
        plan_rows(by_hand(), {"one": ("fpgm", 1)}, Judged(0, 0, 1))
    plan = Plan((LayerDecision("three", "l1_norm", Pattern.UNIT, 0.5),))
    problem = KnownAnswer(2)
    outcome = problem(Plan((LayerDecision("layer00", "l1_norm", Pattern.UNIT, 0.5),)))
    assert not len(example_of(TrialRecord(0, "ok", plan, outcome=outcome), by_hand()))


def test_facts_survive_json_and_give_the_same_features():
    problem = KnownAnswer(3)
    space = SearchSpace.from_graph(problem.graph)
    facts = facts_of(problem, space)
    read = NetworkFacts.from_dict(json.loads(json.dumps(facts.to_dict())))
    decisions = {g.name: ("l1_norm", g.removals[3]) for g in space.groups}
    how = Judged(0, 0, facts.images)
    np.testing.assert_allclose(plan_rows(facts, decisions, how), plan_rows(read, decisions, how), rtol=1e-5)
    assert list(read.groups) == list(facts.groups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=9), "described in version 9, this release reads 1"),
        (lambda d: d.pop("images"), "cannot be read: KeyError"),
        (lambda d: d.update(accuracy=math.nan), "numbers that are not finite"),
        (lambda d: d["groups"]["layer00"]["norms"].update(l1_norm=[math.nan]), "must be .* finite numbers"),
        (lambda d: d["groups"]["layer00"]["layer"].update(units=math.inf), "numbers that are not finite"),
    ],
)
def test_facts_that_are_not_what_they_must_be_are_refused(change, message):
    problem = KnownAnswer(2)
    data = facts_of(problem, SearchSpace.from_graph(problem.graph)).to_dict()
    change(data)
    with pytest.raises(StudyError, match=message):
        NetworkFacts.from_dict(data)


def test_curves_are_examples_of_one_row_each():
    problem = KnownAnswer(3)
    space = SearchSpace.from_graph(problem.graph)
    facts = facts_of(problem, space).knowing(sensitivity(problem, space))
    examples = curve_examples(facts)
    assert len(examples) == len(examples.rows) == 12
    assert (examples.counts == 1).all()
    assert examples.harm[0] == pytest.approx(facts.groups["layer00"].alone[0][1])
    assert len(Examples.joined([examples, examples])) == 24


def test_thresholds_become_a_plan():
    traced = graph()
    scores = {"0": torch.tensor([1.0, 2.0, 3.0, 2.0]), "2": torch.ones(8)}
    plan = Thresholds({"0": 0.9, "2": 0.5}).plan(traced, lambda name, _: scores[name], "l2_norm")
    assert plan == Plan((LayerDecision("0", "l2_norm", Pattern.CHANNEL, 0.25),))
    named = Thresholds({"0": 9.0}, "fpgm").plan(traced, lambda name, _: scores[name], "l2_norm")
    assert named.decisions[0].method == "fpgm"
    assert named.decisions[0].sparsity == 0.75  # one unit stays
    with pytest.raises(UnknownNameError, match="unknown group or layer 'conv9'"):
        Thresholds({"conv9": 1.0}).plan(traced, lambda *_: scores["0"], "l1_norm")
    with pytest.raises(PlanError, match="the thresholds remove nothing"):
        Thresholds({"0": 0.0}).plan(traced, lambda name, _: scores[name], "l1_norm")
    with pytest.raises(PlanError, match="'5' must stay whole: it is the network's output"):
        Thresholds({"5": 1.0}).plan(traced, lambda *_: torch.ones(5), "l1_norm")


def test_thresholds_survive_a_file(tmp_path):
    thresholds = Thresholds({"a": 0.8, "b.c": 1.25}, "l1_norm")
    thresholds.save(tmp_path / "t.json")
    assert Thresholds.load(tmp_path / "t.json") == thresholds
    (tmp_path / "t.toml").write_text('a = 0.8\n"b.c" = 1.25\n')
    assert Thresholds.load(tmp_path / "t.toml") == Thresholds({"a": 0.8, "b.c": 1.25})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds a list"),
        ("{}", "must hold thresholds by layer"),
        ("{", "not JSON or TOML"),
        ('{"a": NaN}', "threshold of layer 'a' .* must be a finite number from 0 on .* but got nan"),
        ('{"a": -1}', "but got -1"),
        ('{"a": true}', "but got True"),
        ('{"a": "0.5"}', "but got '0.5'"),
        ('{"method": 3, "thresholds": {"a": 1}}', "must hold thresholds by layer"),
    ],
)
def test_a_file_that_holds_no_thresholds_is_refused(text, message, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(PlanError, match=message):
        Thresholds.load(tmp_path / "t.json")
