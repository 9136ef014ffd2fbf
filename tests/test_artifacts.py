from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autoprune.applied import slim
from autoprune.artifacts import (
    MODEL_JSON,
    MODEL_TENSORS,
    NetworkSpec,
    load,
    named_tensors,
    network_digest,
    read_network,
    save_network,
)
from autoprune.errors import ArtifactError, ModelError, UnknownNameError
from autoprune.models import build_model
from autoprune.plan import LayerDecision, Pattern, Plan
from autoprune.tracing import trace

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = NetworkSpec("digits_cnn", {"width": 0.5})
EXAMPLE = torch.randn(3, 1, 8, 8)


def pruned(name: str, shape: tuple[int, ...], every: int = 3, **options: object) -> nn.Module:
    """Every third unit of every group is gone."""
    module = build_model(name, **options).eval()
    graph = trace(module, torch.randn(2, *shape))
    kept = {g.name: torch.tensor([u for u in range(g.size) if u % every]) for g in graph.prunable if g.size > 1}
    return slim(module, graph, kept).eval()


def test_round_trip_of_a_dense_network(tmp_path: Path) -> None:
    module = SPEC.build().eval()
    plan = Plan((LayerDecision("conv1.0", "l1_norm", Pattern.CHANNEL, 0.5),))
    digest = save_network(
        tmp_path, module, SPEC, data={"name": "digits"}, metrics={"accuracy": 0.5}, plan=plan, attributes={}
    )
    stored = read_network(tmp_path)
    assert (stored.spec, stored.plan, stored.metrics, stored.data) == (
        SPEC,
        plan,
        {"accuracy": 0.5},
        {"name": "digits"},
    )
    assert stored.digest == digest == network_digest(module) == network_digest(load(tmp_path))
    again = load(tmp_path)
    assert not any(m.training for m in again.modules())
    assert torch.equal(again(EXAMPLE), module(EXAMPLE))


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("digits_cnn", (1, 8, 8), {}),
        ("mlp", (64,), {}),
        ("lenet5", (1, 28, 28), {}),
        ("resnet", (3, 16, 16), {"depth": 8, "width": 0.5}),
        ("mobilenet_v1", (3, 16, 16), {"width": 0.125}),
    ],
)
def test_round_trip_of_a_pruned_network(
    tmp_path: Path, name: str, shape: tuple[int, ...], options: dict[str, object]
) -> None:
    module = pruned(name, shape, **options)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (module, build_model(name, **options))]
    assert sizes[0] < sizes[1]
    save_network(tmp_path, module, NetworkSpec(name, dict(options)))
    again = load(tmp_path)
    x = torch.randn(2, *shape)
    assert torch.equal(again(x), module(x))
    assert network_digest(again) == network_digest(module)
    assert repr(again) == repr(module)
    (again(x).square().sum()).backward()  # it can be trained on
    assert all(p.grad is not None for p in again.parameters())


