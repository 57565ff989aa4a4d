"""DeepLIFT: its paper's examples, summation to delta at every layer, Captum, and a second implementation in loops."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import modbp
from modbp.backward import Trace
from modbp.composite import Composite, deeplift
from modbp.metrics import relative_difference
from modbp.networks import random_mlp
from modbp.rules import DecoupledCode, DecoupledText, Linear, Rescale, RevealCancel
from modbp.rules.affine import Dense

CONSERVING = ("deeplift_rescale", "deeplift_reveal_cancel")
ALL = (*CONSERVING, "deeplift_ablation_text", "deeplift_ablation_code")
RULES = {
    "deeplift_rescale": (Linear(), Rescale()),
    "deeplift_reveal_cancel": (Linear(), RevealCancel()),
    "deeplift_ablation_text": (DecoupledText(), Rescale()),
    "deeplift_ablation_code": (DecoupledCode(), Rescale()),
}

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")  # Captum says it at every call


class Fn(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def attributed(name: str, model: Any, x: Any, reference: Any = None, target: Any = None) -> Any:
    return modbp.make(name, model).attribute(x, reference, target)  # type: ignore[call-arg, arg-type]


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# The examples of Shrikumar, Greenside and Kundaje (2017), figures 1, 2 and 3.


def saturated(x: Tensor) -> Tensor:
    return 1 - (1 - (x[:, 0] + x[:, 1])).relu()


def minimum(x: Tensor) -> Tensor:
    return x[:, 0] - F.relu(F.linear(x, row(1, -1))[:, 0])


def test_figure_1_saturation() -> None:
    x = row(1, 1)
    assert not modbp.make("gradient", saturated).attribute(x).any()
    for name in CONSERVING:
        assert torch.allclose(attributed(name, saturated, x), row(0.5, 0.5), atol=1e-15)
        assert torch.allclose(attributed(name, saturated, row(1.5, 0.5)), row(0.75, 0.25), atol=1e-15)


def test_figure_2_a_bias_that_acts_as_a_threshold() -> None:
    def threshold(v: Tensor) -> Tensor:
        return (v[:, 0] - 10).relu()

    for excess in (1e-3, 1.0, 5.0):
        x = row(10 + excess)
        assert abs(float(modbp.make("input_x_gradient", threshold).attribute(x)) - float(x)) < 1e-12  # it jumps
        for name in CONSERVING:
            assert abs(float(attributed(name, threshold, x)) - excess) < 1e-12
            assert float(attributed(name, threshold, row(9.0))) == 0


@given(i1=st.floats(0.01, 5), i2=st.floats(0.01, 5))
@settings(max_examples=40, deadline=None)
def test_figure_3_reveal_cancel_gives_each_input_of_a_minimum_its_half(i1: float, i2: float) -> None:
    x, low = row(i1, i2), min(i1, i2)
    assert torch.allclose(attributed("deeplift_reveal_cancel", minimum, x), row(low / 2, low / 2), atol=1e-12)
    one_sided = attributed("deeplift_rescale", minimum, x)
    expected = row(0, i2) if i1 > i2 else row(i1, 0)
    assert torch.allclose(one_sided, expected, atol=1e-9) or abs(i1 - i2) < 1e-6


@pytest.mark.parametrize(("i1", "i2"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_an_and_of_bits(i1: int, i2: int) -> None:
    half = (i1 and i2) / 2
    assert torch.allclose(attributed("deeplift_reveal_cancel", minimum, row(i1, i2)), row(half, half), atol=1e-15)


# Summation to delta.


def conv(i: int, o: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **{"padding": k // 2, **options})


def norm(channels: int) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels)
    for values in (bn.weight.data, bn.running_var):
        values.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    bn.weight.data[0] *= -1
    for values in (bn.bias.data, bn.running_mean):
        values.normal_()  # type: ignore[union-attr]
    return bn


def head(features: int, classes: int = 4) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(features, classes)]


def plus(x: Tensor, *body: nn.Module) -> Tensor:
    return x + nn.Sequential(*body)(x)


def both(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    return torch.cat([a(x), x, b(x)], 1)


def tensor_constants(x: Tensor) -> Tensor:
    ramp = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
    return (x * ramp + ramp) / 3


def reused() -> list[nn.Module]:
    relu, square = nn.ReLU(), conv(4, 4)
    return [conv(2, 4), relu, square, relu, square, relu, *head(144)]


NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "dense": lambda: [nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4)],
    "convolutions": lambda: [
        conv(2, 4, stride=2), nn.ReLU(inplace=True), conv(4, 6, dilation=2, padding=2, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(6, 2, 2, stride=2), nn.ReLU(), *head(72),
    ],
    "residual": lambda: [
        conv(2, 4), nn.ReLU(), Fn(plus, conv(4, 4), norm(4), nn.ReLU(inplace=True), conv(4, 4), norm(4)),
        nn.ReLU(inplace=True), Fn(plus, conv(4, 4), nn.ReLU()), nn.AdaptiveAvgPool2d(1), *head(4),
    ],
    "concatenation": lambda: [
        conv(2, 3), nn.ReLU(), Fn(both, conv(3, 2), conv(3, 2, 1)), conv(7, 4), nn.ReLU(),
        Fn(both, nn.Sequential(conv(4, 2), norm(2), nn.ReLU()), nn.MaxPool2d(3, 1, 1)), conv(10, 2), *head(72),
    ],
    "concatenation in front of a ReLU": lambda: [
        conv(2, 3), Fn(both, conv(3, 2), conv(3, 2, 1)), nn.ReLU(), norm(7), nn.ReLU(), *head(252),
    ],
    "batch norm behind": lambda: [conv(2, 4), norm(4), nn.ReLU(), conv(4, 4), norm(4), nn.ReLU(), *head(144)],
    "batch norm in front": lambda: [norm(2), nn.ReLU(), conv(2, 4), nn.ReLU(), norm(4), conv(4, 2), nn.ReLU(),
                                    norm(2), nn.ReLU(), *head(72)],
    "max pools": lambda: [
        conv(2, 4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), conv(4, 4), nn.ReLU(),
        nn.MaxPool2d(2, 1), nn.MaxPool2d(2, ceil_mode=True), *head(16),
    ],
    "max pool in front": lambda: [nn.MaxPool2d(2, 1), conv(2, 3), nn.ReLU(), *head(75)],
    "max pool between layers": lambda: [conv(2, 4), nn.MaxPool2d(2), conv(4, 4), nn.ReLU(), *head(36)],
    "average pools": lambda: [
        conv(2, 4), nn.ReLU(), nn.AvgPool2d(3, 2, padding=1, ceil_mode=True), nn.AvgPool2d(2, 1, 1, False, False),
        conv(4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), *head(16),
    ],
    "smooth": lambda: [
        conv(2, 4), nn.Sigmoid(), conv(4, 4), nn.Tanh(), conv(4, 4), nn.GELU(), conv(4, 4), nn.Softplus(), *head(144),
    ],
    "rectifiers": lambda: [
        conv(2, 4), nn.LeakyReLU(0.1), conv(4, 4), nn.ELU(), conv(4, 4), nn.ReLU6(), conv(4, 4), nn.SiLU(), *head(144),
    ],
    "constants": lambda: [
        Fn(lambda x: x * 2 - 1), conv(2, 4), Fn(lambda x: 1 - x), nn.ReLU(), Fn(tensor_constants), conv(4, 4),
        Fn(lambda x: -x), nn.ReLU(), *head(144),
    ],
    "reused": reused,
    "functional": lambda: [
        conv(2, 4), Fn(F.relu), conv(4, 4), Fn(lambda x: F.relu(x, inplace=True)), conv(4, 4), Fn(torch.relu_),
        conv(4, 4), Fn(lambda x: x.relu()), conv(4, 4), Fn(lambda x: x.clamp(min=0)), *head(144),
    ],
    "dropout in evaluation": lambda: [conv(2, 4), nn.Dropout(0.5), nn.ReLU(), nn.Dropout2d(0.5), *head(144)],
}  # fmt: skip
STACKED: dict[str, Callable[[], list[nn.Module]]] = {
    "two activations": lambda: [conv(2, 4), nn.ReLU(), nn.Sigmoid(), *head(144)],
    "two ReLUs": lambda: [conv(2, 4), nn.ReLU(), nn.ReLU(), *head(144)],
    "a ReLU's output in a concatenation": lambda: [conv(2, 4), nn.ReLU(), Fn(both, conv(4, 1), norm(4)), nn.ReLU(),
                                                   *head(324)],
    "max pool before the ReLU": lambda: [conv(2, 4), nn.MaxPool2d(2), nn.ReLU(), *head(36)],
    "max pool between activations": lambda: [conv(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Tanh(), *head(36)],
}  # fmt: skip


def built(parts: Callable[[], list[nn.Module]], seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*parts()).double().eval()


def image(seed: int, batch: int = 3) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, 2, 6, 6, dtype=torch.float64)


def points(net: nn.Sequential) -> list[str]:
    """Name every layer's output, and every call of a module that runs more than once."""
    names = {m: name for name, m in net.named_children()}
    calls, seen, found = Counter(net), Counter[nn.Module](), []
    for m in net:
        found.append(names[m] if calls[m] == 1 else f"{names[m]}:{seen[m]}")
        seen[m] += 1
    return found


