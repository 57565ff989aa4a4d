r"""Rules with negative entries: they align all the same, while the spread of entries is small against their mean.

The number that decides is the energy t of a column around the mean column. Below 1 the median of `1 − |cos|` falls by
about t per factor; above 1 nothing aligns within a few factors. For independent entries of mean μ and variance σ² and n
terms in the backward sum, :math:`t=\sigma^2/(\mu^2n)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from modbp.errors import InputError

MEAN_CONSTANT = 2 * math.sqrt(2 / math.pi)
"""The mean of `1 − |cos|` is about this times A, the noise over the signal (ours, prop-mean-median)."""

MEDIAN_CONSTANT = 2 / NormalDist().inv_cdf(0.75) ** 2
"""The median of `1 − |cos|` is about this, 4.40, times A² (ours, prop-mean-median)."""

QUANTILES = 512
"""Over how many quantiles of a start vector's sum `median_law` takes its median."""


REVEAL_CANCEL_ENERGY = 0.5
"""What DeepLIFT RevealCancel with zero biases and reference leaves of a difference's energy per layer, in a wide random
ReLU network of any width. Source: ours, heuristic (law-reveal-cancel)."""


def column_energy(matrix: Tensor, importance: Tensor | None = None) -> Tensor:
    r"""Return the energy of the columns, :math:`E\lVert z_j-c\rVert^2` around their mean :math:`c`, from a sample.

    Source: ours (thm-energy).

    Parameters
    ----------
    matrix : Tensor, shape (..., p, q)
        At least two columns; the sum is divided by q − 1, as c is estimated.
    importance : Tensor, shape (..., q), optional
        How much every column counts, by default all the same. The mean column stays that of all.

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> column_energy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor(1.)
    """
    columns = matrix.shape[-1]
    energies = (matrix - matrix.mean(-1, keepdim=True)).square().sum(-2) * columns / (columns - 1)
    if importance is None:
        return energies.mean(-1)
    return (importance * energies).sum(-1) / importance.sum(-1)


def participation_ratio(activations: Tensor) -> Tensor:
    r"""Return how many units take part, :math:`n_{eff}=(\sum a_i)^2/\sum a_i^2`.

    Source: ours (law-relu); the name is the usual one in physics.

    Parameters
    ----------
    activations : Tensor, shape (..., units)

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0, 0.0]))
    tensor(2.)
    """
    return activations.sum(-1) ** 2 / activations.square().sum(-1)


def effective_width(width: float) -> float:
    r"""Return the participation ratio of a wide random ReLU layer, n/π.

    Source: ours (law-relu): :math:`(E\,a)^2/E\,a^2=1/\pi` for the rectified standard normal distribution.

    Parameters
    ----------
    width : float

    Returns
    -------
    float

    Examples
    --------
    >>> round(effective_width(512))
    163
    """
    return width / math.pi


def alpha_beta_energy(alpha: float, width: float) -> float:
    r"""Return t for αβ factors of Gaussian weights, :math:`t=(\pi(\alpha^2+\beta^2)-1)/n` with β = α − 1.

    For independent matrices :math:`\alpha W^++\beta W^-` the width is their number of columns (cor-alpha-beta). For the
    rule inside a ReLU layer it is the participation ratio of the layer's inputs (law-relu). Source: ours.

    Parameters
    ----------
    alpha : float
    width : float
        n, or :math:`n_{eff}`.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(alpha_beta_energy(a, 512), 4) for a in (1, 2, 5)]
    [0.0042, 0.0287, 0.2496]
    >>> round(alpha_beta_energy(5, effective_width(512)), 3)
    0.784
    """
    return (math.pi * (alpha**2 + (alpha - 1) ** 2) - 1) / width


def alpha_boundary(width: float) -> float:
    r"""Return the α at which t = 1, :math:`\alpha_*=\frac12\big(1+\sqrt{2(n+1)/\pi-1}\big)`.

    Source: ours (cor-alpha-beta, law-relu).

    Parameters
    ----------
    width : float
        n, or :math:`n_{eff}`.

    Returns
    -------
    float

    Examples
    --------
    >>> round(alpha_boundary(512), 2), round(alpha_boundary(effective_width(512)), 2)
    (9.52, 5.58)
    """
    return (1 + math.sqrt(2 * (width + 1) / math.pi - 1)) / 2


