r"""Rules of DeepLIFT: how a difference from a reference is shared out.

DeepLIFT compares each unit with its value under a reference input, :math:`\Delta x = x - x^0`. On the way back it
carries *multipliers*: :math:`m^+` and :math:`m^-` say what one unit of a positive and of a negative part of
:math:`\Delta x` contributes to the explained output. A contribution is :math:`m^+\Delta x^+ + m^-\Delta x^-`, and the
contributions of a layer add up to the difference of the output (*summation to delta*).

Two kinds of rule work together. A rule for affine layers moves multipliers from outputs to inputs; a rule for
nonlinearities moves them across a ReLU or any other elementwise function.

Source: Shrikumar, Greenside and Kundaje, *Learning Important Features Through Propagating Activation Differences*
(2017), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modbp.rules.affine import LinearMap, negative, positive

Multipliers = tuple[Tensor, Tensor | None]
"""m⁺ and m⁻; the second is None where both are known to be equal."""


@dataclass(frozen=True)
class Linear:
    """The linear rule: a positive multiplier meets what raises the output, a negative one what lowers it.

    m_j = Σ_k (w⁺ m⁺ + w⁻ m⁻) where Δx_j > 0, Σ_k (w⁻ m⁺ + w⁺ m⁻) where Δx_j < 0, and their mean where Δx_j = 0. With
    s = (m⁺ + m⁻)/2 and t = (m⁺ − m⁻)/2 all three are `Wᵀ s + sign(Δx) |W|ᵀ t`. It is both multipliers of the input.
    Source: Shrikumar et al. (2017), section 3.5.1.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> layer = Dense(torch.tensor([[3.0, -1.0]]), torch.Size((1, 2)))
    >>> Linear()((torch.tensor([[1.0]]), torch.tensor([[0.5]])), layer, torch.tensor([[1.0, 1.0]]))[0]
    tensor([[ 3.0000, -0.5000]])
    """

    compares_with_reference: ClassVar[bool] = True
    chains: ClassVar[int] = 1

    def __call__(self, multipliers: Multipliers, layer: LinearMap, delta: Tensor | None) -> Multipliers:
        """Return the multipliers of the layer's inputs; `delta` is Δx, or None where it is not needed."""
        up, down = multipliers
        if down is None or delta is None:
            return layer.transpose(up), None
        m = layer.transpose((up + down) / 2) + delta.sign() * layer.transpose((up - down) / 2, torch.abs)
        return m, m


@dataclass(frozen=True)
class DecoupledText:
    """The ablation of Sixt et al. (2020) as their text says it: the positive rule keeps W⁺, the negative one W⁻.

    m⁺_j = Σ_k w⁺ m⁺ and m⁻_j = Σ_k w⁻ m⁻: two chains that never meet.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> layer = Dense(torch.tensor([[3.0, -1.0]]), torch.Size((1, 2)))
    >>> DecoupledText()((torch.ones(1, 1), torch.ones(1, 1)), layer, torch.ones(1, 2))
    (tensor([[3., 0.]]), tensor([[ 0., -1.]]))
    """

    compares_with_reference: ClassVar[bool] = True
    chains: ClassVar[int] = 2

    def __call__(self, multipliers: Multipliers, layer: LinearMap, delta: Tensor | None) -> Multipliers:
        """Return the multipliers of the layer's inputs."""
        up, down = multipliers
        return layer.transpose(up, positive), None if down is None else layer.transpose(down, negative)


@dataclass(frozen=True)
class DecoupledCode:
    """The same ablation as their code runs it: the W⁻ terms are dropped from both branches, and W⁺ stays in both.

    m_j = Σ_k w⁺ m⁺ where Δx_j > 0, Σ_k w⁺ m⁻ where Δx_j < 0, and Σ_k w (m⁺ + m⁻)/2 where Δx_j = 0.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> layer = Dense(torch.tensor([[3.0, -1.0]]), torch.Size((1, 2)))
    >>> DecoupledCode()((torch.ones(1, 1), torch.ones(1, 1)), layer, torch.tensor([[-1.0, 0.0]]))[0]
    tensor([[ 3., -1.]])
    """

    compares_with_reference: ClassVar[bool] = True
    chains: ClassVar[int] = 2

    def __call__(self, multipliers: Multipliers, layer: LinearMap, delta: Tensor | None) -> Multipliers:
        """Return the multipliers of the layer's inputs."""
        up, down = multipliers
        assert down is not None
        assert delta is not None
        signed = torch.where(delta > 0, layer.transpose(up, positive), layer.transpose(down, positive))
        m = torch.where(delta == 0, layer.transpose((up + down) / 2), signed)
        return m, m


