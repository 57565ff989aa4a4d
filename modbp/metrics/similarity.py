"""How alike two maps are, or a map and the image.

Undefined values are NaN and never zero: a constant map has no correlation with anything, which is not the same as a
correlation of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from modbp.errors import InputError

WINDOW = 9
"""Side of the square whose mean the high-pass filter subtracts, in pixels."""

ROUNDING = 8
"""What is left of a map after subtracting its mean counts as nothing below this many rounding errors of its norm."""


def cosine(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the cosine of the angle between two maps, no mean removed, per sample.

    .. math:: \cos(a,b)=\frac{\langle a,b\rangle}{\lVert a\rVert\,\lVert b\rVert}

    Parameters
    ----------
    a, b : Tensor, shape (batch, ...)
        Any two shapes that broadcast.

    Returns
    -------
    Tensor of float64, shape (batch,)
        In [-1, 1]; NaN where a map is zero or not finite.

    Raises
    ------
    InputError
        If the shapes do not broadcast.

    Examples
    --------
    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.7071], dtype=torch.float64)
    """
    a, b = _pair(a, b)
    return (_unit(a) * _unit(b)).flatten(1).sum(1).clamp(-1, 1)


def pairwise_cosine(maps: Tensor) -> Tensor:
    """Return the mean cosine over all pairs of several maps of the same sample.

    Parameters
    ----------
    maps : Tensor, shape (maps, batch, ...)
        Such as the maps of several classes.

    Returns
    -------
    Tensor of float64, shape (batch,)
        NaN where one of the maps is zero or not finite.

    Raises
    ------
    InputError
        If there are fewer than two maps.

    Examples
    --------
    >>> pairwise_cosine(torch.eye(3).unsqueeze(1))
    tensor([0.], dtype=torch.float64)
    """
    first, second = _pairs(maps)
    units = torch.stack([_unit(m) for m in maps]).flatten(2)
    gram = torch.einsum("mbi,nbi->mnb", units, units)
    return gram[first, second].mean(0)


SCALES = ("norm", "range", "raw")


def class_distances(maps: Tensor, scale: str = "norm", up_to_sign: bool = False) -> Tensor:
    r"""Return the distance between the maps of every two classes of the same sample.

    .. math:: \lVert\hat s_k-\hat s_{k'}\rVert_2,\qquad k<k'

    With maps of norm 1 it lies between 0 and 2 and is √(2 − 2 cos): √2 for maps that have nothing in common. Source:
    ours. Nie et al. (2018) report an average distance whose definition we have not seen.

    Parameters
    ----------
    maps : Tensor, shape (maps, batch, ...)
        One per class.
    scale : {"norm", "range", "raw"}, default "norm"
        What is done to each map first: divided by its norm; brought to [0, 1], as for a picture; or nothing. Raw maps
        of different methods differ in size by orders of magnitude, so their distances say nothing about classes.
    up_to_sign : bool, default False
        Take a map and its negative for the same: the smaller one of the distances to both. Relevance that starts as
        the logit itself changes its sign with it, and a rule of rank 1 then returns one map with two signs.

    Returns
    -------
    Tensor of float64, shape (pairs, batch)
        In the order of `torch.triu_indices`. NaN where one of the maps is not finite, or has no scale: is zero
        (`"norm"`) or constant (`"range"`).

    Raises
    ------
    InputError
        If there are fewer than two maps, or the scale is unknown.

    Examples
    --------
    >>> maps = torch.tensor([[[1.0, 0.0]], [[5.0, 0.0]], [[-1.0, 0.0]]])
    >>> class_distances(maps)[:, 0].tolist(), class_distances(maps, up_to_sign=True)[:, 0].tolist()
    ([0.0, 2.0, 2.0], [0.0, 0.0, 0.0])
    """
    if scale not in SCALES:
        raise InputError(f"scale is {scale!r}; allowed are {', '.join(SCALES)}.")
    first, second = _pairs(maps)
    scaled = torch.stack([_SCALED[scale](m).flatten(1) for m in maps], dim=1)
    # Not by scalar products: maps that hardly differ would lose half of the digits of their distance.
    distances = torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist")
    if up_to_sign:
        flipped = torch.cdist(scaled, -scaled, compute_mode="donot_use_mm_for_euclid_dist")
        distances = torch.minimum(distances, flipped)
    return distances[:, first, second].T


