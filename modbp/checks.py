"""Checks of numbers, each with the sentence that refuses a bad one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

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


def seeded(seed: int) -> torch.Generator:
    """Return a generator of random numbers on a seed, after a look at it.

    Parameters
    ----------
    seed : int
        From 0 to 2^63 - 1, what PyTorch and NumPy both take.

    Returns
    -------
    torch.Generator

    Raises
    ------
    InputError

    Examples
    --------
    >>> torch.equal(torch.randn(3, generator=seeded(1)), torch.randn(3, generator=seeded(1)))
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed!r}; allowed are whole numbers from 0 to 2^63 - 1.")
    return torch.Generator().manual_seed(seed)


def layer_widths(widths: Sequence[int]) -> None:
    """Refuse what are no widths of the input and of at least one layer.

    Parameters
    ----------
    widths : sequence of int

    Raises
    ------
    InputError

    Examples
    --------
    >>> layer_widths([300, 600])
    """
    if len(widths) < 2:
        raise InputError(f"widths has {len(widths)} entries; allowed are two or more.")
    for width in widths:
        whole("widths", width)


def one_or_more(name: str, given: str | Sequence[str], allowed: Sequence[str]) -> list[str]:
    """Return names as a list, each of them once, and refuse unknown ones.

    Parameters
    ----------
    name : str
        What the message calls them.
    given : str or sequence of str
    allowed : sequence of str

    Returns
    -------
    list of str

    Raises
    ------
    InputError

    Examples
    --------
    >>> one_or_more("order", "most", ["most", "least"])
    ['most']
    """
    values = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    if not values or any(v not in allowed for v in values):
        raise InputError(f"{name} is {given!r}; allowed are one or more of {', '.join(allowed)}.")
    return values


def in_eval_mode(name: str, model: Any) -> None:
    """Refuse a module that is in training mode, or a part of which is.

    Parameters
    ----------
    name : str
        What the message calls it.
    model : any
        What is no module has no mode.

    Raises
    ------
    InputError

    Examples
    --------
    >>> in_eval_mode("model", torch.nn.Linear(2, 2).eval())
    """
    if isinstance(model, torch.nn.Module) and any(module.training for module in model.modules()):
        raise InputError(f"{name} is in training mode; allowed is eval mode, in which it answers the same twice.")