def worst_miss(name: str, net: nn.Sequential, x: Tensor, reference: Tensor, target: int = 1) -> float:
    """Return by how much the contributions of a sample miss its difference, at the worst layer."""
    with torch.no_grad():
        delta = (net(x) - net(reference))[:, target]
    maps = modbp.make(name, net).relevance(x, ["input", *points(net)], target=target, baselines=reference)
    misses = [(m.flatten(1).sum(1) - delta).abs().max() for m in maps.values()]
    return float(max(misses) / delta.abs().max())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", CONSERVING)
@pytest.mark.parametrize("seed", [0, 1])
def test_contributions_sum_to_the_difference_at_every_layer(name: str, net: str, seed: int) -> None:
    assert worst_miss(name, built(NETS[net], seed), image(seed + 10), image(seed + 20)) < 1e-10


@pytest.mark.parametrize("net", STACKED)
@pytest.mark.parametrize("name", ["deeplift_rescale", "deeplift_reveal_cancel"])
def test_contributions_sum_to_the_difference_through_stacked_nonlinearities(name: str, net: str) -> None:
    assert worst_miss(name, built(STACKED[net]), image(10), image(20)) < 1e-10


@pytest.mark.parametrize("name", ["deeplift_ablation_text", "deeplift_ablation_code"])
def test_the_ablations_do_not_sum_to_the_difference(name: str) -> None:
    assert worst_miss(name, built(NETS["dense"]), image(10), image(20)) > 0.1


