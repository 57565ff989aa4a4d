"""A claim, what it predicts, and the verdict that a measured number gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from modbp.errors import InputError
from modbp.formatting import decimals, number, plus_minus

CHECK_COLUMNS = ("quantity", "predicted", "measured", "verdict")
"""The columns of a table of checks."""


class Verdict(StrEnum):
    """What a measurement says of a prediction."""

    CONFIRMED = "confirmed"
    IN_PART = "in part"
    NOT_CONFIRMED = "not confirmed"
    NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Prediction:
    """The closed interval in which a number is expected.

    Parameters
    ----------
    low, high : float
        The ends; infinite where there is none.

    Examples
    --------
    >>> str(about(0.5, 0.1)), str(at_least(0.9)), str(at_most(1e-5)), str(about(0, 0))
    ('0.50 ± 0.10', '≥ 0.90', '≤ 1e-05', '0')
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse an empty interval."""
        if not self.low <= self.high:
            raise InputError(f"a prediction from {self.low} to {self.high} is empty; allowed is low ≤ high.")

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"≥ {number(self.low)}"
        if math.isinf(self.low):
            return f"≤ {number(self.high)}"
        if self.low == self.high:  # a count, or an exact zero
            return f"{self.low:g}"
        return f"{number((self.low + self.high) / 2)} ± {number((self.high - self.low) / 2)}"


def about(value: float, tolerance: float) -> Prediction:
    """Return the prediction value ± tolerance.

    Parameters
    ----------
    value, tolerance : float
        The tolerance is not negative.

    Returns
    -------
    Prediction

    Examples
    --------
    >>> about(1.0, 0.25).high
    1.25
    """
    return Prediction(value - tolerance, value + tolerance)


def at_least(value: float) -> Prediction:
    """Return the prediction that a number is not below `value`.

    Examples
    --------
    >>> at_least(0.9).low
    0.9
    """
    return Prediction(value, math.inf)


def at_most(value: float) -> Prediction:
    """Return the prediction that a number is not above `value`.

    Examples
    --------
    >>> at_most(0.1).high
    0.1
    """
    return Prediction(-math.inf, value)


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    Parameters
    ----------
    id : str
        A letter for the paper and a number: S1, N9, Z3.
    paper : str
        Key of `PAPERS`.
    provenance : str
        Where we know the claim from: abstract, code, notes, ours, or several.
    statement : str
        The claim in our words.
    expected : str
        What is predicted, in words.
    predictions : mapping from str to Prediction
        The numbers that decide the verdict, by the quantity's name; empty where no walkthrough measures them yet.
    """

    id: str
    paper: str
    provenance: str
    statement: str
    expected: str
    predictions: Mapping[str, Prediction] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One predicted number beside the measured one.

    Parameters
    ----------
    quantity : str
    predicted : Prediction
    measured : float
        NaN where it could not be measured.
    spread : float
        Half the width of the interval in which the measured number lies, in its units; the walkthrough says of what
        kind, such as a 95 % bootstrap interval of the mean over images.
    verdict : Verdict
    """

    quantity: str
    predicted: Prediction
    measured: float
    spread: float
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """Return the check as records keep it, which is how `from_json` reads it: what is not finite is null.

        Returns
        -------
        dict
        """

        def finite(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "quantity": self.quantity,
            "predicted": [finite(self.predicted.low), finite(self.predicted.high)],
            "measured": finite(self.measured),
            "spread": finite(self.spread),
            "verdict": str(self.verdict),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Check:
        """Return the check that a record keeps.

        Parameters
        ----------
        kept : mapping
            From `as_json`.

        Returns
        -------
        Check

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not whole.
        """

        def number(value: Any, missing: float) -> float:
            return missing if value is None else float(value)

        low, high = kept["predicted"]
        return cls(
            str(kept["quantity"]),
            Prediction(-math.inf if low is None else low, math.inf if high is None else high),
            number(kept["measured"], math.nan),
            number(kept["spread"], math.inf),
            Verdict(kept["verdict"]),
        )

    def printed(self) -> tuple[str, str, str, str]:
        """Return the row that tables print: quantity, predicted, measured, verdict, as in `CHECK_COLUMNS`.

        Numbers are rounded so that another processor prints the same; no line break parts a number from its spread.

        Returns
        -------
        tuple of str
        """
        predicted = str(self.predicted).replace(" ± ", "\u00a0±\u00a0")
        return self.quantity, predicted, self._measured(), str(self.verdict)

    def _measured(self) -> str:
        if math.isnan(self.measured):
            return "–"
        if self.measured == self.predicted.low == self.predicted.high:
            return str(self.predicted)
        if 0 <= self.measured <= self.predicted.high < 1e-3:
            return f"≤ {number(self.predicted.high)}"
        # Two decimals whatever the size: rounding errors differ from one processor to the next.
        return plus_minus(self.measured, self.spread) if self.spread else decimals(self.measured)


def check(quantity: str, predicted: Prediction, measured: float, spread: float = 0.0) -> Check:
    """Compare one measured number with its prediction.

    The tolerance is the prediction's own interval. The interval measured ± spread lies inside it (confirmed), overlaps
    it (in part), or misses it (not confirmed); a NaN cannot be judged (not testable here).

    Parameters
    ----------
    quantity : str
        What was measured.
    predicted : Prediction
    measured : float
    spread : float, default 0
        Half the width of the measured number's interval, not negative.

    Returns
    -------
    Check

    Raises
    ------
    InputError
        If the spread is negative.

    Examples
    --------
    >>> [check("x", about(0.5, 0.1), m, 0.05).verdict.value for m in (0.5, 0.58, 0.8)]
    ['confirmed', 'in part', 'not confirmed']
    """
    if spread < 0:
        raise InputError(f"spread is {spread}; allowed are numbers from 0 upwards.")
    spread = 0.0 if math.isnan(spread) else spread
    low, high = measured - spread, measured + spread
    if math.isnan(measured):
        verdict = Verdict.NOT_TESTABLE
    elif predicted.low <= low and high <= predicted.high:
        verdict = Verdict.CONFIRMED
    elif low <= predicted.high and high >= predicted.low:
        verdict = Verdict.IN_PART
    else:
        verdict = Verdict.NOT_CONFIRMED
    return Check(quantity, predicted, measured, spread, verdict)