@dataclass
class Unit:
    """An elementwise function as a rule for nonlinearities sees it.

    Parameters
    ----------
    function : callable
        f.
    input, reference : Tensor
        x and x⁰.
    output, reference_output : Tensor
        f(x) and f(x⁰).
    parts : callable
        Returns Δx⁺ and Δx⁻, which add up to x − x⁰.

    Examples
    --------
    >>> x, x0 = torch.tensor([2.0]), torch.tensor([-1.0])
    >>> Unit(torch.relu, x, x0, x, x0 * 0, lambda: (x - x0, x * 0)).slope(x0)
    tensor([0.])
    """

    function: Callable[[Tensor], Tensor]
    input: Tensor
    reference: Tensor
    output: Tensor
    reference_output: Tensor
    parts: Callable[[], tuple[Tensor, Tensor]]

    def slope(self, x: Tensor) -> Tensor:
        """Return f′(x)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self.function(x)
        return torch.autograd.grad(y, x, torch.ones_like(y))[0]


def _ratio(rise: Tensor, run: Tensor, unit: Unit, limit: Callable[[Tensor], Tensor]) -> Tensor:
    """Return rise / run, and where the run is no more than the rounding of what it was made of the limit there."""
    size = torch.maximum(unit.input.abs(), unit.reference.abs())  # not absolute: a network's signals may be tiny
    flat = run.abs() <= torch.finfo(run.dtype).eps * size
    quotient = rise / run
    if bool(flat.any()):
        quotient[flat] = limit(flat)
    return quotient


@dataclass(frozen=True)
class Rescale:
    """Rescale: both multipliers times Δy / Δx, the derivative at the reference where Δx vanishes.

    Source: Shrikumar et al. (2017), section 3.5.2.

    Examples
    --------
    >>> x, x0 = torch.tensor([2.0, -1.0]), torch.tensor([-2.0, -2.0])
    >>> Rescale().factors(Unit(torch.relu, x, x0, x.relu(), x0.relu(), lambda: (x - x0, x * 0)))[0]
    tensor([0.5000, 0.0000])
    """

    compares_with_reference: ClassVar[bool] = True
    chains: ClassVar[int] = 1

    def factors(self, unit: Unit) -> Multipliers:
        """Return what m⁺ and m⁻ are multiplied with; one tensor for both."""
        rise = unit.output - unit.reference_output
        return _ratio(rise, unit.input - unit.reference, unit, lambda at: unit.slope(unit.reference[at])), None


@dataclass(frozen=True)
class RevealCancel:
    """RevealCancel: each part of Δx times its own effect, averaged over the two orders of adding the parts.

    Δy⁺ = ½ [f(x⁰ + Δx⁺) − f(x⁰)] + ½ [f(x) − f(x⁰ + Δx⁻)], and the same for Δy⁻ with the signs exchanged; the factors
    are Δy⁺ / Δx⁺ and Δy⁻ / Δx⁻. Where a part vanishes its factor is the limit, which no contribution depends on.
    Source: Shrikumar et al. (2017), section 3.5.3.

    Examples
    --------
    >>> zero = torch.zeros(1)
    >>> RevealCancel().factors(Unit(torch.relu, zero, zero, zero, zero, lambda: (zero + 2, zero - 2)))
    (tensor([0.5000]), tensor([0.5000]))
    """

    compares_with_reference: ClassVar[bool] = True
    chains: ClassVar[int] = 2

    def parts(self, unit: Unit) -> tuple[Tensor, Tensor]:
        """Return Δy⁺ and Δy⁻, which add up to Δy."""
        f, base, (plus, minus) = unit.function, unit.reference, unit.parts()
        whole, alone = unit.output, unit.reference_output
        with_plus, with_minus = f(base + plus), f(base + minus)
        rise = ((with_plus - alone) + (whole - with_minus)) / 2
        fall = ((with_minus - alone) + (whole - with_plus)) / 2
        return rise, fall

    def factors(self, unit: Unit) -> Multipliers:
        """Return what m⁺ and m⁻ are multiplied with."""
        base, (plus, minus), (rise, fall) = unit.reference, unit.parts(), self.parts(unit)
        return (
            _ratio(rise, plus, unit, lambda at: (unit.slope(base[at]) + unit.slope((base + minus)[at])) / 2),
            _ratio(fall, minus, unit, lambda at: (unit.slope(base[at]) + unit.slope((base + plus)[at])) / 2),
        )


def max_pool_shares(m: Tensor, rise: Tensor, winner: Tensor, former: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a multiplier at a maximum over windows becomes at two of its inputs, the new and the former winner.

    Where the maximum rose, Δy > 0, the input that is now the largest takes all of Δy; where it fell, the one that was
    the largest under the reference. Divided by that input's Δx this is its multiplier, so that contributions still add
    up to delta. Where the winner has not changed at all the multiplier is that of the gradient.
    Source: the maximum has no rule in Shrikumar et al. (2017); this is the one of DeepSHAP and of Captum.

    Parameters
    ----------
    m : Tensor, shape of the output
    rise : Tensor, shape of the output
        Δy.
    winner, former : Tensor, shape of the output
        Δx of the input that is the largest, and of the one that was the largest under the reference.

    Returns
    -------
    tuple of two Tensor, shape of the output
        For the winner, and for the former winner.

    Examples
    --------
    >>> max_pool_shares(torch.ones(2), torch.tensor([2.0, -1.0]), torch.tensor([4.0, 0.0]), torch.tensor([1.0, -3.0]))
    (tensor([0.5000, 1.0000]), tensor([0.0000, 0.3333]))
    """
    to_winner = torch.where(winner == 0, m, m * (positive(rise) / winner))
    to_former = m * (negative(rise) / former.masked_fill(former == 0, 1))
    return to_winner, to_former
