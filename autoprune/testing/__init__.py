"""Conformance suites, shipped for authors of new methods.

A method passes when :func:`check_method` returns; under pytest, one test for each check reads better:

    >>> from autoprune.methods import METHODS
    >>> from autoprune.testing import METHOD_CHECKS
    >>> METHOD_CHECKS["exact_count"](METHODS["l1_norm"], Pattern.CHANNEL)
"""

from __future__ import annotations

from autoprune.plan import Pattern
from autoprune.testing.methods import METHOD_CHECKS, check_method
from autoprune.testing.problems import Network, Problem, network, problem

__all__ = ["METHOD_CHECKS", "Network", "Pattern", "Problem", "check_method", "network", "problem"]
