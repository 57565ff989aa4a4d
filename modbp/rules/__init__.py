"""Backward rules: one rule is one small class whose body reads like its formula.

Read them in this order: `relu` (what becomes of a signal that crosses a rectifier), `affine` (what a layer is to a
rule), `relevance` (LRP and its relatives), `clip` (a bound on what they hand down),
`pattern` (PatternNet and PatternAttribution), `deeplift`.
"""

from modbp.rules.affine import AffineLayer
from modbp.rules.clip import Clipped, rectified_cosine
from modbp.rules.deeplift import DecoupledCode, DecoupledText, Linear, Rescale, RevealCancel
from modbp.rules.pattern import PatternAttribution, PatternNet, Transposed
from modbp.rules.relevance import (
    AlphaBeta,
    Contrast,
    Epsilon,
    Flat,
    Gamma,
    RelevanceRule,
    SameSign,
    WSquare,
    ZBox,
    ZPlus,
)
from modbp.rules.relu import Deconvolution, GuidedBackprop, Pass, RectGrad, ReLURule

__all__ = [
    "AffineLayer",
    "AlphaBeta",
    "Clipped",
    "Contrast",
    "Deconvolution",
    "DecoupledCode",
    "DecoupledText",
    "Epsilon",
    "Flat",
    "Gamma",
    "GuidedBackprop",
    "Linear",
    "Pass",
    "PatternAttribution",
    "PatternNet",
    "ReLURule",
    "RectGrad",
    "RelevanceRule",
    "Rescale",
    "RevealCancel",
    "SameSign",
    "Transposed",
    "WSquare",
    "ZBox",
    "ZPlus",
    "rectified_cosine",
]
