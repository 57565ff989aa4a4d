"""Import what we extend of Captum, in one place: it warns on import about a progress widget that it does without."""

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)
    from captum.attr import Attribution, GradientAttribution
    from captum.attr._utils.lrp_rules import PropagationRule
    from captum.log import log_usage

__all__ = ["Attribution", "GradientAttribution", "PropagationRule", "log_usage"]
