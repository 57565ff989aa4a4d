r"""Ratios of singular values: where one direction dominates every factor, it need not dominate the product.

It does only if the factors agree on that direction. The ratio of the first two singular values says nothing without the
overlap :math:`\kappa_l=|\langle v_{l,1},u_{l+1,1}\rangle|` of neighboring factors' leading singular vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from modbp.errors import InputError


def singular_ratio(matrix: Tensor) -> Tensor:
    """Return the first singular value over the second, infinite for rank one.

    Source: Sixt et al. (2020), as their public code computes it per layer.

    Parameters
    ----------
    matrix : Tensor, shape (..., p, q)
        At least two rows and two columns.

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> singular_ratio(torch.diag(torch.tensor([6.0, 2.0, 1.0])))
    tensor(3.)
    """
    values = torch.linalg.svdvals(matrix)
    return values[..., 0] / values[..., 1]


def leading_overlap(lower: Tensor, upper: Tensor) -> Tensor:
    r"""Return the overlap :math:`|\langle v_1,u_1\rangle|` of the lower factor's input with the upper one's output.

    In the product `lower @ upper` the upper factor hands its leading left singular vector :math:`u_1` to the lower one,
    which passes on best what points along its leading right singular vector :math:`v_1`. Source: ours (prop-ratios).

    Parameters
    ----------
    lower : Tensor, shape (p, q)
    upper : Tensor, shape (q, r)

    Returns
    -------
    Tensor, a number in [0, 1]

    Examples
    --------
    >>> leading_overlap(torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([1.0, 2.0])))
    tensor(0.)
    """
    _, _, right = torch.linalg.svd(lower, full_matrices=False)
    left, _, _ = torch.linalg.svd(upper, full_matrices=False)
    return (right[0] @ left[:, 0]).abs()


def transmission(chain: Sequence[Tensor]) -> Tensor:
    r"""Return how much of the largest possible gain a product has, :math:`\eta=\lVert C\rVert_2/\prod_l\sigma_{l,1}`.

    Source: ours (prop-ratios).

    Parameters
    ----------
    chain : sequence of Tensor
        From the input upwards.

    Returns
    -------
    Tensor, a number in [0, 1]

    Examples
    --------
    >>> transmission([torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([1.0, 2.0]))])
    tensor(0.5000)
    """
    largest = torch.stack([torch.linalg.matrix_norm(matrix, ord=2) for matrix in chain])
    return torch.linalg.matrix_norm(reduce(torch.matmul, chain), ord=2) / largest.prod()


def ratio_bound(chain: Sequence[Tensor]) -> Tensor:
    r"""Return the bound on a product's second singular value over its first, :math:`\eta^{-2}\prod_l r_l^{-1}`.

    With the factors' ratios :math:`r_l` and the `transmission` η. Source: ours (prop-ratios).

    Parameters
    ----------
    chain : sequence of Tensor
        From the input upwards.

    Returns
    -------
    Tensor, a number

    Examples
    --------
    >>> ratio_bound([torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([4.0, 1.0]))])
    tensor(0.0625)
    """
    ratios = torch.stack([singular_ratio(matrix) for matrix in chain])
    return 1 / (transmission(chain) ** 2 * ratios.prod())


def cone_bound(ratio: float, overlap: float, factors: int) -> float:
    r"""Return the bound on a product's second singular value over its first where all factors keep within a cone.

    If every ratio is at least r > 1 and every overlap at least cos ψ, with :math:`k=\tan\psi<(r-1)/(2\sqrt r)`,

    .. math:: \frac{\sigma_2}{\sigma_1}\le\frac1r\Big(\frac{1+r^2T^2}{r}\Big)^{n-1},\qquad
        T=\frac{(r-1)-\sqrt{(r-1)^2-4rk^2}}{2rk} .

    Source: ours (prop-cone).

    Parameters
    ----------
    ratio : float
        r, above 1.
    overlap : float
        cos ψ, in (0, 1].
    factors : int
        n.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the cone is too wide for a statement.

    Examples
    --------
    >>> round(cone_bound(6, 1.0, 2) * 36, 6), round(cone_bound(6, 0.894427, 2) * 6, 3)
    (1.0, 0.235)
    """
    if not ratio > 1 or not 0 < overlap <= 1:
        raise InputError(
            f"ratio is {ratio} and overlap {overlap}; allowed are a ratio above 1 and an overlap in (0, 1]."
        )
    k = math.sqrt(1 - overlap**2) / overlap
    if not k < (ratio - 1) / (2 * math.sqrt(ratio)):
        narrowest = 1 / math.hypot(1, (ratio - 1) / (2 * math.sqrt(ratio)))
        raise InputError(f"overlap is {overlap:.3g}; allowed for the ratio {ratio:g} is above {narrowest:.3g}.")
    root = math.sqrt((ratio - 1) ** 2 - 4 * ratio * k**2)
    slope = 0.0 if k == 0 else ((ratio - 1) - root) / (2 * ratio * k)
    return ((1 + (ratio * slope) ** 2) / ratio) ** (factors - 1) / ratio


def bulk_rate(ratio: float, overlap: float) -> float:
    r"""Return by how much `1 − |cos|` shrinks per factor with an isotropic bulk, about :math:`1/(r\kappa)^2`.

    Above 1 there is no alignment within a few factors. Source: ours, heuristic (law-bulk).

    Parameters
    ----------
    ratio : float
        r, of the first singular value to all others.
    overlap : float
        κ, of neighboring leading vectors.

    Returns
    -------
    float

    Examples
    --------
    >>> round(bulk_rate(6, 0.7), 4)
    0.0567
    """
    return 1 / (ratio * overlap) ** 2
