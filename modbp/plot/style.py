"""The style that all figures share, how they write names, and what a drawn figure is."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

STYLE = Path(__file__).parents[1] / "data" / "modbp.mplstyle"
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

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "rules for the ReLU": ("gradient", "input_x_gradient", "deconvolution", "guided_backprop", "rectgrad"),
    "non-negative shares": (
        *("lrp_zplus", "excitation_bp", "contrastive_excitation_bp", "deep_taylor", "lrp_w_square", "lrp_flat"),
    ),
    "signed shares": (*("lrp_z", "lrp_epsilon", "lrp_z_box", "lrp_gamma", "lrp_alpha2_beta1", "lrp_alpha5_beta4"),),
    "composites, patterns": (
        *("epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box", "pattern_net", "pattern_attribution"),
    ),
    "DeepLIFT": (*("deeplift_rescale", "deeplift_reveal_cancel", "deeplift_ablation_text", "deeplift_ablation_code"),),
}
"""Which methods share a panel where all of them do not fit into one."""


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


def legend(
    figure: Figure,
    columns: int,
    loc: Literal["outside upper center", "outside lower center"] = "outside upper center",
    **options: Any,
) -> Legend:
    """Put a legend above or below all panels, in fewer columns where it would be wider than the figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    columns : int
        At most so many, at least one.
    loc : {"outside upper center", "outside lower center"}
    **options
        Of `Figure.legend`.

    Returns
    -------
    matplotlib.legend.Legend

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure(figsize=(2, 2))
    >>> for name in ("the first", "the second", "the third"):
    ...     _ = figure.add_subplot().plot([0], label=name)
    >>> legend(figure, 3)._ncols
    2
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    drawn = figure.legend(loc=loc, ncols=columns, fontsize=8, columnspacing=1.2, **options)
    if columns > 1 and drawn.get_window_extent(renderer).width > figure.bbox.width:
        drawn.remove()
        return legend(figure, columns - 1, loc, **options)
    return drawn


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


def render(figure: Figure, kind: str, description: str, **options: Any) -> Picture:
    """Draw a figure into a picture that a notebook shows.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Made by itself and not by pyplot, which keeps a global state.
    kind : {"png", "jpeg"}
    description : str
    **options
        Of `Figure.savefig`.

    Returns
    -------
    Picture

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> render(Figure(figsize=(1, 1)), "png", "nothing")
    <nothing>
    """
    if kind == "png":
        options.setdefault("metadata", {"Software": None})
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return Picture(buffer.getvalue(), f"image/{kind}", description)
