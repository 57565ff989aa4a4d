"""Checks of numbers, each with the sentence that refuses a bad one."""

from __future__ import annotations

import math

from modbp.errors import InputError


def whole(name: str, value: int, least: int = 1) -> None:
    """Refuse what is no whole number from `least` upwards.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : int
    least : int, default 1

    Raises
    ------
    InputError

    Examples
    --------
    >>> whole("units", 3)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; allowed are whole numbers from {least} upwards.")


def at_least_one(**numbers: int) -> None:
    """Refuse numbers that are not whole or below 1; each goes by the name of its argument.

    Raises
    ------
    InputError

    Examples
    --------
    >>> at_least_one(inputs=3, units=5)
    """
    for name, number in numbers.items():
        whole(name, number)


def not_negative(name: str, value: float) -> None:
    """Refuse what is no finite number from 0 upwards.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : float

    Raises
    ------
    InputError

    Examples
    --------
    >>> not_negative("threshold", 0)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{name} is {value!r}; allowed are finite numbers from 0 upwards.")


def above_zero(name: str, value: float) -> None:
    """Refuse what is no finite number above 0.

    Parameters
    ----------
    name : str
        What the message calls it.
    value : float

    Raises
    ------
    InputError

    Examples
    --------
    >>> above_zero("ratio", 0.5)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{name} is {value!r}; allowed are finite numbers above 0.")
