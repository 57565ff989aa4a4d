"""From similarities of maps to what a method depends on, by stated thresholds, or to 'cannot tell'."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from modbp.claims.guidance import Answer, answer_of
from modbp.formatting import decimals
from modbp.metrics.sanity import EDGES, NOISE

CONFIDENCE = 0.95
"""Of every interval of an audit: how often intervals of this kind hold the median of all pictures like these."""

CLASS, LATER, ALL, IMAGE = "another class", "later layers random", "all layers random", "another picture"
"""What is changed under a map: the keys of `QUESTIONS`."""

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        CLASS: "the class that is asked for",
        LATER: "what the last quarter of the layers has learned",
        ALL: "what the network has learned",
        IMAGE: "the picture",
    }
)
"""What is changed under a map, and what a map that stays the same does not depend on."""

CEILING, FLOOR = "the same again", "its own pixels shuffled"
"""What each method's similarities are held against: its map computed twice, and a map with nothing in its place."""

CONTROLS: Mapping[str, Mapping[str, Answer]] = MappingProxyType(
    {
        NOISE: MappingProxyType(dict.fromkeys(QUESTIONS, Answer.CHANGED)),
        EDGES: MappingProxyType(dict.fromkeys((CLASS, LATER, ALL), Answer.SAME) | {IMAGE: Answer.CHANGED}),
    }
)
"""How the controls must come out: where one does not, the measure cannot tell maps apart here."""


class Verdict(StrEnum):
    """What a method's maps depend on.

    Examples
    --------
    >>> print(Verdict.INPUT)
    depends on the input alone
    """

    DECISION = "depends on the class and on the later layers"
    CLASS = "depends on the class, not on the later layers"
    LAYERS = "depends on the later layers, not on the class"
    EARLY = "depends on the input and on the early layers alone"
    INPUT = "depends on the input alone"
    IGNORES = "depends neither on the class nor on the later layers"
    NOTHING = "depends on nothing"
    CLASS_ONLY = "depends on the class; cannot tell for the later layers"
    LAYERS_ONLY = "depends on the later layers; cannot tell for the class"
    NOT_CLASS = "does not depend on the class; cannot tell for the later layers"
    NOT_LAYERS = "does not depend on the later layers; cannot tell for the class"
    CANNOT_TELL = "cannot tell"


class Finding(StrEnum):
    """Whether the pixels that a map ranks first matter to the network.

    Examples
    --------
    >>> print(Finding.BETTER)
    better than chance
    """

    BETTER = "better than chance"
    WORSE = "worse than chance"
    CANNOT_TELL = "cannot tell from chance"


MEANINGS: Mapping[Verdict, str] = MappingProxyType(
    {
        Verdict.CLASS: "It says something of the class. It says it without the layers that decide, so do not take it"
        " for the reason of the decision.",
        Verdict.LAYERS: "It follows what the network has learned, but it is the same map for another class. Do not use"
        " it to ask why this class and no other.",
        Verdict.EARLY: "It shows what the first layers see in the picture. Do not use it as evidence about the"
        " decision: the class and the later layers could be others, and the map would be the same.",
        Verdict.INPUT: "It shows the picture. An untrained network gives the same map, so it is no evidence about this"
        " one.",
        Verdict.IGNORES: "Do not use it as evidence about the decision: the class and the later layers could be others,"
        " and the map would be the same.",
        Verdict.NOTHING: "It is the same map for every picture. There is no use for it.",
        Verdict.CLASS_ONLY: "It says something of the class. Whether it needs the layers that decide is open: more"
        " pictures may settle it.",
        Verdict.LAYERS_ONLY: "It follows what the network has learned. Whether it is another map for another class is"
        " open: do not use it yet to ask why this class and no other.",
        Verdict.NOT_CLASS: "It is the same map for another class. Do not use it to ask why this class and no other.",
        Verdict.NOT_LAYERS: "It is the same map without what the later layers have learned. Do not take it for the"
        " reason of the decision, which is made there.",
        Verdict.CANNOT_TELL: "These pictures do not settle it. More of them may; until then, do not rely on it.",
    }
)
_DECISION_MEANS: Mapping[Finding, str] = MappingProxyType(
    {
        Finding.BETTER: "It passed what it could have failed, and the pixels that it ranks first matter to the network."
        " That is a reason to look at it, and no proof that it is the explanation.",
        Finding.WORSE: "It changes with the decision, as noise would, and the pixels that it ranks first matter less"
        " than others. Do not read its order as what the network used.",
        Finding.CANNOT_TELL: "It changes with the decision, as noise would, and it is not shown that the pixels that it"
        " ranks first matter. Do not read its order as what the network used.",
    }
)


@dataclass(frozen=True)
class Interval:
    """A median over pictures, and where that of all pictures like these may lie.

    Parameters
    ----------
    median : float
        NaN if no value was defined.
    low, high : float
        NaN where there are too few values for an interval of `CONFIDENCE`: it takes six.
    defined, undefined : int
        How many values were numbers, and how many were not and are left out.

    Examples
    --------
    >>> print(Interval(0.95, 0.91, 1.0, 10))
    0.95 (0.91 to 1.00)
    """

    median: float
    low: float
    high: float
    defined: int
    undefined: int = 0

    def __str__(self) -> str:
        if math.isnan(self.median):
            return "undefined"
        ends = "no interval" if math.isnan(self.low) else f"{decimals(self.low)} to {decimals(self.high)}"
        return f"{decimals(self.median)} ({ends})"


def interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the median of values with its exact interval, from the order of the values alone.

    Nothing is assumed of how the values are distributed (`scipy.stats.quantile_test`). Its ends are two of the values,
    so that few values give a wide interval, and fewer than six give none at 95 %.

    Parameters
    ----------
    values : iterable of float
        One for each picture; NaN is left out and counted.
    confidence : float, default 0.95

    Returns
    -------
    Interval

    Examples
    --------
    >>> str(interval([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])), str(interval([0.1, 0.2, 0.3]))
    ('0.35 (0.10 to 0.60)', '0.20 (no interval)')
    """
    from scipy.stats import quantile_test

    everything = np.asarray(list(values), dtype=float)
    found = everything[~np.isnan(everything)]
    undefined = len(everything) - len(found)
    if not len(found):
        return Interval(math.nan, math.nan, math.nan, 0, undefined)
    ends = quantile_test(found, q=0.0, p=0.5).confidence_interval(confidence)
    low, high = (float(end) for end in (ends.low, ends.high))
    if math.isnan(low) or math.isnan(high):
        low = high = math.nan
    return Interval(float(np.median(found)), low, high, len(found), undefined)


def answer(similarity: Interval, floor: Interval, ceiling: Interval, second: Interval) -> Answer:
    """Return what a similarity says of a map, beside the method's own floor and ceiling and a second measure.

    The whole interval must lie beyond a threshold, `SAME` or `CHANGED`. A map that is the same must be
    more like the other one than its own pixels, shuffled, are like itself: sparse maps are alike wherever they are
    empty. A map that is another one must be less like the other one than the same map, computed twice: a method that
    draws at random never returns the same. And the second measure must not say the opposite.

    Parameters
    ----------
    similarity : Interval
        Of the map and that after a change.
    floor : Interval
        Of the map and its own pixels, shuffled.
    ceiling : Interval
        Of the map and the same, computed again.
    second : Interval
        As `similarity`, by another measure.

    Returns
    -------
    Answer

    Examples
    --------
    >>> same, low, once = (interval([value] * 6) for value in (0.97, 0.1, 1.0))
    >>> [answer(*given, low).value for given in ((low, low, once), (low, low, low), (same, low, once))]
    ['another map', 'cannot tell', 'cannot tell']
    >>> answer(same, low, once, same).value
    'same map'
    """
    found = answer_of(similarity.low, similarity.high)
    if {found, answer_of(second.low, second.high)} == {Answer.SAME, Answer.CHANGED}:
        return Answer.CANNOT_TELL
    if found is Answer.SAME and not similarity.low > floor.high:
        return Answer.CANNOT_TELL
    if found is Answer.CHANGED and not similarity.high < ceiling.low:
        return Answer.CANNOT_TELL
    return found


def finding(separation: Interval) -> Finding:
    """Return what pixel flipping says of a map.

    Parameters
    ----------
    separation : Interval
        The area between the curves of both orders (`modbp.metrics.flipping_area`); 0 in expectation for chance.

    Returns
    -------
    Finding

    Examples
    --------
    >>> [finding(interval([value] * 6)).value for value in (0.2, -0.2, 0.0)]
    ['better than chance', 'worse than chance', 'cannot tell from chance']
    """
    if separation.low > 0:
        return Finding.BETTER
    return Finding.WORSE if separation.high < 0 else Finding.CANNOT_TELL


def verdict(answers: Mapping[str, Answer]) -> Verdict:
    """Return what answers mean together.

    Parameters
    ----------
    answers : mapping from str to Answer
        By question of `QUESTIONS`; one that is missing counts as not answered.

    Returns
    -------
    Verdict
        `CANNOT_TELL` where neither the class nor the later layers are answered.

    Examples
    --------
    >>> same, changed = Answer.SAME, Answer.CHANGED
    >>> verdict({CLASS: same, LATER: same, ALL: changed, IMAGE: changed}).value
    'depends on the input and on the early layers alone'
    >>> verdict({CLASS: changed}).value
    'depends on the class; cannot tell for the later layers'
    """
    asked = [answers.get(question, Answer.CANNOT_TELL) for question in QUESTIONS]
    by_class, by_later, by_all, by_image = asked
    decisive = {
        (Answer.CHANGED, Answer.CHANGED): Verdict.DECISION,
        (Answer.CHANGED, Answer.SAME): Verdict.CLASS,
        (Answer.SAME, Answer.CHANGED): Verdict.LAYERS,
        (Answer.SAME, Answer.SAME): Verdict.IGNORES,
        (Answer.CHANGED, Answer.CANNOT_TELL): Verdict.CLASS_ONLY,
        (Answer.CANNOT_TELL, Answer.CHANGED): Verdict.LAYERS_ONLY,
        (Answer.SAME, Answer.CANNOT_TELL): Verdict.NOT_CLASS,
        (Answer.CANNOT_TELL, Answer.SAME): Verdict.NOT_LAYERS,
    }
    found = decisive.get((by_class, by_later), Verdict.CANNOT_TELL)
    if found is not Verdict.IGNORES:
        return found
    further = {
        (Answer.CHANGED, Answer.CHANGED): Verdict.EARLY,
        (Answer.SAME, Answer.CHANGED): Verdict.INPUT,
        (Answer.SAME, Answer.SAME): Verdict.NOTHING,
    }
    return further.get((by_all, by_image), Verdict.IGNORES)


def meaning(found: Verdict, flipped: Finding) -> str:
    """Return what a verdict means for someone who uses the map.

    Parameters
    ----------
    found : Verdict
    flipped : Finding

    Returns
    -------
    str

    Examples
    --------
    >>> meaning(Verdict.INPUT, Finding.BETTER)
    'It shows the picture. An untrained network gives the same map, so it is no evidence about this one.'
    """
    return _DECISION_MEANS[flipped] if found is Verdict.DECISION else MEANINGS[found]
