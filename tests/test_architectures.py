"""Stock networks, unchanged: every family of torchvision is explained rightly, or refused by the name of an operation.

Right means equal to a second implementation that shares nothing with the engine: `torch.fx` writes down the network's
operations, its own optimizer merges the batch norms, and `Reference` runs the operations with the papers' formulas as
backward passes. On top come identities that need no second implementation.
"""

from __future__ import annotations

import copy
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval

import modbp
from modbp._torchvision import torchvision
from modbp.metrics import relative_difference

RIGHT = "right"
LITE = "efficientnet_lite0"

# The representative of a family, the names that it stands for, and what becomes of it: under rules that propagate
# relevance, and under rules for ReLUs. A refusal names the operation.
FAMILIES: dict[str, tuple[str, str, str]] = {
    "alexnet": (r"alexnet", RIGHT, RIGHT),
    "vgg16": (r"vgg\d+", RIGHT, RIGHT),
    "vgg16_bn": (r"vgg\d+_bn", RIGHT, RIGHT),
    "squeezenet1_0": (r"squeezenet1_0", RIGHT, RIGHT),
    "squeezenet1_1": (r"squeezenet1_1", RIGHT, RIGHT),
    "resnet18": (r"resnet(18|34)", RIGHT, RIGHT),
    "resnet50": (r"resnet(50|101|152)", RIGHT, RIGHT),
    "resnext50_32x4d": (r"resnext\d+_\d+x\d+d", RIGHT, RIGHT),
    "wide_resnet50_2": (r"wide_resnet\d+_2", RIGHT, RIGHT),
    "densenet121": (r"densenet\d+", RIGHT, RIGHT),
    "googlenet": (r"googlenet", RIGHT, RIGHT),
    "inception_v3": (r"inception_v3", RIGHT, RIGHT),
    "mobilenet_v2": (r"mobilenet_v2", RIGHT, RIGHT),
    "shufflenet_v2_x0_5": (r"shufflenet_v2_x\d_\d", RIGHT, RIGHT),
    "mnasnet0_5": (r"mnasnet\d_\d+", RIGHT, RIGHT),
    "regnet_x_400mf": (r"regnet_x_.*", RIGHT, RIGHT),
    # Squeeze and excitation multiplies a signal by another, for which relevance has no meaning; the gradient has.
    "regnet_y_400mf": (r"regnet_y_.*", "sigmoid", RIGHT),
    "efficientnet_b0": (r"efficientnet_b\d", "sigmoid", "silu"),
    "efficientnet_v2_s": (r"efficientnet_v2_.", "sigmoid", "silu"),
    "mobilenet_v3_small": (r"mobilenet_v3_.*", "hardsigmoid", "hardswish"),
    "convnext_tiny": (r"convnext_.*", "layer_norm", "gelu"),
    "vit_b_32": (r"vit_._\d+", "layer_norm", "gelu"),
    "swin_t": (r"swin_[tsb]", "layer_norm", "gelu"),
    "swin_v2_t": (r"swin_v2_[tsb]", "layer_norm", "gelu"),
    "maxvit_t": (r"maxvit_t", "sigmoid", "gelu"),
}
EXPLAINED = [name for name, (_, verdict, _) in FAMILIES.items() if verdict == RIGHT] + [LITE]
RECTIFIED = [name for name, (_, _, verdict) in FAMILIES.items() if verdict == RIGHT] + [LITE]
WITHOUT_POSITIVE = ["mnasnet0_5", "shufflenet_v2_x0_5", LITE]
"""Nets in which convolutions of few inputs, without a ReLU behind them, make outputs to which nothing contributes
positively and which count all the same: there z⁺ drops relevance, by its formula."""

SMALL = ["squeezenet1_1", "resnet18", "mobilenet_v2"]
SIZES = {"inception_v3": 80, "vit_b_32": 224, "maxvit_t": 224}


