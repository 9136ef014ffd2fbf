"""Networks of the transformers library, from random configurations: pruned right, or left whole with a reason."""

from __future__ import annotations

import os
import time

import pytest
import torch
from torch import nn

from autoprune import trace
from autoprune.applied import masked, slim
from autoprune.graph import LayerGraph

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
TOKENS = {"input_ids": torch.arange(14).reshape(2, 7)}
HIDDEN = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}

# name -> (model, configuration, its settings, example, prunable groups, reason of what stays whole)
CASES = {
    "ResNet": ("ResNetForImageClassification", "ResNetConfig", {"embedding_size": 8, **STAGES}, IMAGES, 13, "output"),
    "MobileNetV2": (
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"image_size": 32, "depth_multiplier": 0.35},
        IMAGES,
        25,
        "fixed size",
    ),
    "ConvNeXt": ("ConvNextForImageClassification", "ConvNextConfig", STAGES, IMAGES, 5, "statistics over all channels"),
    "ViT": (
        "ViTForImageClassification",
        "ViTConfig",
        {"num_hidden_layers": 2, "image_size": 32, "patch_size": 8, **HIDDEN},
        IMAGES,
        3,
        "heads are left whole",
    ),
    "BERT": (
        "BertForSequenceClassification",
        "BertConfig",
        {"vocab_size": 100, "num_hidden_layers": 2, **HIDDEN},
        TOKENS,
        3,
        "heads are left whole",
    ),
    "Llama with grouped queries": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {"vocab_size": 100, "num_hidden_layers": 1, "num_key_value_heads": 2, **HIDDEN},
        TOKENS,
        1,
        "heads are left whole",
    ),
    "GPT-2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 100, "n_embd": 32, "n_layer": 1, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
        TOKENS,
        1,
        "statistics over all channels",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_random_configuration(name: str) -> None:
    kind, config, options, example, prunable, reason = CASES[name]
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    started = time.monotonic()
    graph = trace(model, example)
    assert time.monotonic() - started < 30
    assert len(graph.prunable) == prunable, graph.notes
    assert any(reason in note for note in graph.notes), graph.notes
    assert graph.params == sum(p.numel() for p in model.parameters())
    assert agree(model.double(), graph, example) < 1e-5


def agree(model: nn.Module, graph: LayerGraph, example: dict[str, torch.Tensor]) -> float:
    """Largest difference of the logits between removing and masking the first half of every group."""
    kept = {g.name: torch.arange(g.size // 2, g.size) for g in graph.prunable}
    example = {k: v.double() if v.is_floating_point() else v for k, v in example.items()}
    with torch.no_grad():
        small = slim(model, graph, kept)(**example).logits
        zeroed = masked(model, graph, kept)(**example).logits
    return float((small - zeroed).abs().max())
