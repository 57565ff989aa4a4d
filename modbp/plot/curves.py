"""Curves over layers or factors: how far a chain has come, with its spread and its chance level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modbp.errors import InputError
from modbp.plot.style import NAMES, Picture, legend, render, style

MARKERS = "osD^vPX*<>"
LINES = ("-", "--", "-.", ":")
FLOOR = 1e-8
"""Where the logarithmic axis ends; smaller values are drawn there."""


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Parameters
    ----------
    values : sequence of float
        One per place on the horizontal axis; NaN leaves a gap.
    low, high : sequence of float, optional
        The band around it, such as two percentiles.
    quiet : bool, default False
        Drawn in gray without markers, as a yardstick is.

    Examples
    --------
    >>> Curve([0.1, 0.2]).quiet
    False
    """

    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    quiet: bool = False


def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    places: Sequence[str],
    ylabel: str,
    xlabel: str = "",
    logarithmic: bool = False,
    floor: float = FLOOR,
    height: float = 3.6,
    limits: tuple[float, float] | None = None,
    columns: int = 5,
    across: int | None = None,
) -> Picture:
    """Draw lines over named places, in one panel or several beside each other.

    Parameters
    ----------
    panels : mapping from title to mapping from name to Curve
        A name that is a method's is written as figures write it. The same name has the same color, marker and line
        in all panels, unless each panel has a legend of its own.
    places : sequence of str
        Along the horizontal axis, such as the names of layers.
    ylabel : str
    xlabel : str, default ""
    logarithmic : bool, default False
        A logarithmic vertical axis that ends at `floor`, for 1 − cosine.
    floor : float, default 1e-8
    height : float, default 3.6
        Of a row of panels, in inches; their own legends come on top.
    limits : (float, float), optional
        Of the vertical axis.
    columns : int, default 5
        Of the legend above all panels; fewer where it would be wider than the figure.
    across : int, optional
        Lay out the panels in rows of so many, each with a legend of its own above it. By default all stand in one row.

    Returns
    -------
    Picture

    Raises
    ------
    InputError
        If a curve has not one value per place.

    Examples
    --------
    >>> curves({"": {"gradient": Curve([0.1, 0.2]), "chance": Curve([0.1, 0.1], quiet=True)}}, ["a", "b"], "cosine")
    <plot of cosine: Gradient, chance>
    """
    from matplotlib.figure import Figure

    for by_name in panels.values():
        for name, curve in by_name.items():
            if len(curve.values) != len(places):
                given = f"{name} has {len(curve.values)} values for {len(places)} places"
                raise InputError(f"{given}; allowed is one each.")
    names = list(dict.fromkeys(name for by_name in panels.values() for name in by_name))
    groups = [panels] if across is None else [{title: by_name} for title, by_name in panels.items()]
    wide = across or len(panels)
    high = -(-len(panels) // wide)
    with style():
        room = 0.0 if across is None else 0.7  # for a legend above each row
        figure = Figure(figsize=(max(6.8, 3.4 * wide), (height + room) * high))
        axes = figure.subplots(high, wide, squeeze=False, sharey=True, sharex=True)
        free = iter(axes.flat)
        for group in groups:
            looks = _looks(group)
            drawn: dict[str, Any] = {}
            for title, by_name in group.items():
                axis = next(free)
                for name, curve in by_name.items():
                    drawn[name] = _draw(axis, curve, name, looks[name], floor if logarithmic else -np.inf)
                axis.set_xticks(range(len(places)), places, rotation=90 if max(map(len, places)) > 3 else 0, fontsize=8)
                axis.tick_params(labelbottom=True)
                axis.set_xlabel(xlabel)
                if logarithmic:
                    axis.set_yscale("log")
                    axis.minorticks_off()  # dozens of them, which take seconds to lay out
                    axis.set_ylim(floor / 2, 2)
                if limits:
                    axis.set_ylim(*limits)
                if across is None:
                    axis.set_title(title)
            if across is not None:  # then a group is one panel, and the title stands above its legend
                above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 2, "columnspacing": 1.2}
                axis.legend(handles=list(drawn.values()), title=title, fontsize=7, title_fontsize=10, **above)
        for axis in free:
            axis.set_axis_off()
        for row in axes:
            row[0].set_ylabel(ylabel)
        if across is None:
            legend(figure, columns, handles=[drawn[n] for n in names])
        return render(figure, "png", f"plot of {ylabel}: {', '.join(NAMES.get(n, n) for n in names)}")


def _draw(axis: Any, curve: Curve, name: str, look: dict[str, Any], least: float) -> Any:
    shown, low, high = (
        None if v is None else np.maximum(np.asarray(v, float), least) for v in (curve.values, curve.low, curve.high)
    )
    assert shown is not None
    (line,) = axis.plot(np.arange(len(shown)), shown, **look, ms=4, label=NAMES.get(name, name))
    if low is not None and high is not None:
        axis.fill_between(np.arange(len(shown)), low, high, color=line.get_color(), alpha=0.15, lw=0)
    return line


def _looks(panels: Mapping[str, Mapping[str, Curve]]) -> dict[str, dict[str, Any]]:
    """Return color, marker and line of each name; where the colors begin again, the line is another."""
    found: dict[str, dict[str, Any]] = {}
    loud = 0
    for name, curve in ((n, c) for by_name in panels.values() for n, c in by_name.items()):
        if name in found:
            continue
        if curve.quiet:
            found[name] = {"color": "0.35", "ls": (0, (1, 1.5)), "lw": 1.2}
            continue
        marker, line = MARKERS[loud % len(MARKERS)], LINES[loud // 8 % len(LINES)]
        found[name] = {"color": f"C{loud % 8}", "marker": marker, "ls": line, "lw": 1.4}
        loud += 1
    return found
