r"""What multiplies the weights of one random layer, and how well their sum then aligns with the input.

A map is :math:`r=\sum_jc_jw_j` over the units of the layer. Each rule has its own coefficients
:math:`c=\varphi(g,\xi)`, where :math:`g\sim N(0,1)` is the unit's normalized pre-activation and :math:`\xi` is
independent of the weights. Two of their moments decide the alignment:

.. math:: \cos(r,x)\simeq\Big(1+K\,\frac{n-1}m\Big)^{-1/2},\qquad K=\frac{E[c^2]}{E[c\,g]^2}

for n inputs and m units. Source: ours, theorem "A random layer aligns with its input" of `book/alignment.md`; that it
does is a claim of Zheng et al. (2025).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modbp.checks import above_zero, at_least_one, not_negative
from modbp.errors import InputError

Array = NDArray[np.float64]


def half_moment(power: int) -> float:
    r"""Return :math:`E[g^k;g>0]` of a standard normal number.

    Parameters
    ----------
    power : int
        k, from 0.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(half_moment(k), 4) for k in range(3)]  # 1/2, 1/√(2π), 1/2
    [0.5, 0.3989, 0.5]
    """
    return 2 ** (power / 2) * math.gamma((power + 1) / 2) / (2 * math.sqrt(math.pi))


def full_moment(power: int) -> float:
    r"""Return :math:`E[g^k]` of a standard normal number.

    Parameters
    ----------
    power : int
        k, from 0.

    Returns
    -------
    float

    Examples
    --------
    >>> full_moment(1), full_moment(4)
    (0.0, 3.0)
    """
    return 0.0 if power % 2 else round(2 * half_moment(power), 9)


class Coefficient(ABC):
    """The law of the coefficients; subclasses give their moments and draw them.

    Examples
    --------
    >>> coefficients: list[Coefficient] = [Activation(), Constant(), Gradient()]
    >>> [round(c.K, 2) for c in coefficients]
    [2.0, 3.14, inf]
    """

    @abstractmethod
    def moment(self, of_c: int, of_g: int) -> float:
        r"""Return :math:`E[c^ig^j]`, gates included, for :math:`i\ge1`."""

    @abstractmethod
    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Return coefficients, of the shape of `g`, for units of normalized pre-activation g."""

    @property
    def K(self) -> float:  # noqa: N802 - as in the formula
        r""":math:`E[c^2]/E[cg]^2`; infinite where the coefficients do not look at the input."""
        alpha = self.moment(1, 1)
        return self.moment(2, 0) / alpha**2 if alpha else math.inf

    def cosine(self, inputs: int, units: int, dispersion: float = 1.0) -> float:
        r"""Return the law :math:`(1+K(n-1)/m)^{-1/2}`.

        Parameters
        ----------
        inputs, units : int
            n and m.
        dispersion : float, default 1
            :math:`E[\rho^2]/E[\rho]^2` of the weights' norms :math:`\rho`, for isotropic weights that are not
            Gaussian, and coefficients that do not look at the size of g.

        Returns
        -------
        float
            0 where K is infinite.

        Raises
        ------
        InputError
            If a size is no whole number from 1 upwards.
        """
        at_least_one(inputs=inputs, units=units)
        return 1 / math.sqrt(1 + self.K * dispersion * (inputs - 1) / units) if math.isfinite(self.K) else 0.0

    def spread(self, inputs: int, units: int) -> float:
        r"""Return the law's standard deviation over draws of the weights.

        With :math:`t=K(n-1)/m` it is :math:`\frac{t}{2(1+t)^{3/2}}\sqrt{V/m+2/(n-1)}`, where V collects fourth moments
        of c and g; and :math:`1/\sqrt n` where the coefficients do not look at the input.

        Parameters
        ----------
        inputs, units : int
            n and m.

        Returns
        -------
        float

        Raises
        ------
        InputError
            If a size is no whole number from 1 upwards.
        """
        at_least_one(inputs=inputs, units=units)
        alpha, beta = self.moment(1, 1), self.moment(2, 0)
        if not alpha:
            return 1 / math.sqrt(inputs)
        if inputs == 1:
            return 0.0
        of_signal = (self.moment(2, 2) - alpha**2) / alpha**2
        of_noise = (self.moment(4, 0) - beta**2) / beta**2
        of_both = (self.moment(3, 1) - alpha * beta) / (alpha * beta)
        V = 4 * of_signal + of_noise - 4 * of_both
        t = self.K * (inputs - 1) / units
        return t / (2 * (1 + t) ** 1.5) * math.sqrt(V / units + 2 / (inputs - 1))


@dataclass(frozen=True)
class Constant(Coefficient):
    r"""One on each active unit: :math:`c=1[g>0]`, :math:`K=\pi`.

    Examples
    --------
    >>> [round(Constant().cosine(100, m), 3) for m in (100, 1000, 10_000)]
    [0.493, 0.873, 0.985]
    """

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        return half_moment(of_g)

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return (g > 0).astype(float)


