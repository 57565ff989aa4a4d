"""The engine: right on networks made to be awkward, and it leaves no trace on them."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Deconvolution as CaptumDeconvolution
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import modbp
from modbp import composite, zoo
from modbp._torchvision import torchvision
from modbp.backward import Trace
from modbp.eager import uncompiled
from modbp.metrics import relative_difference
from modbp.rules import RectGrad

RNG = np.random.default_rng(0)
W1, W2, W3 = (RNG.standard_normal(shape) for shape in ((7, 5), (7, 7), (4, 7)))
X = RNG.standard_normal((3, 5))

# The masks as they stand in the papers, for NumPy: the signal R at a ReLU of pre-activation z.
MASKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "gradient": lambda R, z: R * (z > 0),
    "deconvolution": lambda R, z: np.maximum(R, 0),
    "guided_backprop": lambda R, z: np.maximum(R, 0) * (z > 0),
    "rectgrad": lambda R, z: R * (np.maximum(z, 0) * R > 0.05),
}

# PatternNet and PatternAttribution need patterns, which are fitted to data.
METHODS = [name for name in modbp.METHODS if not name.startswith("pattern")]


def method(name: str, model: Callable[..., Tensor]) -> modbp.attr.ModifiedBackprop:
    return modbp.make(name, model, **({"threshold": 0.05} if name == "rectgrad" else {}))


def by_hand(name: str, target: int) -> np.ndarray:
    """The map of x ↦ W3 relu(W2 relu(W1 x)) in float64, one matrix product after the other."""
    mask = MASKS[name]
    z1 = X @ W1.T
    z2 = np.maximum(z1, 0) @ W2.T
    R = np.repeat(W3[[target]], len(X), axis=0)
    return mask(mask(R, z2) @ W2, z1) @ W1


class Chain(nn.Module):
    """W3 relu(W2 relu(W1 x)), with the ReLUs written in many ways."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.layers = nn.ModuleList([nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (W1, W2, W3)])
        self.relus = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.inplace = nn.ReLU(inplace=True)
        self.double()
        for layer, w in zip(self.layers, (W1, W2, W3), strict=True):
            layer.weight.data = torch.tensor(w)

    def rectify(self, z: Tensor, i: int) -> Tensor:
        if self.style == "modules":
            return self.relus[i](z)
        if self.style == "one module twice":
            return self.relus[0](z)
        if self.style == "one in-place module twice":
            return self.inplace(z)
        if self.style == "functional":
            return F.relu(z)
        if self.style == "functional, positional in-place":
            return F.relu(z, True)
        if self.style == "torch.relu and torch.relu_":
            return torch.relu(z) if i else torch.relu_(z)
        if self.style == "tensor methods":
            return z.relu() if i else z.relu_()
        if self.style == "in-place, result ignored":
            z.relu_()
            return z
        if self.style == "in-place on a view, result ignored":
            z.view(-1).relu_()
            return z
        if self.style == "in-place on a viewed tensor":
            flat = z.view(-1)
            z.relu_()
            return flat.view(z.shape)
        if self.style == "in-place module, result ignored":
            self.inplace(z)
            return z
        if self.style == "in-place, then in-place without effect, results ignored":
            z.relu_()
            F.dropout(z, 0.5, training=False, inplace=True)  # hands back its input itself
            return z
        if self.style == "clamp":
            return z.clamp(min=0) if i else torch.clamp_min(z, 0.0)
        if self.style == "clamp in place, result ignored":
            z.clamp_(min=0)
            return z
        if self.style == "threshold":
            return F.threshold(z, 0.0, 0.0, inplace=bool(i))
        raise AssertionError(self.style)

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(self.rectify(second(self.rectify(first(x), 0)), 1))


