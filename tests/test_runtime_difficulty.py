"""How hard a sample looks: learned where it can be, left alone where it cannot."""

from __future__ import annotations

import pytest
import torch
from runtime_networks import close
from runtime_toy import GROUPS, toy_path, toy_task
from torch import Tensor, nn

from autoprune.runtime import Controller
from autoprune.runtime.controller import difficulty
from autoprune.search.runtime.difficulty import Passed, _deviation, fit, passed

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS = (3, 4)


def _controller(seed: int = 0) -> Controller:
    torch.manual_seed(seed)
    found = Controller(CHANNELS, GROUPS, code=16, hidden=16)
    nn.init.zeros_(found.decoder.weight)
    nn.init.zeros_(found.decoder.bias)
    return found


def _samples(slope: Tensor, features: Tensor, noise: float) -> Passed:
    expected = torch.rand(len(features), dtype=torch.float64) - 0.4
    lost = slope * expected + noise * torch.randn(len(features))
    return Passed(torch.arange(len(features)), features, lost, expected)


def test_what_shows_later_is_known_later() -> None:
    torch.manual_seed(1)
    features = torch.randn(8000, sum(CHANNELS))
    early, late = features[:, 0].sign(), features[:, 4].sign()
    slope = (0.6 * early + 0.6 * late).exp()
    controller = _controller()
    unseen = torch.randn(2000, sum(CHANNELS))
    also = (0.6 * unseen[:, 0].sign() + 0.6 * unseen[:, 4].sign()).exp()
    error = fit(controller, _samples(slope, features, 0.1), _samples(also, unseen, 0.1))
    with torch.no_grad():
        found = controller.decoded(features)[..., -1]  # [N, 2]
        assert float(torch.corrcoef(torch.stack([found[:, 0], 0.6 * early]))[0, 1]) > 0.8
        assert float(torch.corrcoef(torch.stack([found[:, 1], slope.log()]))[0, 1]) > 0.8
        assert float((found[:, 1].exp() - slope).abs().mean()) < 0.5
    assert error < 0.1
    with torch.no_grad():
        assert not controller.decoded(features)[..., :-1].any()  # nothing is said of actions apart


def test_nothing_is_learned_where_nothing_helps() -> None:
    torch.manual_seed(2)
    features = torch.randn(200, sum(CHANNELS))
    controller = _controller()
    nothing = Passed(torch.arange(200), features, torch.zeros(200).double(), torch.zeros(200).double())
    fit(controller, nothing, nothing)
    assert not controller.decoder.weight.any()
    assert not controller.decoder.bias.any()
    with torch.no_grad():
        assert close(difficulty(controller.decoded(features)), torch.ones(200, 2, 1))


def test_what_does_not_hold_on_unseen_samples_is_shrunk() -> None:
    """The network has learned from the samples: on these, what shows tells three times as much."""
    torch.manual_seed(3)
    seen, unseen = torch.randn(6000, sum(CHANNELS)), torch.randn(3000, sum(CHANNELS))
    found = {}
    for much in (0.9, 0.3):
        controller = _controller()
        samples = _samples((0.9 * seen[:, 0].sign()).exp(), seen, 0.1)
        fit(controller, samples, _samples((much * unseen[:, 0].sign()).exp(), unseen, 0.1))
        with torch.no_grad():
            said = controller.reliance[:, None] * controller.decoded(unseen)[..., -1:]
            found[much] = float(said.abs().mean())
    assert found[0.9] == pytest.approx(0.9, abs=0.2)
    assert found[0.3] == pytest.approx(0.3, abs=0.12)


def test_a_stage_that_shows_nothing_lets_samples_stay_on_the_path() -> None:
    torch.manual_seed(4)
    controller = _controller()
    controller.offsets.fill_(-1.0)
    features, unseen = torch.randn(6000, sum(CHANNELS)), torch.randn(3000, sum(CHANNELS))
    slope, also = (0.3 * (0.8 * x[:, 4].sign()).exp() for x in (features, unseen))  # the second stage's to see
    fit(controller, _samples(slope, features, 0.1), _samples(also, unseen, 0.1))
    with torch.no_grad():
        said = difficulty(controller.decoded(unseen), controller.reliance[:, None])[..., 0]
    first, second = said.log().std(0).tolist()
    assert first < 0.1
    assert second > 0.45
    assert close(said.mean(0) * controller.offsets[:, 0], torch.full((2,), -1.0), 1e-4)


def test_the_error_of_a_mean_counts_samples_not_draws() -> None:
    """Four draws of each of 500 samples, equal ones, say no more than one of each."""
    torch.manual_seed(5)
    each = torch.randn(500, 3).double()
    index = torch.arange(500)
    once = _deviation(each, index)
    assert close(once, each.std(0, correction=0) / 500**0.5, 1e-9)
    assert close(_deviation(each.repeat(4, 1), index.repeat(4)), once, 1e-9)


def test_samples_lose_what_the_network_loses() -> None:
    task = toy_task()
    path, middle = toy_path(task), torch.tensor([2, 3])
    worth = torch.arange(8, dtype=torch.float64).reshape(2, 4).flip(1)
    torch.manual_seed(0)
    found = passed(task.chain, task.data.train, path, 0.4, middle, worth, count=10, batch=4)
    torch.manual_seed(0)
    order = torch.randperm(len(task.data.train))[:10]
    assert torch.equal(found.index, order)
    for at in range(0, 10, 4):
        index = order[at : at + 4]
        actions = path.taken(0.4 + 0.6 * torch.rand(len(index), dtype=torch.float64))
        x, y = task.data.train.inputs(index), task.data.train.y[index]
        with torch.no_grad():
            one, other = (task.chain(x, a).softmax(1)[torch.arange(len(y)), y].double() for a in (actions, middle))
        assert close(found.lost[at : at + 4], other - one, 1e-6)
        each = [
            sum(float(worth[s, a - 1] - worth[s, m - 1]) for s, (a, m) in enumerate(zip(r, (2, 3), strict=True)))
            for r in actions.tolist()
        ]
        assert found.expected[at : at + 4].tolist() == pytest.approx(each)
    assert found.features.shape == (10, sum(task.chain.channels))


def test_few_samples_are_run_again_but_not_without_end() -> None:
    task = toy_task()
    split = task.data.train
    found = passed(
        task.chain, split, toy_path(task), 0.4, torch.tensor([2, 3]), torch.zeros(2, GROUPS), count=10**6, batch=64
    )
    assert found.index.bincount().tolist() == [8] * len(split)
