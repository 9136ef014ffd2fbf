"""What every method must do, as checks that raise :class:`AssertionError` with what went wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from autoprune.applied import PrunedModel, prune
from autoprune.calibration import Need, stats_digest
from autoprune.masking import mask_from_order, order_of, removed_count
from autoprune.methods.base import COMBINE, Method
from autoprune.plan import LayerDecision, Pattern, Plan
from autoprune.ranking import Ranker
from autoprune.reconstruction import RECONSTRUCTIONS, output_error
from autoprune.seeding import generator
from autoprune.testing.problems import Network, Problem, network, problem

Check = Callable[[Method, Pattern], None]
SPARSITIES = (0.0, 0.1, 0.3, 0.5, 0.77, 0.99)


def _require(holds: bool, method: Method, pattern: Pattern, message: str) -> None:
    if not holds:
        raise AssertionError(f"method {method.name!r}, pattern {pattern.value!r}: {message}")


def _scores(method: Method, given: Problem, seed: int = 0, combine: str = "mean") -> Tensor:
    return method.score(given.members, given.pattern, generator(seed, "conformance"), combine=combine)


def _is_random(method: Method, pattern: Pattern) -> bool:
    given = problem(pattern)
    return not torch.equal(_scores(method, given, 0), _scores(method, given, 1))


def declares_itself(method: Method, pattern: Pattern) -> None:
    """Name, patterns, needs and source are there."""
    _require(bool(re.fullmatch(r"[a-z][a-z0-9_]*", method.name)), method, pattern, "its name must be in snake_case")
    _require(pattern in method.patterns, method, pattern, "the pattern is not among its patterns")
    known = all(isinstance(p, Pattern) for p in method.patterns) and all(isinstance(n, Need) for n in method.needs)
    _require(known, method, pattern, "patterns and needs must be members of Pattern and Need")
    _require(bool(re.search(r"\b(19|20)\d\d\b", method.source)), method, pattern, "its source must name a year")


def scores_every_unit(method: Method, pattern: Pattern) -> None:
    """One finite float64 score for each unit, whatever way the layers of a group are combined."""
    for units, entries in ((6, 5), (1, 4), (5, 1), (1, 1)):
        given = problem(pattern, units=units, entries=entries)
        for combine in COMBINE:
            _require_scores(method, given, _scores(method, given, combine=combine))


def _require_scores(method: Method, given: Problem, scores: Tensor) -> None:
    shape = tuple(scores.shape)
    _require(shape == given.shape, method, given.pattern, f"scores must be {given.shape}, but are {shape}")
    _require(scores.dtype == torch.float64, method, given.pattern, f"scores must be float64, but are {scores.dtype}")
    _require(bool(torch.isfinite(scores).all()), method, given.pattern, f"scores must be finite, but are {scores}")


def finite_when_degenerate(method: Method, pattern: Pattern) -> None:
    """Dead inputs, empty units, a singular covariance and weights of zero give finite scores."""
    for case in ({"dead": True}, {"singular": True}, {"zeros": True}, {"dead": True, "singular": True}):
        given = problem(pattern, entries=9, **case)
        _require_scores(method, given, _scores(method, given))


def leaves_its_inputs(method: Method, pattern: Pattern) -> None:
    """Weights and statistics are not written to."""
    given, same = problem(pattern), problem(pattern)
    _scores(method, given)
    for member, other in zip(given.members, same.members, strict=True):
        assert member.stats is not None
        assert other.stats is not None
        untouched = torch.equal(member.weight, other.weight)
        untouched &= stats_digest({"": member.stats}) == stats_digest({"": other.stats})
        _require(untouched, method, pattern, "it changed the weights or statistics it was given")


def same_seed_same_scores(method: Method, pattern: Pattern) -> None:
    """The generator is the only source of chance."""
    given = problem(pattern)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = _scores(method, given)
        torch.manual_seed(2)
        second = _scores(method, given)
    _require(torch.equal(first, second), method, pattern, "equal seeds gave different scores")


def units_permuted(method: Method, pattern: Pattern) -> None:
    """Units in another order have their scores in that order."""
    if _is_random(method, pattern):
        return
    given, index = problem(pattern), torch.randperm(6, generator=generator(5))
    moved, want = _scores(method, given.units_permuted(index)), _scores(method, given)[index]
    same = torch.allclose(moved, want, rtol=1e-9, atol=1e-12)
    _require(same, method, pattern, f"permuted units must score {want}, but score {moved}")


def entries_permuted(method: Method, pattern: Pattern) -> None:
    """The order of the inputs does not matter."""
    if _is_random(method, pattern):
        return
    given, index = problem(pattern), torch.randperm(5, generator=generator(5))
    moved, want = _scores(method, given.entries_permuted(index)), _scores(method, given)
    want = want[:, index] if pattern is Pattern.WEIGHT else want
    same = torch.allclose(moved, want, rtol=1e-9, atol=1e-12)
    _require(same, method, pattern, f"with permuted inputs scores must be {want}, but are {moved}")


def exact_count(method: Method, pattern: Pattern) -> None:
    """Masks remove exactly what was asked for, and a higher sparsity removes more of the same."""
    given = problem(pattern, units=11, entries=7)
    order = order_of(_scores(method, given))
    size, last = order.numel(), None
    for sparsity in SPARSITIES:
        mask = mask_from_order(order, sparsity, given.shape)
        removed, want = int((~mask).sum()), removed_count(size, sparsity)
        _require(removed == want, method, pattern, f"sparsity {sparsity} must remove {want}, but removed {removed}")
        _require(last is None or bool((last | ~mask).all()), method, pattern, "a unit came back at a higher sparsity")
        last = mask


def nothing_at_zero(method: Method, pattern: Pattern) -> None:
    """Sparsity 0 gives the same network, bit for bit."""
    net = network()
    for mode in ("mask", "remove"):
        before, after = net.model.state_dict(), _pruned(net, method, pattern, 0.0, mode).module.state_dict()
        same = all(torch.equal(before[name], after[name]) for name in before)
        _require(same, method, pattern, f"sparsity 0 with mode {mode!r} changed the network")


def zeros_where_masked(method: Method, pattern: Pattern) -> None:
    """Parameters are exactly zero where a mask says so and exactly the dense ones elsewhere; the dense ones stay."""
    net = network()
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    pruned = _pruned(net, method, pattern, 0.5, "mask")
    _require(bool(pruned.masks), method, pattern, "sparsity 0.5 masked nothing")
    for name, parameter in pruned.module.named_parameters():
        mask = pruned.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        same = torch.equal(parameter.detach(), torch.where(mask, before[name], torch.zeros_like(before[name])))
        _require(same, method, pattern, f"{name!r} is not the dense tensor times its mask")
    unchanged = all(torch.equal(before[name], tensor) for name, tensor in net.model.state_dict().items())
    _require(unchanged, method, pattern, "the dense network was changed")


def masking_equals_removing(method: Method, pattern: Pattern) -> None:
    """The network without the units gives what the network with masked units gives."""
    net = network()
    for sparsity in SPARSITIES:
        removed, masked = (_pruned(net, method, pattern, sparsity, mode).module for mode in ("remove", "mask"))
        with torch.no_grad():
            difference = float((removed.eval()(net.inputs) - masked.eval()(net.inputs)).abs().max())
        _require(difference < 1e-10, method, pattern, f"removed and masked differ by {difference} at {sparsity}")


def repair_never_hurts(method: Method, pattern: Pattern) -> None:
    """For what the method keeps, a closed-form repair never has a larger calibration error than none."""
    if pattern is Pattern.WEIGHT:
        return
    given = problem(pattern, units=8, entries=6)
    stats = problem(Pattern.UNIT, units=3, entries=8).members[0].stats  # of a layer that consumes the 8 units
    assert stats is not None
    weight = torch.randn(3, 8, generator=generator(1), dtype=torch.float64)
    order = order_of(_scores(method, given))
    for removed in range(8):
        keep = order[removed:].sort().values
        repairs = {name: how.repair(weight, keep, stats) for name, how in RECONSTRUCTIONS.items()}
        errors = {name: output_error(weight, keep, repair, stats) for name, repair in repairs.items()}
        worst = max(errors.values())
        _require(errors["none"] >= worst * (1 - 1e-9), method, pattern, f"a repair made it worse: {errors}")


def _pruned(net: Network, method: Method, pattern: Pattern, sparsity: float, mode: str) -> PrunedModel:
    """The test network with every group (or layer) of the pattern pruned by ``method``."""
    ranker = Ranker(net.model, net.graph, stats=net.stats)
    names = net.graph.weight_layers if pattern is Pattern.WEIGHT else [g.name for g in net.groups(pattern)]
    plan = Plan(tuple(LayerDecision(name, method.name, pattern, sparsity) for name in names))
    if pattern is Pattern.WEIGHT:
        masks = {str(net.graph.layers[n].weight): ranker.weight_mask(n, method, sparsity) for n in names}
        return prune(net.model, net.graph, plan, {}, masks, net.stats, mode=mode)
    kept = {g.name: ranker.kept(g.name, method, g.removed(sparsity)) for g in net.groups(pattern)}
    lossy = {name: index for name, index in kept.items() if len(index) < net.graph.groups[name].size}
    return prune(net.model, net.graph, plan, lossy, {}, net.stats, mode=mode)


METHOD_CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        declares_itself,
        scores_every_unit,
        finite_when_degenerate,
        leaves_its_inputs,
        same_seed_same_scores,
        units_permuted,
        entries_permuted,
        exact_count,
        nothing_at_zero,
        zeros_where_masked,
        masking_equals_removing,
        repair_never_hurts,
    )
}


def check_method(method: Method, patterns: Iterable[Pattern] | None = None) -> None:
    """Run every check for every pattern of ``method``.

    Raises:
        AssertionError: what a check found.
    """
    for pattern in sorted(method.patterns if patterns is None else patterns):
        for check in METHOD_CHECKS.values():
            check(method, pattern)
