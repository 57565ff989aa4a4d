"""Is a map noise? Its tails, and how alike its neighboring pixels are.

White Gaussian noise has neither excess kurtosis nor autocorrelation. A map has both where it draws anything: edges are
rare and large, and neighbors on them are alike.
"""

from __future__ import annotations

from torch import Tensor

from modbp.errors import InputError
from modbp.metrics.similarity import _centered, _maps, _unit, cosine


def excess_kurtosis(x: Tensor) -> Tensor:
    r"""Return the excess kurtosis of a map's entries, each channel's mean removed, per sample.

    .. math:: \frac{\frac1n\sum_i(x_i-\bar x)^4}{\big(\frac1n\sum_i(x_i-\bar x)^2\big)^2}-3

    0 for a normal distribution, positive for heavier tails, at least −2.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)

    Returns
    -------
    Tensor of float64, shape (batch,)
        NaN where a map is constant in every channel or not finite.

    Raises
    ------
    InputError
        If `x` does not have four dimensions.

    Examples
    --------
    >>> import torch
    >>> signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> excess_kurtosis(signs[None, None]).round(decimals=4)
    tensor([-2.], dtype=torch.float64)
    """
    unit = _unit(_centered(_maps(x))).flatten(1)  # of norm 1, so that the mean square is 1/n
    return unit.pow(4).sum(1) * unit.shape[1] - 3


def autocorrelation(x: Tensor, lag: int = 1) -> Tensor:
    r"""Return the correlation of a map with itself shifted by a few pixels, down and to the right, per sample.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
    lag : int, default 1
        How far, in pixels, less than both sides.

    Returns
    -------
    Tensor of float64, shape (batch,)
        The mean over the two directions, each over the part of the map that both copies cover, each channel's mean
        removed there. NaN where a map is constant in every channel or not finite.

    Raises
    ------
    InputError
        If `x` does not have four dimensions, or the lag is below 1 or too large.

    Examples
    --------
    >>> import torch
    >>> stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    >>> autocorrelation(stripes), autocorrelation(stripes, lag=2)  # the same downwards, opposite to the right
    (tensor([0.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    height, width = _maps(x).shape[2:]
    if isinstance(lag, bool) or not isinstance(lag, int) or not 0 < lag < min(height, width):
        raise InputError(f"lag is {lag!r}; allowed are whole numbers from 1 to {min(height, width) - 1}.")
    down = cosine(_centered(x[:, :, lag:]), _centered(x[:, :, :-lag]))
    right = cosine(_centered(x[..., lag:]), _centered(x[..., :-lag]))
    return (down + right) / 2