STYLES = [
    "modules",
    "one module twice",
    "one in-place module twice",
    "functional",
    "functional, positional in-place",
    "torch.relu and torch.relu_",
    "tensor methods",
    "in-place, result ignored",
    "in-place on a view, result ignored",
    "in-place on a viewed tensor",
    "in-place module, result ignored",
    "in-place, then in-place without effect, results ignored",
    "clamp",
    "clamp in place, result ignored",
    "threshold",
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", MASKS)
def test_every_way_to_write_a_relu_gives_the_map_computed_by_hand(name: str, style: str) -> None:
    net, x = Chain(style), torch.tensor(X)
    for target in range(4):
        found = method(name, net).attribute(x, target).numpy()
        np.testing.assert_allclose(found, by_hand(name, target), rtol=1e-12, atol=1e-14)
    assert torch.equal(x, torch.tensor(X)), "the caller's input was written to"
    assert not x.requires_grad


class Awkward(nn.Module):
    """Residual sums, in and out of place, concatenation, batch norm, odd strides, a reused convolution."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.stem = nn.Conv2d(3, 4, 5, stride=3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, dilation=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.head = nn.Linear(8 * 3 * 3, 5)
        self.double().eval()
        with torch.no_grad():
            self.norm.running_mean.normal_(0, 0.3)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm(self.stem(x)))
        g = self.relu(self.conv(h))
        if self.inplace:
            g += h
            g.mul_(0.5)
        else:
            g = 0.5 * (g + h)
        g = F.relu(self.conv(g) + h)
        both = torch.cat([self.pool(g), F.avg_pool2d(h, 3, 2, ceil_mode=True)], dim=1)
        return self.head(both.flatten(1))

    def reference(self, name: str, x: Tensor, start: Tensor) -> Tensor:
        """The same network backwards by hand: dense Jacobians between the ReLUs, masks at them."""
        mask, c = MASKS[name], self.conv

        def back(f: Callable[..., Tensor], at: Tensor, R: np.ndarray) -> np.ndarray:
            jacobian = torch.autograd.functional.jacobian(f, at).reshape(-1, at.numel()).numpy()
            return (R.reshape(1, -1) @ jacobian).reshape(at.shape)

        def masked(R: np.ndarray, z: Tensor) -> np.ndarray:
            return mask(R, z.numpy())

        with torch.no_grad():
            z1 = self.norm(self.stem(x))
            h = z1.clamp(min=0)
            z2 = c(h)
            g = 0.5 * (z2.clamp(min=0) + h)
            z3 = c(g) + h
            a3 = z3.clamp(min=0)

        def top(a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([self.pool(a), F.avg_pool2d(b, 3, 2, ceil_mode=True)], dim=1).flatten(1))

        R = start.numpy()
        R3 = masked(back(lambda a: top(a, h), a3, R), z3)
        Rg = back(c, g, R3)
        Rh = back(lambda b: top(a3, b), h, R) + R3 + 0.5 * Rg
        Rh = Rh + back(c, h, masked(0.5 * Rg, z2))
        return torch.tensor(back(lambda v: self.norm(self.stem(v)), x, masked(Rh, z1)))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_awkward_network_equals_the_hand_written_reference(name: str, inplace: bool) -> None:
    torch.manual_seed(1)
    net, x = Awkward(inplace=inplace), torch.randn(1, 3, 22, 22, dtype=torch.float64)
    start = torch.zeros(1, 5, dtype=torch.float64)
    start[0, 2] = 1
    expected = net.reference(name, x, start)
    assert expected.abs().max() > 0
    assert relative_difference(method(name, net).attribute(x, 2), expected) < 1e-12


def snapshot(net: nn.Module) -> tuple[object, ...]:
    hooks = [
        {key: dict(value) for key, value in vars(m).items() if "hooks" in key and isinstance(value, dict)}
        for m in net.modules()
    ]
    flags = [m.training for m in net.modules()]
    grads = [(p.requires_grad, p.grad is None) for p in net.parameters()]
    module = nn.modules.module
    everywhere = (len(module._global_forward_hooks), len(module._global_forward_pre_hooks))
    return hooks, flags, grads, [set(vars(m)) for m in net.modules()], everywhere


class Failing(Chain):
    """Raises between its two ReLUs."""

    def rectify(self, z: Tensor, i: int) -> Tensor:
        if i:
            raise RuntimeError("midway")
        return super().rectify(z, i)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("failing", [None, "forward", "backward"])
def test_the_model_is_the_same_before_and_after(
    failing: str | None, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    chain = Failing("modules") if failing == "forward" else Chain("one in-place module twice")
    net = nn.Sequential(nn.BatchNorm1d(5).double(), chain).train(training)
    state, seen = copy.deepcopy(net.state_dict()), snapshot(net)
    guided = modbp.make("guided_backprop", net)
    if failing == "backward":

        def broken(*args: object) -> Tensor:
            raise RuntimeError("midway")

        monkeypatch.setattr(modbp.rules.GuidedBackprop, "__call__", broken)
    if failing:
        with pytest.raises(RuntimeError, match="midway"):
            guided.relevance(torch.tensor(X), ["1.layers.0", "input"], target=0)
    else:
        guided.relevance(torch.tensor(X), ["1.layers.0", "input"], target=0)
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert snapshot(net) == seen


@given(
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_identities_of_bias_free_networks(widths: list[int], seed: int) -> None:
    """⟨x, gradient⟩ = logit (Euler), and ⟨x, Guided Backprop⟩ ≥ 0 for any weights."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], 3, bias=False)).double()
    x = torch.randn(4, widths[0], dtype=torch.float64)
    logits = net(x).detach()
    for k in range(3):
        gradient = modbp.make("gradient", net).attribute(x, k)
        assert torch.allclose((x * gradient).sum(1), logits[:, k], rtol=1e-10, atol=1e-12)
        guided = modbp.make("guided_backprop", net).attribute(x, k)
        assert ((x * guided).sum(1) >= -1e-12).all()


def test_the_sign_identity_holds_with_the_first_layer_bias_free_and_pooling() -> None:
    """⟨x, Guided Backprop⟩ = Σ max(R₁, 0) a₁ needs only the first layer to have no bias."""
    torch.manual_seed(3)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 4 * 4, 4)),
    ).double()
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    guided = modbp.make("guided_backprop", net)
    found = guided.relevance(x, ["1", "input"], target=[0, 3])
    left = (x * found["input"]).flatten(1).sum(1)
    activation = net[1](net[0](x)).detach()
    assert torch.allclose(left, (found["1"].clamp(min=0) * activation).flatten(1).sum(1), rtol=1e-12)
    assert (left > 0).all()