@pytest.mark.parametrize("name", ALL)
def test_in_place_and_functional_relus_are_the_modules(name: str) -> None:
    torch.manual_seed(0)
    layers = [conv(2, 4).double(), conv(4, 4).double(), nn.Linear(144, 4).double()]
    x, reference = image(1), image(2)

    def by(relu: Callable[[], nn.Module]) -> Tensor:
        net = nn.Sequential(layers[0], relu(), layers[1], relu(), nn.Flatten(), layers[2])
        return attributed(name, net, x, reference, 2)

    expected = by(nn.ReLU)
    for other in (lambda: nn.ReLU(inplace=True), lambda: Fn(F.relu), lambda: Fn(Tensor.relu_)):
        assert torch.equal(by(other), expected)


# Captum.


def vgg(relu: Callable[[], nn.Module], between: Callable[[], nn.Module] | None) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, o in ((3, 6), (6, 8)):
        layers += [conv(i, o), relu(), conv(o, o), relu()]
        layers += [between()] if between is not None else []
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(32, 10), relu(), nn.Dropout(), nn.Linear(10, 5)]
    return nn.Sequential(*layers).double().eval()


def test_rescale_equals_captum_on_the_networks_that_captum_treats_rightly() -> None:
    net = vgg(nn.ReLU, lambda: Fn(torch.clone))
    x, reference = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    for target in range(5):
        expected = captum.attr.DeepLift(copy.deepcopy(net)).attribute(x, reference, target=target)
        assert relative_difference(attributed("deeplift_rescale", net, x, reference, target), expected) < 1e-12


