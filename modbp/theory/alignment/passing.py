r"""What one layer does to alignment, for any weights: Theorem 2 of `book/alignment.md`.

Columns of W are the weights of units, shape (inputs, units). A signal g on the active units of a layer without biases
is sent down, :math:`r=Wg`, and compared with the activation a below; :math:`a^+=\sigma(W^\top a)` is the one above.

.. math:: \cos(r,a)=\cos(g,a^+)\,\frac{\lVert g\rVert\,\lVert a^+\rVert}{\lVert Wg\rVert\,\lVert a\rVert}

Source: ours; that orthogonal weights of equal norm preserve alignment is a claim of Zheng et al. (2025).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from modbp.checks import above_zero, at_least_one
from modbp.errors import InputError

ROUNDING = 64
"""A bound counts as violated by more than this many rounding errors."""


@dataclass(frozen=True)
class Passage:
    r"""How well a signal is aligned above a layer and below it.

    Parameters
    ----------
    above : float
        :math:`\cos(g,a^+)`.
    below : float
        :math:`\cos(Wg,a)`.
    factor : float
        :math:`\eta=\lVert a^+\rVert/(\alpha\lVert a\rVert)`, with α the norm of the active columns: what orthogonal
        active weights of equal norm multiply any cosine by. For others α is the root of their mean square norm.
    bound : float
        :math:`\cos(g,a^+)\,\lVert a^+\rVert/(\sigma_{\max}(W_A)\lVert a\rVert)`, which `below` reaches at least where
        `above` is not negative.

    Examples
    --------
    >>> Passage(above=0.5, below=0.4, factor=0.8, bound=0.3).violates_bound
    False
    """

    above: float
    below: float
    factor: float
    bound: float

    @property
    def error(self) -> float:
        r"""The identity's error :math:`|\cos(Wg,a)-\eta\cos(g,a^+)|`: zero for orthogonal weights of equal norm."""
        return abs(self.below - self.factor * self.above)

    @property
    def violates_bound(self) -> bool:
        """Whether `below` misses its lower bound by more than rounding."""
        return self.above >= 0 and self.below < self.bound - ROUNDING * sys.float_info.epsilon


def passage(weight: Tensor, g: Tensor, a: Tensor) -> Passage:
    """Send a signal through one layer without biases.

    Parameters
    ----------
    weight : Tensor, shape (inputs, units)
        Columns are the weights of units.
    g : Tensor, shape (units,)
        What is sent down; entries on inactive units are taken to be zero.
    a : Tensor, shape (inputs,)
        The activation below.

    Returns
    -------
    Passage
        Computed in float64.

    Raises
    ------
    InputError
        If the shapes do not fit, no unit is active, or nothing of g is on active units.

    Examples
    --------
    >>> done = passage(2 * torch.eye(3), torch.tensor([1.0, 2.0, 5.0]), torch.tensor([3.0, 4.0, -1.0]))
    >>> done.error < 1e-15, round(done.factor**2, 4)  # the third unit is inactive, so its share of a is not seen
    (True, 0.9615)
    """
    W, g, a = weight.double(), g.double(), a.double()
    if W.dim() != 2 or g.shape != W.shape[1:] or a.shape != W.shape[:1]:
        raise InputError(
            f"weight, g and a have the shapes {tuple(W.shape)}, {tuple(g.shape)} and {tuple(a.shape)}; allowed are"
            " (inputs, units), (units,) and (inputs,)."
        )
    h = W.T @ a
    active = h > 0
    columns, signal, above = W[:, active], g[active], h[active]
    if not bool(signal.any()):
        raise InputError("g is zero on all active units; allowed is a signal that is not.")
    r = columns @ signal
    size = float(a.norm())
    cosine_above = float(signal @ above / (signal.norm() * above.norm()))
    alpha = float(columns.square().sum(0).mean().sqrt())
    largest = float(torch.linalg.matrix_norm(columns, 2))
    return Passage(
        above=cosine_above,
        below=float(r @ a / (r.norm() * size)),
        factor=float(above.norm()) / (alpha * size),
        bound=cosine_above * float(above.norm()) / (largest * size),
    )