def flips_energy(share: float, width: float) -> float:
    r"""Return t for matrices of entries ±|g|, minus with probability λ: :math:`t=(\pi/(2(1-2\lambda)^2)-1)/n`.

    Source: ours (cor-flips).

    Parameters
    ----------
    share : float
        λ.
    width : float
        n.

    Returns
    -------
    float
        Infinite for λ = 1/2.

    Examples
    --------
    >>> [round(flips_energy(s, 512), 4) for s in (0.05, 0.3, 0.45, 0.5)]
    [0.0018, 0.0172, 0.3048, inf]
    """
    return math.inf if share == 0.5 else (math.pi / (2 * (1 - 2 * share) ** 2) - 1) / width


def flips_boundary(width: float) -> float:
    r"""Return the share of flipped signs below one half at which t = 1, :math:`\frac12\big(1-\sqrt{\pi/(2(n+1))}\big)`.

    Source: ours (cor-flips).

    Parameters
    ----------
    width : float
        n.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(flips_boundary(n), 3) for n in (64, 512, 4096)]
    [0.422, 0.472, 0.49]
    """
    return (1 - math.sqrt(math.pi / (2 * (width + 1)))) / 2


def second_moments(mean: float, variance: float, outputs: int, inputs: int) -> Tensor:
    r"""Return the matrix that takes the second moments of two signals through a factor of independent entries.

    For r, s of n entries, :math:`M=\bar r\,\bar s` and :math:`Q=\frac1nr^\top s`; their images have

    .. math:: E\,M'=n^2\mu^2M+\tfrac np\sigma^2Q,\qquad E\,Q'=n^2\mu^2M+n\sigma^2Q .

    Source: ours, exact (prop-recursion).

    Parameters
    ----------
    mean, variance : float
        μ and σ² of an entry.
    outputs : int
        n, of the signal above.
    inputs : int
        p, of the signal below.

    Returns
    -------
    Tensor of float64, shape (2, 2)
        Acts on (M, Q).

    Examples
    --------
    >>> second_moments(1.0, 2.0, outputs=2, inputs=4)
    tensor([[4., 1.],
            [4., 4.]], dtype=torch.float64)
    """
    signal, noise = outputs**2 * mean**2, outputs * variance
    return torch.tensor([[signal, noise / inputs], [signal, noise]], dtype=torch.float64)


def median_law(energy: float, width: float, factors: int) -> float:
    r"""Return the median of `1 − |cos|` that two Gaussian start vectors are predicted to have after L factors.

    With the start vectors' sums :math:`\sqrt n\,g_i`, :math:`g_i\sim N(0,1)`, and :math:`y_{12}=\sum_{k=1}^Lt^k`,

    .. math:: |\cos_L|=\frac{1+y_{12}}{\sqrt{(1+y_1)(1+y_2)}},\qquad y_i=t^L\frac n{g_i^2}+y_{12} .

    Late, for t < 1, this is :math:`4.40\,t^Ln(1-t)`. Source: ours, heuristic (law-rate). Chance is left out: unrelated
    vectors of n entries are taken to have the cosine 0, not :math:`0.67/\sqrt n`.

    Parameters
    ----------
    energy : float
        t.
    width : float
        n.
    factors : int
        L.

    Returns
    -------
    float

    Examples
    --------
    >>> t = alpha_beta_energy(2, 512)
    >>> f"{median_law(t, 512, 8):.1e}", f"{MEDIAN_CONSTANT * t**8 * 512 * (1 - t):.1e}"
    ('1.0e-09', '1.0e-09')
    """
    levels = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    g = math.sqrt(2) * torch.erfinv(levels)  # quantiles of |N(0, 1)|
    common = 1 + sum(energy**k for k in range(1, factors + 1))
    noise = energy**factors * width / g.square() / common
    a, b = noise[:, None], noise[None, :]
    # 1 − 1/√((1 + a)(1 + b)), without the cancellation.
    return float(-torch.expm1(-0.5 * (torch.log1p(a) + torch.log1p(b))).median())