@pytest.mark.parametrize("inplace", [False, True])
def test_where_a_pool_follows_a_relu_captum_is_wrong_and_we_keep_the_sum(inplace: bool) -> None:
    net = vgg(lambda: nn.ReLU(inplace), None)
    x, reference = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    ours, miss = modbp.make("deeplift_rescale", net).attribute(  # type: ignore[call-arg]
        x, reference, 1, return_convergence_delta=True
    )
    right = attributed("deeplift_rescale", vgg(nn.ReLU, lambda: Fn(torch.clone)), x, reference, 1)
    assert relative_difference(ours, right) < 1e-12
    assert miss.abs().max() < 1e-12
    theirs, their_miss = captum.attr.DeepLift(vgg(nn.ReLU, None)).attribute(
        x, reference, target=1, return_convergence_delta=True
    )
    assert relative_difference(theirs, ours) > 0.1
    assert their_miss.abs().max() > 1e-3


# What the rules become where they meet simpler ones.


def unbiased(net: nn.Module) -> nn.Module:
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            p.data.zero_()
    return net


@pytest.mark.parametrize("net", ["dense", "convolutions", "max pools", "average pools", "reused", "functional"])
def test_with_reference_and_biases_zero_rescale_is_input_times_gradient(net: str) -> None:
    model, x = built(NETS[net]), image(3)
    unbiased(model)
    names = ["input", *points(model)]
    ours = modbp.make("deeplift_rescale", model).relevance(x, names, target=1)
    expected = modbp.make("input_x_gradient", model).relevance(x, names, target=1)
    assert all(relative_difference(ours[n], expected[n]) < 1e-12 for n in names)


def test_where_all_contributions_have_one_sign_reveal_cancel_is_rescale() -> None:
    for net in ("dense", "convolutions", "max pools", "smooth"):
        model = built(NETS[net])
        mixed = [attributed(name, model, image(5), image(4), 2) for name in CONSERVING]
        assert relative_difference(*mixed) > 1e-2
        for name, p in model.named_parameters():
            if name.endswith("weight"):
                p.data.abs_()
                p.data /= p.data[0].numel()
        reference = image(4)
        for x in (reference + image(5).abs(), reference - image(5).abs()):
            maps = [attributed(name, model, x, reference, 2) for name in CONSERVING]
            assert relative_difference(*maps) < 1e-10


# A second implementation: one sample, one unit and one weight at a time.