def gaussian(inputs: int, units: int, seed: int = 0) -> Tensor:
    """Return independent N(0, 1/inputs) entries: columns of norm about 1.

    Parameters
    ----------
    inputs, units : int
    seed : int, default 0

    Returns
    -------
    Tensor of float64, shape (inputs, units)

    Raises
    ------
    InputError
        If a size is no whole number from 1 upwards.

    Examples
    --------
    >>> gaussian(100, 300).shape
    torch.Size([100, 300])
    """
    at_least_one(inputs=inputs, units=units)
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((inputs, units))) / math.sqrt(inputs)


def orthogonal(inputs: int, units: int, seed: int = 0) -> Tensor:
    """Return orthonormal columns, uniformly distributed.

    Parameters
    ----------
    inputs, units : int
        At most as many units as inputs.
    seed : int, default 0

    Returns
    -------
    Tensor of float64, shape (inputs, units)

    Raises
    ------
    InputError
        If there are more units than inputs, or a size is no whole number from 1 upwards.

    Examples
    --------
    >>> W = orthogonal(5, 3)
    >>> bool(torch.allclose(W.T @ W, torch.eye(3, dtype=torch.float64)))
    True
    """
    at_least_one(inputs=inputs, units=units)
    if units > inputs:
        raise InputError(f"units is {units} with {inputs} inputs; allowed are at most as many units as inputs.")
    Q, R = torch.linalg.qr(gaussian(inputs, units, seed))
    return Q * R.diagonal().sign()  # or the law would not be the uniform one


