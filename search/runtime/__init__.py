"""Runtime neural pruning: baselines, the oracle, learners and the training of networks that decide for themselves.

J. Lin, Y. Rao, J. Lu, J. Zhou, "Runtime Neural Pruning", 2017. Importing this needs no library of reinforcement
learning.
"""

from __future__ import annotations

from autoprune.search.runtime.baselines import Confidence, at_equal_macs, random_actions, uniform
from autoprune.search.runtime.judging import Greedy, Judged, Table, judge
from autoprune.search.runtime.oracle import Oracle, oracle
from autoprune.search.runtime.settings import RuntimeSettings
from autoprune.search.runtime.training import Store, train_runtime

__all__ = [
    "Confidence",
    "Greedy",
    "Judged",
    "Oracle",
    "RuntimeSettings",
    "Store",
    "Table",
    "at_equal_macs",
    "judge",
    "oracle",
    "random_actions",
    "train_runtime",
    "uniform",
]
