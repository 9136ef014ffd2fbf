"""Residual networks for images of 32x32: three stages of basic blocks with 16, 32 and 64 channels.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2016 (section 4.2). Where a stage
starts, the shortcut is a 1x1 convolution with batch norm (the paper's option B). The paper's parameter-free option A
pads with zero channels; it would chain channels of one stage to shifted channels of the next, so that no channel of the
three stages could be removed alone. The two forms differ by 2,752 of 0.27 million parameters in ResNet-20.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models.common import conv_norm, image_shape, initialise, scaled


class BasicBlock(nn.Module):
    """``relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = conv_norm(inputs, outputs, 1, stride, activation=nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu_(out + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, three stages of ``blocks`` basic blocks, the mean over positions, a linear layer."""

    def __init__(self, blocks: int, input_shape: Sequence[int], num_classes: int, width: float) -> None:
        super().__init__()
        inputs, _, _ = image_shape("resnet", input_shape, 8)
        channels = [scaled(c, width) for c in (16, 32, 64)]
        self.conv1 = nn.Conv2d(inputs, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.stage1 = _stage(channels[0], channels[0], blocks, 1)
        self.stage2 = _stage(channels[0], channels[1], blocks, 2)
        self.stage3 = _stage(channels[1], channels[2], blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[2], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels, H, W]`` to logits ``[N, num_classes]``."""
        x = torch.relu_(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def resnet(
    depth: int = 20, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0
) -> nn.Module:
    """A residual network of ``depth = 6n + 2`` layers.

    Raises:
        ModelError: another depth, images smaller than 8x8, or a width that is not above zero.
    """
    if depth < 8 or depth % 6 != 2:
        raise ModelError(f"depth of a resnet must be 6n + 2 (8, 14, 20, 32, ...), but got {depth!r}")
    return ResNet((depth - 2) // 6, input_shape, num_classes, width)


def resnet20(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """ResNet-20: 0.27 million parameters, 40.8 million MACs."""
    return resnet(20, input_shape, num_classes, width)


def resnet32(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """ResNet-32: 0.47 million parameters."""
    return resnet(32, input_shape, num_classes, width)


def resnet56(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """ResNet-56: 0.86 million parameters."""
    return resnet(56, input_shape, num_classes, width)


def resnet110(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """ResNet-110: 1.7 million parameters."""
    return resnet(110, input_shape, num_classes, width)
