"""Figures in one style: maps beside photographs, numbers per image with what was predicted, curves over layers."""

from modbp.plot.chains import blocks, step_of_multipliers
from modbp.plot.cones import cones, triangles
from modbp.plot.curves import Curve, curves
from modbp.plot.phases import against_law, phases
from modbp.plot.pictures import CLIP, PICTURE_DPI, as_picture, map_grid, photograph, picture_grid
from modbp.plot.points import dots, ranking
from modbp.plot.style import FAMILIES, NAMES, STYLE, Picture, legend, render, style

__all__ = [
    "CLIP",
    "FAMILIES",
    "NAMES",
    "PICTURE_DPI",
    "STYLE",
    "Curve",
    "Picture",
    "against_law",
    "as_picture",
    "blocks",
    "cones",
    "curves",
    "dots",
    "legend",
    "map_grid",
    "phases",
    "photograph",
    "picture_grid",
    "ranking",
    "render",
    "step_of_multipliers",
    "style",
    "triangles",
]