@pytest.mark.parametrize("weights", [zoo.EMBEDDED, zoo.RANDOM])
@pytest.mark.parametrize(
    ("name", "peer"), [("guided_backprop", CaptumGuidedBackprop), ("deconvolution", CaptumDeconvolution)]
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_equal_to_captum_on_vgg16(weights: str, name: str, peer: type, photographs_224: Tensor) -> None:
    net = vgg16(weights)
    x = photographs_224[:1]
    ours, theirs = (
        modbp.make(name, net).attribute(x, target=4),
        peer(net).attribute(x.clone().requires_grad_(), target=4),
    )
    assert relative_difference(ours, theirs) < 1e-5


@pytest.fixture(scope="module")
def photographs_224() -> Tensor:
    network = vgg16(zoo.EMBEDDED)
    return torch.stack([network.transform(p.image) for p in modbp.images.load(n=2)])


_networks: dict[str, nn.Module] = {}


def vgg16(weights: str) -> nn.Module:
    if weights not in _networks:
        _networks[weights] = zoo.load("vgg16", weights=weights)
    return _networks[weights]


@pytest.mark.parametrize("name", METHODS)
def test_many_starts_in_one_backward_equal_the_loop(name: str) -> None:
    torch.manual_seed(5)
    net = Awkward(inplace=True)
    x = torch.randn(2, 3, 22, 22, dtype=torch.float64)
    trace = modbp.make(name, net).trace(x, ["conv:0", "relu:0"])
    starts = torch.randn(4, *trace.output.shape, dtype=torch.float64)
    points = ["conv:0", "relu:0", "input"]
    together = trace.relevance(points, start=starts)
    for i, start in enumerate(starts):
        alone = trace.relevance(points, start=start)
        for point in points:
            # To rounding: a convolution may sum a larger batch in another order.
            assert relative_difference(together[point][i], alone[point]) < 1e-12


@pytest.mark.parametrize("name", [n for n in METHODS if not modbp.make(n, nn.Identity()).multiplies_by_inputs])
def test_relevance_passes_through_any_point_on_the_way(name: str) -> None:
    """From the logits to the input in one go, or by way of a layer that everything crosses: the same map."""
    torch.manual_seed(6)
    net = Awkward(inplace=False)
    x = torch.randn(2, 3, 22, 22, dtype=torch.float64)
    trace = modbp.make(name, net).trace(x, ["norm"])
    start = torch.randn_like(trace.output)
    whole = trace.relevance(["norm", "input"], start=start)
    lower = trace.relevance(["input"], start=whole["norm"], start_at="norm")
    assert relative_difference(lower["input"], whole["input"]) < 1e-12


def test_vgg16_from_a_layer_to_layers(photographs_224: Tensor) -> None:
    """Between two layers the map is the chain of the rule and the adjoints, here by torch's own convolutions."""
    net = vgg16(zoo.EMBEDDED)
    trace = modbp.make("guided_backprop", net).trace(photographs_224[:1], ["features.28", "features.29", "features.27"])
    R = torch.randn_like(trace.activation("features.29"))
    found = trace.relevance(["features.28", "features.27"], start=R, start_at="features.29")
    expected = R.clamp(min=0) * (trace.activation("features.28") > 0)
    assert torch.equal(found["features.28"], expected)
    below = torch.nn.grad.conv2d_input(
        trace.activation("features.27").shape, net.features[28].weight.detach(), expected, padding=1
    )
    assert relative_difference(found["features.27"], below) < 1e-5


CAPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU6(),
    "in-place module": nn.ReLU6(inplace=True),
    "relu6": F.relu6,
    "hardtanh": lambda z: F.hardtanh(z, 0.0, 6.0),
    "in-place hardtanh module": nn.Hardtanh(0, 6, inplace=True),
    "clamp": lambda z: z.clamp(0, 6),
    "clamp in place, result ignored": lambda z: (z.clamp_(min=0, max=6), z)[1],
    "clip": lambda z: torch.clip(z, 0, 6),
    "two steps": lambda z: F.relu(z).clamp(max=6),
}


