"""Measures on attributions: torch in; out come numbers per sample, or a table where a measure goes layer by layer."""

from modbp.metrics.classes import predicted_and_others
from modbp.metrics.convergence import chance_level, csc
from modbp.metrics.similarity import (
    correlation,
    cosine,
    high_pass,
    high_pass_correlation,
    pairwise_cosine,
    relative_difference,
)
from modbp.metrics.summary import Summary, summarize, summarize_each

__all__ = [
    "Summary",
    "chance_level",
    "correlation",
    "cosine",
    "csc",
    "high_pass",
    "high_pass_correlation",
    "pairwise_cosine",
    "predicted_and_others",
    "relative_difference",
    "summarize",
    "summarize_each",
]
