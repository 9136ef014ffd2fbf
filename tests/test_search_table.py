"""The result table on a real objective."""

from __future__ import annotations

from autoprune import Objective, ObjectiveSettings, build_model, load_data
from autoprune.evaluation import evaluate
from autoprune.finetune import FinetuneSettings
from autoprune.search import search


def test_dense_row_is_the_network_as_it_came() -> None:
    """Pruned networks are retrained, the dense one is not: it is what they are measured against."""
    model, data = build_model("digits_cnn", input_shape=(1, 8, 8), num_classes=10).eval(), load_data("digits")
    objective = Objective(model, data, settings=ObjectiveSettings(finetune=FinetuneSettings(steps=20)))
    result = search(objective, budget="macs=0.5", trials=1, controller="random", test=True)
    dense, best = result.rows[0], result.rows[-1]
    assert dense.confirmed == evaluate(model, data.validation).accuracy
    assert dense.test == evaluate(model, data.test).accuracy
    assert best.accuracy is not None
    assert best.accuracy > 2 * dense.confirmed
