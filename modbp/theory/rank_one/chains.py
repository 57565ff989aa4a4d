"""Simulated chains of random factors, and whether random start vectors align on their way down.

Two kinds: factors that are independent of everything, as the paper's simulation has them, and the matrices of the αβ
rule inside a random ReLU network. All in float64, and in the order of the backward pass, from the top to the input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from modbp.checks import seeded
from modbp.errors import InputError
from modbp.theory.rank_one.signed import alpha_beta_energy, column_energy, participation_ratio
from modbp.theory.rank_one.stochastic import alpha_beta_matrix

VGG16_WIDTHS = (1000, 4096, 4096, *[512] * 6, *[256] * 3, *[128] * 2, *[64] * 2, 3)
"""Widths from the logits to the colors: VGG16 with one tap of each kernel (Sixt et al., 2020; read in their code)."""

ENTRIES = 2**20
"""How many entries of a factor are drawn at a time."""


@dataclass(frozen=True)
class Series:
    """A kind of factor.

    Parameters
    ----------
    matrix : callable
        From standard normal and uniform numbers, two tensors of shape (..., q, p), to the factor's rows: row j says
        how output j shares out its relevance. A row depends on the numbers of that row alone.
    uniform : bool, default False
        Whether it uses the uniform numbers; otherwise none may be drawn, and it gets an empty tensor.
    relu : bool, default False
        Whether the signal is rectified behind every factor but the last.

    Examples
    --------
    >>> Series(lambda normal, uniform: normal.abs()).relu
    False
    """

    matrix: Callable[[Tensor, Tensor], Tensor]
    uniform: bool = False
    relu: bool = False


def alpha_beta(alpha: float) -> Series:
    r"""Return factors :math:`\alpha W^++\beta W^-` with β = α − 1 and Gaussian W.

    Source: Sixt et al. (2020), read in their code.

    Parameters
    ----------
    alpha : float

    Returns
    -------
    Series

    Examples
    --------
    >>> alpha_beta(2).matrix(torch.tensor([[3.0, -3.0]]), torch.zeros(1, 2))
    tensor([[ 6., -3.]])
    """
    return Series(lambda normal, uniform: alpha * leaky_relu(normal, (alpha - 1) / alpha))  # one pass


def sign_flips(share: float) -> Series:
    """Return factors of entries ±|g|, minus with a given probability.

    Source: Sixt et al. (2020), where their code has it commented out.

    Parameters
    ----------
    share : float
        The probability of a minus sign.

    Returns
    -------
    Series

    Examples
    --------
    >>> sign_flips(0.3).matrix(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.9, 0.1]]))
    tensor([[ 1., -2.]])
    """
    return Series(lambda normal, uniform: normal.copysign(uniform - share), uniform=True)


SERIES: Mapping[str, Series] = {
    "signed": Series(lambda normal, uniform: normal),
    "signed, ReLU on the signal": Series(lambda normal, uniform: normal, relu=True),
    "stochastic": Series(lambda normal, uniform: normal.abs() / normal.abs().sum(-1, keepdim=True)),
    "positive": Series(lambda normal, uniform: normal.abs()),
    "non-negative": Series(lambda normal, uniform: normal.clamp(min=0)),
}
"""The paper's simulated factors that have no parameter (Sixt et al., 2020; read in their code)."""


def disagreement(signals: Tensor) -> Tensor:
    r"""Return `1 − |cos|` of every two different signals, resolved far below the rounding error of 1.

    For unit vectors that is half the squared distance to the nearer of v and −v, in which nothing cancels.

    Parameters
    ----------
    signals : Tensor, shape (..., vectors, entries)

    Returns
    -------
    Tensor, shape (..., pairs)
        NaN where a signal is zero.

    Examples
    --------
    >>> disagreement(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [3.0, 3e-6]]))
    tensor([0.0000e+00, 5.0000e-13, 5.0000e-13])
    """
    unit = signals / signals.norm(dim=-1, keepdim=True)
    exact = "donot_use_mm_for_euclid_dist"
    nearer = torch.minimum(*(torch.cdist(unit, sign * unit, compute_mode=exact) for sign in (1, -1)))
    first, second = torch.triu_indices(unit.shape[-2], unit.shape[-2], offset=1, device=unit.device)
    return nearer[..., first, second].square() / 2


def with_self_pairs(mean: Tensor, vectors: int) -> Tensor:
    """Return the mean of `1 − |cos|` over all pairs including each vector with itself, from that over distinct pairs.

    The paper's simulation counts them (read in its code). Of m(m + 1)/2 pairs m are then zero.

    Parameters
    ----------
    mean : Tensor
    vectors : int
        m.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> with_self_pairs(torch.tensor(0.33), 32)
    tensor(0.3100)
    """
    return mean * (vectors - 1) / (vectors + 1)


