"""The controller for a single sample on the CPU, in NumPy: a decision takes microseconds, so calls must be few.

The numbers are those of :class:`autoprune.runtime.controller.Controller` with other roundings. What the core does to
the code and to the state is one matrix product; the encoder's bias is carried through it beforehand; and with
sigmoid(x) = (1 + tanh(x / 2)) / 2 the halves are put into the weights, so that one tanh serves both gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.runtime.controller import HARDEST, Controller

Floats = npt.NDArray[Any]


class OneSample:
    """Frozen weights of a controller; :meth:`start` gives what decides for one sample."""

    def __init__(self, controller: Controller) -> None:
        encoders = [_linear(e) for e in controller.encoders]
        matrix, bias, into = _fused(controller)
        self.matrix = _numpy(matrix)
        self.biases = [_numpy(bias + into @ e.bias.detach().cpu()) for e in encoders]
        self.decoder = _numpy(controller.decoder.weight)
        self.offsets: list[list[float]] = controller.offsets.tolist()
        decoded = controller.decoder.bias.detach().cpu().double()
        self.constants = controller.paid.cpu().double() + decoded[:-1]  # [m, k]
        self.hardness = float(decoded[-1])
        self.reliance: list[float] = controller.reliance.tolist()
        self.code, self.hidden = controller.code, controller.hidden
        self._encoders = [e.weight.detach().cpu().clone() for e in encoders]
        self._packed: dict[tuple[int, int], Floats] = {}
        self._means: dict[int, Floats] = {}

    def start(self) -> Deciding:
        """One sample before the first stage."""
        return Deciding(self)

    def encoder(self, stage: int, channels: int) -> Floats:
        """Weights ``[code, channels]`` of a stage for the channels that are there."""
        packed = self._packed.get((stage, channels))
        if packed is None:
            packed = self._packed[stage, channels] = _numpy(self._encoders[stage][:, :channels].contiguous())
        return packed

    def mean(self, positions: int) -> Floats:
        """What takes the mean over that many positions."""
        mean = self._means.get(positions)
        if mean is None:
            mean = self._means[positions] = np.full(positions, 1 / positions, dtype=self.matrix.dtype)
        return mean


class Deciding:
    """One sample on its way through the stages, with the buffers that all its stages use."""

    def __init__(self, weights: OneSample) -> None:
        self._weights = weights
        code, size = weights.code, weights.hidden
        self._inputs = np.zeros(code + size, dtype=weights.matrix.dtype)
        self._code, self._state = self._inputs[:code], self._inputs[code:]
        self._sums = np.empty(4 * size, dtype=weights.matrix.dtype)
        self._gates, self._reset, self._update = self._sums[: 2 * size], self._sums[:size], self._sums[size : 2 * size]
        self._new, self._carried = self._sums[2 * size : 3 * size], self._sums[3 * size :]

    def scores(self, stage: int, value: Tensor, constants: Sequence[float]) -> list[float]:
        """Scores of the k actions at a stage; stages are to be shown in order.

        Args:
            stage: from 0.
            value: what enters the stage, ``[1, c, ...]`` with the channels that are there.
            constants: those of the controller at the stage (:attr:`OneSample.constants`), a knob's bias included.
        """
        weights = self._weights
        there = value.numpy()
        channels = there.shape[1]
        rows = there.reshape(channels, -1)  # a view, of channels-last images too
        pooled = rows.dot(weights.mean(rows.shape[1])) if rows.shape[1] > 1 else rows[:, 0]
        weights.encoder(stage, channels).dot(pooled, self._code)
        sums, gates, new, state = self._sums, self._gates, self._new, self._state
        weights.matrix.dot(self._inputs, sums)
        sums += weights.biases[stage]
        np.tanh(gates, gates)
        gates += 1  # twice the sigmoids
        self._carried *= self._reset
        new += self._carried
        np.tanh(new, new)
        state -= new
        state *= self._update
        state *= 0.5
        state += new
        *decoded, hard = weights.decoder.dot(state).tolist()
        exponent = weights.reliance[stage] * (hard + weights.hardness)
        factor = math.exp(min(max(exponent, -HARDEST), HARDEST))
        return [d + o * factor + c for d, o, c in zip(decoded, weights.offsets[stage], constants, strict=True)]


def _fused(controller: Controller) -> tuple[Tensor, Tensor, Tensor]:
    """(matrix ``[4 h, code + h]``, bias ``[4 h]``, its columns for the code) of the gates, the new value, the carried.

    Rows: reset, update (halved), what of the new value comes from the code, and what from the state (halved).
    """
    core, size = controller.core, controller.hidden
    read, carry = core.weight_ih.detach().cpu(), core.weight_hh.detach().cpu()
    read_bias, carry_bias = core.bias_ih.detach().cpu(), core.bias_hh.detach().cpu()
    gates, new = slice(0, 2 * size), slice(2 * size, 3 * size)
    none = torch.zeros_like
    into = torch.cat([read[gates] / 2, read[new], none(read[new])])
    back = torch.cat([carry[gates] / 2, none(carry[new]), carry[new] / 2])
    bias = torch.cat([(read_bias + carry_bias)[gates] / 2, read_bias[new], carry_bias[new] / 2])
    return torch.cat([into, back], 1), bias, into


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _numpy(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().cpu().clone().numpy()
    return found
