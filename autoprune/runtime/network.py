"""A network for deployment that decides for each input how much of itself to run, and really skips the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.allocator import keep_memory
from autoprune.costs import Budget
from autoprune.errors import ChainError, ModelError
from autoprune.runtime.chain import Chain
from autoprune.runtime.compiled import Compiled
from autoprune.runtime.controller import Controller
from autoprune.runtime.deciding import OneSample
from autoprune.runtime.execution import NormRows
from autoprune.runtime.table import KnobTable


@dataclass(frozen=True, eq=False)
class Run:
    """What a network did for a batch.

    Attributes:
        logits: ``[N, classes]``.
        actions: int64 ``[N, m]``, groups computed at each stage (1 to k).
        macs: int64 ``[N]``, multiply-accumulates of the network.
        controller_macs: int64 ``[N]``, those of the decisions.
    """

    logits: Tensor
    actions: Tensor
    macs: Tensor
    controller_macs: Tensor


class RuntimePrunedNetwork(nn.Module):
    """Stage by stage the controller scores the actions, and the best is run.

    That is ``argmax_i scores_i + (i - 1) * price * knob``, with the price of a group at the stage.

    A single image runs through slices of the kernels, a batch in groups of samples with equal actions, each one smaller
    dense network. Norms have the statistics that belong to the knob (:func:`autoprune.runtime.settle`). They are
    folded and weights packed for every width (:mod:`autoprune.runtime.compiled`) at the first forward pass, and at the
    next one after the knob was turned: weights that are changed afterwards need :meth:`repack`. Always in evaluation
    mode, without gradients.

    After J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017; the knob on the scores takes the place of a
    new training for every balance of accuracy and cost.

    Attributes:
        chain: the network in stages.
        controller: what decides.
        table: what the knob gives, as calibrated (:func:`autoprune.runtime.calibrate`); ``None`` before.
        knob: a bias for each further group; above 0 more is run, below 0 less.
    """

    #: Why an export of the whole is refused; told by :func:`autoprune.export.export_network`.
    export_refusal = (
        "a network that decides at run time cannot be written as a fixed graph; export the network of constant actions "
        "instead: network.at(actions)"
    )

    def __init__(
        self, chain: Chain, controller: Controller, table: KnobTable | None = None, *, knob: float = 0.0
    ) -> None:
        """Put together what was trained.

        Raises:
            ChainError: a controller of other stages, or a knob that is not a finite number.
        """
        super().__init__()
        if controller.channels != chain.channels or controller.groups != chain.groups:
            raise ChainError(
                f"the controller is made for {controller.groups} groups and stages of {list(controller.channels)} "
                f"channels, but the network has {chain.groups} groups and {list(chain.channels)}; "
                "make it with Controller(chain.channels, chain.groups)"
            )
        self.chain, self.controller, self.table = chain, controller, table
        self._compiled: Compiled | None = None
        self._one: OneSample | None = None
        self.knob = knob
        self.eval()

    @property
    def knob(self) -> float:
        """The bias for each further group, times the price of a group at the stage."""
        return self._knob

    @knob.setter
    def knob(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ChainError(f"the knob must be a finite number, but got {value!r}")
        before, self._knob = getattr(self, "_knob", None), float(value)
        if self.chain.norms.knobs and self._knob != before:
            self._compiled = None  # its norms are folded in
        self._bias = self._knob * torch.stack([self.controller.bias(s) for s in range(len(self.chain.stages))])

    def use(self, *, budget: str | float | Budget | None = None, penalty: float | None = None) -> RuntimePrunedNetwork:
        """Choose the balance for the forward passes to come; returns the network.

        Args:
            budget: mean multiply-accumulates, decisions included: ``"macs=0.4"`` or ``0.4`` (a share of the dense
                network's), ``"macs=20M"``. The calibrated table gives the knob.
            penalty: what each further group of price 1 has to be worth at least, in units of the scores:
                ``knob = -penalty``.

        Raises:
            ChainError: both or neither are given, there is no table, or the budget lies outside of it.
            BudgetError: a budget that cannot be read.
        """
        if (budget is None) == (penalty is None):
            raise ChainError("give a budget or a penalty, one of the two")
        if penalty is not None:
            self.knob = -penalty if isinstance(penalty, (int, float)) else penalty
        elif self.table is None:
            raise ChainError(
                "this network has no calibrated table, so a budget cannot be turned into a knob; "
                "call autoprune.runtime.calibrate(network, split) first, or give a penalty"
            )
        else:
            self.knob = self.table.knob(_share(budget, self.chain.dense_macs))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of ``[N, ...]``.

        Raises:
            ModelError: inputs that are not finite, or of another shape.
        """
        with torch.inference_mode():
            logits = self._single(x)[0] if len(x) == 1 else self._batch(x)[0]
        return logits.clone()  # not a tensor of inference mode: callers may do with it what they like

    def run(self, x: Tensor) -> Run:
        """The forward pass with everything that was decided; nothing is kept in the network.

        Raises:
            ModelError: inputs that are not finite, or of another shape.
        """
        with torch.inference_mode():
            logits, actions = self._single(x) if len(x) == 1 else self._batch(x)
        decided = torch.as_tensor(actions).reshape(len(x), len(self.chain.stages)).clone()
        return Run(logits.clone(), decided, self.chain.macs(decided), self.controller.macs(self.chain.reads(decided)))

    def decide(self, x: Tensor) -> Tensor:
        """Groups that are run for each sample at each stage, int64 ``[N, m]``."""
        return self.run(x).actions

    def at(self, actions: Tensor | Sequence[int] | int) -> nn.Module:
        """The plain network of constant actions; see :meth:`autoprune.runtime.Chain.at`.

        Its norms have the statistics of the knob at which as many multiply-accumulates are run on average.
        """
        row = self.chain.checked(actions, 1)[0]
        if self.table is None or bool((row == self.chain.groups).all()):
            return self.chain.at(actions)
        share = int(self.chain.macs(row)) / self.chain.dense_macs
        return self.chain.at(actions, self.chain.norms.at(self.table.knob(self.table.within(share))))

    def repack(self) -> None:
        """Take up weights that were changed after the first forward pass."""
        self._compiled = self._one = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make a packed form of their own."""
        return {**self.__dict__, "_compiled": None, "_one": None}

    def _apply(self, fn: Any, recurse: bool = True) -> RuntimePrunedNetwork:
        self.repack()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.repack()
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def norms(self) -> NormRows:
        """Statistics of norms at the knob."""
        return self.chain.norms.at(self.knob)

    @property
    def compiled(self) -> Compiled:
        """The packed form."""
        if self._compiled is None:
            keep_memory()
            self._compiled = Compiled(self.chain, self.norms)
            self._one = OneSample(self.controller) if type(self.controller) is Controller else None
        return self._compiled

    def _single(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """(logits, actions) of one sample."""
        self._check(x)
        compiled, one = self.compiled, self._one
        if x.device.type != "cpu" or one is None:
            logits, table = self._batch(x, checked=True)
            return logits, table[0].tolist()
        value, deciding = compiled.prelude(x), one.start()
        constants = (one.constants + self._bias).tolist()  # in float64: a large knob must not swallow small scores
        actions: list[int] = []
        for stage in range(len(self.chain.stages)):
            scores = deciding.scores(stage, value, constants[stage])
            actions.append(scores.index(max(scores)) + 1)
            value = compiled.run_stage(stage, value, actions)
        return value, actions

    def _batch(self, x: Tensor, checked: bool = False) -> tuple[Tensor, Tensor]:
        """(logits, actions) of any number of samples."""
        if not checked:
            self._check(x)
        walk = self.compiled.begin(x)
        state = self.controller.start(len(x))
        bias = self._bias.to(state.device)
        while not walk.done:
            scores, state = self.controller.step(walk.stage, walk.pooled, state)
            walk = walk.step(((scores + bias[walk.stage]).argmax(1) + 1).cpu())
        return walk.output, walk.actions

    def _check(self, x: Tensor) -> None:
        shape = self.chain.input_shape
        if x.shape[1:] != shape or not x.is_floating_point():
            raise ModelError(
                f"the network takes float inputs [N, {', '.join(map(str, shape))}], but got {x.dtype} {list(x.shape)}"
            )
        if not math.isfinite(float(x.sum())) and not bool((good := x.isfinite().flatten(1).all(1)).all()):
            sample = int((~good).nonzero()[0])
            raise ModelError(
                f"input {sample} of {len(x)} holds NaN or infinite values, so nothing can be decided for it; "
                "check how it was read and normalised"
            )


def _share(budget: str | float | Budget | None, dense: int) -> float:
    """A budget on multiply-accumulates as a share of the dense network's.

    Raises:
        ChainError: a budget on something else.
    """
    if isinstance(budget, str):
        budget = Budget.parse(budget if "=" in budget else f"macs={budget}")
    elif not isinstance(budget, Budget):
        budget = Budget(macs=budget)  # type: ignore[arg-type]
    limits = budget.limits_given
    if [limit.metric for limit in limits] != ["macs"]:
        raise ChainError(f"a knob can keep a budget on macs alone, but got {str(budget)!r}; leave out the rest")
    return limits[0].amount if limits[0].relative else limits[0].amount / dense
