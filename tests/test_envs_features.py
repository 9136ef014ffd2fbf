"""What the agent sees: by hand on small networks, and within bounds on every network there is."""

from __future__ import annotations

import os
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from networks import BLOCKS, Generated, example
from torch import nn

from autoprune import trace
from autoprune.costs import Cost, CostModel
from autoprune.envs import FEATURES, LayerwiseEnv, Task
from autoprune.envs.episode import Decision, Episode
from autoprune.graph import LayerGraph
from autoprune.models import MODELS, build_model
from autoprune.plan import Plan
from autoprune.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [name for name, _, _ in FEATURES]


class Counted:
    """The part of an objective that an environment needs while nothing is judged."""

    dense = SimpleNamespace(accuracy=1.0)

    def __init__(self, model: nn.Module, graph: LayerGraph) -> None:
        self.graph = graph
        self.costs = CostModel(model, graph)
        self.dense_cost: Cost = self.costs.cost()

    def cost(self, plan: Plan) -> Cost:
        return self.costs.cost({d.layer: self.graph.groups[d.layer].removed(d.sparsity) for d in plan.decisions})


def task_of(model: nn.Module, x: Any, **rules: Any) -> Task:
    graph = trace(model.eval(), x, prove=False)
    objective: Any = Counted(model, graph)
    return Task(objective, SearchSpace.from_graph(graph, **rules))


def small() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 4, 3, padding=1, bias=False),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(4, 6, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(96, 5),
            relu3=nn.ReLU(),
            fc2=nn.Linear(5, 3),
        )
    )


def test_a_small_network_by_hand() -> None:
    """Multiply-accumulates: conv1 4*9*64 = 2304, conv2 6*36*16 = 3456, fc1 480, fc2 15."""
    task = task_of(small(), torch.randn(2, 1, 8, 8))
    total = 2304 + 3456 + 480 + 15
    assert task.objective.dense_cost.macs == total
    episode = Episode(task)
    rows = [episode.observation()]
    for removed in (1, 2, 4):
        place = episode.group.removals.index(removed)
        episode.decide(Decision(place))
        rows.append(episode.observation())
    macs = [1.0, 0.0]
    #    t    n    c      h    w    stride k    macs                       reduced rest             previous
    expected = [
        [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, (2304 - 480) / (3456 - 480), 0.0, 3936 / total, 0.0],
        [0.5, 1.0, 3 / 95, 1.0, 1.0, 1.0, 1.0, macs[0], (576 + 864) / total, 480 / total, 0.25],
        [1.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, macs[1], (576 + 3456 - 1728 + 160) / total, 0.0, 2 / 6],
        [1.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, macs[1], (576 + 1728 + 480 - 64 + 12) / total, 0.0, 0.8],
    ]
    np.testing.assert_allclose(np.array(rows), np.array(expected), atol=1e-6)
    assert len(NAMES) == len(expected[0])