@dataclass(frozen=True)
class GuidedBackprop(Coefficient):
    r"""A random top weight where unit and weight are positive: :math:`c=v^+1[g>0]`, :math:`K=\pi^2`.

    Examples
    --------
    >>> [round(GuidedBackprop().cosine(100, m), 3) for m in (100, 1000, 10_000)]
    [0.305, 0.711, 0.954]
    """

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        return half_moment(of_c) * half_moment(of_g)

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return rng.standard_normal(g.shape).clip(min=0) * (g > 0)


@dataclass(frozen=True)
class Positive(Coefficient):
    r"""A random signal that is positive everywhere: :math:`c=|u|\,1[g>0]`, :math:`K=\pi^2/2`.

    Examples
    --------
    >>> round(Positive().K * 2 / math.pi**2, 9)
    1.0
    """

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        return 2 * half_moment(of_c) * half_moment(of_g)

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return np.abs(rng.standard_normal(g.shape)) * (g > 0)


@dataclass(frozen=True)
class Activation(Coefficient):
    r"""The activation itself: :math:`c=g^+`, with :math:`K=2`, the least that any coefficient on active units has.

    Examples
    --------
    >>> [round(Activation().cosine(100, m), 3) for m in (100, 1000, 10_000)]
    [0.579, 0.914, 0.99]
    """

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        return half_moment(of_c + of_g)

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return g.clip(min=0)


@dataclass(frozen=True)
class Gradient(Coefficient):
    r"""A random top weight on each active unit, :math:`c=v\,1[g>0]`: no alignment.

    Examples
    --------
    >>> Gradient().cosine(100, 1000), Gradient().spread(100, 1000)
    (0.0, 0.1)
    """

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        return full_moment(of_c) * half_moment(of_g)

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return rng.standard_normal(g.shape) * (g > 0)


@dataclass(frozen=True)
class Deconvolution(Coefficient):
    r"""A positive top weight whatever the unit does, :math:`c=v^+`: no alignment.

    Examples
    --------
    >>> Deconvolution().cosine(100, 1000)
    0.0
    """

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        return half_moment(of_c) * full_moment(of_g)

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return rng.standard_normal(g.shape).clip(min=0)


@dataclass(frozen=True)
class Biased(Coefficient):
    r"""One on each unit that is active with a random bias: :math:`c=1[g+b\xi>0]`, :math:`K=\pi(1+b^2)`.

    Parameters
    ----------
    deviation : float
        b, the standard deviation of the biases over that of the responses :math:`w^\top x`.

    Raises
    ------
    InputError
        If it is negative or not finite.

    Examples
    --------
    >>> [round(Biased(b).cosine(100, 1000), 3) for b in (0, 1, 4)]
    [0.873, 0.785, 0.399]
    """

    deviation: float

    def __post_init__(self) -> None:
        """Check the deviation."""
        not_negative("deviation", self.deviation)

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        if of_g % 2 == 0:
            return full_moment(of_g) / 2  # the gate is open at g or at −g with the same weight
        if of_g == 1:
            return 1 / math.sqrt(2 * math.pi * (1 + self.deviation**2))
        raise InputError(f"of_g is {of_g}; allowed here are 1 and even numbers.")

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return (g + self.deviation * rng.standard_normal(g.shape) > 0).astype(float)


@dataclass(frozen=True)
class Above(Coefficient):
    r"""One on each unit whose response exceeds a threshold: :math:`c=1[g>t]`, :math:`K=Q(t)/\phi(t)^2`.

    Its K is least where 27.0 % of the units are kept.

    Parameters
    ----------
    threshold : float
        t, in standard deviations of the response, not negative.

    Raises
    ------
    InputError
        If it is negative or not finite.

    Examples
    --------
    >>> round(Above(0.612).K, 3), round(Above(0.612).kept, 3)
    (2.47, 0.27)
    """

    threshold: float

    def __post_init__(self) -> None:
        """Check the threshold."""
        not_negative("threshold", self.threshold)

    @property
    def kept(self) -> float:
        """The share of all units that are above."""
        return self.moment(1, 0)

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        t = self.threshold
        density, tail = normal_density(t), normal_tail(t)
        below, here = tail, density  # by parts: E[g^k; g>t] = t^(k−1) φ(t) + (k−1) E[g^(k−2); g>t]
        for k in range(2, of_g + 1):
            below, here = here, t ** (k - 1) * density + (k - 1) * below
        return here if of_g else tail

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        return (g > self.threshold).astype(float)