def second_opinion(
    weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray, x0: np.ndarray, target: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return m⁺ and m⁻ at the input, and the contributions, of a dense ReLU net."""
    inputs, references, sums, reference_sums = [x], [x0], [], []
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        sums.append(w @ inputs[-1] + b)
        reference_sums.append(w @ references[-1] + b)
        if k < len(weights) - 1:
            inputs.append(np.maximum(sums[-1], 0))
            references.append(np.maximum(reference_sums[-1], 0))
    up = np.zeros(len(sums[-1]))
    up[target] = 1
    down = up.copy()
    for k in reversed(range(len(weights))):
        w, d = weights[k], inputs[k] - references[k]
        n_out, n_in = w.shape
        if k < len(weights) - 1:
            for j in range(n_out):
                z, z0 = sums[k][j], reference_sums[k][j]
                if name == "deeplift_reveal_cancel":
                    p = sum(w[j, i] * d[i] for i in range(n_in) if w[j, i] * d[i] > 0)
                    q = sum(w[j, i] * d[i] for i in range(n_in) if w[j, i] * d[i] < 0)

                    def f(v: float) -> float:
                        return max(v, 0.0)

                    rise = 0.5 * (f(z0 + p) - f(z0)) + 0.5 * (f(z0 + q + p) - f(z0 + q))
                    fall = 0.5 * (f(z0 + q) - f(z0)) + 0.5 * (f(z0 + p + q) - f(z0 + p))
                    up[j] *= rise / p if p else 0.0
                    down[j] *= fall / q if q else 0.0
                else:
                    factor = (max(z, 0) - max(z0, 0)) / (z - z0) if abs(z - z0) > 1e-15 else float(z0 > 0)
                    up[j] *= factor
                    down[j] *= factor
        new_up, new_down = np.zeros(n_in), np.zeros(n_in)
        for i in range(n_in):
            for j in range(n_out):
                wp, wn = max(w[j, i], 0), min(w[j, i], 0)
                if name == "deeplift_ablation_text":
                    new_up[i] += wp * up[j]
                    new_down[i] += wn * down[j]
                    continue
                if d[i] == 0:
                    m = (wp + wn) * (up[j] + down[j]) / 2
                elif name == "deeplift_ablation_code":
                    m = wp * (up[j] if d[i] > 0 else down[j])
                else:
                    m = wp * up[j] + wn * down[j] if d[i] > 0 else wn * up[j] + wp * down[j]
                new_up[i] += m
                new_down[i] += m
        up, down = new_up, new_down
    d = x - x0
    return up, down, up * np.maximum(d, 0) + down * np.minimum(d, 0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_a_slow_implementation_in_loops_agrees(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, reference = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    x[:, 2] = reference[:, 2]  # no difference at all
    x[3] = reference[3]
    affine = [m for m in net if isinstance(m, nn.Linear)]
    weights, biases = [m.weight.detach().numpy() for m in affine], [m.bias.detach().numpy() for m in affine]
    plain = Composite(name, dict(deeplift(name, *RULES[name]).rules))  # multipliers, not contributions
    up = Trace(net, x, plain, baselines=reference).relevance(start=torch.eye(3).double()[[1] * 4])["input"]
    found = attributed(name, net, x, reference, 1)
    for n in range(4):
        m_up, _, contributions = second_opinion(weights, biases, x[n].numpy(), reference[n].numpy(), 1, name)
        assert np.abs(found[n].numpy() - contributions).max() < 1e-12
        # A limit that no contribution depends on is taken differently there: where a layer has no difference at all.
        if name != "deeplift_reveal_cancel" and n < 3:
            assert np.abs(up[n].numpy() - m_up).max() < 1e-12


# The propositions of the theory of these rules.


def test_the_linear_rule_as_one_matrix() -> None:
    """Behind a linear layer m⁺ = m⁻ = m, and the next step is W (D⁺+D⁻)/2 + ½ (S−N) |W| (D⁺−D⁻)."""
    torch.manual_seed(0)
    W = torch.randn(7, 5).double()
    m, up, down = torch.randn(5).double(), torch.rand(5).double(), torch.rand(5).double()
    delta = torch.randn(7).double()
    delta[3] = 0
    layer = Dense(W.T.contiguous(), torch.Size((1, 7)))
    S, N, O = (torch.diag(s.double()) for s in (delta > 0, delta < 0, delta == 0))  # noqa: E741
    P = S @ W.clamp(min=0) + N @ W.clamp(max=0) + 0.5 * O @ W
    Q = S @ W.clamp(max=0) + N @ W.clamp(min=0) + 0.5 * O @ W
    assert torch.equal(P + Q, W)
    found, again = Linear()(((up * m)[None], (down * m)[None]), layer, delta[None])
    closed = (W @ torch.diag((up + down) / 2) + 0.5 * (S - N) @ W.abs() @ torch.diag(up - down)) @ m
    assert again is found
    assert torch.allclose(found[0], P @ (up * m) + Q @ (down * m), rtol=0, atol=1e-14)
    assert torch.allclose(found[0], closed, rtol=0, atol=1e-14)
    same, nothing = Linear()((m[None], None), layer, delta[None])
    assert nothing is None
    assert torch.allclose(same[0], W @ m, rtol=0, atol=1e-14)
    assert torch.allclose(Linear()((m[None], m[None]), layer, delta[None])[0], same, rtol=0, atol=1e-14)


def dense(depth: int, bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Linear(8, 8 if k < depth - 1 else 4, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def multipliers(name: str, net: nn.Module, x: Tensor, reference: Tensor, start: Tensor, at: list[str]) -> dict:
    plain = Composite(name, dict(deeplift(name, *RULES[name]).rules))
    return Trace(net, x, plain, at, baselines=reference).relevance(at, start=start)


def chain(net: nn.Sequential, x: Tensor, reference: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the product W₁ᵀ D₁ W₂ᵀ D₂ ⋯ of one sample, of shape (inputs, outputs)."""
    result = torch.eye(x.shape[1]).double()
    with torch.no_grad():
        for m in net:
            if isinstance(m, nn.Linear):
                result = result @ part(m.weight).T
                x, reference = m(x), m(reference)
            else:
                d = (x.relu() - reference.relu()) / (x - reference)
                result = result @ torch.diag(torch.nan_to_num(d[0], nan=0.0))
                x, reference = x.relu(), reference.relu()
    return result


def test_rescale_is_the_signed_chain_and_the_decoupled_ablation_the_positive_one() -> None:
    torch.manual_seed(1)
    net, x, reference = dense(4, True), torch.randn(1, 8).double(), torch.randn(1, 8).double()
    start = torch.rand(1, 4).double()
    signed = multipliers("deeplift_rescale", net, x, reference, start, ["input"])["input"]
    assert torch.allclose(signed[0], chain(net, x, reference, lambda w: w) @ start[0], rtol=0, atol=1e-14)
    plus_chain = chain(net, x, reference, lambda w: w.clamp(min=0))
    minus_chain = chain(net, x, reference, lambda w: w.clamp(max=0))
    found = multipliers("deeplift_ablation_text", net, x, reference, start, ["input"])["input"]
    assert torch.allclose(found[0], plus_chain @ start[0], rtol=0, atol=1e-14)
    assert (plus_chain >= 0).all()
    assert ((-1) ** 4 * minus_chain >= 0).all()
    delta = x - reference
    contributions = modbp.make("deeplift_ablation_text", net).relevance(x, start=start, baselines=reference)["input"]
    expected = (plus_chain @ start[0]) * delta[0].clamp(min=0) + (minus_chain @ start[0]) * delta[0].clamp(max=0)
    assert torch.allclose(contributions[0], expected, rtol=0, atol=1e-14)


def test_with_reference_and_biases_zero_both_ablations_are_one_chain_in_hidden_layers() -> None:
    torch.manual_seed(2)
    net, x = dense(4, False), torch.randn(1, 8).double()
    zero, start, at = torch.zeros(1, 8).double(), torch.rand(1, 4).double(), ["1", "3", "5"]
    text, code = (multipliers(n, net, x, zero, start, at) for n in ALL[2:])
    for name in at:
        live = Trace(net, x, Composite("gradient"), at).activation(name) > 0
        assert live.any()
        assert torch.allclose(text[name] * live, code[name] * live, rtol=0, atol=1e-14)
        assert (code[name] * live >= 0).all()
    positive = chain(net, x, zero, lambda w: w.clamp(min=0))
    assert torch.allclose(
        multipliers("deeplift_ablation_code", net, x, zero, start, ["input"])["input"][0],
        positive @ start[0],
        atol=1e-14,
    )


def test_the_ablation_of_the_code_is_nonnegative_where_every_unit_changes() -> None:
    torch.manual_seed(3)
    net, x, reference = dense(4, True), torch.randn(5, 8).double(), torch.randn(5, 8).double()
    smooth = nn.Sequential(*(nn.Softplus() if isinstance(m, nn.ReLU) else m for m in net))
    start, at = torch.rand(5, 4).double(), ["input", *points(smooth)[:-1]]
    found = multipliers("deeplift_ablation_code", smooth, x, reference, start, at)
    assert all((m >= 0).all() for m in found.values())
    assert (multipliers("deeplift_rescale", smooth, x, reference, start, at)["input"] < 0).any()


# Many starts, and baselines of every form.


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "net", ["convolutions", "residual", "max pools", "average pools", "concatenation", "constants"]
)
def test_starts_in_one_go_are_those_of_a_loop(name: str, net: str) -> None:
    model, x, reference = built(NETS[net]), image(1), image(2)
    method, starts = modbp.make(name, model), torch.randn(4, 3, 4).double()
    names = ["input", *points(model)[:3]]
    together = method.relevance(x, names, start=starts, baselines=reference)
    for k in range(4):
        alone = method.relevance(x, names, start=starts[k], baselines=reference)
        assert all(torch.allclose(together[n][k], alone[n], rtol=1e-12, atol=1e-15) for n in names)


