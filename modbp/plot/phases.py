"""Which signed chains align: a diagram over width, and measured rates against the law's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from modbp.errors import InputError
from modbp.plot.style import Picture, legend, render, style

ALIGNS, STALLS = 0.5, 0.9
"""A rate per factor below the first is drawn as aligning, one above the second as not."""

MARKERS = "osD^vP"


def phases(
    rates: Mapping[str, Mapping[tuple[float, float], float]],
    boundaries: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabels: Mapping[str, str],
) -> Picture:
    """Draw the measured rate at every width and parameter, with the line at which the law says that it is 1.

    Parameters
    ----------
    rates : mapping from title to mapping from (width, parameter) to float
        By how much `1 − |cos|` falls per factor. One panel each.
    boundaries : mapping from title to (widths, parameters)
        The law's line, by panel.
    xlabel : str
    ylabels : mapping from title to str

    Returns
    -------
    Picture

    Raises
    ------
    InputError
        If a panel has no boundary or no label.

    Examples
    --------
    >>> phases({"a": {(64, 2): 0.2, (64, 8): 1.0}}, {"a": ([32, 128], [3, 6])}, "width", {"a": "alpha"})
    <phase diagram: a>
    """
    from matplotlib.figure import Figure

    for title in rates:
        if title not in boundaries or title not in ylabels:
            raise InputError(f"the panel {title!r} has no boundary or no label; allowed are panels with both.")
    with style():
        figure = Figure(figsize=(3.6 * len(rates), 3.9))
        axes = figure.subplots(1, len(rates), squeeze=False)[0]
        for axis, (title, found) in zip(axes, rates.items(), strict=True):
            rows = sorted({parameter for _, parameter in found})
            for (width, parameter), rate in found.items():
                y = rows.index(parameter)
                aligned = rate < ALIGNS
                color = "C0" if aligned else "0.45" if rate < STALLS else "C1"
                axis.plot(width, y, "o" if aligned else "D" if rate < STALLS else "X", color=color, ms=6)
                text = f"{rate:.2f}" if rate >= 0.01 else f"{rate:.0e}".replace("e-0", "e−")
                axis.annotate(
                    text,
                    (width, y),
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    zorder=3,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
                )
            # Rows stand at equal distances, so the line is drawn through them on a broken scale.
            widths, parameters = boundaries[title]
            heights = np.interp(parameters, rows, range(len(rows)), left=np.nan, right=np.nan)
            axis.plot(widths, heights, color="black", lw=1.4, ls="--")
            columns = sorted({width for width, _ in found})
            axis.set_xscale("log", base=2)
            axis.set_xticks(columns, [f"{width:g}" for width in columns])
            axis.minorticks_off()
            axis.set_yticks(range(len(rows)), [f"{parameter:g}" for parameter in rows])
            axis.set(xlim=(columns[0] / 1.5, columns[-1] * 1.5), ylim=(-0.5, len(rows) - 0.4))
            axis.set(xlabel=xlabel, ylabel=ylabels[title])
            axis.set_title(title, fontsize=9)
        looks = (
            ("o", "C0", f"rate below {ALIGNS}"),
            ("D", "0.45", "between"),
            ("X", "C1", f"rate {STALLS} and above"),
        )
        handles = [axes[0].plot([], [], m, color=c, ms=6, label=label)[0] for m, c, label in looks]
        handles += axes[0].plot([], [], color="black", ls="--", lw=1.4, label="law: rate 1")
        legend(figure, 4, handles=handles)
        return render(figure, "png", f"phase diagram: {', '.join(rates)}")


def against_law(series: Mapping[str, Sequence[tuple[float, float, float]]], label: str) -> Picture:
    """Draw measured numbers against predicted ones, on logarithmic axes, with the diagonal where both are equal.

    Parameters
    ----------
    series : mapping from str to sequence of (predicted, measured, spread)
        Positive numbers; the spread is drawn as a bar, where it is no NaN.
    label : str
        What both axes show.

    Returns
    -------
    Picture

    Examples
    --------
    >>> against_law({"width 64": [(0.1, 0.12, 0.01), (0.5, 0.6, 0.1)]}, "rate per factor")
    <plot of rate per factor: width 64>
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.2, 4.3))
        axis = figure.subplots()
        lowest = min(min(law, rate) for points in series.values() for law, rate, _ in points) / 1.5
        highest = max(max(law, rate) for points in series.values() for law, rate, _ in points) * 1.5
        axis.plot([lowest, highest], [lowest, highest], color="black", lw=1, label="equal")
        axis.axvline(1, color="0.45", lw=1, ls="--", label="law: rate 1")
        for number, (name, points) in enumerate(series.items()):
            law, rate, spread = np.nan_to_num(points).T
            bars = np.stack([np.minimum(spread, rate * 0.95), spread])
            color, marker = f"C{number % 7}", MARKERS[number % len(MARKERS)]
            axis.errorbar(law, rate, yerr=bars, fmt=marker, color=color, ms=4.5, lw=1, label=name)
        top = 1.5 * max(np.nansum([rate, spread]) for points in series.values() for _, rate, spread in points)
        axis.set(xscale="log", yscale="log", xlim=(lowest, highest), ylim=(lowest, top))
        axis.set(xlabel=f"{label}, law", ylabel=f"{label}, measured")
        axis.legend(fontsize=8, loc="upper left")
        return render(figure, "png", f"plot of {label}: {', '.join(series)}")
