r"""The laws of the theory page `book/image-recovery.md` as functions: what the maps of a random network are like.

All of them are our statements. Filters have entries from N(0, 1) and top weights too; other deviations scale a map
and change no cosine.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modbp.checks import at_least_one, whole
from modbp.errors import InputError

TWO_LOGITS = ("gradient", "deconvolution", "guided_backprop")


def equal_norm_snr(n_filters: int, channels: int = 3, stride: int = 1) -> float:
    r"""Return Guided Backprop's signal-to-noise ratio where all patches have the same norm, :math:`N/(\pi^2Cr^2)`.

    For other images on a periodic border it is an upper bound of `signal_to_noise`; the size of the filters cancels.
    Source: ours, theorem "The noise of Guided Backprop".

    Parameters
    ----------
    n_filters : int
    channels : int, default 3
    stride : int, default 1

    Returns
    -------
    float

    Raises
    ------
    InputError
        If a number is below 1.

    Examples
    --------
    >>> round(equal_norm_snr(256), 3)
    8.646
    """
    at_least_one(n_filters=n_filters, channels=channels, stride=stride)
    return n_filters / (math.pi**2 * channels * stride**2)


def recovery_cosine(snr: float, centered: bool = False) -> float:
    r"""Return the cosine of Guided Backprop's map with the locally normalized image.

    .. math:: \sqrt{\frac{\mathrm{SNR}}{\mathrm{SNR}+1}}
        \qquad\text{or, centered,}\qquad\sqrt{\frac{\mathrm{SNR}}{\mathrm{SNR}+1-1/2\pi}}

    Source: ours; a limit for many filters and pixels, and for `centered` a heuristic constant.

    Parameters
    ----------
    snr : float
        The signal-to-noise ratio, not negative.
    centered : bool, default False
        Whether each channel's mean is removed first: it carries about 1/2π of the noise.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the ratio is negative or not finite.

    Examples
    --------
    >>> [round(recovery_cosine(equal_norm_snr(n)), 3) for n in (16, 64, 256, 1024, 4096)]
    [0.592, 0.827, 0.947, 0.986, 0.996]
    """
    if not 0 <= snr < math.inf:
        raise InputError(f"snr is {snr!r}; allowed are finite numbers from 0 upwards.")
    return math.sqrt(snr / (snr + 1 - (1 / (2 * math.pi) if centered else 0)))


def two_logits_cosine(method: str, snr: float) -> float:
    r"""Return the cosine of the maps of two logits in a random three-layer network.

    0 for the gradient, :math:`1/\pi` for Deconvolution, :math:`(\mathrm{SNR}+1/\pi)/(\mathrm{SNR}+1)` for Guided
    Backprop. Source: ours, theorem "Maps of two classes"; a ratio of expectations, to leading order.

    Parameters
    ----------
    method : {"gradient", "deconvolution", "guided_backprop"}
    snr : float
        Guided Backprop's signal-to-noise ratio.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the method is another one.

    Examples
    --------
    >>> [round(two_logits_cosine("guided_backprop", equal_norm_snr(n)), 3) for n in (16, 64, 256)]
    [0.557, 0.784, 0.929]
    """
    if method not in TWO_LOGITS:
        raise InputError(f"method is {method!r}; allowed are {', '.join(TWO_LOGITS)}.")
    if method == "gradient":
        return 0.0
    return 1 / math.pi if method == "deconvolution" else (snr + 1 / math.pi) / (snr + 1)


def constant_share(pixels: int) -> float:
    r"""Return the share of a Deconvolution map's power that is one constant per channel.

    :math:`\frac1\pi+(1-\frac1\pi)\frac1P`, for stride 1 on a periodic border without pooling. Source: ours, theorem
    "Deconvolution without pooling does not see the image"; exact, as a ratio of expectations.

    Parameters
    ----------
    pixels : int
        P, of one channel.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If there is no pixel.

    Examples
    --------
    >>> round(constant_share(25), 5)
    0.34558
    """
    at_least_one(pixels=pixels)
    return 1 / math.pi + (1 - 1 / math.pi) / pixels


def constant_power(maps: Tensor) -> Tensor:
    r"""Return the part of each map's power :math:`\lVert s\rVert^2` that is one constant per channel.

    The ratio of its sum over many networks to that of the power is what `constant_share` predicts.

    Parameters
    ----------
    maps : Tensor, shape (batch, channels, height, width)

    Returns
    -------
    Tensor of float64, shape (batch,)

    Examples
    --------
    >>> import torch
    >>> constant_power(torch.tensor([[[[1.0, 3.0]], [[1.0, -1.0]]]]))  # means 2 and 0 over two pixels
    tensor([8.], dtype=torch.float64)
    """
    return maps.double().mean((2, 3)).square().sum(1) * maps[0, 0].numel()


def squared_error(maps: Tensor, mean: Tensor) -> Tensor:
    r"""Return the squared relative error of maps, :math:`\lVert s-Es\rVert^2/\lVert Es\rVert^2`.

    Parameters
    ----------
    maps : Tensor, shape (batch, ...)
    mean : Tensor, of a shape that broadcasts with `maps`
        What they should be.

    Returns
    -------
    Tensor of float64, shape (batch,)
        Infinite where the mean is zero and the map is not.

    Examples
    --------
    >>> import torch
    >>> squared_error(torch.tensor([[3.0, 4.0], [3.0, 1.0]]), torch.tensor([3.0, 4.0]))
    tensor([0.0000, 0.3600], dtype=torch.float64)
    """
    difference, mean = maps.double() - mean.double(), mean.double().expand_as(maps)
    return difference.flatten(1).square().sum(1) / mean.flatten(1).square().sum(1)


def one_patch_error(entries: int, n_filters: int, top_weights: bool = True) -> float:
    r"""Return the squared relative error of the map of a lone patch, :math:`(\pi^2p-1)/N`.

    That is :math:`E\lVert s-Es\rVert^2/\lVert Es\rVert^2` for Guided Backprop, exactly. Source: ours, corollary "One
    patch".

    Parameters
    ----------
    entries : int
        p, of the patch, with its channels.
    n_filters : int
    top_weights : bool, default True
        False for a map in which every open gate counts as one: :math:`(\pi p-1)/N`.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If a number is below 1.

    Examples
    --------
    >>> round(one_patch_error(27, 1024), 4), round(one_patch_error(27, 1024, top_weights=False), 4)
    (0.2593, 0.0819)
    """
    at_least_one(entries=entries, n_filters=n_filters)
    return ((math.pi**2 if top_weights else math.pi) * entries - 1) / n_filters


def fully_connected_cosine(inputs: int, units: int) -> float:
    r"""Return the cosine of Guided Backprop's map with the image in a fully connected network.

    :math:`(1+\pi^2(d-1)/N_h)^{-1/2}`. Source: ours, corollary "One patch"; a limit for many units and inputs.

    Parameters
    ----------
    inputs : int
        d, with the channels.
    units : int
        N_h, of the hidden layer.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If a number is below 1.

    Examples
    --------
    >>> [round(fully_connected_cosine(12_288, n), 3) for n in (1000, 5000, 20_000, 70_000)]
    [0.09, 0.199, 0.376, 0.605]
    """
    at_least_one(inputs=inputs, units=units)
    return 1 / math.sqrt(1 + math.pi**2 * (inputs - 1) / units)


def one_patch_cosines(entries: int, n_filters: int, draws: int, seed: int = 0) -> NDArray[np.float64]:
    r"""Draw the cosine of Guided Backprop's map with a lone patch from its exact law, without drawing filters.

    .. math:: \cos(s,x)\overset{d}{=}\frac{A}{\sqrt{A^2+Q\,\chi^2_{p-1}}},\quad
        A=\sum_i\sigma(v_i)g_i^+,\quad Q=\sum_i\sigma(v_i)^2\,1[g_i>0]

    with independent standard normal :math:`g_i,v_i`. A fully connected network of many thousand units needs two
    numbers a unit in place of one per unit and input. Source: ours, proposition "The law of the cosine".

    Parameters
    ----------
    entries : int
        p, at least 1.
    n_filters : int
    draws : int
    seed : int, default 0

    Returns
    -------
    numpy.ndarray, shape (draws,)
        NaN in a draw in which no unit is active and wanted.

    Raises
    ------
    InputError
        If a number is below 1.

    Examples
    --------
    >>> round(float(one_patch_cosines(12_288, 5000, draws=200).mean()), 2)
    0.2
    """
    at_least_one(entries=entries, n_filters=n_filters, draws=draws)
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):  # one at a time, so that a wide network needs no more memory than a narrow one
        g, v = rng.standard_normal((2, n_filters)).clip(min=0)
        signal, noise = v @ g, (v * v) @ (g > 0)
        rest = rng.chisquare(entries - 1) if entries > 1 else 0.0
        found[draw] = signal / math.sqrt(signal**2 + noise * rest) if signal > 0 else math.nan
    return found


@lru_cache
def expected_maximum(n: int, positive_part: bool = False) -> float:
    r"""Return :math:`\mu_n`, the mean of the maximum of n independent standard normal numbers.

    Parameters
    ----------
    n : int
    positive_part : bool, default False
        Return the mean of the maximum's positive part, :math:`\mu_n^+`.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If n is below 1.

    Examples
    --------
    >>> [round(expected_maximum(n), 3) for n in (2, 4, 16, 81, 1000)]
    [0.564, 1.029, 1.766, 2.431, 3.241]
    """
    from scipy.integrate import quad
    from scipy.stats import norm

    at_least_one(n=n)
    # E max⁺ = ∫ P(max > t) dt over t > 0, and E max⁻ the same of P(max < −t).
    above = quad(lambda t: -np.expm1(n * norm.logcdf(t)), 0, np.inf, epsabs=1e-12)[0]
    return above if positive_part else above - quad(lambda t: norm.cdf(-t) ** n, 0, np.inf, epsabs=1e-12)[0]


def max_pooled_cosine(method: str, n_filters: int, window: int, channels: int = 3) -> float:
    r"""Return the cosine with the normalized image behind a max-pooling layer, for white images.

    .. math:: \Big(1+\frac1{\mathrm{SNR}}+\gamma_M\Big)^{-1/2},\quad
        \mathrm{SNR}=\frac{N\mu_M^2}{\pi CM},\quad M=b^2,\quad
        \gamma_M=\frac{q_b^2-1}{(M-1)^2},\quad q_b=\sum_{|\delta|<b}\Big(1-\frac{|\delta|}b\Big)^2

    for Deconvolution; :math:`\gamma_M` is the power of the ghosts of neighboring patches. For Guided Backprop
    :math:`\mu_M^+` replaces :math:`\mu_M`, the noise has the factor :math:`1-2^{-M}`, and the ghosts shrink. Source:
    ours, law "Max-pooling on white images"; heuristic, for windows side by side and filters wider than a window.

    Parameters
    ----------
    method : {"deconvolution", "guided_backprop"}
    n_filters : int
    window : int
        b, its side, from 2.
    channels : int, default 3

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the method is another one, or a number is too small.

    Examples
    --------
    >>> [round(max_pooled_cosine("deconvolution", 128, w), 3) for w in (2, 4, 8)]
    [0.84, 0.843, 0.732]
    """
    if method not in TWO_LOGITS[1:]:
        raise InputError(f"method is {method!r}; allowed are {' and '.join(TWO_LOGITS[1:])}.")
    at_least_one(n_filters=n_filters, channels=channels)
    whole("window", window, least=2)
    m = window**2
    guided = method == "guided_backprop"
    mean = expected_maximum(m, positive_part=guided)
    never_open = 2.0**-m if guided else 0.0
    overlap = sum((1 - abs(d) / window) ** 2 for d in range(1 - window, window))
    ghosts = (overlap**2 - 1) / (m - 1) ** 2 * (1 - m * never_open * math.sqrt(2 / math.pi) / mean) ** 2
    snr = n_filters * mean**2 / (math.pi * channels * m * (1 - never_open))
    return 1 / math.sqrt(1 + 1 / snr + ghosts)


def arc_cosine(rho: float) -> float:
    r"""Return :math:`\kappa(\rho)=\frac1\pi\big[\sqrt{1-\rho^2}+\rho\,(\pi-\arccos\rho)\big]`.

    The cosine of two Gaussian signals of cosine ρ after both were rectified, which a random layer hands on. Source:
    the arc-cosine kernel of order 1 (Cho and Saul, 2009); for backward signals ours, theorem "Depth makes
    Deconvolution forget the class".

    Parameters
    ----------
    rho : float
        In [-1, 1].

    Returns
    -------
    float

    Raises
    ------
    InputError
        If ρ lies outside.

    Examples
    --------
    >>> round(arc_cosine(0.0), 3), arc_cosine(1.0)
    (0.318, 1.0)
    """
    if not -1 <= rho <= 1:
        raise InputError(f"rho is {rho!r}; allowed are numbers from -1 to 1.")
    return (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / math.pi


def arc_cosine_recursion(steps: int, start: float = 0.0) -> list[float]:
    r"""Return the cosines of two classes' Deconvolution signals after 0, 1, 2, … rectifications.

    Parameters
    ----------
    steps : int
    start : float, default 0.0
        Before the first one.

    Returns
    -------
    list of float
        One more than there are steps.

    Raises
    ------
    InputError
        If there are fewer than 0 steps, or the start is no cosine.

    Examples
    --------
    >>> [round(rho, 3) for rho in arc_cosine_recursion(4)]
    [0.0, 0.318, 0.494, 0.605, 0.681]
    """
    whole("steps", steps, least=0)
    found = [start]
    for _ in range(steps):
        found.append(min(arc_cosine(found[-1]), 1.0))
    return found
