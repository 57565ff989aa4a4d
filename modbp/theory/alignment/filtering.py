r"""Negative filtering: Guided Backprop, RectGrad, z⁺, Deep Taylor and Excitation Backprop as one backward rule.

.. math:: r_{l-1}=\widetilde W_l\,g_l,\qquad g_l\ge0,\qquad g_{l,j}=0\text{ where unit }j\text{ is inactive}

A rule filters either the signal (:math:`\widetilde W=W`) or the weights (:math:`\widetilde W=W^+`). Relevance R and the
signal r are related by :math:`R=a\odot r`. Source: ours, `book/alignment.md`; that the methods are one rule is a claim
of Zheng et al. (2025), whose formula we have not seen.

Like `modbp.theory.recovery.masked_backward` this is a second implementation, on purpose: the engine and its rules are
tested against it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn

from modbp.errors import InputError
from modbp.theory.recovery import MASKS, Mask

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution in a forward pass, with the ReLU behind it if there is one.

    Parameters
    ----------
    module : nn.Linear or nn.Conv2d
    below : Tensor, shape (batch, ...)
        Its input :math:`a_{l-1}`.
    z : Tensor, shape (batch, ...)
        Its output, the pre-activation.
    rectified : bool
        Whether a ReLU follows.

    Examples
    --------
    >>> linear = nn.Linear(2, 1, bias=False)
    >>> _ = linear.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> a = torch.tensor([[1.0, 2.0]])
    >>> layer = Layer(linear, a, linear(a), rectified=True)
    >>> layer.above.tolist(), layer.apply(linear.weight.clamp(min=0), a).tolist()
    ([[1.0]], [[3.0]])
    """

    module: nn.Module
    below: Tensor
    z: Tensor
    rectified: bool

    @property
    def weight(self) -> Tensor:
        """The layer's weights, in its own layout."""
        return self.module.get_parameter("weight").detach()

    @property
    def above(self) -> Tensor:
        """The activation, or the output where there is no ReLU."""
        return self.z.clamp(min=0) if self.rectified else self.z

    def with_weight(self, weight: Tensor) -> Map:
        """Return the layer as a linear map with other weights and no bias."""
        if isinstance(self.module, nn.Conv2d):
            convolution = self.module
            return lambda u: convolution._conv_forward(u, weight, None)  # with its stride, padding and groups
        return lambda u: torch.nn.functional.linear(u, weight)

    def apply(self, weight: Tensor, u: Tensor) -> Tensor:
        """Return the layer's map with other weights and no bias, of `u`."""
        return self.with_weight(weight)(u)

    def transpose(self, weight: Tensor, g: Tensor) -> Tensor:
        """Return the adjoint of `apply`, of `g`; in the notation of the page this is W g."""
        pulled: Tensor = torch.func.vjp(self.with_weight(weight), self.below)[1](g)[0]
        return pulled


class Filter(ABC):
    """How a rule turns the signal behind a ReLU into g, and with which weights g is sent on.

    Examples
    --------
    >>> [name for name, rule in FILTERS.items() if rule.multiplies]  # rules of relevance
    ['lrp_zplus', 'deep_taylor', 'excitation_bp']
    """

    multiplies = False
    """Whether the map is the signal times the input, as for relevance."""

    @abstractmethod
    def signal(self, r: Tensor, layer: Layer) -> Tensor:
        """Return g, of the shape of `r`, from the signal that arrives at the layer's activation."""

    def start(self, start: Tensor, layer: Layer) -> Tensor:
        """Return the signal at the logits that an explanation of one of them starts with."""
        return start

    def down(self, g: Tensor, layer: Layer) -> Tensor:
        """Return the signal that arrives at the layer's input."""
        return layer.transpose(layer.weight, g)

    def attribution(self, r: Tensor, g: Tensor, layer: Layer) -> Tensor:
        """Return the map from the signal at the first layer's activation, and from what the filter lets through."""
        down = self.down(g, layer)
        return layer.below * down if self.multiplies else down


@dataclass(frozen=True)
class OfSignal(Filter):
    r"""A filter on the signal, which then meets the weights as they are.

    Parameters
    ----------
    mask : callable
        A function of the signal and the pre-activation, such as a value of `modbp.theory.recovery.MASKS`.

    Examples
    --------
    >>> guided = OfSignal(MASKS["guided_backprop"])
    >>> linear = nn.Linear(1, 3)
    >>> layer = Layer(linear, torch.zeros(1, 1), torch.tensor([[1.0, 1.0, -1.0]]), rectified=True)
    >>> guided.signal(torch.tensor([[2.0, -2.0, 2.0]]), layer).tolist()
    [[2.0, -0.0, 0.0]]
    """

    mask: Mask

    def signal(self, r: Tensor, layer: Layer) -> Tensor:
        """Return g; see `Filter`."""
        return self.mask(r, layer.z) if layer.rectified else r