def test_layers_that_go_together_count_together() -> None:
    """One group of stem and second convolution: inputs and multiply-accumulates add up, sizes are the largest."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
            self.one = nn.Conv2d(8, 6, 1)
            self.two = nn.Conv2d(6, 8, 3, padding=1)
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = x + self.two(torch.relu(self.one(x)))
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    task = task_of(Net(), torch.randn(2, 3, 16, 16))
    assert [g.name for g in task.space.groups] == ["stem", "one"]
    shared, inner = task.features.astype(float)
    stem, one, two = 8 * 75 * 64, 6 * 8 * 64, 8 * 54 * 64
    total = stem + one + two + 16
    by_hand = {"n": (8, 6), "c": (3 + 6, 8), "h": (16, 8), "stride": (2, 1), "k": (5, 1), "macs": (stem + two, one)}
    for name, (a, b) in by_hand.items():
        assert (shared[NAMES.index(name)], inner[NAMES.index(name)]) == ((1.0, 0.0) if a > b else (0.0, 1.0)), name
    assert shared[NAMES.index("rest")] == pytest.approx(one / total)
    assert inner[NAMES.index("rest")] == 0


def test_a_layer_of_two_groups_counts_once_in_what_is_left() -> None:
    for block in BLOCKS:
        task = task_of(Generated([(block, 8), (block, 8)], flatten=True, seed=0), example())
        rest = task.features[:, NAMES.index("rest")]
        assert (np.diff(rest) <= 0).all()
        assert rest[-1] == 0
        makers = {layer for g in task.space.groups[1:] for layer in task.objective.graph.groups[g.name].layers}
        macs = sum(task.objective.graph.layers[layer].macs for layer in makers)
        assert rest[0] == pytest.approx(macs / task.objective.graph.macs, rel=1e-6)


def check_bounds(task: Task) -> None:
    """Roll-outs that remove nothing, everything, and something: bounds, meanings, and agreement with the counts."""
    env = LayerwiseEnv(task, judge=lambda plan: None)
    draws = np.random.default_rng(0)
    static = task.features[:, :8]
    assert ((static.min(0) == 0) & ((static.max(0) == 1) | (static.max(0) == 0))).all()
    for choose in (lambda: -1.0, lambda: 1.0, lambda: draws.uniform(-1, 1)):
        seen, _ = env.reset(seed=0)
        reduced = 0.0
        for place, group in enumerate(task.space.groups):
            assert env.observation_space.contains(seen)
            np.testing.assert_array_equal(seen[:8], static[place])
            assert seen[9] == task.features[place, 9]
            assert seen[8] >= reduced
            reduced = seen[8]
            seen, _, done, _, info = env.step(np.array([choose()], np.float32))
            _, macs = task.objective.graph.cost(env.episode.removed)
            assert seen[8] == pytest.approx(1 - macs / task.objective.graph.macs, abs=1e-6)
            assert seen[10] == pytest.approx(info["removed"] / group.size)
        assert done
        assert env.observation_space.contains(seen)
        assert seen[9] == 0


@pytest.mark.parametrize("name", MODELS)
def test_observations_stay_in_bounds_on_every_network(name: str) -> None:
    shape = (1, 8, 8) if name in ("digits_cnn", "mlp", "lenet300_100") else (3, 32, 32)
    model = build_model(name, input_shape=shape, **({"width": 0.25} if name.startswith(("vgg", "mobilenet")) else {}))
    check_bounds(task_of(model, torch.randn(1, *shape)))


@pytest.mark.parametrize("block", BLOCKS)
def test_observations_stay_in_bounds_however_channels_are_wired(block: type[nn.Module]) -> None:
    check_bounds(task_of(Generated([(block, 8), (block, 12)], flatten=False, seed=0), example()))


def test_inputs_that_go_are_described_by_the_layers_that_read_them() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))
    task = task_of(model, torch.randn(2, 20), include=["input", "0"])
    assert [g.name for g in task.space.groups] == ["input", "0"]
    check_bounds(task)
    assert task.features[0, NAMES.index("n")] == 1  # 20 inputs against 8 units
    assert task.features[0, NAMES.index("c")] == 0  # 8 outputs read each, against 20 inputs of each unit


@pytest.mark.filterwarnings("ignore")
def test_transformers_have_tokens_for_a_width() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(num_hidden_layers=2, image_size=32, patch_size=8, **sizes)
    model = transformers.ViTForImageClassification(config)
    task = task_of(model, {"pixel_values": torch.randn(2, 3, 32, 32)})
    check_bounds(task)
    hidden = [task.objective.graph.layers[g.name] for g in task.space.groups]
    assert all(info.input_shape == (17, 32) for info in hidden)


def test_the_docstring_says_what_every_number_is() -> None:
    text = LayerwiseEnv.__doc__ or ""
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [(int(row[0]), row[1]) for row in rows] == list(enumerate(NAMES))


def test_one_group_alone_has_zeros_where_there_is_nothing_to_compare() -> None:
    task = task_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(2, 6))
    assert len(task) == 1
    assert task.features.tolist() == [[0.0] * 11]
    check_bounds(task)
