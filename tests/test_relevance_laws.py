"""What holds for relevance whatever the network: conservation, limits, linearity, and which rule acts where."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import modbp
from modbp.attr.methods import Preset
from modbp.backward import Trace
from modbp.composite import Composite
from modbp.metrics import relative_difference
from modbp.rules import (
    AlphaBeta,
    Contrast,
    Epsilon,
    Flat,
    Gamma,
    RectGrad,
    Transposed,
    WSquare,
    ZBox,
    ZPlus,
)

EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True)

NAMES = (
    *("lrp_z", "lrp_epsilon", "lrp_gamma", "lrp_alpha_beta", "lrp_zplus", "lrp_alpha2_beta1", "lrp_alpha5_beta4"),
    *("lrp_w_square", "lrp_flat", "lrp_z_box", "deep_taylor", "excitation_bp", "contrastive_excitation_bp"),
    *("epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"),
)
"""The methods whose rules act on affine layers and that need nothing but a model."""

RULES = [
    *(Epsilon(0.0), Epsilon(0.3, "excluded"), Gamma(0.5), AlphaBeta(2.0), AlphaBeta(5.0, bias="included"), ZPlus()),
    *(Contrast(), WSquare(), WSquare("included"), Flat(), ZBox(-3.0, 3.0), ZBox(), Transposed()),
]
widths = st.lists(st.integers(1, 9), min_size=2, max_size=4)
seeds = st.integers(0, 2**31 - 1)


def test_every_preset_that_propagates_is_covered() -> None:
    assert set(NAMES) <= set(modbp.METHODS)
    for name in NAMES:
        assert issubclass(modbp.METHODS[name], Preset)
        assert modbp.make(name, nn.Identity()).composite.propagates


# Networks.


def perceptron(widths: list[int], seed: int, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 3, bias)).double()


def convolutional(seed: int, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=bias), nn.ReLU(), nn.AvgPool2d(2, 1)),
        *(nn.Flatten(), nn.Linear(16, 3, bias=bias)),
    ).double()


class Normed(nn.Module):
    """A convolution, a transposed one and a linear layer, each with a batch norm behind it; a residual sum."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.conv_norm = nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.up, self.up_norm = nn.ConvTranspose2d(4, 4, 2, stride=2, bias=False), nn.BatchNorm2d(4)
        self.hidden, self.hidden_norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        self.double().eval()
        with torch.no_grad():
            for m in self.modules():
                if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                    m.running_mean.normal_(0, 0.5)
                    m.running_var.uniform_(0.5, 2)
                    m.weight.normal_()
                    m.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv_norm(self.conv(x)))
        h = F.relu(self.up_norm(self.up(h)) + h.repeat(1, 1, 2, 2))
        h = F.relu(self.hidden_norm(self.hidden(h.mean((2, 3)))))
        return self.head(h)

    def fused(self) -> Normed:
        """The same network with every batch norm multiplied into the layer before it, by torch."""
        net = copy.deepcopy(self)
        net.conv = fuse_conv_bn_eval(self.conv, self.conv_norm)
        net.up = fuse_conv_bn_eval(self.up, self.up_norm, transpose=True)
        net.hidden = fuse_linear_bn_eval(self.hidden, self.hidden_norm)
        net.conv_norm = net.up_norm = net.hidden_norm = nn.Identity()
        return net


def image(batch: int = 2, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, 2, 6, 6, dtype=torch.float64)


def relevance(model: Callable[..., Tensor], x: Any, composite: Composite, start: Tensor, at: str = "input") -> Tensor:
    return Trace(model, x, composite, [] if at == "input" else [at]).relevance([at], start=start)[at]


def everywhere(rule: Any, **options: Any) -> Composite:
    return Composite("everywhere", {"affine": rule}, **options)


def per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def start_where_positive(model: nn.Module, x: Tensor) -> Tensor:
    """A random start at the positive logits: what is positive has positive contributions, and so has all it reaches."""
    logits = model(x).detach()
    assume(bool((logits > 0).any()))
    return torch.randn_like(logits) * (logits > 0)


# Conservation.


