"""Figures in one style: maps beside photographs, and numbers per image with what was predicted."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from modbp.claims import Prediction
from modbp.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("data") / "modbp.mplstyle"
"""The matplotlib style of every figure."""

NAMES: Mapping[str, str] = {
    "gradient": "Gradient",
    "input_x_gradient": "Input × gradient",
    "deconvolution": "Deconvolution",
    "guided_backprop": "Guided Backprop",
    "rectgrad": "RectGrad",
    "lrp_z": "LRP-0",
    "lrp_epsilon": "LRP-ε",
    "lrp_gamma": "LRP-γ",
    "lrp_alpha_beta": "LRP-αβ",
    "lrp_zplus": "z⁺",
    "lrp_alpha2_beta1": "LRP-α2β1",
    "lrp_alpha5_beta4": "LRP-α5β4",
    "lrp_w_square": "w²",
    "lrp_flat": "Flat",
    "lrp_z_box": "zᴮ and LRP-0",
    "deep_taylor": "Deep Taylor",
    "excitation_bp": "Excitation BP",
    "contrastive_excitation_bp": "Contrastive Excitation BP",
    "epsilon_plus": "ε and z⁺",
    "epsilon_alpha2_beta1": "ε and α2β1",
    "epsilon_gamma_box": "ε, γ and zᴮ",
    "pattern_net": "PatternNet",
    "pattern_attribution": "PatternAttribution",
    "deeplift_rescale": "DeepLIFT Rescale",
    "deeplift_reveal_cancel": "DeepLIFT RevealCancel",
    "deeplift_ablation_text": "DeepLIFT ablation (text)",
    "deeplift_ablation_code": "DeepLIFT ablation (code)",
}
"""How figures write a method's name."""

CLIP = 99.5
"""The percentile of a map's absolute values that is drawn at full strength."""

PICTURE_DPI = 130
"""Resolution of grids of pictures, in dots per inch."""


def style() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws in the project's style.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> with style():
    ...     plt.rcParams["axes.spines.top"]
    False
    """
    import matplotlib.pyplot as plt

    return plt.style.context(str(STYLE))


def as_picture(attribution: Tensor) -> np.ndarray[Any, Any]:
    """Return a map as a color picture: zero is gray, and equal signal in all channels is lighter or darker gray.

    Parameters
    ----------
    attribution : Tensor, shape (3, height, width)

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
    if attribution.dim() != 3 or attribution.shape[0] != 3:
        raise InputError(f"the map has shape {tuple(attribution.shape)}; allowed is (3, height, width).")
    values = attribution.detach().cpu().double().permute(1, 2, 0).numpy()
    full = np.percentile(np.abs(values), CLIP) or np.abs(values).max()
    if not np.isfinite(full) or full == 0:
        return np.full(values.shape, 0.5)
    return np.clip(0.5 + values / (2 * full), 0, 1)


def photograph(x: Tensor) -> np.ndarray[Any, Any]:
    """Return a network's input as the photograph that it was, rescaled jointly to [0, 1].

    Parameters
    ----------
    x : Tensor, shape (3, height, width)

    Returns
    -------
    numpy.ndarray, shape (height, width, 3)

    Examples
    --------
    >>> import torch
    >>> float(photograph(torch.arange(12.0).reshape(3, 2, 2)).max())
    1.0
    """
    values = x.detach().cpu().double().permute(1, 2, 0).numpy()
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)


@dataclass(frozen=True)
class Picture:
    """A drawn figure, which a notebook shows.

    Parameters
    ----------
    data : bytes
        The file's content.
    mime : str
        `"image/png"`, or `"image/jpeg"` for photographs: noise, which many maps are, makes a PNG ten times as large.
    description : str
        What stands in its place where no picture can be shown.
    """

    data: bytes
    mime: str
    description: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {self.mime: base64.b64encode(self.data).decode(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<{self.description}>"


def _render(figure: Figure, kind: str, description: str, **options: Any) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return Picture(buffer.getvalue(), f"image/{kind}", description)


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
        return _render(figure, "jpeg", description, dpi=PICTURE_DPI, pil_kwargs={"quality": 88})


def map_grid(inputs: Tensor, maps: Mapping[str, Mapping[str, Tensor]], most: int = 4) -> Picture:
    """Draw photographs beside their maps: for each photograph one row per label, one column per method.

    Parameters
    ----------
    inputs : Tensor, shape (images, 3, height, width)
    maps : mapping from label to mapping from method to Tensor of the shape of `inputs`
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
        figure.legend(loc="outside upper center", ncols=5, fontsize=8, columnspacing=1.2, handletextpad=0.3)
        return _render(figure, "png", f"plot of {ylabel}: {', '.join(values)}", metadata={"Software": None})
