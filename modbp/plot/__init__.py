"""Figures in one style: maps beside photographs, numbers per image with what was predicted, curves over layers."""

from modbp.plot.curves import Curve, curves
from modbp.plot.pictures import CLIP, PICTURE_DPI, as_picture, map_grid, photograph, picture_grid
from modbp.plot.points import dots
from modbp.plot.style import NAMES, STYLE, Picture, render, style

__all__ = [
    "CLIP",
    "NAMES",
    "PICTURE_DPI",
    "STYLE",
    "Curve",
    "Picture",
    "as_picture",
    "curves",
    "dots",
    "map_grid",
    "photograph",
    "picture_grid",
    "render",
    "style",
]