@pytest.mark.parametrize("name", ALL)
def test_maps_of_many_classes_with_a_reference(name: str) -> None:
    model, x = built(NETS["max pools"]), image(1, 5)
    classes = torch.randint(4, (5, 3))
    for baselines, batch in ((0.25, None), (image(2, 1), 2), (image(2, 5), 2), (image(2, 5), 1)):
        maps = modbp.make(name, model).attribute_classes(x, classes, batch, baselines)
        for k in range(3):
            alone = attributed(name, model, x, baselines, classes[:, k])
            assert relative_difference(maps[k], alone) < 1e-12


@pytest.mark.parametrize("name", ALL)
def test_every_form_of_a_reference(name: str) -> None:
    model, x = built(NETS["dense"]), image(1)
    assert torch.equal(attributed(name, model, x, None, 1), attributed(name, model, x, 0, 1))
    full = attributed(name, model, x, torch.full_like(x, 0.5), 1)
    for form in (0.5, torch.tensor(0.5), torch.full((1, 2, 6, 6), 0.5), torch.full((2, 1, 1), 0.5), (0.5,)):
        assert torch.equal(attributed(name, model, x, form, 1), full)
    if name in CONSERVING:
        found, miss = modbp.make(name, model).attribute(  # type: ignore[call-arg]
            x, 0.5, 1, return_convergence_delta=True
        )
        assert torch.equal(found, full)
        assert miss.shape == (3,)
        assert miss.abs().max() < 1e-12


