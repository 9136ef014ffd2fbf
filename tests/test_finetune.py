from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Split
from autoprune.errors import AutopruneError, ModelError, SettingsError, TrainingDiverged, UnknownNameError
from autoprune.finetune import FinetuneSettings, finetune, recalibrate
from autoprune.models import build_model
from autoprune.seeding import generator
from autoprune.train_loop import TrainLoop, autocast_for, distillation

pytestmark = pytest.mark.usefixtures("one_thread")


def images(n: int = 64, seed: int = 0, classes: int = 10) -> Split:
    g = generator(seed, "images")
    y = torch.randint(0, classes, (n,), generator=g)
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=g, dtype=torch.uint8)
    return Split(x, y, torch.tensor([0.5]), torch.tensor([0.3]))


def table(n: int = 64, features: int = 6, classes: int = 3) -> Split:
    g = generator(1, "table")
    x = torch.randn(n, features, generator=g)
    return Split(x, x[:, :classes].argmax(1))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def net(name: str = "digits_cnn", **options: Any) -> nn.Module:
    torch.default_generator.manual_seed(11)
    return build_model(name, **options)


SETTINGS = FinetuneSettings(steps=6, batch_size=16, lr=0.05)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["digits_cnn", "mlp"])
def test_every_weight_moves_in_one_step(optimizer: str, name: str) -> None:
    module = net(name)
    before = weights(module)
    finetune(module, images(), FinetuneSettings(steps=1, optimizer=optimizer, lr=0.1), seed=0)
    for place, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[place]), place
    assert all(parameter.grad is None for parameter in module.parameters())


def test_loss_falls_and_the_task_is_learnt() -> None:
    module = net("mlp", input_shape=[6], num_classes=3)
    split = table(512)
    first = finetune(copy.deepcopy(module), split, FinetuneSettings(steps=1), seed=0).loss
    last = finetune(module, split, FinetuneSettings(steps=150, lr=0.1, batch_size=64, report_every=10), seed=0).loss
    assert last < 0.25 * first
    assert (module(split.inputs()).argmax(1) == split.y).float().mean() > 0.95


def test_same_seed_same_bits_and_no_trace_in_torchs_generator() -> None:
    results = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        module = net("mlp", input_shape=[1, 8, 8], dropout=0.3)
        torch.rand(noise)  # what else was drawn plays no part
        before = torch.get_rng_state()
        finetune(module, images(), SETTINGS, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(module))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_stopped_and_continued_equals_straight(optimizer: str, stop: int) -> None:
    settings = FinetuneSettings(
        steps=9, batch_size=16, lr=0.05, optimizer=optimizer, warmup_steps=2, augment="flip_crop", clip_norm=1.0
    )
    straight = net()
    finetune(straight, images(70), settings, seed=4)
    first = net()
    loop = TrainLoop(first, images(70), settings, seed=4)
    with loop.running():
        loop.advance(stop)
    kept, tensors = loop.state(), weights(first)
    second = net(width=1.0)
    second.load_state_dict(tensors)
    result = finetune(second, images(70), settings, seed=4, state=kept)
    assert result.steps == 9
    assert same(weights(second), weights(straight))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masks_hold_through_momentum(optimizer: str) -> None:
    module = net()
    split = images()
    warm = TrainLoop(module, split, FinetuneSettings(steps=3, optimizer=optimizer), seed=0)
    warm.advance(3)
    masks = {
        n: torch.rand(p.shape, generator=generator(5, n)) > 0.5 for n, p in module.named_parameters() if p.ndim > 1
    }
    seen = []

    def check(step: int) -> bool:
        for name, parameter in module.named_parameters():
            if name in masks:
                seen.append(step)
                assert torch.equal(parameter != 0, masks[name]), name
        return False

    settings = FinetuneSettings(steps=5, optimizer=optimizer, report_every=1, weight_decay=0.1, lr=0.05)
    loop = TrainLoop(module, split, settings, seed=0, masks=masks)
    loop.load_state({**warm.state(), "step": torch.tensor(0)})  # momenta that would move the removed weights
    loop.advance(1)
    for place, tensor in loop.state().items():
        name = place.split(".", 2)[-1]
        if name in masks and tensor.shape == masks[name].shape:
            assert not tensor[~masks[name]].any(), place
    finetune(module, split, settings, seed=0, masks=masks, report=check)
    assert set(seen) == {1, 2, 3, 4, 5}


def test_masks_of_what_does_not_exist_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown parameter of a mask 'fc1.weigth'; did you mean 'fc1.weight'"):
        finetune(net(), images(), SETTINGS, seed=0, masks={"fc1.weigth": torch.ones(1)})
    with pytest.raises(ModelError, match=r"mask of 'fc1.weight' has shape \[2, 2\], but the parameter \[64, 128\]"):
        finetune(net(), images(), SETTINGS, seed=0, masks={"fc1.weight": torch.ones(2, 2)})


