"""Patterns: a known signal is found, the estimator against its formula in NumPy, and both methods that use patterns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import modbp
from modbp.backward import Trace
from modbp.composite import Composite
from modbp.metrics import relative_difference
from modbp.patterns import PatternEstimator, fit
from modbp.rules import Transposed

# A linear model with a known signal: x = y a + distractor, with w · a = 1 and w · distractor = 0.


def known_signal(samples: int, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor, Tensor, Tensor]:
    """Return a model, the signal's direction a, samples, their y, and the covariance of y and the distractor."""
    torch.manual_seed(seed)
    net = nn.Linear(6, 1).double()
    w = net.weight.data[0]
    a = torch.randn(6).double()
    a = a / (w @ a)
    basis = torch.linalg.svd(w[None], full_matrices=True).Vh[1:]  # all that w cancels
    y, distractor = torch.randn(samples).double() + 0.7, torch.randn(samples, 5).double() @ basis * 2
    x = y[:, None] * a + distractor
    assert torch.allclose(x @ w, y, atol=1e-12)
    between = ((y - y.mean())[:, None] * distractor).mean(0)
    return net, a, x, y, between / (y - y.mean()).square().mean()


def test_the_pattern_of_a_linear_model_is_the_signal() -> None:
    net, a, x, y, sampling_error = known_signal(4000)
    found = fit(net, x)[""][0]
    covariance = np.cov(np.concatenate([x.numpy(), y.numpy()[:, None]], 1).T, bias=True)
    assert np.abs(found.numpy() - covariance[:6, 6] / covariance[6, 6]).max() < 1e-12
    assert torch.allclose(found, a + sampling_error, rtol=0, atol=1e-12)  # nothing but the sample's own correlation
    assert (found - a).abs().max() < 5 * 2 / 4000**0.5


def test_both_methods_on_a_linear_model_with_a_known_signal() -> None:
    net, a, x, _, _ = known_signal(50)
    signal = modbp.make("pattern_net", net, patterns={"": a[None]})
    share = modbp.make("pattern_attribution", net, patterns={"": a[None]})
    logit = net(x).detach()
    assert torch.allclose(signal.attribute(x, target=0), logit * a, rtol=1e-13, atol=0)
    assert torch.allclose(share.attribute(x, target=0), logit * a * net.weight[0].detach(), rtol=1e-13, atol=0)
    # What reaches the input is the signal without its distractor, and the shares of the signal add up to the logit.
    assert torch.allclose((x - signal.attribute(x, target=0)) @ net.weight[0], -net.bias, atol=1e-12)
    assert torch.allclose(share.attribute(x, target=0).sum(1), logit[:, 0], rtol=1e-12, atol=1e-13)
    # The gradient, which is w, shows neither.
    assert relative_difference(modbp.make("gradient", net).attribute(x[:1], target=0), a[None]) > 0.1


def test_without_noise_the_signal_is_exact() -> None:
    net, a, _, y, _ = known_signal(10)
    assert torch.allclose(fit(net, y[:, None] * a)[""][0], a, rtol=0, atol=1e-13)


# The estimators, restated in NumPy for one output at a time.


def restated(patches: np.ndarray, w: np.ndarray, b: np.ndarray, rectified: bool) -> np.ndarray:
    """Return the patterns of a layer: patches of shape (outputs, samples, inputs), weights (outputs, inputs)."""
    found = np.zeros_like(w)
    for k in range(len(w)):
        x = patches[k]
        y = x @ w[k]
        counts = y + b[k] > 0 if rectified else np.ones(len(y), bool)
        if not counts.any():
            continue
        spread = (x[counts] * y[counts, None]).mean(0) - x[counts].mean(0) * y.mean()
        found[k] = spread / (w[k] @ spread)
    return found


