"""A clip of the relevance that a rule hands down: no rule of the theory, and yet it decides some experiments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modbp.rules.affine import AffineLayer
from modbp.rules.relevance import check_number


@dataclass(frozen=True)
class Clipped:
    """A rule whose relevance is clipped to an interval before it goes on down.

    R_j = min(max(R'_j, low), high), where R'_j is what the wrapped rule returns. With `low = 0` no negative relevance
    leaves the layer, whatever the rule, and the way back is no longer linear in the start.
    Source: the public code of Sixt et al. (2020), which clips to [0, 1000] at the additions of ResNet-50 for its LRP-αβ
    methods and its composites.

    Parameters
    ----------
    rule : rule
        For affine layers, such as `AlphaBeta`.
    low : float, default 0.0
        May be −∞.
    high : float, default 1000.0
        May be ∞.

    Raises
    ------
    ValueError
        If the rule is none for relevance, or the bounds are no interval.

    Examples
    --------
    >>> import torch
    >>> from modbp.rules.affine import Dense
    >>> from modbp.rules.relevance import AlphaBeta
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> Clipped(AlphaBeta(2))(torch.tensor([[1.0]]), AffineLayer(Dense(W, a.shape), a, a @ W.T))
    tensor([[2., 0.]])
    """

    rule: Any
    low: float = 0.0
    high: float = 1000.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not hasattr(self.rule, "passes_relus") or getattr(self.rule, "compares_with_reference", False):
            raise ValueError(f"rule is {self.rule!r}; allowed are rules of relevance for affine layers.")
        for name, bound in (("low", self.low), ("high", self.high)):
            if isinstance(bound, bool) or not isinstance(bound, int | float) or math.isnan(bound):
                raise ValueError(f"{name} is {bound!r}; allowed is a number, or an infinite one.")
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}; allowed is low <= high.")

    @property
    def passes_relus(self) -> bool:
        """As the wrapped rule."""
        return bool(self.rule.passes_relus)

    @property
    def needs_output(self) -> bool:
        """As the wrapped rule."""
        return bool(getattr(self.rule, "needs_output", True))

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the inputs; see `RelevanceRule`."""
        unclipped: Tensor = self.rule(relevance, layer)
        return unclipped.clamp(self.low, self.high)


def rectified_cosine(cosine: float) -> float:
    r"""Return the cosine that two signals have after their negative parts were cut off.

    .. math:: \kappa_1(\rho)=\frac1\pi\Big[\sqrt{1-\rho^2}+\rho\,(\pi-\arccos\rho)\Big]

    It is exact for long, centered Gaussian vectors, and larger than the cosine before, unless that was 1.
    Source: Cho and Saul, *Kernel Methods for Deep Learning* (2009), section 2; for clipped relevance ours.

    Parameters
    ----------
    cosine : float
        ρ in [-1, 1], before.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the cosine lies outside.

    Examples
    --------
    >>> round(rectified_cosine(0.0), 3), round(rectified_cosine(rectified_cosine(0.0)), 3), rectified_cosine(1.0)
    (0.318, 0.494, 1.0)
    """
    check_number("cosine", cosine, low=-1, high=1)
    return (math.sqrt(1 - cosine**2) + cosine * (math.pi - math.acos(cosine))) / math.pi
