"""The random networks: that they are what their descriptions say, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from modbp import _torchvision, networks, zoo
from modbp.errors import InputError
from modbp.networks import ResidualMLP, random_mlp, residual_mlp, resnet50


@pytest.fixture(scope="module")
def calibrated() -> Any:
    return resnet50(seed=1, calibrate=pictures())


def pictures() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# Fully connected networks


@pytest.mark.parametrize(("inputs", "outputs", "shape"), [(None, None, (6, 6)), (4, 3, (4, 3)), (1, 1, (1, 1))])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_an_mlp_is_the_product_that_it_should_be(
    depth: int, inputs: int | None, outputs: int | None, shape: tuple[int, int]
) -> None:
    network = random_mlp(6, depth, inputs, outputs, bias=0.3, seed=2).double()
    x = torch.rand(3, shape[0], dtype=torch.float64)
    h = x
    for i in range(depth):
        layer = network[2 * i]
        h = h @ layer.weight.T + layer.bias
        h = h.clamp(min=0) if i < depth - 1 else h
    assert torch.equal(network(x), h)
    assert h.shape == (3, shape[1])
    assert len(network) == 2 * depth - 1
    assert not network.training


def test_a_residual_mlp_is_the_sum_that_it_should_be() -> None:
    network = residual_mlp(width=6, blocks=3, inputs=4, outputs=2, bias=0.3, seed=2).double()
    x = torch.rand(3, 4, dtype=torch.float64)
    h = (x @ network.stem[0].weight.T + network.stem[0].bias).clamp(min=0)
    assert torch.equal(network.stem(x), h)
    for block in network.blocks:
        inner = (h @ block.first.weight.T + block.first.bias).clamp(min=0)
        h = (h + inner @ block.second.weight.T + block.second.bias).clamp(min=0)
    torch.testing.assert_close(network(x), h @ network.head.weight.T + network.head.bias)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("make", [lambda **o: random_mlp(8, 3, **o), lambda **o: residual_mlp(8, 2, **o)])
def test_a_seed_is_a_network_and_leaves_the_global_one_alone(make: Any) -> None:
    before = torch.get_rng_state()
    same = [zoo.fingerprint(make(seed=3)) for _ in range(2)]
    assert same[0] == same[1] != zoo.fingerprint(make(seed=4))
    assert torch.equal(torch.get_rng_state(), before)
    # Biases are a change of the network and not another network.
    plain, biased = make(seed=3).state_dict(), make(seed=3, bias=0.5).state_dict()
    for name in plain:
        if name.endswith("weight"):
            assert torch.equal(plain[name], biased[name])
        else:
            assert not plain[name].any()
            assert biased[name].any()


def within(found: float, expected: float, values: int) -> bool:
    """Return whether a mean of squares is within five of its standard errors, √(2 / values) of itself."""
    return abs(found / expected - 1) < 5 * math.sqrt(2 / values)


@pytest.mark.parametrize("fan_in", [64, 300])
def test_weights_and_biases_have_their_variances(fan_in: int) -> None:
    network = random_mlp(400, 2, inputs=fan_in, bias=0.7)
    for layer, n in ((network[0], fan_in), (network[2], 400)):
        weight = layer.weight.detach().double()
        assert within(float(weight.square().mean()), 2 / n, weight.numel())
        assert abs(float(weight.mean())) < 5 * math.sqrt(2 / n / weight.numel())
        assert within(float(layer.bias.detach().square().mean()), 0.49, 400)


@pytest.mark.parametrize("scale", [0.0, 0.25, 1.0])
def test_the_scale_is_that_of_the_second_layers_alone(scale: float) -> None:
    plain, scaled = residual_mlp(16, 2), residual_mlp(16, 2, branch_scale=scale)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(scaled.state_dict()[name], weight * (scale if "second" in name else 1.0))
    if scale == 0:  # then every block hands on its input
        x = torch.rand(2, 16)
        assert torch.equal(scaled.blocks(scaled.stem(x)), scaled.stem(x))


def growth(network: ResidualMLP) -> float:
    """Return the factor by which the mean square grows in a block, averaged over the blocks."""
    h = network.stem(torch.rand(64, 256, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        return float((network.blocks(h).square().mean() / h.square().mean()) ** (1 / len(network.blocks)))


def test_the_scale_decides_how_the_activations_grow() -> None:
    assert 1.7 < growth(residual_mlp()) < 2.5
    # ∏(1 + 2 / blocks) at most: no more than e² in all.
    assert growth(residual_mlp(blocks=32, branch_scale=32**-0.5)) ** 32 < math.exp(2)


# ResNet-50


def test_it_is_torchvisions_resnet50(calibrated: Any) -> None:
    with torch.device("meta"):
        theirs = _torchvision.torchvision().models.resnet50()
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in calibrated.state_dict().items()}
    assert shapes == {name: (tensor.shape, tensor.dtype) for name, tensor in theirs.state_dict().items()}
    assert not any(module.training for module in calibrated.modules())
    assert {m.momentum for m in calibrated.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert len(calibrated.categories) == 1000
    assert calibrated.source == "random (seed 1)"


def test_random_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    a, b = resnet50(seed=1), resnet50(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert zoo.fingerprint(a) == zoo.fingerprint(resnet50(seed=1)) != zoo.fingerprint(b)
    for name, module in a.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            assert within(float(weight.square().mean()), 2 / weight[0].numel(), weight.numel()), name
        elif isinstance(module, nn.BatchNorm2d):
            values = module.weight, module.bias, module.running_mean, module.running_var
            assert [set(v.tolist()) for v in values] == [{1.0}, {0.0}, {0.0}, {1.0}], name


def test_a_calibrated_batch_norm_standardizes_what_it_was_calibrated_with(calibrated: Any) -> None:
    found: dict[str, Tensor] = {}
    norms = {n: m for n, m in calibrated.named_modules() if isinstance(m, nn.BatchNorm2d)}
    hooks = [  # a copy: the ReLU behind it overwrites the output
        m.register_forward_hook(lambda *args, n=n: found.update({n: args[-1].detach().clone()}))
        for n, m in norms.items()
    ]
    with torch.no_grad():
        calibrated(pictures())
    for hook in hooks:
        hook.remove()
    assert len(found) == 53
    for name, y in found.items():
        values = y.transpose(0, 1).flatten(1).double()
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)).double(), atol=1e-4, rtol=0, msg=name)
        torch.testing.assert_close(
            values.var(1, correction=0), torch.ones(len(values)).double(), atol=0.01, rtol=0, msg=name
        )


def test_a_network_has_the_precision_of_what_calibrates_it(calibrated: Any) -> None:
    double = resnet50(seed=1, calibrate=pictures().double())
    with torch.no_grad():
        torch.testing.assert_close(double(pictures().double()).float(), calibrated(pictures()), rtol=1e-3, atol=1e-3)


def test_without_calibration_activations_grow(calibrated: Any) -> None:
    with torch.no_grad():
        raw, tamed = (n(pictures()).abs().mean() for n in (resnet50(seed=1), calibrated))
    assert raw > 10 * tamed


def test_imagenet_weights_are_checked_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = _torchvision.torchvision().models.ResNet50_Weights
    state = resnet50(seed=5).state_dict()
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **options: asked.append(options) or state)
    network = resnet50("imagenet")
    assert [call["check_hash"] for call in asked] == [True]
    assert network.source == "imagenet"
    assert zoo.fingerprint(network) == zoo.fingerprint(resnet50(seed=5))
    assert str(network.transform) == str(weights.IMAGENET1K_V1.transforms())


def test_no_network_to_download_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", fail)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError) as refused:
        resnet50("imagenet")
    message = str(refused.value)
    assert f"needs resnet50-0676ba61.pth, which is not in '{tmp_path / 'checkpoints'}'" in message
    assert "cannot be downloaded (Name or service not known)" in message
    assert "weights='random'" in message
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "resnet50-0676ba61.pth").write_bytes(b"noise")
    with pytest.raises(InputError, match=r"is damaged .*; delete it, so that it is downloaded again"):
        resnet50("imagenet")


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_mlp(0, 2), "width is 0; allowed are whole numbers from 1 upwards."),
        (lambda: random_mlp(4, 2.0), "depth is 2.0; allowed are whole numbers"),  # type: ignore[arg-type]
        (lambda: random_mlp(4, 2, inputs=0), "inputs is 0; allowed"),
        (lambda: random_mlp(4, 2, outputs=True), "outputs is True; allowed"),
        (lambda: random_mlp(4, 2, bias=-1.0), "bias is -1.0; allowed are finite numbers from 0 upwards."),
        (lambda: random_mlp(4, 2, seed=-1), "seed is -1; allowed are whole numbers from 0 to 2^63 - 1."),
        (lambda: residual_mlp(4, 0), "blocks is 0; allowed"),
        (lambda: residual_mlp(4, 2, branch_scale=math.inf), "branch_scale is inf; allowed"),
        (lambda: residual_mlp(4, 2, bias=math.nan), "bias is nan; allowed"),
        (lambda: resnet50("embedded"), "weights is 'embedded'; allowed are random, imagenet."),
        (lambda: resnet50(seed=0.5), "seed is 0.5; allowed"),  # type: ignore[arg-type]
        (lambda: resnet50("imagenet", calibrate=pictures()), "weights is 'imagenet' with inputs to calibrate; allowed"),
        (
            lambda: resnet50(calibrate=torch.rand(3, 64, 64)),
            "calibrate is torch.float32 of shape (3, 64, 64); allowed are",
        ),
        (
            lambda: resnet50(calibrate=torch.rand(1, 3, 32, 32)),
            "calibrate is torch.float32 of shape (1, 3, 32, 32); allowed",
        ),
        (
            lambda: resnet50(calibrate=torch.rand(0, 3, 64, 64)),
            "calibrate is torch.float32 of shape (0, 3, 64, 64); allowed",
        ),
        (
            lambda: resnet50(calibrate=torch.ones(2, 3, 64, 64).int()),
            "calibrate is torch.int32 of shape (2, 3, 64, 64)",
        ),
    ],
)
def test_bad_arguments_are_named_before_any_work(make: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_he_linear", None)  # so that work would fail in another way
    monkeypatch.setattr(networks, "draw_he_weights", None)
    with pytest.raises(InputError) as refused:
        make()
    assert str(refused.value).startswith(message)


def test_shuffled_weights_keep_the_numbers_and_lose_their_places() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, again, other = (networks.shuffled_weights(net, seed) for seed in (0, 0, 1))
    for name, value in before.items():
        assert torch.equal(net.state_dict()[name], value), "the model itself stays as it was"
        assert torch.equal(first.state_dict()[name], again.state_dict()[name])
        assert torch.equal(first.state_dict()[name].flatten().sort().values, value.flatten().sort().values)
        moved = not torch.equal(first.state_dict()[name], value)
        assert moved == (name in ("0.weight", "2.weight")), name
    assert not torch.equal(first[0].weight, other[0].weight)


# Average-pooling for max-pooling


def test_average_pooling_replaces_max_pooling_wherever_it_is_and_nothing_else() -> None:
    inner = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), inner).eval()
    x = pictures()
    before = model(x)
    averaged = networks.average_pooled(model)
    assert not any(isinstance(m, nn.MaxPool2d) for m in averaged.modules())
    assert not averaged.training
    h = nn.functional.avg_pool2d(model[1](model[0](x)), 2)
    h = nn.functional.avg_pool2d(inner[1](inner[0](h)), 3, 1, 1, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(averaged(x), h)
    torch.testing.assert_close(model(x), before)
    assert averaged[0].weight is not model[0].weight
    with pytest.raises(InputError, match=r"0 has dilation 2; allowed is 1"):
        networks.average_pooled(nn.Sequential(nn.MaxPool2d(2, dilation=2)))


# Partly loaded networks


@pytest.mark.parametrize("layer", [0, 3, 15])
def test_vgg16_gets_the_layers_that_it_is_said_to_get(layer: int) -> None:
    """Numbered as the papers do: thirteen convolutions, then three fully connected layers."""
    trained, fresh = zoo.load(weights="random", seed=1), zoo.load(weights="random", seed=2)
    kept = zoo.fingerprint(trained), zoo.fingerprint(fresh)
    for which, expected in {
        "first": [i <= layer for i in range(16)],
        "last": [i > layer for i in range(16)],
        "all_but_one": [i != layer for i in range(16)],
    }.items():
        mixed = networks.partly_loaded(trained, fresh, which, layer)
        layers = [networks.weighted_layers(n) for n in (mixed, trained, fresh)]
        assert len(layers[0]) == 16
        for is_trained, name in zip(expected, layers[0], strict=True):
            source = layers[1 if is_trained else 2][name]
            assert layers[0][name].weight is source.weight  # no copy of half a gigabyte
            assert layers[0][name].bias is source.bias
        assert not mixed.training
        assert mixed.categories == trained.categories
    assert (zoo.fingerprint(trained), zoo.fingerprint(fresh)) == kept


def test_no_layer_and_all_layers() -> None:
    trained, fresh = (random_mlp(width=5, depth=3, seed=s) for s in (1, 2))
    x = torch.randn(2, 5)
    torch.testing.assert_close(networks.partly_loaded(trained, fresh, "first", -1)(x), fresh(x))
    torch.testing.assert_close(networks.partly_loaded(trained, fresh, "first", 2)(x), trained(x))
    torch.testing.assert_close(networks.partly_loaded(trained, fresh, "last", 2)(x), fresh(x))


@pytest.mark.parametrize(
    ("which", "layer", "said"),
    [
        ("part", 0, "which is 'part'; allowed are first, last, all_but_one."),
        ("first", 3, "layer is 3; allowed for 'first' are whole numbers from -1 to 2."),
        ("last", -1, "layer is -1; allowed for 'last' are whole numbers from 0 to 2."),
        ("all_but_one", True, "layer is True; allowed"),
    ],
)
def test_no_such_layer(which: str, layer: int, said: str) -> None:
    trained, fresh = (random_mlp(width=5, depth=3, seed=s) for s in (1, 2))
    with pytest.raises(InputError) as caught:
        networks.partly_loaded(trained, fresh, which, layer)
    assert said in str(caught.value)


def test_two_architectures_cannot_be_mixed() -> None:
    with pytest.raises(InputError, match="allowed are two networks of one architecture"):
        networks.partly_loaded(random_mlp(width=5, depth=3), random_mlp(width=6, depth=3), "first", 0)