def test_every_classifier_of_torchvision_has_one_verdict() -> None:
    models = torchvision().models
    names = models.list_models(module=models)
    found = {name: [r for r, (pattern, _, _) in FAMILIES.items() if re.fullmatch(pattern, name)] for name in names}
    assert {name: several for name, several in found.items() if len(several) != 1} == {}
    assert FAMILIES.keys() <= found.keys()
    assert all(found[representative] == [representative] for representative in FAMILIES)


# The second implementation.

Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(a, W, b) ↦ W a + b."""


class Substituted(torch.autograd.Function):
    """A value, and a function of the relevance as its backward pass."""

    @staticmethod
    def forward(ctx: Any, back: Callable[[Tensor], Sequence[Tensor]], value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.back = back
        return value.clone()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.back(relevance)


def handed_on(
    layer: Layer, terms: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, R: Tensor, epsilon: float = 0.0
) -> Tensor:
    """Σ_k c_kj R_k / Σ_i c_ki, for the contributions c = W a of all terms (a, W), by torch's own derivatives."""
    total = sum(layer(a, W, None) for a, W in terms)
    if bias is not None:
        total = total + (layer(terms[0][0], terms[0][1], bias) - layer(terms[0][0], terms[0][1], None))
    total = total + epsilon * torch.where(total < 0, -1.0, 1.0).to(total)
    s = torch.where(total == 0, torch.zeros_like(R), R / total)
    result = torch.zeros_like(terms[0][0])
    for a, W in terms:
        with torch.enable_grad():
            leaf = a.detach().requires_grad_()
            (g,) = torch.autograd.grad(layer(leaf, W, None), leaf, s)
        result = result + a * g
    return result


def positive(v: Tensor | None) -> Any:
    return None if v is None else v.clamp(min=0)


def negative(v: Tensor | None) -> Any:
    return None if v is None else v.clamp(max=0)


