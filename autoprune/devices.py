"""Where networks are trained and evaluated: where their data lie. Graphs, orders, plans and costs stay on the CPU."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from autoprune.errors import SettingsError


def read_device(name: str) -> torch.device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:1``.

    Raises:
        SettingsError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        raise SettingsError(
            f"device {name!r} cannot be used with torch {torch.__version__} here ({str(error).splitlines()[0]}); "
            f"there is {', '.join(there)}"
        ) from None
    if device.type == "meta":
        raise SettingsError(f"device {name!r} holds no numbers; give cpu or cuda")
    return device


def device_of(module: nn.Module) -> torch.device:
    """Where the first tensor of ``module`` lies; the CPU for one without any."""
    first = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if first is None else first.device


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` if it is on ``device``, else a copy of it there."""
    return module if device_of(module) == device else copy.deepcopy(module).to(device)


def batch_for(device: torch.device, cpu: int) -> int:
    """Samples that are best taken together: ``cpu`` fit a cache; a device of its own wants more to do at a time."""
    return cpu if device.type == "cpu" else 8 * cpu


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU on ``device``, without waiting for what is under way there."""
    return tensor.to(device, non_blocking=True)
