r"""Random networks to hold the laws against: one layer with any isotropic weights, and deep chains.

Weights are matrices with the units in columns, shape (inputs, units), as on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from modbp.checks import at_least_one, layer_widths, whole
from modbp.errors import InputError
from modbp.theory.alignment.coefficients import Array, Coefficient
from modbp.theory.recovery import MASKS, Mask

STUDENT = 5
"""Degrees of freedom of the heavy-tailed weights."""


def _student(rng: np.random.Generator, inputs: int, units: int) -> Array:
    # One chi-square a unit, so that the weights are isotropic.
    return rng.standard_normal((inputs, units)) / np.sqrt(rng.chisquare(STUDENT, units) / STUDENT)


WEIGHTS: Mapping[str, Callable[[np.random.Generator, int, int], Array]] = MappingProxyType(
    {
        "Gaussian": lambda rng, inputs, units: rng.standard_normal((inputs, units)),
        "uniform": lambda rng, inputs, units: rng.uniform(-1, 1, (inputs, units)),
        "Rademacher": lambda rng, inputs, units: rng.choice([-1.0, 1.0], (inputs, units)),
        "isotropic Student": _student,
    }
)
"""Laws of weights by name. Only the first and the last are isotropic; the others are so for many inputs."""


def norm_dispersion(degrees: int = STUDENT) -> float:
    r"""Return :math:`E[\rho^2]/E[\rho]^2` of the norms of isotropic Student weights, for many inputs.

    The norm of a unit's weights is :math:`\sqrt{\nu n/\chi^2_\nu}`.

    Parameters
    ----------
    degrees : int, default 5
        ν, from 3.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If there are fewer degrees of freedom, so that the norm has no variance.

    Examples
    --------
    >>> round(norm_dispersion(5), 3)
    1.178
    """
    whole("degrees", degrees, least=3)
    half = degrees / 2
    mean_square = 1 / (degrees - 2)  # of 1/χ
    mean = math.gamma(half - 0.5) / (math.sqrt(2) * math.gamma(half))
    return mean_square / mean**2


def one_layer_maps(
    x: Tensor,
    units: int,
    coefficients: Mapping[str, Coefficient],
    draws: int = 1,
    seed: int = 0,
    weights: str = "Gaussian",
) -> dict[str, Tensor]:
    r"""Return the maps :math:`\sum_jc_jw_j` of independent random layers.

    Parameters
    ----------
    x : Tensor, shape (inputs,)
        Not zero.
    units : int
        m.
    coefficients : mapping from str to Coefficient
        By any name. All see the same weights.
    draws : int, default 1
        How many layers.
    seed : int, default 0
    weights : str, default "Gaussian"
        A key of `WEIGHTS`.

    Returns
    -------
    dict from str to Tensor of float64, shape (draws, inputs)

    Raises
    ------
    InputError
        If x is no vector or zero, a number is below 1, or the weights are unknown.

    Examples
    --------
    >>> from modbp.theory.alignment import Constant
    >>> maps = one_layer_maps(torch.ones(100), 1000, {"constant": Constant()}, draws=20)["constant"]
    >>> cosines = torch.nn.functional.cosine_similarity(maps, torch.ones(1, 100), dim=1)
    >>> maps.shape, round(float(cosines.mean()), 1)
    (torch.Size([20, 100]), 0.9)
    """
    if x.dim() != 1 or not bool(x.any()):
        raise InputError(f"x has shape {tuple(x.shape)}; allowed is a vector that is not zero.")
    at_least_one(units=units, draws=draws)
    if weights not in WEIGHTS:
        raise InputError(f"weights is {weights!r}; allowed are {', '.join(WEIGHTS)}.")
    direction = (x.double() / x.double().norm()).numpy()
    found = {name: np.empty((draws, len(x))) for name in coefficients}
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        W = WEIGHTS[weights](rng, len(x), units)
        g = direction @ W / math.sqrt(float(np.mean(W**2)))
        for name, coefficient in coefficients.items():
            found[name][draw] = W @ coefficient.draw(g, rng)
    return {name: torch.from_numpy(maps) for name, maps in found.items()}


def random_weights(widths: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Return weights of a deep network from N(0, 2 / inputs), which keeps the size of a signal.

    Parameters
    ----------
    widths : sequence of int
        From the input up.
    seed : int, default 0
        A layer's weights depend on it and on the layer's number alone.

    Returns
    -------
    list of Tensor of float64, shape (inputs, units)

    Raises
    ------
    InputError
        If there are fewer than two widths, or one is no whole number from 1 upwards.

    Examples
    --------
    >>> [tuple(W.shape) for W in random_weights([30, 60, 60])]
    [(30, 60), (60, 60)]
    """
    layer_widths(widths)
    return [
        torch.from_numpy(np.random.default_rng([seed, layer]).standard_normal(sizes)) * math.sqrt(2 / sizes[0])
        for layer, sizes in enumerate(pairwise(widths))
    ]


