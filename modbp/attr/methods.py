"""Every attribution method by name: one small class each, which only chooses the composite."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch  # noqa: F401, for the examples
from torch import Tensor

from modbp import composite as composites
from modbp._captum import log_usage
from modbp.attr.base import ModifiedBackprop
from modbp.attr.targets import Target
from modbp.backward import Tensors, check_baselines
from modbp.composite import Composite
from modbp.errors import InputError, UnsupportedModelError
from modbp.patterns import fit


class Preset(ModifiedBackprop):
    """A method whose composite is one of `modbp.composite`'s.

    Parameters
    ----------
    model : callable
        An `nn.Module` or a function of tensors that returns logits, shape (batch, classes).
    **options
        What the preset takes.

    Examples
    --------
    >>> LRPEpsilon(torch.nn.Linear(4, 3), epsilon=0.1).composite.rule_for("linear").epsilon
    0.1
    """

    preset: ClassVar[Callable[..., Composite]] = staticmethod(composites.gradient)

    def __init__(self, model: Callable[..., Any], *args: Any, **options: Any) -> None:
        super().__init__(model, type(self).preset(*args, **options))


class Gradient(Preset):
    """The gradient of the logit, with its sign (Simonyan, Vedaldi and Zisserman, 2013, section 3).

    Examples
    --------
    >>> net = torch.nn.Linear(4, 3)
    >>> torch.equal(Gradient(net).attribute(torch.randn(1, 4), target=2)[0], net.weight[2])
    True
    """

    preset = staticmethod(composites.gradient)


class InputXGradient(Preset):
    """The gradient times the input (Shrikumar et al., 2016); at a layer, times its activation.

    Examples
    --------
    >>> net, x = torch.nn.Linear(4, 3), torch.randn(1, 4)
    >>> torch.equal(InputXGradient(net).attribute(x, target=2)[0], x[0] * net.weight[2])
    True
    """

    preset = staticmethod(composites.input_x_gradient)


class Deconvolution(Preset):
    """Deconvolution: each ReLU keeps the positive part of the signal (Zeiler and Fergus, 2014, section 2.1).

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> Deconvolution(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.deconvolution)


class GuidedBackprop(Preset):
    """Guided Backprop: each ReLU keeps the positive part of the signal where it is active (Springenberg et al., 2014).

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.randn(1, 4)
    >>> bool((x * GuidedBackprop(net).attribute(x, target=2)).sum() >= 0)
    True
    """

    preset = staticmethod(composites.guided_backprop)


class RectGrad(Preset):
    """RectGrad: each ReLU keeps the signal where activation times signal is among the largest (Kim et al., 2019).

    Parameters
    ----------
    model : callable
    percentile : float, default 98
        The share of a layer's units, in percent, whose signal is dropped.
    threshold : float, optional
        A fixed threshold on activation times signal in place of the percentile.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> RectGrad(net, percentile=90).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.rectgrad)


class LRPZ(Preset):
    """LRP-0, the z rule, at every layer (Bach et al., 2015, equation 56).

    Parameters
    ----------
    model : callable
    bias : {"included", "excluded"}, default "included"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> bool((LRPZ(net).attribute(x, target=2).sum() - net(x)[0, 2]).abs() < 1e-4)
    True
    """

    preset = staticmethod(composites.lrp_z)


class LRPEpsilon(Preset):
    """LRP-ε at every layer (Bach et al., 2015, equation 58).

    Parameters
    ----------
    model : callable
    epsilon : float, default 1e-6
        In units of a layer's output.
    bias : {"included", "excluded"}, default "included"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> bool((LRPEpsilon(net, epsilon=1e-9).attribute(x, target=2).sum() - net(x)[0, 2]).abs() < 1e-4)
    True
    """

    preset = staticmethod(composites.lrp_epsilon)


class LRPGamma(Preset):
    """LRP-γ at every layer, for inputs of either sign (Montavon et al., 2019, section 10.2.3).

    Parameters
    ----------
    model : callable
    gamma : float, default 0.25
        How much more positive contributions count.
    bias : {"excluded", "included", "split"}, default "split"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> bool((LRPGamma(net).attribute(x, target=2).sum() - net(x)[0, 2]).abs() < 1e-4)
    True
    """

    preset = staticmethod(composites.lrp_gamma)


class LRPZPlus(Preset):
    """z⁺ at every layer: shares of the positive contributions alone (Montavon et al., 2017).

    Parameters
    ----------
    model : callable
    bias : {"excluded", "included", "split"}, default "excluded"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> bool((LRPZPlus(net).attribute(x, target=2).sum() - net(x)[0, 2]).abs() < 1e-4)
    True
    """

    preset = staticmethod(composites.lrp_zplus)


class LRPAlphaBeta(Preset):
    """LRP-αβ at every layer, for any α − β = 1 (Bach et al., 2015, equation 60).

    Parameters
    ----------
    model : callable
    alpha : float, default 2
    beta : float, default alpha − 1
    bias : {"excluded", "included", "split"}, default "split"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> LRPAlphaBeta(net, alpha=3).composite.name
    'lrp_alpha3_beta2'
    """

    preset = staticmethod(composites.lrp_alpha_beta)


class LRPAlpha2Beta1(Preset):
    """LRP-αβ with α = 2 and β = 1 at every layer.

    Parameters
    ----------
    model : callable
    bias : {"excluded", "included", "split"}, default "split"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> LRPAlpha2Beta1(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.lrp_alpha2_beta1)


