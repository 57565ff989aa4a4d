"""Curves over layers or factors: how far a chain has come, with its spread and its chance level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modbp.errors import InputError
from modbp.plot.style import NAMES, Picture, render, style

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
) -> Picture:
    """Draw lines over named places, in one panel or several beside each other.

    Parameters
    ----------
    panels : mapping from title to mapping from name to Curve
        A name that is a method's is written as figures write it. The same name has the same color, marker and line
        in all panels.
    places : sequence of str
        Along the horizontal axis, such as the names of layers.
    ylabel : str
    xlabel : str, default ""
    logarithmic : bool, default False
        A logarithmic vertical axis that ends at `floor`, for 1 − cosine.
    floor : float, default 1e-8
    height : float, default 3.6
        Of the figure, in inches.
    limits : (float, float), optional
        Of the vertical axis.
    columns : int, default 5
        Of the legend.

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

    names = list(dict.fromkeys(name for by_name in panels.values() for name in by_name))
    for by_name in panels.values():
        for name, curve in by_name.items():
            if len(curve.values) != len(places):
                raise InputError(
                    f"{name} has {len(curve.values)} values for {len(places)} places; allowed is one each."
                )
    loud = [n for n in names if not all(by[n].quiet for by in panels.values() if n in by)]
    x = np.arange(len(places))
    with style():
        figure = Figure(figsize=(max(6.8, 3.4 * len(panels)), height))
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        drawn = {}
        for axis, (title, by_name) in zip(axes, panels.items(), strict=True):
            for name, curve in by_name.items():
                look = _look(loud.index(name)) if name in loud else {"color": "0.35", "ls": (0, (1, 1.5)), "lw": 1.2}
                shown, low, high = (
                    None if v is None else np.maximum(np.asarray(v, float), floor if logarithmic else -np.inf)
                    for v in (curve.values, curve.low, curve.high)
                )
                assert shown is not None
                (drawn[name],) = axis.plot(x, shown, **look, ms=4, label=NAMES.get(name, name))
                if low is not None and high is not None:
                    axis.fill_between(x, low, high, color=drawn[name].get_color(), alpha=0.15, lw=0)
            axis.set_title(title)
            axis.set_xticks(x, places, rotation=90 if max(map(len, places)) > 3 else 0, fontsize=8)
            axis.set_xlabel(xlabel)
            if logarithmic:
                axis.set_yscale("log")
                axis.set_ylim(floor / 2, 2)
            if limits:
                axis.set_ylim(*limits)
        axes[0].set_ylabel(ylabel)
        handles = [drawn[n] for n in names]
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=8, columnspacing=1.2)
        return render(figure, "png", f"plot of {ylabel}: {', '.join(NAMES.get(n, n) for n in names)}")


def _look(number: int) -> dict[str, object]:
    """Return color, marker and line of one curve: where the colors begin again, the line is another."""
    return {
        "color": f"C{number % 8}",
        "marker": MARKERS[number % len(MARKERS)],
        "ls": LINES[number // 8 % 4],
        "lw": 1.4,
    }
