"""The ledger of claims, and how a measured number becomes a verdict.

Every claim has an id, the paper it belongs to, where we know it from, and what we predict. Provenance is one of

* *abstract*: the paper's own abstract says it;
* *code*: read in the paper's public code;
* *notes*: second hand, from someone's reading notes of the paper;
* *ours*: derived or found by this project.

A statement is in our words throughout; none is a quotation.
"""

from modbp.claims import quantities
from modbp.claims.judging import count, judge, overall, predicted_among, predictions_of
from modbp.claims.ledger import LEDGER, PAPERS, find
from modbp.claims.predictions import CHECK_COLUMNS, Check, Claim, Prediction, Verdict, about, at_least, at_most, check
from modbp.claims.scorecard import Row, scorecard
from modbp.claims.sixt import CONVERGING, NOT_CONVERGING

__all__ = [
    "CHECK_COLUMNS",
    "CONVERGING",
    "LEDGER",
    "NOT_CONVERGING",
    "PAPERS",
    "Check",
    "Claim",
    "Prediction",
    "Row",
    "Verdict",
    "about",
    "at_least",
    "at_most",
    "check",
    "count",
    "find",
    "judge",
    "overall",
    "predicted_among",
    "predictions_of",
    "quantities",
    "scorecard",
]
