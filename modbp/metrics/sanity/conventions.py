r"""How two maps are compared: what is done to them first, and with which measure.

A similarity of maps says nothing without its conventions. The structural similarity of two maps of *independent noise*
is 0.01 in one usual convention and 0.2 in another. So each number of this package carries the conventions that it was
made with.

Source: Sixt, Granz and Landgraf (2020), read in their public code: clipping at percentiles of the map itself, SSIM with
a uniform window of 5, the better one of a map and its negative. That code left the data range to scikit-image, which
took 2 for pictures in [0, 1]; here it is always said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modbp.checks import above_zero, whole
from modbp.errors import InputError
from modbp.metrics.similarity import CHANNELS, FINE, cosine, single_channel, states, unit_ranks

NORMALIZATIONS = ("clip", "range", "maximum", "none")
SIGNS = ("best", "as_is")
BINS = 100
"""How many bins of equal width the histogram of a map has, between its smallest and its largest value."""


@dataclass(frozen=True)
class Convention:
    """What the structural similarity (SSIM) of two maps depends on.

    Parameters
    ----------
    data_range : float or "pair", default 1.0
        The difference between the largest and the smallest value that is possible. Maps that are clipped lie in
        [0, 1]: 1 is right, and 2 is what the paper's code had. `"pair"`: that of the two maps together.
    sign : {"best", "as_is"}, default "best"
        Compare with the other map and with its negative, flipped before the normalization, and take the larger number:
        a chain of rank 1 keeps the sign of what it was started with. Only the second map is flipped, and since SSIM
        compares brightness too, the number is not quite symmetric. Or compare the maps as they are.
    normalization : {"clip", "range", "maximum", "none"}, default "clip"
        Clip a map at its own percentiles and scale it to [0, 1]; scale it to [0, 1]; divide it by its largest absolute
        value; or nothing.
    percentiles : (float, float), optional
        Of `"clip"`. By default the paper's: 0.5 and 99.5, and 0 and 100 for RectGrad, most of whose map is zero.
    channels : {"sum", "absolute_sum", "max_absolute"}, optional
        How the channels become one. By default as in the paper: the largest absolute value for rules that only change
        the ReLU, and the signed sum for all others.
    window : int, default 5
        Side of the uniform window, in pixels, odd.

    Examples
    --------
    >>> Convention().label, Convention(data_range=2, sign="as_is").label
    ('SSIM, range 1, best sign', 'SSIM, range 2, sign as it is')
    """

    data_range: float | str = 1.0
    sign: str = "best"
    normalization: str = "clip"
    percentiles: tuple[float, float] | None = None
    channels: str | None = None
    window: int = 5

    def __post_init__(self) -> None:
        """Refuse what is no convention."""
        if self.data_range != "pair":
            if isinstance(self.data_range, str):
                raise InputError(f"data_range is {self.data_range!r}; allowed are numbers above 0, and 'pair'.")
            above_zero("data_range", self.data_range)
        for name, value, allowed in (
            ("sign", self.sign, SIGNS),
            ("normalization", self.normalization, NORMALIZATIONS),
            ("channels", self.channels, (None, *CHANNELS)),
        ):
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; allowed are {', '.join(map(str, allowed))}.")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"percentiles is {self.percentiles!r}; allowed are two increasing numbers from 0 to 100.")
        whole("window", self.window, least=3)
        if self.window % 2 == 0:
            raise InputError(f"window is {self.window}; allowed are odd numbers from 3 upwards.")

    @property
    def label(self) -> str:
        """What tables call it."""
        size = "of the pair" if self.data_range == "pair" else f"{self.data_range:g}"
        return f"SSIM, range {size}, {'best sign' if self.sign == 'best' else 'sign as it is'}"


STRICT = Convention()
"""The right data range, and the better one of both signs: our default."""

PAPER = Convention(data_range=2.0)
"""As in the paper's code, whose data range is twice that of its maps."""

SIGNED = Convention(sign="as_is")
"""The right data range, and a flipped sign counts as a difference."""

CONVENTIONS = (STRICT, PAPER, SIGNED)
"""The conventions of the structural similarity that tables have side by side."""

SPEARMAN, SPEARMAN_ABSOLUTE, COSINE = "Spearman, signed", "Spearman, absolute", "cosine"
"""What tables call the measures that need no convention."""

ENTROPY_RISE = "rise of entropy"
"""What tables call the growth of the entropy of a map's histogram, as a share of that of the trained network's map."""


