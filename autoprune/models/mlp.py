"""Fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from autoprune.errors import ModelError, unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "identity": nn.Identity,
}


def mlp(
    input_shape: Sequence[int] = (64,),
    num_classes: int = 10,
    hidden: Sequence[int] = (64, 32),
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Module:
    """Linear layers ``fc1 .. fcN`` with an activation between them; any input is flattened.

    Args:
        input_shape: shape of one sample.
        num_classes: outputs of the last layer.
        hidden: widths of the hidden layers, none for a linear classifier.
        activation: name in :data:`ACTIVATIONS`.
        dropout: share of hidden units dropped in training, in [0, 1).

    Raises:
        ModelError: a width below 1 or a dropout outside [0, 1).
        UnknownNameError: an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    widths = [math.prod(int(s) for s in input_shape), *(int(h) for h in hidden), int(num_classes)]
    if min(widths) < 1:
        raise ModelError(f"every width of an mlp must be at least 1, but got {widths!r}")
    if not 0 <= dropout < 1:
        raise ModelError(f"dropout of an mlp must be in [0, 1), but got {dropout!r}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for place, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
        layers[f"fc{place}"] = nn.Linear(inputs, outputs)
        if place < len(widths) - 1:
            layers[f"act{place}"] = ACTIVATIONS[activation]()
            if dropout:
                layers[f"drop{place}"] = nn.Dropout(dropout)
    return nn.Sequential(layers)


def lenet300_100(
    input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10, activation: str = "relu"
) -> nn.Module:
    """LeNet-300-100: two hidden layers of 300 and 100 units (266,610 parameters, 266,200 MACs on MNIST).

    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    return mlp(input_shape, num_classes, hidden=(300, 100), activation=activation)
