"""Networks with stages, generated and from the zoo, with lively norms and different statistics at every width."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.models import build_model
from autoprune.runtime import Chain

ZOO = {
    "vgg11_bn": ({"width": 0.125}, (3, 32, 32)),
    "resnet20": ({"width": 0.25}, (3, 32, 32)),
    "lenet5": ({}, (1, 28, 28)),
    "digits_cnn": ({}, (1, 8, 8)),
    "mobilenet_v1": ({"width": 0.25}, (3, 32, 32)),
}


class Block(nn.Module):
    """A residual block, with its norms before or after its convolutions, or none; narrow in the middle if asked."""

    def __init__(self, channels: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels if kind == "before" else hidden)
        self.middle = nn.Conv2d(hidden, hidden + 1, 1) if kind == "bottleneck" else nn.Identity()
        self.conv2 = nn.Conv2d(hidden + (kind == "bottleneck"), channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "in place":
            return self.conv2(self.conv1(x)) + torch.relu_(x)
        if self.kind == "before":
            return self.conv2(self.act(self.conv1(nn.functional.relu(self.norm1(x))))) + x
        out = self.act(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(self.middle(out).tanh())) + x)


class Generated(nn.Module):
    """Convolutions and blocks in a row, then linear layers."""

    def __init__(self, parts: list[tuple[str, int]], *, flatten: bool, seed: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(2, 5, 3, padding=1), nn.ReLU()]
        channels = 5
        for kind, out in parts:
            if kind in ("before", "after", "bottleneck", "in place"):
                layers.append(Block(channels, out, kind))
                continue
            layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=kind != "norm"))
            layers += {
                "norm": [nn.BatchNorm2d(out), nn.ReLU(inplace=True)],
                "late norm": [nn.ReLU(), nn.MaxPool2d(2, 1), nn.BatchNorm2d(out, affine=False)],
                "bare": [],
                "pool": [nn.AvgPool2d(2, 1), nn.Sigmoid()],
                "depthwise": [nn.Conv2d(out, 2 * out, 3, padding=1, groups=out), nn.BatchNorm2d(2 * out), nn.ReLU()],
            }[kind]
            channels = 2 * out if kind == "depthwise" else out
        self.features = nn.Sequential(*layers)
        self.flat = flatten
        self.last = nn.Conv2d(channels, 6, 1)
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.hidden = nn.Linear(24 if flatten else 6, 7)
        self.norm = nn.BatchNorm1d(7)
        self.head = nn.Linear(7, 3)
        liven(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.features(x)).sin()
        x = self.pool(x).flatten(1) if self.flat else x.mean((2, 3))
        return self.head(torch.relu(self.norm(self.hidden(x))))


def liven(model: nn.Module, seed: int) -> nn.Module:
    """Random values for everything, so that no zero hides a mistake."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=noise))
            elif tensor.is_floating_point() and (tensor.dim() == 1 or "norm" in name):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=noise) + 0.5)
            elif tensor.is_floating_point():
                fan = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=noise) * fan**-0.5)
    return model.eval()


def spread_norms(chain: Chain, seed: int = 0) -> Chain:
    """Other statistics at every width but the whole one."""
    noise = torch.Generator().manual_seed(seed)
    for layer in chain.norms.layers:
        mean, var = chain.norms.rows(layer)
        mean[:-1] += 0.3 * torch.randn(mean[:-1].shape, generator=noise)
        var[:-1] *= 0.5 + torch.rand(var[:-1].shape, generator=noise)
    return chain


def zoo(name: str, seed: int = 0, groups: int = 4) -> tuple[Chain, nn.Module, tuple[int, ...]]:
    """(chain, the network it was made from, shape of an input)."""
    options, shape = ZOO[name]
    model = liven(build_model(name, **options), seed)
    return spread_norms(Chain(model, torch.zeros(2, *shape), groups=groups)), model, shape


def images(size: int, shape: tuple[int, ...] = (2, 6, 6), seed: int = 0) -> Tensor:
    """``[size, *shape]``"""
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(seed))


def random_actions(size: int, chain: Chain, seed: int = 0) -> Tensor:
    """``[size, m]``"""
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(1, chain.groups + 1, (size, len(chain.stages)), generator=noise)


PARTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["norm", "late norm", "bare", "pool", "depthwise", "before", "after", "bottleneck", "in place"]
        ),
        st.integers(4, 7),
    ),
    min_size=1,
    max_size=3,
)
NETWORKS = st.builds(Generated, PARTS, flatten=st.booleans(), seed=st.integers(0, 3))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal up to ``tolerance`` of the largest entry (at least 1)."""
    scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * scale).all())