def factors_until_visible(energy: float, width: float) -> float:
    r"""Return after how many factors alignment shows, :math:`L^*=\log n/\log(1/t)`.

    Source: ours, heuristic (law-rate).

    Parameters
    ----------
    energy : float
        t.
    width : float
        n.

    Returns
    -------
    float
        Infinite for t ≥ 1.

    Examples
    --------
    >>> round(factors_until_visible(alpha_beta_energy(5, 512), 512), 1)
    4.5
    """
    return math.inf if energy >= 1 else math.log(width) / -math.log(energy)


def lyapunov_gap(width: int) -> float:
    r"""Return by how much a product of Gaussian n × n matrices of mean zero prefers its first direction, per factor.

    .. math:: \gamma_1-\gamma_2=\tfrac12\Big(\psi\big(\tfrac n2\big)-\psi\big(\tfrac{n-1}2\big)\Big)\approx\frac1{2n}

    Source: Newman (1986), for the exponents; `1 − |cos|` then falls by about :math:`e^{-1/n}` per factor (ours,
    rem-gaussian).

    Parameters
    ----------
    width : int
        n, from 2 upwards.

    Returns
    -------
    float

    Examples
    --------
    >>> round(math.exp(-2 * lyapunov_gap(64)), 3)
    0.984
    """
    half = torch.tensor([width / 2, (width - 1) / 2], dtype=torch.float64)
    above, below = torch.special.digamma(half)
    return float(above - below) / 2


def late_rate(values: Tensor, window: int = 3) -> Tensor:
    """Return the factor by which values fall per step, as the geometric mean over the last steps.

    Parameters
    ----------
    values : Tensor, shape (..., steps)
        Positive.
    window : int, default 3
        How many steps, fewer than there are values.

    Returns
    -------
    Tensor, shape (...)

    Raises
    ------
    InputError
        If there are too few values.

    Examples
    --------
    >>> late_rate(torch.tensor([1.0, 0.5, 0.125, 0.03125]), window=2)
    tensor(0.2500)
    """
    if not 0 < window < values.shape[-1]:
        raise InputError(f"window is {window}; allowed for {values.shape[-1]} values are 1 to {values.shape[-1] - 1}.")
    return (values[..., -1] / values[..., -1 - window]) ** (1 / window)


def rate_of_median(disagreement: Tensor, energy: float, width: float) -> Tensor:
    r"""Return the late rate of the median of `1 − |cos|`, to be compared with t.

    Over the three factors that end six behind :math:`L^*` of `factors_until_visible`, so that alignment has begun, and
    rounding has not; or over the last three, where there are not as many. Source: ours (law-rate).

    Parameters
    ----------
    disagreement : Tensor, shape (..., factors, pairs)
        Of `simulate_chains` or `simulate_relu_net`.
    energy : float
        t.
    width : float
        n.

    Returns
    -------
    Tensor, shape (...)

    Raises
    ------
    InputError
        If there are fewer than four factors.

    Examples
    --------
    >>> values = 0.1 ** torch.arange(12.0)[:, None].expand(12, 5)
    >>> rate_of_median(values, 0.1, 100)
    tensor(0.1000)
    """
    last = factors_until_visible(energy, width) + 6
    medians = disagreement.median(-1).values
    return late_rate(medians if last >= medians.shape[-1] else medians[..., : math.ceil(last)])


def crossing(places: Sequence[float], values: Sequence[float], level: float) -> float:
    """Return where values that rise reach a level, by linear interpolation between the two places around it.

    Parameters
    ----------
    places, values : sequence of float
        Of equal length, the places in ascending order.
    level : float

    Returns
    -------
    float
        At the first such place; NaN if the values are at the level from the beginning, or never reach it.

    Examples
    --------
    >>> crossing([1, 2, 4], [0.0, 0.2, 0.6], 0.5)
    3.5
    """
    for (a, low), (b, high) in itertools.pairwise(zip(places, values, strict=True)):
        if low < level <= high:
            return a + (b - a) * (level - low) / (high - low)
    return math.nan
