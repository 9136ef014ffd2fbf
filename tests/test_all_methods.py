"""Every registered method through the conformance suite, against brute force, and the suite against broken methods."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.calibration import Need, collect
from autoprune.data.splits import Split
from autoprune.errors import UnknownNameError
from autoprune.masking import order_of
from autoprune.methods import METHODS, get_method, joint, recipe
from autoprune.methods.base import STRUCTURED, Member
from autoprune.plan import Pattern
from autoprune.ranking import Ranker
from autoprune.seeding import generator
from autoprune.testing import METHOD_CHECKS, check_method, network, problem
from autoprune.tracing import trace

CASES = [(name, pattern) for name, method in METHODS.items() for pattern in sorted(method.patterns)]


@pytest.mark.parametrize("check", METHOD_CHECKS)
@pytest.mark.parametrize(("name", "pattern"), CASES, ids=[f"{n}-{p.value}" for n, p in CASES])
def test_conformance(name: str, pattern: Pattern, check: str) -> None:
    METHOD_CHECKS[check](METHODS[name], pattern)


def test_the_registry() -> None:
    assert all(method.name == name for name, method in METHODS.items())
    assert {"random", "magnitude", "l1_norm", "l2_norm", "fpgm", "taylor_fo"} <= set(METHODS)
    with pytest.raises(UnknownNameError, match="unknown method 'l1norm'; did you mean 'l1_norm' or 'l2_norm'"):
        get_method("l1norm")
    covered = {pattern for _, pattern in CASES}
    assert covered == set(Pattern)


def test_the_network_of_the_suite_has_every_kind_of_group() -> None:
    net = network()
    assert [g.name for g in net.groups(Pattern.CHANNEL)] == ["stem", "up", "down"]
    assert [g.name for g in net.groups(Pattern.UNIT)] == ["hidden"]
    assert [g.name for g in net.groups(Pattern.INPUT)] == ["input"]


# ---- brute force -------------------------------------------------------------------------------------------------


def _rows(member: Member) -> list[list[float]]:
    return member.weight.tolist()


def _per_member(members, score) -> list[float]:
    """Mean over members of each one's share, by loops."""
    shares = []
    for member in members:
        scores = [score(row, _rows(member)) for row in _rows(member)]
        shares.append([s * len(scores) / sum(scores) for s in scores])
    return [sum(column) / len(shares) for column in zip(*shares, strict=True)]


def _taylor(members) -> list[float]:
    gates = [m.stats.taylor[m.tensor, m.dim].tolist() for m in members]
    totals = [[sum(batch) for batch in zip(*unit, strict=True)] for unit in zip(*gates, strict=True)]
    return [sum(g * g for g in unit) / len(unit) for unit in totals]


BRUTE = {
    "l1_norm": lambda members: _per_member(members, lambda row, _: sum(abs(w) for w in row)),
    "l2_norm": lambda members: _per_member(members, lambda row, _: math.sqrt(sum(w * w for w in row))),
    "fpgm": lambda members: _per_member(members, lambda row, rows: sum(math.dist(row, other) for other in rows)),
    "taylor_fo": _taylor,
    "magnitude": lambda members: [[abs(w) for w in row] for row in _rows(members[0])],
}