def class_distance(maps: Tensor, scale: str = "norm", up_to_sign: bool = False) -> Tensor:
    r"""Return the mean distance between the maps of every two classes of the same sample.

    .. math:: \frac{2}{n(n-1)}\sum_{k<k'}\lVert\hat s_k-\hat s_{k'}\rVert_2

    Source: ours, definition "Distance of classes" of `book/image-recovery.md`.

    Parameters
    ----------
    maps, scale, up_to_sign
        As for `class_distances`.

    Returns
    -------
    Tensor of float64, shape (batch,)

    Raises
    ------
    InputError
        As `class_distances`.

    Examples
    --------
    >>> class_distance(torch.eye(3).unsqueeze(1)) - 2**0.5 < 1e-12
    tensor([True])
    """
    return class_distances(maps, scale, up_to_sign).mean(0)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the correlation of two maps with each channel's mean removed first, per sample.

    The mean is removed per channel because a channel's constant is not part of the picture that a map may show, and
    carries a third of the power of a Deconvolution map (our statement: 1/π in a random three-layer network).

    Parameters
    ----------
    a, b : Tensor, shape (batch, channels, height, width)

    Returns
    -------
    Tensor of float64, shape (batch,)
        In [-1, 1]; NaN where a map is constant in every channel or not finite.

    Raises
    ------
    InputError
        If the maps do not have four dimensions, or their shapes do not broadcast.

    Examples
    --------
    >>> x = torch.randn(1, 3, 8, 8)
    >>> correlation(x, 2 * x + 5).round(decimals=4)
    tensor([1.], dtype=torch.float64)
    """
    a, b = _pair(_maps(a), _maps(b))
    return cosine(_centered(a), _centered(b))


def high_pass(x: Tensor, window: int = WINDOW) -> Tensor:
    r"""Return a map minus its mean over a square around each pixel: its edges and texture.

    At the border the mean is taken over the part of the square that lies inside.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
    window : int, default 9
        Side of the square, in pixels, odd.

    Returns
    -------
    Tensor, of the same shape
        In float64.

    Raises
    ------
    InputError
        If `x` does not have four dimensions, or the window is not odd and positive.

    Examples
    --------
    >>> high_pass(torch.ones(1, 1, 4, 4)).abs().max() < 1e-6
    tensor(True)
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise InputError(f"window is {window!r}; allowed are odd numbers from 1 upwards.")
    mean = F.avg_pool2d(_maps(x).double(), window, stride=1, padding=window // 2, count_include_pad=False)
    return _difference(x, mean)


def high_pass_share(x: Tensor, window: int = WINDOW) -> Tensor:
    r"""Return how much of a map's power is in its edges and texture: 1 for a map without any smooth part.

    .. math:: \lVert\mathrm{highpass}(x)\rVert^2/\lVert x\rVert^2

    White noise has 1 - 1/81 for the default window, away from the border. Source: ours, as a measure of a map's noise.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
    window : int, default 9
        Side of the square of `high_pass`, in pixels, odd.

    Returns
    -------
    Tensor of float64, shape (batch,)
        NaN for a map that is zero or not finite.

    Raises
    ------
    InputError
        As `high_pass`.

    Examples
    --------
    >>> share = high_pass_share(torch.stack([torch.ones(1, 32, 32), torch.randn(1, 32, 32)]))
    >>> bool(share[0] < 1e-9), bool(share[1] > 0.9)
    (True, True)
    """
    scaled = _unit(x)
    return high_pass(scaled, window).flatten(1).square().sum(1)


def high_pass_correlation(a: Tensor, b: Tensor, window: int = WINDOW) -> Tensor:
    r"""Return the correlation of two maps after both are high-pass filtered, per sample.

    Photographs are smooth, so that nearly all of their variance is flat color; a map that draws only edges has a small
    `correlation` with the photograph and a large one with its edges. This measure sees the edges alone.

    Parameters
    ----------
    a, b : Tensor, shape (batch, channels, height, width)
    window : int, default 9
        Side of the square of `high_pass`, in pixels, odd.

    Returns
    -------
    Tensor of float64, shape (batch,)
        In [-1, 1]; NaN where a map is constant in every channel or not finite.

    Raises
    ------
    InputError
        As `correlation` and `high_pass`.

    Examples
    --------
    >>> x = torch.randn(1, 3, 32, 32)
    >>> ramp = torch.linspace(0, 9, 32).expand(1, 3, 32, 32)
    >>> bool(high_pass_correlation(x, x + ramp) > correlation(x, x + ramp))
    True
    """
    return correlation(high_pass(a, window), high_pass(b, window))


def rank_correlation(a: Tensor, b: Tensor, signed: bool = False) -> list[float]:
    """Return Spearman's rank correlation of two maps, pixel by pixel, for each sample.

    Parameters
    ----------
    a, b : Tensor, shape (batch, channels, height, width)
    signed : bool, default False
        Add up the channels with their signs, so that a map and its negative disagree. By default absolute values are
        added up: how large the map is at each pixel, whatever its sign.

    Returns
    -------
    list of float
        In [-1, 1]; NaN where a map is constant or not finite.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> [round(r, 6) for r in rank_correlation(x, -(x**3)) + rank_correlation(x, -(x**3), signed=True)]
    [1.0, -1.0]
    """
    if a.shape != b.shape or a.dim() != 4:
        raise InputError(
            f"the maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed are two equal ones, (batch, channels,"
            " height, width)."
        )
    how = "sum" if signed else "absolute_sum"
    found: list[float] = (unit_ranks(single_channel(a, how)) * unit_ranks(single_channel(b, how))).sum(1).tolist()
    return found


CHANNELS = ("sum", "absolute_sum", "max_absolute")
"""How the channels of a map become one."""


def single_channel(maps: Tensor, how: str = "sum") -> Tensor:
    """Return maps with one number per pixel.

    Parameters
    ----------
    maps : Tensor, shape (batch, channels, height, width)
    how : {"sum", "absolute_sum", "max_absolute"}, default "sum"
        Add the channels up, with their signs; add up their absolute values; or take the largest of these.

    Returns
    -------
    Tensor of float64, shape (batch, height, width)

    Raises
    ------
    InputError
        If the maps do not have four dimensions, or the way is unknown.

    Examples
    --------
    >>> x = torch.tensor([1.0, -3.0]).reshape(1, 2, 1, 1)
    >>> [single_channel(x, how).item() for how in CHANNELS]
    [-2.0, 4.0, 3.0]
    """
    if how not in CHANNELS:
        raise InputError(f"channels is {how!r}; allowed are {', '.join(CHANNELS)}.")
    values = _maps(maps).detach().double()
    if how == "sum":
        return values.sum(1)
    return values.abs().sum(1) if how == "absolute_sum" else values.abs().amax(1)


FINE, CONSTANT, NOT_FINITE = "fine", "constant", "not finite"


def states(maps: Tensor, precision: float | None = None) -> list[str]:
    """Return for each map whether it can be compared and ranked: `"fine"`, `"constant"` or `"not finite"`.

    Parameters
    ----------
    maps : Tensor, shape (batch, ...)
    precision : float, optional
        The rounding error of the numbers that the maps were made of, relative to them; what differs by no more than a
        few of them is constant. By default that of the maps' own type.

    Returns
    -------
    list of str

    Examples
    --------
    >>> states(torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, torch.inf]]))
    ['fine', 'constant', 'not finite']
    """
    flat = maps.detach().flatten(1)
    low, high = flat.aminmax(dim=1)
    step = torch.finfo(flat.dtype).eps if precision is None else precision
    varies = high - low > ROUNDING * step * torch.maximum(high.abs(), low.abs())
    kinds = zip(flat.isfinite().all(1).tolist(), varies.tolist(), strict=True)
    return [(FINE if varied else CONSTANT) if finite else NOT_FINITE for finite, varied in kinds]


def unit_ranks(maps: Tensor) -> Tensor:
    """Return each map's ranks, of mean 0 and norm 1, so that the scalar product of two is their rank correlation.

    Parameters
    ----------
    maps : Tensor, shape (batch, ...)

    Returns
    -------
    Tensor of float64, shape (batch, entries)
        NaN for a map that is constant or not finite. Equal values share their mean rank.

    Examples
    --------
    >>> unit_ranks(torch.tensor([[3.0, 100.0, 3.0, 0.0]])).round(decimals=2).tolist()
    [[0.0, 0.71, 0.0, -0.71]]
    """
    from scipy.stats import rankdata

    flat = maps.detach().double().flatten(1).cpu()
    ranks = torch.from_numpy(rankdata(flat.numpy(), axis=1)) - (flat.shape[1] + 1) / 2
    lost = ~flat.isfinite().all(1) | (flat.amax(1) == flat.amin(1))
    return (ranks / ranks.norm(dim=1, keepdim=True)).masked_fill(lost[:, None], torch.nan)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference of two tensors, in units of the largest absolute value of the second.

    Parameters
    ----------
    a, b : Tensor, of the same shape

    Returns
    -------
    float
        NaN if both are zero throughout.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> relative_difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
    0.25
    """
    if a.shape != b.shape:
        raise InputError(f"the tensors have shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed are equal ones.")
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def _maps(x: Tensor) -> Tensor:
    if x.dim() != 4:
        raise InputError(f"a map has shape {tuple(x.shape)}; allowed is (batch, channels, height, width).")
    return x


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError:
        raise InputError(
            f"the maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed are shapes that broadcast."
        ) from None
    return a, b


def _pairs(maps: Tensor) -> Tensor:
    """Return the first and the second of every two maps."""
    if len(maps) < 2:
        raise InputError(f"there are {len(maps)} maps per sample; allowed are at least two.")
    return torch.triu_indices(len(maps), len(maps), offset=1)


def _centered(x: Tensor) -> Tensor:
    return _difference(x, x.double().mean((2, 3), keepdim=True))


def _difference(x: Tensor, mean: Tensor) -> Tensor:
    """Return x - mean, exactly zero for a sample where it is rounding error: that of a constant map is noise."""
    difference = x.double() - mean
    left, whole = (t.flatten(1).norm(dim=1) for t in (difference, x.double()))
    lost = left <= ROUNDING * torch.finfo(x.dtype).eps * whole
    return difference.masked_fill(lost.reshape(-1, *[1] * (x.dim() - 1)), 0.0)


def _unit(x: Tensor) -> Tensor:
    """Scale each sample to norm 1 in float64; a sample that is zero up to rounding becomes NaN."""
    x = x.double()
    largest = x.abs().flatten(1).amax(1).reshape(-1, *[1] * (x.dim() - 1))
    x = x / largest  # first, so that squares of very small maps do not vanish; 0 / 0 is NaN
    return x / x.flatten(1).norm(dim=1).reshape(largest.shape)


def _ranged(x: Tensor) -> Tensor:
    """Bring each sample to [0, 1], all its entries jointly; a constant one becomes NaN."""
    flat = x.double().flatten(1)
    low, high = flat.aminmax(dim=1, keepdim=True)
    return (flat - low) / (high - low)


_SCALED: Mapping[str, Callable[[Tensor], Tensor]] = {"norm": _unit, "range": _ranged, "raw": Tensor.double}
