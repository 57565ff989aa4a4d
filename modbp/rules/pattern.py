r"""Rules of PatternNet and PatternAttribution: the signal that a unit answers to, in place of its weights.

A unit :math:`y = w^\top x` is trained to extract the *signal* from its input and to cancel the *distractor*, so that
:math:`w` need not look like what it detects. The pattern :math:`a` estimates the signal's direction (see
`modbp.patterns` for the fit). On the way back PatternNet puts :math:`a` where the gradient has :math:`w`, and
PatternAttribution :math:`w \odot a`; ReLUs mask the signal as they mask a gradient.

Source: Kindermans et al., *Learning how to explain neural networks: PatternNet and PatternAttribution* (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modbp.rules.affine import AffineLayer


@dataclass(frozen=True, eq=False)
class PatternNet:
    """PatternNet: S_j = Σ_k a_kj S_k, the pattern in place of the weights.

    Parameters
    ----------
    pattern : Tensor, shape of the layer's weight
        a, one direction per output.

    Examples
    --------
    >>> import torch
    >>> from modbp.rules.affine import Dense
    >>> a, W, pattern = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), torch.tensor([[0.5, 0.0]])
    >>> PatternNet(pattern)(torch.tensor([[2.0]]), AffineLayer(Dense(W, a.shape), a))
    tensor([[1., 0.]])
    """

    pattern: Tensor
    passes_relus: ClassVar[bool] = False
    needs_output: ClassVar[bool] = False

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the signal at the layer's inputs; see `RelevanceRule`."""
        return layer.linear.with_weight(self.pattern.to(layer.linear.weight)).transpose(relevance)


@dataclass(frozen=True, eq=False)
class PatternAttribution:
    """PatternAttribution: R_j = Σ_k w_kj a_kj R_k, the weights times the pattern.

    Parameters
    ----------
    pattern : Tensor, shape of the layer's weight
        a, one direction per output.

    Examples
    --------
    >>> import torch
    >>> from modbp.rules.affine import Dense
    >>> a, W, pattern = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), torch.tensor([[0.5, 0.0]])
    >>> PatternAttribution(pattern)(torch.tensor([[2.0]]), AffineLayer(Dense(W, a.shape), a))
    tensor([[3., 0.]])
    """

    pattern: Tensor
    passes_relus: ClassVar[bool] = False
    needs_output: ClassVar[bool] = False

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the relevance of the layer's inputs; see `RelevanceRule`."""
        weight = layer.linear.weight
        return layer.linear.with_weight(self.pattern.to(weight) * weight).transpose(relevance)


@dataclass(frozen=True)
class Transposed:
    """The ordinary backward pass, Wᵀ R, for the layers of a pattern method that have no weights: pools and sums.

    Examples
    --------
    >>> import torch
    >>> from modbp.rules.affine import Dense
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> Transposed()(torch.tensor([[2.0]]), AffineLayer(Dense(W, a.shape), a))
    tensor([[ 6., -2.]])
    """

    passes_relus: ClassVar[bool] = False
    needs_output: ClassVar[bool] = False

    def __call__(self, relevance: Tensor, layer: AffineLayer) -> Tensor:
        """Return the signal at the layer's inputs; see `RelevanceRule`."""
        return layer.linear.transpose(relevance)
