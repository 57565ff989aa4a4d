"""How numbers are printed: rounded, so that another processor prints the same."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """Return a number with two decimals, or in powers of ten where these would hide it.

    Examples
    --------
    >>> number(0.657), number(3e-7)
    ('0.66', '3e-07')
    """
    return f"{value:.0e}" if 0 < abs(value) < 5e-3 else decimals(value)


def decimals(value: float) -> str:
    """Return a number with two decimals, without a sign before zero.

    Examples
    --------
    >>> decimals(0.657), decimals(-0.001), decimals(float("nan"))
    ('0.66', '0.00', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def plus_minus(value: float, spread: float) -> str:
    """Return a number with its spread, which no line break parts from it.

    Examples
    --------
    >>> plus_minus(0.657, 0.02).split()
    ['0.66', '±', '0.02']
    """
    return f"{decimals(value)}\u00a0±\u00a0{decimals(spread)}"


def count(number: int, name: str) -> str:
    """Return a number with what it counts, whose name is that of one.

    Examples
    --------
    >>> count(1, "task"), count(1200, "row")
    ('1 task', '1,200 rows')
    """
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"
