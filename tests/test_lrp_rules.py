"""Our rules inside Captum's LRP and LayerLRP: equal to our engine, beside Captum's own rules, and without a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LRP, LayerLRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule
from torch import Tensor, nn

import modbp
from modbp import lrp_rules as ours
from modbp import rules
from modbp.backward import Trace
from modbp.composite import Composite
from modbp.metrics import relative_difference

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
]

Rule = tuple[Callable[[], Any], Any]

RULES: dict[str, Rule] = {
    "LRP-0": (lambda: ours.Epsilon(0), rules.Epsilon(0)),
    "epsilon": (lambda: ours.Epsilon(0.1, "excluded"), rules.Epsilon(0.1, "excluded")),
    "gamma": (lambda: ours.Gamma(), rules.Gamma()),
    "gamma, bias included": (lambda: ours.Gamma(gamma=1, bias="included"), rules.Gamma(1, "included")),
    "alpha 2 beta 1": (lambda: ours.AlphaBeta(), rules.AlphaBeta()),
    "alpha 5 beta 4": (lambda: ours.AlphaBeta(5, 4, bias="excluded"), rules.AlphaBeta(5, 4, "excluded")),
    "z+": (lambda: ours.ZPlus(), rules.ZPlus()),
    "z+, bias split": (lambda: ours.ZPlus(bias="split"), rules.ZPlus(bias="split")),
    "w2": (lambda: ours.WSquare(), rules.WSquare()),
    "flat": (lambda: ours.Flat(bias="included"), rules.Flat("included")),
    "z box": (lambda: ours.ZBox(-4, 4), rules.ZBox(-4, 4)),
    "z box of each sample": (lambda: ours.ZBox(), rules.ZBox()),
    "any other": (lambda: ours.CaptumRule(rules.Contrast()), rules.Contrast()),
}
AFFINE = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d)


class Unseen(nn.Module):
    """A module that Captum looks past, since it has a child: relevance takes the way of the gradient."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.child = function, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def pool() -> nn.Module:
    return Unseen(lambda x: F.max_pool2d(x, 2))


def flatten() -> nn.Module:
    return Unseen(lambda x: x.flatten(1))


