"""What follows from the scorecard for someone who has to choose a map, and nothing that does not follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from modbp.claims.predictions import Check
from modbp.claims.quantities import CONV4_RANDOM, DENSE_RANDOM, OTHER_CLASS
from modbp.claims.scorecard import Row

SAME, CHANGED = 0.9, 0.8
"""A similarity from 0.9 upwards is the same map, as claims S13 and S14 predict it of converging rules; one up to 0.8 is
another map, as S13 predicts it of the others. Between them a map counts as neither."""

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "another class": OTHER_CLASS,
        "random dense layers": DENSE_RANDOM,
        "random from conv4_1 upwards": CONV4_RANDOM,
    }
)
"""What is changed under a map, and the quantity that says how similar it stays."""

DECISIVE = ("another class", "random dense layers")
"""The questions that a conclusion rests on: both concern what decides, and were asked of every group of rules."""


class Answer(StrEnum):
    """What a similarity with its spread says of a map."""

    SAME = "same map"
    CHANGED = "another map"
    CANNOT_TELL = "cannot tell"


class Conclusion(StrEnum):
    """What the answers mean for a reader of the map."""

    IGNORES = "shows the image, not the decision"
    DEPENDS = "depends on the class and on the layers that decide"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Guidance:
    """What the scorecard says of one method.

    Parameters
    ----------
    method : str
        A key of `modbp.METHODS`.
    evidence : mapping from str to (Answer, Check)
        By question of `QUESTIONS`; questions without a number for the method are left out.
    conclusion : Conclusion
    """

    method: str
    evidence: Mapping[str, tuple[Answer, Check]]
    conclusion: Conclusion


def answer(similarity: float, spread: float = 0.0) -> Answer:
    """Return what a similarity of two maps says, with `SAME` and `CHANGED` as thresholds.

    The whole interval similarity ± spread must lie beyond a threshold.

    Parameters
    ----------
    similarity : float
        1 for equal maps; NaN where it is not known.
    spread : float, default 0
        Half the width of its interval.

    Returns
    -------
    Answer

    Examples
    --------
    >>> [answer(s, 0.05).value for s in (0.99, 0.4, 0.92)]
    ['same map', 'another map', 'cannot tell']
    """
    return answer_of(similarity - spread, similarity + spread)


def answer_of(low: float, high: float) -> Answer:
    """Return what a similarity that lies between two numbers says, with `SAME` and `CHANGED` as thresholds.

    Parameters
    ----------
    low, high : float
        The ends of its interval; NaN where it has none.

    Returns
    -------
    Answer

    Examples
    --------
    >>> [answer_of(*ends).value for ends in ((0.95, 1.0), (0.2, 0.5), (0.5, 0.95), (float("nan"), 0.5))]
    ['same map', 'another map', 'cannot tell', 'cannot tell']
    """
    if low >= SAME:
        return Answer.SAME
    # Written so that an end that is not known answers nothing.
    if low <= high <= CHANGED:
        return Answer.CHANGED
    return Answer.CANNOT_TELL


def conclude(answers: Mapping[str, Answer]) -> Conclusion:
    """Return what answers to the decisive questions mean together.

    Parameters
    ----------
    answers : mapping from str to Answer
        By question; one that is missing counts as not answered.

    Returns
    -------
    Conclusion

    Examples
    --------
    >>> conclude({"another class": Answer.SAME, "random dense layers": Answer.SAME}).value
    'shows the image, not the decision'
    >>> conclude({"another class": Answer.SAME}).value
    'cannot tell'
    """
    found = {answers.get(question, Answer.CANNOT_TELL) for question in DECISIVE}
    if found == {Answer.SAME}:
        return Conclusion.IGNORES
    if found == {Answer.CHANGED}:
        return Conclusion.DEPENDS
    return Conclusion.CANNOT_TELL


def guide(rows: Iterable[Row], methods: Iterable[str]) -> list[Guidance]:
    """Return what the scorecard says of each method.

    Parameters
    ----------
    rows : iterable of Row
        The scorecard.
    methods : iterable of str
        Such as `modbp.METHODS`.

    Returns
    -------
    list of Guidance
        In the order of `methods`; one of which nothing was measured has no evidence, and cannot be told.

    Examples
    --------
    >>> [g.conclusion.value for g in guide([], ["gradient"])]
    ['cannot tell']
    """
    measured = {check.quantity: check for row in rows for check in row.checks if not math.isnan(check.measured)}
    found = []
    for method in methods:
        checks = {
            q: measured[name] for q, quantity in QUESTIONS.items() if (name := quantity.format(method)) in measured
        }
        evidence = {question: (answer(check.measured, check.spread), check) for question, check in checks.items()}
        conclusion = conclude({question: said for question, (said, _) in evidence.items()})
        found.append(Guidance(method, evidence, conclusion))
    return found
