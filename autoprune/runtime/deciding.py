"""The controller for a single sample on the CPU, in NumPy: a decision takes microseconds, so calls must be few.

The numbers are those of :class:`autoprune.runtime.controller.Controller` with other roundings. With sigmoid(x) =
(1 + tanh(x / 2)) / 2 the halves are put into the weights, and one tanh serves both gates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.runtime.controller import Controller

Floats = npt.NDArray[Any]


class OneSample:
    """Frozen weights of a controller; nothing is kept between samples."""

    def __init__(self, controller: Controller) -> None:
        size = controller.hidden
        core = controller.core
        half = torch.ones(3 * size, dtype=core.weight_hh.dtype)
        half[: 2 * size] = 0.5  # the two gates: tanh(x / 2)
        into = half[:, None] * core.weight_ih.detach().cpu()
        carry = torch.cat([half[: 2 * size], half[:size]])[:, None] * core.weight_hh.detach().cpu()
        self._size = size
        self._encoders: list[list[Floats | None]] = [[] for _ in controller.channels]
        self._weights = [_linear(e).weight.detach().cpu() for e in controller.encoders]
        self._packed: list[dict[int, Floats]] = [{} for _ in controller.channels]
        self._codes = [_numpy(_linear(e).bias) for e in controller.encoders]
        self._into, self._into_bias = _numpy(into), _numpy(half * core.bias_ih.detach().cpu())
        carried = torch.cat([half[: 2 * size], half[:size]]) * core.bias_hh.detach().cpu()
        self._carry, self._carry_bias = _numpy(carry), _numpy(carried)
        self._decoder, self._decoder_bias = _numpy(controller.decoder.weight), _numpy(controller.decoder.bias)
        self._means: dict[int, Floats] = {}

    def start(self) -> Floats:
        """The state ``[hidden]`` before the first stage."""
        return np.zeros(self._size, dtype=self._decoder.dtype)

    def step(self, stage: int, value: Tensor, state: Floats) -> tuple[Floats, Floats]:
        """Scores ``[k]`` at a stage, and the next state.

        Args:
            stage: from 0.
            value: what enters the stage, ``[1, c, ...]`` with the channels that are there.
            state: from the stage before.
        """
        pooled = self._pooled(value)
        code = self._encoder(stage, len(pooled)) @ pooled
        code += self._codes[stage]
        into = self._into @ code
        into += self._into_bias
        carry = self._carry @ state
        carry += self._carry_bias
        state = _core(into, carry, state, self._size)
        scores = self._decoder @ state
        scores += self._decoder_bias
        return scores, state

    def _encoder(self, stage: int, channels: int) -> Floats:
        packed = self._packed[stage].get(channels)
        if packed is None:
            packed = self._packed[stage][channels] = _numpy(self._weights[stage][:, :channels].contiguous())
        return packed

    def _pooled(self, value: Tensor) -> Floats:
        if value.dim() == 2:
            found: Floats = value.numpy()[0]
            return found
        image = value.numpy()[0]  # [c, H, W]
        rows = image.transpose(1, 2, 0).reshape(-1, image.shape[0])  # [H W, c], a view of channels-last images
        mean = self._means.get(len(rows))
        if mean is None:
            mean = self._means[len(rows)] = np.full(len(rows), 1 / len(rows), dtype=rows.dtype)
        pooled: Floats = mean @ rows
        return pooled


def _core(into: Floats, carry: Floats, state: Floats, size: int) -> Floats:
    """One step of a gated recurrent unit, whose reset and update gates come halved, and the carried new value too."""
    gates = into[: 2 * size] + carry[: 2 * size]
    np.tanh(gates, gates)
    gates += 1  # twice the sigmoids
    new = carry[2 * size :]
    new *= gates[:size]
    new += into[2 * size :]
    np.tanh(new, new)
    kept = state - new
    kept *= gates[size:]
    kept *= 0.5
    kept += new
    return kept


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _numpy(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().cpu().clone().numpy()
    return found