@dataclass(frozen=True)
class Pass:
    r"""A signal's way back through a chain of layers.

    Parameters
    ----------
    map : Tensor, shape (..., inputs)
        :math:`r_0`.
    alignments : Tensor of float64, shape (layers, ...)
        :math:`\cos(g_l,a_l)` behind each ReLU, from the top down.

    Examples
    --------
    >>> Pass(torch.zeros(3), torch.ones(2)).alignments.tolist()
    [1.0, 1.0]
    """

    map: Tensor
    alignments: Tensor


def backward(
    weights: Sequence[Tensor], x: Tensor, top: Tensor, mask: str | Mask = "guided_backprop", filter_top: bool = True
) -> Pass:
    r"""Send signals back through a network without biases, with a mask at each ReLU.

    Parameters
    ----------
    weights : sequence of Tensor, shape (inputs, units)
        From the input up.
    x : Tensor, shape (inputs,)
    top : Tensor, shape (..., units of the last layer)
        One or more signals that arrive at the last activation, such as rows of the logits' matrix.
    mask : str or callable, default "guided_backprop"
        A key of `modbp.theory.recovery.MASKS`, or a function of signal and pre-activation.
    filter_top : bool, default True
        Whether the mask acts on `top` itself; False for a signal that is already behind the ReLU.

    Returns
    -------
    Pass

    Raises
    ------
    InputError
        If the mask is unknown, or a shape does not fit.

    Examples
    --------
    >>> weights = random_weights([300, 600, 600])
    >>> rng = np.random.default_rng(0)
    >>> x, top = (torch.from_numpy(rng.standard_normal(n)) for n in (300, 600))
    >>> done = backward(weights, x, top)
    >>> done.map.shape, [round(float(c), 1) for c in done.alignments]
    (torch.Size([300]), [0.5, 0.7])
    """
    if isinstance(mask, str) and mask not in MASKS:
        raise InputError(f"mask is {mask!r}; allowed are {', '.join(MASKS)}, or a function of signal and z.")
    act = MASKS[mask] if isinstance(mask, str) else mask
    if x.shape != weights[0].shape[:1] or top.shape[-1] != weights[-1].shape[1]:
        raise InputError(
            f"x and top have the shapes {tuple(x.shape)} and {tuple(top.shape)}; allowed are"
            f" ({weights[0].shape[0]},) and (..., {weights[-1].shape[1]})."
        )
    responses, a = [], x
    for W in weights:
        responses.append(a @ W)
        a = responses[-1].clamp(min=0)
    r, found = top, []
    for layer, (W, z) in enumerate(zip(reversed(weights), reversed(responses), strict=True)):
        g = r if layer == 0 and not filter_top else act(r, z)
        found.append(torch.nn.functional.cosine_similarity(g, z.clamp(min=0), dim=-1, eps=0))
        r = g @ W.T
    return Pass(r, torch.stack(found))


def randomized_maps(
    weights: Sequence[Tensor], fresh: Sequence[Tensor], x: Tensor, tops: Tensor, mask: str | Mask = "guided_backprop"
) -> Tensor:
    r"""Return the map of a network, and the maps after its top 1, 2, … matrices are drawn anew.

    Parameters
    ----------
    weights, fresh : sequence of Tensor, shape (inputs, units)
        Of the network, and those that take their place.
    x : Tensor, shape (inputs,)
    tops : Tensor, shape (2, units of the last layer)
        The logit's weights, and the random ones that take their place first.
    mask : str or callable, default "guided_backprop"
        As in `backward`.

    Returns
    -------
    Tensor, shape (2 + layers, inputs)
        The original first, then with the top matrices drawn anew, the logit's first.

    Raises
    ------
    InputError
        As `backward`.

    Examples
    --------
    >>> weights, fresh = random_weights([30, 60, 60]), random_weights([30, 60, 60], seed=1)
    >>> x = torch.ones(30, dtype=torch.float64)
    >>> randomized_maps(weights, fresh, x, torch.randn(2, 60, dtype=torch.float64)).shape
    torch.Size([4, 30])
    """
    maps = [backward(weights, x, tops[0], mask).map]
    for kept in range(len(weights), -1, -1):
        maps.append(backward([*weights[:kept], *fresh[kept:]], x, tops[1], mask).map)
    return torch.stack(maps)