def unfolded(layer: nn.Conv2d, x: Tensor) -> np.ndarray:
    """Return the patches that each output channel of a convolution sees, by slices and loops."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = layer.kernel_size, layer.stride, layer.padding, layer.dilation  # type: ignore[misc]
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    high = (padded.shape[2] - dh * (kh - 1) - 1) // sh + 1
    wide = (padded.shape[3] - dw * (kw - 1) - 1) // sw + 1
    found = []
    for k in range(layer.out_channels):
        first = k // outputs * inputs
        seen = [
            padded[
                :,
                first : first + inputs,
                i * sh : i * sh + dh * (kh - 1) + 1 : dh,
                j * sw : j * sw + dw * (kw - 1) + 1 : dw,
            ].reshape(len(padded), -1)
            for i in range(high)
            for j in range(wide)
        ]
        found.append(np.concatenate(seen))
    return np.stack(found)


def weight_and_bias(layer: nn.Module, bn: nn.Module | None = None) -> tuple[np.ndarray, np.ndarray]:
    w = layer.weight.detach().flatten(1)  # type: ignore[operator, union-attr]
    b = torch.zeros(len(w)).double() if layer.bias is None else layer.bias.detach()  # type: ignore[union-attr]
    if bn is not None:
        scale = bn.weight.detach() / (bn.running_var + bn.eps).sqrt()  # type: ignore[operator, union-attr]
        w, b = w * scale[:, None], (b - bn.running_mean) * scale + bn.bias.detach()  # type: ignore[operator, union-attr]
    return w.numpy(), b.numpy()


def norm(channels: int, kind: type = nn.BatchNorm2d) -> nn.Module:
    bn = kind(channels)
    bn.weight.data.uniform_(-1.5, 1.5)
    bn.running_var.uniform_(0.5, 2)
    bn.bias.data.normal_()
    bn.running_mean.normal_()
    return bn


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_norm", [True, False])
def test_dense_layers_against_the_formula(rectified: bool, bias: bool, with_norm: bool) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(5, 7, bias=bias), nn.Linear(7, 3, bias=bias)
    bn = [norm(7, nn.BatchNorm1d)] if with_norm else []
    middle: nn.Module = nn.ReLU() if rectified else nn.Identity()
    net = nn.Sequential(first, *bn, middle, last).double().eval()
    x = torch.randn(40, 5).double() + 0.3
    found = fit(net, x)
    assert set(found) == {"0", str(len(net) - 1)}
    w, b = weight_and_bias(first, bn[0] if bn else None)
    expected = restated(np.stack([x.numpy()] * 7), w, b, rectified)
    assert np.abs(found["0"].numpy() - expected).max() < 1e-10 * np.abs(expected).max()
    h = net[:-1](x).detach().numpy()
    w, b = weight_and_bias(last)
    expected = restated(np.stack([h] * 3), w, b, False)
    assert np.abs(found[str(len(net) - 1)].numpy() - expected).max() < 1e-10 * np.abs(expected).max()


GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "stride and padding": {"kernel_size": 3, "stride": 2, "padding": 1},
    "oblong": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0)},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "groups": 4},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "all": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (2, 1), "dilation": (1, 2), "groups": 2, "bias": False},
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("with_norm", [True, False])
def test_convolutions_against_the_formula_on_unfolded_patches(geometry: str, rectified: bool, with_norm: bool) -> None:
    torch.manual_seed(1)
    layer = nn.Conv2d(4, 8, **GEOMETRIES[geometry])
    bn = [norm(8)] if with_norm else []
    # In place, and behind a detour, which must not hide the ReLU from the batch norm's convolution.
    middle: nn.Module = nn.ReLU(inplace=True) if rectified else nn.Identity()
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    net = nn.Sequential(layer, *bn, middle, *pooled).double().eval()
    x = torch.randn(6, 4, 7, 6).double() + 0.2
    pattern = fit(net, x)["0"]
    assert pattern.shape == layer.weight.shape
    w, b = weight_and_bias(layer, bn[0] if bn else None)
    expected = restated(unfolded(layer, x), w, b, rectified)
    assert np.abs(pattern.flatten(1).numpy() - expected).max() < 1e-10 * np.abs(expected).max()
    live = expected.any(1)
    assert live.sum() >= 4
    assert np.abs((w * pattern.flatten(1).numpy()).sum(1)[live] - 1).max() < 1e-10


def transposed() -> nn.Module:
    return nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear on rows": (lambda: nn.Linear(5, 4), (3, 6, 5)),
    "1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, groups=2), (5, 4, 9)),
    "3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (3, 2, 3, 4, 3)),
    "transposed": (transposed, (4, 4, 4, 4)),
}


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_any_layer_against_the_formula_on_its_jacobian(kind: str, rectified: bool) -> None:
    """Each output entry sees, through the layer's matrix, one input for every weight that it uses."""
    torch.manual_seed(2)
    build, shape = LAYERS[kind]
    layer, x = build().double(), torch.randn(shape).double() + 0.2
    with torch.no_grad():
        z = layer(x)
    weight, bias = layer.weight, layer.bias
    outputs = len(bias)  # type: ignore[arg-type]
    channel = z.dim() - 1 if kind == "linear on rows" else 1
    net = nn.Sequential(layer, nn.ReLU(), nn.Flatten()) if rectified else nn.Sequential(layer, nn.Flatten())
    found = fit(net, x)["0"]
    # ∂z/∂W is the patch that an output entry sees, with zeros for the weights of other outputs.
    flat = layer(x).flatten()
    patches = torch.autograd.grad(flat, weight, torch.eye(len(flat)).double(), is_grads_batched=True)[0]  # type: ignore[arg-type]
    of = torch.arange(outputs).reshape([-1 if d == channel else 1 for d in range(z.dim())]).expand_as(z).flatten()
    total = torch.zeros_like(weight)  # type: ignore[arg-type]
    for k in range(outputs):
        seen = patches[of == k].flatten(1).numpy()
        one = restated(seen[None], weight.detach().flatten()[None].numpy(), bias.detach().numpy()[k : k + 1], rectified)  # type: ignore[union-attr, operator, index]
        total += torch.from_numpy(one[0]).reshape(weight.shape)  # type: ignore[arg-type]
    assert relative_difference(found, total.detach()) < 1e-10


