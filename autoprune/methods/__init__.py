"""Every method by name. A new one is a file beside this one, and a line in ``METHODS``."""

from __future__ import annotations

import importlib

from autoprune.errors import unknown_name
from autoprune.methods.base import COMBINE, Member, Method, joint, recipe


def _method(file: str) -> Method:
    method: Method = importlib.import_module(f"autoprune.methods.{file}").METHOD
    return method


METHODS: dict[str, Method] = {
    "random": _method("random_order"),
    "magnitude": _method("magnitude"),
    "l1_norm": _method("l1_norm"),
    "l2_norm": _method("l2_norm"),
    "fpgm": _method("fpgm"),
    "taylor_fo": _method("taylor_fo"),
}


def get_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UnknownNameError: no such method, with near misses.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


__all__ = ["COMBINE", "METHODS", "Member", "Method", "get_method", "joint", "recipe"]