@pytest.mark.parametrize("rule", [ZPlus(), WSquare(), Flat(), AlphaBeta(1.0, bias="excluded")], ids=repr)
@given(widths=widths, seed=seeds)
@EXAMPLES
def test_relevance_is_conserved_without_biases(rule: Any, widths: list[int], seed: int) -> None:
    for net, x in (
        (perceptron(widths, seed), torch.randn(4, widths[0], dtype=torch.float64)),
        (convolutional(seed), image(4, seed)),
    ):
        logits = net(x).detach()
        start = torch.randn_like(logits) * (logits > 0)
        found = relevance(net, x, everywhere(rule), start)
        assert torch.allclose(per_sample(found), start.sum(1), rtol=1e-9, atol=1e-9)


@given(seed=seeds, alpha=st.sampled_from([1.5, 2.0, 5.0]), depth=st.integers(1, 3))
@EXAMPLES
def test_alpha_beta_conserves_where_every_unit_has_contributions_of_both_signs(
    seed: int, alpha: float, depth: int
) -> None:
    width = 24
    net = perceptron([width] * (depth + 1), seed)
    x = torch.randn(2, width, dtype=torch.float64)
    a = x
    for layer in net:
        if isinstance(layer, nn.Linear):
            contributions = layer.weight * a[:, None, :]
            assume(bool(((contributions > 0).any(-1) & (contributions < 0).any(-1)).all()))
        a = layer(a)
    start = torch.randn(2, 3, dtype=torch.float64)
    found = relevance(net, x, everywhere(AlphaBeta(alpha)), start)
    assert torch.allclose(per_sample(found), start.sum(1), rtol=1e-7, atol=1e-7)


@given(widths=widths, seed=seeds)
@EXAMPLES
def test_zb_conserves_inside_its_box(widths: list[int], seed: int) -> None:
    for net, shape in ((perceptron(widths, seed), (widths[0],)), (convolutional(seed), (2, 6, 6))):
        x = torch.rand(2, *shape, dtype=torch.float64)
        start = torch.randn(2, 3, dtype=torch.float64)
        found = relevance(net, x, everywhere(WSquare(), first=ZBox(-0.1, 1.1)), start)
        assert torch.allclose(per_sample(found), start.sum(1), rtol=1e-9, atol=1e-9)


