"""How the backbone of a runtime-pruned network is trained, and what its controller learns from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_networks import ZOO, close, images, liven, random_actions, zoo
from runtime_toy import toy_path, toy_task
from torch import Tensor, nn

from autoprune.envs import RuntimeVectorEnv
from autoprune.errors import ChainError
from autoprune.models.common import conv_norm
from autoprune.runtime import Chain, Controller, KnobRow, KnobTable, TrainingWalk
from autoprune.runtime.execution import Sliced, _moments
from autoprune.search.runtime import backbone as backbone_module
from autoprune.search.runtime.agents import Agent
from autoprune.search.runtime.backbone import Along, Backbone, Greedily, ServingForward, ServingLoop
from autoprune.search.runtime.judging import Greedy, Table, judge
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.vecenv import RuntimeVecEnv

pytestmark = pytest.mark.usefixtures("one_thread")


def walked(chain: Chain, x: Tensor, actions: Tensor) -> TrainingWalk:
    walk = chain.begin_training(x)
    while not walk.done:
        walk = walk.step(actions[:, walk.stage])
    return walk


@pytest.mark.parametrize("name", list(ZOO))
def test_training_runs_what_is_deployed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without moments of the samples' own, all that is left of a training step is the network under its actions."""
    monkeypatch.setattr("autoprune.runtime.execution.ENOUGH", 10**9)
    chain, _, shape = zoo(name)
    chain, x = chain.double(), images(5, shape).double()
    actions = random_actions(5, chain)
    with torch.no_grad():
        training, deployed = chain.begin_training(x), chain.begin(x)
        while not deployed.done:
            assert close(training.pooled, deployed.pooled, 1e-10)
            training, deployed = (w.step(actions[:, w.stage].contiguous()) for w in (training, deployed))
    assert close(training.output, deployed.output, 1e-10)
    assert torch.equal(training.actions, actions)
    with pytest.raises(ChainError, match="nothing left to look at"):
        _ = training.pooled
    with pytest.raises(ChainError, match="stage 0 of"):
        _ = chain.begin_training(x).output


@settings(deadline=None, max_examples=20)
@given(size=st.integers(30, 60), seed=st.integers(0, 10**6))
def test_norms_take_the_moments_of_the_samples_that_read_the_same_width(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    first, second = conv_norm(2, 8), conv_norm(8, 8)
    model = nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).double().eval()
    chain = Chain(liven(model, 1).double(), images(2).double(), first=True)
    x, actions = images(size, seed=seed).double(), random_actions(size, chain, seed)
    with torch.no_grad():
        found = walked(chain, x, actions).output
        reads = F.relu(F.batch_norm(first[0](x), None, None, first[1].weight, first[1].bias, True, 0.0, first[1].eps))
        made = torch.zeros(size, 8, *x.shape[2:], dtype=torch.float64)
        for action in range(1, 5):
            rows = actions[:, 0] == action
            out = F.conv2d(reads[rows][:, : 2 * action], second[0].weight[:, : 2 * action], padding=1)
            enough = out.numel() >= 128 * 8
            moments = (None, None, enough) if enough else (*chain.norms.row("1.1", action), False)
            if len(out):
                made[rows] = F.batch_norm(
                    out, *moments[:2], second[1].weight, second[1].bias, moments[2], 0.0, second[1].eps
                )
        there = torch.arange(8) < 2 * actions[:, 1:]
        assert close(found, model[4](F.relu(made).mean((2, 3)) * there), 1e-9)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet20"])