@dataclass(frozen=True)
class Drawn:
    """How the maps of one method are drawn where a convention leaves it to the method.

    Parameters
    ----------
    channels : {"sum", "absolute_sum", "max_absolute"}, default "sum"
    percentiles : (float, float), default (0.5, 99.5)

    Examples
    --------
    >>> Drawn().channels
    'sum'
    """

    channels: str = "sum"
    percentiles: tuple[float, float] = (0.5, 99.5)


def ssim(a: Tensor, b: Tensor, convention: Convention = STRICT, drawn: Drawn | None = None) -> list[float]:
    """Return the structural similarity of two maps, for each sample (`skimage.metrics.structural_similarity`).

    Parameters
    ----------
    a, b : Tensor, shape (batch, channels, height, width)
    convention : Convention, optional
    drawn : Drawn, optional
        What the method has for what the convention leaves open.

    Returns
    -------
    list of float
        At most 1; NaN where a map is constant, also after clipping, or not finite.

    Raises
    ------
    InputError
        If the shapes differ, or a side of the maps is smaller than the window.

    Examples
    --------
    >>> x = torch.randn(1, 1, 16, 16, generator=torch.manual_seed(0))
    >>> [round(value, 6) for value in ssim(x, -x) + ssim(x, 2 * x + 1, SIGNED)]
    [1.0, 1.0]
    """
    if a.shape != b.shape:
        raise InputError(
            f"the maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed are two equal ones, (batch, channels,"
            " height, width)."
        )
    drawn = drawn or Drawn()
    first, second = (Prepared.of(m, [convention], drawn) for m in (a, b))
    return [float(value) for value in first.ssim(second, convention)]


def ssim_floor(deviation: float, data_range: float = 1.0) -> float:
    r"""Return what the SSIM of two pictures of unrelated white noise comes to, by a heuristic law.

    .. math:: \frac{C_2}{C_2+2\sigma^2},\qquad C_2=(0.03L)^2

    Source: ours, law-floor of `book/sanity-checks.md`.

    Parameters
    ----------
    deviation : float
        Standard deviation σ of the pictures' values, in their units.
    data_range : float, default 1.0
        L, in the same units.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If one of the two is not a finite number above 0.

    Examples
    --------
    >>> round(ssim_floor(0.19), 3), round(ssim_floor(0.19, data_range=2), 3)
    (0.012, 0.047)
    """
    above_zero("deviation", deviation)
    above_zero("data_range", data_range)
    constant = (0.03 * data_range) ** 2
    return constant / (constant + 2 * deviation**2)