class LRPAlpha5Beta4(Preset):
    """LRP-αβ with α = 5 and β = 4 at every layer.

    Parameters
    ----------
    model : callable
    bias : {"excluded", "included", "split"}, default "split"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> LRPAlpha5Beta4(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.lrp_alpha5_beta4)


class LRPWSquare(Preset):
    """w² at every layer: shares by squared weight, whatever the input (Montavon et al., 2017, section 4.1).

    Parameters
    ----------
    model : callable
    bias : {"included", "excluded"}, default "excluded"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> bool((LRPWSquare(net).attribute(x, target=2).sum() - net(x)[0, 2]).abs() < 1e-4)
    True
    """

    preset = staticmethod(composites.lrp_w_square)


class LRPFlat(Preset):
    """The flat rule at every layer: equal shares (Lapuschkin et al., 2019, supplement).

    Parameters
    ----------
    model : callable
    bias : {"included", "excluded"}, default "excluded"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> bool((LRPFlat(net).attribute(x, target=2).sum() - net(x)[0, 2]).abs() < 1e-4)
    True
    """

    preset = staticmethod(composites.lrp_flat)


class LRPZBox(Preset):
    """zᴮ at the first layer, whose inputs lie in a box (Montavon et al., 2017, section 4.2), and LRP-0 above.

    Parameters
    ----------
    model : callable
    low, high : float or Tensor, optional
        Bounds of the inputs, broadcastable to a sample. By default each sample's own
        smallest and largest entry.
    bias : {"included", "excluded"}, default "included"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> LRPZBox(net, low=0, high=1).attribute(torch.rand(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.lrp_z_box)


class DeepTaylor(Preset):
    """Deep Taylor decomposition: z⁺, with zᴮ or w² at the first layer (Montavon et al., 2017).

    Parameters
    ----------
    model : callable
    low, high : float or Tensor, optional
        Bounds of the inputs, broadcastable to a sample. With them the first layer has zᴮ,
        without them w².
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> bool((DeepTaylor(net).attribute(x, target=2).sum() - net(x)[0, 2]).abs() < 1e-4)
    True
    """

    preset = staticmethod(composites.deep_taylor)


class ExcitationBackprop(Preset):
    """Excitation Backprop: z⁺ without biases, from a one at the target (Zhang et al., 2016).

    Parameters
    ----------
    model : callable
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(1, 4)
    >>> round(float(ExcitationBackprop(net).attribute(x, target=2).sum()), 4) in (0.0, 1.0)
    True
    """

    preset = staticmethod(composites.excitation_bp)


class ContrastiveExcitationBackprop(Preset):
    """Contrastive Excitation Backprop: the target's map less that of its opposite (Zhang et al., 2016, section 3.4).

    The map is signed and sums to zero; the source shows its positive part.

    Parameters
    ----------
    model : callable
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> ContrastiveExcitationBackprop(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.contrastive_excitation_bp)


class EpsilonPlus(Preset):
    """LRP-ε in dense layers and z⁺ in convolutions (Kohlbrenner et al., 2020).

    Parameters
    ----------
    model : callable
    epsilon : float, default 1e-6
        In units of a layer's output.
    bias : {"excluded", "included", "split"}, default "split"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> EpsilonPlus(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.epsilon_plus)


class EpsilonAlpha2Beta1(Preset):
    """LRP-ε in dense layers and LRP-αβ with α = 2, β = 1 in convolutions (Kohlbrenner et al., 2020).

    Parameters
    ----------
    model : callable
    epsilon : float, default 1e-6
        In units of a layer's output.
    bias : {"excluded", "included", "split"}, default "split"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> EpsilonAlpha2Beta1(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.epsilon_alpha2_beta1)


class EpsilonGammaBox(Preset):
    """LRP-ε in dense layers, LRP-γ in convolutions and zᴮ at the first layer (Montavon et al., 2019).

    Parameters
    ----------
    model : callable
    low, high : float or Tensor, optional
        Bounds of the inputs, broadcastable to a sample. By default each sample's own
        smallest and largest entry.
    epsilon : float, default 1e-6
        In units of a layer's output.
    gamma : float, default 0.25
        How much more positive contributions count.
    bias : {"excluded", "included", "split"}, default "split"
        See `modbp.rules`.
    batch_norm : {"merge", "affine"}, default "merge"
        See `modbp.composite.Composite`.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> EpsilonGammaBox(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.epsilon_gamma_box)


class DeepLift(Preset):
    """DeepLIFT with one of its rules, for any reference input (Shrikumar, Greenside and Kundaje, 2017).

    Relevance is the contribution: multipliers times the difference from the reference. At every layer the
    contributions of a sample add up to the difference of its logit, except for the ablations.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x, reference = torch.randn(2, 4), torch.randn(1, 4)
    >>> map, delta = DeepLiftRescale(net).attribute(x, reference, target=1, return_convergence_delta=True)
    >>> bool(delta.abs().max() < 1e-5)
    True
    """

    preset = staticmethod(composites.deeplift_rescale)

    @log_usage()  # NoiseTunnel calls what this decorator wraps
    def attribute(
        self,
        inputs: Tensors,
        baselines: Any = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Return the contributions of the inputs to the difference of the target's logit from its reference.

        Parameters
        ----------
        inputs : Tensor or tuple of Tensor, shape (batch, ...)
        baselines : number, Tensor, or tuple of them, optional
            The reference: of the input's shape, or broadcastable to it. By default zero.
        target : int, list, tuple or Tensor, optional
            As in `ModifiedBackprop.attribute`.
        additional_forward_args : any, optional
            Passed to the model behind the inputs.
        return_convergence_delta : bool, default False
            Return also by how much the contributions of each sample miss the difference of its logit.

        Returns
        -------
        Tensor or tuple of Tensor, and Tensor of shape (batch,) if the delta is asked for

        Raises
        ------
        InputError
            If an argument is not usable.
        UnsupportedModelError
            If the rules have no meaning for something that the model computes.
        """
        maps = self._attribute(inputs, target, additional_forward_args, baselines)
        if not return_convergence_delta:
            return maps
        references = check_baselines(baselines, inputs)
        end = inputs if isinstance(inputs, tuple) else (inputs,)
        return maps, self.compute_convergence_delta(maps, references, end, target, additional_forward_args)

    def has_convergence_delta(self) -> bool:
        """Return True: contributions can be compared with a difference of logits."""
        return True


class DeepLiftRescale(DeepLift):
    """DeepLIFT with the Rescale rule (Shrikumar et al., 2017, section 3.5.2).

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> DeepLiftRescale(net).attribute(torch.randn(1, 4), baselines=0.5, target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.deeplift_rescale)


class DeepLiftRevealCancel(DeepLift):
    """DeepLIFT with the RevealCancel rule (Shrikumar et al., 2017, section 3.5.3).

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> DeepLiftRevealCancel(net).attribute(torch.randn(1, 4), baselines=0.5, target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.deeplift_reveal_cancel)


class DeepLiftAblationText(DeepLift):
    """DeepLIFT whose two chains never meet: the ablation of Sixt et al. (2020) as their text says it.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> DeepLiftAblationText(net).attribute(torch.randn(1, 4), baselines=0.5, target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.deeplift_ablation_text)


class DeepLiftAblationCode(DeepLift):
    """DeepLIFT with W⁺ for both signs of a difference: the same ablation as their code runs it.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> DeepLiftAblationCode(net).attribute(torch.randn(1, 4), baselines=0.5, target=2).shape
    torch.Size([1, 4])
    """

    preset = staticmethod(composites.deeplift_ablation_code)


class _Pattern(ModifiedBackprop):
    """A method that needs patterns."""

    _composite: ClassVar[Callable[..., Composite]]

    def __init__(
        self,
        model: Callable[..., Any],
        patterns: Mapping[str, Tensor] | None = None,
        data: Iterable[Tensor] | None = None,
    ) -> None:
        if (patterns is None) == (data is None):
            raise InputError(
                "patterns and data are both given or both missing; allowed is one of them: patterns by layer name, or"
                " batches of inputs to fit them to."
            )
        found = fit(model, data) if data is not None else dict(patterns or {})
        super().__init__(model, type(self)._composite(found))


class PatternNet(_Pattern):
    """PatternNet: the signal that the target's logit answers to, projected back to the input (Kindermans et al., 2018).

    Parameters
    ----------
    model : nn.Module
    patterns : mapping from str to Tensor, optional
        By layer name, from `modbp.patterns.fit`.
    data : iterable of Tensor, optional
        In place of patterns, batches of inputs to fit them to.

    Raises
    ------
    InputError
        If not exactly one of patterns and data is given.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> PatternNet(net, data=[torch.randn(64, 4)]).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    _composite = staticmethod(composites.pattern_net)


class PatternAttribution(_Pattern):
    """PatternAttribution: how much each input's signal adds to the target's logit (Kindermans et al., 2018).

    Parameters
    ----------
    model : nn.Module
    patterns : mapping from str to Tensor, optional
        By layer name, from `modbp.patterns.fit`.
    data : iterable of Tensor, optional
        In place of patterns, batches of inputs to fit them to.

    Raises
    ------
    InputError
        If not exactly one of patterns and data is given.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> PatternAttribution(net, data=[torch.randn(64, 4)]).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    _composite = staticmethod(composites.pattern_attribution)


METHODS: Mapping[str, type[ModifiedBackprop]] = MappingProxyType(
    {
        "gradient": Gradient,
        "input_x_gradient": InputXGradient,
        "deconvolution": Deconvolution,
        "guided_backprop": GuidedBackprop,
        "rectgrad": RectGrad,
        "lrp_z": LRPZ,
        "lrp_epsilon": LRPEpsilon,
        "lrp_gamma": LRPGamma,
        "lrp_alpha_beta": LRPAlphaBeta,
        "lrp_zplus": LRPZPlus,
        "lrp_alpha2_beta1": LRPAlpha2Beta1,
        "lrp_alpha5_beta4": LRPAlpha5Beta4,
        "lrp_w_square": LRPWSquare,
        "lrp_flat": LRPFlat,
        "lrp_z_box": LRPZBox,
        "deep_taylor": DeepTaylor,
        "excitation_bp": ExcitationBackprop,
        "contrastive_excitation_bp": ContrastiveExcitationBackprop,
        "epsilon_plus": EpsilonPlus,
        "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
        "epsilon_gamma_box": EpsilonGammaBox,
        "pattern_net": PatternNet,
        "pattern_attribution": PatternAttribution,
        "deeplift_rescale": DeepLiftRescale,
        "deeplift_reveal_cancel": DeepLiftRevealCancel,
        "deeplift_ablation_text": DeepLiftAblationText,
        "deeplift_ablation_code": DeepLiftAblationCode,
    }
)
"""Every attribution method by name."""


def make(name: str, model: Callable[..., Any], **options: Any) -> ModifiedBackprop:
    """Return an attribution method by name.

    Parameters
    ----------
    name : str
        A key of `modbp.METHODS`.
    model : callable
        An `nn.Module` or a function of tensors that returns logits, shape (batch, classes).
    **options
        What the method's class takes beside the model, such as `percentile` for RectGrad.

    Returns
    -------
    ModifiedBackprop
        A `captum.attr.GradientAttribution`.

    Raises
    ------
    InputError
        If the name is no method's, or the method has no such option.

    Examples
    --------
    >>> make("rectgrad", torch.nn.ReLU(), percentile=90).composite.rule_for("relu").percentile
    90
    """
    if name not in METHODS:
        raise InputError(f"the method {name!r} is unknown; allowed are {', '.join(METHODS)}.")
    method = METHODS[name]
    try:
        if issubclass(method, Preset):
            inspect.signature(method.preset).bind(**options)
        else:
            inspect.signature(method).bind(model, **options)
    except TypeError as error:
        raise InputError(f"{name} does not take these options ({error}).") from None
    try:
        return method(model, **options)
    except UnsupportedModelError:  # of a model that patterns were to be fitted to
        raise
    except ValueError as error:
        raise InputError(str(error)) from None