class Two(nn.Module):
    """Two inputs, and a scale that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(2, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.out(F.relu(self.a(x) + scale * self.b(y)))


@pytest.mark.parametrize("name", CONSERVING)
def test_tuples_of_inputs_each_with_its_reference(name: str) -> None:
    torch.manual_seed(0)
    net, x, y = Two().double(), torch.randn(3, 5).double(), torch.randn(3, 2).double()
    reference = torch.randn(1, 5).double()
    method = modbp.make(name, net)
    (a, b), miss = method.attribute(  # type: ignore[call-arg]
        (x, y), (reference, 0.5), [0, 1, 2], 0.3, return_convergence_delta=True
    )
    assert a.shape == x.shape
    assert b.shape == y.shape
    assert miss.abs().max() < 1e-13
    relevance = method.relevance(
        (x, y), ["out", "input"], target=[0, 1, 2], additional_forward_args=0.3, baselines=(reference, 0.5)
    )
    assert torch.equal(relevance["input"][1], b)


def test_inputs_and_references_are_left_alone() -> None:
    model, x, reference = built(NETS["functional"]), image(1), image(2)
    before, state = (x.clone(), reference.clone()), {k: v.clone() for k, v in model.state_dict().items()}
    for name in ALL:
        assert not attributed(name, model, x, reference, 1).requires_grad
    assert torch.equal(x, before[0])
    assert torch.equal(reference, before[1])
    assert not x.requires_grad
    assert not reference.requires_grad
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_number_is_not_rounded_on_its_way_to_a_double() -> None:
    for function in (lambda x: 0.1 * x, lambda x: x / 0.3, lambda x: x.mul(0.1), lambda x: torch.sub(1, x, alpha=0.7)):
        x = row(0.3, -0.7)
        for name in CONSERVING:
            method = modbp.make(name, lambda v, f=function: F.linear(f(v), row(1, 2)))
            _, miss = method.attribute(x, 0.1, 0, return_convergence_delta=True)  # type: ignore[call-arg]
            assert miss.abs().max() < 1e-14


def test_an_input_equal_to_its_reference_contributes_nothing() -> None:
    for net in NETS:
        model, x = built(NETS[net]), image(1)
        for name in ALL:
            found = attributed(name, model, x, x, 1)
            assert torch.isfinite(found).all()
            assert not found.any()


X = torch.ones(3, 5)
BAD: list[tuple[str, Any]] = [
    (r"baselines has shape \(3, 4\); allowed is what broadcasts to the input's \(3, 5\)", torch.zeros(3, 4)),
    (r"baselines has shape \(2, 5\)", torch.zeros(2, 5)),
    (r"baselines has shape \(1, 3, 5\)", torch.zeros(1, 3, 5)),
    (r"baselines holds a str", "black"),
    (r"baselines holds a bool", True),
    (r"baselines holds a list", [0.0]),
    (r"baselines has 2 entries for 1 inputs", (0, 0)),
    (r"baselines holds values that are NaN", float("nan")),
    (r"baselines holds values that are NaN", torch.full((3, 5), float("inf"))),
]


@pytest.mark.parametrize(("message", "baselines"), BAD, ids=[m for m, _ in BAD])
def test_bad_references_get_one_sentence(message: str, baselines: Any) -> None:
    method = modbp.make("deeplift_rescale", nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    calls: list[Callable[[], Any]] = [
        lambda: method.attribute(X, baselines, 1),  # type: ignore[arg-type]
        lambda: method.relevance(X, target=1, baselines=baselines),
        lambda: method.attribute_classes(X, torch.ones(3, 1).long(), baselines=baselines),
    ]
    for call in calls:
        with pytest.raises(modbp.InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")


def test_only_deeplift_takes_a_reference() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(modbp.InputError, match="lrp_zplus compares with no reference"):
        modbp.make("lrp_zplus", net).relevance(X, target=1, baselines=0)


REFUSED: list[tuple[str, Callable[[], nn.Module]]] = [
    (r"no rule for softmax, which layer '1' applies", lambda: nn.Sequential(nn.Linear(5, 4), nn.Softmax(-1))),
    (r"no rule for log_softmax", lambda: nn.Sequential(nn.Linear(5, 4), nn.LogSoftmax(-1))),
    (
        r"no rule for (mul|__mul__|multiply)",
        lambda: nn.Sequential(nn.Linear(5, 4), Fn(lambda x: x * torch.sigmoid(x)), nn.Linear(4, 2)),
    ),
    (r"no rule for layer_norm", lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))),
    (
        r"layer '1' drops units at random.*call model.eval\(\)",
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 2)).train(),
    ),
    (r"batch norm in training mode", lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()).train()),
]


@pytest.mark.parametrize(("message", "build"), REFUSED, ids=[m for m, _ in REFUSED])
@pytest.mark.parametrize("name", ALL)
def test_what_has_no_rule_is_refused_by_name(name: str, message: str, build: Callable[[], nn.Module]) -> None:
    with pytest.raises(modbp.UnsupportedModelError, match=message) as caught:
        attributed(name, build(), torch.randn(3, 5), 0, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["deeplift_rescale", "deeplift_reveal_cancel"])
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_multipliers_do_not_depend_on_the_size_of_the_signals(name: str, scale: float) -> None:
    """Of a network without biases: its signals are as large as its input, and a quotient has no unit."""
    network = random_mlp(width=30, depth=4, outputs=3, seed=2)
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(3))
    reference = torch.randn(4, 30, generator=torch.Generator().manual_seed(4))
    method = modbp.make(name, network)
    plain = method.attribute(x, target=1, baselines=reference)
    scaled = method.attribute(scale * x, target=1, baselines=scale * reference) / scale
    assert torch.allclose(scaled, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))