def test_round_trip_in_a_fresh_process(tmp_path: Path) -> None:
    module = pruned("mlp", (64,))
    save_network(tmp_path, module, NetworkSpec("mlp"))
    x = torch.arange(128, dtype=torch.float32).view(2, 64) / 64
    code = (
        "import sys, json, torch, autoprune;"
        "x = torch.arange(128, dtype=torch.float32).view(2, 64) / 64;"
        "print(json.dumps(autoprune.load(sys.argv[1])(x).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), module(x), atol=1e-6)


def test_a_bias_that_a_repair_added_comes_back(tmp_path: Path) -> None:
    module = pruned("resnet", (3, 16, 16), depth=8)
    module.conv1.register_parameter("bias", nn.Parameter(torch.randn(module.conv1.out_channels)))
    save_network(tmp_path, module, NetworkSpec("resnet", {"depth": 8}))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(load(tmp_path)(x), module(x))


class Tied(nn.Module):
    """Two names for one weight, a buffer that torch does not save, float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)) * self.scale)
        return out


def test_tied_weights_types_and_unsaved_buffers_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiednet.py").write_text(f"from {__name__} import Tied as make\n")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)
    module = Tied().double().eval()
    module.scale.fill_(0.5)
    assert list(named_tensors(module)) == ["first.weight", "second.bias", "scale"]
    save_network(tmp_path / "net", module, NetworkSpec("tiednet:make"))
    again = load(tmp_path / "net")
    x = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(again(x), module(x))
    assert again.first.weight is again.second.weight
    del sys.modules["tiednet"]


def stored(folder: Path) -> Path:
    save_network(folder, SPEC.build(), SPEC, metrics={"accuracy": 1.0})
    return folder


def edit(folder: Path, **values: object) -> None:
    path = folder / MODEL_JSON
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_truncated_or_changed_file_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path) / MODEL_TENSORS
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="is not a whole safetensors file"):
            load(tmp_path)
    changed = bytearray(whole)
    changed[-5] ^= 1
    path.write_bytes(bytes(changed))
    with pytest.raises(ArtifactError, match=r"SHA-256 differs\): it was changed, or a save was cut short"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*No such file"):
        load(tmp_path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    torch.save(SPEC.build().state_dict(), stored(tmp_path) / MODEL_TENSORS)
    with pytest.raises(ArtifactError, match="is not a whole safetensors file"):
        load(tmp_path)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    other = build_model("mlp")
    save_file(other.state_dict(), stored(tmp_path) / MODEL_TENSORS)
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        load(tmp_path)
    edit(tmp_path, digest=network_digest(other))
    with pytest.raises(ArtifactError, match=r"does not fit 'digits_cnn': the network holds no tensor 'fc3.bias'"):
        load(tmp_path)


def test_descriptions_that_are_wrong_are_refused(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    text = (folder / MODEL_JSON).read_text()
    cases = [
        ({"version": 9}, "has version 9, but this release reads version 1"),
        ({"format": "other"}, "does not describe a stored network"),
        ({"options": []}, "field 'options' is missing or not what it must be"),
        ({"plan": {"version": 7}}, "this plan has version 7"),
    ]
    for values, message in cases:
        (folder / MODEL_JSON).write_text(text)
        edit(folder, **values)
        with pytest.raises(ArtifactError, match=message):
            load(folder)
    (folder / MODEL_JSON).write_text(text)
    edit(folder, factory="digit_cnn")
    with pytest.raises(UnknownNameError, match="did you mean 'digits_cnn'"):
        load(folder)
    edit(folder, factory="digits_cnn", options={"width": -1})
    with pytest.raises(ModelError, match="width must be a number above 0"):
        load(folder)
    for bad in (text[:-20], "", "[1]", "\x00"):
        (folder / MODEL_JSON).write_text(bad)
        with pytest.raises(ArtifactError, match=r"is not JSON|does not describe"):
            load(folder)


def test_folders_without_a_network_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no folder '.*nowhere'"):
        load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"model.json is missing\); 'autoprune train' makes one"):
        load(tmp_path)
    stored(tmp_path / "best")
    with pytest.raises(ArtifactError, match=r"did you mean '.*best'"):
        load(tmp_path)


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for value in (torch.tensor(1.0), float("nan"), object()):
        with pytest.raises(ArtifactError, match="what describes a network must be JSON"):
            save_network(tmp_path / "net", SPEC.build(), SPEC, metrics={"accuracy": value})
    assert not (tmp_path / "net").exists()


def test_options_are_what_json_keeps() -> None:
    assert NetworkSpec("mlp", {"hidden": (3, 4)}) == NetworkSpec("mlp", {"hidden": [3, 4]})
    with pytest.raises(ModelError, match=r"options of 'mlp' must be JSON values, so that they can be stored"):
        NetworkSpec("mlp", {"activation": nn.ReLU()})


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot write .*choose another folder"):
        save_network(tmp_path / "file" / "net", SPEC.build(), SPEC)


def test_an_interrupted_overwrite_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("autoprune.artifacts.write_text", die)
        with pytest.raises(KeyboardInterrupt):
            stored(tmp_path)
    with pytest.raises(ArtifactError, match="a save was cut short; save the network again"):
        load(tmp_path)


def test_digest_sees_values_names_types_and_not_layout() -> None:
    module = SPEC.build()
    digest = network_digest(module)
    assert network_digest(module.to(memory_format=torch.channels_last)) == digest
    with torch.no_grad():
        module.fc2.bias[3] += 1e-6
    assert network_digest(module) != digest
    one, two = nn.Linear(2, 3), nn.Linear(3, 2)
    with torch.no_grad():
        two.weight.copy_(one.weight.view(2, 3))
    assert network_digest(nn.Sequential(one)) != network_digest(nn.ModuleDict({"1": one}))
