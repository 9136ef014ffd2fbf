"""MobileNets for images of 32x32: the stem (in version 2 also the first two stages) keeps the resolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoprune.models.common import conv_norm, image_shape, initialise, scaled

# (channels, stride) of each depthwise-separable block
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# (expansion, channels, repeats, stride) of each stage of inverted residuals
_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v1(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """MobileNet: 13 depthwise-separable blocks (3.2 million parameters, 46.4 million MACs at full width).

    A. G. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017.

    Raises:
        ModelError: images smaller than 16x16, or a width that is not above zero.
    """
    channels, _, _ = image_shape("mobilenet_v1", input_shape, 16)
    inputs = scaled(32, width)
    network = nn.Sequential()
    network.add_module("stem", conv_norm(channels, inputs))
    for place, (outputs, stride) in enumerate(_V1, 1):
        network.add_module(f"depthwise{place}", conv_norm(inputs, inputs, 3, stride, groups=inputs))
        network.add_module(f"pointwise{place}", conv_norm(inputs, scaled(outputs, width), 1))
        inputs = scaled(outputs, width)
    _add_head(network, inputs, num_classes)
    return network


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without activation; add where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand: nn.Module = (
            conv_norm(inputs, hidden, 1, activation=nn.ReLU6(inplace=True)) if expansion > 1 else nn.Identity()
        )
        self.depthwise = conv_norm(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6(inplace=True))
        self.project = conv_norm(hidden, outputs, 1, activation=nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


def mobilenet_v2(input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """MobileNetV2: 17 inverted residuals (2.2 million parameters at full width).

    M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    2018. As there, the last convolution never gets narrower than 1,280 channels.

    Raises:
        ModelError: images smaller than 16x16, or a width that is not above zero.
    """
    channels, _, _ = image_shape("mobilenet_v2", input_shape, 16)
    inputs = scaled(32, width)
    network = nn.Sequential()
    network.add_module("stem", conv_norm(channels, inputs, activation=nn.ReLU6(inplace=True)))
    place = 0
    for expansion, outputs, repeats, stride in _V2:
        for repeat in range(repeats):
            place += 1
            block = InvertedResidual(inputs, scaled(outputs, width), stride if repeat == 0 else 1, expansion)
            network.add_module(f"block{place}", block)
            inputs = scaled(outputs, width)
    last = scaled(1280, max(1.0, width))
    network.add_module("head", conv_norm(inputs, last, 1, activation=nn.ReLU6(inplace=True)))
    _add_head(network, last, num_classes)
    return network


def _add_head(network: nn.Sequential, inputs: int, num_classes: int) -> None:
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(inputs, num_classes))
    initialise(network)
