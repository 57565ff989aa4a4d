"""Backward rules: one rule is one small class whose body reads like its formula."""

from modbp.rules.relu import Deconvolution, GuidedBackprop, RectGrad, ReLURule

__all__ = ["Deconvolution", "GuidedBackprop", "ReLURule", "RectGrad"]
