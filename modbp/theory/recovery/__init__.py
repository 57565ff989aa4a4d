"""Image recovery: the template, the laws and the networks of the theory page `book/image-recovery.md` as code."""

from modbp.theory.recovery.laws import (
    arc_cosine,
    arc_cosine_recursion,
    constant_power,
    constant_share,
    equal_norm_snr,
    expected_maximum,
    fully_connected_cosine,
    max_pooled_cosine,
    one_patch_cosines,
    one_patch_error,
    recovery_cosine,
    squared_error,
    two_logits_cosine,
)
from modbp.theory.recovery.patches import Patches, gradient_variance, noise_correction, signal_to_noise
from modbp.theory.recovery.simulate import one_patch_maps, three_layer_maps
from modbp.theory.recovery.template import MASKS, Mask, masked_backward

__all__ = [
    "MASKS",
    "Mask",
    "Patches",
    "arc_cosine",
    "arc_cosine_recursion",
    "constant_power",
    "constant_share",
    "equal_norm_snr",
    "expected_maximum",
    "fully_connected_cosine",
    "gradient_variance",
    "masked_backward",
    "max_pooled_cosine",
    "noise_correction",
    "one_patch_cosines",
    "one_patch_error",
    "one_patch_maps",
    "recovery_cosine",
    "signal_to_noise",
    "squared_error",
    "three_layer_maps",
    "two_logits_cosine",
]
