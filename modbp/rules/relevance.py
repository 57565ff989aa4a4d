r"""Rules of layer-wise relevance propagation (LRP): how an affine layer hands relevance to its inputs.

Every rule takes the relevance :math:`R_k` of a layer's outputs :math:`z_k=\sum_j w_{kj}a_j+b_k` and returns that of its
inputs. It chooses contributions :math:`c_{kj}` and hands on in proportion, :math:`R_j=\sum_k c_{kj}R_k/\sum_i c_{ki}`.
With :math:`v^+=\max(v,0)` and :math:`v^-=\min(v,0)`:

==================  ========================================================================  ========================
rule                contributions                                                             source
==================  ========================================================================  ========================
LRP-0 (z)           :math:`w a`                                                               Bach et al. (2015)
LRP-ε               :math:`w a`, denominator :math:`z+\varepsilon\,\mathrm{sign}(z)`          Bach et al. (2015)
LRP-γ               :math:`w a+\gamma(w a)^\pm`, with the sign of :math:`z`                   Montavon et al. (2019)
LRP-αβ              :math:`\alpha` shares of :math:`(wa)^+` less :math:`\beta` of             Bach et al. (2015)
                    :math:`(wa)^-`
z⁺                  :math:`(w a)^+`                                                           Montavon et al. (2017)
same sign           :math:`(w a)^\pm`, with the sign of :math:`W a`                           ours, for sums and pools
w²                  :math:`w^2`                                                               Montavon et al. (2017)
flat                :math:`1`                                                                 Lapuschkin et al. (2019)
zᴮ                  :math:`w a-w^+l-w^-h`                                                     Montavon et al. (2017)
==================  ========================================================================  ========================

**Bias.** A bias is one more contribution, from a neuron that is always 1 and keeps what it receives. Where a rule has
a `bias` option, `"included"` adds b to the denominator, `"split"` only its part of the matching sign, and
`"excluded"` leaves it out, so that the inputs receive everything.

A sum of contributions that is zero has nothing to hand on: the relevance of that output is dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from modbp.rules.affine import (
    AffineLayer,
    Contributions,
    Sum,
    all_starts,
    divide,
    divide_away_from_zero,
    divide_by_sum,
    negative,
    positive,
    whole,
)

BIASES = ("excluded", "included", "split")


class RelevanceRule(Protocol):
    """What a rule for affine layers must be: a function of the arriving relevance and the layer."""

    passes_relus: ClassVar[bool]
    """Whether relevance passes a ReLU unchanged (LRP), or is masked by it like a gradient (patterns)."""

    needs_output: bool
    """Whether the rule asks for the layer's output, which is then kept from the forward pass."""

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the layer's inputs.

        Parameters
        ----------
        relevance : Tensor, shape of the layer's output
        layer : AffineLayer
            The layer's call in the forward pass.

        Returns
        -------
        Tensor, shape of the layer's input
        """
        ...


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse what is no finite number in [low, high].

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_number("epsilon", 0.1, low=0)
    >>> check_number("epsilon", -1, low=0)
    Traceback (most recent call last):
        ...
    ValueError: epsilon is -1; allowed is a number from 0 upwards.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        bounds = f" from {low:g} upwards" if high == math.inf else f" from {low:g} to {high:g}"
        raise ValueError(f"{name} is {value!r}; allowed is a number{bounds if low > -math.inf else ''}.")


def check_bias(bias: Any, allowed: tuple[str, ...] = BIASES) -> None:
    """Refuse a choice of bias that a rule does not offer.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_bias("split")
    """
    if bias not in allowed:
        raise ValueError(f"bias is {bias!r}; allowed are {', '.join(allowed)}.")


@dataclass(frozen=True)
class Epsilon:
    """LRP-ε: each input's share of the output, c = w a; ε = 0 is LRP-0, the z rule.

    R_j = Σ_k w_kj a_j R_k / (z_k + ε sign(z_k)), with sign(0) = +1.
    Source: Bach et al., *On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation* (2015), equations 56 and 58.

    Parameters
    ----------
    epsilon : float, default 1e-6
        ε ≥ 0, in units of the layer's output. It keeps relevance from growing where contributions nearly cancel, and
        absorbs some of it.
    bias : {"included", "excluded"}, default "included"
        Whether z holds the bias, as in Captum, zennit and innvestigate.

    Raises
    ------
    ValueError
        If an argument is not allowed.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> Epsilon(0)(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[ 3., -2.]])
    """

    epsilon: float = 1e-6
    bias: str = "included"
    passes_relus: ClassVar[bool] = True
    needs_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_number("epsilon", self.epsilon, low=0)
        check_bias(self.bias, ("included", "excluded"))

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        z = layer.output if self.bias == "included" else layer.output_without_bias
        shares = divide_away_from_zero(relevance, z, self.epsilon) if self.epsilon else divide(relevance, z)
        return layer.contributions().share(shares)


@dataclass(frozen=True)
class Gamma:
    """LRP-γ: as LRP-0, with the contributions that agree with the output's sign counted 1 + γ times.

    c = w a + γ (w a)⁺ where z > 0, and c = w a + γ (w a)⁻ where z < 0. For a ≥ 0 and z > 0 this is a · (w + γ w⁺), the
    original rule; the form for inputs and outputs of either sign lets γ = 0 be LRP-0 and γ → ∞ be z⁺ where z > 0.
    Source: Montavon et al., *Layer-Wise Relevance Propagation: An Overview* (2019), section 10.2.3; both signs as in
    Andéol et al., *Learning Domain Invariant Representations by Joint Wasserstein Distance Minimization* (2021).

    Parameters
    ----------
    gamma : float, default 0.25
        γ ≥ 0.
    bias : {"split", "included", "excluded"}, default "split"
        Split: b + γ b⁺ where z > 0 and b + γ b⁻ where z < 0, as in zennit. Included: b, as in Captum.

    Raises
    ------
    ValueError
        If an argument is not allowed.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> Gamma(1)(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[ 1.5000, -0.5000]])
    """

    gamma: float = 0.25
    bias: str = "split"
    passes_relus: ClassVar[bool] = True
    needs_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_number("gamma", self.gamma, low=0)
        check_bias(self.bias)

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        z = layer.output_without_bias if self.bias == "excluded" else layer.output
        agreeing = torch.ops.aten.threshold_backward(relevance, z, 0)  # R where z > 0, in one pass
        result = self._toward(agreeing, layer, positive)
        if not _same_support(relevance, agreeing):  # behind a ReLU only a start vector puts relevance where z < 0
            result = result + self._toward(torch.where(z < 0, relevance, 0), layer, negative)
        return result

    def _toward(self, relevance: Tensor, layer: AffineLayer, sign: Any) -> Tensor:
        """Hand on the relevance of the outputs that have one sign."""
        other = negative if sign is positive else positive
        strengthened = layer.signed_contributions(
            lambda w: w.add(sign(w), alpha=self.gamma), lambda w: w.add(other(w), alpha=self.gamma)
        )
        total = strengthened.total
        if self.bias != "excluded":
            total = layer.add_bias_(total, lambda b: b.add(sign(b), alpha=self.gamma) if self.bias == "split" else b)
        # Where R is not zero z has the sign, and strengthening contributions of that sign takes it no nearer to zero.
        return strengthened.share(divide_by_sum(relevance, total, sign))


def _same_support(relevance: Tensor, part: Tensor) -> bool:
    """Return whether a part of the relevance is all of it."""
    return bool(all_starts(relevance).count_nonzero() == all_starts(part).count_nonzero())


@dataclass(frozen=True)
class AlphaBeta:
    """LRP-αβ: α shares of the positive contributions, less β shares of the negative ones.

    R_j = Σ_k (α (w_kj a_j)⁺ / Σ_i (w_ki a_i)⁺ − β (w_kj a_j)⁻ / Σ_i (w_ki a_i)⁻) R_k, for inputs of either sign.
    Source: Bach et al. (2015), equation 60.

    Parameters
    ----------
    alpha : float, default 2
    beta : float, default alpha − 1
        α − β must be 1, so that relevance is conserved; β ≥ 0.
    bias : {"split", "included", "excluded"}, default "split"
        Split: b⁺ in the positive sum, b⁻ in the negative one, as in the source and in zennit. Included: the whole b in
        both, as in innvestigate; the sums can then change sign. Excluded: as in the theory of z⁺ chains.

    Raises
    ------
    ValueError
        If an argument is not allowed.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> AlphaBeta(2)(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[ 2., -1.]])
    """

    alpha: float = 2.0
    beta: float | None = None
    bias: str = "split"
    passes_relus: ClassVar[bool] = True

    @property
    def needs_output(self) -> bool:
        """Whether β is not zero: then the output tells the sum of the negative contributions."""
        return bool(self.beta)

    def __post_init__(self) -> None:
        """Check the arguments and fill in beta."""
        check_number("alpha", self.alpha, low=1)
        if self.beta is None:
            object.__setattr__(self, "beta", self.alpha - 1)
        check_number("beta", self.beta, low=0)
        if not math.isclose(self.alpha - self.beta, 1, rel_tol=1e-9, abs_tol=1e-9):  # type: ignore[operator]
            raise ValueError(f"alpha - beta is {self.alpha:g} - {self.beta:g}; allowed is alpha - beta = 1.")
        check_bias(self.bias)

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        up = layer.positive_contributions()
        against = self._against(layer, up.total) if self.beta else None
        result = self._shares(relevance, self.alpha, layer, up, up.total, positive)
        if against is not None:
            down = layer.negative_contributions()
            result = result.sub_(self._shares(relevance, self.beta, layer, down, against, negative))  # type: ignore[arg-type]
        return result

    def _shares(
        self, relevance: Tensor, factor: float, layer: AffineLayer, c: Contributions, total: Tensor, sign: Any
    ) -> Tensor:
        if self.bias == "included":  # the sum may then have either sign
            shares = divide(relevance, layer.with_bias(total))
        else:
            shares = divide_by_sum(relevance, layer.add_bias_(total, sign) if self.bias == "split" else total, sign)
        return c.share(shares if factor == 1 else shares.mul_(factor))

    @staticmethod
    def _against(layer: AffineLayer, favorable: Tensor) -> Tensor:
        """Return the sum of the negative contributions, as the output less the sum of the positive ones.

        That saves a third of the forward work. A difference of a few roundings or less is noise, and is taken to be
        that large, so that no great relevance comes of dividing by noise. On VGG16 in float32 a map then differs from
        the one in float64 by 2e-4, as it may also do with sums formed directly (3e-7 to 2e-4). In half precision
        nothing would be left of a difference.
        """
        rounding = torch.finfo(favorable.dtype).eps
        if rounding > 1e-4:
            return layer.negative_contributions().total
        against, scales = layer.output - favorable, [favorable]
        if layer.bias is not None:
            against.sub_(layer.bias)
            scales.append(layer.bias.abs())
        # min(against, −8 roundings of the scale), in place: a new large tensor takes longer than the arithmetic.
        for scale in scales:
            against.add_(scale, alpha=8 * rounding)
        against.clamp_(max=0)
        for scale in scales:
            against.sub_(scale, alpha=8 * rounding)
        return against


@dataclass(frozen=True)
class ZPlus(AlphaBeta):
    """z⁺: each input's share of the positive contributions, (w a)⁺; the αβ rule with α = 1 and β = 0.

    R_j = Σ_k (w_kj a_j)⁺ R_k / Σ_i (w_ki a_i)⁺.
    Sources: Montavon et al., *Explaining nonlinear classification decisions with deep Taylor decomposition* (2017),
    section 4.3; Zhang et al., *Top-down Neural Attention by Excitation Backprop* (2016), equation 2.

    Parameters
    ----------
    bias : {"excluded", "split", "included"}, default "excluded"
        Excluded, as in both sources: the matrix of shares then has columns that sum to one, and relevance is conserved.
        Split: b⁺ in the denominator, as zennit does unless told otherwise. Included: b, as Captum and innvestigate.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> ZPlus()(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[1., 0.]])
    """

    alpha: float = 1.0
    bias: str = "excluded"


@dataclass(frozen=True)
class SameSign:
    """Shares of the contributions that have the output's sign: what z⁺ becomes where an output may be negative.

    c = (w a)⁺ where W a > 0, and c = (w a)⁻ where W a < 0. It is the limit of LRP-γ for γ → ∞ without a bias. Where
    inputs and weights are non-negative it is z⁺ and LRP-0 alike; and unlike z⁺ it drops nothing where signed signals
    are added (a residual sum, a mean), and scales nothing up where all contributions have one sign, unlike LRP-αβ.
    Its shares are never negative and sum to one.
    Source: ours, so that z⁺ stays a chain of column-stochastic matrices in nets with signed sums.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[-1.0, -3.0]]), torch.tensor([[1.0, 1.0]])
    >>> SameSign()(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[0.2500, 0.7500]])
    """

    passes_relus: ClassVar[bool] = True
    needs_output: ClassVar[bool] = False

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        if layer.nonnegative and not bool((layer.linear.weight < 0).any()):
            every = layer.contributions()
            return every.share(divide(relevance, every.total))
        z = layer.contributions().total
        up, down = layer.positive_contributions(), layer.negative_contributions()
        toward = up.share(divide(torch.where(z > 0, relevance, 0), up.total))
        return toward.add_(down.share(divide(torch.where(z < 0, relevance, 0), down.total)))


@dataclass(frozen=True)
class Contrast:
    """The top step of contrastive Excitation Backprop: z⁺ for the target less z⁺ for its opposite, −W.

    (−w a)⁺ is −(w a)⁻, so this is the αβ rule with α = β = 1: what speaks for the target, less what speaks against.
    The relevance of the inputs sums to zero, not to that of the output.
    Source: Zhang et al. (2016), section 3.4. The bias is excluded, as there.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> Contrast()(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[ 1., -1.]])
    """

    passes_relus: ClassVar[bool] = True
    needs_output: ClassVar[bool] = False

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        target, opposite = layer.positive_contributions(), layer.negative_contributions()
        up, down = (
            c.share(divide_by_sum(relevance, c.total, sign)) for c, sign in ((target, positive), (opposite, negative))
        )
        return up.sub_(down)


@dataclass(frozen=True)
class WSquare:
    """w²: shares in proportion to the squared weights, whatever the input.

    R_j = Σ_k w_kj² R_k / Σ_i w_ki². For a first layer whose inputs are unbounded.
    Source: Montavon et al. (2017), section 4.1.

    Parameters
    ----------
    bias : {"excluded", "included"}, default "excluded"
        Included: b² in the denominator, as zennit does unless told otherwise.

    Raises
    ------
    ValueError
        If an argument is not allowed.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> WSquare()(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[0.9000, 0.1000]])
    """

    bias: str = "excluded"
    passes_relus: ClassVar[bool] = True
    needs_output: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_bias(self.bias, ("excluded", "included"))

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        squares = layer.contributions((torch.ones_like(layer.input), torch.square))
        total = squares.total if self.bias == "excluded" else layer.with_bias(squares.total, torch.square)
        return squares.share(divide(relevance, total))


@dataclass(frozen=True)
class Flat:
    """Flat: equal shares to all inputs of an output, whatever the weights.

    R_j = Σ_k R_k / n_k, for the n_k inputs in reach of output k. Used at the first layer, it smooths a map.
    Source: Lapuschkin et al., *Unmasking Clever Hans predictors and assessing what machines really learn* (2019),
    supplement.

    Parameters
    ----------
    bias : {"excluded", "included"}, default "excluded"
        Included: a bias counts as one more input. zennit excludes it.

    Raises
    ------
    ValueError
        If an argument is not allowed.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> Flat()(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[0.5000, 0.5000]])
    """

    bias: str = "excluded"
    passes_relus: ClassVar[bool] = True
    needs_output: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_bias(self.bias, ("excluded", "included"))

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        equal = layer.contributions((torch.ones_like(layer.input), torch.ones_like))
        total = equal.total if self.bias == "excluded" else layer.with_bias(equal.total, torch.ones_like)
        return equal.share(divide(relevance, total))


@dataclass(frozen=True)
class ZBox:
    """zᴮ: for a first layer whose inputs lie in a box, l ≤ a ≤ h, such as pixels.

    c = w a − w⁺ l − w⁻ h, which is never negative inside the box.
    Source: Montavon et al. (2017), section 4.2. The bias has no part in it.

    Parameters
    ----------
    low, high : float or Tensor, optional
        l and h, broadcastable to the input; a tensor of shape (channels, 1, 1) gives each color its own. By default
        each sample's own smallest and largest entry, as in the code of Sixt et al. (2020): give the true range of the
        pixels where it is known.

    Raises
    ------
    ValueError
        If a bound is no number and no tensor, only one is given, or low exceeds high.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> ZBox(0.0, 3.0)(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[0.7500, 0.2500]])
    """

    low: Any = None
    high: Any = None
    passes_relus: ClassVar[bool] = True
    needs_output: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if (self.low is None) != (self.high is None):
            raise ValueError("one of low and high is given; allowed are both or none.")
        if self.low is None:
            return
        for name, bound in (("low", self.low), ("high", self.high)):
            if not isinstance(bound, Tensor):
                check_number(name, bound)
        if not bool((torch.as_tensor(self.low) <= torch.as_tensor(self.high)).all()):  # NaN is no bound either
            raise ValueError("low exceeds high, or a bound is NaN; allowed is low <= high everywhere.")

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        low, high = (self._spread(bound, layer.input) for bound in self._box(layer))
        inside = layer.contributions((layer.input, whole), (-low, positive), (-high, negative))
        return inside.share(divide(relevance, inside.total))

    @staticmethod
    def _spread(bound: Tensor, a: Tensor) -> Tensor:
        try:
            return bound.expand_as(a)
        except RuntimeError:
            raise ValueError(
                f"a bound has shape {tuple(bound.shape)}; allowed is what broadcasts to the input's {tuple(a.shape)}."
            ) from None

    def _box(self, layer: AffineLayer) -> tuple[Tensor, Tensor]:
        a = layer.input
        if self.low is None:
            dims = tuple(range(2 if isinstance(layer.linear, Sum) else 1, a.dim()))  # a sum has its tensors in front
            return a.amin(dims, keepdim=True), a.amax(dims, keepdim=True)
        low, high = (torch.as_tensor(b, dtype=a.dtype, device=a.device) for b in (self.low, self.high))
        return low, high
