"""Small convolutional networks for digits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from autoprune.models.common import conv_norm, image_shape, scaled


def lenet5(input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10) -> nn.Module:
    """LeNet-5 in Caffe's form: 20 and 50 filters of 5x5, 500 hidden units (431,080 parameters, 2,293,000 MACs).

    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998;
    the widths are those of the ``lenet`` example of Y. Jia et al., "Caffe", 2014. As there, no activation stands
    between a convolution and its pooling.

    Raises:
        ModelError: images smaller than 16x16.
    """
    channels, height, width = image_shape("lenet5", input_shape, 16)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * rows * columns, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, num_classes),
        )
    )


def digits_cnn(input_shape: Sequence[int] = (1, 8, 8), num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """Three convolutions of 3x3 with batch norm (16, 32, 32 filters) and a hidden layer of 64, for 8x8 digits.

    Raises:
        ModelError: images smaller than 4x4, or a width that is not above zero.
    """
    channels, height, columns = image_shape("digits_cnn", input_shape, 4)
    widths = [channels, *(scaled(c, width) for c in (16, 32, 32))]
    hidden = scaled(64, width)
    return nn.Sequential(
        OrderedDict(
            conv1=conv_norm(widths[0], widths[1]),
            conv2=conv_norm(widths[1], widths[2]),
            pool1=nn.MaxPool2d(2),
            conv3=conv_norm(widths[2], widths[3]),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(widths[3] * (height // 4) * (columns // 4), hidden),
            relu=nn.ReLU(),
            fc2=nn.Linear(hidden, num_classes),
        )
    )
