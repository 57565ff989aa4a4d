"""What is compared: the networks, the formulas with the least work that each needs, and who computes them.

PyTorch and the libraries are imported where they are used, so that the names alone are known at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Call = Callable[[], Any]
"""One attribution of the whole batch."""

PLAIN = "plain"
STARTS = 5
LOW, HIGH = 0.0, 1.0
"""Inputs are pixels between these: rules that hold for non-negative inputs alone then mean what the others mean."""


class AbsentError(Exception):
    """A contender that this installation does not have."""


@dataclass(frozen=True)
class Layers:
    """How many layers with weights a network has.

    Parameters
    ----------
    convolutions : int
    before_sums : int
        Those among them whose output goes into a sum and not into a ReLU, so that its sign is not known.
    dense : int
    """

    convolutions: int
    before_sums: int
    dense: int


NETWORKS = {"vgg16": Layers(13, 0, 3), "resnet50": Layers(53, 20, 1)}
NETWORK_LABELS = {"vgg16": "VGG16", "resnet50": "ResNet-50"}


@dataclass(frozen=True)
class Formula:
    """What is computed, and how often each kind of layer must apply its weights to a sample for it.

    Parameters
    ----------
    label : str
    convolution, dense : int
        Forward and backward together. The gradient needs 2; z⁺ needs 3, since the activations and the sums of positive
        contributions are two forward products. α₂β₁ needs 4: one more way back, since the sums of negative
        contributions are the output less those. Inputs are non-negative.
    first, before_sum : int, optional
        For the first convolution, and for convolutions that no ReLU follows, where these need another number.
    sums_to : {"logit", "one"}, optional
        What a map must add up to in a network without biases.
    """

    label: str
    convolution: int = 2
    dense: int = 2
    first: int | None = None
    before_sum: int | None = None
    sums_to: str | None = None

    def least(self, network: str) -> int:
        """Return the least number of products with a layer's weights, for one sample."""
        layers = NETWORKS[network]
        first = self.convolution if self.first is None else self.first
        before_sum = self.convolution if self.before_sum is None else self.before_sum
        others = layers.convolutions - 1 - layers.before_sums
        return first + before_sum * layers.before_sums + self.convolution * others + self.dense * layers.dense


FORMULAS = {
    PLAIN: Formula("Forward and backward"),
    "guided_backprop": Formula("Guided Backprop"),
    "deconvolution": Formula("Deconvolution"),
    "rectgrad": Formula("RectGrad"),
    "lrp_epsilon": Formula("LRP-ε", sums_to="logit"),
    "lrp_zplus": Formula("LRP-z⁺", 3, 3, sums_to="logit"),
    "excitation_bp": Formula("Excitation BP", 3, 3, sums_to="one"),
    "lrp_gamma": Formula("LRP-γ", 3, 3, before_sum=4, sums_to="logit"),
    "lrp_alpha2_beta1": Formula("LRP-α₂β₁", 4, 4, sums_to="logit"),
    "epsilon_plus": Formula("ε and z⁺", 3, sums_to="logit"),
    "epsilon_alpha2_beta1": Formula("ε and α₂β₁", 4, sums_to="logit"),
    "epsilon_gamma_box": Formula("ε, γ and zᴮ", 3, first=5, before_sum=4, sums_to="logit"),
    "deeplift_rescale": Formula("DeepLIFT Rescale", 3, 3, sums_to="logit"),
}
RELU_FORMULAS = ("guided_backprop", "deconvolution", "rectgrad")
"""Those that differ from the gradient by their ReLUs alone: where nothing was hooked, they return the gradient."""


@dataclass(frozen=True)
class Contender:
    """One formula as one library computes it.

    Parameters
    ----------
    library : str
    formula : str
        A key of `FORMULAS`.
    build : callable
        Takes the network, the inputs and the targets, and returns the call that is timed.
    alters : bool, default False
        Whether what it builds leaves its mark on the network, so that the plain pass needs another one.
    kind : {"map", "starts", "csc"}, default "map"
        A map against a plain pass, many starts at once against as many runs, or cosine similarity convergence against
        a plain pass.
    """

    library: str
    formula: str
    build: Callable[[nn.Module, Tensor, Tensor], Call]
    alters: bool = False
    kind: str = "map"

    @property
    def name(self) -> str:
        """What `--only` calls it."""
        if self.formula == PLAIN:
            return PLAIN
        return f"{self.library if self.kind == 'map' else self.kind}/{self.formula}"


# The networks


def network(name: str) -> nn.Module:
    """Return torchvision's network with weights from N(0, 2 / fan in), no biases in effect, and seed 0."""
    import torch
    from torch import nn

    from modbp._torchvision import torchvision

    make = getattr(torchvision().models, name)
    with torch.device("meta"):  # or the weights would be drawn twice
        model = make(weights=None)
    model = model.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model.eval()


# A plain pass, and this project


