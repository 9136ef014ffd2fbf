"""What cannot be pruned at run time is refused, with the place and the next step."""

from __future__ import annotations

import re

import pytest
import torch
from runtime_networks import close, images, liven, random_actions, zoo
from torch import Tensor, nn

from autoprune.errors import ChainError, UnknownNameError
from autoprune.models import build_model
from autoprune.models.common import conv_norm
from autoprune.runtime import Chain

pytestmark = pytest.mark.usefixtures("one_thread")


class Branching(nn.Module):
    """Control flow on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.conv(x * mask).mean((2, 3))


class Defaults(nn.Module):
    """An argument that may be left out, an assertion, numbers read off the shape, two outputs on request."""

    def __init__(self, pairs: bool = False, reshape: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(32, 3)
        self.pairs, self.reshape = pairs, reshape

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        if scale is not None:
            x = x * scale
        torch._assert(x.shape[1] == 2, "two channels")
        x = self.c(torch.relu(self.b(self.a(x))))
        x = self.head(x.view(-1, 32) if self.reshape else x.view(x.size(0), -1))
        return (x, x) if self.pairs else x  # type: ignore[return-value]


def _refused(model: nn.Module, message: str, **options: object) -> None:
    with pytest.raises(ChainError, match=message):
        Chain(model.eval(), images(2), **options)  # type: ignore[arg-type]


def test_networks_without_stages() -> None:
    _refused(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), "it has no convolutions.*needs a chain of convolutions")
    with pytest.raises(ChainError, match="nothing to decide"):
        Chain(build_model("mlp", input_shape=[6], num_classes=3).eval(), torch.zeros(2, 6))
    one = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Linear(128, 3))
    _refused(one, "0: it is the first convolution, which runs whole unless asked otherwise")
    assert len(Chain(one.eval(), images(2), first=True).stages) == 1
    slopes = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.PReLU(8), nn.Flatten(), nn.Linear(288, 3))
    _refused(slopes, "1: layer '2' is a PReLU, of which no part can be computed alone")
    grouped = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 3, 1))
    _refused(grouped.append(nn.Flatten()), "1: .*layer '2' is a grouped convolution|1: .*do not stand in order")


def test_networks_that_fx_cannot_follow() -> None:
    inner = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Sequential(nn.ReLU(), Branching()), nn.Conv2d(8, 3, 3), nn.Flatten())
    _refused(inner, r"cannot follow the network in module '1.1': symbolically traced variables .* rewrite it")
    with pytest.raises(ChainError, match="its forward also takes 'mask'; wrap it in a module that takes the image"):
        Chain(TwoInputs(), images(2), graph=zoo("lenet5")[0].graph)
    _refused(Defaults(pairs=True), "returns one tensor of logits")


def test_arguments_with_defaults_and_sizes_read_off_the_input_are_fine() -> None:
    model = liven(Defaults(), 0)
    chain = Chain(model, images(2))
    x, actions = images(5), random_actions(5, chain)
    with torch.no_grad():
        assert torch.equal(chain(x, 4), model(x))
        assert close(chain(x, actions), chain(x, actions, "masked"))
    assert [stage.name for stage in chain.stages] == ["b", "c"]
    # a number of features written down fits the whole network alone: that layer stays whole
    assert [stage.name for stage in Chain(liven(Defaults(reshape=True), 0), images(2)).stages] == ["b"]


def test_more_groups_than_channels() -> None:
    model = nn.Sequential(conv_norm(2, 8), conv_norm(8, 3), nn.Flatten(), nn.Linear(108, 3))
    _refused(model, r"layer '1.0' has 3 channels, which cannot make 4 groups; ask for at most 3 groups or exclude")
    assert Chain(model, images(2), groups=3).groups == 3
    for groups in (0, -1, 2.5, True):
        _refused(model, f"must be a whole number from 1 on, but got {groups!r}", groups=groups)


def test_layers_nobody_knows() -> None:
    with pytest.raises(UnknownNameError, match=re.escape("'conv2_2*'")):
        Chain(zoo("vgg11_bn")[1], images(2, (3, 32, 32)), include=["conv2_2*"])


def test_actions_that_do_not_fit() -> None:
    chain, _, shape = zoo("digits_cnn")
    x = images(3, shape)
    for actions, message in (
        ([[1, 2]] * 2, r"actions must have shape \[3, 2\] \(samples, stages\), but got \[2, 2\]"),
        ([1, 2, 3], r"actions must have shape \[3, 2\]"),
        ([[1, 2], [4, 5], [0, 1]], r"1 to 4, but got 5 for sample 1 at stage 1 \('conv3.0'\)"),
        ([[1, 2], [4, 4], [0, 1]], r"1 to 4, but got 0 for sample 2 at stage 0 \('conv2.0'\)"),
        ([[1.0, 2.0]] * 3, "must be whole numbers, but got torch.float32"),
    ):
        with pytest.raises(ChainError, match=message):
            chain(x, torch.tensor(actions))
    with pytest.raises(ChainError, match="needs the same actions for every sample; use execution='grouped'"):
        chain(x, torch.tensor([[1, 2], [1, 2], [1, 3]]), "sliced")
    with pytest.raises(UnknownNameError, match="unknown execution 'mask'; did you mean 'masked'"):
        chain(x, 1, "mask")
    with pytest.raises(ChainError, match="1 to 4, but got 9"):
        chain.macs(9)


def test_a_walk_says_where_it_stands() -> None:
    chain, _, shape = zoo("digits_cnn")
    walk = chain.begin(images(2, shape))
    with pytest.raises(ChainError, match="stage 0 of 2 has not run yet"):
        _ = walk.output
    done = walk.step(torch.tensor([1, 2])).step(torch.tensor([3, 3]))
    with pytest.raises(ChainError, match="every stage has run"):
        _ = done.pooled
    with pytest.raises(ChainError, match="nothing left to decide"):
        done.step(torch.tensor([1, 1]))
    for actions, message in (
        ([1, 5], r"1 to 4, but got 5 at stage 0 \('conv2.0'\)"),
        ([0, 4], r"1 to 4, but got 0"),
        ([1], r"int64 \[2\], but got torch.int64 \[1\]"),
        ([1.0, 2.0], r"but got torch.float32"),
    ):
        with pytest.raises(ChainError, match=message):
            walk.step(torch.tensor(actions))
