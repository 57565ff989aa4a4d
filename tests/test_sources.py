"""Networks and methods that a command line names."""

from __future__ import annotations

import sys
from pathlib import Path

import captum.attr
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modbp import METHODS, InputError, sources, zoo

MODULE = """
import torch
from torch import nn
from lazily import WIDTH  # a neighbor in the same folder

def small():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))

def with_transform():
    return small(), lambda image: torch.zeros(3, 2, 2)

def training():
    return small().train()

def nothing():
    return 5

def fails():
    raise OSError("no file.\\nMore.")

def breaks(model, inputs, target):
    raise RuntimeError

def picture(model, inputs, target):
    return inputs

NUMBER = 5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_networks.py").write_text(MODULE)
    (tmp_path / "lazily.py").write_text("WIDTH = 5\n")
    (tmp_path / "broken_networks.py").write_text("raise RuntimeError('no such luck.')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name in ("own_networks", "lazily", "broken_networks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_factory_in_the_working_folder(own: Path) -> None:
    found = sources.network("own_networks:small")
    assert found.source == "own_networks:small"
    assert found.categories is None
    from PIL import Image

    assert found.transform(Image.new("RGB", (300, 260))).shape == (3, 224, 224), "ImageNet's, where there is none"
    assert sources.network("own_networks:with_transform").transform(None).shape == (3, 2, 2)
    # That transform is a module, and must not become a layer.
    assert found(torch.zeros(1, 3, 2, 2)).shape == (1, 3)
    assert [type(layer).__name__ for layer in found] == ["Flatten", "Linear", "ReLU", "Linear"]
    assert not sources.network("own_networks:training").training


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_goes_into_a_factory(own: Path, suffix: str) -> None:
    other = sources.network("own_networks:small")
    state = {name: torch.full_like(value, 0.5) for name, value in other.state_dict().items()}
    path = own / f"state{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    found = sources.network("own_networks:small", path)
    assert all(torch.equal(value, torch.full_like(value, 0.5)) for value in found.state_dict().values())
    assert found.source == f"own_networks:small, {path}"


def test_a_pickle_that_would_run_code_is_refused(own: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (own / "ran",))  # type: ignore[return-value]

    torch.save({"a": Harmful()}, own / "state.pt")
    with pytest.raises(InputError, match="cannot be read"):
        sources.network("own_networks:small", own / "state.pt")
    assert not (own / "ran").exists()


def test_a_network_of_torchvision_is_its_seed(own: Path) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (sources.network("torchvision:squeezenet1_1", "random", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers go on as before"
    assert zoo.fingerprint(first) == zoo.fingerprint(again) != zoo.fingerprint(other)
    torch.save(other.state_dict(), own / "other.pth")
    assert zoo.fingerprint(sources.network("torchvision:squeezenet1_1", own / "other.pth")) == zoo.fingerprint(other)


def test_without_a_network_connection_the_message_says_what_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: (_ for _ in ()).throw(OSError("down")))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", torch.hub.load_state_dict_from_url)
    with pytest.raises(InputError, match=r"needs squeezenet1_1-.*weights='random'"):
        sources.network("torchvision:squeezenet1_1")


def test_the_zoo_and_a_state_dict_of_its_network(tmp_path: Path) -> None:
    random = sources.network("vgg16", "random", seed=2)
    assert random.source == "vgg16, random (seed 2)"
    torch.save(random.state_dict(), tmp_path / "vgg.pth")
    found = sources.network(str(tmp_path / "vgg.pth"))
    assert zoo.fingerprint(found) == zoo.fingerprint(random)
    assert found.source == f"vgg16, {tmp_path / 'vgg.pth'}"


def test_efficientnet_by_its_name(tmp_path: Path) -> None:
    found = sources.network("efficientnet_lite0")
    assert found.source == "efficientnet_lite0, embedded"
    assert len(found.categories) == 1000
    torch.save(found.state_dict(), tmp_path / "lite.pth")
    again = sources.network("efficientnet_lite0", tmp_path / "lite.pth")
    assert zoo.fingerprint(again) == zoo.fingerprint(found)
    assert again.source == f"efficientnet_lite0, {tmp_path / 'lite.pth'}"


@pytest.mark.parametrize(
    ("spec", "weights", "said"),
    [
        ("", None, "the network is ''"),
        ("vgg61", None, r"did you mean vgg16\?"),
        ("torchvision:resnet81", None, r"did you mean resnet18 or"),
        ("torchvision:fasterrcnn_resnet50_fpn", None, "is unknown"),
        ("no_such_package.networks:small", None, "a module 'no_such_package.networks' that does not exist"),
        ("own_networks:smal", None, r"did you mean small\?"),
        ("own_networks:NUMBER", None, "of type int"),
        ("own_networks:nothing", None, "returned a int"),
        ("own_networks:fails", None, r"cannot be made \(OSError: no file\)"),
        ("broken_networks:small", None, r"cannot be imported \(RuntimeError: no such luck\);"),
        ("own_networks:small", "random", "allowed is the path of a state dict"),
        ("own_networks:small", "lazily.py", "cannot be read"),
        ("torchvision:resnet18", "embedded", "allowed are imagenet, random, and the path"),
        ("efficientnet_lite0", "imagenet", "allowed are embedded, random, and the path"),
        ("vgg16", "nowhere.pt", "allowed are embedded, imagenet, random, and the path"),
        ("nowhere.pt", None, "there is no such file"),
    ],
)
def test_what_is_no_network_is_refused_in_one_sentence(own: Path, spec: str, weights: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        sources.network(spec, weights)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_name_the_parameter(own: Path) -> None:
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(12, 7)).state_dict(), own / "state.pt")
    with pytest.raises(InputError, match=r"state.pt' do not fit own_networks:small: .*3\.weight"):
        sources.network("own_networks:small", own / "state.pt")


def test_methods_by_name(own: Path) -> None:
    assert sources.method("lrp_zplus") == "lrp_zplus"
    assert sources.method("captum:IntegratedGradients") is captum.attr.IntegratedGradients
    x = torch.ones(1, 3)
    assert sources.method("own_networks:picture")(None, x, 0) is x


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gradeint", r"did you mean gradient\?"),
        ("captum:Salency", r"did you mean Saliency\?"),
        ("captum:LayerGradCam", "is unknown"),
        ("own_networks:pictures", r"did you mean picture\?"),
        ("no_such_package:f", "does not exist"),
    ],
)
def test_what_is_no_method_is_refused(own: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sources.method(name)


def test_every_class_of_captum_that_is_offered_explains_a_network() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.rand(2, 4, generator=torch.manual_seed(0))
    for name, method in sources.captum_classes().items():
        assert method(net).attribute(x, target=1).shape == x.shape, name  # type: ignore[call-arg]
    assert set(METHODS).isdisjoint(sources.captum_classes())
