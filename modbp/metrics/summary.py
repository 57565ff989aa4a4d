"""From one number per image to a number with its spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from modbp.errors import InputError
from modbp.formatting import plus_minus


@dataclass(frozen=True)
class Summary:
    """A mean over images, or a ratio of two.

    Parameters
    ----------
    mean : float
        NaN if no value was defined.
    spread : float
        Half the width of its 95 % bootstrap interval; NaN for fewer than two values.
    defined, undefined : int
        How many values were numbers, and how many were NaN and left out.
    """

    mean: float
    spread: float
    defined: int
    undefined: int

    def __str__(self) -> str:
        left_out = f" ({self.undefined} undefined)" if self.undefined else ""
        return plus_minus(self.mean, self.spread) + left_out


def summarize_each(values: Mapping[str, Mapping[str, Iterable[float]]]) -> dict[str, dict[str, Summary]]:
    """Return `summarize` of every list of values, by series and method.

    Parameters
    ----------
    values : mapping from str to mapping from str to iterable of float

    Returns
    -------
    dict from str to dict from str to Summary

    Examples
    --------
    >>> str(summarize_each({"trained": {"gradient": [0.5, 0.5]}})["trained"]["gradient"]).split()
    ['0.50', '±', '0.00']
    """
    return {series: {name: summarize(v) for name, v in by_name.items()} for series, by_name in values.items()}


def summarize(values: Iterable[float], resamples: int = 10_000, seed: int = 0) -> Summary:
    """Return the mean of values with a bootstrap interval (percentile method, `scipy.stats.bootstrap`).

    Parameters
    ----------
    values : iterable of float
        One per image. NaN is left out of the mean and counted.
    resamples : int, default 10000
    seed : int, default 0
        For the resampling.

    Returns
    -------
    Summary

    Examples
    --------
    >>> summarize([1.0, 1.0, float("nan")])
    Summary(mean=1.0, spread=0.0, defined=2, undefined=1)
    """
    from scipy.stats import bootstrap

    everything = np.asarray(list(values), dtype=float)
    found = everything[~np.isnan(everything)]
    undefined = len(everything) - len(found)
    if len(found) == 0:
        return Summary(float("nan"), float("nan"), 0, undefined)
    mean = float(found.mean())
    if len(found) == 1:
        return Summary(mean, float("nan"), 1, undefined)
    if np.ptp(found) == 0:  # the bootstrap warns where there is nothing to resample
        return Summary(mean, 0.0, len(found), undefined)
    interval = bootstrap(
        (found,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Summary(mean, float(interval.high - interval.low) / 2, len(found), undefined)


def ratio_of_means(above: Iterable[float], below: Iterable[float], resamples: int = 10_000, seed: int = 0) -> Summary:
    """Return the mean of values over the mean of others, with a bootstrap interval that resamples pairs.

    Parameters
    ----------
    above, below : iterable of float
        One each per image, in the same order. Where either is not finite, the pair is left out and counted.
    resamples : int, default 10000
    seed : int, default 0
        For the resampling.

    Returns
    -------
    Summary
        NaN where the mean below is zero. A spread of NaN or infinity where it is zero in resamples.

    Raises
    ------
    InputError
        If the two have different lengths.

    Examples
    --------
    >>> str(ratio_of_means([2.0, 4.0], [1.0, 2.0])).split()
    ['2.00', '±', '0.00']
    """
    from scipy.stats import bootstrap

    first, second = (np.asarray(list(values), dtype=float) for values in (above, below))
    if len(first) != len(second):
        raise InputError(f"below has {len(second)} values; allowed are as many as above has: {len(first)}.")
    finite = np.isfinite(first) & np.isfinite(second)
    first, second = first[finite], second[finite]
    undefined = len(finite) - len(first)
    if len(first) == 0 or second.mean() == 0:
        return Summary(float("nan"), float("nan"), len(first), undefined)
    ratio = float(first.mean() / second.mean())
    if len(first) == 1:
        return Summary(ratio, float("nan"), 1, undefined)
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = bootstrap(
            (first, second),
            lambda a, b, axis: a.mean(axis) / b.mean(axis),
            paired=True,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        spread = float(interval.high - interval.low) / 2
    return Summary(ratio, spread, len(first), undefined)