def vgg(bias: bool = True, seed: int = 0, pool: Callable[[], nn.Module] = pool) -> nn.Sequential:
    """A small VGG with in-place ReLUs, an average pool and dropout."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in ((3, 4), (4, 6)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=bias), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(o, o, 3, padding=1, bias=bias), nn.ReLU(inplace=True), pool()]
    layers += [nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1), flatten(), nn.Linear(6, 8, bias=bias)]
    layers += [nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 5, bias=bias)]
    return nn.Sequential(*layers).double().eval()


def affine_layers(net: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in net.named_modules() if isinstance(m, AFFINE)}


def set_rules(net: nn.Module, given: dict[str, Any]) -> None:
    """Give each affine layer its rule, and a maximum what hands all relevance to the winner."""
    for name, m in net.named_modules():
        if name in given:
            m.rule = given[name]
        elif isinstance(m, nn.MaxPool2d):
            m.rule = EpsilonRule(1e-30)


def by_captum(net: nn.Module, given: dict[str, Any], x: Tensor, target: Any = 1) -> Tensor:
    set_rules(net, given)
    return LRP(net).attribute(x.clone(), target=target).detach()


def by_engine(net: nn.Module, given: dict[str, Any], x: Tensor, at: tuple[str, ...] = ("input",)) -> dict[str, Tensor]:
    composite = Composite("mine", layers=given, batch_norm="affine")
    with torch.no_grad():
        start = torch.zeros_like(net(x))
        start[:, 1] = net(x)[:, 1]
    return Trace(net, x, composite, at).relevance(at, start=start)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 8).double()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_rule_at_every_layer_equals_our_engine(name: str, bias: bool, x: Tensor) -> None:
    net, (build, rule) = vgg(bias), RULES[name]
    layers = affine_layers(net)
    expected = by_engine(net, dict.fromkeys(layers, rule), x)["input"]
    assert expected.any()
    assert relative_difference(by_captum(net, {n: build() for n in layers}, x), expected) < 1e-10


@pytest.mark.parametrize("name", RULES)
def test_relevance_at_a_layer_equals_our_engine(name: str, x: Tensor) -> None:
    net, (build, rule) = vgg(), RULES[name]
    layers = affine_layers(net)
    wanted = ("1", "3", "6", "8", "10")  # Captum overwrites what an in-place ReLU follows, so outputs behind them
    expected = by_engine(net, dict.fromkeys(layers, rule), x, ("input", *wanted))
    for layer, behind in (("2", "1"), ("5", "4"), ("7", "6"), ("13", "12"), ("0", "input")):
        set_rules(net, {n: build() for n in layers})
        found = LayerLRP(net, net.get_submodule(layer)).attribute(x, target=1, attribute_to_layer_input=True)
        found = found[0] if isinstance(found, tuple) else found
        if behind not in expected:
            expected |= by_engine(net, dict.fromkeys(layers, rule), x, (behind,))
        assert relative_difference(found.detach(), expected[behind]) < 1e-10, layer
    set_rules(net, {n: build() for n in layers})
    found = LayerLRP(net, net[11]).attribute(x, target=1)
    assert relative_difference(found.detach(), by_engine(net, dict.fromkeys(layers, rule), x, ("11",))["11"]) < 1e-10


@pytest.mark.parametrize(
    "name", [name for name in RULES if name not in ("w2", "flat", "z box", "z box of each sample")]
)
def test_max_pools_under_captums_epsilon_rule(name: str, x: Tensor) -> None:
    """With so small an ε that a winner receives all; a winner of zero receives none, and under these rules has none."""
    net, (build, rule) = vgg(pool=lambda: nn.MaxPool2d(2)), RULES[name]
    layers = affine_layers(net)
    expected = by_engine(net, dict.fromkeys(layers, rule), x)["input"]
    assert relative_difference(by_captum(net, {n: build() for n in layers}, x), expected) < 1e-10


def test_one_rule_for_all_relevance_at_all_layers(x: Tensor) -> None:
    net, layers = vgg(), affine_layers(vgg())
    set_rules(net, {n: ours.ZPlus() for n in layers})
    found = LayerLRP(net, [net[2], net[11]]).attribute(x, target=1)
    expected = by_engine(net, dict.fromkeys(layers, rules.ZPlus()), x, ("3", "11"))
    assert relative_difference(found[0].detach(), expected["3"]) < 1e-10
    assert relative_difference(found[1].detach(), expected["11"]) < 1e-10


LAYERS: dict[str, tuple[Callable[[], list[nn.Module]], int]] = {
    "Conv2d": (lambda: [nn.Conv2d(3, 4, 3, stride=2, padding=1)], 64),
    "grouped Conv2d": (lambda: [nn.Conv2d(3, 6, 3, groups=3, dilation=2)], 96),
    "Linear": (lambda: [flatten(), nn.Linear(192, 7)], 7),
    "AvgPool2d": (lambda: [nn.AvgPool2d(3, 2, padding=1)], 48),
    "AdaptiveAvgPool2d": (lambda: [nn.AdaptiveAvgPool2d(3)], 27),
    "BatchNorm2d": (lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)], 144),
    "ConvTranspose2d": (lambda: [nn.ConvTranspose2d(3, 2, 2)], 162),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", LAYERS)
def test_each_kind_of_layer(kind: str, name: str, x: Tensor) -> None:
    torch.manual_seed(2)
    build_layers, features = LAYERS[kind]
    flat = [] if kind == "Linear" else [flatten()]
    net = nn.Sequential(*build_layers(), nn.ReLU(), *flat, nn.Linear(features, 3)).double()
    for m in net:
        if isinstance(m, nn.BatchNorm2d):
            for values in (m.running_mean, m.weight.data, m.bias.data):
                values.normal_()  # type: ignore[union-attr]
    net.eval()
    build, rule = RULES[name]
    layers = [n for n, m in net.named_children() if isinstance(m, (*AFFINE, nn.ConvTranspose2d))]
    expected = by_engine(net, dict.fromkeys(layers, rule), x)["input"]
    assert relative_difference(by_captum(net, {n: build() for n in layers}, x), expected) < 1e-10


def test_ours_beside_captums_own(x: Tensor) -> None:
    """Captum's ε-rule is ours; its γ and α1β0 rules are ours behind a ReLU, where it keeps a bias as it is."""
    net = vgg(bias=False, pool=lambda: nn.MaxPool2d(2))  # Captum's winners are not those of changed weights
    layers = list(affine_layers(net))
    captums: dict[str, tuple[Any, Any]] = {
        "2": (Alpha1_Beta0_Rule(set_bias_to_zero=True), rules.ZPlus()),
        "7": (GammaRule(0.25, set_bias_to_zero=True), rules.ZPlus()),
        "13": (EpsilonRule(0.01), rules.Epsilon(0.01)),
        "16": (EpsilonRule(1e-9), rules.Epsilon(1e-9)),
        "10": (EpsilonRule(1e-9), rules.Epsilon(1e-9)),
    }
    captums["2"][0].STABILITY_FACTOR = 1e-30
    captums["7"] = (ours.Gamma(0.25), rules.Gamma(0.25))
    mine = {"0": (ours.ZBox(-4, 4), rules.ZBox(-4, 4)), "5": (ours.AlphaBeta(2), rules.AlphaBeta(2)),
            "11": (ours.Epsilon(0), rules.Epsilon(0))}  # fmt: skip
    mixture = captums | mine
    assert sorted(mixture) == sorted(layers)
    expected = by_engine(net, {n: rule for n, (_, rule) in mixture.items()}, x)["input"]
    assert relative_difference(by_captum(net, {n: rule for n, (rule, _) in mixture.items()}, x), expected) < 1e-10


