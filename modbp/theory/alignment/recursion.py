r"""Alignment through a deep random network: how it settles, and how much of a map survives randomization.

Widths are :math:`n_0` inputs and :math:`n_1,\dots,n_L` units, with :math:`\kappa_l=n_l/n_{l-1}`. :math:`c_l` is the
cosine of the signal behind the ReLU of layer l with its activation. Below it the signal arrives as
:math:`\tau z^++\eta` with :math:`\tau=\sqrt{\kappa_l}\,c_l` (λ on the page), z the normalized pre-activation there and
η fresh noise. Source: ours, theorems "Alignment settles" and "Maps of two networks with shared lower layers" of
`book/alignment.md`; limits of wide layers, for Gaussian weights without biases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from modbp.checks import above_zero, layer_widths, not_negative
from modbp.errors import InputError

Step = Callable[[float], float]

NOISE = math.sqrt(2) / math.pi
"""The cosine with an activation of noise that is filtered and gated: where Guided Backprop starts, 0.450."""


def guided_step(tau: float) -> float:
    r"""Return the cosine with the activation once a signal :math:`\tau z^++\eta` is filtered and gated.

    .. math:: J(\theta)=\frac{\sin\theta+(\pi-\theta)\cos\theta}{\sqrt{\pi\,(\pi-\theta+\sin\theta\cos\theta)}},
        \qquad\tan\theta=\frac1\tau

    Parameters
    ----------
    tau : float
        From 0, pure noise.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If it is negative or not finite.

    Examples
    --------
    >>> round(guided_step(0.0), 4), round(guided_step(1.0), 4)
    (0.4502, 0.7923)
    """
    not_negative("tau", tau)
    theta = math.atan2(1, tau)
    up = math.sin(theta) + (math.pi - theta) * math.cos(theta)
    return up / math.sqrt(math.pi * (math.pi - theta + math.sin(theta) * math.cos(theta)))


def gradient_step(tau: float) -> float:
    r"""Return the same for a signal that is gated and not filtered: :math:`\tau/\sqrt{1+\tau^2}`.

    Parameters
    ----------
    tau : float

    Returns
    -------
    float

    Raises
    ------
    InputError
        If it is negative or not finite.

    Examples
    --------
    >>> gradient_step(0.0), round(gradient_step(1.0), 4)
    (0.0, 0.7071)
    """
    not_negative("tau", tau)
    return tau / math.hypot(1, tau)


def rectgrad_step(tau: float, threshold: float) -> tuple[float, float]:
    r"""Return the same for RectGrad, which keeps :math:`y=\tau z+\eta` where z > 0 and :math:`zy` exceeds a threshold.

    Source: ours, remark "RectGrad deep inside a network"; heuristic, since its threshold depends on all units.

    Parameters
    ----------
    tau : float
        From 0.
    threshold : float
        Of the product of activation and signal, from 0, which is Guided Backprop.

    Returns
    -------
    cosine, kept : float
        The cosine with the activation, and the share of all units that are kept.

    Raises
    ------
    InputError
        If a number is negative or not finite.

    Examples
    --------
    >>> abs(rectgrad_step(1.0, 0.0)[0] - guided_step(1.0)) < 1e-9
    True
    >>> [round(number, 3) for number in rectgrad_step(0.0, 0.178)]
    [0.46, 0.169]
    """
    from scipy.stats import norm

    not_negative("tau", tau)
    not_negative("threshold", threshold)
    z, weight = _half_line()
    b = threshold / z - tau * z  # the least η that is kept
    tail, density = norm.sf(b), norm.pdf(b)
    mean = tau * z * tail + density
    square = ((tau * z) ** 2 + 1) * tail + (2 * tau * z + b) * density
    kept, signal, power = (float(weight @ values) for values in (tail, mean * z, square))
    return (signal / math.sqrt(power / 2) if power > 0 else math.nan), kept


def rectgrad_threshold(tau: float, kept: float) -> float:
    """Return the threshold with which `rectgrad_step` keeps a share of all units.

    Parameters
    ----------
    tau : float
        From 0.
    kept : float
        Above 0.

    Returns
    -------
    float
        Zero, which is Guided Backprop, where that keeps fewer.

    Raises
    ------
    InputError
        If a number is out of bounds.

    Examples
    --------
    >>> threshold = rectgrad_threshold(1.0, 0.1)
    >>> round(rectgrad_step(1.0, threshold)[1], 6)
    0.1
    """
    from scipy.optimize import brentq

    above_zero("kept", kept)
    if rectgrad_step(tau, 0)[1] <= kept:
        return 0.0
    high = 1.0
    while rectgrad_step(tau, high)[1] > kept:
        high *= 2
    return float(brentq(lambda threshold: rectgrad_step(tau, threshold)[1] - kept, 0, high, xtol=1e-12))


def alignments(ratios: Sequence[float], step: Step = guided_step, start: float | None = None) -> list[float]:
    r"""Return :math:`c_L,c_{L-1},\dots,c_1`: the alignment behind each ReLU, from the top down.

    .. math:: c_{l-1}=\text{step}\big(\sqrt{\kappa_l}\,c_l\big)

    Parameters
    ----------
    ratios : sequence of float
        :math:`\kappa_1,\dots,\kappa_L`: units per unit below, from the input up.
    step : callable, default `guided_step`
        Or `gradient_step`, or any function of τ.
    start : float, optional
        :math:`c_L`; by default what the step makes of pure noise.

    Returns
    -------
    list of float
        As many as there are ratios.

    Raises
    ------
    InputError
        If there is no ratio, or one is not positive, or the start is no cosine from 0 to 1.

    Examples
    --------
    >>> [round(c, 3) for c in alignments([1] * 5)]
    [0.45, 0.634, 0.697, 0.717, 0.722]
    >>> [round(c, 3) for c in alignments([1] * 5, gradient_step, start=1.0)]
    [1.0, 0.707, 0.577, 0.5, 0.447]
    """
    _check_ratios(ratios)
    found = [step(0.0) if start is None else start]
    if not 0 <= found[0] <= 1:
        raise InputError(f"start is {start!r}; allowed are cosines from 0 to 1.")
    for ratio in reversed(ratios[1:]):
        found.append(step(math.sqrt(ratio) * found[-1]))
    return found


def input_cosine(ratios: Sequence[float], step: Step = guided_step) -> float:
    r"""Return the cosine of the map with the input, :math:`\sqrt{\kappa_1c_1^2/(\kappa_1c_1^2+2)}`.

    Parameters
    ----------
    ratios : sequence of float
        As in `alignments`.
    step : callable, default `guided_step`

    Returns
    -------
    float

    Raises
    ------
    InputError
        As `alignments`.

    Examples
    --------
    >>> round(input_cosine([1] * 8), 3), round(input_cosine([1000 / 300] + [1] * 7), 3)
    (0.456, 0.683)
    """
    signal = _signal(ratios, step)
    return math.sqrt(signal / (signal + 1))


def settled(ratio: float, step: Step = guided_step) -> float:
    r"""Return the alignment that a deep network of equal ratios settles at, :math:`c=\text{step}(\sqrt\kappa\,c)`.

    Parameters
    ----------
    ratio : float
        κ.
    step : callable, default `guided_step`

    Returns
    -------
    float
        The largest one.

    Raises
    ------
    InputError
        If the ratio is not positive.

    Examples
    --------
    >>> [round(settled(ratio), 3) for ratio in (0.5, 1, 2, 4, 8)]
    [0.634, 0.724, 0.823, 0.899, 0.946]
    >>> round(settled(2, gradient_step), 3)
    0.707
    """
    above_zero("ratio", ratio)
    c = 1.0
    for _ in range(100_000):
        c, before = step(math.sqrt(ratio) * c), c
        if before - c < 1e-12:
            break
    return c


def shared_step(tau: float, s: float) -> float:
    r"""Return the cosine of two signals behind a ReLU that share their gates and their part along the activation.

    .. math:: \Psi(\tau,s)=\frac{E[(\tau z+\eta)^+(\tau z+\eta')^+;z>0]}{E[(\tau z+\eta)^{+2};z>0]},
        \qquad\operatorname{corr}(\eta,\eta')=s

    by Gauss quadrature: given z and the part of the noise that both share, the two factors are independent.

    Parameters
    ----------
    tau : float
        From 0.
    s : float
        The cosine of the two signals one layer above, from 0 to 1.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If a number lies outside its range.

    Examples
    --------
    >>> round(shared_step(0.0, 0.0) * math.pi, 6), round(shared_step(1.3, 0.4), 4), shared_step(2.0, 1.0)
    (1.0, 0.8302, 1.0)
    """
    not_negative("tau", tau)
    if not 0 <= s <= 1:
        raise InputError(f"s is {s!r}; allowed are numbers from 0 to 1.")
    if s == 1:
        return 1.0
    z, weight = _half_line()
    u, of_u = _line()
    rest = math.sqrt(1 - s)
    mean = _rectified_mean(tau * z[:, None] + math.sqrt(s) * u, rest)
    power = _rectified_square(tau * z)
    return min(1.0, float(weight @ (mean**2 @ of_u)) / float(weight @ power))


def shared_cosine(ratios: Sequence[float], above: float, layers: int | None = None) -> float:
    r"""Return the cosine of two Guided Backprop maps whose networks share their lowest layers.

    .. math:: s_{l-1}=\Psi(\tau_{l-1},s_l),\qquad\cos(r_0,r_0')=\frac{T^2+s_1}{T^2+1},\qquad T^2=\tfrac12\kappa_1c_1^2

    Parameters
    ----------
    ratios : sequence of float
        As in `alignments`.
    above : float
        The cosine of the two signals where they arrive at the highest shared activation, before its filter: 0 for
        independent ones. See `two_logits` and `negated` for the two cases in which all layers are shared.
    layers : int, optional
        How many of the lowest layers are shared; by default all.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If there are not that many layers, or as `alignments`.

    Examples
    --------
    >>> round(shared_cosine([2] + [1] * 7, above=0, layers=2), 3)
    0.862
    """
    c = alignments(ratios)[::-1]  # c[l - 1] is that of layer l
    shared = len(ratios) if layers is None else layers
    if isinstance(shared, bool) or not isinstance(shared, int) or not 0 <= shared <= len(ratios):
        raise InputError(f"layers is {layers!r}; allowed are whole numbers from 0 to {len(ratios)}.")
    s = above if shared else 0.0
    for layer in range(shared, 0, -1):
        tau = math.sqrt(ratios[layer]) * c[layer] if layer < len(ratios) else 0.0
        s = shared_step(tau, s)
    return _mixed(ratios, s)


def randomized_from_top(ratios: Sequence[float]) -> list[float]:
    r"""Return the cosines of a map with the original one after the top 1, 2, … matrices are drawn anew.

    The last one, with everything random, is the squared cosine of a map with the input.

    Parameters
    ----------
    ratios : sequence of float
        As in `alignments`, of the layers below the logits.

    Returns
    -------
    list of float
        One more than there are ratios: the matrix of the logits comes first.

    Raises
    ------
    InputError
        As `alignments`.

    Examples
    --------
    >>> [round(c, 3) for c in randomized_from_top([2] + [1] * 7)]
    [0.995, 0.994, 0.99, 0.981, 0.965, 0.931, 0.862, 0.71, 0.344]
    """
    return [shared_cosine(ratios, 0.0, layers) for layers in range(len(ratios), -1, -1)]


def two_logits(ratios: Sequence[float]) -> float:
    r"""Return the cosine of the Guided Backprop maps of two logits with independent weights.

    Parameters
    ----------
    ratios : sequence of float
        As in `alignments`.

    Returns
    -------
    float

    Raises
    ------
    InputError
        As `alignments`.

    Examples
    --------
    >>> [round(two_logits([2] + [1] * (depth - 1)), 3) for depth in (1, 2, 4, 8)]
    [0.433, 0.722, 0.932, 0.995]
    """
    return shared_cosine(ratios, 0.0)


def negated(ratios: Sequence[float]) -> float:
    r"""Return the cosine of the Guided Backprop maps of a logit and of its negative.

    At the top the two signals have no unit in common: :math:`s_L=0`.

    Parameters
    ----------
    ratios : sequence of float
        As in `alignments`.

    Returns
    -------
    float

    Raises
    ------
    InputError
        As `alignments`.

    Examples
    --------
    >>> [round(negated([2] + [1] * (depth - 1)), 3) for depth in (1, 2, 4, 8)]
    [0.168, 0.614, 0.909, 0.994]
    """
    # Below the top layer everything goes on as for any two signals of cosine 0 there.
    return shared_cosine(ratios, 0.0, len(ratios) - 1)


def layer_ratios(widths: Sequence[int]) -> list[float]:
    r"""Return :math:`\kappa_l=n_l/n_{l-1}` of widths :math:`n_0,n_1,\dots`.

    Parameters
    ----------
    widths : sequence of int
        Two or more.

    Returns
    -------
    list of float

    Raises
    ------
    InputError
        If there are fewer than two, or one is no whole number from 1 upwards.

    Examples
    --------
    >>> layer_ratios([300, 600, 600])
    [2.0, 1.0]
    """
    layer_widths(widths)
    return [units / inputs for inputs, units in pairwise(widths)]


def _signal(ratios: Sequence[float], step: Step = guided_step) -> float:
    """Return T², the power of the input in the map over that of the noise."""
    return ratios[0] * alignments(ratios, step)[-1] ** 2 / 2


def _mixed(ratios: Sequence[float], s: float) -> float:
    signal = _signal(ratios)
    return (signal + s) / (signal + 1)


def _check_ratios(ratios: Sequence[float]) -> None:
    if not ratios:
        raise InputError("ratios is empty; allowed are one or more numbers above 0.")
    for ratio in ratios:
        above_zero("ratios", ratio)


def _rectified_mean(mean: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return E[(mean + deviation · e)⁺] for a standard normal e."""
    from scipy.stats import norm

    t = mean / deviation
    return np.asarray(mean * norm.cdf(t) + deviation * norm.pdf(t))


def _rectified_square(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return E[((mean + e)⁺)²] for a standard normal e."""
    from scipy.stats import norm

    return np.asarray((mean**2 + 1) * norm.cdf(mean) + mean * norm.pdf(mean))


@lru_cache
def _half_line(nodes: int = 120, end: float = 10.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes z > 0 and weights of the integral of a function times the normal density."""
    from scipy.stats import norm

    x, weight = np.polynomial.legendre.leggauss(nodes)
    z = end * (x + 1) / 2
    return z, weight * end / 2 * norm.pdf(z)


@lru_cache
def _line(nodes: int = 80) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    return x, weight / math.sqrt(2 * math.pi)
