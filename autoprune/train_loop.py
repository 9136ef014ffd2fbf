"""Steps of training on a module, whoever drives them.

Every random number of a step comes from (seed, step), so the state of a run is the step and the optimizer's tensors: a
run stopped and continued ends in the same bits as a straight one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autoprune.allocator import keep_memory
from autoprune.augment import augment_batch
from autoprune.checks import in_range, whole
from autoprune.devices import placed
from autoprune.errors import ModelError, TrainingDiverged, unknown_name
from autoprune.evaluation import checked_logits
from autoprune.hardware import bfloat16_in_hardware
from autoprune.optimizer_settings import OptimizerSettings
from autoprune.seeding import generator, seeded

if TYPE_CHECKING:
    from autoprune.data import Split


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(OptimizerSettings):
    """How a network is trained for a number of steps; the other fields are those of :class:`OptimizerSettings`.

    Attributes:
        steps: optimizer steps; 0 trains nothing.
        warmup_steps: steps in which the learning rate rises linearly.
        distill_weight: share of the loss that comes from the teacher's outputs, in [0, 1].
        distill_temperature: both outputs are divided by it for that share.
        report_every: steps between two reports; 0 reports at the end alone.
    """

    steps: int = 0
    warmup_steps: int = 0
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    report_every: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "warmup_steps", "report_every"):
            whole(name, getattr(self, name))
        in_range("distill_weight", self.distill_weight, least=0, most=1)
        in_range("distill_temperature", self.distill_temperature, above=0)


class TrainLoop:
    """Steps of training on a module, in order; retraining and the training of base networks drive it.

    The module is moved to where ``split`` lies, and stays there.
    """

    def __init__(
        self,
        module: nn.Module,
        split: Split,
        settings: FinetuneSettings,
        *,
        seed: int,
        augment: str = "none",
        masks: Mapping[str, Tensor] | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        keep_memory()
        self.module, self.split, self.settings, self.seed = module, split, settings, seed
        module.to(split.device)
        self.teacher = placed(teacher, split.device) if teacher is not None and settings.distill_weight > 0 else None
        self.augment = (settings.augment or augment) if split.x.ndim == 4 else "none"
        self.step = 0
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ModelError("every parameter of the network is frozen: nothing to train; set requires_grad")
        self.autocast = autocast_for(settings.precision, module, split.x)
        self.optimizer = _optimizer(list(self.parameters.values()), settings)
        self.batch = min(settings.batch_size, len(split))
        self.steps_per_epoch = max(1, len(split) // self.batch)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))
        self._masks = _checked_masks(masks or {}, dict(module.named_parameters(remove_duplicate=False)))
        self._hold_masks()
        if split.x.ndim == 4:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Afterwards every submodule (the teacher's too) has its own mode again, and no gradient is left."""
        networks = [self.module] if self.teacher is None else [self.module, self.teacher]
        try:
            with modes_kept(*networks):
                if self.teacher is not None:
                    self.teacher.eval()
                yield
        finally:
            self.optimizer.zero_grad(set_to_none=True)

    def advance(self, until: int) -> float:
        """Step up to step ``until``; the mean loss of these steps.

        Raises:
            TrainingDiverged: a loss, or at the end a weight, that is not finite.
        """
        self.module.train()
        total, first = 0.0, self.step
        while self.step < until:
            with seeded(self.seed, "step", self.step):
                loss = self._one_step()
            if not math.isfinite(loss):
                raise TrainingDiverged(self.step, f"the loss is {loss}")
            total += loss
            self.step += 1
        for name, parameter in self.parameters.items():
            if not bool(torch.isfinite(parameter).all()):
                raise TrainingDiverged(self.step, f"{name!r} holds values that are not finite")
        return total / max(1, self.step - first)

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step`` (counted from 0)."""
        s = self.settings
        if step < s.warmup_steps:
            return s.lr * (step + 1) / (s.warmup_steps + 1)
        if s.schedule == "constant":
            return s.lr
        share = (step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
        return s.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    def state(self) -> dict[str, Tensor]:
        """What continuing needs beside the module's tensors: the step, the optimizer's tensors by parameter name."""
        found = {"step": torch.tensor(self.step)}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{key}.{name}"] = value.detach().clone()
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state` gave."""
        self.step = int(state["step"])
        for place, value in state.items():
            if place.startswith("optimizer."):
                _, key, name = place.split(".", 2)
                parameter = self.parameters[name]
                like = value.to(parameter.device, copy=True)
                if like.shape == parameter.shape:
                    like = torch.empty_like(parameter).copy_(value)  # in the layout of the parameter
                self.optimizer.state[parameter][key] = like

    def _one_step(self) -> float:
        x, y = self._samples()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        loss = self._loss(x, y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, mask in self._masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        self.optimizer.step()
        self._hold_masks()
        return loss.item()

    def _samples(self) -> tuple[Tensor, Tensor]:
        """The batch of the current step: each epoch has a new order, and leaves out what does not fill a batch."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, torch.randperm(len(self.split), generator=generator(self.seed, "order", epoch)))
        index = self._order[1][place * self.batch : (place + 1) * self.batch]
        if self.augment == "none":
            x = self.split.inputs(index)
        else:
            raw = augment_batch(self.split.x[index], self.augment, generator(self.seed, "augment", self.step))
            x = replace(self.split, x=raw, y=self.split.y[index]).inputs()
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, self.split.y[index]

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        wanted = self._wanted(x, y)
        return self._against(self._outputs(self.module, x, y), y, wanted)

    def _wanted(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Outputs of the teacher, if there is one."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self._outputs(self.teacher, x, y)

    def _outputs(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            return checked_logits(module(x), y)

    def _against(self, logits: Tensor, y: Tensor, wanted: Tensor | None) -> Tensor:
        s = self.settings
        hard = nn.functional.cross_entropy(logits, y, label_smoothing=s.label_smoothing)
        if wanted is None:
            return hard
        return (1 - s.distill_weight) * hard + s.distill_weight * distillation(logits, wanted, s.distill_temperature)

    @torch.no_grad()
    def _hold_masks(self) -> None:
        for parameter, mask in self._masks:
            parameter.mul_(mask)
            for value in self.optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.mul_(mask)


@contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Afterwards every submodule is in training or evaluation mode as it was before."""
    modes = [(m, m.training) for module in modules for m in module.modules()]
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(logits / T))``, the mean over samples; both ``[N, classes]``.

    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    student = nn.functional.log_softmax(logits / temperature, 1)
    target = nn.functional.log_softmax(teacher / temperature, 1)
    divergence = nn.functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def autocast_for(precision: str, module: nn.Module, x: Tensor) -> bool:
    """Whether a step runs under bfloat16 autocast.

    ``auto`` takes it on the CPU for convolutional networks on images of 16x16 or more, without grouped convolutions
    (those are slower in bfloat16), where the processor multiplies bfloat16 itself. It is a fixed rule and no
    measurement, so that
    one machine always gives the same bits.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if x.device.type != "cpu":
        return False
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    plain = bool(convolutions) and all(m.groups == 1 for m in convolutions)
    return x.ndim == 4 and min(x.shape[2:]) >= 16 and plain and bfloat16_in_hardware()


def _optimizer(parameters: list[nn.Parameter], settings: FinetuneSettings) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, foreach=True)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, foreach=True)


def _checked_masks(
    masks: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> list[tuple[nn.Parameter, Tensor]]:
    held = []
    for name, mask in masks.items():
        if name not in parameters:
            raise unknown_name("parameter of a mask", name, parameters)
        if mask.shape != parameters[name].shape:
            raise ModelError(
                f"the mask of {name!r} has shape {list(mask.shape)}, but the parameter {list(parameters[name].shape)}"
            )
        held.append((parameters[name], mask.to(parameters[name].device, torch.bool)))
    return held