def rectgrad_mask(percentile: float = 98.0) -> Mask:
    r"""Return RectGrad's mask with a threshold that is not negative: :math:`r^+\,1[a\,r^+>\max(\tau_q,0)]`.

    Where the percentile :math:`\tau_q` of :math:`a\odot r` is positive, that is RectGrad itself.

    Parameters
    ----------
    percentile : float, default 98
        q: the share of units, in percent, whose signal is dropped; the nearest rank.

    Returns
    -------
    callable
        A function of the signal and the pre-activation.

    Raises
    ------
    InputError
        If the percentile is outside [0, 100].

    Examples
    --------
    >>> rectgrad_mask(50)(torch.tensor([[-1.0, 2.0, 3.0, 4.0]]), torch.tensor([[5.0, 0.0, 1.0, 2.0]]))
    tensor([[-0., 0., 0., 4.]])
    """
    if isinstance(percentile, bool) or not isinstance(percentile, int | float) or not 0 <= percentile <= 100:
        raise InputError(f"percentile is {percentile!r}; allowed is a number from 0 to 100.")

    def mask(r: Tensor, z: Tensor) -> Tensor:
        a = z.clamp(min=0)
        products = (a * r).flatten(1)
        rank = 1 + round(percentile / 100 * (products.shape[1] - 1))
        threshold = products.sort(1).values[:, rank - 1].clamp(min=0).reshape(-1, *[1] * (r.dim() - 1))
        return r * (r > 0) * (a * r > threshold)

    return mask


@dataclass(frozen=True)
class OfWeights(Filter):
    r"""z⁺ as a filter on the weights: :math:`r_{l-1}=W^+\Delta Mr_l`.

    Here M is the gate and :math:`\Delta=\mathrm{diag}(a_l/W^{+\top}a_{l-1})`.

    At a first layer whose inputs x have both signs, (w x)⁺ pairs w⁺ with x⁺ and w⁻ with x⁻: the same rule for the
    inputs (x⁺, x⁻) ≥ 0 with the weights (W, −W).

    Parameters
    ----------
    starts_at_logit : bool, default True
        Whether relevance starts as the logit, as in LRP, or as a one, as in Excitation Backprop.

    Examples
    --------
    >>> linear = nn.Linear(2, 1, bias=False)
    >>> _ = linear.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> a = torch.tensor([[1.0, 2.0]])
    >>> layer = Layer(linear, a, linear(a), rectified=True)
    >>> g = OfWeights().signal(torch.tensor([[6.0]]), layer)  # 6 · a / z⁺ = 6 · 1 / 3
    >>> g.tolist(), OfWeights().down(g, layer).tolist()
    ([[2.0]], [[6.0, 0.0]])
    """

    starts_at_logit: bool = True
    multiplies = True

    def _totals(self, layer: Layer) -> Tensor:
        W, a = layer.weight, layer.below
        z = layer.apply(W.clamp(min=0), a.clamp(min=0))
        return z + layer.apply(W.clamp(max=0), a.clamp(max=0)) if bool((a < 0).any()) else z

    def signal(self, r: Tensor, layer: Layer) -> Tensor:
        """Return g; see `Filter`."""
        total = self._totals(layer)
        return torch.where(total > 0, layer.above * r / total, 0)  # where nothing favors a unit, nothing is handed on

    def start(self, start: Tensor, layer: Layer) -> Tensor:
        """Return the signal at the logits; see `Filter`."""
        return start if self.starts_at_logit else start / layer.above

    def down(self, g: Tensor, layer: Layer) -> Tensor:
        """Return the signal at the layer's input; see `Filter`."""
        W = layer.weight
        favoring = layer.transpose(W.clamp(min=0), g)
        if not bool((layer.below < 0).any()):
            return favoring
        return torch.where(layer.below < 0, layer.transpose(W.clamp(max=0), g), favoring)


@dataclass(frozen=True)
class WSquareAtPixels(OfWeights):
    r"""Deep Taylor without bounds on the pixels: z⁺ above, and at the pixels :math:`R_0=W^2(R_1/\sum_iw_{ij}^2)`.

    Examples
    --------
    >>> linear = nn.Linear(2, 1, bias=False)
    >>> _ = linear.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> layer = Layer(linear, torch.ones(1, 2), torch.tensor([[2.0]]), rectified=True)
    >>> WSquareAtPixels().attribution(torch.tensor([[5.0]]), torch.zeros(1, 1), layer).tolist()
    [[9.0, 1.0]]
    """

    def attribution(self, r: Tensor, g: Tensor, layer: Layer) -> Tensor:
        """Return the relevance of the pixels; see `Filter`. Here nothing is shared out by z⁺, so g plays no part."""
        W = layer.weight
        total = layer.apply(W.square(), torch.ones_like(layer.below))
        return layer.transpose(W.square(), torch.where(total > 0, layer.above * r / total, 0))


