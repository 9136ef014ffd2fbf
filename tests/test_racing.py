"""Racing: the test is exact, its error rate is what it says, and it saves images."""

from __future__ import annotations

import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.costs import Cost
from autoprune.errors import SettingsError
from autoprune.evaluation import Evaluation, pack_bits
from autoprune.outcome import Outcome, Status
from autoprune.plan import Plan
from autoprune.racing import RaceSettings, RaceState, joined, race, tail


def runner(correct: torch.Tensor, calls: list[tuple[int, int]] | None = None):
    def run(start: int, stop: int) -> Evaluation:
        if calls is not None:
            calls.append((start, stop))
        return Evaluation(correct[start:stop], 0.5)

    return run


def exact_tail(b: int, c: int, left: int) -> float:
    """The largest P(X >= b) over every population of D differing images that is not against the candidate."""
    seen, worst = b + c, 0.0
    for total in range(seen, seen + left + 1):
        for against in range(total // 2 + 1):
            ways = sum(math.comb(against, x) * math.comb(total - against, seen - x) for x in range(b, seen + 1))
            worst = max(worst, ways / math.comb(total, seen))
    return worst


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 12))
def test_tail_is_the_worst_case_by_brute_force(b, c, left):
    if b > c:
        assert tail(b, c, left) == pytest.approx(exact_tail(b, c, left), rel=1e-9, abs=1e-15)
    else:
        assert tail(b, c, left) == 1.0


def test_tail_tends_to_the_sign_test():
    sign = sum(math.comb(20, k) for k in range(16, 21)) / 2**20
    assert tail(16, 4, 10**6) == pytest.approx(sign, rel=1e-3)
    assert tail(16, 4, 100) < sign


def test_who_cannot_catch_up_is_rejected_for_certain():
    assert tail(30, 10, 19) == 0.0
    assert tail(30, 10, 20) > 0.0


@pytest.mark.parametrize("discordant", [20, 200, 600])
def test_a_candidate_as_good_as_the_incumbent_is_rejected_no_more_often_than_stated(discordant):
    images, delta, runs = 1000, 0.2, 1500
    draws = torch.Generator().manual_seed(discordant)
    candidate, rival = torch.ones(2, images, dtype=torch.bool)
    candidate[: discordant // 2] = False  # only the incumbent is right
    rival[discordant // 2 : discordant] = False  # only the candidate is right
    rejected = 0
    for _ in range(runs):
        order = torch.randperm(images, generator=draws)
        verdict = race(runner(candidate[order]), rival[order], RaceSettings(delta=delta))
        rejected += verdict.rejected
    spread = math.sqrt(delta * (1 - delta) / runs)
    assert rejected / runs <= delta + 3 * spread
    if discordant == 600:
        assert rejected > 0  # the bound is not empty


def test_a_clearly_worse_candidate_costs_few_images():
    images, draws = 2000, torch.Generator().manual_seed(0)
    rival = torch.rand(images, generator=draws) < 0.9
    seen = []
    for accuracy in (0.1, 0.5, 0.7):
        for _ in range(20):
            candidate = torch.rand(images, generator=draws) < accuracy
            verdict = race(runner(candidate), rival, RaceSettings())
            assert verdict.rejected
            assert verdict.p_value is not None
            seen.append(verdict.evaluation.images)
            assert torch.equal(verdict.evaluation.correct, candidate[: seen[-1]])
    assert max(seen[:20]) == 32
    assert max(seen) <= 256


def test_better_and_equal_candidates_see_every_image():
    draws = torch.Generator().manual_seed(1)
    rival = torch.rand(500, generator=draws) < 0.6
    better = rival | (torch.rand(500, generator=draws) < 0.3)
    for candidate in (rival, better):
        calls: list[tuple[int, int]] = []
        verdict = race(runner(candidate, calls), rival, RaceSettings())
        assert not verdict.rejected
        assert torch.equal(verdict.evaluation.correct, candidate)
        assert calls[0] == (0, 32)
        assert calls[-1][1] == 500
        assert all(a[1] == b[0] for a, b in itertools.pairwise(calls))


@given(st.integers(1, 5000), st.integers(1, 300), st.floats(1.01, 10))
def test_looks_grow_to_all_images(images, first, growth):
    looks = RaceSettings(first=first, growth=growth).looks(images)
    assert looks[-1] == images
    assert looks == sorted(set(looks))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delta": 0}, r"'delta' must be in \(0, 1\), but got 0"),
        ({"delta": "small"}, "'delta'"),
        ({"first": 0}, "'first' must be a whole number from 1 on, but got 0"),
        ({"first": True}, "'first'"),
        ({"growth": 1.0}, "'growth' must be above 1, but got 1.0"),
        ({"growth": math.inf}, "'growth'"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(SettingsError, match=message):
        RaceSettings(**wrong)


def test_blocks_join_with_their_weights():
    whole = joined(
        [Evaluation(torch.ones(3, dtype=torch.bool), 1.0), Evaluation(torch.zeros(1, dtype=torch.bool), 5.0)]
    )
    assert (whole.accuracy, whole.images, whole.loss) == (0.75, 4, 2.0)


def outcome(accuracy: float, macs: int = 100, status: Status = Status.OK, correct: bool = True) -> Outcome:
    bits = pack_bits(torch.arange(100) < 100 * accuracy) if correct else ""
    return Outcome(Plan(steps=macs), status, Cost(1, macs, 1), accuracy=accuracy, correct=bits, images=100)


def test_state_keeps_the_best_finished_plan():
    state = RaceState()
    assert state.rival(Cost(1, 1, 1)) is None
    for one in (
        outcome(0.5),
        outcome(0.9, status=Status.STOPPED),
        outcome(0.95, correct=False),
        outcome(0.7),
        outcome(0.6),
    ):
        state.update(one)
    rival = state.rival(Cost(1, 1, 1))
    assert rival is not None
    assert rival.accuracy == 0.7
    assert len(state) == 1
    again = pickle.loads(pickle.dumps(state)).rival(Cost(1, 1, 1))  # noqa: S301 - it travels to worker processes
    assert again == rival
    bits = rival.correctness()
    assert bits is not None
    assert int(bits.sum()) == 70


def test_state_of_a_front_gives_the_best_that_costs_no_more():
    state = RaceState(("macs",))
    for one in (outcome(0.5, 10), outcome(0.8, 50), outcome(0.7, 60), outcome(0.9, 100)):
        state.update(one)
    assert len(state) == 3
    assert state.rival(Cost(1, 5, 1)) is None
    found = {macs: state.rival(Cost(1, macs, 1)) for macs in (10, 49, 50, 99, 1000)}
    assert {macs: o.accuracy for macs, o in found.items() if o} == {10: 0.5, 49: 0.5, 50: 0.8, 99: 0.8, 1000: 0.9}
    state.update(outcome(0.95, 10))
    assert len(state) == 1