def test_a_batch_that_agrees_is_trained_in_smaller_layers_with_the_same_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the samples agree nothing is masked, and all is as if they had been."""
    chain, _, shape = zoo(name)
    chain, x = chain.double(), images(40, shape).double()
    chain.backbone.requires_grad_(True)
    row = random_actions(1, chain, 1)[0]
    actions = row.repeat(40, 1)
    for differ in (len(row), len(row) // 2):
        actions[:20, differ:] = chain.groups + 1 - actions[:20, differ:]
        found = []
        for together in (True, False):
            if not together:
                monkeypatch.setattr(TrainingWalk, "_agree", lambda walk, given: False)
            chain.zero_grad()
            walk = walked(chain, x, actions)
            assert isinstance(walk._layers, Sliced) is (together and differ == len(row))
            walk.output.square().sum().backward()
            found.append([walk.output.detach(), *(p.grad for p in chain.backbone.parameters() if p.grad is not None)])
            monkeypatch.undo()
        assert all(close(a, b, 1e-8) for a, b in zip(*found, strict=True))


def test_gradients_reach_what_was_run_alone() -> None:
    chain, _, shape = zoo("vgg11_bn")
    x = images(8, shape)
    chain.backbone.requires_grad_(True)
    walked(chain, x, torch.ones(8, len(chain.stages), dtype=torch.int64)).output.sum().backward()
    stage = chain.stages[0]
    weight: Any = chain.backbone.get_submodule(stage.name).weight
    width = stage.channels if stage.lane is None else stage.lane.size(1)
    kept = weight.shape[0] // 4
    assert bool(weight.grad[:kept, :width].abs().sum() > 0)
    assert not bool(weight.grad[kept:].any())


def test_each_sample_goes_through_at_every_share() -> None:
    task = toy_task()
    chain, controller = task.chain, Controller(task.chain.channels, 4)
    settings_ = RuntimeSettings(serve=(0.4, 0.6, 0.9), prepare_steps=0, finetune_steps=1, finetune_batch_size=8)
    backbone = Backbone(chain, task.data, settings_, toy_path(task))
    table = backbone.table(controller)
    module = ServingForward(chain, Greedily(controller, table, dealt=False), settings_.serve)
    x = task.data.train.inputs(slice(0, 8))
    torch.manual_seed(0)
    logits = module(x)
    assert logits.shape == (3 * 8, 3)
    least = judge(chain, task.data.train.subset(slice(0, 8)), Greedy(controller, table.knob(table.within(0.4))))
    assert close(logits[:8], chain(x, least.actions), 1e-5)
    loop = ServingLoop(module, task.data.train, settings_.finetune, seed=0, teacher=backbone.teacher)
    assert loop.advance(1) > 0


def test_in_training_what_is_decided_for_one_sample_is_dealt_to_another() -> None:
    task = toy_task()
    chain, controller = task.chain, Controller(task.chain.channels, 4).requires_grad_(False)
    torch.nn.init.normal_(controller.decoder.weight)
    x = task.data.train.inputs(slice(0, 6))
    torch.manual_seed(1)
    walk = chain.begin_training(x)
    walk = walk.step(Greedily(controller, None, dealt=True).start(0.5, 6)(walk))
    torch.manual_seed(1)
    dealt = torch.randperm(6)
    own = Greedy(controller).start(torch.arange(6))(chain.begin(x))
    assert torch.equal(walk.actions[:, 0], own[dealt])
    assert not torch.equal(own[dealt], own)


def test_what_is_compared_with_changes_what_is_paid_by_a_number_of_the_image_alone() -> None:
    task = toy_task()
    rows = torch.randint(1, 5, (5, 2), generator=torch.Generator().manual_seed(1))
    plain, compared = (
        RuntimeVecEnv(RuntimeVectorEnv(5, task=task, alpha=0.7, autoreset_mode="SameStep")) for _ in range(2)
    )
    compared.compared = Table(rows)
    for envs in (plain, compared):
        envs.seed(3)
        envs.reset()
    draws = np.random.default_rng(0)
    for step in range(3 * len(task)):
        index = plain.envs.unwrapped.passage.index  # type: ignore[attr-defined]
        actions = draws.integers(0, 4, 5)
        (_, one, done, _), (_, other, _, _) = plain.step(actions), compared.step(actions)
        expected = np.zeros(5)
        if step % len(task) == len(task) - 1:
            assert done.all()
            x, y = task.data.train.inputs(torch.from_numpy(index)), task.data.train.y[torch.from_numpy(index)]
            with torch.no_grad():
                expected = 0.7 * F.cross_entropy(task.chain(x, rows), y, reduction="none").numpy()
        np.testing.assert_allclose(other - one, expected, atol=1e-5)


@pytest.mark.parametrize("agent", ["dqn", "recurrent_ppo"])
def test_trust_goes_from_what_was_known_to_what_was_learned(agent: str) -> None:
    task = toy_task()
    envs = RuntimeVecEnv(RuntimeVectorEnv(32, task=task, alpha=1.0, autoreset_mode="SameStep"))
    learner = Agent(
        RuntimeSettings(agent=agent, envs=32, episodes=64, batch_size=64), envs, task.chain, toy_path(task), 0
    )
    start = learner.fresh()
    start.offsets.normal_()
    learner.begin(start, [torch.randn(9, c) for c in task.chain.channels])
    learner.learn(0)
    known, learned = learner.controller(0.0).state_dict(), learner.controller(1.0).state_dict()
    assert all(torch.equal(t, start.state_dict()[name]) for name, t in known.items())
    assert not torch.equal(known["decoder.weight"], learned["decoder.weight"])
    half = learner.controller(0.5).state_dict()
    assert all(close(t, (known[name] + learned[name]) / 2, 1e-6) for name, t in half.items())
    learner.trust = 0.5
    assert all(torch.equal(t, half[name]) for name, t in learner.controller().state_dict().items())


def test_one_number_says_how_hard_a_sample_is() -> None:
    torch.manual_seed(0)
    controller = Controller((3, 5), 4).requires_grad_(False)
    controller.offsets.copy_(torch.randn(2, 4))
    controller.paid.copy_(torch.randn(2, 4))
    controller.decoder.weight[:-1] = 0
    controller.decoder.bias[:-1] = 0
    torch.nn.init.normal_(controller.decoder.weight[-1:])
    features, stage = torch.randn(6, 8), torch.tensor([0, 1, 1, 0, 1, 0])
    harder = (controller(features, stage) - controller.paid[stage]) / controller.offsets[stage]
    assert close(harder, harder[:, :1].expand(-1, 4), 1e-5)
    assert bool((harder > 0).all())
    assert float(harder.log().std()) > 0.1


def test_norms_settle_on_the_widths_that_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy_task()
    backbone = Backbone(task.chain, task.data, RuntimeSettings(serve=(0.5, 0.8), seed=3), toy_path(task))
    seen: list[Any] = []
    monkeypatch.setattr(backbone_module, "recalibrate", lambda *given: seen.append(given))
    along = Along(backbone.path)
    for turn in (0, 0, 1):
        backbone.settle(along, turn)
    samples, actions = seen[0][1:]
    assert seen[0][0] is task.chain
    assert torch.equal(samples, task.data.calibration.inputs())
    near = backbone.path.taken(torch.tensor([0.5, 0.8]))
    assert bool((actions >= near[0]).all())
    assert bool((actions <= near[1]).all())
    assert torch.equal(seen[1][2], actions)
    assert not torch.equal(seen[2][2], actions)


def test_the_trust_that_is_right_most_often_is_taken() -> None:
    task = toy_task()
    backbone = Backbone(task.chain, task.data, RuntimeSettings(serve=(0.5, 0.8)), toy_path(task))
    good, bad = Controller(task.chain.channels, 4), Controller(task.chain.channels, 4)
    tables = {
        id(good): KnobTable((KnobRow(0, 1, 0.1, 0, 0.5), KnobRow(1, 2, 1.0, 0, 0.9)), 1),
        id(bad): KnobTable((KnobRow(0, 1, 0.4, 0, 0.2), KnobRow(1, 2, 1.0, 0, 0.9)), 1),
    }
    backbone.table = lambda controller: tables[id(controller)]  # type: ignore[method-assign]
    assert backbone.trust({1.0: bad, 0.5: good, 0.0: bad}) == 0.5
    assert backbone.trust({1.0: good, 0.0: good}) == 0.0  # not for nothing
    tables[id(bad)] = KnobTable((KnobRow(0, 1, 0.1, 0, 0.492), KnobRow(1, 2, 1.0, 0, 0.892)), 1)
    assert backbone.trust({1.0: good, 0.0: bad}) == 1.0
    tables[id(bad)] = KnobTable((KnobRow(0, 1, 0.1, 0, 0.497), KnobRow(1, 2, 1.0, 0, 0.897)), 1)
    assert backbone.trust({1.0: good, 0.0: bad}) == 0.0  # nor for what chance may do
    alone = Backbone(task.chain, task.data, RuntimeSettings(serve=()), toy_path(task))
    assert alone.trust({1.0: bad, 0.5: good}) == 1.0


def test_a_table_is_read_between_its_rows() -> None:
    table = KnobTable((KnobRow(-1.0, 2, 0.2, 0, 0.5), KnobRow(1.0, 6, 0.6, 0, 0.9)), 10)
    assert table.knob(0.3) == pytest.approx(-0.5)
    assert table.accuracy(0.3) == pytest.approx(0.6)
    assert table.accuracy(0.6) == 0.9
    assert (table.within(0.1), table.within(0.4), table.within(2.0)) == (0.2, 0.4, 0.6)
    with pytest.raises(ChainError, match=r"can be set to 0\.2 to 0\.6"):
        table.accuracy(0.7)


def test_neither_moments_nor_decisions_are_rounded_by_autocast() -> None:
    torch.manual_seed(0)
    x = (torch.randn(40, 3, 8, 8) + 20).bfloat16()
    place = torch.arange(40) % 2
    mean, var = torch.zeros(4, 3), torch.ones(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        means, variances = _moments(x, place, place.bincount(minlength=4), mean, var)
    for row in (0, 1):
        own = x[place == row].double()
        assert close(means[row].double(), own.mean((0, 2, 3)), 1e-4)
        assert close(variances[row].double(), own.var((0, 2, 3), correction=0), 1e-2)
    assert torch.equal(variances[2:], var[2:])

    task = toy_task()
    controller = Controller(task.chain.channels, 4)
    module = ServingForward(task.chain, Greedily(controller, None, dealt=False), (1.0,))
    seen: list[torch.dtype] = []
    step = controller.step

    def watched(*given: Any) -> Any:
        found = step(*given)
        seen.append(found[0].dtype)
        return found

    controller.step = watched  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        module(task.data.train.inputs(slice(0, 8)))
    assert seen == [torch.float32] * len(task)