def plain(model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return a forward and a backward pass to the input."""
    import torch

    def call() -> Tensor:
        leaf = x.clone().requires_grad_()
        chosen = model(leaf).gather(1, target[:, None])
        return torch.autograd.grad(chosen.sum(), leaf)[0]

    return call


def _method(model: nn.Module, name: str) -> Any:
    import modbp

    if name not in modbp.METHODS:
        raise AbsentError(name)
    return modbp.make(name, model, **({"low": LOW, "high": HIGH} if name == "epsilon_gamma_box" else {}))


def ours(name: str, model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return a method of this project."""
    method = _method(model, name)
    return lambda: method.attribute(x, target=target)


@dataclass(frozen=True)
class Starts:
    """Several start vectors from the logits to all convolutions: at once when called, and one by one."""

    method: Any
    x: Tensor
    layers: list[str]
    starts: Tensor

    def __call__(self) -> Any:
        """Send all starts back together."""
        return self.method.trace(self.x, self.layers).relevance(self.layers, start=self.starts, keep=False)

    def separately(self) -> Any:
        """Send each start back in a run of its own."""
        return [self.method.relevance(self.x, self.layers, start=start) for start in self.starts]


def our_starts(name: str, model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return the comparison of several starts with as many runs."""
    import torch
    from torch import nn

    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        output = model(x)
    generator = torch.Generator().manual_seed(2)
    starts = torch.randn(STARTS, *output.shape, generator=generator).to(output)
    return Starts(_method(model, name), x, layers, starts)


def our_convergence(name: str, model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return cosine similarity convergence from the logits to all layers, with `STARTS` vectors."""
    import modbp

    return lambda: modbp.metrics.csc(model, x, name, n_vectors=STARTS)


# Captum


def captum_relu(name: str, model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return Guided Backprop or Deconvolution of Captum."""
    import captum.attr

    method = getattr(captum.attr, name)(model)
    return lambda: method.attribute(x.clone(), target=target)


def captum_lrp(name: str, model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return Captum's LRP with one rule at every layer with weights; it forgets the rules after each call."""
    from captum.attr import LRP
    from captum.attr._utils import lrp_rules
    from torch import nn

    method, rule = LRP(model), getattr(lrp_rules, name)
    layers: list[Any] = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]

    def call() -> Tensor:
        for layer in layers:
            layer.rule = rule()
        return method.attribute(x.clone(), target=target)

    return call


def captum_deeplift(model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return Captum's DeepLIFT, from a reference of zeros."""
    from captum.attr import DeepLift

    method = DeepLift(model)
    return lambda: method.attribute(x.clone(), target=target)


# zennit


def zennit(name: str, model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """Return one of zennit's composites, registered once, with its canonizer for residual networks."""
    import torch

    from modbp._torchvision import torchvision

    torchvision()
    from torch.nn.functional import one_hot
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.rules import Epsilon
    from zennit.torchvision import ResNetCanonizer
    from zennit.types import Linear

    options: dict[str, Any] = {"canonizers": [ResNetCanonizer()] if hasattr(model, "layer4") else []}
    if name == "EpsilonGammaBox":
        options |= {"low": torch.full_like(x, LOW), "high": torch.full_like(x, HIGH)}
    if name == "Epsilon":
        rules = [*composites.layer_map_base(), (Linear, Epsilon())]
        composite = composites.LayerMapComposite(rules, **options)
    else:
        composite = getattr(composites, name)(**options)
    composite.register(model)
    attributor = Gradient(model)
    relevance = name not in ("GuidedBackprop", "ExcitationBackprop")

    def start(output: Tensor) -> Tensor:
        one = one_hot(target, output.shape[1]).to(output)
        return one * output.detach() if relevance else one

    return lambda: attributor(x.clone(), start)[1]


def _captum(formula: str, build: Callable[..., Call], *names: str) -> Contender:
    return Contender("captum", formula, partial(build, *names))


def _zennit(formula: str, name: str) -> Contender:
    return Contender("zennit", formula, partial(zennit, name), alters=True)


OURS = tuple(formula for formula in FORMULAS if formula != PLAIN)
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("torch", PLAIN, plain),
        _captum("guided_backprop", captum_relu, "GuidedBackprop"),
        _captum("deconvolution", captum_relu, "Deconvolution"),
        _captum("lrp_epsilon", captum_lrp, "EpsilonRule"),
        _captum("lrp_zplus", captum_lrp, "Alpha1_Beta0_Rule"),
        _captum("lrp_gamma", captum_lrp, "GammaRule"),
        _captum("deeplift_rescale", captum_deeplift),
        _zennit("guided_backprop", "GuidedBackprop"),
        _zennit("lrp_epsilon", "Epsilon"),
        _zennit("excitation_bp", "ExcitationBackprop"),
        _zennit("epsilon_plus", "EpsilonPlus"),
        _zennit("epsilon_alpha2_beta1", "EpsilonAlpha2Beta1"),
        _zennit("epsilon_gamma_box", "EpsilonGammaBox"),
        *(Contender("modbp", name, partial(ours, name)) for name in OURS),
        *(
            Contender("modbp", name, partial(our_starts, name), kind="starts")
            for name in ("guided_backprop", "lrp_epsilon", "lrp_zplus")
        ),
        *(
            Contender("modbp", name, partial(our_convergence, name), kind="csc")
            for name in ("guided_backprop", "lrp_zplus")
        ),
    )
}
"""By name; a plain pass, against which the others are measured, comes first."""