@pytest.mark.parametrize("style", CAPPED)
@pytest.mark.parametrize("name", MASKS)
def test_a_rule_acts_on_the_relu_of_a_relu6_and_the_cap_is_differentiated(name: str, style: str) -> None:
    """min(max(z, 0), 6): the signal stops where the cap is reached, and then meets the mask of the ReLU."""
    first, last = torch.tensor(4 * W1), torch.tensor(W3)
    z = X @ first.numpy().T
    assert (z > 6).any()
    assert ((z > 0) & (z < 6)).any()

    def model(x: Tensor) -> Tensor:
        return CAPPED[style](x @ first.T) @ last.T

    for target in range(4):
        R = np.repeat(W3[[target]], len(X), axis=0) * (z < 6)
        found = method(name, model).attribute(torch.tensor(X), target)
        np.testing.assert_allclose(found.numpy(), MASKS[name](R, z) @ first.numpy(), rtol=1e-12, atol=1e-14)


class Refused(nn.Module):
    """Something on which the rules have no meaning."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(5, 6), nn.Linear(6, 3)
        self.other = {"gelu": nn.GELU(), "prelu": nn.PReLU(), "hardtanh": nn.Hardtanh()}.get(how)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no relu":
            return self.last(torch.tanh(self.first(x)))
        if self.how == "clamp to [-1, 6]":
            return self.last(self.first(x).clamp(-1, 6))
        if self.how == "functional leaky relu":
            return self.last(F.leaky_relu(self.first(x)))
        if self.how == "no_grad":
            with torch.no_grad():
                h = F.relu(self.first(x))
            return self.last(h + x.sum())
        if self.how == "reentrant checkpoint":
            return self.last(checkpoint(lambda v: F.relu(self.first(v)), x, use_reentrant=True))
        if self.how == "tuple":
            return F.relu(self.first(x)), x  # type: ignore[return-value]
        return self.last(self.other(F.relu(self.first(x))))


@pytest.mark.parametrize(
    "how",
    [
        *("gelu", "prelu", "hardtanh", "no relu", "clamp to [-1, 6]", "functional leaky relu", "no_grad"),
        *("reentrant checkpoint", "tuple"),
    ],
)
def test_a_model_on_which_the_rule_has_no_meaning_is_refused(how: str) -> None:
    with pytest.raises(modbp.UnsupportedModelError, match=r"allowed|needs them on"):
        modbp.make("guided_backprop", Refused(how)).attribute(torch.randn(2, 5), 1)


@pytest.mark.parametrize("how", ["gelu", "no relu", "clamp to [-1, 6]"])
def test_the_gradient_is_refused_nothing(how: str) -> None:
    net, x = Refused(how), torch.randn(2, 5)
    (expected,) = torch.autograd.grad(net(leaf := x.clone().requires_grad_())[:, 1].sum(), leaf)
    assert torch.equal(modbp.make("gradient", net).attribute(x, 1), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_torchscript_is_refused_and_compiled_models_are_right() -> None:
    net, x = Chain("functional"), torch.tensor(X)
    expected = modbp.make("guided_backprop", net).attribute(x, 1)
    scripted = torch.jit.trace(net, x)
    with pytest.raises(modbp.UnsupportedModelError, match="TorchScript"):
        modbp.make("guided_backprop", scripted).attribute(x, 1)
    compiled = torch.compile(net, backend="eager")
    inside = nn.Sequential(torch.compile(net, backend="eager"))
    for model, layer in ((compiled, "layers.0"), (inside, "0._orig_mod.layers.0")):
        model(x)  # warm: what was compiled would hide its operations
        found = modbp.make("guided_backprop", model).relevance(x, [layer, "input"], target=1)
        assert torch.equal(found["input"], expected)
        assert found[layer].shape == (3, 7)


def test_no_thread_runs_compiled_code_and_none_leaves_compiling_off() -> None:
    """What turns compiling off is one for the whole process, so threads must agree on it."""
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        def compiled(*args: Any) -> Any:
            runs.append(1)
            return graph.forward(*args)

        return compiled

    net, x = Chain("functional"), torch.tensor(X)
    compiled = torch.compile(net, backend=backend)
    compiled(x)
    assert runs
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with uncompiled():
            entered.set()
            left.wait(60)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(first)
        assert entered.wait(60)
        with uncompiled():
            left.set()
            done.result()
            runs.clear()
            compiled(x)
            assert not runs, "the first thread has turned compiling on again"
    compiled(x)
    assert runs, "the last thread has not turned compiling on again"
    with pytest.raises(modbp.UnsupportedModelError):
        modbp.make("guided_backprop", nn.Sequential(nn.Linear(5, 2), nn.GELU())).attribute(torch.randn(2, 5), 1)
    expected = modbp.make("guided_backprop", net).attribute(x, 1)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: modbp.make("guided_backprop", compiled).attribute(x, 1), range(64)):
            assert torch.equal(found, expected)
    runs.clear()
    compiled(x)
    assert runs


def test_another_thread_is_left_alone() -> None:
    """The substitution belongs to the thread that asked for it, and so do the recorded layers."""
    net, x = Chain("modules"), torch.tensor(X)
    results: list[Tensor] = []

    def plain() -> None:
        leaf = x.clone().requires_grad_()
        results.append(torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)[0])

    class Meanwhile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, v: Tensor) -> Tensor:
            thread = threading.Thread(target=plain)
            thread.start()
            thread.join()
            return self.net(v)

    model = Meanwhile()
    relevance = modbp.make("guided_backprop", model).relevance(x, ["net.relus.0"], target=1)
    assert relevance["net.relus.0"].shape == (3, 7)
    np.testing.assert_allclose(results[0].numpy(), by_hand("gradient", 1), rtol=1e-12)


def test_non_reentrant_checkpointing_and_deep_copies_of_composites() -> None:
    class Checkpointed(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)  # type: ignore[no-any-return]

    x = torch.tensor(X)
    np.testing.assert_allclose(
        modbp.make("guided_backprop", Checkpointed("functional")).attribute(x, 1).numpy(),
        by_hand("guided_backprop", 1),
        rtol=1e-12,
    )
    assert composite.guided_backprop() == composite.guided_backprop()


@given(
    percentile=st.floats(0, 100),
    seed=st.integers(0, 2**31 - 1),
    size=st.integers(1, 200),
)
@settings(max_examples=80, deadline=None)
def test_rectgrad_keeps_what_exceeds_the_percentile(percentile: float, seed: int, size: int) -> None:
    torch.manual_seed(seed)
    relevance, activation = torch.randn(3, size).double(), torch.randn(3, size).double().clamp(min=0)
    found = RectGrad(percentile)(relevance, activation)
    product = (activation * relevance).numpy()
    tau = np.percentile(product, percentile, axis=1, method="nearest", keepdims=True)
    expected = relevance.numpy() * (product > tau)
    # "nearest" of a tie between two ranks is a convention; both neighbors are right there.
    rank = percentile / 100 * (size - 1)
    if abs(rank - np.floor(rank) - 0.5) > 1e-9:
        np.testing.assert_array_equal(found.numpy(), expected)


def test_rectgrad_without_a_threshold_is_guided_backprop() -> None:
    torch.manual_seed(2)
    net, x = Awkward(inplace=True), torch.randn(2, 3, 22, 22, dtype=torch.float64)
    rectified = modbp.make("rectgrad", net, threshold=0.0).attribute(x, 1)
    assert torch.equal(rectified, modbp.make("guided_backprop", net).attribute(x, 1))


class Overwriting(nn.Module):
    """A ReLU, in place or not, of a tensor whose value the way back may need."""

    def __init__(self, keeper: str, *, inplace: bool) -> None:
        super().__init__()
        self.keeper, self.inplace = keeper, inplace
        self.conv = nn.Conv2d(1, 4, 3, padding=1).double()
        self.addresses: tuple[int, int] = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        extra = torch.zeros((), dtype=x.dtype)
        z = self.conv(x)
        if self.keeper == "its own operation":
            z = torch.tanh(z)
        elif self.keeper == "a product":
            extra = z * z
        elif self.keeper == "a pool with indices":
            extra = F.max_pool2d(z, 3, 1, 1, return_indices=True)[0]
        with torch._C.DisableTorchFunction():  # to look without being seen by the engine
            before = z.data_ptr()
        rectified = F.relu(z, inplace=self.inplace)
        self.addresses = before, rectified.data_ptr()
        return (rectified * rectified + extra).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("keeper", ["nothing", "its own operation", "a product", "a pool with indices"])
def test_an_in_place_relu_writes_only_where_the_way_back_needs_nothing(keeper: str, name: str) -> None:
    torch.manual_seed(0)
    net, x = Overwriting(keeper, inplace=True), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    found = method(name, net).attribute(x, 0)
    before, after = net.addresses
    assert (before == after) == (keeper == "nothing" and name != "gradient")
    net.inplace = False
    torch.testing.assert_close(found, method(name, net).attribute(x, 0), rtol=0, atol=0)


def test_a_recorded_layer_keeps_its_output_behind_an_in_place_relu() -> None:
    net, x = Overwriting("nothing", inplace=True), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    trace = Trace(net, x, composite.guided_backprop(), ["conv"])
    torch.testing.assert_close(trace.activation("conv"), net.conv(x).detach(), rtol=0, atol=0)


def test_what_the_model_has_let_go_of_does_not_stay_in_memory() -> None:
    alive: list[bool] = []

    def model(x: Tensor) -> Tensor:
        z = (2 * x).relu()
        old = weakref.ref(z)
        z += x  # in place, and therefore a new tensor here
        alive.append(old() is not None)
        return z.relu()

    modbp.make("deconvolution", model).attribute(torch.ones(1, 2), 0)
    assert alive == [False]


class Everything(nn.Module):
    """Batch norms that merge and that do not, a reused in-place ReLU, pools, a residual sum and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.norm, self.late = nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.relu, self.pool, self.mean = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.pool(self.relu(self.norm(self.one(x))))
        b = self.relu(self.two(a)) + a
        c = self.relu(self.late(torch.cat([b, F.pad(self.three(b), (0, 0))], 1)))
        return self.head(self.mean(c).flatten(1))


