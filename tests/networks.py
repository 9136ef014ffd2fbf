"""Networks made from lists of blocks: every way of wiring channels that a user's network may have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions around a shortcut; a projection where the width changes."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.norm1(self.conv1(x)))) + self.shortcut(x))


class Concat(nn.Module):
    """DenseNet's wiring: old and new channels side by side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.merge = nn.Conv2d(channels + out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([x, torch.sigmoid(self.conv(x))], 1))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.squeeze = nn.Linear(out, max(out // 2, 2))
        self.excite = nn.Linear(max(out // 2, 2), out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Grouped(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, 2 * out, 1)
        self.grouped = nn.Conv2d(2 * out, 2 * out, 3, padding=1, groups=2)
        self.narrow = nn.Conv2d(2 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(torch.tanh(self.grouped(torch.relu(self.widen(x)))))


class Depthwise(nn.Module):
    """Depthwise with two outputs a channel, then point-wise."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.pointwise = nn.Conv2d(2 * channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(nn.functional.relu6(self.norm(self.depthwise(x))))


class Transposed(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, out, 2, stride=2)
        self.down = nn.Conv2d(out, out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


class GroupNormed(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * out, 3, padding=1)
        self.norm = nn.GroupNorm(out, 2 * out)
        self.last = nn.Conv2d(2 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.silu(self.norm(self.conv(x))))


class LayerNormed(nn.Module):
    """ConvNeXt's block: depthwise, layer norm over channels, expansion, layer scale, shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, out, 1)
        self.depthwise = nn.Conv2d(out, out, 3, padding=1, groups=out)
        self.norm = nn.LayerNorm(out)
        self.expand = nn.Linear(out, 3 * out)
        self.project = nn.Linear(3 * out, out)
        self.scale = nn.Parameter(0.5 * torch.ones(out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(nn.functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class Shuffled(nn.Module):
    """Channel shuffle between two grouped convolutions, by view and transpose."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, 4 * out, 1)
        self.first = nn.Conv2d(4 * out, 4 * out, 1, groups=2)
        self.second = nn.Conv2d(4 * out, 4 * out, 3, padding=1, groups=2)
        self.exit = nn.Conv2d(4 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.entry(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.exit(torch.relu(self.second(x)))


class SharedInput(nn.Module):
    """Two branches read one input, one layer runs twice, and the branches are added."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.left = nn.Conv2d(channels, out, 1)
        self.right = nn.Conv2d(channels, out, 3, padding=1)
        self.twice = nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(torch.relu(self.twice(self.left(x)))) + self.right(x)


class Gated(nn.Module):
    """A split into halves that are multiplied."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.both = nn.Conv2d(channels, 2 * out, 1)
        self.slope = nn.PReLU(out)
        self.last = nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, 1)
        return self.last(self.slope(a) * torch.sigmoid(b))


BLOCKS: tuple[type[nn.Module], ...] = (
    ConvNorm,
    Residual,
    Concat,
    SqueezeExcite,
    Grouped,
    Depthwise,
    Transposed,
    GroupNormed,
    LayerNormed,
    Shuffled,
    SharedInput,
    Gated,
)


class Generated(nn.Module):
    """Blocks in a row, then a flatten (or a global mean) into linear layers."""

    def __init__(self, blocks: Sequence[tuple[type[nn.Module], int]], *, flatten: bool, seed: int) -> None:
        super().__init__()
        channels = 3
        layers: list[nn.Module] = []
        for kind, out in blocks:
            layers.append(kind(channels, out))
            channels = out
        self.features = nn.Sequential(*layers)
        self.flatten = flatten
        self.hidden = nn.Linear(channels * 16 if flatten else channels, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(0.4 * torch.randn(tensor.shape, generator=noise) + 0.1)
                if name.endswith("running_var"):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=noise))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.flatten(1) if self.flatten else x.mean((2, 3))
        return self.head(torch.relu(self.norm(self.hidden(x))))


def example(batch: int = 2) -> Tensor:
    """``[batch, 3, 4, 4]``"""
    return torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(7))
