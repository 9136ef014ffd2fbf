"""Candidates made one after another in one structure are those that slicing makes anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.applied import slim
from autoprune.deploy import deployed, foldable, folded_graph, lay_out
from autoprune.graph import LayerGraph
from autoprune.models import build_model
from autoprune.seeding import generator
from autoprune.skeleton import Skeleton
from autoprune.tracing import trace


class Odd(nn.Module):
    """Depthwise with a multiplier, tied weights, a norm that is not folded, concatenation, flatten into linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.late = nn.BatchNorm2d(24)
        self.mix = nn.Conv2d(24, 6, 1, bias=False)
        self.hidden = nn.Linear(6 * 16, 12)
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12)
        self.two.weight = self.one.weight
        self.out = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.a(x))
        x = torch.relu(self.late(torch.cat([a, self.depth(a)], 1)))
        x = torch.relu(self.hidden(nn.functional.avg_pool2d(self.mix(x), 2).flatten(1)))
        return self.out(torch.relu(self.two(torch.relu(self.one(x)))))


def network(name: str) -> tuple[nn.Module, LayerGraph, torch.Tensor]:
    model, size = (Odd(), 8) if name == "odd" else (build_model(name, width=0.25), 32)
    x = torch.randn(2, 3, size, size, generator=generator(0, name))
    return model.eval(), trace(model, x), x


def some(graph: LayerGraph, step: int) -> dict[str, torch.Tensor]:
    """Random subsets of random groups; at some steps a single unit of each stays."""
    draws, kept = generator(step, "kept"), {}
    for group in graph.prunable:
        if group.pattern == "input" or (step % 4 == 1 and torch.rand(1, generator=draws) < 0.5):
            continue
        most = 1 if step % 4 == 3 else int(torch.randint(1, group.size + 1, (1,), generator=draws))
        kept[group.name] = torch.randperm(group.size, generator=draws)[:most].sort().values
    return kept


def sizes(module: nn.Module) -> list[dict[str, object]]:
    return [{k: v for k, v in vars(m).items() if isinstance(v, int | tuple)} for m in module.modules()]


@pytest.mark.parametrize("name", ["odd", "mobilenet_v2", "resnet20"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_candidate_is_the_one_that_slicing_makes(name, dtype):
    model, graph, x = network(name)
    norms = foldable(model, graph.norms)
    base, folded = deployed(model, norms, dtype=dtype), folded_graph(graph, norms)
    before = {key: (id(t), t.clone()) for key, t in base.state_dict(keep_vars=True).items()}
    skeleton = Skeleton(base, folded)
    for step in range(9):
        kept = {} if step == 5 else some(graph, step)
        assert skeleton.fits(kept)
        quick = skeleton.candidate(kept)
        anew = slim(base, folded, kept, share=True)
        lay_out(anew)
        here, there = quick.state_dict(), anew.state_dict()
        assert here.keys() == there.keys()
        for key, tensor in here.items():
            assert torch.equal(tensor, there[key]), key
            assert tensor.stride() == there[key].stride()
        assert sizes(quick) == sizes(anew)
        with torch.inference_mode():
            assert torch.equal(quick(x.to(dtype)), anew(x.to(dtype)))
    for key, tensor in base.state_dict(keep_vars=True).items():
        assert id(tensor) == before[key][0]
        assert torch.equal(tensor, before[key][1])


def some_masks(
    base: nn.Module, folded: LayerGraph, kept: dict[str, torch.Tensor], step: int
) -> dict[str, torch.Tensor]:
    """Masks of every second layer's weights, in the shapes that these have once they are cut."""
    draws, small = generator(step, "masks"), dict(slim(base, folded, kept).named_parameters())
    names = [str(folded.layers[layer].weight) for layer in folded.weight_layers[step % 2 :: 2]]
    return {name: torch.rand(small[name].shape, generator=draws) < 0.7 for name in names}


@pytest.mark.parametrize("name", ["odd", "resnet20"])
def test_masked_weights_are_zero_wherever_they_hang(name):
    model, graph, x = network(name)
    norms = foldable(model, graph.norms)
    base, folded = deployed(model, norms), folded_graph(graph, norms)
    skeleton = Skeleton(base, folded)
    for step in range(4):
        kept = {} if step == 2 else some(graph, step)
        masks = some_masks(base, folded, kept, step)
        anew = slim(base, folded, kept)
        with torch.no_grad():
            for key, mask in masks.items():
                anew.get_parameter(key).mul_(mask)  # in place: a tied layer sees it too
        quick = skeleton.candidate(kept, masks)
        for key, tensor in quick.state_dict().items():
            assert torch.equal(tensor, anew.state_dict()[key]), key
        if name == "odd":
            assert quick.one.weight is quick.two.weight
        lay_out(anew)
        with torch.inference_mode():
            assert torch.equal(quick(x), anew(x))


def test_what_depends_on_the_same_is_made_once():
    model, graph, _ = network("odd")
    skeleton, known = Skeleton(model, graph), {}
    kept = {"a": torch.tensor([0, 2]), "hidden": torch.tensor([1])}
    one = skeleton.tensors(kept, keys=range(len(skeleton.cuts)), known=known)
    two = skeleton.tensors(kept, keys=range(len(skeleton.cuts)), known=known)
    assert all(a is b for a, b in zip(one, two, strict=True))
    other = skeleton.tensors({"a": torch.tensor([1])}, keys=["b"] * len(skeleton.cuts), known=known)
    apart = Skeleton(model, graph).candidate({"a": torch.tensor([1])}).state_dict()
    for key, tensor in skeleton.put(other).state_dict().items():
        assert torch.equal(tensor, apart[key])


def test_layers_that_select_inputs_are_left_to_slicing():
    model, graph, _ = network("odd")
    skeleton = Skeleton(model, graph)
    assert not skeleton.fits({"input": torch.tensor([0, 2])})
    assert skeleton.fits({"a": torch.tensor([0, 2])})
