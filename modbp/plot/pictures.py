"""Maps beside photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from modbp.errors import InputError
from modbp.plot.style import NAMES, Picture, render, style

CLIP = 99.5
"""The percentile of a map's absolute values that is drawn at full strength."""

PICTURE_DPI = 130
"""Resolution of grids of pictures, in dots per inch."""


def as_picture(attribution: Tensor) -> np.ndarray[Any, Any]:
    """Return a map as a color picture: zero is gray, and equal signal in all channels is lighter or darker gray.

    Parameters
    ----------
    attribution : Tensor, shape (channels, height, width)
        Three channels are red, green and blue; any other number is added up and drawn gray.

    Returns
    -------
    numpy.ndarray, shape (height, width, 3)
        In [0, 1]. The `CLIP`-th percentile of the absolute values, over all pixels and channels jointly, is drawn at
        full strength. A zero map, or one that is not finite, is gray.

    Raises
    ------
    InputError
        If the shape is another one.

    Examples
    --------
    >>> import torch
    >>> as_picture(torch.zeros(3, 2, 2))[0, 0]
    array([0.5, 0.5, 0.5])
    """
    if attribution.dim() != 3:
        raise InputError(f"the map has shape {tuple(attribution.shape)}; allowed is (channels, height, width).")
    values = _colors(attribution)
    full = np.percentile(np.abs(values), CLIP) or np.abs(values).max()
    if not np.isfinite(full) or full == 0:
        return np.full(values.shape, 0.5)
    return np.clip(0.5 + values / (2 * full), 0, 1)


def _colors(x: Tensor) -> np.ndarray[Any, Any]:
    x = x.detach().cpu().double()
    return (x if len(x) == 3 else x.sum(0, keepdim=True).expand(3, -1, -1)).permute(1, 2, 0).numpy()


def photograph(x: Tensor) -> np.ndarray[Any, Any]:
    """Return a network's input as the photograph that it was, rescaled jointly to [0, 1].

    Parameters
    ----------
    x : Tensor, shape (channels, height, width)
        Three channels are red, green and blue; any other number is added up and drawn gray.

    Returns
    -------
    numpy.ndarray, shape (height, width, 3)

    Examples
    --------
    >>> import torch
    >>> float(photograph(torch.arange(12.0).reshape(3, 2, 2)).max())
    1.0
    """
    values = _colors(x)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)


def picture_grid(rows: Sequence[Sequence[Any]], columns: Sequence[str], labels: Sequence[str]) -> Picture:
    """Draw pictures in a grid.

    Parameters
    ----------
    rows : sequence of sequences of array, shape (height, width, 3)
        One inner sequence a row.
    columns : sequence of str
        Above each column.
    labels : sequence of str
        Left of each row.

    Returns
    -------
    Picture
        Which a notebook shows.

    Examples
    --------
    >>> picture_grid([[np.zeros((2, 2, 3))]], ["photograph"], ["first"])
    <1 × 1 pictures: photograph>
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(1.5 * len(columns) + 0.3, 1.5 * len(rows) + 0.3))  # not pyplot's: no global state
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for axes_row, pictures, label in zip(axes, rows, labels, strict=True):
            axes_row[0].set_ylabel(label, fontsize=8)
            for axis, picture in zip(axes_row, pictures, strict=True):
                axis.imshow(picture)
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
        for axis, title in zip(axes[0], columns, strict=True):
            axis.set_title(title, fontsize=9)
        description = f"{len(rows)} × {len(columns)} pictures: {', '.join(columns)}"
        return render(figure, "jpeg", description, dpi=PICTURE_DPI, pil_kwargs={"quality": 88})


def map_grid(inputs: Tensor, maps: Mapping[str, Mapping[str, Tensor]], most: int = 4) -> Picture:
    """Draw photographs beside their maps: for each photograph one row per label, one column per method.

    Parameters
    ----------
    inputs : Tensor, shape (images, channels, height, width)
    maps : mapping from label to mapping from method to Tensor, shape (images, channels, height, width)
    most : int, default 4
        Draw no more photographs than that.

    Returns
    -------
    Picture

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(2, 3, 8, 8)
    >>> map_grid(x, {"trained": {"gradient": x}, "random": {"gradient": x}})
    <4 × 2 pictures: photograph, Gradient>
    """
    shown = range(min(len(inputs), most))
    methods = list(next(iter(maps.values())))
    return picture_grid(
        [
            [photograph(inputs[i]), *(as_picture(by_method[m][i]) for m in methods)]
            for i in shown
            for by_method in maps.values()
        ],
        columns=["photograph", *(NAMES.get(m, m) for m in methods)],
        labels=[label for _ in shown for label in maps],
    )
