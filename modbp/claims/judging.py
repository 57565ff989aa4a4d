"""From measured numbers to verdicts on the claims of the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from modbp.claims.ledger import find
from modbp.claims.predictions import Check, Prediction, Verdict, check
from modbp.errors import InputError

if TYPE_CHECKING:
    from modbp.metrics import Summary


def judge(claim_id: str, measured: Mapping[str, tuple[float, float]], *, testable: bool = True) -> list[Check]:
    """Compare every number that a claim predicts with the measured one.

    Parameters
    ----------
    claim_id : str
        A key of `LEDGER`.
    measured : mapping from str to (float, float)
        For each quantity of the claim's predictions the measured number and its spread. A quantity that is left out
        is not testable here.
    testable : bool, default True
        False where the claim's conditions do not hold, such as a trained network: then nothing is.

    Returns
    -------
    list of Check
        One per predicted number, in the ledger's order.

    Raises
    ------
    InputError
        If the claim is unknown, predicts no number, or a quantity is none of its own.

    Examples
    --------
    >>> [c.verdict.value for c in judge("N1", {"largest relative difference": (2e-7, 0.0)})]
    ['confirmed']
    """
    claim = find(claim_id)
    if not claim.predictions:
        raise InputError(f"claim {claim_id} predicts no number yet; allowed are claims with predictions in the ledger.")
    unknown = [name for name in measured if name not in claim.predictions]
    if unknown:
        raise InputError(f"claim {claim_id} does not predict {unknown[0]!r}; allowed are {list(claim.predictions)}.")
    nothing = (math.nan, 0.0)
    return [
        check(quantity, predicted, *(measured.get(quantity, nothing) if testable else nothing))
        for quantity, predicted in claim.predictions.items()
    ]


def predictions_of(claim_id: str, quantity: str, methods: Iterable[str]) -> dict[str, Prediction]:
    """Return what a claim predicts of a quantity, by method.

    Parameters
    ----------
    claim_id : str
    quantity : str
        A quantity's name with `{}` in place of the method's.
    methods : iterable of str
        Those for which the claim predicts nothing are left out.

    Returns
    -------
    dict from str to Prediction

    Examples
    --------
    >>> from modbp.claims.quantities import CLASSES
    >>> list(predictions_of("N9", CLASSES, ["gradient", "rectgrad"]))
    ['gradient']
    """
    predictions = find(claim_id).predictions
    return {m: predictions[name] for m in methods if (name := quantity.format(m)) in predictions}


def predicted_among(claim_id: str, quantity: str, values: Mapping[str, Summary]) -> dict[str, tuple[float, float]]:
    """Return the measured numbers that a claim predicts, as `judge` takes them.

    Parameters
    ----------
    claim_id : str
    quantity : str
        A quantity's name with `{}` in place of the method's.
    values : mapping from str to Summary
        By method; methods for which the claim predicts nothing are left out.

    Returns
    -------
    dict from str to (float, float)
        By the quantity's full name: mean and spread.

    Examples
    --------
    >>> from modbp.claims.quantities import CLASSES
    >>> from modbp.metrics import summarize
    >>> predicted_among("N9", CLASSES, {"gradient": summarize([0.1, 0.1]), "rectgrad": summarize([0.9])})
    {'cosine between the maps of different classes, gradient': (0.1, 0.0)}
    """
    predictions = find(claim_id).predictions
    named = {quantity.format(method): summary for method, summary in values.items()}
    return {name: (summary.mean, summary.spread) for name, summary in named.items() if name in predictions}


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim from those on its numbers.

    All confirmed is confirmed; none confirmed even in part is not confirmed; anything between is in part. What is not
    testable counts only when nothing is.

    Parameters
    ----------
    verdicts : iterable of Verdict

    Returns
    -------
    Verdict

    Examples
    --------
    >>> overall([Verdict.CONFIRMED, Verdict.NOT_CONFIRMED, Verdict.NOT_TESTABLE]).value
    'in part'
    """
    tested = {v for v in verdicts if v is not Verdict.NOT_TESTABLE}
    if not tested:
        return Verdict.NOT_TESTABLE
    return tested.pop() if len(tested) == 1 else Verdict.IN_PART


def count(verdicts: Iterable[Verdict]) -> str:
    """Return how often each verdict was given, in words.

    Parameters
    ----------
    verdicts : iterable of Verdict

    Returns
    -------
    str

    Examples
    --------
    >>> count([Verdict.NOT_CONFIRMED, Verdict.CONFIRMED, Verdict.CONFIRMED])
    '2 confirmed, 1 not confirmed'
    """
    given = list(verdicts)
    return ", ".join(f"{n} {v}" for v in Verdict if (n := given.count(v)))