def simulate_chains(
    series: Mapping[str, Series],
    widths: Sequence[int] = VGG16_WIDTHS,
    repetitions: int = 5,
    vectors: int = 32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Send Gaussian start vectors through chains of random factors, and measure how they align.

    All series share the start vectors and the random numbers behind their factors, so that they differ in nothing but
    the factors' kind. A factor is drawn and used in parts, and never lies in memory whole.

    Parameters
    ----------
    series : mapping from str to Series
    widths : sequence of int, optional
        From the top to the input; one factor between every two. By default VGG16's.
    repetitions : int, default 5
        Independent chains.
    vectors : int, default 32
        Start vectors of each chain.
    seed : int, default 0

    Returns
    -------
    dict from str to Tensor, shape (repetitions, factors, pairs)
        `disagreement` of every two signals, behind every factor.

    Raises
    ------
    InputError
        If there are fewer than two widths or vectors, or no repetition.

    Examples
    --------
    >>> found = simulate_chains(SERIES, widths=(20, 30, 40, 30), repetitions=2, vectors=3)
    >>> found["positive"].shape, bool(found["positive"][:, -1].mean() < found["signed"][:, -1].mean())
    (torch.Size([2, 3, 3]), True)
    """
    check_counts(repetitions=(repetitions, 1), vectors=(vectors, 2), widths=(len(widths), 2))
    generator, uniforms = (seeded(s) for s in (2 * seed, 2 * seed + 1))
    start = torch.randn(repetitions, vectors, widths[0], generator=generator, dtype=torch.float64)
    signals = dict.fromkeys(series, start)
    signs = any(kind.uniform for kind in series.values())
    found: dict[str, list[Tensor]] = {name: [] for name in series}
    for step, (above, below) in enumerate(itertools.pairwise(widths), start=1):
        arriving = {name: torch.zeros(repetitions, vectors, below, dtype=torch.float64) for name in series}
        for rows in torch.arange(above).split(max(1, ENTRIES // (repetitions * below))):
            shape = (repetitions, len(rows), below)
            normal = torch.randn(shape, generator=generator, dtype=torch.float64)
            uniform = torch.rand(shape if signs else (0,), generator=uniforms, dtype=torch.float64)
            for name, kind in series.items():
                arriving[name] += signals[name][..., rows] @ kind.matrix(normal, uniform)
        for name, kind in series.items():
            signal = arriving[name].clamp(min=0) if kind.relu and step < len(widths) - 1 else arriving[name]
            signals[name] = signal / signal.norm(dim=-1, keepdim=True)
            found[name].append(disagreement(signals[name]))
    return {name: torch.stack(steps, 1) for name, steps in found.items()}


def simulate_relu_net(
    alphas: Sequence[float],
    width: int,
    depth: int = 10,
    repetitions: int = 1,
    vectors: int = 32,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Send Gaussian start vectors down a random ReLU network with the αβ rule, and measure how they align.

    The network has no biases, layers of one width with weights from N(0, 2/n) (He et al., 2015), and a rectified
    Gaussian input. Every layer hands relevance down with the `alpha_beta_matrix` at its activations. Source: ours
    (law-relu).

    Parameters
    ----------
    alphas : sequence of float
    width : int
    depth : int, default 10
        Layers.
    repetitions : int, default 1
        Independent networks.
    vectors : int, default 32
        Start vectors of each network, on all units of the top layer, active or not.
    seed : int, default 0

    Returns
    -------
    disagreement : Tensor, shape (alphas, repetitions, depth, pairs)
        Behind every layer, from the top.
    participation : Tensor, shape (repetitions, depth)
        :math:`n_{eff}` of every layer's inputs, from the top.

    Raises
    ------
    InputError
        If a count is too small.

    Examples
    --------
    >>> found, n_eff = simulate_relu_net([1, 4], width=64, depth=4)
    >>> found.shape, bool(found[0, 0, -1].median() < found[1, 0, -1].median())
    (torch.Size([2, 1, 4, 496]), True)
    """
    check_counts(vectors=(vectors, 2))
    net = _RandomNet(width, depth, repetitions, seed)
    signals = [net.normal(width, vectors)] * len(alphas)
    found = []
    for layer in net.layers():
        signals = [
            normalize(_alpha_beta(*layer, alpha, signal), dim=-2) for alpha, signal in zip(alphas, signals, strict=True)
        ]
        found.append(torch.stack([disagreement(signal.mT) for signal in signals]))
    return torch.stack(found, 2), torch.stack([participation_ratio(a) for a in net.activations], 1)


def zero_sum_growth(
    alphas: Sequence[float],
    width: int,
    depth: int = 10,
    repetitions: int = 1,
    vectors: int = 32,
    seed: int = 0,
) -> Tensor:
    """Send start vectors of zero sum down the network of `simulate_relu_net`, and measure whether they grow.

    The sum of a start vector is conserved, and what has no sum is noise beside it: rank one is reached where the noise
    shrinks. The squared norm is multiplied by the energy t at every layer, in the mean over matrices with independent
    columns (thm-energy). Source: ours (thm-energy, law-relu).

    Parameters
    ----------
    alphas : sequence of float
    width : int
    depth : int, default 10
    repetitions : int, default 1
    vectors : int, default 32
    seed : int, default 0

    Returns
    -------
    Tensor, shape (alphas, repetitions)
        The factor of the squared norm per layer, as a geometric mean over layers and start vectors.

    Raises
    ------
    InputError
        If a count is too small.

    Examples
    --------
    >>> growth = zero_sum_growth([1, 9], width=64, depth=4)
    >>> bool(growth[0] < 1), bool(growth[1] > 1)
    (True, True)
    """
    check_counts(vectors=(vectors, 2))
    net = _RandomNet(width, depth, repetitions, seed)
    start = net.normal(width, vectors)
    start = normalize(start - start.mean(-2, keepdim=True), dim=-2)
    signals = [start] * len(alphas)
    for layer in net.layers():
        signals = [_alpha_beta(*layer, alpha, signal) for alpha, signal in zip(alphas, signals, strict=True)]
    return torch.stack([(2 * s.norm(dim=-2).log() / depth).mean(-1).exp() for s in signals])


def _alpha_beta(a: Tensor, plus: Tensor, minus: Tensor, alpha: float, signal: Tensor) -> Tensor:
    """Return the `alpha_beta_matrix` times signals, without the matrix; outputs without a share hand on nothing."""
    shares = []
    for part in (plus, minus):
        total = part @ a
        shares.append(part.mT @ torch.where(total != 0, signal / torch.where(total != 0, total, 1), 0))
    return a * (alpha * shares[0] - (alpha - 1) * shares[1])


class _RandomNet:
    """Random ReLU networks without biases, several at a time, and their layers from the top to the input."""

    def __init__(self, width: int, depth: int, repetitions: int, seed: int) -> None:
        check_counts(width=(width, 2), depth=(depth, 1), repetitions=(repetitions, 1))
        self.repetitions, self.generator = repetitions, seeded(seed)
        self.weights = [self.normal(width, width) * math.sqrt(2 / width) for _ in range(depth)][::-1]
        self.activations = [self.normal(width).clamp(min=0)]
        for weight in reversed(self.weights[1:]):
            self.activations.insert(0, (weight @ self.activations[0].unsqueeze(-1)).squeeze(-1).clamp(min=0))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.repetitions, *shape, generator=self.generator, dtype=torch.float64)

    def layers(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield each layer's inputs, as columns, and the positive and the negative parts of its weights."""
        for a, weight in zip(self.activations, self.weights, strict=True):
            yield a.unsqueeze(-1), weight.clamp(min=0), weight.clamp(max=0)


def layer_energies(alpha: float, width: int, repetitions: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the energy of a random layer's αβ columns: of all outputs, and of those at which relevance arrives.

    The law takes a layer's weights to be independent of what arrives at its outputs. But relevance arrives in
    proportion to the outputs' activations, and an active output has large positive contributions, among which it shares
    out more evenly. The second energy counts every output by its squared activation. Source: ours (law-relu).

    Parameters
    ----------
    alpha : float
    width : int
    repetitions : int, default 1
    seed : int, default 0

    Returns
    -------
    every, arriving : Tensor, shape (repetitions,)
        Both over the law's t at the inputs' participation ratio.

    Raises
    ------
    InputError
        If a count is too small.

    Examples
    --------
    >>> every, arriving = layer_energies(1, width=200)
    >>> bool(arriving < every)
    True
    """
    net = _RandomNet(width, 1, repetitions, seed)
    (a,), (weight,) = net.activations, net.weights
    matrix = alpha_beta_matrix(a, weight, alpha)
    outputs = (weight @ a.unsqueeze(-1)).squeeze(-1).clamp(min=0)
    law = alpha_beta_energy(alpha, 1.0) / participation_ratio(a)
    return column_energy(matrix) / law, column_energy(matrix, outputs.square()) / law


def check_counts(**counts: tuple[int, int]) -> None:
    """Refuse a count that is below its least value.

    Parameters
    ----------
    **counts
        By the argument's name: the count and the least value.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_counts(vectors=(2, 2))
    """
    for name, (count, least) in counts.items():
        if count < least:
            raise InputError(f"the number of {name} is {count}; allowed are numbers from {least} upwards.")
