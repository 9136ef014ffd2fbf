"""Statistics of batch norms at every width are the moments of what really flows there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from runtime_networks import close, images, liven, random_actions, zoo
from torch import Tensor, nn

from autoprune.data.splits import Split
from autoprune.errors import ChainError
from autoprune.models.common import conv_norm
from autoprune.runtime import Chain, recalibrate

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = [2, 4, 6, 8]


def _three() -> tuple[nn.Module, Chain]:
    """Three convolutions with norms, the last two gated, 8 channels each."""
    layers = [conv_norm(2, 8), conv_norm(8, 8), nn.MaxPool2d(2), conv_norm(8, 8), nn.Flatten(), nn.Linear(72, 3)]
    model = liven(nn.Sequential(*layers), 5).double()
    return model, Chain(model, images(2).double())


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.movedim(1, -1).flatten(0, -2)
    return rows.mean(0), rows.var(0)


def _by_hand(model: nn.Module, x: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(what the second convolution makes, what the third makes from ``width`` channels of it, statistics used)."""
    first, second, third = model[0], model[1], model[3]
    x = first(x)
    made = second[0](x)
    reads = F.batch_norm(made, second[1].running_mean, second[1].running_var, second[1].weight, second[1].bias)
    reads = F.max_pool2d(reads.relu(), 2)[:, :width]
    return made, F.conv2d(reads, third[0].weight[:, :width], None, padding=1), reads


def test_sets_are_the_moments_at_each_width_of_the_input() -> None:
    model, chain = _three()
    x = images(50, seed=1).double()
    before = [t.clone() for t in chain.norms.rows("1.1")]
    recalibrate(chain, x, chunk=16)
    with torch.no_grad():
        for action, width in enumerate(WIDTHS[:-1], 1):
            mean, var = _moments(_by_hand(model, x, width)[1])
            assert close(chain.norms.row("3.1", action)[0], mean, 1e-10)
            assert close(chain.norms.row("3.1", action)[1], var, 1e-10)
    # the second convolution reads a whole input: one set, the dense network's, and so is that of the whole width
    assert chain.norms.rows("1.1")[0].shape == (1, 8)
    assert all(torch.equal(a, b) for a, b in zip(chain.norms.rows("1.1"), before, strict=True))
    assert torch.equal(chain.norms.row("3.1", 4)[0], model[3][1].running_mean)
    with torch.no_grad():
        assert torch.equal(chain(x, 4), model(x))
        assert close(chain(x, 2), chain(x, 2, "masked"), 1e-12)


def test_with_actions_each_set_comes_from_the_samples_that_read_that_width() -> None:
    model, chain = _three()
    x, actions = images(60, seed=2).double(), random_actions(60, chain, 2)
    actions[actions[:, 0] == 2, 0] = 3  # nobody reads the second width
    before = chain.norms.row("3.1", 2)[0].clone()
    recalibrate(chain, x, actions, chunk=7)
    with torch.no_grad():
        for action in (1, 3):
            mine = x[actions[:, 0] == action]
            mean, var = _moments(_by_hand(model, mine, WIDTHS[action - 1])[1])
            assert close(chain.norms.row("3.1", action)[0], mean, 1e-10)
            assert close(chain.norms.row("3.1", action)[1], var, 1e-10)
    assert torch.equal(chain.norms.row("3.1", 2)[0], before)


def test_the_dense_sets_too_if_asked() -> None:
    model, chain = _three()
    x = images(40, seed=3).double()
    recalibrate(chain, x, whole=True)
    with torch.no_grad():
        mean, var = _moments(model[0][0](x))
        assert close(chain.norms.row("0.1", None)[0], mean, 1e-10)
        assert close(chain.norms.row("0.1", None)[1], var, 1e-10)
        assert torch.equal(chain.backbone(x), chain(x, 4))
        reference = model.train()(x)  # one batch with its own moments; only the unbiased variance differs
        assert close(chain(x, 4), reference, 2e-2)


def test_static_networks_get_the_sets_of_their_widths() -> None:
    chain, _, shape = zoo("resnet20")
    recalibrate(chain, Split(images(20, shape), torch.zeros(20, dtype=torch.int64)))
    plain = chain.at(2)
    half = plain.get_submodule("stage2.1.bn2")
    assert torch.equal(half.running_mean, chain.norms.row("stage2.1.bn2", 2)[0])
    assert torch.equal(plain.get_submodule("stage2.1.bn1").running_mean, chain.norms.row("stage2.1.bn1", None)[0][:4])


def test_samples_are_needed() -> None:
    _, chain = _three()
    with pytest.raises(ChainError, match="at least two samples, but got 1"):
        recalibrate(chain, images(1).double())
    with pytest.raises(ChainError, match=r"actions must have shape \[5, 2\]"):
        recalibrate(chain, images(5).double(), torch.ones(4, 2, dtype=torch.int64))


def test_training_takes_the_moments_of_samples_that_run_together_where_they_are_enough() -> None:
    model, chain = _three()
    x = images(40, seed=4).double()
    reference = model.train()(x)
    with torch.no_grad():
        assert close(_walked(chain, x, torch.full((40, 2), 4)), reference, 1e-10)
        few, rows = x[:2], torch.full((2, 2), 3)  # 72 values of a channel, and 8 after pooling
        assert close(_walked(chain, few, rows), chain(few, rows), 1e-12)


def _walked(chain: Chain, x: Tensor, actions: Tensor) -> Tensor:
    walk = chain.begin_training(x)
    while not walk.done:
        walk = walk.step(actions[:, walk.stage])
    return walk.output


def test_fine_tuning_with_own_moments_does_not_depend_on_the_scale_of_weights() -> None:
    (_, chain), (_, big) = _three(), _three()
    with torch.no_grad():
        for module in big.backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(3.0)
        x, actions = images(40, seed=5).double(), torch.full((40, 2), 4)
        assert close(_walked(big, x, actions), _walked(chain, x, actions), 1e-3)
        assert not close(big(x, 4), chain(x, 4), 1e-1)
