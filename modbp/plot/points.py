"""Numbers per image, with what was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modbp.claims import Prediction
from modbp.plot.style import NAMES, Picture, legend, render, style


def dots(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    ylabel: str,
    predicted: Mapping[str, Prediction] | None = None,
    chance: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Draw one dot per image for each method, in one color and marker for each series.

    Parameters
    ----------
    values : mapping from series to mapping from method to sequence of float
        NaN is left out.
    ylabel : str
    predicted : mapping from method to Prediction, optional
        Drawn as a gray band for the first series.
    chance : float, optional
        The level that unrelated maps would reach, drawn as a dashed line.
    limits : (float, float), optional
        Of the vertical axis.

    Returns
    -------
    Picture

    Examples
    --------
    >>> dots({"trained": {"gradient": [0.1, 0.2]}}, "correlation", chance=0.0)
    <plot of correlation: trained>
    """
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(m for series in values.values() for m in series))
    width = 0.7 / len(values)
    with style():
        figure = Figure(figsize=(6.8, 3.8))
        axis = figure.subplots()
        for m, method in enumerate(methods):
            if predicted and method in predicted:
                low, high = predicted[method].low, predicted[method].high
                low, high = max(low, -2.0), min(high, 2.0)
                axis.fill_between(
                    [m - 0.42, m + 0.42], low, high, color="0.85", lw=0, label="predicted, trained" if m == 0 else None
                )
        for s, (series, by_method) in enumerate(values.items()):
            x, y = [], []
            for method, numbers in by_method.items():
                center = methods.index(method) + (s - (len(values) - 1) / 2) * width
                x += [
                    center + offset for offset in np.linspace(-0.25, 0.25, max(len(numbers), 2))[: len(numbers)] * width
                ]
                y += list(numbers)
            axis.plot(x, y, "osD^v"[s % 5], ms=5, alpha=0.85, label=series)
        if chance is not None:
            axis.axhline(chance, color="black", lw=1, ls="--", label="chance")
        axis.set_xticks(range(len(methods)), [NAMES.get(m, m) for m in methods])
        axis.set(ylabel=ylabel, xlim=(-0.5, len(methods) - 0.5))
        if limits:
            axis.set_ylim(*limits)
        axis.grid(axis="x", visible=False)
        legend(figure, 5, handletextpad=0.3)
        return render(figure, "png", f"plot of {ylabel}: {', '.join(values)}")


def ranking(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    levels: Mapping[str, float] | None = None,
    logarithmic: bool = False,
) -> Picture:
    """Draw one row per method, with a dot per image for each series: for more methods than stand side by side.

    Parameters
    ----------
    values : mapping from series to mapping from method to sequence of float
        The rows stand in the order in which the methods first appear, from the top. What is not finite is left out.
    xlabel : str
    levels : mapping from str to float, optional
        Drawn as dashed lines, such as the level of unrelated maps.
    logarithmic : bool, default False

    Returns
    -------
    Picture

    Examples
    --------
    >>> ranking({"as they are": {"gradient": [1.4, 1.4]}}, "distance", levels={"unrelated": 2**0.5})
    <plot of distance: as they are>
    """
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(m for series in values.values() for m in series))
    with style():
        figure = Figure(figsize=(6.8, max(2.4, 0.8 + 0.22 * len(methods))))
        axis = figure.subplots()
        for s, (series, by_method) in enumerate(values.items()):
            dots = [(x, methods.index(m)) for m, numbers in by_method.items() for x in numbers if np.isfinite(x)]
            axis.plot(*np.array(dots).reshape(-1, 2).T, "osD^v"[s % 5], ms=5, alpha=0.8, label=series, clip_on=False)
        for name, level in (levels or {}).items():
            axis.axvline(level, color="black", lw=1, ls="--", label=name)
        if logarithmic:
            axis.set_xscale("log")
        axis.set_yticks(range(len(methods)), [NAMES.get(m, m) for m in methods], fontsize=8)
        axis.set(xlabel=xlabel, ylim=(len(methods) - 0.5, -0.5))
        legend(figure, 5, handletextpad=0.3)
        return render(figure, "png", f"plot of {xlabel}: {', '.join(values)}")
