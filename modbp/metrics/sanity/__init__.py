"""Sanity checks of attributions: whether a map depends on the class, and on what the network has learned.

`random_logit` and `parameter_randomization` return tidy tables with one number per image, method, stage and measure;
`medians` sums them up. Every number stands beside the conventions that it was made with, and every table has controls:
a floor, a method that is noise and passes, an edge detector that fails, and each method against itself.
"""

from modbp.metrics.sanity.conventions import (
    CONVENTIONS,
    COSINE,
    ENTROPY_RISE,
    PAPER,
    SIGNED,
    SPEARMAN,
    SPEARMAN_ABSOLUTE,
    STRICT,
    Convention,
    Drawn,
    histogram_entropy,
    ssim,
    ssim_floor,
)
from modbp.metrics.sanity.explaining import EDGES, FLOOR, NOISE
from modbp.metrics.sanity.logits import ANOTHER_CLASS, random_logit
from modbp.metrics.sanity.parameters import TRAINED, TRAINED_NETWORK, parameter_randomization
from modbp.metrics.sanity.tables import ITSELF_NEGATED, ITSELF_SHUFFLED, OTHER_NOISE, medians, share_in_order

__all__ = [
    "ANOTHER_CLASS",
    "CONVENTIONS",
    "COSINE",
    "EDGES",
    "ENTROPY_RISE",
    "FLOOR",
    "ITSELF_NEGATED",
    "ITSELF_SHUFFLED",
    "NOISE",
    "OTHER_NOISE",
    "PAPER",
    "SIGNED",
    "SPEARMAN",
    "SPEARMAN_ABSOLUTE",
    "STRICT",
    "TRAINED",
    "TRAINED_NETWORK",
    "Convention",
    "Drawn",
    "histogram_entropy",
    "medians",
    "parameter_randomization",
    "random_logit",
    "share_in_order",
    "ssim",
    "ssim_floor",
]
