"""The picture behind rank-one convergence: the cone that the columns of a product span, and how it shrinks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from modbp.errors import InputError
from modbp.plot.style import Picture, legend, render, style

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
"""Where the planar picture puts the three unit vectors."""

COLORS = ("C0", "C1", "C2", "C4", "C5", "C6", "C7", "black")


def cones(products: Mapping[str, Tensor], azimuth: float = 35, elevation: float = 25) -> Picture:
    """Draw the columns of 3-row matrices as rays in the positive orthant, and the cone that they span.

    Parameters
    ----------
    products : mapping from title to Tensor, shape (3, columns)
        Column-stochastic, so that all rays end on the triangle of probability vectors, which is outlined. One panel
        each.
    azimuth, elevation : float, default 35 and 25
        From where to look, in degrees.

    Returns
    -------
    Picture

    Raises
    ------
    InputError
        If a matrix has not three rows.

    Examples
    --------
    >>> import torch
    >>> cones({"one": torch.eye(3)})
    <cones of 1 products: one>
    """
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]

    panels = {title: _columns(matrix) for title, matrix in products.items()}
    with style():
        figure = Figure(figsize=(2.3 * len(panels), 2.7))
        figure.set_layout_engine("none")  # it would leave most of the plate white
        for place, (title, ends) in enumerate(panels.items(), start=1):
            left, width = (place - 1) / len(panels), 1 / len(panels)
            axis: Any = figure.add_axes((left, -0.05, width, 0.98), projection="3d", computed_zorder=False)
            for unit in np.eye(3):
                axis.plot(*np.stack([0 * unit, 1.1 * unit], 1), color="black", lw=0.8)
                axis.text(*(1.2 * unit), f"$e_{unit.argmax() + 1}$", fontsize=9, ha="center", va="center")
            axis.plot(*np.eye(3)[[0, 1, 2, 0]].T, color="0.55", lw=0.9, ls="--")
            around = ends[_around(ends)]
            faces = [[np.zeros(3), a, b] for a, b in zip(around, np.roll(around, -1, 0), strict=True)]
            axis.add_collection3d(Poly3DCollection(faces, facecolor="C0", edgecolor="none", alpha=0.22))
            axis.add_collection3d(Poly3DCollection([around], facecolor="C0", edgecolor="C0", alpha=0.45, lw=1.2))
            for end, marker in zip(ends, "osD^v" * len(ends), strict=False):
                axis.plot(*np.stack([0 * end, end], 1), color="C1", lw=1.1)
                axis.plot(*end[:, None], marker, color="C1", ms=3.5)
            axis.view_init(elev=elevation, azim=azimuth)
            axis.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))
            axis.set_box_aspect((1, 1, 1), zoom=0.88)
            axis.set_axis_off()
            figure.text(left + width / 2, 0.95, title, fontsize=9, ha="center", va="center")
        return render(figure, "png", f"cones of {len(panels)} products: {', '.join(panels)}")


def triangles(panels: Mapping[str, Mapping[str, Tensor]]) -> Picture:
    """Draw the same cones in the plane: the triangle of probability vectors, and in it the columns of each product.

    Parameters
    ----------
    panels : mapping from title to mapping from name to Tensor, shape (3, columns)
        Column-stochastic; the columns of one matrix are joined to a polygon.

    Returns
    -------
    Picture

    Raises
    ------
    InputError
        If a matrix has not three rows.

    Examples
    --------
    >>> import torch
    >>> triangles({"": {"n = 1": torch.eye(3)}})
    <triangles: n = 1>
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for by_name in panels.values() for name in by_name))
    with style():
        figure = Figure(figsize=(max(3.1 * len(panels), 3.4), 3.4))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        drawn = {}
        for axis, (title, by_name) in zip(axes, panels.items(), strict=True):
            axis.fill(*CORNERS.T, facecolor="none", edgecolor="0.4", lw=1)
            for corner, (dx, dy), label in zip(CORNERS, ((-7, -6), (7, -6), (0, 6)), "123", strict=True):
                axis.annotate(
                    f"$e_{label}$", corner, (dx, dy), textcoords="offset points", ha="center", va="center", fontsize=9
                )
            for name, matrix in by_name.items():
                number = names.index(name)
                ends = _columns(matrix)
                corners = (ends[_around(ends)] @ CORNERS)[[*range(len(ends)), 0]]
                (drawn[name],) = axis.plot(
                    *corners.T,
                    color=COLORS[number % len(COLORS)],
                    marker="osD^vPX*"[number % 8],
                    ls=("-", "--", "-.", ":")[number % 4],
                    ms=4,
                    lw=1.2,
                    label=name,
                )
            axis.set_title(title, fontsize=9)
            axis.set_aspect("equal")
            axis.set_axis_off()
        handles = [drawn[n] for n in names]
        legend(figure, len(names), "outside lower center", handles=handles)
        return render(figure, "png", f"triangles: {', '.join(names)}")


def _columns(matrix: Tensor) -> np.ndarray[Any, Any]:
    if matrix.dim() != 2 or matrix.shape[0] != 3:
        raise InputError(f"the matrix has shape {tuple(matrix.shape)}; allowed is (3, columns).")
    return matrix.detach().cpu().double().T.numpy()


def _around(ends: np.ndarray[Any, Any]) -> Sequence[int]:
    """Return the order of points of the triangle by their angle around their middle."""
    flat = ends @ CORNERS
    x, y = (flat - flat.mean(0)).T
    return [int(i) for i in np.argsort(np.arctan2(y, x), kind="stable")]
