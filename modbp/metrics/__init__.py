"""Measures on attributions: torch in; out come numbers per sample, or a table where a measure goes layer by layer."""

from modbp.metrics.classes import predicted_and_others
from modbp.metrics.convergence import chance_level, csc
from modbp.metrics.decision import sufficiency
from modbp.metrics.edges import edge_magnitude
from modbp.metrics.energy import column_energies
from modbp.metrics.flipping import flipping_area, pixel_flipping
from modbp.metrics.location import share_inside
from modbp.metrics.noise import autocorrelation, excess_kurtosis
from modbp.metrics.sanity import parameter_randomization, random_logit
from modbp.metrics.signals import alignment, weight_alignment
from modbp.metrics.similarity import (
    class_distance,
    class_distances,
    correlation,
    cosine,
    high_pass,
    high_pass_correlation,
    high_pass_share,
    pairwise_cosine,
    rank_correlation,
    relative_difference,
)
from modbp.metrics.singular import (
    effective_chain,
    effective_matrix,
    energy_rate,
    interlayer_matrix,
    layer_matrix,
    leading_cosine,
    mean_active_input,
    neighbors,
    random_directions,
    shuffled_outputs,
)
from modbp.metrics.summary import Summary, ratio_of_means, summarize, summarize_each

__all__ = [
    "Summary",
    "alignment",
    "autocorrelation",
    "chance_level",
    "class_distance",
    "class_distances",
    "column_energies",
    "correlation",
    "cosine",
    "csc",
    "edge_magnitude",
    "effective_chain",
    "effective_matrix",
    "energy_rate",
    "excess_kurtosis",
    "flipping_area",
    "high_pass",
    "high_pass_correlation",
    "high_pass_share",
    "interlayer_matrix",
    "layer_matrix",
    "leading_cosine",
    "mean_active_input",
    "neighbors",
    "pairwise_cosine",
    "parameter_randomization",
    "pixel_flipping",
    "predicted_and_others",
    "random_directions",
    "random_logit",
    "rank_correlation",
    "ratio_of_means",
    "relative_difference",
    "share_inside",
    "shuffled_outputs",
    "sufficiency",
    "summarize",
    "summarize_each",
    "weight_alignment",
]