def histogram_entropy(maps: Tensor, bins: int = BINS) -> Tensor:
    r"""Return the entropy of a map's histogram, in nats.

    .. math:: H=-\\sum_k p_k\\ln p_k

    with the shares :math:`p_k` of pixels in bins of equal width between the smallest and the largest value. It is what
    the efficient parameter randomization test takes for the complexity of a map. Source: Hedström et al. (2024), read
    in their public code.

    Parameters
    ----------
    maps : Tensor, shape (batch, ...)
    bins : int, default 100

    Returns
    -------
    Tensor of float64, shape (batch,)
        NaN for a map that is constant or not finite.

    Raises
    ------
    InputError
        If `bins` is below 2.

    Examples
    --------
    >>> histogram_entropy(torch.tensor([[0.0, 0.0, 1.0, 1.0]])).exp()
    tensor([2.], dtype=torch.float64)
    """
    from scipy.stats import entropy

    whole("bins", bins, least=2)
    flat = maps.detach().double().flatten(1).cpu()
    found = [
        float(entropy(np.histogram(row.numpy(), bins=bins)[0])) if state == FINE else math.nan
        for row, state in zip(flat, states(flat), strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


@dataclass
class Prepared:
    """Maps with all that comparisons need of them, so that it is worked out once for each map.

    Attributes
    ----------
    maps : Tensor, shape (batch, ...)
    states : list of str
        Of `states`, one per map.
    drawn : Drawn
    ranks : dict from str to Tensor, shape (batch, pixels)
        Signed and absolute.
    pictures : dict from (Convention, bool) to list of array or None
        Normalized, of the maps and (True) of their negatives; None where one is constant.

    Examples
    --------
    >>> prepared = Prepared.of(torch.eye(8).expand(1, 3, 8, 8), [SIGNED], Drawn())
    >>> prepared.states, prepared.pictures[SIGNED, False][0].shape
    (['fine'], (8, 8))
    """

    maps: Tensor
    states: list[str]
    drawn: Drawn
    ranks: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[tuple[Convention, bool], list[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, maps: Tensor, conventions: Sequence[Convention], drawn: Drawn) -> Prepared:
        """Prepare maps, shape (batch, channels, height, width); others have ranks and no pictures."""
        maps = maps.detach().cpu()
        self = cls(maps, states(maps), drawn)
        if maps.dim() != 4:
            flat = maps.double().flatten(1)
            self.ranks = {SPEARMAN: unit_ranks(flat), SPEARMAN_ABSOLUTE: unit_ranks(flat.abs())}
            return self
        single = {how: single_channel(maps, how) for how in CHANNELS}
        self.ranks = {SPEARMAN: unit_ranks(single["sum"]), SPEARMAN_ABSOLUTE: unit_ranks(single["absolute_sum"])}
        for convention in conventions:
            side = min(maps.shape[2:])
            if convention.window > side:
                raise InputError(f"window is {convention.window} for maps of {side} pixels; allowed are smaller ones.")
            shown = single[convention.channels or drawn.channels]
            for flipped in (False, True) if convention.sign == "best" else (False,):
                key = convention, flipped
                if (known := self._same(key)) is not None:  # the data range changes no picture
                    self.pictures[key] = known
                    continue
                self.pictures[key] = [
                    _normalized(-m if flipped else m, convention, drawn) if state == FINE else None
                    for m, state in zip(shown.numpy(), self.states, strict=True)
                ]
        return self

    def _same(self, key: tuple[Convention, bool]) -> list[Any] | None:
        def look(convention: Convention) -> tuple[Any, ...]:
            return convention.normalization, convention.percentiles, convention.channels

        return next((p for (c, flip), p in self.pictures.items() if look(c) == look(key[0]) and flip == key[1]), None)

    def single(self) -> Tensor:
        """Return the maps as they are drawn, with one number per pixel."""
        return single_channel(self.maps, self.drawn.channels) if self.maps.dim() == 4 else self.maps

    def ssim(self, other: Prepared, convention: Convention) -> list[float]:
        """Return the structural similarity with other maps, for each sample; NaN where there is none."""
        flips = (False, True) if convention.sign == "best" else (False,)
        found = []
        for i in range(len(self.maps)):
            a, candidates = self.pictures[convention, False][i], [other.pictures[convention, f][i] for f in flips]
            defined = a is not None and all(b is not None for b in candidates)
            found.append(max(_ssim(a, b, convention) for b in candidates) if defined else math.nan)
        return found

    def similarities(self, other: Prepared, conventions: Sequence[Convention]) -> dict[str | Convention, list[float]]:
        """Return every measure of the likeness with other maps, for each sample."""
        found: dict[str | Convention, list[float]] = {}
        if self.pictures:
            found |= {convention: self.ssim(other, convention) for convention in conventions}
        for name, ranks in self.ranks.items():
            found[name] = (ranks * other.ranks[name]).sum(1).tolist()
        found[COSINE] = cosine(self.maps, other.maps).tolist()
        return found


def described(measure: str | Convention, drawn: Drawn) -> Mapping[str, Any]:
    """Return the columns of a table that say how a number was made.

    Parameters
    ----------
    measure : str or Convention
    drawn : Drawn

    Returns
    -------
    mapping from str to any

    Examples
    --------
    >>> described(COSINE, Drawn())["channels"], described(PAPER, Drawn())["data_range"]
    ('all', 2.0)
    """
    if isinstance(measure, Convention):
        low, high = measure.percentiles or drawn.percentiles
        clipped = f"clip at {low:g} and {high:g} %"
        return {
            "measure": measure.label,
            "channels": measure.channels or drawn.channels,
            "normalization": clipped if measure.normalization == "clip" else measure.normalization,
            "data_range": measure.data_range,
            "sign": measure.sign,
        }
    channels = {SPEARMAN: "sum", SPEARMAN_ABSOLUTE: "absolute_sum", COSINE: "all"}.get(measure, drawn.channels)
    return {"measure": measure, "channels": channels, "normalization": "none", "data_range": None, "sign": "as_is"}


def _normalized(shown: np.ndarray[Any, Any], convention: Convention, drawn: Drawn) -> np.ndarray[Any, Any] | None:
    if convention.normalization == "none":
        return shown
    if convention.normalization == "maximum":
        return shown / np.abs(shown).max()
    ends = (0.0, 100.0) if convention.normalization == "range" else convention.percentiles or drawn.percentiles
    low, high = np.percentile(shown, ends)
    return np.clip((shown - low) / (high - low), 0, 1) if high > low else None


def _ssim(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], convention: Convention) -> float:
    from skimage.metrics import structural_similarity

    size = convention.data_range
    if isinstance(size, str):
        size = float(max(a.max(), b.max()) - min(a.min(), b.min()))
    return float(structural_similarity(a, b, win_size=convention.window, data_range=size))