# One pass, in pieces.


def small(bn: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Conv2d(2, 4, 3, padding=1), *([norm(4)] if bn else []), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(5, 3)).double().eval()


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-10) -> bool:
    return a.keys() == b.keys() and all(relative_difference(a[k], b[k]) < tolerance for k in a)


@pytest.fixture
def samples() -> Tensor:
    torch.manual_seed(4)
    return torch.randn(24, 2, 6, 6).double()


def test_many_batches_are_one_and_two_estimators_are_one(samples: Tensor) -> None:
    net = small()
    whole = fit(net, samples)
    assert same(fit(net, list(samples.split(5))), whole)
    assert same(fit(net, (batch for batch in samples.split(1))), whole)
    one, two = PatternEstimator(net), PatternEstimator(net)
    assert one.update(samples[:7]) is one
    two.update(samples[7:10]).update(samples[10:])
    kept = two.patterns()
    one.merge(two)
    assert same(one.patterns(), whole)
    assert same(two.patterns(), kept, 1e-15)
    empty = PatternEstimator(net)
    empty.merge(one)
    assert same(empty.patterns(), whole)
    one.merge(PatternEstimator(net))
    assert same(one.patterns(), whole)
    # What was merged into the empty one is a copy of its own.
    empty.update(samples)
    assert same(one.patterns(), whole)