@pytest.mark.parametrize("name", [m for m in modbp.METHODS if not m.startswith("pattern")])
def test_a_trace_leaves_nothing_in_memory_when_it_goes(name: str) -> None:
    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    torch.manual_seed(0)
    net, x = Everything().eval(), torch.randn(1, 3, 8, 8)
    rules, layers = modbp.make(name, net).composite, ["one", "norm", "pool", "late"]
    gc.collect()
    gc.disable()  # nothing may hang on to itself: a large tensor does not make Python collect what does
    try:
        before = tensors()
        for _ in range(2):
            trace = Trace(net, x, rules, layers)
            for multiply in (None, True):
                trace.relevance([*layers, "input"], start=torch.eye(5)[:2, None], multiply=multiply)
            del trace
        assert tensors() == before
    finally:
        gc.enable()


def test_points_and_starts_that_do_not_fit_are_named() -> None:
    net, x = Awkward(inplace=False), torch.randn(1, 3, 22, 22, dtype=torch.float64)
    guided = composite.guided_backprop()
    cases: list[tuple[str, Callable[[], object]]] = [
        (r"no layer 'features.99'", lambda: Trace(net, x, guided, ["features.99"])),
        (r"ran 2 times; allowed are 'conv:0' to 'conv:1'", lambda: Trace(net, x, guided, ["conv"])),
        (r"no call '7'; allowed are 0 to 1", lambda: Trace(net, x, guided, ["conv:7"])),
        (r"was not recorded", lambda: Trace(net, x, guided).relevance(["norm"])),
        (r"start is \(1, 3\)", lambda: Trace(net, x, guided).relevance(start=torch.ones(1, 3))),
        (r"start is float", lambda: Trace(net, x, guided).relevance(start=1.0)),  # type: ignore[arg-type]
        (r"does not lie below", lambda: Trace(net, x, guided, ["pool"]).relevance(["output"], start_at="pool")),
        (r"below which there is nothing", lambda: Trace(net, x, guided).relevance(start_at="input")),
        (r"model is of type int", lambda: Trace(3, x, guided)),  # type: ignore[arg-type]
    ]
    for message, call in cases:
        with pytest.raises(modbp.InputError, match=message):
            call()
    trace = Trace(net, x, guided)
    trace.relevance(keep=False)
    with pytest.raises(modbp.InputError, match="keep=False"):
        trace.relevance()