FILTERS: Mapping[str, Filter] = MappingProxyType(
    {
        "guided_backprop": OfSignal(MASKS["guided_backprop"]),
        "rectgrad": OfSignal(rectgrad_mask()),
        "lrp_zplus": OfWeights(),
        "deep_taylor": WSquareAtPixels(),
        "excitation_bp": OfWeights(starts_at_logit=False),
    }
)
"""The methods that are of the form, by their keys in `modbp.METHODS`."""

NO_FILTERS: Mapping[str, Filter] = MappingProxyType(
    {name: OfSignal(MASKS[name]) for name in ("gradient", "deconvolution")}
)
"""Two that are not: the gradient's g has both signs, and Deconvolution's is not zero on inactive units."""


@dataclass
class Filtered:
    """What one backward pass left behind.

    Parameters
    ----------
    map : Tensor, shape of the input
        The attribution: the signal at the input, times the input for rules of relevance.
    signals : list of (Tensor, Tensor)
        For each layer with a ReLU, from the top down: g and the activation.

    Examples
    --------
    >>> Filtered(torch.zeros(1), [(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]))]).outside_form()
    0.5
    """

    map: Tensor
    signals: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def outside_form(self) -> float:
        """Return the largest share over the layers of a signal that is negative, or on inactive units.

        Returns
        -------
        float
            The largest `outside_form(g, a)`.
        """
        return max((outside_form(g, a) for g, a in self.signals), default=0.0)


def outside_form(g: Tensor, a: Tensor) -> float:
    r"""Return the share of a signal's power that is negative, or on inactive units.

    .. math:: 1-\frac{\lVert Mg^+\rVert^2}{\lVert g\rVert^2}

    Zero is what the definition of a negative filtering rule asks for. Source: ours, definition "Negative filtering".

    Parameters
    ----------
    g, a : Tensor, of one shape
        A signal behind the filter, and the activation.

    Returns
    -------
    float
        In [0, 1]; 0 for a signal that is zero.

    Examples
    --------
    >>> outside_form(torch.tensor([3.0, -4.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    0.64
    """
    power = g.double().square()
    outside = power[(g < 0) | ((a <= 0) & (g != 0))].sum()
    return float(outside / power.sum()) if bool(power.any()) else 0.0


@torch.no_grad()
def filtered_backward(layers: Iterable[nn.Module], x: Tensor, start: Tensor, rule: Filter) -> Filtered:
    """Send a signal back through a chain of layers by a filter, and everything that has no weights by its adjoint.

    Parameters
    ----------
    layers : iterable of nn.Module
        Applied one after the other: linear layers and convolutions, each with or without a ReLU behind it, and layers
        without weights, such as pooling.
    x : Tensor, shape (batch, ...)
        The first layer's input.
    start : Tensor
        What explains a logit: a one in its place, of the output's shape.
    rule : Filter
        A value of `FILTERS` or `NO_FILTERS`.

    Returns
    -------
    Filtered

    Raises
    ------
    InputError
        If a ReLU stands behind a layer without weights, or a layer has weights and is neither linear nor a
        convolution, or the first layer has none.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> done = filtered_backward(net, torch.randn(2, 4), torch.eye(3)[[0, 1]], FILTERS["guided_backprop"])
    >>> done.map.shape, done.outside_form()
    (torch.Size([2, 4]), 0.0)
    """
    steps = _forward(list(layers), x)
    if not isinstance(steps[0], Layer):
        raise InputError("the first of the layers has no weights; allowed is a linear layer or a convolution.")
    top = next(step for step in reversed(steps) if isinstance(step, Layer))
    r, signals = rule.start(start, top), []
    for step in reversed(steps):
        if not isinstance(step, Layer):
            r = step(r)
            continue
        g = rule.signal(r, step)
        if step.rectified:
            signals.append((g, step.above))
        r = rule.attribution(r, g, step) if step is steps[0] else rule.down(g, step)
    return Filtered(r, signals)


def _forward(layers: Sequence[nn.Module], x: Tensor) -> list[Layer | Map]:
    """Return each layer with weights as a `Layer`, with its ReLU, and each other one as its adjoint."""
    steps: list[Layer | Map] = []
    for i, module in enumerate(layers):
        if isinstance(module, nn.ReLU):
            if i == 0 or not isinstance(layers[i - 1], nn.Linear | nn.Conv2d):
                raise InputError(
                    f"layer {i} is a ReLU behind no layer with weights; allowed is one directly behind it."
                )
            continue
        if isinstance(module, nn.Linear | nn.Conv2d):
            rectified = i + 1 < len(layers) and isinstance(layers[i + 1], nn.ReLU)
            layer = Layer(module, x, module(x), rectified)
            steps.append(layer)
            x = layer.above
            continue
        if any(True for _ in module.parameters()):
            raise InputError(
                f"layer {i} is a {type(module).__name__}, which has weights; allowed with weights are nn.Linear and"
                " nn.Conv2d."
            )
        x, adjoint, *_ = torch.func.vjp(module, x)
        steps.append(_only(adjoint))
    return steps


def _only(adjoint: Callable[[Tensor], tuple[Tensor]]) -> Map:
    return lambda r: adjoint(r)[0]
