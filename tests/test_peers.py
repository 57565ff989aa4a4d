"""Two other libraries compute the same maps: Captum 0.9 and zennit 0.5.1, in float64, wherever they share a rule.

Where a peer has a convention of its own, the test says so and gives our rule the matching option, or a composite:

- start: everyone here starts LRP from the target's logit, Excitation BP and gradients from a one;
- stabilizers: zennit adds 1e-6 to each denominator unless told otherwise, Captum 1e-9; we divide and drop what is 0/0,
  so they get 1e-20 or less;
- pools and sums: zennit's composites treat them with `Norm`, which is LRP-ε, whatever the rule for convolutions. So do
  our presets of αβ (with ε = 0) and the composites; LRP-γ, w² and flat apply the rule itself, z⁺ the one by sign;
- max pools: winners take all with us and with zennit; Captum puts its ε there too, so it gets 1e-30;
- bias: ours is named in each test; Captum leaves the whole bias in denominators, zennit the part of matching sign;
- batch norm: zennit's canonizers merge it, as we do by default; Captum cannot.

zennit is under the LGPL: it is called here, and nothing of it is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, PropagationRule
from torch import Tensor, nn

import modbp
from modbp import zoo
from modbp._torchvision import torchvision
from modbp.attr import ModifiedBackprop
from modbp.composite import Composite
from modbp.metrics import relative_difference
from modbp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus

torchvision()  # zennit imports it, and it may need the shim

import zennit.composites as zc  # noqa: E402
import zennit.core  # noqa: E402
import zennit.rules as zr  # noqa: E402
from zennit.torchvision import ResNetCanonizer, VGGCanonizer  # noqa: E402
from zennit.types import AvgPool, Convolution  # noqa: E402
from zennit.types import Linear as Affine  # noqa: E402

TINY = 1e-20
TOLERANCE = 1e-9

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting backward hooks"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


# The networks, each loaded once.


def _randomize_norms(net: nn.Module, x: Tensor) -> nn.Module:
    """Give batch norms weights of either sign, and statistics half the way to those of the activations."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for m in norms:
            m.weight.uniform_(0.5, 1.5).mul_((torch.rand(m.weight.shape) > 0.1).double() * 2 - 1)
            m.bias.normal_(0, 0.2)
            m.momentum, m.training = 0.5, True
        net(x)
        for m in norms:
            m.training = False
    return net


def _vgg16_bn() -> nn.Module:
    torch.manual_seed(0)
    vgg = torchvision().models.vgg
    with torch.device("meta"):
        net = vgg.VGG(vgg.make_layers(vgg.cfgs["D"], batch_norm=True), init_weights=False)
        for i, (n_in, n_out) in zip((0, 3, 6), ((zoo.FEATURES, 64), (64, 64), (64, 10)), strict=True):
            net.classifier[i] = nn.Linear(n_in, n_out)  # 4096 units would only cost time
    net = net.to_empty(device="cpu").double().eval()
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.normal_(m.bias, 0, 0.1)
        elif isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
    return _randomize_norms(net, _noise(4))


def _resnet18() -> nn.Module:
    torch.manual_seed(0)
    net = torchvision().models.resnet18(weights=None, num_classes=10).double().eval()
    nn.init.normal_(net.fc.bias, 0, 0.1)
    return _randomize_norms(net, _noise(4))