def with_relu_modules(model: nn.Module) -> nn.Module:
    """The same network with ReLU modules in place of its functional ReLUs: what Captum can hook."""
    model = copy.deepcopy(model)
    for block in model.modules():
        if type(block).__name__ == "BasicConv2d":  # GoogLeNet's
            block.relu = nn.ReLU()
            block.forward = lambda x, block=block: block.relu(block.bn(block.conv(x)))
    if type(model).__name__ == "DenseNet":
        model.last = nn.ReLU()
        model.forward = lambda x: model.classifier(model.last(model.features(x)).mean((2, 3)))
    return model


@pytest.mark.parametrize("architecture", ["resnet18", "googlenet", "densenet121", "squeezenet1_1"])
@pytest.mark.parametrize(
    ("name", "peer"), [("guided_backprop", CaptumGuidedBackprop), ("deconvolution", CaptumDeconvolution)]
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:.*init_weights.*:FutureWarning")
def test_equal_to_captum_on_other_architectures(architecture: str, name: str, peer: type) -> None:
    """Reused and in-place ReLUs, residual sums, concatenation, and functional ReLUs, which Captum passes over."""
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if architecture == "googlenet" else {}
    net = getattr(torchvision().models, architecture)(weights=None, num_classes=10, **options).double().eval()
    x = torch.randn(2, 3, 80, 80, dtype=torch.float64)
    ours = modbp.make(name, net).attribute(x, target=3)
    theirs = peer(with_relu_modules(net)).attribute(x.clone().requires_grad_(), target=3)
    assert relative_difference(ours, theirs) < 1e-9