def _epsilon(layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    return handed_on(layer, [(a, W)], b, R, epsilon=1e-6)


def _zplus(layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    return handed_on(layer, [(positive(a), positive(W)), (negative(a), negative(W))], None, R)


def _alpha2_beta1(layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    up = [(positive(a), positive(W)), (negative(a), negative(W))]
    down = [(positive(a), negative(W)), (negative(a), positive(W))]
    return 2 * handed_on(layer, up, positive(b), R) - handed_on(layer, down, negative(b), R)


def _gamma(layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    z = layer(a, W, b)
    result = torch.zeros_like(a)
    for sign, other, where in ((positive, negative, z > 0), (negative, positive, z < 0)):
        terms = [(positive(a), W + 0.25 * sign(W)), (negative(a), W + 0.25 * other(W))]
        result = result + handed_on(layer, terms, None if b is None else b + 0.25 * sign(b), R * where)
    return result


def _w_square(layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    return handed_on(layer, [(torch.ones_like(a), W**2)], None, R)


def _flat(layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    return handed_on(layer, [(torch.ones_like(a), torch.ones_like(W))], None, R)


RULES = {
    "lrp_epsilon": _epsilon,
    "lrp_zplus": _zplus,
    "lrp_alpha2_beta1": _alpha2_beta1,
    "lrp_gamma": _gamma,
    "lrp_w_square": _w_square,
    "lrp_flat": _flat,
}


def _same_sign(layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    z = layer(a, W, None)
    up = [(positive(a), positive(W)), (negative(a), negative(W))]
    down = [(positive(a), negative(W)), (negative(a), positive(W))]
    return handed_on(layer, up, None, R * (z > 0)) + handed_on(layer, down, None, R * (z < 0))


BESIDE = {
    "lrp_zplus": _same_sign,
    "lrp_alpha2_beta1": lambda layer, a, W, b, R: handed_on(layer, [(a, W)], None, R),
}
"""What a method does at pools, sums and batch norms of their own, where it is not what it does elsewhere."""

MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient": lambda R, x: R * (x > 0),
    "guided_backprop": lambda R, x: R.clamp(min=0) * (x > 0),
    "deconvolution": lambda R, x: R.clamp(min=0),
    **{name: lambda R, x: R for name in RULES},
}

NEEDS_MORE = ("pattern_net", "pattern_attribution")
"""Methods that cannot be made from a network alone."""

RELUS = (F.relu, F.relu6, torch.relu)
SUMS = (operator.add, operator.iadd, torch.add)
POOLS = (F.avg_pool2d, F.adaptive_avg_pool2d, F.avg_pool1d, F.avg_pool3d, torch.mean)


class Reference(fx.Interpreter):
    """Runs a traced network operation by operation, with a rule of `RULES` or a mask of `MASKS` going back."""

    def __init__(self, traced: fx.GraphModule, name: str) -> None:
        super().__init__(traced)
        self.rule, self.mask = RULES.get(name), MASKS[name]
        self.beside = BESIDE.get(name, self.rule)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        m = self.fetch_attr(target)
        if isinstance(m, nn.ReLU | nn.ReLU6):
            return self.rectify(args[0], 6.0 if isinstance(m, nn.ReLU6) else math.inf)
        if isinstance(m, nn.Linear):
            return self.affine(F.linear, args[0], m.weight, m.bias)
        if isinstance(m, nn.modules.conv._ConvTransposeNd):
            convolve = getattr(F, f"conv_transpose{m.weight.dim() - 2}d")
            options = (m.stride, m.padding, m.output_padding, m.groups, m.dilation)
            return self.affine(lambda a, W, b: convolve(a, W, b, *options), args[0], m.weight, m.bias)
        if isinstance(m, nn.modules.conv._ConvNd):
            convolve = getattr(F, f"conv{m.weight.dim() - 2}d")
            options = (m.stride, m.padding, m.dilation, m.groups)
            return self.affine(lambda a, W, b: convolve(a, W, b, *options), args[0], m.weight, m.bias)
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            W = m.weight / (m.running_var + m.eps).sqrt()
            shape = (-1, *[1] * (args[0].dim() - 2))
            return self.affine(
                lambda a, W, b: a * W.reshape(shape) + (0 if b is None else b.reshape(shape)),
                *(args[0], W, m.bias - m.running_mean * W, self.beside),
            )
        if isinstance(m, nn.modules.pooling._AvgPoolNd | nn.modules.pooling._AdaptiveAvgPoolNd):
            return self.affine(lambda a, W, b: m(a * W), args[0], torch.ones(()).to(args[0]), None, self.beside)
        return m(*args, **kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in RELUS:
            return self.rectify(args[0], 6.0 if target is F.relu6 else math.inf)
        if target in POOLS:
            one = torch.ones(()).to(args[0])
            return self.affine(lambda a, W, b: target(a * W, *args[1:], **kwargs), args[0], one, None, self.beside)
        if target is torch.conv2d:
            given = dict(
                zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False)
            )
            rest = {k: v for k, v in (given | kwargs).items() if k not in ("input", "weight", "bias")}
            bias = (given | kwargs).get("bias")
            return self.affine(lambda a, W, b: F.conv2d(a, W, b, **rest), args[0], args[1], bias)
        if target is operator.mul and self.rule is not None and isinstance(args[0], float):
            return Substituted.apply(lambda R: [R], args[0] * args[1].detach(), args[1])
        if target in SUMS and all(isinstance(v, Tensor) for v in args[:2]):
            return self.add(*args[:2])
        return target(*args, **kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in ("mean", "relu"):
            return self.call_function(getattr(torch, target), args, kwargs)
        if target in ("add", "add_"):
            return self.add(*args)
        return super().call_method(target, args, kwargs)

    def affine(self, layer: Layer, a: Tensor, W: Tensor, b: Tensor | None, rule: Any = None) -> Tensor:
        W, b = W.detach(), None if b is None else b.detach()
        if self.rule is None:
            return layer(a, W, b)
        rule, fixed = rule or self.rule, a.detach()
        return Substituted.apply(lambda R: [rule(layer, fixed, W, b, R)], layer(fixed, W, b), a)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        if self.rule is None:
            return x + y
        rule, both = self.beside, torch.stack([x.detach(), y.detach()])

        def layer(a: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
            return (a * W).sum(0)

        return Substituted.apply(lambda R: rule(layer, both, torch.ones(()).to(x), None, R), both.sum(0), x, y)

    def rectify(self, x: Tensor, cap: float) -> Tensor:
        mask, fixed = self.mask, x.detach()
        # Relevance passes a ReLU6 as it is; a gradient stops where the cap has been reached.
        rectified = Substituted.apply(lambda R: [mask(R, fixed)], fixed.clamp(min=0), x)
        if self.rule is not None and cap < math.inf:
            return Substituted.apply(lambda R: [R], fixed.clamp(0, cap), x)
        return rectified if cap == math.inf else rectified.clamp(max=cap)


def reference(traced: fx.GraphModule, name: str, x: Tensor, target: Tensor | None = None) -> Tensor:
    """The map of one method by `Reference`; the batch norms are those of the traced network."""
    leaf = x.clone().requires_grad_()
    output = Reference(traced, name).run(leaf)
    start = torch.ones_like(output) if target is None else torch.zeros_like(output).scatter_(1, target[:, None], 1.0)
    (found,) = torch.autograd.grad(output, leaf, start * output.detach() if name in RULES else start)
    return found


def merged(net: nn.Module) -> fx.GraphModule:
    """The network's operations, each batch norm merged into the convolution before it, by torch's own functions."""
    if isinstance(net, EfficientNet):  # its convolutions are of a class of its own, which torch.fx does not merge
        net = copy.deepcopy(net)
        for m in [net, *net._blocks]:
            for conv, norm in (
                ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"),
                ("_project_conv", "_bn2"),
            ):  # fmt: skip
                if hasattr(m, conv):
                    setattr(m, conv, fuse_conv_bn_eval(getattr(m, conv), getattr(m, norm)))
                    setattr(m, norm, nn.Identity())
        return fx.symbolic_trace(net)
    return fuse(net)


# The networks.


def build(name: str) -> nn.Module:
    """A stock network in float64 with random weights, and batch norms that are far from doing nothing."""
    torch.manual_seed(0)
    if name == LITE:
        net = EfficientNet.from_name("efficientnet-lite0", num_classes=10)
    elif name.startswith(("alexnet", "vgg")):
        with torch.device("meta"):  # allocates nothing
            net = torchvision().models.get_model(name, weights=None, num_classes=10)
        narrow(net.classifier)
        net = net.to_empty(device="cpu")
    else:
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        net = torchvision().models.get_model(name, weights=None, num_classes=10, **options)
    net = net.double().eval()
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                if m.bias is not None:
                    m.bias.normal_(0, 0.1)
        for m in norms:
            m.reset_running_stats()
            m.weight.uniform_(0.5, 1.5).mul_((torch.rand(m.weight.shape) > 0.1).double() * 2 - 1)
            m.bias.normal_(0, 0.2)
            m.momentum, m.training = 0.5, True
        if norms and name in {*EXPLAINED, *RECTIFIED}:
            net(sample(name, 4))  # moves the running statistics half the way to those of the activations
        for m in norms:
            m.training = False
    return net


def narrow(classifier: nn.Sequential) -> None:
    """Give a classifier hidden layers of 64 units: those of 4096 only cost time."""
    linears = [i for i, m in enumerate(classifier) if isinstance(m, nn.Linear)]
    widths = [classifier[linears[0]].in_features, *[64] * (len(linears) - 1), 10]
    for i, n_in, n_out in zip(linears, widths, widths[1:], strict=False):
        classifier[i] = nn.Linear(n_in, n_out)


def sample(name: str, batch: int = 1, seed: int = 1) -> Tensor:
    size = SIZES.get(name, 64)
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Case:
    """A network with an input and the class of its largest logit."""

    def __init__(self, name: str) -> None:
        self.name, self.net, self.x = name, build(name), sample(name)
        with torch.no_grad():
            self.target = self.net(self.x).argmax(1)

    @cached_property
    def traced(self) -> fx.GraphModule:
        """Its operations as they are."""
        return fx.symbolic_trace(self.net)

    @cached_property
    def merged(self) -> fx.GraphModule:
        """Its operations with merged batch norms; the copy computes the same."""
        found = merged(self.net)
        with torch.no_grad():
            assert relative_difference(found(self.x), self.net(self.x)) < 1e-9
        return found

    @contextmanager
    def without_biases(self) -> Iterator[nn.Module]:
        """The network with every bias and running mean zero, and no batch norm that turns signs, for a while."""
        kept = {name: value.clone() for name, value in self.net.state_dict().items()}
        try:
            for m in self.net.modules():
                for name in ("bias", "running_mean"):
                    if isinstance(value := getattr(m, name, None), Tensor):
                        value.data.zero_()
                if isinstance(m, nn.BatchNorm2d):
                    m.weight.data.abs_()
            yield self.net
        finally:
            for name, value in self.net.state_dict().items():
                value.copy_(kept[name])


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    """Built once for all tests of it: pytest runs those of one network together."""
    return Case(request.param)


def each(names: Sequence[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", names, indirect=True, scope="module")


def snapshot(net: nn.Module) -> tuple[object, ...]:
    hooks = [
        {key: list(value) for key, value in vars(m).items() if "hooks" in key and isinstance(value, dict)}
        for m in net.modules()
    ]
    flags = [(m.training, type(m), sorted(vars(m))) for m in net.modules()]
    tensors = [(p.requires_grad, p.grad is None, p._version, id(p)) for p in [*net.parameters(), *net.buffers()]]
    module = nn.modules.module
    return hooks, flags, tensors, len(module._global_forward_hooks), len(module._global_forward_pre_hooks)


@contextmanager
def untouched(net: nn.Module, x: Tensor) -> Iterator[None]:
    """Fail if the body changes a parameter, a buffer, a hook or a flag of the network, or the input."""
    state, seen, before = {k: v.clone() for k, v in net.state_dict().items()}, snapshot(net), x.clone()
    yield
    assert snapshot(net) == seen
    assert [k for k, v in net.state_dict().items() if not torch.equal(v, state[k])] == []
    assert torch.equal(x, before)
    assert not x.requires_grad


# What is right.


@each(EXPLAINED)
@pytest.mark.parametrize("name", ["lrp_epsilon", "lrp_zplus"])
def test_relevance_equals_the_second_implementation(case: Case, name: str) -> None:
    with untouched(case.net, case.x):
        found = modbp.make(name, case.net).attribute(case.x, case.target)
    expected = reference(case.merged, name, case.x, case.target)
    assert expected.abs().max() > 0
    assert relative_difference(found, expected) < 1e-8


@each(SMALL)
@pytest.mark.parametrize("name", [n for n in RULES if n not in ("lrp_epsilon", "lrp_zplus")])
def test_more_rules_equal_the_second_implementation(case: Case, name: str) -> None:
    with untouched(case.net, case.x):
        found = modbp.make(name, case.net).attribute(case.x, case.target)
    assert relative_difference(found, reference(case.merged, name, case.x, case.target)) < 1e-8


@each(EXPLAINED)
def test_without_biases_lrp_0_is_input_times_gradient_and_zplus_conserves(case: Case) -> None:
    """With no bias and no running mean every layer is linear: LRP-0 is Euler's theorem, and shares sum to one.

    The scales of the batch norms stay, so merging them or not must not matter to LRP-0.
    """
    with case.without_biases() as net:
        x = case.x * 1e-3  # below every cap, where a ReLU6 is a ReLU
        leaf = x.clone().requires_grad_()
        logit = net(leaf).gather(1, case.target[:, None])
        (gradient,) = torch.autograd.grad(logit, leaf)
        for batch_norm in ("merge", "affine"):
            lrp = modbp.make("lrp_z", net, batch_norm=batch_norm)
            assert relative_difference(lrp.attribute(x, case.target), x * gradient) < 1e-8
        zplus = modbp.make("lrp_zplus", net).attribute(x, case.target).sum()
        ratio = float(zplus / logit.detach())
        assert 0 < ratio < 1 if case.name in WITHOUT_POSITIVE else abs(ratio - 1) < 1e-9


@each(SMALL)
@pytest.mark.parametrize(
    "name", ["lrp_gamma", "lrp_w_square", "lrp_flat", "deep_taylor", "excitation_bp", "contrastive_excitation_bp"]
)
def test_without_biases_more_methods_conserve(case: Case, name: str) -> None:
    with case.without_biases() as net:
        with torch.no_grad():
            logit = net(case.x).gather(1, case.target[:, None]).sum()
        start = {"excitation_bp": 1.0, "contrastive_excitation_bp": 0.0}.get(name, float(logit))
        found = modbp.make(name, net).attribute(case.x, case.target)
    assert found.abs().sum() > 0
    assert abs(float(found.sum()) - start) < 1e-9 * float(found.abs().sum())


@each(RECTIFIED)
def test_rules_for_relus_equal_an_explicit_autograd_function(case: Case) -> None:
    expected = {name: reference(case.traced, name, case.x, case.target) for name in MASKS if name not in RULES}
    for name, theirs in expected.items():
        with untouched(case.net, case.x):
            found = modbp.make(name, case.net).attribute(case.x, case.target)
        assert relative_difference(found, theirs) < 1e-9, name
        if name != "gradient":
            assert relative_difference(found, expected["gradient"]) > 0.1, f"{name} is the gradient"


# What is refused.


@each([name for name in FAMILIES if name not in EXPLAINED])
def test_refusals_name_the_operation(case: Case) -> None:
    net, x, target = case.net, case.x, case.target
    _, relevance, relu = FAMILIES[case.name]
    with untouched(net, x):
        for method in ("lrp_epsilon", "lrp_zplus", "lrp_alpha2_beta1", "excitation_bp", "deep_taylor", "epsilon_plus"):
            with pytest.raises(modbp.UnsupportedModelError, match=rf"has no rule for {relevance}, which layer '"):
                modbp.make(method, net).attribute(x, target)
        for method in ("guided_backprop", "deconvolution", "rectgrad"):
            if relu != RIGHT:
                with pytest.raises(modbp.UnsupportedModelError, match=rf"none for {relu}, which layer '"):
                    modbp.make(method, net).attribute(x, target)
        gradient = modbp.make("gradient", net).attribute(x, target)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf).gather(1, target[:, None]).sum(), leaf)
    assert relative_difference(gradient, expected) < 1e-12


# Networks made of one awkward thing each.


class Twice(nn.Module):
    """One convolution with two batch norms, one ReLU used three times, and a residual sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.one(self.conv(x)))
        g = self.two(self.conv(h))
        g += h
        return self.head(torch.flatten(self.relu(g).mean((2, 3)), 1))


class Apart(Twice):
    """The same network with two convolutions and the batch norms merged by torch, for `Reference`."""

    def __init__(self, net: Twice) -> None:
        super().__init__()
        self.one, self.two = fuse_conv_bn_eval(net.conv, net.one), fuse_conv_bn_eval(net.conv, net.two)
        self.conv, self.head = nn.Identity(), net.head


class Functional(nn.Module):
    """Functional and in-place ReLUs, ReLU6 as a function and as a module, and dropout that is off."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=3), nn.Conv2d(6, 6, 3, dilation=2)
        self.cap, self.head = nn.ReLU6(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(4.0 * x), inplace=True)
        h = F.dropout(self.cap(self.b(h)), 0.5, self.training)
        h = F.relu6(self.c(h)).relu()
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


def head(features: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.Flatten(), nn.Linear(features, 5)]


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a module twice, two batch norms behind it": (Twice, (3, 9, 9)),
    "functional and in-place ReLUs, groups, dilation": (Functional, (3, 13, 13)),
    "ceil-mode and strided pools": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 4, 2)),
            *(nn.AvgPool2d(3, 2, padding=1, ceil_mode=True), *head(4 * 3 * 3)),
        ),
        (3, 12, 12),
    ),
    "average pool without padding in the count": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1, count_include_pad=False), *head(4 * 4 * 4)),
        (3, 9, 9),
    ),
    "adaptive pools of both kinds": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(5), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d((3, 2)),
            *head(4 * 3 * 2),
        ),
        (3, 12, 12),
    ),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 2),
            nn.AvgPool1d(2), *head(4 * 2),
        ),
        (3, 24),
    ),
    "three dimensions": (
        lambda: nn.Sequential(
            nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 4, 2), nn.AvgPool3d(1),
            *head(4),
        ),
        (3, 5, 5, 5),
    ),
    "transposed convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1), *head(2 * 10 * 10)),
        (3, 7, 7),
    ),
    "linear layers on a sequence": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 6), nn.Identity(), *head(3 * 6)),
        (3, 4),
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 4, 1), *head(4 * 25)
        ),
        (3, 7, 7),
    ),
}  # fmt: skip