def test_the_mean_of_all_y_and_not_of_the_active_ones_is_subtracted(samples: Tensor) -> None:
    """The formula has E[y], not E₊[y]: the two differ, and the estimator takes the former."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.ReLU()).double()
    x, (w, b) = samples.flatten(1).numpy(), weight_and_bias(net[1])
    found = fit(net, samples)["1"].numpy()
    for k in range(3):
        y = x @ w[k]
        on = y + b[k] > 0
        other = (x[on] * y[on, None]).mean(0) - x[on].mean(0) * y[on].mean()
        other /= w[k] @ other
        assert np.abs(found[k] - restated(x[None], w[k : k + 1], b[k : k + 1], True)[0]).max() < 1e-10
        assert np.abs(found[k] - other).max() > 1e-2 * np.abs(other).max()


class Twice(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.layer(F.relu(self.layer(x)))))


def test_a_reused_module_pools_its_calls() -> None:
    torch.manual_seed(5)
    net, x = Twice().double(), torch.randn(30, 5).double()
    found = fit(net, x)
    assert set(found) == {"layer", "out"}
    h = F.relu(net.layer(x)).detach()
    w, b = weight_and_bias(net.layer)
    expected = restated(np.stack([torch.cat([x, h]).numpy()] * 5), w, b, True)
    assert np.abs(found["layer"].numpy() - expected).max() < 1e-10 * np.abs(expected).max()
    assert modbp.make("pattern_net", net, patterns=found).attribute(x, target=1).shape == x.shape


def test_dead_units_have_patterns_of_zero_and_nothing_is_nan() -> None:
    torch.manual_seed(6)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    net[0].bias.data[1], net[0].weight.data[3] = -100, 0  # never active; always the same
    x = torch.randn(20, 4).double()
    found = fit(net, x)
    assert not found["0"][1].any()
    assert not found["0"][3].any()
    assert all(torch.isfinite(p).all() for p in found.values())
    live = [0, 2, 4]
    assert torch.allclose((found["0"] * net[0].weight).sum(1)[live], torch.ones(3).double(), atol=1e-12)
    for name in ("pattern_net", "pattern_attribution"):
        assert torch.isfinite(modbp.make(name, net, patterns=found).attribute(x, target=0)).all()
    constant = fit(net, torch.ones(3, 4).double())
    assert all(torch.isfinite(p).all() for p in constant.values())


def test_fitting_leaves_the_model_and_its_inputs_alone(samples: Tensor) -> None:
    net, before = small(), samples.clone()
    state = copy.deepcopy(net.state_dict())
    fit(net, samples)
    assert torch.equal(samples, before)
    assert not samples.requires_grad
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_patterns_have_the_type_of_the_weights() -> None:
    net = small(bn=False).float()
    x = torch.randn(16, 2, 6, 6)
    found = fit(net, x)
    assert {p.dtype for p in found.values()} == {torch.float32}
    assert same({k: p.double() for k, p in found.items()}, fit(net.double(), x.double()), 1e-4)


# The methods.


class Mixed(nn.Module):
    """Convolutions, a residual sum, pools, and a batch norm that merges."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.relu(self.a(x)), 2)
        h = self.relu(h + self.b(h))
        return self.c(F.adaptive_avg_pool2d(h, 1).flatten(1))


@pytest.mark.parametrize("name", ["pattern_net", "pattern_attribution"])
def test_with_weights_or_ones_as_patterns_both_are_the_gradient(name: str, samples: Tensor) -> None:
    torch.manual_seed(7)
    for net in (Mixed().double(), small(bn=False)):
        layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        patterns = {
            n: m.weight.detach() if name == "pattern_net" else torch.ones_like(m.weight) for n, m in layers.items()
        }
        method = modbp.make(name, net, patterns=patterns)
        points = ["input", *layers]
        start = torch.randn(24, 3).double()
        ours = method.relevance(samples, points, start=start)
        expected = modbp.make("gradient", net).relevance(samples, points, start=start)
        assert all(relative_difference(ours[n], expected[n]) < 1e-12 for n in points)
        logit = net(samples).detach()[:, 1].reshape(-1, 1, 1, 1)
        gradient = modbp.make("gradient", net).attribute(samples, target=1)
        assert relative_difference(method.attribute(samples, target=1), gradient * logit) < 1e-12


