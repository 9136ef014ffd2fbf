"""Moves of a local search: worked by hand, and who pays for them against every shift there is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.envs import Task, make_task
from autoprune.envs.episode import Decision, Episode
from autoprune.envs.refining import LESS, MORE, Decisions, Moves, arranged
from autoprune.plan import Pattern
from autoprune.problems import KnownAnswer
from autoprune.space import GroupSpace, SearchSpace

METHODS = ("l1_norm", "l2_norm")


def task_of(counts: int = 5, groups: int = 3, budget: Any = "macs=0.5", methods: tuple[str, ...] = METHODS) -> Task:
    """A problem in whose space every group may lose one of ``counts`` numbers of units."""
    problem = KnownAnswer(groups, methods=methods)
    space = SearchSpace.from_graph(problem.graph, levels=counts, methods=methods)
    return make_task(Task(problem, space), budget=budget)


def test_moves_worked_by_hand() -> None:
    task = task_of(counts=9, budget=None)
    moves = Moves(task, 0.25)
    assert moves.names == ("more", "less", "method l1_norm", "method l2_norm")
    assert [len(g.removals) for g in task.space.groups] == [9, 9, 9]
    assert moves.strides == (2, 2, 2)
    start: Decisions = (Decision(0), Decision(7, 1), Decision(4, 0))
    expected = {
        (0, MORE): Decision(2),
        (0, LESS): Decision(0),
        (0, 2): Decision(0),
        (0, 3): Decision(0),  # nothing goes: no method changes it
        (1, MORE): Decision(8, 1),
        (1, LESS): Decision(5, 1),
        (1, 2): Decision(7, 0),
        (1, 3): Decision(7, 1),
        (2, MORE): Decision(6),
        (2, LESS): Decision(2),
        (2, 3): Decision(4, 1),
    }
    for (group, move), decision in expected.items():
        found = moves.moved(start, group, move)
        assert found[group] == decision
        assert [d for i, d in enumerate(found) if i != group] == [d for i, d in enumerate(start) if i != group]
    same = [(0, LESS), (0, 2), (0, 3), (1, 3), (2, 2)]
    assert [tuple(place) for place in np.argwhere(~moves.masks(start)).tolist()] == same
    for step, strides in ((1, (8, 8, 8)), (1e-9, (1, 1, 1)), (0.5, (4, 4, 4))):
        assert Moves(task, step).strides == strides


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_others_pay_the_least_that_is_enough(data: st.DataObject) -> None:
    """Against every shift there is: one between each two at which a group goes on to its next count."""
    share = data.draw(st.sampled_from([0.3, 0.45, 0.6, 0.8]))
    task = task_of(counts=data.draw(st.integers(2, 7)), budget=f"macs={share}")
    moves, groups = Moves(task), task.space.groups
    places = data.draw(st.tuples(*(st.integers(0, len(g.removals) - 1) for g in groups)))
    decisions = tuple(Decision(place, place % 2) for place in places)
    held = data.draw(st.integers(0, len(groups) - 1))
    start = [g.removals[p] / g.size for g, p in zip(groups, places, strict=True)]

    def shifted(by: float) -> Decisions:
        moved = [g.place(min(s + by, 1.0)) for g, s in zip(groups, start, strict=True)]
        return tuple(Decision(places[i] if i == held else p, places[i] % 2) for i, p in enumerate(moved))

    counts = [[k / g.size for k in g.removals] for g in groups]
    jumps = {(a + b) / 2 - s for s, c in zip(start, counts, strict=True) for a, b in itertools.pairwise(c)}
    ends = [0.0, *sorted(jump for jump in jumps if jump > 0), 1.0]
    shifts = [shifted((a + b) / 2) for a, b in itertools.pairwise(ends)]
    assert moves.settled(decisions, held) == next((d for d in shifts if moves.fits(d)), None)
    refusing = Moves(task, rebalance=False).settled(decisions, held)
    assert refusing == (decisions if moves.fits(decisions) else None)


def test_groups_with_few_counts_move_by_at_least_one() -> None:
    task = task_of(budget=None)
    few = SearchSpace((GroupSpace(task.space.groups[0].name, Pattern.UNIT, task.space.groups[0].size, (0, 1)),))
    moves = Moves(Task(task.objective, few), 0.01)
    assert moves.strides == (1,)
    assert moves.moved((Decision(0),), 0, MORE) == (Decision(1),)
    assert arranged(moves.task, (Decision(1),)).removed == {few.groups[0].name: 1}


def test_all_decided_at_once_is_decided_one_by_one() -> None:
    task = task_of(counts=9)
    decisions = (Decision(3), Decision(0, 1), Decision(8, 1))
    at_once, one_by_one = arranged(task, decisions), Episode(task)
    for decision in decisions:
        one_by_one.decide(decision)
    assert at_once.done
    assert (at_once.plan, at_once.values, at_once.cost) == (one_by_one.plan, one_by_one.values, one_by_one.cost)
    assert (at_once.decisions, at_once.sparsities) == (one_by_one.decisions, one_by_one.sparsities)
