"""Where in a picture a map lies."""

from __future__ import annotations

import torch
from torch import Tensor

from modbp.errors import InputError

PARTS = ("absolute", "positive")


def share_inside(attribution: Tensor, region: Tensor, part: str = "absolute") -> Tensor:
    r"""Return the share of a map that lies inside a region.

    .. math:: \frac{\sum_{p\in\text{region}}\sum_c|R_{cp}|}{\sum_p\sum_c|R_{cp}|}

    Its chance level is the region's share of the area, `region.double().mean()`.

    Parameters
    ----------
    attribution : Tensor, shape (batch, channels, height, width)
    region : Tensor of bool, shape (height, width) or (batch, height, width)
    part : {"absolute", "positive"}, default "absolute"
        Whether all relevance counts by its size, or only what is positive.

    Returns
    -------
    Tensor of float64, shape (batch,)
        NaN where the map is zero or not finite.

    Raises
    ------
    InputError
        If a shape does not fit, the region is not boolean, or the part is unknown.

    Examples
    --------
    >>> share_inside(torch.tensor([[[[1.0, -3.0]]]]), torch.tensor([[True, False]]))
    tensor([0.2500], dtype=torch.float64)
    """
    if part not in PARTS:
        raise InputError(f"part is {part!r}; allowed are {', '.join(PARTS)}.")
    if attribution.dim() != 4:
        raise InputError(
            f"attribution has shape {tuple(attribution.shape)}; allowed is (batch, channels, height, width)."
        )
    batch, _, *size = attribution.shape
    if region.dtype != torch.bool or list(region.shape) not in (size, [batch, *size]):
        raise InputError(
            f"region is {region.dtype} of shape {tuple(region.shape)}; allowed is a boolean tensor of shape"
            f" {tuple(size)} or {(batch, *size)}."
        )
    R = attribution.double()
    mass = (R.abs() if part == "absolute" else R.clamp(min=0)).sum(1)
    return (mass * region).flatten(1).sum(1) / mass.flatten(1).sum(1)
