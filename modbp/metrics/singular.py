r"""Matrices of a layer's backward pass, and how the leading singular vectors of neighboring layers fit.

A layer with weight w (or pattern, or pattern times weight) hands relevance down with the matrix Z of shape
(inputs, outputs). For a convolution there is no one small matrix; `layer_matrix` and `effective_matrix` offer those
that one can write down. The algebra is in `modbp.theory.rank_one`.

Source: Sixt, Granz and Landgraf (2020) for ratios of singular values at the center tap, as their public code takes
them; the overlaps and the masks are ours (`book/rank-one.md`, Pattern methods).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from modbp.checks import seeded
from modbp.errors import InputError
from modbp.metrics.convergence import chance_level
from modbp.patterns import Sums
from modbp.theory.rank_one import column_energy, column_sums

if TYPE_CHECKING:
    import pandas as pd

TAPS = ("center", "sum", "all")


def layer_matrix(weight: Tensor, taps: str = "center", grid: tuple[int, int] | None = None) -> Tensor:
    r"""Return a matrix of a layer's backward pass, from its outputs down to its inputs.

    Parameters
    ----------
    weight : Tensor, shape (outputs, inputs) or (outputs, inputs, height, width)
        A layer's weight, its pattern, or their product.
    taps : {"center", "sum", "all"}, default "center"
        For a kernel: its center tap alone, as in the paper's code; the sum of its taps, which is what a signal meets
        that is the same at all positions; or all taps below each other.
    grid : (int, int), optional
        For a dense layer behind a flattened map: the map's height and width. The layer is then a kernel of that size.

    Returns
    -------
    Tensor of float64, shape (inputs, outputs), or (inputs × height × width, outputs) for all taps

    Raises
    ------
    InputError
        If the taps are unknown, or the weight has not two or four dimensions or does not fit the grid.

    Examples
    --------
    >>> kernel = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> [layer_matrix(kernel, taps).sum().item() for taps in TAPS], layer_matrix(kernel, "all").shape
    ([4.0, 36.0, 36.0], torch.Size([9, 1]))
    """
    if taps not in TAPS:
        raise InputError(f"taps is {taps!r}; allowed are {', '.join(TAPS)}.")
    if weight.dim() not in (2, 4) or (
        grid is not None and (weight.dim() != 2 or weight.shape[1] % (grid[0] * grid[1]))
    ):
        raise InputError(
            f"weight has shape {tuple(weight.shape)}{f' for the grid {grid}' if grid else ''}; allowed are (outputs,"
            " inputs), with a whole number of inputs per place of a grid, and (outputs, inputs, height, width)."
        )
    if weight.dim() == 2:
        weight = weight.reshape(len(weight), -1, *(grid or (1, 1)))
    weight = weight.double()
    if taps == "all":
        return weight.flatten(1).mT
    if taps == "sum":
        return weight.sum((2, 3)).mT
    return weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2].mT


def effective_matrix(
    kernel: Tensor, active_inputs: Tensor, active_outputs: Tensor, position: tuple[int, int]
) -> Tensor:
    r"""Return what a convolution between two ReLUs does, at one position, to a signal that is the same around it.

    .. math:: M_{io}=m_i(p)\sum_tw_{oi,t}\,m_o(p+c-t)

    with the taps t, the center c, and the masks m of the units that are active. All taps take part, each with the mask
    of the position that it comes from. Source: ours (rem-ratio).

    Parameters
    ----------
    kernel : Tensor, shape (outputs, inputs, size, size)
        Of odd size, stride 1 and padding `size // 2`.
    active_inputs : Tensor, shape (inputs, height, width)
        What is multiplied with what arrives: 1 where the ReLU below is open and 0 where it is not.
    active_outputs : Tensor, shape (outputs, height, width)
        The same for the ReLU behind the convolution.
    position : (int, int)
        p.

    Returns
    -------
    Tensor of float64, shape (inputs, outputs)

    Raises
    ------
    InputError
        If a kernel's size is even, or the masks do not fit.

    Examples
    --------
    >>> ones, kernel = torch.ones(1, 3, 3), torch.ones(1, 1, 3, 3)
    >>> effective_matrix(kernel, ones, ones, (1, 1)), effective_matrix(kernel, ones, ones, (0, 0))
    (tensor([[9.]], dtype=torch.float64), tensor([[4.]], dtype=torch.float64))
    """
    outputs, inputs, size, width = kernel.shape
    if size != width or size % 2 == 0:
        raise InputError(f"the kernel has size {size} × {width}; allowed are squares of odd size.")
    if active_inputs.shape[0] != inputs or active_outputs.shape[0] != outputs:
        raise InputError(
            f"the masks have {active_inputs.shape[0]} and {active_outputs.shape[0]} channels; allowed are {inputs}"
            f" and {outputs}, as the kernel has."
        )
    row, column = position
    around = F.pad(active_outputs.double(), [size // 2] * 4)[:, row : row + size, column : column + size]
    arriving = torch.einsum("oihw,ohw->io", kernel.double(), around.flip(1, 2))
    return active_inputs[:, row, column].double()[:, None] * arriving


def random_directions(matrix: Tensor, seed: int = 0) -> Tensor:
    r"""Return a matrix with the same singular values and random singular vectors, uniform over all rotations.

    Parameters
    ----------
    matrix : Tensor, shape (p, q)
    seed : int, default 0

    Returns
    -------
    Tensor of float64, shape (p, q)

    Examples
    --------
    >>> drawn = random_directions(torch.diag(torch.tensor([3.0, 1.0])))
    >>> torch.linalg.svdvals(drawn)
    tensor([3.0000, 1.0000], dtype=torch.float64)
    """
    generator = seeded(seed)
    values = torch.linalg.svdvals(matrix.double())
    left, right = (
        torch.linalg.qr(torch.randn(n, len(values), generator=generator, dtype=torch.float64))[0] for n in matrix.shape
    )
    return left * values @ right.mT


def shuffled_outputs(pattern: Tensor, seed: int = 0) -> Tensor:
    """Return a layer's patterns in another order, so that every output has the pattern of some other one.

    Parameters
    ----------
    pattern : Tensor, shape (outputs, ...)
    seed : int, default 0

    Returns
    -------
    Tensor, of the same shape

    Examples
    --------
    >>> sorted(shuffled_outputs(torch.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """
    return pattern[torch.randperm(len(pattern), generator=seeded(seed))]


def interlayer_matrix(lower: Tensor, upper: Tensor) -> Tensor:
    r"""Return the matrix between two neighbors, :math:`\Sigma_l^{1/2}V_l^\top U_{l+1}\Sigma_{l+1}^{1/2}`.

    It holds both what the neighbors amplify and how their directions fit. The product of a chain is
    :math:`U_1\Sigma_1^{1/2}\,(\prod_l\text{of these})\,\Sigma_n^{1/2}V_n^\top`. Source: Sixt et al. (2020), read in
    their code.

    Parameters
    ----------
    lower : Tensor, shape (p, q)
    upper : Tensor, shape (q, r)

    Returns
    -------
    Tensor, shape (min(p, q), min(q, r))

    Examples
    --------
    >>> lower, upper = torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([9.0, 1.0]))
    >>> torch.linalg.svdvals(interlayer_matrix(lower, upper))
    tensor([6., 1.])
    """
    _, below, right = torch.linalg.svd(lower, full_matrices=False)
    left, above, _ = torch.linalg.svd(upper, full_matrices=False)
    return below.sqrt()[:, None] * (right @ left) * above.sqrt()


def neighbors(chain: Sequence[Tensor]) -> pd.DataFrame:
    r"""Return, for each two neighbors of a chain, what their ratios and their overlap say about alignment.

    Parameters
    ----------
    chain : sequence of Tensor
        At least two matrices, from the input upwards.

    Returns
    -------
    pandas.DataFrame
        A row for each matrix. `ratio`: its first singular value over the second. For all but the top one also
        `overlap`: κ of its leading right with the next one's leading left singular vector; `chance`: the median of κ
        for unrelated vectors; `transmitted`: ratio × overlap, against 1; `interlayer`: the ratio of the
        `interlayer_matrix`. They are NaN for the top one.

    Examples
    --------
    >>> lower, upper = torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([1.0, 9.0]))
    >>> neighbors([lower, upper]).round(2).values.tolist()
    [[4.0, 0.0, 0.71, 0.0, 1.5], [9.0, nan, nan, nan, nan]]
    """
    import pandas as pd

    parts = [torch.linalg.svd(matrix, full_matrices=False) for matrix in chain]
    rows = []
    for (_, below, right), (left, above, _) in itertools.pairwise(parts):
        overlap, ratio = float((right[0] @ left[:, 0]).abs()), float(below[0] / below[1])
        between = torch.linalg.svdvals(below.sqrt()[:, None] * (right @ left) * above.sqrt())
        rows.append((ratio, overlap, chance_level(right.shape[1]), ratio * overlap, float(between[0] / between[1])))
    top = parts[-1][1]
    rows.append((float(top[0] / top[1]), math.nan, math.nan, math.nan, math.nan))
    return pd.DataFrame(rows, columns=["ratio", "overlap", "chance", "transmitted", "interlayer"])


def mean_active_input(sums: Sums) -> Tensor:
    r"""Return the mean input of a layer at its center tap, over the samples that count in the fit of its patterns.

    Behind a ReLU these are, for each output, the samples that activate it; the outputs' means are averaged.
    Source: ours.

    Parameters
    ----------
    sums : Sums
        From the attribute `sums` of a `modbp.patterns.PatternEstimator`.

    Returns
    -------
    Tensor of float64, shape (inputs,)

    Examples
    --------
    >>> from modbp.patterns import PatternEstimator
    >>> estimator = PatternEstimator(torch.nn.Linear(2, 3))
    >>> mean_active_input(estimator.update(torch.tensor([[1.0, 4.0], [3.0, 0.0]])).sums[""])
    tensor([2., 2.], dtype=torch.float64)
    """
    seen = sums.count > 0
    means = sums.x[seen].flatten(1) / sums.count[seen, None]
    return layer_matrix(means.reshape(-1, *sums.x.shape[1:])).mean(1)


def leading_cosine(matrix: Tensor, direction: Tensor) -> Tensor:
    """Return the absolute cosine between what a matrix sends down most strongly and a given direction.

    Parameters
    ----------
    matrix : Tensor, shape (p, q)
    direction : Tensor, shape (p,)

    Returns
    -------
    Tensor, a number in [0, 1]

    Examples
    --------
    >>> leading_cosine(torch.diag(torch.tensor([1.0, 2.0])), torch.tensor([3.0, 4.0]))
    tensor(0.8000)
    """
    left, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, 0] @ direction).abs() / direction.norm()


def energy_rate(matrix: Tensor) -> Tensor:
    r"""Return the energy of a matrix's columns over the square of their mean sum, :math:`t/\bar s^2`.

    If all columns sum to 1 it is the energy t by which the squared norm of a zero-sum signal shrinks per factor
    (thm-energy); for entries of mean μ and spread σ it is :math:`\sigma^2/(\mu^2p)` (law-rate). Below 1 a chain of
    independent factors aligns. Columns that are zero throughout take no part. Source: ours.

    Parameters
    ----------
    matrix : Tensor, shape (p, q)
        With at least two columns that are not zero.

    Returns
    -------
    Tensor, a number

    Examples
    --------
    >>> energy_rate(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])), energy_rate(torch.ones(3, 2))
    (tensor(1.), tensor(0.))
    """
    alive = matrix[:, matrix.abs().sum(0) > 0]
    return column_energy(alive) / column_sums(alive).mean() ** 2


def effective_chain(kernels: Sequence[Tensor], active: Sequence[Tensor], position: tuple[float, float]) -> list[Tensor]:
    """Return the effective matrices of convolutions at one place of the picture, from the input upwards.

    Between two layers of different size the lower mask is pooled: an input is open if one of those is that its pool
    looks at. The pools themselves are left out; they hand on what they receive to one of their inputs.

    Parameters
    ----------
    kernels : sequence of Tensor, shape (outputs, inputs, size, size)
        From the input upwards, as for `effective_matrix`.
    active : sequence of Tensor, shape (channels, height, width)
        Which units are active: of the input, and behind each convolution.
    position : (float, float)
        As shares of the height and the width, in [0, 1).

    Returns
    -------
    list of Tensor

    Raises
    ------
    InputError
        If there is not one mask more than kernels.

    Examples
    --------
    >>> kernel = torch.ones(1, 1, 3, 3)
    >>> [m.item() for m in effective_chain([kernel] * 2, [torch.ones(1, s, s) for s in (8, 8, 4)], (0.5, 0.5))]
    [9.0, 9.0]
    """
    if len(active) != len(kernels) + 1:
        raise InputError(f"there are {len(active)} masks for {len(kernels)} kernels; allowed is one more than kernels.")
    chain = []
    for kernel, below, above in zip(kernels, active, active[1:], strict=False):
        height, width = above.shape[1:]
        below = F.adaptive_max_pool2d(below.double(), (height, width))
        place = int(position[0] * height), int(position[1] * width)
        chain.append(effective_matrix(kernel, below, above, place))
    return chain