def test_a_mask_of_a_tied_weight_holds_under_either_name() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
    module[2].weight = module[0].weight
    mask = torch.eye(6) == 0
    finetune(module, table(), FinetuneSettings(steps=3, lr=0.1), seed=0, masks={"2.weight": mask})
    assert torch.equal(module[0].weight != 0, mask)


def test_frozen_parameters_stay_and_modes_come_back() -> None:
    module = net()
    module.eval()
    module.conv2.train()
    module.conv1.requires_grad_(False)
    before = weights(module)
    modes = [m.training for m in module.modules()]
    finetune(module, images(), SETTINGS, seed=0)
    assert torch.equal(module.conv1[0].weight, before["conv1.0.weight"])
    assert not torch.equal(module.conv2[0].weight, before["conv2.0.weight"])
    assert [m.training for m in module.modules()] == modes
    assert not module.conv1[0].weight.requires_grad
    module.requires_grad_(False)
    with pytest.raises(ModelError, match="every parameter of the network is frozen"):
        finetune(module, images(), SETTINGS, seed=0)


def test_zero_steps_change_nothing() -> None:
    module = net()
    before = weights(module)
    result = finetune(module, images(), FinetuneSettings(steps=0), seed=0)
    assert result.steps == 0
    assert math.isnan(result.loss)
    assert same(weights(module), before)


def test_divergence_is_told_with_its_step() -> None:
    module = net("mlp", input_shape=[6], num_classes=3)
    split = table()
    split.x[5] = 1e30
    with pytest.raises(TrainingDiverged, match=r"training diverged at step \d+: .*; lower the learning rate") as caught:
        finetune(module, split, FinetuneSettings(steps=20, lr=10.0), seed=0)
    assert isinstance(caught.value, AutopruneError)
    assert 0 <= caught.value.step < 20
    last = net("mlp", input_shape=[6], num_classes=3)
    split = table()
    split.x[:] = 1e19
    with pytest.raises(TrainingDiverged, match=r"holds values that are not finite|the loss is"):
        finetune(last, split, FinetuneSettings(steps=1, lr=1e30), seed=0)


def test_reports_and_stops() -> None:
    seen: list[int] = []
    settings = FinetuneSettings(steps=10, report_every=4, batch_size=16)
    result = finetune(net(), images(), settings, seed=0, report=lambda step: seen.append(step) or False)
    assert seen == [4, 8, 10]
    assert not result.stopped
    stopped = net()
    result = finetune(stopped, images(), settings, seed=0, report=lambda step: step == 8)
    assert (result.steps, result.stopped) == (8, True)


def test_evaluating_inside_a_report_changes_nothing() -> None:
    settings = FinetuneSettings(steps=6, report_every=2, batch_size=16)
    plain, watched = net("mlp", dropout=0.5), net("mlp", dropout=0.5)

    def look(step: int) -> bool:
        watched.eval()
        torch.rand(3)
        watched(images().inputs())
        return False

    finetune(plain, images(), settings, seed=0, report=lambda step: False)
    finetune(watched, images(), settings, seed=0, report=look)
    assert same(weights(plain), weights(watched))


def test_learning_rate_schedule() -> None:
    loop = TrainLoop(net(), images(), FinetuneSettings(steps=100, lr=0.4, warmup_steps=10), seed=0)
    rates = [loop.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.4 / 11)
    assert rates[10] == pytest.approx(0.4) == max(rates)
    assert rates[55] == pytest.approx(0.2)
    assert rates[99] < 0.001
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = TrainLoop(net(), images(), FinetuneSettings(steps=9, lr=0.4, schedule="constant"), seed=0)
    assert {constant.learning_rate(step) for step in range(9)} == {0.4}


def test_weight_decay_spares_norms_and_biases() -> None:
    loop = TrainLoop(net(), images(), FinetuneSettings(steps=1, weight_decay=0.3), seed=0)
    decays = {p.ndim > 1: group["weight_decay"] for group in loop.optimizer.param_groups for p in group["params"]}
    assert decays == {True: 0.3, False: 0.0}
    assert sum(len(g["params"]) for g in loop.optimizer.param_groups) == len(list(loop.module.parameters()))


def test_distillation_formula_in_float64() -> None:
    a, b = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    p, q = (b / 3).softmax(1), (a / 3).softmax(1)
    brute = 9 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(distillation(a, b, 3.0), brute, rtol=1e-12)
    assert float(distillation(a, a, 2.0)) == pytest.approx(0.0, abs=1e-14)


