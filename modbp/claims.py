"""The ledger of claims, and how a measured number becomes a verdict.

Every claim has an id, the paper it belongs to, where we know it from, and what we predict. Provenance is one of

* *abstract*: the paper's own abstract says it;
* *code*: read in the paper's public code;
* *notes*: second hand, from someone's reading notes of the paper;
* *ours*: derived or found by this project.

A statement is in our words throughout; none is a quotation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from modbp.errors import InputError
from modbp.formatting import number

if TYPE_CHECKING:
    from modbp.metrics import Summary


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
    >>> str(about(0.5, 0.1)), str(at_least(0.9)), str(at_most(1e-5))
    ('0.50 ± 0.10', '≥ 0.90', '≤ 1e-05')
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


def find(claim_id: str) -> Claim:
    """Return a row of the ledger.

    Parameters
    ----------
    claim_id : str

    Returns
    -------
    Claim

    Raises
    ------
    InputError
        If there is no such claim.

    Examples
    --------
    >>> find("N9").paper
    'Nie 2018'
    """
    if claim_id not in LEDGER:
        raise InputError(f"the claim {claim_id!r} is unknown; allowed are {', '.join(LEDGER)}.")
    return LEDGER[claim_id]


PAPERS: Mapping[str, str] = MappingProxyType(
    {
        "Sixt 2020": "Sixt, Granz and Landgraf, When Explanations Lie: Why Many Modified BP Attributions Fail",
        "Nie 2018": "Nie, Zhang and Patel, A Theoretical Explanation for Perplexing Behaviors of"
        " Backpropagation-based Visualizations",
        "Zheng 2025": "Zheng, Sang and Xu, Unifying Perplexing Behaviors in Modified BP Attributions through"
        " Alignment Perspective",
    }
)
"""The three papers, by the key that claims use."""

HIGH_PASS = "high-pass correlation with the image, {}"
CLASSES = "cosine between the maps of different classes, {}"
TRAINING = "high-pass correlation, trained minus random, guided_backprop"

_SIXT = (
    Claim(
        "S1",
        "Sixt 2020",
        "abstract (claim), ours (proof)",
        "Products of z+ matrices converge to rank 1.",
        "1 − mean pairwise cosine: positive factors below 1e-12 by 6 factors, α2β1 below 1e-8 by 8, signed never",
    ),
    Claim(
        "S2",
        "Sixt 2020",
        "ours",
        "The conditions visible in the paper's appendix are not enough for rank 1.",
        "powers of an explicit 3 × 3 matrix keep rank 2; the columns of a 2 × 2 keep cosine 0.894",
    ),
    Claim(
        "S3",
        "Sixt 2020",
        "ours",
        "The bias-free z+ matrix is column-stochastic, so that Dobrushin's coefficient bounds"
        " the collapse, whose limit is c·1ᵀ.",
        "column sums 1 to rounding; the bound never violated",
    ),
    Claim(
        "S4",
        "Sixt 2020",
        "abstract, notes",
        "Random relevance injected at the logits aligns on its way down for every"
        " modified rule but LRP-z and DeepLIFT.",
        "at conv1_1: z+ 1.0000, α2β1 1.0000, Guided Backprop 1.0000, gradient 0.62, LRP-z 0.88",
    ),
    Claim("S5", "Sixt 2020", "notes", "α5β4 converges less on VGG16.", "0.48 at conv5_3, 0.80 at conv1_1"),
    Claim("S6", "Sixt 2020", "ours", "Starting lower in the network converges less.", "fewer factors, lower cosine"),
    Claim(
        "S7",
        "Sixt 2020",
        "notes",
        "Composites converge per location, not over the whole map.",
        "per-position above whole-map cosine",
    ),
    Claim(
        "S8",
        "Sixt 2020",
        "ours",
        "A signed rule still converges while its entries' spread is below mean × √width.",
        "boundary at α = 9.5 for independent matrices of width 512, at 5.6 inside a ReLU network",
    ),
    Claim(
        "S9",
        "Sixt 2020",
        "code, ours",
        "Clipping relevance at residual additions makes signed rules converge.",
        "α5β4 from 0.26 to 0.997 in a residual network",
    ),
    Claim(
        "S10",
        "Sixt 2020",
        "notes",
        "PatternAttribution's matrices have a ratio of singular values above 6.",
        "ratio above 6 per layer, with the overlap of consecutive singular vectors beside it",
    ),
    Claim(
        "S11", "Sixt 2020", "abstract", "DeepLIFT does not converge.", "Rescale clearly below 0.99; RevealCancel open"
    ),
    Claim("S12", "Sixt 2020", "abstract", "DeepLIFT with its two chains decoupled converges.", "at least 0.99"),
    Claim(
        "S13",
        "Sixt 2020",
        "abstract",
        "The maps of converging rules hardly change with the class.",
        "SSIM near 1 against clearly lower",
    ),
    Claim(
        "S14",
        "Sixt 2020",
        "abstract",
        "Under cascading parameter randomization the maps of converging rules hardly change until the early layers.",
        "two groups of methods",
    ),
    Claim(
        "S15",
        "Sixt 2020",
        "abstract",
        "The same order holds on a small network trained end to end and on a residual network.",
        "the same groups",
    ),
    Claim(
        "S16",
        "Sixt 2020",
        "abstract",
        "Negative relevance keeps class information, at the price of noise.",
        "α-β at conv1_1: 1/0 1.000, 2/1 1.000, 5/4 0.80",
    ),
)
_NIE = (
    Claim(
        "N1",
        "Nie 2018",
        "notes, code",
        "Gradient, Deconvolution and Guided Backprop differ only in the mask at each ReLU.",
        "one backward template with three masks gives all three maps, to rounding",
        {"largest relative difference": at_most(1e-5)},
    ),
    Claim(
        "N2",
        "Nie 2018",
        "abstract (claim), ours (law)",
        "Guided Backprop recovers the image in a random three-layer network, for every logit.",
        "cosine √(SNR/(1+SNR)): 0.592, 0.827, 0.947 for 16, 64, 256 filters",
    ),
    Claim(
        "N3", "Nie 2018", "abstract, notes", "In that network the gradient is noise.", "absolute correlation below 0.04"
    ),
    Claim(
        "N4",
        "Nie 2018",
        "ours",
        "Without pooling, Deconvolution does not depend on the image at all.",
        "difference exactly 0",
    ),
    Claim(
        "N5", "Nie 2018", "notes", "Max-pooling rescues Deconvolution only.", "high-pass correlation from 0 to 0.4–0.8"
    ),
    Claim(
        "N6",
        "Nie 2018",
        "abstract, notes",
        "Local connections are a cause: a fully connected network needs far more units.",
        "cosine 0.09, 0.19, 0.38, 0.61 for 1,000 to 70,000 units",
    ),
    Claim(
        "N7", "Nie 2018", "notes", "The number of filters needed grows as p/ε².", "error (π²p − 1)/N for a lone patch"
    ),
    Claim(
        "N8",
        "Nie 2018",
        "notes, ours",
        "Depth hardly changes recovery, but makes maps of a backward ReLU insensitive to the class.",
        "cosine between classes 0.318, 0.494, 0.605, 0.681 with depth",
    ),
    Claim(
        "N9",
        "Nie 2018",
        "abstract",
        "In trained networks Guided Backprop and Deconvolution recover the image in part,"
        " hardly depending on the class.",
        "high-pass correlation at the input 0.58, 0.55, 0.29, −0.01 for Guided Backprop, Deconvolution, RectGrad and"
        " the gradient (one measurement of ours on three photographs); Guided Backprop below that of a random network;"
        " maps of different classes with cosine at least 0.9, where the gradient's have none",
        {
            HIGH_PASS.format("guided_backprop"): about(0.58, 0.10),
            HIGH_PASS.format("deconvolution"): about(0.55, 0.10),
            HIGH_PASS.format("rectgrad"): about(0.29, 0.10),
            HIGH_PASS.format("gradient"): about(-0.01, 0.05),
            TRAINING: at_most(0.0),
            CLASSES.format("guided_backprop"): at_least(0.90),
            CLASSES.format("deconvolution"): at_least(0.90),
            CLASSES.format("gradient"): at_most(0.30),
        },
    ),
    Claim(
        "N10",
        "Nie 2018",
        "notes, code",
        "Recovery follows the first layers.",
        "the map approaches the trained one once the first layers are loaded",
    ),
    Claim(
        "N11",
        "Nie 2018",
        "notes",
        "An adversarial change of class moves the gradient and not Guided Backprop or Deconvolution.",
        "an order, not invariance",
    ),
    Claim(
        "N12",
        "Nie 2018",
        "ours (definition)",
        "The maps of different classes are far apart for the gradient and close for Guided Backprop.",
        "unit-norm distance √2 against far below",
    ),
)
_ZHENG = (
    Claim(
        "Z1",
        "Zheng 2025",
        "abstract",
        "Guided Backprop, RectGrad, LRP and Deep Taylor are one negative filtering rule.",
        "equal to rounding",
    ),
    Claim(
        "Z2", "Zheng 2025", "ours", "Filtering never lowers alignment with non-negative activations.", "0 violations"
    ),
    Claim(
        "Z3",
        "Zheng 2025",
        "abstract (statement), ours (law)",
        "One hidden layer with random weights aligns with its input.",
        "cosine (1 + K(n−1)/m)^(−1/2) with K = π², π, 2",
    ),
    Claim(
        "Z4",
        "Zheng 2025",
        "ours",
        "For a random convolution the map is the locally normalized image.",
        "0.592, 0.827, 0.947, 0.986 for 16, 64, 256, 1024 filters",
    ),
    Claim(
        "Z5",
        "Zheng 2025",
        "abstract (statement), ours (identity)",
        "Orthogonal weights of equal norm pass alignment on.",
        "equal to 1e-14; 0 violations of the bound",
    ),
    Claim("Z6", "Zheng 2025", "ours", "Without the filter alignment decays, with it it settles.", "settles at 0.724"),
    Claim(
        "Z7",
        "Zheng 2025",
        "ours",
        "The curve of cascading randomization can be predicted for Guided Backprop.",
        "within 0.03",
    ),
    Claim(
        "Z8",
        "Zheng 2025",
        "abstract",
        "Randomizing high layers does not disturb alignment below.",
        "Guided Backprop stays, the gradient does not",
    ),
    Claim(
        "Z9",
        "Zheng 2025",
        "ours",
        "Four predicted behaviors: the negated class, random positive signals, RectGrad's peak, biases and width.",
        "as derived, each number stated first",
    ),
    Claim(
        "Z10",
        "Zheng 2025",
        "abstract (term), ours (measure)",
        "Trained active weights point more towards their input than random ones.",
        "above √(2/(πn))",
    ),
    Claim(
        "Z11",
        "Zheng 2025",
        "abstract",
        "Layer by layer, the arriving signal aligns with the activation.",
        "a profile per rule",
    ),
    Claim(
        "Z12",
        "Zheng 2025",
        "ours (definition)",
        "How far the picked-out information drives the decision.",
        "two operationalizations, each with a control of the wrong class",
    ),
    Claim(
        "Z13",
        "Zheng 2025",
        "abstract (topic)",
        "What an aligned map shows when the decision is wrong or triggered.",
        "share of the map inside the trigger, against the share of area",
    ),
)

LEDGER: Mapping[str, Claim] = MappingProxyType({claim.id: claim for claim in (*_SIXT, *_NIE, *_ZHENG)})
"""Every claim, by id."""
