from __future__ import annotations

import copy
import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.data import DataSplits, Split
from autoprune.errors import MissingExtraError, ModelError, UnknownNameError
from autoprune.models import MODELS, build_model, default_options

# parameters and multiply-accumulates for one sample, counted by hand from the papers' tables
GOLDEN = {
    "lenet300_100": ((1, 28, 28), 266_610, 266_200),
    "lenet5": ((1, 28, 28), 431_080, 2_293_000),
    "resnet20": ((3, 32, 32), 272_474, 40_813_184),
    "resnet32": ((3, 32, 32), 466_906, 69_124_736),
    "resnet56": ((3, 32, 32), 855_770, 125_747_840),
    "resnet110": ((3, 32, 32), 1_730_714, 253_149_824),
    "vgg16_bn": ((3, 32, 32), 14_724_042, 313_201_664),
    "mobilenet_v1": ((3, 32, 32), 3_217_226, 46_354_432),
    "mobilenet_v2": ((3, 32, 32), 2_236_682, 87_976_448),
}


def count(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


def splits(shape: tuple[int, ...], classes: int = 7) -> DataSplits:
    split = Split(torch.rand(16, *shape), torch.arange(16) % classes)
    return DataSplits("synthetic", split, split, split, split, num_classes=classes)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_sizes(name: str) -> None:
    shape, params, macs = GOLDEN[name]
    assert count(build_model(name), shape) == (params, macs)


def test_resnet20_by_hand() -> None:
    stem = 3 * 16 * 9 + 32
    stages = sum(
        (inputs * c + c * c) * 9 + 2 * 2 * c + (inputs * c + 2 * c if inputs != c else 0)
        for c, pairs in ((16, (16, 16, 16)), (32, (16, 32, 32)), (64, (32, 64, 64)))
        for inputs in pairs
    )
    assert stem + stages + 64 * 10 + 10 == GOLDEN["resnet20"][1]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_fits_data_and_is_made_again_from_its_options(name: str) -> None:
    data = splits((1, 8, 8) if name in ("digits_cnn", "mlp", "lenet300_100") else (3, 32, 32))
    options = default_options(name, data)
    if "width" in inspect.signature(MODELS[name]).parameters:
        options["width"] = 0.25
    module = build_model(name, **options).eval()
    assert module(data.example(2)).shape == (2, 7)
    again = build_model(name, **options)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in module.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v1", "mobilenet_v2", "digits_cnn"])
def test_width_scales_parameters_about_quadratically(name: str) -> None:
    full, half = (sum(p.numel() for p in build_model(name, width=w).parameters()) for w in (1.0, 0.5))
    assert 0.2 < half / full < 0.5


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet20", (3, 32, 32)), ("mobilenet_v2", (3, 16, 16)), ("lenet5", (1, 28, 28))]
)
def test_every_parameter_gets_a_gradient(name: str, shape: tuple[int, ...]) -> None:
    module = build_model(name, **({} if name == "lenet5" else {"width": 0.5}))
    module(torch.randn(4, *shape)).square().sum().backward()
    for place, parameter in module.named_parameters():
        assert parameter.grad is not None, place
        assert parameter.grad.abs().sum() > 0, place


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"width": 0}, r"width must be a number above 0, but got 0"),
        ("resnet20", {"width": float("nan")}, r"width must be a number above 0, but got nan"),
        ("resnet", {"depth": 21}, r"depth of a resnet must be 6n \+ 2 .* but got 21"),
        ("vgg16_bn", {"input_shape": [1, 28, 28]}, r"vgg16_bn needs images of at least 32x32 pixels"),
        ("lenet5", {"input_shape": [64]}, r"lenet5 takes images \(channels, height, width\)"),
        ("mlp", {"hidden": [8, 0]}, r"every width of an mlp must be at least 1"),
        ("mlp", {"dropout": 1.0}, r"dropout of an mlp must be in \[0, 1\), but got 1.0"),
        ("mlp", {"depth": 3}, r"cannot be called with options \['depth'\].*signature"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet2", r"unknown model 'resnet2'; did you mean .*'resnet20'"),
        ("nothing", r"unknown model 'nothing'.*known:"),
    ],
)
def test_unknown_names_come_with_near_misses(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        build_model(name)


def test_unknown_activation_has_near_misses() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'relu'"):
        build_model("mlp", activation="rellu")


USER_MODULE = """
import torch

def good(num_classes=10, input_shape=(4,), extra=1):
    from besides import WIDTH
    return torch.nn.Sequential(torch.nn.Linear(input_shape[0], WIDTH), torch.nn.Linear(WIDTH, num_classes))

def needs(size):
    return torch.nn.Linear(size, 2)

def wrong():
    return 3

def broken():
    raise ValueError("no such luck")

class Net(torch.nn.Linear):
    def __init__(self, in_features=4, num_classes=2):
        super().__init__(in_features, num_classes)

instance = torch.nn.Linear(2, 2)
number = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text(USER_MODULE)
    (tmp_path / "besides.py").write_text("WIDTH = 6")
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "needs_other.py").write_text("import not_installed_anywhere")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("mynets", "besides", "raises", "needs_other"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("user_module")
def test_a_users_factory_is_found_in_the_working_folder() -> None:
    path = copy.copy(sys.path)
    options = default_options("mynets:good", splits((5,)))
    assert options == {"num_classes": 7, "input_shape": [5]}
    assert build_model("mynets:good", **options)(torch.zeros(2, 5)).shape == (2, 7)
    assert default_options("mynets:Net", splits((5,))) == {"num_classes": 7, "in_features": 5}
    assert isinstance(build_model("mynets:Net"), nn.Linear)
    assert sys.path == path


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mynet:good", r"no module named 'mynet'; run from the folder that holds it"),
        ("mynets:god", r"unknown attribute 'god'; did you mean 'good'"),
        ("mynets:", r"named 'package.module:function', but got 'mynets:'"),
        ("my nets:good", r"named 'package.module:function'"),
        ("mynets:needs", r"cannot be called with options \[\]: missing a required argument: 'size'; .*\(size\)"),
        ("mynets:wrong", r"must return a torch.nn.Module, but returned int"),
        ("mynets:broken", r"raised ValueError: no such luck \(.*mynets.py:\d+\)"),
        ("mynets:instance", r"is a network; name a function that makes it"),
        ("mynets:number", r"must be a function, but is a int"),
        ("raises:x", r"importing model module 'raises' failed: ZeroDivisionError: division by zero \(.*raises.py:1\)"),
        ("needs_other:x", r"importing model module 'needs_other' failed: it needs 'not_installed_anywhere'"),
    ],
)
def test_what_is_wrong_with_a_users_factory_is_told(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name)


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{library}'; .*: pip install {library}"):
        build_model(f"{library}:resnet18")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_names_of_installed_libraries(library: str) -> None:
    pytest.importorskip(library)
    data = splits((3, 64, 64))
    module = build_model(f"{library}:resnet18", **default_options(f"{library}:resnet18", data)).eval()
    assert module(data.example(2)).shape == (2, 7)
    with pytest.raises(UnknownNameError, match=rf"unknown {library} model 'resnet181'; did you mean 'resnet18'"):
        build_model(f"{library}:resnet181")


def test_a_library_that_cannot_be_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('built for another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(ModelError, match="importing timm failed: RuntimeError: built for another torch; reinstall it"):
        build_model("timm:resnet18")


def test_transformers_from_a_configuration() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UnknownNameError, match=r"did you mean .*'resnet'"):
        build_model("transformers:resnets")
    data = splits((3, 32, 32))
    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    options = default_options("transformers:ResNetConfig", data)
    module = build_model("transformers:ResNetConfig", **options, **small).eval()
    assert module(data.example(2)).shape == (2, 7)
    assert build_model("transformers:resnet", num_labels=3, **small).eval()(data.example(2)).shape == (2, 3)
