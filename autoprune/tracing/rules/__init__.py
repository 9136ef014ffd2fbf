"""What each operation does to labels. An operation is added by one line in the table of its file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from autoprune.tracing.rules import contract, join, norm, reduce, shape

Rule = Callable[..., None]

RULES: dict[str, Rule] = {**shape.RULES, **join.RULES, **reduce.RULES, **norm.RULES, **contract.RULES}


@cache
def rule_for(func: Any) -> Rule | None:
    """The rule of an operation, in place or not; ``None`` where there is none."""
    name = func._schema.name.split("::")[1]
    rule = RULES.get(name) or (RULES.get(name.rstrip("_")) if not name.startswith("_") else None)
    if rule is None and torch.Tag.pointwise in func.tags:
        return join.pointwise
    return rule