@dataclass(frozen=True)
class RectGrad(Coefficient):
    r"""RectGrad's own coefficient in one random layer: :math:`c=v\,1[v>0,\,g>0,\,vg>\tau]`.

    With modified Bessel functions :math:`E[c^ig^j]=\frac1{2\pi}\int_\tau^\infty p^{(i+j)/2}K_{(i-j)/2}(p)\,dp`. Its K
    is least where 16.9 % of all units are kept. Source: ours, proposition "RectGrad in one random layer".

    Parameters
    ----------
    threshold : float
        τ, not negative; 0 is Guided Backprop.

    Raises
    ------
    InputError
        If it is negative or not finite.

    Examples
    --------
    >>> round(RectGrad(0.178).K, 3), round(RectGrad(0.178).kept, 3)
    (9.459, 0.169)
    >>> round(RectGrad(0.0).K - GuidedBackprop().K, 6)
    0.0
    """

    threshold: float

    def __post_init__(self) -> None:
        """Check the threshold."""
        not_negative("threshold", self.threshold)

    @property
    def kept(self) -> float:
        """The share of all units whose signal is kept."""
        return self._tail(0, 0)

    def moment(self, of_c: int, of_g: int) -> float:
        """Return a moment; see `Coefficient`."""
        return self._tail(of_c, of_g)

    def _tail(self, i: int, j: int) -> float:
        from scipy.integrate import quad
        from scipy.special import kv

        return float(
            quad(lambda p: p ** ((i + j) / 2) * kv((i - j) / 2, p), self.threshold, math.inf, epsabs=1e-12, limit=200)[
                0
            ]
            / (2 * math.pi)
        )

    def draw(self, g: Array, rng: np.random.Generator) -> Array:
        """Draw; see `Coefficient`."""
        v = rng.standard_normal(g.shape)
        return v * ((v > 0) & (g > 0) & (v * g > self.threshold))


def two_maps_cosine(first: Coefficient, second: Coefficient, overlap: float, ratio: float) -> float:
    r"""Return the cosine of two maps that share one random layer.

    .. math:: \frac{TT'+s}{\sqrt{(1+T^2)(1+T'^2)}},\quad T=\sqrt{\kappa/K},\quad s=\frac{E[cc']}{\sqrt{E[c^2]E[c'^2]}}

    Two logits have s = 1/π for Guided Backprop, a logit and its negative 0, a logit and a random positive signal √2/π.
    Source: ours, theorem "Two signals through one random layer"; a limit for many units and inputs.

    Parameters
    ----------
    first, second : Coefficient
    overlap : float
        s, in [-1, 1].
    ratio : float
        κ, units per input.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the overlap is no cosine, or the ratio not positive.

    Examples
    --------
    >>> guided = GuidedBackprop()
    >>> [round(two_maps_cosine(guided, guided, 0, ratio), 3) for ratio in (1, 10, 100)]  # a logit and its negative
    [0.092, 0.503, 0.91]
    >>> [round(two_maps_cosine(guided, Positive(), 2**0.5 / math.pi, ratio), 3) for ratio in (1, 10, 100)]
    [0.516, 0.763, 0.961]
    """
    if not -1 <= overlap <= 1:
        raise InputError(f"overlap is {overlap!r}; allowed are numbers from -1 to 1.")
    above_zero("ratio", ratio)
    T, S = (math.sqrt(ratio / c.K) for c in (first, second))
    return (T * S + overlap) / math.sqrt((1 + T * T) * (1 + S * S))


def one_layer_cosines(coefficient: Coefficient, inputs: int, units: int, draws: int, seed: int = 0) -> Array:
    r"""Draw cosines of a map with the input from their exact law, without drawing weights.

    .. math:: \cos(r,x)\overset{d}{=}\frac{A}{\sqrt{A^2+Q\,\chi^2_{n-1}}},\quad A=\sum_jc_jg_j,\quad Q=\sum_jc_j^2

    Source: ours, theorem "A random layer aligns with its input", for Gaussian weights; for Guided Backprop it is the
    law of `modbp.theory.recovery.one_patch_cosines`.

    Parameters
    ----------
    coefficient : Coefficient
    inputs, units, draws : int
        n, m, and how many independent layers.
    seed : int, default 0

    Returns
    -------
    numpy.ndarray, shape (draws,)
        NaN in a draw in which all coefficients are zero.

    Raises
    ------
    InputError
        If a number is below 1.

    Examples
    --------
    >>> round(float(one_layer_cosines(Constant(), 100, 1000, draws=400).mean()), 1)
    0.9
    """
    at_least_one(inputs=inputs, units=units, draws=draws)
    rng = np.random.default_rng(seed)
    found = np.full(draws, math.nan)
    for draw in range(draws):  # one at a time, so that a wide layer needs no more memory than a narrow one
        g = rng.standard_normal(units)
        c = coefficient.draw(g, rng)
        signal, noise = float(c @ g), float(c @ c)
        rest = rng.chisquare(inputs - 1) if inputs > 1 else 0.0
        if noise > 0:
            found[draw] = signal / math.sqrt(signal**2 + noise * rest)
    return found


def normal_density(t: float) -> float:
    """Return the standard normal density.

    Examples
    --------
    >>> round(normal_density(0.0), 4)
    0.3989
    """
    return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)


def normal_tail(t: float) -> float:
    """Return the probability that a standard normal number exceeds t.

    Examples
    --------
    >>> normal_tail(0.0)
    0.5
    """
    return math.erfc(t / math.sqrt(2)) / 2
