"""The ledger of claims, and how a measured number becomes a verdict.

Every claim has an id, the paper it belongs to, where we know it from, and what we predict. Provenance is one of

* *abstract*: the paper's own abstract says it;
* *code*: read in the paper's public code;
* *notes*: second hand, from someone's reading notes of the paper;
* *ours*: derived or found by this project.

A statement is in our words throughout; none is a quotation.
"""

from modbp.claims.judging import judge, overall, predicted_among, predictions_of
from modbp.claims.ledger import LEDGER, PAPERS, find
from modbp.claims.predictions import Check, Claim, Prediction, Verdict, about, at_least, at_most, check
from modbp.claims.quantities import (
    ALIGNED,
    ALIGNED_DEEP,
    ARC_COSINE,
    CLASS_DISTANCE,
    CLASSES,
    FULLY_CONNECTED,
    HIGH_PASS,
    LOADED,
    LOWER_STARTS,
    MOVED,
    MOVED_LESS,
    MULTIPLIERS,
    NORMALIZED,
    NORMALIZED_CENTERED,
    PER_POSITION,
    POOLED,
    RANDOM_CLASSES,
    RANDOM_HIGH_PASS,
    RANKED,
    RATIO_ABOVE_SIX,
    RAW_RATIO,
    RESIDUAL,
    RESNET,
    REVEAL_CANCEL_IN_RANDOM,
    TRAINING,
    WHITE,
)

__all__ = [
    "ALIGNED",
    "ALIGNED_DEEP",
    "ARC_COSINE",
    "CLASSES",
    "CLASS_DISTANCE",
    "FULLY_CONNECTED",
    "HIGH_PASS",
    "LEDGER",
    "LOADED",
    "LOWER_STARTS",
    "MOVED",
    "MOVED_LESS",
    "MULTIPLIERS",
    "NORMALIZED",
    "NORMALIZED_CENTERED",
    "PAPERS",
    "PER_POSITION",
    "POOLED",
    "RANDOM_CLASSES",
    "RANDOM_HIGH_PASS",
    "RANKED",
    "RATIO_ABOVE_SIX",
    "RAW_RATIO",
    "RESIDUAL",
    "RESNET",
    "REVEAL_CANCEL_IN_RANDOM",
    "TRAINING",
    "WHITE",
    "Check",
    "Claim",
    "Prediction",
    "Verdict",
    "about",
    "at_least",
    "at_most",
    "check",
    "find",
    "judge",
    "overall",
    "predicted_among",
    "predictions_of",
]