def test_distillation_follows_the_teacher_and_leaves_it_alone() -> None:
    split = Split(table(256).x, torch.zeros(256, dtype=torch.int64))  # classes that say nothing
    teacher = net("mlp", input_shape=[6], num_classes=3).train()
    finetune(teacher, table(256), FinetuneSettings(steps=100, lr=0.1), seed=0)
    before = weights(teacher)
    student = build_model("mlp", input_shape=[6], num_classes=3, hidden=[24])
    settings = FinetuneSettings(steps=200, lr=0.1, distill_weight=1.0, batch_size=64)
    finetune(student, split, settings, seed=1, teacher=teacher)
    agree = (student(split.x).argmax(1) == teacher(split.x).argmax(1)).float().mean()
    assert agree > 0.9
    assert same(weights(teacher), before)
    assert teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def test_recalibration_is_the_mean_over_batches() -> None:
    module = net().eval()
    split = images(60)
    norm = module.conv1[1]
    with torch.no_grad():
        norm.running_mean.fill_(9.0)
    momentum = norm.momentum
    weights_before = {n: p.clone() for n, p in module.named_parameters()}
    recalibrate(module, split, batch_size=20)
    outputs = [module.conv1[0](split.inputs(torch.arange(i, i + 20))) for i in (0, 20, 40)]
    assert torch.allclose(norm.running_mean, torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0), atol=1e-5)
    variance = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    assert torch.allclose(norm.running_var, variance, rtol=1e-4)
    assert norm.momentum == momentum
    assert not any(m.training for m in module.modules())
    assert all(torch.equal(p, weights_before[n]) for n, p in module.named_parameters())


def test_recalibration_without_norms_is_nothing() -> None:
    module = net("mlp")
    before = weights(module)
    recalibrate(module, images())
    assert same(weights(module), before)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), x


def test_outputs_that_are_not_logits_are_refused() -> None:
    with pytest.raises(ModelError, match=r"must return one tensor of logits.*returned tuple"):
        finetune(Pair(), table(), SETTINGS, seed=0)
    with pytest.raises(ModelError, match=r"data hold class \d, but the network has 2 outputs"):
        finetune(nn.Linear(6, 2), table(), SETTINGS, seed=0)
    with pytest.raises(ModelError, match=r"returned shape \[16, 6, 2\]"):
        finetune(nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Linear(1, 2)), table(), SETTINGS, seed=0)


def test_a_split_smaller_than_a_batch_is_taken_whole() -> None:
    module = net("mlp", input_shape=[6], num_classes=3)
    assert finetune(module, table(5), FinetuneSettings(steps=3, batch_size=128), seed=0).steps == 3


def test_bfloat16_trains_float32_weights() -> None:
    module = net()
    before = weights(module)
    finetune(module, images(), FinetuneSettings(steps=3, precision="bfloat16", lr=0.05), seed=0)
    exact = net()
    finetune(exact, images(), FinetuneSettings(steps=3, precision="float32", lr=0.05), seed=0)
    for name, parameter in module.named_parameters():
        assert parameter.dtype == torch.float32
        assert not torch.equal(parameter, before[name])
        assert torch.allclose(parameter, exact.get_parameter(name), atol=0.05)
    assert not same(weights(module), weights(exact))


def test_bfloat16_is_chosen_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 8, 8)
    plain, depthwise = build_model("resnet", depth=8), build_model("mobilenet_v1", width=0.25)
    for native in (True, False):
        monkeypatch.setattr("autoprune.train_loop.bfloat16_in_hardware", lambda native=native: native)
        assert autocast_for("auto", plain, large) is native
        assert not autocast_for("auto", depthwise, large)
        assert not autocast_for("auto", plain, small)
        assert not autocast_for("auto", net("mlp"), torch.zeros(2, 64))
        assert autocast_for("bfloat16", depthwise, small)
        assert not autocast_for("float32", plain, large)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": -1}, "steps must be a whole number from 0 on, but got -1"),
        ({"steps": 1.5}, "steps must be a whole number from 0 on, but got 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, but got 0"),
        ({"lr": 0.0}, "lr must be a number above 0, but got 0.0"),
        ({"lr": float("nan")}, "lr must be a number above 0, but got nan"),
        ({"momentum": 1.0}, "momentum must be a number from 0 on and below 1, but got 1.0"),
        ({"distill_weight": 1.5}, "distill_weight must be a number from 0 on and at most 1, but got 1.5"),
        ({"distill_temperature": 0}, "distill_temperature must be a number above 0, but got 0"),
        ({"clip_norm": -1.0}, "clip_norm must be a number above 0, but got -1.0"),
        ({"label_smoothing": True}, "label_smoothing must be a number from 0 on and below 1, but got True"),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FinetuneSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'; did you mean 'sgd'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"precision": "float16"}, "unknown precision 'float16'; did you mean"),
        ({"augment": "flip"}, "unknown augmentation 'flip'"),
    ],
)
def test_unknown_choices(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        FinetuneSettings(**values)
