"""Modes that see every operation of a network, without importing torch's compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that does not import torch's compiler, and that the compiler skips where it is imported.

    Torch wraps a mode so that the compiler skips it; the wrapper imports the compiler at the first operation. That
    takes longer than to trace a network, and hardly any network that is traced is compiled.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls) -> None:
        if not _skip(cls.__torch_dispatch__):
            see = torch._disable_dynamo(cls.__torch_dispatch__)  # type: ignore[attr-defined]
            cls.__torch_dispatch__ = see  # type: ignore[method-assign]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def _skip(see: Any) -> bool:
    """Tell the interpreter that the compiler leaves ``see`` and what it calls alone; whether this torch can be told."""
    frames: Any = torch._C._dynamo.eval_frame
    try:
        never = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        frames.set_code_exec_strategy(see.__code__, never)
    except (AttributeError, TypeError):
        return False
    return True
