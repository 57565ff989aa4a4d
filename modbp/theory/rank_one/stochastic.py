r"""Column-stochastic matrices: the z⁺ rule as a matrix, and how fast products of such matrices forget their start.

Notation of the theory page (`book/rank-one.md`): a layer has p inputs and q outputs, its matrix :math:`Z` is p × q, and
column j says how output j shares out its relevance, :math:`R_{in}=Z R_{out}`. A chain is listed from the input upwards,
so that its product :math:`C_n=Z_1\cdots Z_n` takes a start vector at the top to the map at the bottom.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from modbp.errors import InputError

ROUNDING = 1e-6
"""How far a column's sum may be from 1, and an entry below 0, before a matrix is no longer taken to be stochastic."""

COLUMNS = 256
"""How many columns are compared with all others at a time, so that the differences of all pairs never lie in memory."""


def z_plus_matrix(activations: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Return the exact matrix of the z⁺ rule at a fully connected layer.

    .. math:: Z_{ij}=\frac{a_iw_{ij}^+}{d_j},\qquad d_j=\sum_k a_kw_{kj}^+

    Source: Montavon et al. (2017), section 4.3, for the rule; its reading as a matrix is ours (def-zplus-matrix,
    lem-conservation, prop-bias).

    Parameters
    ----------
    activations : Tensor, shape (..., inputs)
        The layer's inputs, not negative.
    weight : Tensor, shape (..., outputs, inputs)
        As `torch.nn.Linear` keeps it.
    bias : Tensor, shape (..., outputs), optional
        If given, the positive part of the bias is kept in the denominator, and receives its share: columns then sum to
        less than 1. By default it is left out.

    Returns
    -------
    Tensor, shape (..., inputs, outputs)
        The column of a dead output, one without any positive contribution, is zero. All others sum to 1 without bias.

    Raises
    ------
    InputError
        If an activation is negative.

    Examples
    --------
    >>> z_plus_matrix(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, -1.0], [2.0, 1.0], [-1.0, -1.0]]))
    tensor([[1.0000, 0.5000, 0.0000],
            [0.0000, 0.5000, 0.0000]])
    """
    if bool((activations < 0).any()):
        raise InputError(f"an activation is {float(activations.min()):g}; allowed are numbers from 0 upwards.")
    contributions = (activations.unsqueeze(-2) * weight.clamp(min=0)).mT
    total = contributions.sum(-2, keepdim=True)
    if bias is not None:
        total = total + bias.clamp(min=0).unsqueeze(-2)
    return _divide(contributions, total)


def alpha_beta_matrix(activations: Tensor, weight: Tensor, alpha: float, beta: float | None = None) -> Tensor:
    r"""Return the exact matrix of the LRP-αβ rule at a fully connected layer without bias.

    .. math:: Z_{ij}=a_i\Big(\alpha\frac{w_{ij}^+}{\sum_k a_kw_{kj}^+}-\beta\frac{w_{ij}^-}{\sum_k a_kw_{kj}^-}\Big)

    Source: Bach et al. (2015), equation 60; as a matrix, ours (law-relu).

    Parameters
    ----------
    activations : Tensor, shape (..., inputs)
        Not negative.
    weight : Tensor, shape (..., outputs, inputs)
        As `torch.nn.Linear` keeps it.
    alpha : float
    beta : float, default alpha − 1

    Returns
    -------
    Tensor, shape (..., inputs, outputs)
        Columns sum to α − β where an output has contributions of both signs.

    Raises
    ------
    InputError
        If an activation is negative.

    Examples
    --------
    >>> alpha_beta_matrix(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([[1.0, 3.0, -1.0]]), alpha=2)
    tensor([[ 0.5000],
            [ 1.5000],
            [-1.0000]])
    """
    beta = alpha - 1 if beta is None else beta
    return alpha * z_plus_matrix(activations, weight) - beta * z_plus_matrix(activations, -weight)


def residual_matrix(skip: Tensor, branch: Tensor) -> Tensor:
    r"""Return the matrix of a residual block :math:`y=x+g(x)`, whose relevance is shared between its two paths.

    .. math:: Z_{res}=D_\alpha+Z(I-D_\alpha)

    Source: ours (prop-residual).

    Parameters
    ----------
    skip : Tensor, shape (units,)
        The share :math:`\alpha_j` of output j's relevance that takes the skip connection.
    branch : Tensor, shape (units, units)
        The matrix of the branch.

    Returns
    -------
    Tensor, shape (units, units)

    Examples
    --------
    >>> residual_matrix(torch.tensor([0.5, 1.0]), torch.full((2, 2), 0.5))
    tensor([[0.7500, 0.0000],
            [0.2500, 1.0000]])
    """
    return torch.diag(skip) + branch * (1 - skip)


def column_sums(matrix: Tensor) -> Tensor:
    """Return the sum of each column: the share of an output's relevance that arrives below.

    Source: ours (lem-conservation, prop-bias).

    Parameters
    ----------
    matrix : Tensor, shape (..., p, q)

    Returns
    -------
    Tensor, shape (..., q)

    Examples
    --------
    >>> column_sums(torch.tensor([[0.25, 0.5], [0.75, 0.0]]))
    tensor([1.0000, 0.5000])
    """
    return matrix.sum(-2)


def stochastic(matrix: Tensor) -> Tensor:
    """Return a non-negative matrix without its zero columns, every other column divided by its sum.

    Source: ours (def-csc, lem-dead).

    Parameters
    ----------
    matrix : Tensor, shape (p, q)

    Returns
    -------
    Tensor, shape (p, at most q)

    Raises
    ------
    InputError
        If an entry is negative.

    Examples
    --------
    >>> stochastic(torch.tensor([[1.0, 0.0, 3.0], [1.0, 0.0, 1.0]]))
    tensor([[0.5000, 0.7500],
            [0.5000, 0.2500]])
    """
    if bool((matrix < 0).any()):
        raise InputError(f"an entry is {float(matrix.min()):g}; allowed are numbers from 0 upwards.")
    live = matrix[:, column_sums(matrix) > 0]
    return live / column_sums(live)


def live_chain(chain: Iterable[Tensor]) -> list[Tensor]:
    """Return a chain of z⁺ matrices with every layer's dead outputs deleted, there and as inputs of the next layer.

    Source: ours (lem-dead): in a network without biases this changes no map.

    Parameters
    ----------
    chain : iterable of Tensor
        From the input upwards, sizes compatible.

    Returns
    -------
    list of Tensor
        Columns that lose entries with a deleted input are not scaled up again: their sums show that they did.

    Examples
    --------
    >>> live_chain([torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])])
    [tensor([[1.]]), tensor([[1., 1.]])]
    """
    alive: Tensor | None = None
    result = []
    for matrix in chain:
        matrix = matrix if alive is None else matrix[alive]
        alive = column_sums(matrix) > 0
        result.append(matrix[:, alive])
    return result


def dobrushin(matrix: Tensor) -> Tensor:
    r"""Return Dobrushin's coefficient, the largest total variation distance of two columns.

    .. math:: \tau(Z)=\tfrac12\max_{j,k}\lVert Ze_j-Ze_k\rVert_1\in[0,1]

    It is 0 if all columns are equal, and 1 if two of them are orthogonal. Source: Dobrushin (1956); Seneta,
    *Non-negative Matrices and Markov Chains*, chapter 3 (def-dobrushin, lem-dobrushin).

    Parameters
    ----------
    matrix : Tensor, shape (p, q)
        Column-stochastic.

    Returns
    -------
    Tensor, a number

    Raises
    ------
    InputError
        If the matrix is not column-stochastic.

    Examples
    --------
    >>> dobrushin(torch.tensor([[0.5, 0.25], [0.5, 0.75]]))
    tensor(0.2500)
    """
    check_stochastic(matrix)
    columns = matrix.mT.contiguous()
    return torch.stack([torch.cdist(some, columns, p=1).max() for some in columns.split(COLUMNS)]).max() / 2


def check_stochastic(matrix: Tensor) -> None:
    """Refuse a matrix that has a negative entry, or a column that does not sum to 1.

    Parameters
    ----------
    matrix : Tensor, shape (p, q)

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_stochastic(torch.tensor([[0.5, 1.0], [0.5, 0.0]]))
    """
    if matrix.dim() != 2 or 0 in matrix.shape:
        raise InputError(f"the matrix has shape {tuple(matrix.shape)}; allowed is (p, q) with at least one entry.")
    if float(matrix.min()) < -ROUNDING:
        raise InputError(f"an entry is {float(matrix.min()):g}; allowed in a stochastic matrix are numbers from 0 on.")
    worst = float((column_sums(matrix) - 1).abs().max())
    if not worst <= ROUNDING:
        raise InputError(f"a column's sum differs from 1 by {worst:g}; allowed is {ROUNDING:g} in a stochastic matrix.")


def products(chain: Sequence[Tensor]) -> list[Tensor]:
    r"""Return the products :math:`C_1,\dots,C_n` of a chain, :math:`C_l=Z_1\cdots Z_l`.

    Parameters
    ----------
    chain : sequence of Tensor
        From the input upwards.

    Returns
    -------
    list of Tensor

    Examples
    --------
    >>> half = torch.tensor([[0.5, 0.0], [0.5, 1.0]])
    >>> products([half, half])[-1]
    tensor([[0.2500, 0.0000],
            [0.7500, 1.0000]])
    """
    return list(itertools.accumulate(chain, torch.matmul))


def contraction_bounds(chain: Sequence[Tensor], block: int = 1) -> Tensor:
    r"""Return the bound on Dobrushin's coefficient of every product :math:`C_l` of a chain, from blocks of layers.

    .. math:: \tau(C_l)\le\prod_b\tau(B_b)

    with the products :math:`B_b` of `block` consecutive layers, counted from the input; the last block may be shorter.
    Source: ours (lem-dobrushin, rem-blocks, thm-stochastic).

    Parameters
    ----------
    chain : sequence of Tensor
        Column-stochastic matrices, from the input upwards.
    block : int, default 1
        1 is the bound layer by layer, the number of layers the coefficient itself.

    Returns
    -------
    Tensor, shape (layers,)

    Raises
    ------
    InputError
        If the block is below 1, or a matrix is not column-stochastic.

    Examples
    --------
    >>> swap, mix = torch.eye(2).flip(0), torch.tensor([[0.75, 0.5], [0.25, 0.5]])
    >>> contraction_bounds([swap, mix, mix])
    tensor([1.0000, 0.2500, 0.0625])
    """
    if block < 1:
        raise InputError(f"block is {block}; allowed are whole numbers from 1 upwards.")
    bounds, done = [], torch.ones(())
    for begin in range(0, len(chain), block):
        inside = torch.stack([dobrushin(product) for product in products(chain[begin : begin + block])])
        bounds.append(done * inside)
        done = bounds[-1][-1]
    return torch.cat(bounds)


def cosine_bound(v: Tensor, w: Tensor, matrix: Tensor) -> Tensor:
    r"""Return the lower bound on :math:`|\cos(Cv,Cw)|` from Dobrushin's coefficient T of C.

    With :math:`s=\sum_jv_j`, :math:`u=\mathbf 1/m`, :math:`\bar c=Cu` and
    :math:`\rho(v)=T\lVert v-su\rVert_1/(|s|\,\lVert\bar c\rVert_2)`, the bound is
    :math:`\cos(\arcsin\rho(v)+\arcsin\rho(w))` if the two arcsines sum to at most π/2, and 0, which is no statement,
    otherwise. Source: ours (prop-finite-depth, item 3).

    Parameters
    ----------
    v, w : Tensor, shape (..., m)
        Start vectors at the top.
    matrix : Tensor, shape (p, m)
        Column-stochastic.

    Returns
    -------
    Tensor, shape (...)

    Raises
    ------
    InputError
        If the matrix is not column-stochastic.

    Examples
    --------
    >>> C = torch.tensor([[0.51, 0.49], [0.49, 0.51]])
    >>> cosine_bound(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), C)
    tensor(0.9984)
    """
    mean = matrix.mean(1)
    tau = dobrushin(matrix)

    def angle(start: Tensor) -> Tensor:
        total = start.sum(-1, keepdim=True)
        rest = (start - total / matrix.shape[1]).abs().sum(-1)
        rho = torch.where(total[..., 0] != 0, tau * rest / (total[..., 0].abs() * mean.norm()), math.inf)
        return rho.clamp(max=1).arcsin()

    return (angle(v) + angle(w)).clamp(max=math.pi / 2).cos()


def singular_bound(matrix: Tensor) -> Tensor:
    r"""Return the bound on the second singular value over the first, :math:`\tau(Z)/\lVert Z\mathbf 1/q\rVert_2`.

    Source: ours (lem-singular).

    Parameters
    ----------
    matrix : Tensor, shape (p, q)
        Column-stochastic.

    Returns
    -------
    Tensor, a number

    Raises
    ------
    InputError
        If the matrix is not column-stochastic.

    Examples
    --------
    >>> singular_bound(torch.full((2, 3), 0.5))
    tensor(0.)
    """
    return dobrushin(matrix) / matrix.mean(1).norm()


def gaussian_start_probability(delta: float, outputs: int) -> float:
    r"""Return how likely a Gaussian start vector is at least to have a usable sum.

    For :math:`v\sim N(0,I_m)`, with at least the probability :math:`1-\delta\sqrt{2/\pi}-e^{-(m-1)}`,

    .. math:: \rho(v)\le\sqrt5\,\frac{T\sqrt m}{\delta\lVert\bar c\rVert_2}

    with ρ, T and c̄ as in `cosine_bound`. Source: ours (cor-gaussian-start).

    Parameters
    ----------
    delta : float
        In (0, 1).
    outputs : int
        The length m of the start vector.

    Returns
    -------
    float

    Examples
    --------
    >>> round(gaussian_start_probability(0.3, 500), 3)
    0.761
    """
    return 1 - delta * math.sqrt(2 / math.pi) - math.exp(1 - outputs)


def bias_bound(coefficient: float, ratio: float, layers: int) -> float:
    r"""Return the bound on the coefficient of a column-normalized z⁺ chain that keeps its biases.

    .. math:: \big(\tau+1-1/\kappa\big)^n

    with the largest coefficient τ of the layers' bias-free matrices, and the largest ratio κ, within a layer, of the
    shares :math:`d_j/(d_j+b_j^+)`. It says nothing unless κτ < 1. Source: ours (prop-bias).

    Parameters
    ----------
    coefficient : float
        τ.
    ratio : float
        κ, from 1 upwards.
    layers : int
        n.

    Returns
    -------
    float
        1, which is no statement, where κτ ≥ 1.

    Examples
    --------
    >>> bias_bound(0.5, 1.0, 3), bias_bound(0.5, 2.0, 3)
    (0.125, 1.0)
    """
    return (coefficient + 1 - 1 / ratio) ** layers if ratio * coefficient < 1 else 1.0


def scaled_chain(chain: Iterable[Tensor]) -> tuple[list[Tensor], Tensor]:
    r"""Return a chain of any non-negative matrices as a column-stochastic one, and the scale that was taken out.

    With :math:`h_0=\mathbf 1` and :math:`h_l=A_l^\top h_{l-1}`,

    .. math:: \tilde A_l=\mathrm{diag}(h_{l-1})\,A_l\,\mathrm{diag}(h_l)^{-1},\qquad
        \tilde A_1\cdots\tilde A_n=C_n\,\mathrm{diag}(h_n)^{-1} .

    Source: ours (thm-scaled).

    Parameters
    ----------
    chain : iterable of Tensor
        Non-negative, without zero columns, from the input upwards.

    Returns
    -------
    factors : list of Tensor
        Column-stochastic.
    h : Tensor
        The column sums of the chain's product.

    Raises
    ------
    InputError
        If an entry is negative or a column is zero.

    Examples
    --------
    >>> factors, h = scaled_chain([torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0], [2.0]])])
    >>> factors[1].flatten(), h
    (tensor([0.5000, 0.5000]), tensor([4.]))
    """
    scale: Tensor | None = None
    factors = []
    for matrix in chain:
        weighted = matrix if scale is None else scale[:, None] * matrix
        scale = column_sums(weighted)
        if bool((matrix < 0).any()) or not bool((scale > 0).all()):
            raise InputError(
                f"the smallest entry is {float(matrix.min()):g} and the smallest column sum {float(scale.min()):g};"
                " allowed are matrices without negative entries and zero columns."
            )
        factors.append(weighted / scale)
    assert scale is not None, "an empty chain"
    return factors, scale


def positivity(matrix: Tensor) -> Tensor:
    r"""Return how even the columns of a positive matrix are, :math:`\kappa=\min_j(\min_iA_{ij}/\max_iA_{ij})`.

    In the chain of `scaled_chain` the factor's coefficient is at most 1 − κ. Source: ours (thm-positive).

    Parameters
    ----------
    matrix : Tensor, shape (..., p, q)
        Not negative.

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> positivity(torch.tensor([[1.0, 3.0], [2.0, 3.0]]))
    tensor(0.5000)
    """
    return (matrix.amin(-2) / matrix.amax(-2)).amin(-1)


def _divide(contributions: Tensor, total: Tensor) -> Tensor:
    return torch.where(total > 0, contributions / torch.where(total > 0, total, 1), 0)
