"""Which rule acts on which operation: the presets of the literature, and the form for your own."""

from __future__ import annotations

import fnmatch
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modbp.errors import InputError
from modbp.rules import (
    AlphaBeta,
    Clipped,
    Contrast,
    Deconvolution,
    DecoupledCode,
    DecoupledText,
    Epsilon,
    Flat,
    Gamma,
    GuidedBackprop,
    Linear,
    Pass,
    PatternAttribution,
    PatternNet,
    RectGrad,
    Rescale,
    RevealCancel,
    SameSign,
    Transposed,
    WSquare,
    ZBox,
    ZPlus,
)

AFFINE = ("linear", "convolution", "batch_norm", "average_pool", "sum")
KINDS = ("relu", "affine", *AFFINE)
"""Kinds of operation: `"affine"` is any of the five behind it that has no rule of its own."""


@dataclass(frozen=True)
class Composite:
    """Rules by layer name, by position and by kind of operation; the first of these that has one decides.

    A composite with rules for the rectifier only changes the gradient: everything else is differentiated as usual. A
    composite with rules for affine layers propagates relevance: then each affine layer of the model needs a rule, and
    an operation for which relevance has no meaning is refused.

    Parameters
    ----------
    name : str
        What messages call it.
    rules : mapping from str to rule, default empty
        Kind of operation to rule: `"relu"`; `"linear"`, `"convolution"`, `"batch_norm"`, `"average_pool"`, `"sum"`
        (of tensors, as in a residual net); or `"affine"` for those of the five that are not given.
    layers : mapping from str to rule, default empty
        Names of modules, as in `model.named_modules()`, or patterns such as `"features.*"`, to rules for affine layers.
    first, last : rule, optional
        For the linear and convolution layers that meet the input itself, and those that make the output.
    batch_norm : {"merge", "affine"}, default "merge"
        A batch norm that alone follows a linear layer or a convolution is merged into it (relevance passes it, and the
        layer's rule sees the product of both), or is an affine layer with a rule of its own.
    start : {"one", "logit"}, default "one"
        What the target's logit sends back: 1, or its value, so that relevance sums to the logit.
    multiply : bool, default False
        Multiply what arrives at a layer by its activation, as in input × gradient.

    Raises
    ------
    InputError
        If a kind or an option is unknown, or rules of both kinds of position exclude each other.

    Examples
    --------
    >>> Composite("guided", {"relu": GuidedBackprop()}).rule_for("relu")
    GuidedBackprop()
    >>> mine = Composite("mine", {"affine": ZPlus(), "linear": Epsilon(0.1)}, layers={"head": Flat()}, first=WSquare())
    >>> mine.rule_for("linear"), mine.rule_for("sum"), mine.rule_for("linear", "head")
    (Epsilon(epsilon=0.1, bias='included'), ZPlus(alpha=1.0, beta=0.0, bias='excluded'), Flat(bias='excluded'))
    >>> mine.rule_for("convolution", "features.0", first=True)
    WSquare(bias='excluded')
    """

    name: str
    rules: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)
    first: Any | None = None
    last: Any | None = None
    batch_norm: str = "merge"
    start: str = "one"
    multiply: bool = False

    def __post_init__(self) -> None:
        """Check, and freeze the mappings too, so that a composite can be shared."""
        unknown = [kind for kind in self.rules if kind not in KINDS]
        if unknown:
            raise InputError(f"rules has the kind {unknown[0]!r}; allowed are {', '.join(KINDS)}.")
        for option, value, allowed in (
            ("batch_norm", self.batch_norm, ("merge", "affine")),
            ("start", self.start, ("one", "logit")),
        ):
            if value not in allowed:
                raise InputError(f"{option} is {value!r}; allowed are {', '.join(allowed)}.")
        for name in ("rules", "layers"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def _affine_rules(self) -> list[Any]:
        by_kind = [rule for kind, rule in self.rules.items() if kind != "relu"]
        return [rule for rule in (*by_kind, *self.layers.values(), self.first, self.last) if rule is not None]

    @property
    def propagates(self) -> bool:
        """Whether it has rules for affine layers, so that what goes back is relevance and not a gradient."""
        return bool(self._affine_rules)

    @property
    def compares(self) -> bool:
        """Whether its rules compare with a reference input, as DeepLIFT's do."""
        return any(getattr(rule, "compares_with_reference", False) for rule in self._affine_rules)

    @property
    def chains(self) -> int:
        """How many multipliers DeepLIFT has to carry: 2 where a positive and a negative one can differ."""
        return max((getattr(rule, "chains", 1) for rule in (*self._affine_rules, self.rules.get("relu"))), default=1)

    @property
    def is_plain(self) -> bool:
        """Whether it has no rule at all: the gradient."""
        return not self.rules and not self.propagates

    @property
    def family(self) -> tuple[Hashable, ...]:
        """What the forward pass depends on: composites that agree in it can share one.

        Rules act on the way back alone, so the graph that one forward pass leaves serves many of them, and only the
        rules are exchanged. It depends on no more than this:

        * Without rules for affine layers the model runs as it is, and each ReLU waits for its rule.
        * With them every operation is replaced, batch norms merge or not, and ReLUs hand relevance on or mask it.
        * DeepLIFT computes factors and parts of differences while the model runs, with its rule for nonlinearities.

        Examples
        --------
        >>> gradient().family == guided_backprop().family, lrp_z().family == lrp_zplus(batch_norm="affine").family
        (True, False)
        """
        relu = self.rule_for("relu")
        if self.compares:
            try:
                hash(relu)
            except TypeError:  # then it shares with nothing but itself
                relu = id(relu)
            return "difference", self.batch_norm, self.chains, relu
        return ("relevance", self.batch_norm, isinstance(relu, Pass)) if self.propagates else ("gradient",)

    def rule_for(self, kind: str, layer: str = "", first: bool = False, last: bool = False) -> Any | None:
        """Return the rule for an operation, or None for the ordinary backward pass.

        Parameters
        ----------
        kind : str
            One of `KINDS`.
        layer : str, default ""
            The name of the module that it belongs to.
        first, last : bool, default False
            Whether it meets the input itself, or makes the output.

        Returns
        -------
        rule or None
        """
        if kind == "relu":
            passes = any(getattr(rule, "passes_relus", True) for rule in self._affine_rules)
            return self.rules.get("relu", Pass() if passes else None)
        if layer in self.layers:
            return self.layers[layer]
        for pattern, rule in self.layers.items():
            if fnmatch.fnmatchcase(layer, pattern):
                return rule
        if kind in ("linear", "convolution"):
            if first and self.first is not None:
                return self.first
            if last and self.last is not None:
                return self.last
        return self.rules.get(kind, self.rules.get("affine"))


def families(composites: Sequence[Composite]) -> list[list[int]]:
    """Return which composites can share a forward pass, as their places in the sequence.

    Parameters
    ----------
    composites : sequence of Composite

    Returns
    -------
    list of list of int
        One list for each family, in the order of their first members.

    Examples
    --------
    >>> families([gradient(), lrp_z(), guided_backprop(), lrp_zplus()])
    [[0, 2], [1, 3]]
    """
    found: dict[tuple[Hashable, ...], list[int]] = {}
    for place, composite in enumerate(composites):
        found.setdefault(composite.family, []).append(place)
    return list(found.values())


def gradient() -> Composite:
    """Return no rule at all: the gradient.

    Examples
    --------
    >>> gradient().is_plain
    True
    """
    return Composite("gradient")


def input_x_gradient() -> Composite:
    """Return the gradient times the input (Shrikumar et al., 2016).

    Examples
    --------
    >>> input_x_gradient().multiply
    True
    """
    return Composite("input_x_gradient", multiply=True)


def deconvolution() -> Composite:
    """Return Deconvolution at every ReLU.

    Examples
    --------
    >>> deconvolution().rule_for("relu")
    Deconvolution()
    """
    return Composite("deconvolution", {"relu": Deconvolution()})


def guided_backprop() -> Composite:
    """Return Guided Backprop at every ReLU.

    Examples
    --------
    >>> guided_backprop().rule_for("relu")
    GuidedBackprop()
    """
    return Composite("guided_backprop", {"relu": GuidedBackprop()})


def rectgrad(percentile: float = 98.0, threshold: float | None = None) -> Composite:
    """Return RectGrad at every ReLU; see `modbp.rules.RectGrad` for the arguments.

    Examples
    --------
    >>> rectgrad(90).rule_for("relu")
    RectGrad(percentile=90, threshold=None)
    """
    return Composite("rectgrad", {"relu": RectGrad(percentile, threshold)})


def uniform(name: str, rule: Any, batch_norm: str = "merge") -> Composite:
    """Return one rule at every affine layer.

    Examples
    --------
    >>> uniform("mine", Flat()).rule_for("convolution")
    Flat(bias='excluded')
    """
    return Composite(name, {"affine": rule}, batch_norm=batch_norm, start="logit")


def _beside(name: str, rule: Any, beside: Any, batch_norm: str, **options: Any) -> Composite:
    """Return one rule for linear layers and convolutions, and another for pools, sums and batch norms of their own.

    There an output has one input, or inputs of equal weight. Rules that weigh positive against negative contributions
    would drop relevance at them, or scale it up, since all contributions to an output can have one sign.
    """
    rules = {"linear": rule, "convolution": rule, "affine": beside}
    return Composite(name, rules, batch_norm=batch_norm, **{"start": "logit", **options})


def lrp_z(bias: str = "included", batch_norm: str = "merge") -> Composite:
    """Return LRP-0 everywhere, which is input × gradient in a ReLU net without biases.

    Examples
    --------
    >>> lrp_z().rule_for("linear")
    Epsilon(epsilon=0.0, bias='included')
    """
    return uniform("lrp_z", Epsilon(0.0, bias), batch_norm)


def lrp_epsilon(epsilon: float = 1e-6, bias: str = "included", batch_norm: str = "merge") -> Composite:
    """Return LRP-ε everywhere.

    Examples
    --------
    >>> lrp_epsilon(0.1).rule_for("linear")
    Epsilon(epsilon=0.1, bias='included')
    """
    return uniform("lrp_epsilon", Epsilon(epsilon, bias), batch_norm)


def lrp_gamma(gamma: float = 0.25, bias: str = "split", batch_norm: str = "merge") -> Composite:
    """Return LRP-γ everywhere.

    Examples
    --------
    >>> lrp_gamma(1.0).rule_for("linear")
    Gamma(gamma=1.0, bias='split')
    """
    return uniform("lrp_gamma", Gamma(gamma, bias), batch_norm)


def lrp_zplus(bias: str = "excluded", batch_norm: str = "merge") -> Composite:
    """Return z⁺ everywhere; at pools, sums and batch norms of their own by the sign of the output.

    Examples
    --------
    >>> lrp_zplus().rule_for("linear"), lrp_zplus().rule_for("sum")
    (ZPlus(alpha=1.0, beta=0.0, bias='excluded'), SameSign())
    """
    return _beside("lrp_zplus", ZPlus(bias=bias), SameSign(), batch_norm)


def lrp_alpha_beta(
    alpha: float = 2.0, beta: float | None = None, bias: str = "split", batch_norm: str = "merge"
) -> Composite:
    """Return LRP-αβ everywhere, α − β = 1; at pools, sums and batch norms of their own LRP-0.

    Examples
    --------
    >>> lrp_alpha_beta(3).rule_for("linear")
    AlphaBeta(alpha=3, beta=2, bias='split')
    """
    rule = AlphaBeta(alpha, beta, bias)
    return _beside(f"lrp_alpha{rule.alpha:g}_beta{rule.beta:g}", rule, Epsilon(0.0, "excluded"), batch_norm)


def lrp_alpha2_beta1(bias: str = "split", batch_norm: str = "merge") -> Composite:
    """Return LRP-αβ with α = 2 and β = 1 everywhere.

    Examples
    --------
    >>> lrp_alpha2_beta1().rule_for("linear")
    AlphaBeta(alpha=2.0, beta=1.0, bias='split')
    """
    return lrp_alpha_beta(2.0, 1.0, bias, batch_norm)


def lrp_alpha5_beta4(bias: str = "split", batch_norm: str = "merge") -> Composite:
    """Return LRP-αβ with α = 5 and β = 4 everywhere.

    Examples
    --------
    >>> lrp_alpha5_beta4().rule_for("linear")
    AlphaBeta(alpha=5.0, beta=4.0, bias='split')
    """
    return lrp_alpha_beta(5.0, 4.0, bias, batch_norm)


def lrp_w_square(bias: str = "excluded", batch_norm: str = "merge") -> Composite:
    """Return w² everywhere.

    Examples
    --------
    >>> lrp_w_square().rule_for("linear")
    WSquare(bias='excluded')
    """
    return uniform("lrp_w_square", WSquare(bias), batch_norm)


def lrp_flat(bias: str = "excluded", batch_norm: str = "merge") -> Composite:
    """Return the flat rule everywhere.

    Examples
    --------
    >>> lrp_flat().rule_for("linear")
    Flat(bias='excluded')
    """
    return uniform("lrp_flat", Flat(bias), batch_norm)


def lrp_z_box(low: Any = None, high: Any = None, bias: str = "included", batch_norm: str = "merge") -> Composite:
    """Return zᴮ at the first layer, where alone its box is known, and LRP-0 above.

    Examples
    --------
    >>> lrp_z_box(0, 1).rule_for("convolution", first=True)
    ZBox(low=0, high=1)
    """
    rules = {"affine": Epsilon(0.0, bias)}
    return Composite("lrp_z_box", rules, first=ZBox(low, high), batch_norm=batch_norm, start="logit")


def deep_taylor(low: Any = None, high: Any = None, batch_norm: str = "merge") -> Composite:
    """Return Deep Taylor: z⁺, and at the first layer zᴮ if the inputs' bounds are given, else w².

    Examples
    --------
    >>> deep_taylor().rule_for("convolution", first=True)
    WSquare(bias='excluded')
    """
    first = WSquare() if low is None and high is None else ZBox(low, high)
    return _beside("deep_taylor", ZPlus(), SameSign(), batch_norm, first=first)


def excitation_bp(batch_norm: str = "merge") -> Composite:
    """Return Excitation Backprop: z⁺ everywhere, from a one at the target.

    Examples
    --------
    >>> excitation_bp().start
    'one'
    """
    return _beside("excitation_bp", ZPlus(), SameSign(), batch_norm, start="one")


def contrastive_excitation_bp(batch_norm: str = "merge") -> Composite:
    """Return contrastive Excitation Backprop: the target's map less that of its opposite.

    Examples
    --------
    >>> contrastive_excitation_bp().rule_for("linear", last=True)
    Contrast()
    """
    return _beside("contrastive_excitation_bp", ZPlus(), SameSign(), batch_norm, last=Contrast(), start="one")


def _dense_and_convolution(name: str, dense: Any, convolution: Any, batch_norm: str, **options: Any) -> Composite:
    """Return one rule for dense layers, one for convolutions, and LRP-ε with the dense rule's ε for pools and sums."""
    rules = {"affine": dense, "convolution": convolution}
    return Composite(name, rules, batch_norm=batch_norm, start="logit", **options)


def epsilon_plus(epsilon: float = 1e-6, bias: str = "split", batch_norm: str = "merge") -> Composite:
    """Return LRP-ε in dense layers and z⁺ in convolutions (Kohlbrenner et al., 2020).

    Examples
    --------
    >>> epsilon_plus().rule_for("linear"), epsilon_plus().rule_for("convolution")
    (Epsilon(epsilon=1e-06, bias='included'), ZPlus(alpha=1.0, beta=0.0, bias='split'))
    """
    return _dense_and_convolution("epsilon_plus", Epsilon(epsilon), ZPlus(bias=bias), batch_norm)


def epsilon_alpha2_beta1(epsilon: float = 1e-6, bias: str = "split", batch_norm: str = "merge") -> Composite:
    """Return LRP-ε in dense layers and α = 2, β = 1 in convolutions (Kohlbrenner et al., 2020).

    Examples
    --------
    >>> epsilon_alpha2_beta1().rule_for("convolution")
    AlphaBeta(alpha=2.0, beta=1.0, bias='split')
    """
    return _dense_and_convolution("epsilon_alpha2_beta1", Epsilon(epsilon), AlphaBeta(2.0, 1.0, bias), batch_norm)


def epsilon_gamma_box(
    low: Any = None,
    high: Any = None,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    bias: str = "split",
    batch_norm: str = "merge",
) -> Composite:
    """Return zᴮ at the first layer, LRP-γ in convolutions and LRP-ε in dense layers (Montavon et al., 2019).

    Examples
    --------
    >>> epsilon_gamma_box().rule_for("convolution", first=True)
    ZBox(low=None, high=None)
    """
    convolution = Gamma(gamma, bias)
    return _dense_and_convolution("epsilon_gamma_box", Epsilon(epsilon), convolution, batch_norm, first=ZBox(low, high))


SIXT_CLIP = (0.0, 1000.0)
"""What the code of Sixt et al. (2020) clips relevance to at the additions of a residual network."""


def sixt_alpha_beta(alpha: float = 1.0, clip: bool | tuple[float, float] = True) -> Composite:
    """Return LRP-αβ everywhere as the code of Sixt et al. (2020) runs it.

    Theirs are α = 1, 2 and 5. Biases stay in the denominators, batch norm is an affine layer of its own, average pools
    have LRP-0; sums have the αβ rule too, and clip what it hands down to [0, 1000].

    Parameters
    ----------
    alpha : float, default 1.0
        β is α − 1.
    clip : bool or (float, float), default True
        Whether relevance is clipped to [0, 1000] at sums, the additions of a residual network, so that none of it is
        negative there, whatever α is; or other bounds.

    Examples
    --------
    >>> sixt_alpha_beta(5).rule_for("sum")
    Clipped(rule=AlphaBeta(alpha=5, beta=4, bias='included'), low=0.0, high=1000.0)
    >>> sixt_alpha_beta(5, clip=False).rule_for("sum"), sixt_alpha_beta(5).rule_for("linear")
    (AlphaBeta(alpha=5, beta=4, bias='included'), AlphaBeta(alpha=5, beta=4, bias='included'))
    """
    rule = AlphaBeta(alpha, bias="included")
    return _as_sixt(f"sixt_alpha{rule.alpha:g}_beta{rule.beta:g}", rule, rule, clip)


def sixt_composite(alpha: float = 1.0, epsilon: float = 1e-10, clip: bool | tuple[float, float] = True) -> Composite:
    """Return a composite of Sixt et al. (2020) as their code runs it: LRP-ε in dense layers, αβ in all others.

    Their two are α = 1 and α = 2. Biases, batch norms, average pools and sums are treated as in `sixt_alpha_beta`.

    Parameters
    ----------
    alpha : float, default 1.0
        β is α − 1.
    epsilon : float, default 1e-10
    clip : bool or (float, float), default True
        Whether relevance is clipped to [0, 1000] at sums; or other bounds.

    Examples
    --------
    >>> sixt_composite(2).rule_for("linear")
    Epsilon(epsilon=1e-10, bias='included')
    >>> sixt_composite(2, clip=False).rule_for("sum")
    AlphaBeta(alpha=2, beta=1, bias='included')
    """
    return _as_sixt(f"sixt_composite_alpha{alpha:g}", AlphaBeta(alpha, bias="included"), Epsilon(epsilon), clip)


def _as_sixt(name: str, rule: AlphaBeta, dense: Any, clip: bool | tuple[float, float]) -> Composite:
    """Return a rule for all but dense layers and average pools, clipped at sums or not."""
    bounds = SIXT_CLIP if clip is True else clip
    rules = {
        "affine": rule,
        "linear": dense,
        "average_pool": Epsilon(0.0),
        "sum": Clipped(rule, *bounds) if bounds else rule,
    }
    return Composite(name if bounds else f"{name}_unclipped", rules, batch_norm="affine", start="logit")


def pattern_net(patterns: Mapping[str, Any]) -> Composite:
    """Return PatternNet with the given patterns by layer name; see `modbp.patterns.fit`.

    Examples
    --------
    >>> import torch
    >>> type(pattern_net({"0": torch.ones(3, 4)}).rule_for("linear", "0")).__name__
    'PatternNet'
    """
    layers = {name: PatternNet(pattern) for name, pattern in patterns.items()}
    return Composite("pattern_net", {"average_pool": Transposed(), "sum": Transposed()}, layers, start="logit")


def pattern_attribution(patterns: Mapping[str, Any]) -> Composite:
    """Return PatternAttribution with the given patterns by layer name; see `modbp.patterns.fit`.

    Examples
    --------
    >>> import torch
    >>> type(pattern_attribution({"0": torch.ones(3, 4)}).rule_for("linear", "0")).__name__
    'PatternAttribution'
    """
    layers = {name: PatternAttribution(pattern) for name, pattern in patterns.items()}
    return Composite("pattern_attribution", {"average_pool": Transposed(), "sum": Transposed()}, layers, start="logit")


def deeplift(name: str, linear: Any, nonlinearity: Any) -> Composite:
    """Return a form of DeepLIFT: a rule for affine layers, and one for every elementwise nonlinearity.

    Examples
    --------
    >>> deeplift("mine", Linear(), RevealCancel()).chains
    2
    """
    # RevealCancel needs the contributions of a convolution at the ReLU, so a batch norm between them has to merge.
    batch_norm = "affine" if max(linear.chains, nonlinearity.chains) == 1 else "merge"
    return Composite(name, {"affine": linear, "relu": nonlinearity}, batch_norm=batch_norm, multiply=True)


def deeplift_rescale() -> Composite:
    """Return DeepLIFT with the Rescale rule.

    Examples
    --------
    >>> deeplift_rescale().rule_for("relu")
    Rescale()
    """
    return deeplift("deeplift_rescale", Linear(), Rescale())


def deeplift_reveal_cancel() -> Composite:
    """Return DeepLIFT with the RevealCancel rule.

    Examples
    --------
    >>> deeplift_reveal_cancel().rule_for("relu")
    RevealCancel()
    """
    return deeplift("deeplift_reveal_cancel", Linear(), RevealCancel())


def deeplift_ablation_text() -> Composite:
    """Return the ablation of Sixt et al. (2020) as their text says it: two chains that never meet.

    Examples
    --------
    >>> deeplift_ablation_text().rule_for("linear")
    DecoupledText()
    """
    return deeplift("deeplift_ablation_text", DecoupledText(), Rescale())


def deeplift_ablation_code() -> Composite:
    """Return the ablation of Sixt et al. (2020) as their code runs it: W⁺ for both signs of a difference.

    Examples
    --------
    >>> deeplift_ablation_code().rule_for("linear")
    DecoupledCode()
    """
    return deeplift("deeplift_ablation_code", DecoupledCode(), Rescale())