def test_with_a_merged_batch_norm_the_weights_are_the_products(samples: Tensor) -> None:
    net = small()
    scale = (net[1].weight / (net[1].running_var + net[1].eps).sqrt()).detach()  # type: ignore[operator, union-attr]
    patterns = {n: m.weight.detach() for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    patterns["0"] = patterns["0"] * scale.reshape(-1, 1, 1, 1)
    gradient = modbp.make("gradient", net).relevance(samples, target=2)["input"]
    start = torch.zeros(24, 3).double()
    start[:, 2] = 1
    assert (
        relative_difference(
            modbp.make("pattern_net", net, patterns=patterns).relevance(samples, start=start)["input"], gradient
        )
        < 1e-12
    )
    ones = {n: torch.ones_like(p) for n, p in patterns.items()}
    found = modbp.make("pattern_attribution", net, patterns=ones).relevance(samples, start=start)["input"]
    assert relative_difference(found, gradient) < 1e-12


def test_a_two_layer_net_by_hand(samples: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    patterns = fit(net, samples)
    a, b = patterns["1"], patterns["3"]
    w, v = net[1].weight.detach(), net[3].weight.detach()
    z = net[1](samples.flatten(1)).detach()
    logit = net(samples).detach()[:, 2:]
    mask = (z > 0).double()
    for name, first, second in (("pattern_net", a, b), ("pattern_attribution", w * a, v * b)):
        expected = ((logit * second[2]) * mask) @ first
        method = modbp.make(name, net, data=[samples])
        assert relative_difference(method.attribute(samples, target=2).flatten(1), expected) < 1e-12
        again = modbp.make(name, net, patterns=patterns)
        assert torch.equal(again.attribute(samples, target=2), method.attribute(samples, target=2))


def test_patterns_of_a_real_pass_conserve_the_logit_in_a_net_of_one_layer(samples: Tensor) -> None:
    """w · a = 1, so PatternAttribution hands all of a live unit's relevance on."""
    net = small(bn=False)
    method = modbp.make("pattern_attribution", net, data=samples)
    maps = method.relevance(samples, ["7", "8"], target=0)
    assert relative_difference(maps["8"].sum(1), net(samples).detach()[:, 0]) < 1e-10


# One sentence for what cannot be.


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


PATTERNS = {"0": torch.ones(5, 4), "2": torch.ones(2, 5)}
DATA = [torch.randn(8, 4)]
X = torch.ones(3, 4)

BAD: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (modbp.InputError, "patterns and data are both given or both missing", lambda: modbp.make("pattern_net", two())),
    (
        modbp.InputError,
        "patterns and data are both given or both missing",
        lambda: modbp.make("pattern_attribution", two(), patterns=PATTERNS, data=DATA),
    ),
    (
        modbp.UnsupportedModelError,
        "pattern_net has no rule for the linear in layer '2'",
        lambda: modbp.make("pattern_net", two(), patterns={"0": PATTERNS["0"]}).attribute(X, target=0),
    ),
    (
        modbp.UnsupportedModelError,
        "pattern_attribution has no rule for the linear in layer '0'",
        lambda: modbp.make("pattern_attribution", two(), patterns={}).attribute(X, target=0),
    ),
    (
        modbp.UnsupportedModelError,
        "no rule for the batch norm in layer '0'",
        lambda: modbp.make(
            "pattern_net", nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).eval(), data=DATA
        ).attribute(X, target=0),
    ),
    (modbp.InputError, "model is of type function; allowed is an nn.Module", lambda: fit(lambda x: x, DATA)),
    (
        modbp.InputError,
        "model is of type function; allowed is an nn.Module",
        lambda: modbp.make("pattern_net", lambda x: x, data=DATA),
    ),
    (modbp.InputError, "no batch was added", lambda: fit(two(), [])),
    (modbp.InputError, "inputs holds 32 values that are NaN", lambda: fit(two(), [DATA[0] * float("nan")])),
    (modbp.InputError, "inputs is of type list", lambda: fit(two(), [[1.0]])),  # type: ignore[list-item]
    (modbp.UnsupportedModelError, "no rule for layer_norm", lambda: fit(nn.Sequential(two(), nn.LayerNorm(2)), DATA)),
    (
        modbp.InputError,
        "other has collected patterns of other layers",
        lambda: PatternEstimator(two()).update(DATA[0]).merge(PatternEstimator(nn.Linear(4, 2)).update(DATA[0])),  # type: ignore[func-returns-value]
    ),
    (
        modbp.UnsupportedModelError,
        "batch norm in training mode",
        lambda: fit(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()), DATA),
    ),
]


@pytest.mark.parametrize(("kind", "message", "call"), BAD, ids=[f"{k}-{m[:40]}" for k, (_, m, _) in enumerate(BAD)])
def test_bad_input_gets_one_sentence(kind: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_transposed_is_the_ordinary_backward_pass(samples: Tensor) -> None:
    net = Mixed().double()
    maps = [
        Trace(net, samples, Composite("c", rules)).relevance(start=torch.ones(24, 3).double())["input"]
        for rules in ({"affine": Transposed()}, {})
    ]
    assert relative_difference(*maps) < 1e-13
