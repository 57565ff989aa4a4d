"""Rows of the sanity checks, and what they come to: medians over images with bootstrap bands."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: F401, for the examples
from torch import Tensor

from modbp.checks import above_zero, seeded, whole
from modbp.errors import InputError
from modbp.metrics.sanity.conventions import Convention, Drawn, Prepared, described
from modbp.metrics.sanity.explaining import FLOOR, Explainer, shuffled, unrelated
from modbp.metrics.similarity import CONSTANT, FINE, NOT_FINITE

if TYPE_CHECKING:
    import pandas as pd

ITSELF_NEGATED, ITSELF_SHUFFLED, OTHER_NOISE = "its own negative", "its own pixels shuffled", "other noise"
"""What a control compares a map with: the map times −1, its pixels in another order, or independent noise."""

PER_IMAGE = ("image", "target", "other", "value", "state")
"""Columns that tell images apart; `medians` takes all others for its groups."""


def rows_of(
    first: Prepared,
    second: Prepared,
    conventions: Sequence[Convention],
    extra: Mapping[str, list[float]] = MappingProxyType({}),
    **columns: Any,
) -> list[dict[str, Any]]:
    """Return a row for each sample and measure.

    Parameters
    ----------
    first, second : Prepared
    conventions : sequence of Convention
    extra : mapping from str to list of float, optional
        Further measures, one number for each sample.
    **columns
        Of all rows, or a list with one value for each sample.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> x = Prepared.of(torch.randn(1, 2, 8, 8), [], Drawn())
    >>> [round(row["value"], 6) for row in rows_of(x, x, [], image=[0])]
    [1.0, 1.0, 1.0]
    """
    found: dict[Any, list[float]] = {**first.similarities(second, conventions), **extra}
    rows = []
    for measure, values in found.items():
        said = described(measure, second.drawn)
        for i, value in enumerate(values):
            state = _worse(first.states[i], second.states[i])
            if state == FINE and np.isnan(value):  # constant only as it is drawn: clipped, or with its channels joined
                state = CONSTANT
            own = {k: v[i] if isinstance(v, list) else v for k, v in columns.items()}
            rows.append({**own, **said, "value": value if state == FINE else np.nan, "state": state})
    return rows


def _worse(a: str, b: str) -> str:
    return next(state for state in (NOT_FINITE, CONSTANT, FINE) if state in (a, b))


def rows_of_controls(
    explainer: Explainer, maps: Prepared, conventions: Sequence[Convention], seed: int, number: int, **columns: Any
) -> list[dict[str, Any]]:
    """Return the rows of a method's own controls: a map against its negative, and against its own pixels shuffled.

    Parameters
    ----------
    explainer : Explainer
    maps : Prepared
    conventions : sequence of Convention
    seed : int
    number : int
        Of the first sample among all.
    **columns
        Of all rows.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> one = Explainer("mine", lambda *a: torch.zeros(1))
    >>> x = Prepared.of(torch.randn(1, 2, 8, 8), [], Drawn())
    >>> [round(r["value"], 6) for r in rows_of_controls(one, x, [], 0, 0) if r["against"] == ITSELF_NEGATED]
    [-1.0, 1.0, -1.0]
    """
    others = {ITSELF_NEGATED: -maps.maps, ITSELF_SHUFFLED: shuffled(maps.maps, seed, number)}
    return [
        row
        for against, other in others.items()
        for row in rows_of(
            maps,
            Prepared.of(other, conventions, maps.drawn),
            conventions,
            method=explainer.name,
            against=against,
            **columns,
        )
    ]


def rows_of_floor(
    x: Tensor, conventions: Sequence[Convention], seed: int, number: int, **columns: Any
) -> list[dict[str, Any]]:
    """Return the rows of the floor: two unrelated maps of noise for each sample.

    Parameters
    ----------
    x : Tensor, shape (batch, ...)
    conventions : sequence of Convention
    seed : int
    number : int
        Of the first sample among all.
    **columns
        Of all rows.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> rows = rows_of_floor(torch.zeros(1, 1, 64, 64), [], 0, 0)
    >>> all(abs(row["value"]) < 0.1 for row in rows)
    True
    """
    first, second = (Prepared.of(noise, conventions, Drawn()) for noise in unrelated(x, seed, number))
    return rows_of(first, second, conventions, method=FLOOR, against=OTHER_NOISE, **columns)


def finished(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the table of the rows, with one warning that names methods whose maps could not be compared.

    Parameters
    ----------
    rows : list of dict

    Returns
    -------
    pandas.DataFrame

    Examples
    --------
    >>> list(finished([{"method": "a", "value": 1.0, "state": "fine"}])["value"])
    [1.0]
    """
    import pandas as pd

    table = pd.DataFrame(rows)
    bad = table[table["state"] != FINE]
    if len(bad):
        counts = bad.groupby(["method", "state"], sort=False).size()
        said = ", ".join(f"{n} {state} of {method}" for (method, state), n in counts.items())
        warnings.warn(
            f"comparisons with maps that are constant or not finite have no value: {said}.", UserWarning, stacklevel=3
        )
    return table


