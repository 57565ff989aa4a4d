"""Where a picture has edges, by the simplest detector: it has no network and no class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modbp.metrics.similarity import _maps


def edge_magnitude(x: Tensor) -> Tensor:
    r"""Return how steep a picture is at each pixel, in each channel: the length of its Sobel gradient.

    .. math:: \sqrt{(\partial_ux)^2+(\partial_vx)^2}

    The derivatives are the differences of the two neighbors, smoothed across by (1, 2, 1)/4, so that a ramp has its own
    slope. At the border the outermost pixels are repeated.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)

    Returns
    -------
    Tensor of float64, of the same shape
        At least 0; NaN where a pixel of the neighborhood is not finite.

    Raises
    ------
    InputError
        If `x` does not have four dimensions.

    Examples
    --------
    >>> ramp = 3 * torch.arange(5.0).expand(1, 1, 5, 5)
    >>> edge_magnitude(ramp)[0, 0, 2]
    tensor([1.5000, 3.0000, 3.0000, 3.0000, 1.5000], dtype=torch.float64)
    """
    picture = _maps(x).double()
    smooth, slope = picture.new_tensor([1, 2, 1]) / 4, picture.new_tensor([-1, 0, 1]) / 2
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)]).unsqueeze(1)
    flat = F.pad(picture, (1, 1, 1, 1), mode="replicate").flatten(0, 1).unsqueeze(1)
    along, across = F.conv2d(flat, kernels).unbind(1)
    return torch.hypot(along, across).reshape(x.shape)
