r"""Two matrices that meet the conditions visible in the appendix of Sixt et al. (2020), and what their powers do.

Both are ours (prop-counter-3, prop-counter-2, prop-counter-why). They are non-negative, constant in the sequence, have
no zero column and no two orthogonal columns; neither is column-stochastic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COUNTEREXAMPLE_3 = torch.tensor([[0.5, 1, 1], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
"""Its powers tend to a matrix of rank 2."""

COUNTEREXAMPLE_2 = torch.tensor([[0.5, 1], [0, 1]], dtype=torch.float64)
"""Its powers tend to rank 1, yet the cosine of their columns tends to 2/√5."""


def power_of_counterexample(power: int, size: int = 3) -> Tensor:
    r"""Return the closed form of a power of `COUNTEREXAMPLE_3` or `COUNTEREXAMPLE_2`.

    .. math:: A^n=\begin{pmatrix}2^{-n}&s_n&s_n\\0&1&0\\0&0&1\end{pmatrix},\qquad s_n=2-2^{1-n};

    for the second matrix, the first two rows and columns. Source: ours (prop-counter-3, prop-counter-2).

    Parameters
    ----------
    power : int
        n, from 1 upwards.
    size : {3, 2}, default 3

    Returns
    -------
    Tensor of float64, shape (size, size)

    Examples
    --------
    >>> power_of_counterexample(2, size=2)
    tensor([[0.2500, 1.5000],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    result = torch.eye(size, dtype=torch.float64)
    result[0] = 2 - 2.0 ** (1 - power)
    result[0, 0] = 2.0**-power
    return result


def counterexample_cosine(power: int) -> float:
    r"""Return the cosine of the columns of a power of `COUNTEREXAMPLE_2`, :math:`s_n/\sqrt{s_n^2+1}`.

    Source: ours (prop-counter-2).

    Parameters
    ----------
    power : int
        n, from 1 upwards.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(counterexample_cosine(n), 4) for n in (1, 2, 60)]
    [0.7071, 0.8321, 0.8944]
    """
    s = 2 - 2.0 ** (1 - power)
    return s / math.hypot(s, 1)


def counterexample_coefficient(power: int) -> float:
    r"""Return Dobrushin's coefficient of the column-normalized power of either matrix, :math:`1/(3-2^{1-n})`.

    It is the product of the factors' coefficients too, so that the bound of the theorem is attained, and it stops at
    1/3: every factor mixes, but ever less. Source: ours (prop-counter-why).

    Parameters
    ----------
    power : int
        n, from 1 upwards.

    Returns
    -------
    float

    Examples
    --------
    >>> round(counterexample_coefficient(29), 5)
    0.33333
    """
    return 1 / (3 - 2.0 ** (1 - power))
