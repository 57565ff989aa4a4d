r"""Rules for the rectifier: what becomes of the signal that crosses a ReLU on its way back.

Every rule below is one mask on the arriving signal :math:`R`. Write :math:`a=\max(z,0)` for the activation and
:math:`1[\cdot]` for the indicator.

=================  ==========================================  =========================================
method             signal at the ReLU's input                  source
=================  ==========================================  =========================================
gradient           :math:`R\,1[a>0]`                           the chain rule
pass (LRP)         :math:`R`                                   Bach et al. (2015)
Deconvolution      :math:`\max(R,0)`                           Zeiler and Fergus (2014)
Guided Backprop    :math:`\max(R,0)\,1[a>0]`                   Springenberg et al. (2014)
RectGrad           :math:`R\,1[a R>\tau]`                      Kim et al. (2019)
=================  ==========================================  =========================================

The gradient needs no rule: it is what autograd does when none is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modbp.rules.affine import many_starts


class ReLURule(Protocol):
    """What a rule for the rectifier must be: a function of the arriving signal and the activation."""

    def __call__(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Return the signal at the ReLU's input.

        Parameters
        ----------
        relevance : Tensor, shape (batch, ...)
            The signal that arrives at the ReLU's output.
        activation : Tensor, shape (batch, ...)
            The ReLU's output in the forward pass.

        Returns
        -------
        Tensor, shape (batch, ...)
        """
        ...


@dataclass(frozen=True)
class Pass:
    """Hand the relevance on as it is: R, as every rule of LRP does at an activation.

    Source: Bach et al., *On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation* (2015), section "Pixel-wise decomposition for multilayer networks".

    Examples
    --------
    >>> import torch
    >>> Pass()(torch.tensor([-1.0, 2.0]), activation=torch.tensor([5.0, 0.0]))
    tensor([-1.,  2.])
    """

    def __call__(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Return R; see `ReLURule`."""
        return relevance


@dataclass(frozen=True)
class Deconvolution:
    """Keep the positive part of the signal, whatever the activation: max(R, 0).

    Source: Zeiler and Fergus, *Visualizing and Understanding Convolutional Networks* (2014), section 2.1.

    Examples
    --------
    >>> import torch
    >>> Deconvolution()(torch.tensor([-1.0, 2.0, 3.0]), activation=torch.tensor([5.0, 0.0, 5.0]))
    tensor([0., 2., 3.])
    """

    def __call__(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Return max(R, 0); see `ReLURule`."""
        return relevance.relu()  # a ReLU, now of the signal


@dataclass(frozen=True)
class GuidedBackprop:
    """Keep the positive part of the signal where the unit is active: max(R, 0) · 1[a > 0].

    Source: Springenberg et al., *Striving for Simplicity: The All Convolutional Net* (2014), section 3.4.

    Examples
    --------
    >>> import torch
    >>> GuidedBackprop()(torch.tensor([-1.0, 2.0, 3.0]), activation=torch.tensor([5.0, 0.0, 5.0]))
    tensor([0., 0., 3.])
    """

    def __call__(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Return max(R, 0) · 1[a > 0]; see `ReLURule`."""
        return torch.ops.aten.threshold_backward(relevance, activation, 0).relu_()  # R · 1[a > 0] in one pass


@dataclass(frozen=True)
class RectGrad:
    """Keep the signal where activation times signal exceeds a threshold: R · 1[a R > τ].

    Source: Kim et al., *Why are Saliency Maps Noisy? Cause of and Solution to Noisy Saliency Maps* (2019), section 4.
    There τ is the q-th percentile of a·R over all units of the layer, one threshold per sample. The rank nearest to
    q (n - 1) / 100 is taken, with no interpolation, as in the authors' code.

    Parameters
    ----------
    percentile : float, default 98
        q, between 0 and 100: the share of units, in percent, whose signal is dropped.
    threshold : float, optional
        A fixed τ in place of the percentile, in units of activation times signal; τ = 0 is Guided Backprop.

    Raises
    ------
    ValueError
        If the percentile is outside [0, 100].

    Examples
    --------
    >>> import torch
    >>> signal, activation = torch.tensor([[-1.0, 2.0, 3.0, 4.0]]), torch.tensor([[5.0, 0.0, 1.0, 2.0]])
    >>> RectGrad(percentile=50)(signal, activation)
    tensor([[0., 0., 0., 4.]])
    """

    percentile: float = 98.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse a percentile that is none."""
        number = isinstance(self.percentile, int | float) and not isinstance(self.percentile, bool)
        if not number or not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile!r}; allowed is a number from 0 to 100.")

    def __call__(self, relevance: Tensor, activation: Tensor) -> Tensor:
        """Return R · 1[a R > τ]; see `ReLURule`."""
        product = activation * relevance
        above = product - self._tau(product)
        return torch.ops.aten.threshold_backward(relevance, above, 0)  # R · 1[a R − τ > 0] in one pass

    def _tau(self, product: Tensor) -> Tensor | float:
        if self.threshold is not None:
            return self.threshold
        per_sample = product.reshape(product.shape[0], -1)  # vmap has no rule for flatten
        rank = 1 + round(self.percentile / 100 * (per_sample.shape[1] - 1))
        return _kth_smallest(per_sample, rank).reshape(-1, *[1] * (product.dim() - 1))


_SAMPLE = 2**14


def _kth_smallest(values: Tensor, rank: int) -> Tensor:
    """Return the entry of a rank in each row, shape (rows,).

    A selection runs on one core and reads the values several times over. In a long row an evenly spaced sample tells
    above which value the entry must lie, so that few remain to select from; their number shows whether that was true.
    """
    length = values.shape[1]
    if length < 16 * _SAMPLE or many_starts(values):
        return values.kthvalue(rank, dim=1).values
    return torch.stack([_kth_in_long_row(row, rank) for row in values])


def _kth_in_long_row(row: Tensor, rank: int) -> Tensor:
    if 2 * rank < len(row):
        return -_kth_in_long_row(-row, len(row) + 1 - rank)
    sample = row[:: len(row) // _SAMPLE].sort().values
    place = rank / len(row) * len(sample)
    low = sample[max(0, int(place - 4 * len(sample) ** 0.5))]  # eight standard deviations of the place or more
    above = row[row > low]
    if len(above) > len(row) - rank:
        return above.kthvalue(len(above) - (len(row) - rank)).values
    return row.kthvalue(rank).values  # many entries are equal, or the spacing met a pattern in the values