@given(n_in=st.integers(1, 8), n_out=st.integers(1, 8), seed=seeds)
@EXAMPLES
def test_the_matrix_of_zplus_has_columns_that_sum_to_one(n_in: int, n_out: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer, x = nn.Linear(n_in, n_out).double(), torch.randn(1, n_in, dtype=torch.float64)
    starts = torch.eye(n_out, dtype=torch.float64)[:, None]
    matrix = relevance(layer, x, everywhere(ZPlus()), starts)[:, 0]  # one row per output here
    reachable = ((layer.weight * x) > 0).any(1).double()
    assert (matrix >= 0).all()
    assert torch.allclose(matrix.sum(1), reachable, rtol=1e-12)


# Limits, and rules that are one.


@given(widths=widths, seed=seeds)
@EXAMPLES
def test_beta_zero_is_zplus(widths: list[int], seed: int) -> None:
    net, x = perceptron(widths, seed, bias=True), torch.randn(2, widths[0], dtype=torch.float64)
    start = torch.randn(2, 3, dtype=torch.float64)
    for bias in ("excluded", "split", "included"):
        pair = [relevance(net, x, everywhere(rule), start) for rule in (AlphaBeta(1.0, 0.0, bias), ZPlus(bias=bias))]
        assert torch.equal(*pair)


@given(widths=widths, seed=seeds)
@EXAMPLES
def test_epsilon_to_zero_is_input_times_gradient_without_biases(widths: list[int], seed: int) -> None:
    for net, x in (
        (perceptron(widths, seed), torch.randn(2, widths[0], dtype=torch.float64)),
        (convolutional(seed), image(2, seed)),
    ):
        start = net(x).detach() * torch.randn(2, 3, dtype=torch.float64)
        gradient = relevance(net, x, modbp.make("input_x_gradient", net).composite, start / net(x).detach())
        assume(bool(gradient.abs().max() > 0))
        # By the chain of shares, R = x · ∂z/∂x · R_top / z_top.
        errors = [
            float((relevance(net, x, everywhere(Epsilon(e)), start) - gradient).abs().max() / gradient.abs().max())
            for e in (1e-3, 1e-6, 0.0)
        ]
        assert errors[2] < 1e-8
        assert errors[1] <= max(errors[0], 1e-8)


@given(widths=widths, seed=seeds)
@EXAMPLES
def test_gamma_lies_between_lrp_0_and_zplus(widths: list[int], seed: int) -> None:
    net, x = perceptron(widths, seed), torch.randn(2, widths[0], dtype=torch.float64)
    start = start_where_positive(net, x)
    none, much, zero, plus = (
        relevance(net, x, everywhere(rule), start) for rule in (Gamma(0.0), Gamma(1e13), Epsilon(0.0), ZPlus())
    )
    assert torch.allclose(none, zero, rtol=1e-8, atol=1e-10)
    assert torch.allclose(much, plus, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(seed=seeds, s=st.floats(-3, 3), t=st.floats(-3, 3))
@EXAMPLES
def test_relevance_is_linear_in_its_start(rule: Any, seed: int, s: float, t: float) -> None:
    net, x = convolutional(seed, bias=True), image(2, seed)
    first, second = torch.randn(2, 2, 3, dtype=torch.float64)
    whole, one, two = (relevance(net, x, everywhere(rule), start) for start in (s * first + t * second, first, second))
    scale = abs(s) * one.abs().max() + abs(t) * two.abs().max()
    assert (whole - s * one - t * two).abs().max() <= 1e-10 * scale + 1e-300


@given(widths=widths, seed=seeds, target=st.integers(0, 2))
@EXAMPLES
def test_contrastive_excitation_is_a_difference_of_two_and_sums_to_zero(
    widths: list[int], seed: int, target: int
) -> None:
    net, x = perceptron(widths, seed, bias=True), torch.randn(2, widths[0], dtype=torch.float64)
    opposite = copy.deepcopy(net)
    opposite[-1].weight.data.neg_()
    contrast = modbp.make("contrastive_excitation_bp", net).attribute(x, target)
    maps = [modbp.make("excitation_bp", model).attribute(x, target) for model in (net, opposite)]
    assert torch.allclose(contrast, maps[0] - maps[1], rtol=1e-12, atol=1e-14)
    sums = torch.stack([per_sample(m) for m in maps])
    both = (sums > 0.5).all(0)  # each map sums to one, or a layer's bias alone has made a unit active
    full = both & torch.isclose(sums, torch.ones_like(sums), atol=1e-9).all(0)
    assert torch.allclose(per_sample(contrast)[full], torch.zeros(int(full.sum())).double(), atol=1e-9)


# Which rule acts where.


def in_turn(layers: nn.Sequential, rules: Mapping[int, Any], x: Tensor, start: Tensor) -> Tensor:
    """Each layer alone, from the top: what a composite does, with the choice of rules made by hand."""
    inputs = [x]
    for layer in layers:
        inputs.append(layer(inputs[-1]).detach())
    R = start
    for i in reversed(range(len(layers))):
        R = (
            relevance(layers[i], inputs[i], everywhere(rules[i]), R)
            if i in rules
            else per_entry(layers[i], inputs[i], R)
        )
    return R


def per_entry(layer: nn.Module, x: Tensor, R: Tensor) -> Tensor:
    return (
        R if isinstance(layer, nn.ReLU) else torch.autograd.grad(layer(leaf := x.clone().requires_grad_()), leaf, R)[0]
    )


A, B, C, D = WSquare(), Flat(), ZPlus(), Epsilon(0.1)
CHOICES: dict[str, tuple[Composite, tuple[Any, Any, Any, Any]]] = {
    # For the convolutions 0 and 3, the pool 5 and the linear layer 7.
    "one for all": (Composite("c", {"affine": A}), (A, A, A, A)),
    "kinds": (Composite("c", {"convolution": A, "average_pool": B, "linear": C}), (A, A, B, C)),
    "a kind before affine": (Composite("c", {"affine": D, "convolution": A}), (A, A, D, D)),
    "first": (Composite("c", {"affine": D}, first=A), (A, D, D, D)),
    "last": (Composite("c", {"affine": D}, last=A), (D, D, D, A)),
    "first and last before kinds": (Composite("c", {"affine": D, "convolution": B}, first=A, last=C), (A, B, D, C)),
    "a name": (Composite("c", {"affine": D}, layers={"3": A}), (D, A, D, D)),
    "names before first and last": (Composite("c", {"affine": D}, {"0": B, "7": C}, A, A), (B, D, D, C)),
    "a pattern": (Composite("c", {"affine": D}, layers={"[37]": A}), (D, A, D, A)),
    "a name before a pattern": (Composite("c", {}, layers={"*": A, "5": B}), (A, A, B, A)),
    "the first pattern": (Composite("c", {}, layers={"[0-3]": C, "*": A}), (C, C, A, A)),
    "names of pools": (Composite("c", {"affine": D}, layers={"5": B}), (D, D, B, D)),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_composite_chooses_by_name_position_and_kind(choice: str) -> None:
    composite, rules = CHOICES[choice]
    net, x = convolutional(3, bias=True), image()
    start = torch.randn(2, 3, dtype=torch.float64)
    expected = in_turn(net, dict(zip((0, 3, 5, 7), rules, strict=True)), x, start)
    assert relative_difference(relevance(net, x, composite, start), expected) < 1e-12


def test_kinds_of_batch_norm_and_sum_are_chosen_too() -> None:
    torch.manual_seed(0)
    norm = Normed().conv_norm
    net, x = nn.Sequential(nn.Conv2d(2, 4, 3).double(), norm, nn.ReLU()), image()
    composite = Composite("c", {"convolution": A, "batch_norm": D}, batch_norm="affine")
    start = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    expected = in_turn(net, {0: A, 1: D}, x, start)
    assert relative_difference(relevance(net, x, composite, start), expected) < 1e-12
    conv = nn.Conv2d(2, 2, 3, padding=1).double()
    found = relevance(lambda v: conv(v) + v, x, Composite("c", {"convolution": A, "sum": B}), torch.ones_like(x))
    half = torch.full_like(x, 0.5)
    assert relative_difference(found, half + relevance(conv, x, everywhere(A), half)) < 1e-12


def test_all_layers_that_meet_the_input_are_first_and_all_that_make_the_output_last() -> None:
    torch.manual_seed(0)
    a, b, c, d = (nn.Linear(4, 4).double() for _ in range(4))
    x, start = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)

    def model(v: Tensor) -> Tensor:
        h = F.relu(a(v) + b(2 * v.clone()))
        return c(h) - d(h)

    def back(layer: nn.Module, rule: Any, given: Tensor, R: Tensor) -> Tensor:
        return relevance(layer, given, everywhere(rule), R)

    found = relevance(model, x, Composite("c", {"affine": B}, first=A, last=C), start)
    h = F.relu(a(x) + b(2 * x)).detach()
    half = start / 2  # the flat rule at a sum of two
    middle = (back(c, C, h, half) + back(d, C, h, half)) / 2
    assert relative_difference(found, back(a, A, x, middle) + back(b, A, 2 * x, middle)) < 1e-12


# One graph, many ways through it.


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(seed=seeds, starts=st.integers(1, 5))
@settings(EXAMPLES, max_examples=10)
def test_many_starts_at_once_equal_one_after_the_other(rule: Any, seed: int, starts: int) -> None:
    net, x = convolutional(seed, bias=True), image(2, seed)
    trace = Trace(net, x, everywhere(rule), ["3"])
    start = torch.randn(starts, 2, 3, dtype=torch.float64)
    start[0] = 0
    together = trace.relevance(["3", "input"], start=start)
    for i, one in enumerate(start):
        for point, alone in trace.relevance(["3", "input"], start=one).items():
            # To rounding: BLAS may sum a larger batch in another order.
            assert torch.allclose(together[point][i], alone, rtol=1e-12, atol=1e-13 * float(alone.abs().max()))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_many_starts_at_one_layer_are_bit_for_bit_those_of_a_loop(rule: Any) -> None:
    """Where no sum can be taken in another order: one output reaches each input."""
    torch.manual_seed(0)
    layer, x = nn.Conv1d(2, 2, 4, stride=4, groups=2).double(), torch.randn(3, 2, 12, dtype=torch.float64)
    trace = Trace(layer, x, everywhere(rule))
    starts = torch.randn(4, *trace.output.shape, dtype=torch.float64)
    loop = torch.stack([trace.relevance(start=start)["input"] for start in starts])
    assert torch.equal(trace.relevance(start=starts)["input"], loop)


@pytest.mark.parametrize("name", NAMES)
def test_a_merged_batch_norm_is_the_network_merged_by_hand(name: str) -> None:
    for seed in range(3):
        net, x = Normed(seed), image(3, seed)
        fused, classes = net.fused(), torch.arange(3).expand(3, 3)
        assert relative_difference(net(x).detach(), fused(x).detach()) < 1e-12
        pair = [modbp.make(name, model).attribute_classes(x, classes) for model in (net, fused)]
        assert relative_difference(*pair) < 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_see_the_others_of_its_batch(name: str) -> None:
    net, x = Normed(), image(4)
    method = modbp.make(name, net)
    one_by_one = torch.cat([method.attribute(sample[None], 1) for sample in x])
    assert relative_difference(method.attribute(x, 1), one_by_one) < 1e-10


def test_zb_at_a_sum_takes_each_samples_own_bounds() -> None:
    torch.manual_seed(0)
    pair = torch.randn(2, 3, 4, dtype=torch.float64)
    together = relevance(torch.add, tuple(pair), everywhere(ZBox()), torch.ones_like(pair[0]))
    alone = [relevance(torch.add, tuple(pair[:, i : i + 1]), everywhere(ZBox()), torch.ones(1, 4)) for i in range(3)]
    for k in range(2):
        assert torch.allclose(together[k], torch.cat([a[k] for a in alone]))


class Reused(nn.Module):
    """One convolution and one ReLU called again and again, functional and in-place ReLUs, sums in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem, self.conv = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(3, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.stem(x))
        g = self.relu(self.conv(h))
        g += h
        g = F.relu_(self.conv(g))
        g = F.relu(g.add_(h), inplace=True)
        return self.head(F.adaptive_avg_pool2d(g, 1).flatten(1))


class Plain(nn.Module):
    """The same written out: a module for each call, nothing in place."""

    def __init__(self, other: Reused) -> None:
        super().__init__()
        self.stem, self.head = copy.deepcopy(other.stem), copy.deepcopy(other.head)
        self.conv1, self.conv2 = copy.deepcopy(other.conv), copy.deepcopy(other.conv)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.relus[0](self.stem(x))
        g = self.relus[1](self.conv1(h)) + h
        g = self.relus[2](self.conv2(g)) + h
        return self.head(self.relus[3](g).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", [*NAMES, "gradient", "guided_backprop", "deconvolution"])
def test_the_way_a_model_is_written_does_not_matter(name: str) -> None:
    net, x = Reused(), image()
    kept = x.clone()
    pair = [modbp.make(name, model).attribute(x, 2) for model in (net, Plain(net))]
    assert relative_difference(*pair) < 1e-12
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", NAMES)
def test_relevance_at_every_layer_leads_on_to_the_same_map(name: str) -> None:
    net, x = convolutional(5, bias=True), image()
    points = [str(i) for i in range(len(net) - 1)]
    trace = modbp.make(name, net).trace(x, points)
    start = torch.randn_like(trace.output)
    found = trace.relevance([*points, "input"], start=start)
    for point in points:
        assert found[point].shape == trace.activation(point).shape
        lower = trace.relevance(start=found[point], start_at=point)["input"]
        assert relative_difference(lower, found["input"]) < 1e-12


# Numbers at the edge.


@pytest.mark.parametrize("name", [*NAMES, "gradient", "guided_backprop", "rectgrad"])
@pytest.mark.parametrize("bias", [False, True])
def test_dead_units_and_zero_inputs_never_give_nan(name: str, bias: bool) -> None:
    for dead in ("none", "weights", "biases", "everything"):
        net = convolutional(6, bias)
        with torch.no_grad():
            if dead == "weights":
                for layer in (net[0], net[3], net[7]):
                    layer.weight[0] = 0
            if dead == "biases" and bias:
                for layer in (net[0], net[3]):
                    layer.bias.fill_(-100)
            if dead == "everything":
                for parameter in net.parameters():
                    parameter.zero_()
        for x in (torch.zeros(2, 2, 6, 6).double(), image(), image().where(image() > 1, 0)):
            for target in range(3):
                assert torch.isfinite(modbp.make(name, net).attribute(x, target)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_lower_precision_is_finite_and_near(name: str, dtype: torch.dtype) -> None:
    net = convolutional(7)
    x = torch.rand(2, 2, 6, 6, dtype=torch.float64)
    with torch.no_grad():  # mostly positive weights, so that no sum cancels and rounding is not magnified
        for parameter in net.parameters():
            parameter.copy_(parameter.abs() * torch.where(torch.rand_like(parameter) < 0.1, -0.2, 1.0))
    expected = modbp.make(name, net).attribute(x, 1)
    found = modbp.make(name, copy.deepcopy(net).to(dtype)).attribute(x.to(dtype), 1)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert relative_difference(found.double(), expected) < (1e-4 if dtype == torch.float32 else 0.2)


# What is refused.


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


def written_by_index(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y


def written_through_a_view(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(-1).mul_(2)
    return y


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        h = F.relu(x)
    return h + x


W = torch.randn(4, 4)
REFUSED: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    ("softmax at the end", r"softmax.*explain the logits", lambda x: F.softmax(x, 1)),
    ("log-softmax at the end", r"log_softmax.*explain the logits", lambda x: x.log_softmax(1)),
    ("sigmoid at the end", r"sigmoid.*explain the logits", torch.sigmoid),
    ("product of two activations", r"no rule for mul", lambda x: x * F.relu(x)),
    ("matrix product of two activations", r"no rule for matmul", lambda x: x @ x.mT @ x),
    ("quotient of two activations", r"no rule for (div|true_divide)", lambda x: x / (1 + F.relu(x))),
    ("einsum", r"no rule for einsum", lambda x: torch.einsum("bi,ij->bj", x, W)),
    ("layer norm", r"no rule for layer_norm", lambda x: F.layer_norm(x, (4,))),
    ("group norm", r"no rule for group_norm", lambda x: F.group_norm(x, 2)),
    ("attention", r"no rule for scaled_dot_product", lambda x: F.scaled_dot_product_attention(x, x, x)),
    ("exponential", r"no rule for exp", torch.exp),
    ("power", r"no rule for (pow|__pow__)", lambda x: x**2),
    ("batch norm in training mode", r"batch norm in training mode", nn.BatchNorm1d(4)),
    (
        "batch norm without statistics",
        r"batch norm in training mode",
        nn.BatchNorm1d(4, track_running_stats=False).eval(),
    ),
    ("weights that depend on the input", r"no rule for linear", lambda x: F.linear(x, x.mT @ W[:3])),
    ("a bias that depends on the input", r"no rule for linear", lambda x: F.linear(x, W, x.mean(0))),
    ("an autograd function", r"SquareBackward", lambda x: Square.apply(x) @ W),
    ("an autograd function at the end", r"SquareBackward", lambda x: Square.apply(F.linear(x, W))),
    ("writing by index", r"__setitem__", written_by_index),
    ("writing through a view", r"in place to memory that another tensor shares", written_through_a_view),
    ("gradients switched off", r"gradients switched off", without_gradients),
    ("nothing affine", r"none was seen", F.relu),
    ("nothing of the input", r"does not depend on its input", lambda x: torch.ones(3, 2)),
]


@pytest.mark.parametrize(("message", "top"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_no_rule_can_treat_is_refused_by_name(message: str, top: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    model = top if message == "none was seen" else lambda v: top(layer(v))
    for name in NAMES:
        with pytest.raises(modbp.UnsupportedModelError, match=message) as caught:
            modbp.make(name, model).attribute(x, 1)
        assert_one_sentence(caught.value)


def assert_one_sentence(error: BaseException) -> None:
    assert str(error).endswith(".")
    assert "\n" not in str(error)
    assert ". " not in str(error)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("linear in layer 'head'", nn.Sequential()),
        ("average pool", lambda x: x.unflatten(1, (2, 2)).mean(1)),
        ("sum", lambda x: x + x.relu()),
        ("convolution", lambda x: F.conv1d(x[:, None], torch.ones(1, 1, 2))),
        ("batch norm", lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4))),
        ("linear", lambda x: x @ W),
    ],
)
def test_a_kind_without_a_rule_is_refused_by_name(kind: str, model: Callable[[Tensor], Tensor]) -> None:
    if kind.endswith("'head'"):
        model = nn.Sequential()
        model.add_module("head", nn.Linear(4, 4))
    composite = Composite("mine", {"relu": RectGrad()}, layers={"elsewhere": ZPlus()})
    with pytest.raises(modbp.UnsupportedModelError, match=f"mine has no rule for the {kind}") as caught:
        Trace(model, torch.randn(3, 4), composite)
    assert_one_sentence(caught.value)


NAN = float("nan")
OPTIONS: list[tuple[str, str, dict[str, Any], Callable[..., Any]]] = [
    (r"epsilon is -1; allowed is a number from 0", "lrp_epsilon", {"epsilon": -1}, Epsilon),
    (r"epsilon is nan", "lrp_epsilon", {"epsilon": NAN}, Epsilon),
    (r"epsilon is 'small'", "lrp_epsilon", {"epsilon": "small"}, Epsilon),
    (r"epsilon is True", "lrp_epsilon", {"epsilon": True}, Epsilon),
    (r"bias is 'split'; allowed are included, excluded", "lrp_epsilon", {"bias": "split"}, Epsilon),
    (r"gamma is -0.5", "lrp_gamma", {"gamma": -0.5}, Gamma),
    (r"gamma is inf", "lrp_gamma", {"gamma": float("inf")}, Gamma),
    (r"bias is 'half'; allowed are excluded, included, split", "lrp_gamma", {"bias": "half"}, Gamma),
    (r"alpha is 0.5; allowed is a number from 1", "lrp_alpha_beta", {"alpha": 0.5}, AlphaBeta),
    (r"beta is -1", "lrp_alpha_beta", {"alpha": 1, "beta": -1}, AlphaBeta),
    (r"alpha - beta is 2 - 2; allowed is alpha - beta = 1", "lrp_alpha_beta", {"alpha": 2, "beta": 2}, AlphaBeta),
    (r"bias is None", "lrp_zplus", {"bias": None}, ZPlus),
    (r"bias is 'split'; allowed are excluded, included", "lrp_w_square", {"bias": "split"}, WSquare),
    (r"bias is 'split'; allowed are excluded, included", "lrp_flat", {"bias": "split"}, Flat),
    (r"one of low and high is given", "lrp_z_box", {"low": 0}, ZBox),
    (r"one of low and high is given", "deep_taylor", {"high": 1}, ZBox),
    (r"low exceeds high", "lrp_z_box", {"low": torch.tensor([0.0, 2.0]), "high": 1.0}, ZBox),
    (r"low is 'black'", "epsilon_gamma_box", {"low": "black", "high": 1}, ZBox),
]


@pytest.mark.parametrize(("message", "name", "options", "rule"), OPTIONS, ids=[f"{o[1]} {o[0][:30]}" for o in OPTIONS])
def test_options_that_are_not_allowed_get_one_sentence(
    message: str, name: str, options: dict[str, Any], rule: Callable[..., Any]
) -> None:
    for error, call in (
        (ValueError, lambda: rule(**options)),
        (modbp.InputError, lambda: modbp.make(name, nn.Linear(4, 3), **options)),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert_one_sentence(caught.value)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"kind 'dense'; allowed are relu, affine", {"rules": {"dense": ZPlus()}}),
        (r"batch_norm is 'fuse'; allowed are merge, affine", {"batch_norm": "fuse"}),
        (r"start is 'two'; allowed are one, logit", {"start": "two"}),
    ],
)
def test_composites_that_are_not_allowed_get_one_sentence(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(modbp.InputError, match=message) as caught:
        Composite("mine", **options)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_get_one_sentence(name: str) -> None:
    with pytest.raises(modbp.InputError, match=f"{name} does not take these options"):
        modbp.make(name, nn.Linear(4, 3), temperature=1)