@pytest.mark.parametrize(("name", "pattern"), [case for case in CASES if case[0] != "random"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_brute_force(name: str, pattern: Pattern, seed: int) -> None:
    given = problem(pattern, units=7, entries=4, seed=seed)
    scores = METHODS[name].score(given.members, pattern, generator(0))
    torch.testing.assert_close(
        scores, torch.tensor(BRUTE[name](given.members), dtype=torch.float64), rtol=1e-10, atol=0
    )


def test_random_scores_are_uniform() -> None:
    given = problem(Pattern.WEIGHT, units=200, entries=100)
    scores = METHODS["random"].score(given.members, Pattern.WEIGHT, generator(3)).flatten()
    assert 0 <= float(scores.min()) < 1e-3
    assert 0.999 < float(scores.max()) < 1
    counts = torch.histc(scores, 10, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 27.9  # chi-squared, 9 degrees of freedom, 0.1 %
    order = order_of(METHODS["random"].score(given.members, Pattern.CHANNEL, generator(3)))
    assert sorted(order.tolist()) == list(range(200))


def test_the_middle_filter_goes_where_a_norm_takes_the_smallest() -> None:
    member = Member("conv", torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64), None, torch.arange(3)[:, None])
    first = {
        n: int(order_of(METHODS[n].score([member], Pattern.CHANNEL, generator(0)))[0]) for n in ("fpgm", "l1_norm")
    }
    assert first == {"fpgm": 1, "l1_norm": 0}


# ---- regimes in which a criterion is exact -----------------------------------------------------------------------


def test_l2_norm_of_inputs_is_the_exact_order_for_white_inputs() -> None:
    weight = torch.randn(4, 6, generator=generator(1), dtype=torch.float64)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64)  # mean 0, covariance I
    changes = []
    for unit in range(6):
        cut = weight.clone()
        cut[:, unit] = 0
        changes.append(float((corners @ (cut - weight).T).square().sum(1).mean()))
    member = Member("fc", weight.T.contiguous(), None, torch.arange(6)[:, None], dim=1)
    scores = METHODS["l2_norm"].score([member], Pattern.INPUT, generator(0))
    torch.testing.assert_close(scores.square(), torch.tensor(changes, dtype=torch.float64))


class Faint(nn.Module):
    """A network whose hidden units say so little that the loss is linear in each."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(5, 12), nn.Linear(12, 3)
        with torch.no_grad():
            self.hidden.weight.mul_(1e-4)
            self.hidden.bias.mul_(1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(x)))


def test_taylor_is_the_squared_change_of_the_loss_where_that_is_linear() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Faint().double().eval()
    split = Split(torch.randn(30, 5, generator=generator(2)), torch.randint(3, (30,), generator=generator(3)))
    x = split.inputs().double()
    graph = trace(model, x[:2])
    stats = collect(model, graph, split, {Need.GRADIENT}, batch_size=30)
    scores = Ranker(model, graph, stats=stats).scores("hidden", "taylor_fo")
    with torch.no_grad():
        dense = F.cross_entropy(model(x), split.y)
        changes = []
        for unit in range(12):
            model.out.weight[:, unit], saved = 0, model.out.weight[:, unit].clone()
            changes.append(float((F.cross_entropy(model(x), split.y) - dense) ** 2))
            model.out.weight[:, unit] = saved
    torch.testing.assert_close(scores, torch.tensor(changes, dtype=torch.float64), rtol=1e-3, atol=0)
    assert scores.argsort().tolist() == torch.tensor(changes).argsort().tolist()


def test_a_filter_of_zeros_has_no_first_order_effect() -> None:
    net = network()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double().eval()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, 0
    graph = trace(model, net.inputs[:2])
    stats = collect(model, graph, net.split, {Need.GRADIENT})
    scores = Ranker(model, graph, stats=stats).scores("0", "taylor_fo")
    assert float(scores[2]) == 0
    assert int((scores > 0).sum()) == 3


# ---- the suite finds faults --------------------------------------------------------------------------------------

SOURCE = "A. Author, A Title, 2020"


def _norm(member: Member) -> Tensor:
    return member.weight.abs().sum(1)


def _spoil(member: Member) -> Tensor:
    scores = _norm(member)
    member.weight[0] = 0
    return scores


def _no_zero_division(member: Member) -> Tensor:
    return _norm(member) / _norm(member) * _norm(member)


FAULTY = {
    "declares_itself": recipe("L1", SOURCE, _norm),
    "scores_every_unit": recipe("float32", SOURCE, lambda m: _norm(m).float()),
    "finite_when_degenerate": recipe("division", SOURCE, _no_zero_division),
    "leaves_its_inputs": recipe("spoil", SOURCE, _spoil),
    "same_seed_same_scores": joint("drawn", SOURCE, lambda m, p, g: torch.rand(len(m[0].weight)).double()),
    "units_permuted": recipe("place", SOURCE, lambda m: _norm(m) * torch.arange(1, len(m.weight) + 1)),
    "entries_permuted": recipe("first_entry", SOURCE, lambda m: m.weight[:, 0].abs()),
}


@pytest.mark.parametrize("check", FAULTY)
def test_the_suite_finds_a_fault(check: str) -> None:
    method = FAULTY[check]
    with pytest.raises(AssertionError, match=f"method '{method.name}', pattern 'channel'"):
        METHOD_CHECKS[check](method, Pattern.CHANNEL)


def test_a_new_method_passes_in_one_call() -> None:
    check_method(recipe("l3_norm", SOURCE, lambda m: m.weight.abs().pow(3).sum(1)))
    with pytest.raises(AssertionError, match="its source must name a year"):
        check_method(recipe("l3_norm", "someone", _norm), [Pattern.UNIT])
    assert recipe("l3_norm", SOURCE, _norm).patterns == STRUCTURED