def _noise(batch: int) -> Tensor:
    return torch.randn(batch, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def _zero_biases(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    for m in net.modules():
        if isinstance(bias := getattr(m, "bias", None), Tensor):
            bias.data.zero_()
    return net


LOADERS: dict[str, Callable[[], nn.Module]] = {
    "embedded": lambda: zoo.load("vgg16").double(),
    "random": lambda: zoo.load("vgg16", weights="random", seed=1).double(),
    "vgg16_bn": _vgg16_bn,
    "resnet18": _resnet18,
}
CANONIZERS: dict[str, list[Any]] = {"vgg16_bn": [VGGCanonizer], "resnet18": [ResNetCanonizer]}
VGG = ["embedded", "random"]
ALL = list(LOADERS)
VARIED = ["embedded", "vgg16_bn", "resnet18"]


class Case:
    """A network with two inputs and their strongest classes."""

    def __init__(self, name: str) -> None:
        self.name, self.net = name, LOADERS[name]()
        if name == "embedded":
            photographs = [self.net.transform(p.image) for p in modbp.images.load(n=2)]
            self.x = torch.stack(photographs)[:, :, 64:192:4, 64:192:4].double()
        else:
            self.x = _noise(2)
        with torch.no_grad():
            self.target = self.net(self.x).argmax(1)

    @property
    def canonizers(self) -> list[Any]:
        return [canonizer() for canonizer in CANONIZERS.get(self.name, [])]


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    """Loaded once for all tests of it: pytest runs those of one network together."""
    return Case(request.param)


def each(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", names, indirect=True, scope="module")


# How the peers are called.


@contextmanager
def under(composite: zennit.core.Composite, net: nn.Module) -> Iterator[None]:
    """zennit's rules and canonizers in place.

    Its canonizers leave the batch norms' eps behind, which scales each merged layer by 1/√(1 + eps): zero for a while.
    """
    norms = {m: m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} if composite.canonizers else {}
    with composite.context(net):
        for m in norms:
            m.eps = 0.0
        try:
            yield
        finally:
            for m, eps in norms.items():
                m.eps = eps


def by_zennit(
    case: Case, composite: zennit.core.Composite, start: str = "logit", at: list[str] | None = None
) -> dict[str, Tensor]:
    """The relevance at the input and at modules' outputs under one of zennit's composites."""
    kept: dict[str, Tensor] = {}
    leaf = case.x.clone().requires_grad_()
    with under(composite, case.net), ExitStack() as handles:
        for name in at or []:  # registered after zennit's own hooks, so these see the outputs that they have wrapped

            def keep(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                kept[name] = output

            handle = case.net.get_submodule(name).register_forward_hook(keep)
            handles.callback(handle.remove)
        output = case.net(leaf)
        one = torch.zeros_like(output).scatter_(1, case.target[:, None], 1.0)
        points = {**kept, "input": leaf}
        gradients = torch.autograd.grad(
            output, list(points.values()), one * output.detach() if start == "logit" else one
        )
    return dict(zip(points, gradients, strict=True))


def everywhere(rule: zennit.core.Hook, case: Case | None = None, stabilizer: float = TINY) -> zc.LayerMapComposite:
    """zennit with one rule in all layers with weights; its `Norm` in pools and sums, its `Pass` in activations."""
    layers = [*zc.layer_map_base(stabilizer), (Affine, rule)]
    return zc.LayerMapComposite(layers, canonizers=case.canonizers if case else [])


def norm_elsewhere(name: str, rule: Any, pools: Any = None, **options: Any) -> Composite:
    """Our composite of the same form: the rule in linear layers and convolutions, LRP-0 in pools and sums."""
    rules = {"linear": rule, "convolution": rule, "affine": pools or Epsilon(0.0)}
    return Composite(name, rules, start="logit", **options)


def ours(net: nn.Module, composite: Composite, x: Tensor, target: Tensor) -> Tensor:
    return ModifiedBackprop(net, composite).attribute(x, target)  # type: ignore[return-value]


def captum_rules(net: nn.Module, rule: Callable[[], PropagationRule], pool: float = 1e-30) -> None:
    """Attach one rule object to each layer, as Captum asks; it takes them off again after the call."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            m.rule = rule()
        elif isinstance(m, nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            m.rule = EpsilonRule(1e-30 if isinstance(m, nn.MaxPool2d) else pool)


def by_captum(
    net: nn.Module, x: Tensor, target: Tensor, rule: Callable[[], PropagationRule], pool: float = 1e-30
) -> Tensor:
    captum_rules(net, rule, pool)
    return captum.attr.LRP(net).attribute(x.clone(), target=target).detach()


def assert_equal(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> None:
    assert b.abs().max() > 0
    error = relative_difference(a, b)
    print(f"error {error:.1e}")  # pytest -rP shows them
    assert error < tolerance


# Gradients and rules for ReLUs.


@each(ALL)
def test_gradient_and_input_times_gradient(case: Case) -> None:
    saliency = captum.attr.Saliency(case.net).attribute(case.x.clone(), case.target, abs=False)
    assert_equal(modbp.make("gradient", case.net).attribute(case.x, case.target), saliency)
    product = captum.attr.InputXGradient(case.net).attribute(case.x.clone(), case.target)
    assert_equal(modbp.make("input_x_gradient", case.net).attribute(case.x, case.target), product.detach())


@each(ALL)
@pytest.mark.parametrize("name", ["guided_backprop", "deconvolution"])
def test_rules_for_relus(case: Case, name: str) -> None:
    found = modbp.make(name, case.net).attribute(case.x, case.target)
    peer = {"guided_backprop": captum.attr.GuidedBackprop, "deconvolution": captum.attr.Deconvolution}[name]
    assert_equal(found, peer(case.net).attribute(case.x.clone(), case.target))
    hook = {"guided_backprop": zr.ReLUGuidedBackprop, "deconvolution": zr.ReLUDeconvNet}[name]
    composite = zc.LayerMapComposite([(nn.ReLU, hook())])
    assert_equal(found, by_zennit(case, composite, start="one")["input"])


# LRP with one rule everywhere.


@each(VGG)
@pytest.mark.parametrize("epsilon", [1e-9, 1e-6, 1e-2])
def test_lrp_epsilon_equals_captum(case: Case, epsilon: float) -> None:
    """Bias in the denominator; ε in the average pool too, none in max pools."""
    found = modbp.make("lrp_epsilon", case.net, epsilon=epsilon).attribute(case.x, case.target)
    assert_equal(found, by_captum(case.net, case.x, case.target, lambda: EpsilonRule(epsilon), pool=epsilon))


@each(VARIED)
@pytest.mark.parametrize("epsilon", [1e-9, 1e-2])
def test_lrp_epsilon_equals_zennit(case: Case, epsilon: float) -> None:
    """Bias in the denominator; ε in pools and sums too; batch norms merged."""
    found = modbp.make("lrp_epsilon", case.net, epsilon=epsilon).attribute(case.x, case.target)
    peer = everywhere(zr.Epsilon(epsilon), case, stabilizer=epsilon)
    assert_equal(found, by_zennit(case, peer)["input"])


ZERO = {"zero_params": "bias"}
# Our rule, and zennit's.
RULES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "alpha1_beta0, bias split": (lambda: AlphaBeta(1.0), lambda: zr.AlphaBeta(1.0, 0.0, TINY)),
    "alpha2_beta1, bias split": (lambda: AlphaBeta(2.0), lambda: zr.AlphaBeta(2.0, 1.0, TINY)),
    "alpha2_beta1, bias excluded": (
        lambda: AlphaBeta(2.0, bias="excluded"),
        lambda: zr.AlphaBeta(2.0, 1.0, TINY, **ZERO),
    ),
    "zplus, bias split": (lambda: ZPlus(bias="split"), lambda: zr.ZPlus(TINY)),
    "zplus, bias excluded": (lambda: ZPlus(), lambda: zr.ZPlus(TINY, **ZERO)),
    "gamma, bias split": (lambda: Gamma(0.25), lambda: zr.Gamma(0.25, TINY)),
    "w_square, bias included": (lambda: WSquare("included"), lambda: zr.WSquare(TINY)),
    "w_square, bias excluded": (lambda: WSquare(), lambda: zr.WSquare(TINY, **ZERO)),
    "flat, bias excluded": (lambda: Flat(), lambda: zr.Flat(TINY)),  # zennit's Flat has no bias in any case
}


@each(["embedded", "resnet18"])
@pytest.mark.parametrize("rule", RULES)
def test_one_rule_everywhere_equals_zennit(case: Case, rule: str) -> None:
    """The rule in linear layers and convolutions; zennit's `Norm`, our LRP-0, in pools and sums."""
    mine, theirs = RULES[rule]
    found = ours(case.net, norm_elsewhere(rule, mine()), case.x, case.target)
    assert_equal(found, by_zennit(case, everywhere(theirs(), case))["input"])


@each(["random"])
@pytest.mark.parametrize(
    ("name", "options", "peer"),
    [
        ("lrp_gamma", {}, lambda: zr.Gamma(0.25, TINY)),
        ("lrp_zplus", {}, lambda: zr.ZPlus(TINY, **ZERO)),
        ("lrp_zplus", {"bias": "split"}, lambda: zr.ZPlus(TINY)),
        ("lrp_alpha2_beta1", {}, lambda: zr.AlphaBeta(2.0, 1.0, TINY)),
    ],
)
def test_presets_equal_zennit_where_the_pool_meets_no_negative(
    case: Case, name: str, options: dict[str, Any], peer: Callable[[], Any]
) -> None:
    """VGG16's one average pool is behind a ReLU: there every rule for a ≥ 0 is LRP-0."""
    found = modbp.make(name, case.net, **options).attribute(case.x, case.target)
    assert_equal(found, by_zennit(case, everywhere(peer()))["input"])


@each(VGG)
@pytest.mark.parametrize("name", ["zplus", "alpha1_beta0", "gamma"])
def test_rules_for_nonnegative_inputs_equal_captum_without_biases(case: Case, name: str) -> None:
    """Captum edits the weights alone, which is right for a ≥ 0; so no biases, and an input of no sign.

    Its γ ignores the sign of the output, so the explained logit must be positive: it is the largest of the ten.
    """
    net, x = _zero_biases(case.net), case.x - case.x.amin()
    with torch.no_grad():
        output = net(x)
        target = output.argmax(1)
        assert (output.amax(1) > 0).all()
    rule: Callable[[], PropagationRule] = (lambda: GammaRule(0.25)) if name == "gamma" else Alpha1_Beta0_Rule
    mine = {"gamma": Gamma(0.25), "zplus": ZPlus(), "alpha1_beta0": AlphaBeta(1.0)}[name]
    found = ours(net, norm_elsewhere(name, mine), x, target)

    def tiny() -> PropagationRule:
        made = rule()
        made.STABILITY_FACTOR = 1e-30
        return made

    assert_equal(found, by_captum(net, x, target, tiny))


@each(VGG)
def test_gamma_with_biases_equals_captum_for_nonnegative_inputs(case: Case) -> None:
    """Bias included, and not strengthened."""
    x = case.x - case.x.amin()
    with torch.no_grad():
        target = case.net(x).argmax(1)

    def rule() -> PropagationRule:
        made = GammaRule(0.25)
        made.STABILITY_FACTOR = 1e-30
        return made

    net = copy.deepcopy(case.net)
    for m in net.modules():  # else z < 0 with z + γ W⁺a > 0 where relevance arrives, which only we tell apart
        if isinstance(m, nn.Linear):
            m.bias.data.clamp_(min=0)
    found = ours(net, norm_elsewhere("gamma", Gamma(0.25, bias="included")), x, target)
    assert_equal(found, by_captum(net, x, target, rule))


# Composites.


def _bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.amin((0, 2, 3), keepdim=True) - 0.1, x.amax((0, 2, 3), keepdim=True) + 0.1


def _pools(epsilon: float) -> list[Any]:
    """zennit's stabilizer of pools and sums apart from that of rules: ours is the ε of dense layers."""
    return [(zennit.layer.Sum, zr.Norm(epsilon)), (AvgPool, zr.Norm(epsilon))]


@each(VARIED)
@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_composites_equal_zennit(case: Case, name: str) -> None:
    """Bias split; ε in dense layers, pools and sums; zB at the first convolution; batch norms merged."""
    epsilon = 1e-4
    options: dict[str, Any] = {"epsilon": epsilon}
    peers = {"epsilon_plus": zc.EpsilonPlus, "epsilon_alpha2_beta1": zc.EpsilonAlpha2Beta1}
    if name == "epsilon_gamma_box":
        options["low"], options["high"] = _bounds(case.x)
    theirs = peers.get(name, zc.EpsilonGammaBox)(
        **options, stabilizer=TINY, layer_map=_pools(epsilon), canonizers=case.canonizers
    )
    found = modbp.make(name, case.net, **options).attribute(case.x, case.target)
    assert_equal(found, by_zennit(case, theirs)["input"])


@each(["embedded", "resnet18"])
@pytest.mark.parametrize("first", ["z_box", "w_square", "flat"])
def test_special_rules_at_the_first_layer_equal_zennit(case: Case, first: str) -> None:
    low, high = _bounds(case.x)
    mine = {"z_box": ZBox(low, high), "w_square": WSquare(), "flat": Flat()}[first]
    theirs = {
        "z_box": zr.ZBox(low, high, TINY), "w_square": zr.WSquare(TINY, **ZERO), "flat": zr.Flat(TINY),
    }[first]  # fmt: skip
    composite = zc.SpecialFirstLayerMapComposite(
        [*zc.layer_map_base(TINY), (Affine, zr.ZPlus(TINY, **ZERO))],
        [(Convolution, theirs)],
        canonizers=case.canonizers,
    )
    found = ours(case.net, norm_elsewhere(first, ZPlus(), first=mine), case.x, case.target)
    assert_equal(found, by_zennit(case, composite)["input"])


# Excitation BP.


@each(VGG)
def test_excitation_bp_and_its_contrast_equal_zennit(case: Case) -> None:
    """No biases, from a one. The contrast is ours by one rule; here it is two maps, the second of negated logits."""
    peer = zc.ExcitationBackprop(TINY, zero_params="bias")
    target_map = by_zennit(case, peer, start="one")["input"]
    assert_equal(modbp.make("excitation_bp", case.net).attribute(case.x, case.target), target_map)
    opposite = copy.copy(case)
    opposite.net = copy.deepcopy(case.net)
    opposite.net.classifier[-1].weight.data.neg_()
    peer = zc.ExcitationBackprop(TINY, zero_params="bias")
    opposite_map = by_zennit(opposite, peer, start="one")["input"]
    found = modbp.make("contrastive_excitation_bp", case.net).attribute(case.x, case.target)
    assert found.abs().max() > 0
    # In units of one of the two: on random weights they nearly cancel.
    assert (found - (target_map - opposite_map)).abs().max() < TOLERANCE * target_map.abs().max()


# Relevance at layers on the way.


LAYERS = {
    "embedded": ["features.4", "features.16", "features.29"],
    "random": ["features.4", "features.16", "features.29"],
    "vgg16_bn": ["features.2", "features.19", "features.42"],
    "resnet18": ["relu", "maxpool", "layer1", "layer3.0"],
}


@each(VARIED)
@pytest.mark.parametrize("name", ["lrp_epsilon", "epsilon_plus"])
def test_relevance_at_layers_equals_zennit(case: Case, name: str) -> None:
    peers = {"epsilon_plus": zc.EpsilonPlus, "epsilon_alpha2_beta1": zc.EpsilonAlpha2Beta1}
    layers = LAYERS[case.name]
    found = modbp.make(name, case.net).relevance(case.x, [*layers, "input"], target=case.target)
    if name == "lrp_epsilon":
        theirs: Any = everywhere(zr.Epsilon(1e-6), case, stabilizer=1e-6)
    else:
        theirs = peers[name](1e-6, TINY, _pools(1e-6), canonizers=case.canonizers)
    expected = by_zennit(case, theirs, at=layers)
    for point in found:
        assert_equal(found[point], expected[point])


@each(VGG)
def test_relevance_at_layers_equals_captum(case: Case) -> None:
    layers = ["features.5", "features.17", "features.28", "classifier.3"]
    found = modbp.make("lrp_epsilon", case.net).relevance(case.x, layers, target=case.target)
    captum_rules(case.net, lambda: EpsilonRule(1e-6), pool=1e-6)
    peer = captum.attr.LayerLRP(case.net, [case.net.get_submodule(layer) for layer in layers])
    for layer, theirs in zip(layers, peer.attribute(case.x.clone(), target=case.target), strict=True):
        assert_equal(found[layer], theirs.detach())
