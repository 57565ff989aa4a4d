"""Measures on attributions: torch in, torch out, one number per sample."""

from modbp.metrics.classes import predicted_and_others
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
    "correlation",
    "cosine",
    "high_pass",
    "high_pass_correlation",
    "pairwise_cosine",
    "predicted_and_others",
    "relative_difference",
    "summarize",
    "summarize_each",
]