def awkward(shape: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    make, size = SHAPES[shape]
    net = make().double().eval()
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.weight.data.normal_()
            m.bias.data.normal_()
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return net, torch.randn(4, *size, dtype=torch.float64)


def expected_of(net: nn.Module, name: str, x: Tensor, target: Tensor) -> Tensor:
    if name not in RULES:
        return reference(fx.symbolic_trace(net), name, x, target)
    separated = fx.symbolic_trace(Apart(net)) if isinstance(net, Twice) else fuse(net)
    return reference(separated, name, x, target)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return str(request.param)


@pytest.mark.parametrize("name", [*RULES, "guided_backprop", "deconvolution"])
@pytest.mark.parametrize("shape", SHAPES)
def test_awkward_layers_are_explained_rightly(shape: str, name: str, device: str) -> None:
    net, x = awkward(shape)
    target = torch.tensor([0, 3, 1, 4])
    expected = expected_of(net, name, x, target)
    assert expected.abs().max() > 0
    net, x = net.to(device), x.to(device)
    with untouched(net, x):
        found = modbp.make(name, net).attribute(x, target.to(device))
    assert found.device.type == device
    assert relative_difference(found.cpu(), expected) < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_its_samples(shape: str, device: str) -> None:
    net, x = awkward(shape)
    net, x = net.to(device), x.to(device)
    for name in modbp.METHODS:
        if isinstance(modbp.METHODS[name], type) and name not in NEEDS_MORE:
            method = modbp.make(name, net, **({"percentile": 50} if name == "rectgrad" else {}))
            together = method.attribute(x, target=[0, 3, 1, 4])
            alone = [method.attribute(x[i : i + 1], target=k) for i, k in enumerate((0, 3, 1, 4))]
            assert together.abs().max() > 0, name
            assert relative_difference(torch.cat(alone), together) < 1e-9, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
@pytest.mark.parametrize(
    "name", ["gradient", "guided_backprop", "lrp_zplus", "lrp_w_square", "lrp_flat", "deep_taylor"]
)
def test_smaller_types_are_close_and_kept(name: str, dtype: torch.dtype, tolerance: float, device: str) -> None:
    """Rules without cancellation: bfloat16 has eight bits, which no map can be better than."""
    net, x = awkward("depthwise")
    net, x = net.to(device), x.to(device)
    expected = modbp.make(name, net).attribute(x, 2)
    found = modbp.make(name, net.to(dtype)).attribute(x.to(dtype), 2)
    assert found.dtype == dtype
    assert relative_difference(found.double(), expected) < tolerance
