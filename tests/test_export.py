from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autoprune.applied import slim
from autoprune.errors import ArtifactError, MissingExtraError, ModelError, UnknownNameError
from autoprune.export import FORMATS, export_network
from autoprune.models import build_model
from autoprune.tracing import trace


def halved(name: str, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    module = build_model(name).eval()
    x = torch.randn(2, *shape)
    graph = trace(module, x)
    return slim(module, graph, {g.name: torch.arange(0, g.size, 2) for g in graph.prunable}), x


@pytest.mark.parametrize("name", ["digits_cnn", "mlp"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_pruned_network_comes_out_with_equal_outputs(tmp_path: Path, name: str, format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    module, x = halved(name, (1, 8, 8) if name == "digits_cnn" else (64,))
    module.train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    exported = export_network(module, x, tmp_path, format)
    assert exported.path.is_file()
    assert exported.difference <= 1e-4
    assert exported.any_batch
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert list(tmp_path.iterdir()) == [exported.path]


def test_onnx_in_a_fresh_process_at_another_batch_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    module, x = halved("digits_cnn", (1, 8, 8))
    path = export_network(module, x, tmp_path, "onnx").path
    code = (
        "import sys, numpy, onnxruntime;"
        "s = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']);"
        "x = numpy.arange(320, dtype=numpy.float32).reshape(5, 1, 8, 8) / 320;"
        "numpy.save(sys.argv[2], s.run(None, {s.get_inputs()[0].name: x})[0], allow_pickle=False)"
    )
    out = tmp_path / "out.npy"
    subprocess.run([sys.executable, "-c", code, str(path), str(out)], check=True, capture_output=True)
    import numpy as np

    wanted = module.eval()(torch.arange(320, dtype=torch.float32).view(5, 1, 8, 8) / 320).detach().numpy()
    np.testing.assert_allclose(np.load(out), wanted, atol=1e-4)


def test_torch_file_runs_after_reading_at_another_batch_size(tmp_path: Path) -> None:
    module, x = halved("mlp", (64,))
    again = torch.export.load(export_network(module, x[:1], tmp_path, "torch").path).module()
    more = torch.randn(9, 64)
    assert torch.allclose(again(more), module(more), atol=1e-6)


def test_safetensors_hold_every_tensor(tmp_path: Path) -> None:
    module, x = halved("digits_cnn", (1, 8, 8))
    tensors = load_file(export_network(module, x, tmp_path, "safetensors").path)
    assert all(torch.equal(tensors[name], value) for name, value in module.state_dict().items())


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": self.fc(a) + b, "b": b * 2}


@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("kind", ["mapping", "tuple"])
def test_several_inputs_and_outputs(tmp_path: Path, format: str, kind: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    a, b = torch.randn(2, 4), torch.randn(2, 3)
    example = {"a": a, "b": b} if kind == "mapping" else (a, b)
    assert export_network(Named(), example, tmp_path, format).any_batch


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x).view(2, 3)
        return out


def test_a_network_of_one_batch_size_is_exported_for_that_one(tmp_path: Path) -> None:
    assert not export_network(FixedBatch(), torch.randn(2, 4), tmp_path, "torch").any_batch


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch.export cannot take the network: \w+"):
        export_network(Branching(), torch.randn(2, 4), tmp_path, "torch")
    with pytest.raises(UnknownNameError, match="unknown export format 'onx'; did you mean 'onnx'"):
        export_network(Named(), torch.randn(2, 4), tmp_path, "onx")
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_outputs_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = torch.export.export(nn.Sequential(nn.Linear(4, 3)), (torch.randn(2, 4),))
    monkeypatch.setattr("autoprune.export.torch.export.load", lambda path: wrong)
    with pytest.raises(ArtifactError, match=r"outputs of model.pt2 differ from the network's by \d.*more than 0.0001"):
        export_network(FixedBatch(), torch.randn(2, 4), tmp_path, "torch")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'autoprune\[export\]'"):
        export_network(Named(), torch.randn(2, 4), tmp_path, "onnx")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        export_network(FixedBatch(), torch.randn(2, 4), tmp_path / "file" / "x", "safetensors")