def pairs(inputs: int, units: int, seed: int = 0) -> Tensor:
    """Return orthonormal bases, each together with its negatives: exactly one of every ± pair is active.

    Parameters
    ----------
    inputs, units : int
        A multiple of 2 × inputs units.
    seed : int, default 0

    Returns
    -------
    Tensor of float64, shape (inputs, units)

    Raises
    ------
    InputError
        If there are not that many units, or a size is no whole number from 1 upwards.

    Examples
    --------
    >>> W = pairs(3, 6)
    >>> float((W.T @ torch.ones(3, dtype=torch.float64) > 0).sum())
    3.0
    """
    at_least_one(inputs=inputs, units=units)
    if units % (2 * inputs):
        raise InputError(f"units is {units} with {inputs} inputs; allowed are multiples of {2 * inputs}.")
    bases = [orthogonal(inputs, inputs, seed + i) for i in range(units // (2 * inputs))]
    return torch.cat([part for basis in bases for part in (basis, -basis)], dim=1)


def tight_frame(inputs: int, units: int, seed: int = 0) -> Tensor:
    r"""Return a random tight frame, :math:`WW^\top=(m/n)\,I`: orthonormal rows, scaled.

    Parameters
    ----------
    inputs, units : int
        At least as many units as inputs.
    seed : int, default 0

    Returns
    -------
    Tensor of float64, shape (inputs, units)

    Raises
    ------
    InputError
        If there are fewer units than inputs, or a size is no whole number from 1 upwards.

    Examples
    --------
    >>> W = tight_frame(3, 6)
    >>> bool(torch.allclose(W @ W.T, 2 * torch.eye(3, dtype=torch.float64)))
    True
    """
    at_least_one(inputs=inputs, units=units)
    if units < inputs:
        raise InputError(f"units is {units} with {inputs} inputs; allowed are at least as many units as inputs.")
    return orthogonal(units, inputs, seed).T * math.sqrt(units / inputs)


KINDS: Mapping[str, Callable[[int, int, int], Tensor]] = MappingProxyType(
    {"orthogonal": orthogonal, "pairs": pairs, "tight_frame": tight_frame, "gaussian": gaussian}
)
"""Weights by name: functions of inputs, units and seed."""


def passed_on(kind: str, ratio: float) -> float:
    r"""Return the cosine with a of what one layer makes of the activation itself, :math:`\cos(Wa^+,a)`.

    :math:`\sqrt{\kappa/2}` for orthogonal weights, 1 for ± pairs, :math:`(1+1/\kappa)^{-1/2}` for tight frames and
    :math:`(1+2/\kappa)^{-1/2}` for Gaussian weights. Source: ours, proposition "How much of the input the
    active units see"; exact for pairs, limits of many inputs for the others.

    Parameters
    ----------
    kind : {"orthogonal", "pairs", "tight_frame", "gaussian"}
    ratio : float
        κ, units per input: at most 1 for orthogonal weights, even for pairs, at least 1 for tight frames.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the kind is unknown, or has no such ratio.

    Examples
    --------
    >>> [round(passed_on("gaussian", ratio), 3) for ratio in (1, 2, 10)]
    [0.577, 0.707, 0.913]
    >>> round(passed_on("orthogonal", 1), 3), passed_on("pairs", 2), round(passed_on("tight_frame", 2), 3)
    (0.707, 1.0, 0.816)
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}.")
    above_zero("ratio", ratio)
    allowed = {
        "orthogonal": (ratio <= 1, "at most 1"),
        "pairs": (ratio % 2 == 0, "even numbers"),
        "tight_frame": (ratio >= 1, "at least 1"),
        "gaussian": (True, ""),
    }
    fits, said = allowed[kind]
    if not fits:
        raise InputError(f"ratio is {ratio!r} for {kind}; allowed is {said}.")
    return {
        "orthogonal": math.sqrt(ratio / 2),
        "pairs": 1.0,
        "tight_frame": 1 / math.sqrt(1 + 1 / ratio),
        "gaussian": 1 / math.sqrt(1 + 2 / ratio),
    }[kind]


def weight_alignment(mean_cosine: float, active: int, dispersion: float = 1.0, mean_square: float = 0.0) -> float:
    r"""Return the alignment of a map with the input from that of the active weights.

    .. math:: \cos^2(r,x)\simeq\frac{m_A\mu^2}{m_A\mu^2+\gamma\,(1-E\mu_j^2)}

    where the rest of each weight is independent of the others. Source: ours, law "Weight alignment"; a limit, and a
    yardstick for trained weights, whose rests are not independent.

    Parameters
    ----------
    mean_cosine : float
        μ, of the active weights with their input.
    active : int
        m_A, how many are active.
    dispersion : float, default 1
        γ = E[c²]/E[c]² of the coefficients.
    mean_square : float, default 0
        E μ², of the cosines.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If a number lies outside its range.

    Examples
    --------
    >>> [round(weight_alignment(mu, m, mean_square=mu * mu), 3) for mu, m in ((0.1, 100), (0.2, 100), (0.05, 2000))]
    [0.709, 0.898, 0.913]
    """
    at_least_one(active=active)
    if not -1 <= mean_cosine <= 1 or not 0 <= mean_square <= 1 or not dispersion >= 1:
        raise InputError(
            f"mean_cosine, mean_square and dispersion are {mean_cosine}, {mean_square} and {dispersion}; allowed are"
            " -1 to 1, 0 to 1, and numbers from 1 upwards."
        )
    signal = active * mean_cosine**2
    rest = dispersion * (1 - mean_square)
    return math.copysign(math.sqrt(signal / (signal + rest)), mean_cosine) if signal else 0.0


def isotropic_cosine(inputs: int) -> float:
    r"""Return the mean cosine of an isotropic weight with its input where it is active.

    :math:`\Gamma(n/2)/(\sqrt\pi\,\Gamma((n+1)/2))`, which tends to :math:`\sqrt{2/(\pi n)}`. Source: ours, law "Weight
    alignment"; exact.

    Parameters
    ----------
    inputs : int
        n.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If there is no input.

    Examples
    --------
    >>> round(isotropic_cosine(64), 4), round((2 / (math.pi * 64)) ** 0.5, 4)
    (0.1001, 0.0997)
    """
    at_least_one(inputs=inputs)
    return math.exp(math.lgamma(inputs / 2) - math.lgamma((inputs + 1) / 2)) / math.sqrt(math.pi)
