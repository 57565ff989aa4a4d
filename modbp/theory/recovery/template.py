"""Image recovery: the backward template that gradient, Deconvolution and Guided Backprop share.

This is a second implementation, on purpose: layer by layer with explicit masks, as the formulas stand on the page. The
engine in `modbp.backward` is tested against it, and a walkthrough shows the two to agree on VGG16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

Mask = Callable[[Tensor, Tensor], Tensor]
"""A function of the signal R at a ReLU and its pre-activation z: what it hands down."""

MASKS: Mapping[str, Mask] = MappingProxyType(
    {
        "gradient": lambda R, z: R * (z > 0),
        "deconvolution": lambda R, z: R * (R > 0),
        "guided_backprop": lambda R, z: R * (R > 0) * (z > 0),
    }
)
"""What each method multiplies the signal R with at a ReLU of pre-activation z (Nie et al., 2018; our notation)."""


@torch.no_grad()
def masked_backward(layers: Iterable[nn.Module], x: Tensor, start: Tensor, mask: Mask) -> Tensor:
    """Send a signal back through a chain of layers, with a mask at each ReLU and the adjoint elsewhere.

    With R the signal at a layer's output: a ReLU of pre-activation z hands down mask(R, z), every other layer f hands
    down its ordinary vector-Jacobian product.

    Parameters
    ----------
    layers : iterable of nn.Module
        Applied one after the other.
    x : Tensor, shape (batch, ...)
        The first layer's input.
    start : Tensor
        The signal at the last layer's output, of its shape.
    mask : callable
        A value of `MASKS`, or any function of (R, z).

    Returns
    -------
    Tensor, shape of `x`

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, start = torch.randn(2, 4), torch.eye(3)[[0, 1]]
    >>> R = masked_backward(net, x, start, MASKS["gradient"])
    >>> (gradient,) = torch.autograd.grad(net(x.requires_grad_()), x, start)
    >>> torch.allclose(R, gradient)
    True
    """
    pullbacks: list[Mask] = []
    below: list[Tensor] = []
    for layer in layers:
        below.append(x)
        if isinstance(layer, nn.ReLU):
            pullbacks.append(mask)
            x = x.clamp(min=0)  # not the module itself, which may write over x
        else:
            x, pullback = _with_adjoint(layer, x)
            pullbacks.append(pullback)
    R = start
    for z, pull in zip(reversed(below), reversed(pullbacks), strict=True):
        R = pull(R, z)
    return R


def _with_adjoint(layer: nn.Module, x: Tensor) -> tuple[Tensor, Mask]:
    output, adjoint, *_ = torch.func.vjp(layer, x)
    return output, lambda R, z: adjoint(R)[0]
