"""Networks are watched without torch's compiler, and beside it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> str:
    """What a fresh process prints, its warnings included."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout + done.stderr


def test_tracing_and_judging_do_not_import_the_compiler() -> None:
    code = """
        import sys
        from autoprune import Objective, Plan, build_model, load_data, trace
        objective = Objective(build_model("digits_cnn"), load_data("digits"))
        assert all(o.ok for o in objective.many([Plan.uniform(objective.graph, sparsity=s) for s in (0.25, 0.5)]))
        print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
    """
    assert run(code).split() == ["False", "False"]


@pytest.mark.parametrize("when", ["before", "within"])
def test_networks_that_are_compiled_are_traced_as_they_are(when: str) -> None:
    code = f"""
        import torch
        from torch import nn
        from autoprune import trace

        plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(144, 10))
        x = torch.zeros(2, 3, 10, 10)
        graph = trace(plain.eval(), x)

        class Within(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = plain

            def forward(self, x):
                return torch.compile(self.inner, backend="eager")(x)

        network = torch.compile(plain, backend="eager") if {when == "before"} else Within()
        again = trace(network.eval(), x)
        print(again.macs == graph.macs, [g.size for g in again.prunable] == [g.size for g in graph.prunable])
    """
    assert run(code).split() == ["True", "True"]