def medians(
    table: pd.DataFrame, confidence: float = 0.99, resamples: int = 10_000, seed: int = 0, by: Iterable[str] = ()
) -> pd.DataFrame:
    """Return the median over images of every row of a sanity check, with its bootstrap band.

    All groups with the same number of images are resampled alike, so that the bands of two methods belong to the same
    drawn images. Source: Sixt et al. (2020), read in their code, for 10,000 resamples and 99 %.

    Parameters
    ----------
    table : pandas.DataFrame
        From `random_logit` or `parameter_randomization`.
    confidence : float, default 0.99
        Of the band, between 0 and 1 (percentile method, `scipy.stats.bootstrap`).
    resamples : int, default 10000
    seed : int, default 0
        Of the resampling.
    by : iterable of str, optional
        Columns that make the groups. By default all but those that tell images apart.

    Returns
    -------
    pandas.DataFrame
        The columns of the groups, in the table's order; `median`, `low` and `high`, the ends of its band (NaN for
        fewer than two values); `defined`, how many values there were, and `constant` and `not_finite`, how many
        comparisons had none and are left out.

    Raises
    ------
    InputError
        If a column is missing, or a number is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> x = pd.DataFrame({"method": "a", "image": [0, 1, 2], "value": [1.0, 3.0, 2.0], "state": "fine"})
    >>> medians(x)[["method", "median", "low", "high", "defined"]].values.tolist()
    [['a', 2.0, 1.0, 3.0, 3]]
    """
    import pandas as pd
    from scipy.stats import bootstrap

    keys = list(by) or [c for c in table.columns if c not in PER_IMAGE]
    missing = [c for c in (*keys, "value", "state") if c not in table.columns]
    if missing:
        raise InputError(f"table has no column {missing[0]!r}; allowed are tables of the sanity checks.")
    above_zero("confidence", confidence)
    if confidence >= 1:
        raise InputError(f"confidence is {confidence}; allowed are numbers between 0 and 1.")
    whole("resamples", resamples)
    seeded(seed)
    groups, values = [], []
    for key, group in table.groupby(keys, sort=False, dropna=False):
        found = group["value"].to_numpy(float)
        counts = group["state"].value_counts()
        groups.append(
            dict(zip(keys, key, strict=True))
            | {
                "median": np.nan,
                "low": np.nan,
                "high": np.nan,
                "defined": int((~np.isnan(found)).sum()),
                "constant": int(counts.get(CONSTANT, 0)),
                "not_finite": int(counts.get(NOT_FINITE, 0)),
            }
        )
        values.append(found[~np.isnan(found)])
    for size in sorted({len(v) for v in values} - {0}):
        members = [i for i, v in enumerate(values) if len(v) == size]
        for part in (members[i : i + 64] for i in range(0, len(members), 64)):
            data = np.stack([values[i] for i in part])
            for i, median in zip(part, np.median(data, axis=1), strict=True):
                groups[i]["median"] = float(median)
            if size == 1:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of groups whose values are all the same
                interval = bootstrap(
                    (data,),
                    np.median,
                    axis=1,
                    confidence_level=confidence,
                    n_resamples=resamples,
                    batch=max(1, 2**22 // data.size),
                    method="percentile",
                    rng=np.random.default_rng(seed),
                ).confidence_interval
            for i, low, high in zip(part, np.atleast_1d(interval.low), np.atleast_1d(interval.high), strict=True):
                groups[i] |= {"low": float(low), "high": float(high)}
    return pd.DataFrame(groups)


def share_in_order(above: Iterable[float], below: Iterable[float]) -> float:
    """Return the share of pairs whose first number is larger; equal ones count a half.

    It is 1 where two groups part completely and 0.5 where they do not part at all (the area under the ROC curve, or
    Mann and Whitney's U over the number of pairs).

    Parameters
    ----------
    above, below : iterable of float
        NaN is left out.

    Returns
    -------
    float
        NaN where one group is empty.

    Examples
    --------
    >>> share_in_order([1.0, 0.9], [0.2, 0.95])
    0.75
    """
    first, second = (np.asarray([v for v in values if not np.isnan(v)], dtype=float) for values in (above, below))
    if not len(first) or not len(second):
        return float("nan")
    difference = first[:, None] - second[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