def test_a_composite_of_the_literature_is_a_loop_over_modules(x: Tensor) -> None:
    net = vgg()
    given = {
        n: ours.Epsilon() if isinstance(m, nn.Linear) else ours.AlphaBeta(2, 1) for n, m in affine_layers(net).items()
    }
    for n, m in affine_layers(net).items():
        if isinstance(m, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            given[n] = ours.Epsilon()
    method = modbp.make("epsilon_alpha2_beta1", net)
    assert relative_difference(by_captum(net, given, x), method.attribute(x, target=1)) < 1e-10


def test_batch_norm_passed_by_captums_identity_rule(x: Tensor) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), flatten(), nn.Linear(144, 3)).double().eval()
    found = by_captum(net, {"0": ours.ZPlus(), "1": IdentityRule(), "4": ours.ZPlus()}, x)
    # The weights that our engine sees are the products with a scale of 1 / sqrt(1 + ε) and no shift.
    expected = by_engine(net, {"0": rules.ZPlus(), "1": rules.ZPlus(), "4": rules.ZPlus()}, x)["input"]
    assert relative_difference(found, expected) < 1e-10


@pytest.mark.parametrize("name", RULES)
def test_the_model_is_as_before(name: str, x: Tensor) -> None:
    net, (build, _) = vgg(), RULES[name]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    output, before = net(x), x.clone()
    attributes = {n: set(vars(m)) for n, m in net.named_modules()}
    by_captum(net, {n: build() for n in affine_layers(net)}, x)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(net(x), output)
    assert torch.equal(x, before)
    for n, m in net.named_modules():
        assert set(vars(m)) - attributes[n] <= {"activations"}  # which Captum itself leaves behind
        hooks = (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        assert not any(hooks)
    assert all(p.grad is None for p in net.parameters())


def test_a_second_call_needs_its_rules_again(x: Tensor) -> None:
    net = vgg()
    layers = affine_layers(net)
    given = {n: ours.AlphaBeta(2) for n in layers}
    first = by_captum(net, given, x)
    assert not any(hasattr(m, "rule") for m in net.modules())  # Captum took them away
    assert torch.equal(by_captum(net, given, x), first)
    assert torch.equal(by_captum(net, {n: ours.AlphaBeta(2) for n in layers}, x), first)
    assert relative_difference(LRP(net).attribute(x.clone(), target=1).detach(), first) > 0.1  # its own default


def test_one_rule_object_for_several_modules(x: Tensor) -> None:
    net = vgg()
    shared = ours.AlphaBeta(2)
    layers = affine_layers(net)
    expected = by_engine(net, dict.fromkeys(layers, rules.AlphaBeta(2)), x)["input"]
    assert relative_difference(by_captum(net, dict.fromkeys(layers, shared), x), expected) < 1e-10


@pytest.mark.parametrize("target", [2, [0, 3], torch.tensor([4, 1])], ids=str)
def test_targets_and_conservation(target: Any, x: Tensor) -> None:
    net = vgg(bias=False)
    layers = affine_layers(net)
    set_rules(net, {n: ours.ZPlus() for n in layers})
    found, delta = LRP(net).attribute(x.clone(), target=target, return_convergence_delta=True)
    assert relative_difference(found.detach(), modbp.make("lrp_zplus", net).attribute(x, target=target)) < 1e-10
    assert delta.abs().max() < 1e-10


def test_alpha_1_beta_0_is_captums_for_what_captum_treats(x: Tensor) -> None:
    """Captum clamps the weights alone, which is z⁺ only where no input is negative."""
    net = vgg(bias=False, pool=lambda: nn.MaxPool2d(2))
    layers = list(affine_layers(net))

    def theirs(v: Tensor) -> Tensor:
        given = {n: Alpha1_Beta0_Rule(set_bias_to_zero=True) for n in layers}
        for rule in given.values():
            rule.STABILITY_FACTOR = 1e-30
        return by_captum(net, given, v)

    def mine(v: Tensor) -> Tensor:
        return by_captum(net, {n: ours.AlphaBeta(1) for n in layers}, v)

    positive = x.abs()
    assert relative_difference(mine(positive), theirs(positive)) < 1e-10
    assert relative_difference(mine(x), theirs(x)) > 0.1
    logit = net(x).detach()[:, 1]
    assert torch.allclose(mine(x).sum((1, 2, 3)), logit, rtol=1e-10)  # ours conserves relevance there too


def test_float32(x: Tensor) -> None:
    net = vgg().float()
    layers = affine_layers(net)
    found = by_captum(net, {n: ours.AlphaBeta(2) for n in layers}, x.float())
    assert found.dtype == torch.float32
    expected = by_engine(net, dict.fromkeys(layers, rules.AlphaBeta(2)), x.float())["input"]
    assert relative_difference(found, expected) < 1e-4


BAD: list[tuple[str, Callable[[], Any]]] = [
    (r"epsilon is -1; allowed is a number from 0", lambda: ours.Epsilon(-1)),
    (r"bias is 'split'; allowed are excluded, included|bias is 'split'", lambda: ours.Epsilon(bias="split")),
    (r"gamma is 'a'; allowed", lambda: ours.Gamma("a")),
    (r"alpha - beta is 2 - 3", lambda: ours.AlphaBeta(2, 3)),
    (r"alpha is 0.5", lambda: ours.AlphaBeta(0.5)),
    (r"bias is 1; allowed are", lambda: ours.ZPlus(bias=1)),
    (r"bias is 'split'", lambda: ours.WSquare("split")),
    (r"bias is None", lambda: ours.Flat(None)),
    (r"one of low and high is given", lambda: ours.ZBox(0)),
    (r"low exceeds high", lambda: ours.ZBox(1, 0)),
    (r"unexpected keyword argument 'eps'", lambda: ours.Epsilon(eps=1)),
]


@pytest.mark.parametrize(("message", "call"), BAD, ids=[m for m, _ in BAD])
def test_bad_options_get_one_sentence(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(modbp.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_rule_on_a_module_that_is_no_affine_layer_is_refused(x: Tensor) -> None:
    net = vgg(pool=lambda: nn.MaxPool2d(2))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    given: dict[str, Any] = {n: ours.ZPlus() for n in affine_layers(net)}
    set_rules(net, given)
    net[4].rule = ours.ZPlus()  # a maximum
    with pytest.raises(modbp.UnsupportedModelError, match="acts on affine layers and none was seen"):
        LRP(net).attribute(x.clone(), target=1)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_rule_on_a_module_of_two_layers_is_refused(x: Tensor) -> None:
    class Two(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return F.avg_pool2d(F.avg_pool2d(v, 2), 2)

    net = nn.Sequential(Two(), flatten(), nn.Linear(12, 2)).double()
    net[0].rule, net[2].rule = ours.ZPlus(), ours.ZPlus()
    with pytest.raises(modbp.UnsupportedModelError, match="Two holds 2 affine layers; allowed"):
        LRP(net).attribute(x.clone(), target=1)


def test_no_second_implementation(x: Tensor) -> None:
    """A rule written by hand works in both places."""

    class Uniform:
        passes_relus, needs_output = True, False

        def __call__(self, relevance: Tensor, layer: Any) -> Tensor:
            return layer.linear.transpose(relevance, torch.abs)

    net = vgg()
    layers = affine_layers(net)
    expected = by_engine(net, dict.fromkeys(layers, Uniform()), x)["input"]
    assert relative_difference(by_captum(net, {n: ours.CaptumRule(Uniform()) for n in layers}, x), expected) < 1e-10
