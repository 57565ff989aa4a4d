"""Why DeepLIFT's two chains mix: one step of the multipliers as a matrix of blocks, with its signs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modbp.errors import InputError
from modbp.plot.style import Picture, legend, render, style
from modbp.rules.affine import Dense

LARGEST_SIDE = 0.92
"""Of a square, in cells: the largest entry's."""

LinearRule = Callable[[tuple[Tensor, Tensor], Dense, Tensor], tuple[Tensor, Tensor | None]]
"""A rule for affine layers that moves both multipliers, such as `modbp.rules.deeplift.Linear()`."""


def step_of_multipliers(rule: LinearRule, weight: Tensor, delta: Tensor, up: Tensor, down: Tensor) -> Tensor:
    r"""Return the matrix that takes both multipliers through a ReLU and the linear layer below it.

    .. math:: \binom{m^+}{m^-}_{in}=\begin{pmatrix}P&Q\\P&Q\end{pmatrix}
        \begin{pmatrix}D^+&0\\0&D^-\end{pmatrix}\binom{m^+}{m^-}_{out}

    for the full rule; an ablation has other blocks. It is read off the rule, which is given every unit vector.
    Source: ours (prop-deeplift-block).

    Parameters
    ----------
    rule : callable
        Of `modbp.rules`: `Linear()`, `DecoupledCode()` or `DecoupledText()`.
    weight : Tensor, shape (outputs, inputs)
    delta : Tensor, shape (inputs,)
        The inputs' differences from the reference.
    up, down : Tensor, shape (outputs,)
        What the ReLU multiplies the positive and the negative multiplier with, the diagonals of D⁺ and D⁻.

    Returns
    -------
    Tensor, shape (2, inputs, 2, outputs)
        From the multiplier of the third index's sign to that of the first's, the positive one first.

    Raises
    ------
    InputError
        If the shapes do not fit.

    Examples
    --------
    >>> from modbp.rules.deeplift import Linear
    >>> one, weight = torch.ones(1), torch.tensor([[3.0, -1.0]])
    >>> step_of_multipliers(Linear(), weight, torch.ones(2), one, one)[0, :, :, 0]
    tensor([[ 3.,  0.],
            [ 0., -1.]])
    """
    outputs, inputs = weight.shape if weight.dim() == 2 else (0, 0)
    if delta.shape != (inputs,) or up.shape != (outputs,) or down.shape != (outputs,):
        shapes = ", ".join(str(tuple(t.shape)) for t in (weight, delta, up, down))
        raise InputError(
            f"weight, delta, up and down have the shapes {shapes}; allowed are (outputs, inputs), (inputs,) and twice"
            " (outputs,)."
        )
    units = torch.eye(2 * outputs).to(weight)
    layer = Dense(weight, torch.Size((2 * outputs, inputs)))
    plus, minus = rule((units[:, :outputs] * up, units[:, outputs:] * down), layer, delta.expand(2 * outputs, inputs))
    return torch.stack([plus, plus if minus is None else minus]).movedim(1, 2).unflatten(2, (2, outputs))


def blocks(panels: Mapping[str, Tensor]) -> Picture:
    """Draw matrices of two by two blocks as squares: the area is an entry's size, the color and the filling its sign.

    Parameters
    ----------
    panels : mapping from title to Tensor, shape (2, inputs, 2, outputs)
        As `step_of_multipliers` returns them. One panel each; all are drawn to one scale.

    Returns
    -------
    Picture

    Raises
    ------
    InputError
        If a matrix has no such shape, or all entries are zero.

    Examples
    --------
    >>> blocks({"one": torch.ones(2, 3, 2, 4)})
    <blocks of one>
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    for title, matrix in panels.items():
        if matrix.dim() != 4 or (matrix.shape[0], matrix.shape[2]) != (2, 2):
            raise InputError(
                f"the matrix of {title!r} has shape {tuple(matrix.shape)}; allowed is (2, inputs, 2, outputs)."
            )
    largest = max(float(matrix.abs().max()) for matrix in panels.values())
    if not largest > 0:
        raise InputError("all entries are zero; allowed are matrices with an entry that can be drawn.")
    with style():
        figure = Figure(figsize=(2.7 * len(panels), 3.6))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, matrix) in zip(axes, panels.items(), strict=True):
            _draw(axis, matrix.detach().cpu().double().numpy() / largest)
            axis.set_title(title, fontsize=9)
        handles = [Patch(**_look(1.0), label="positive"), Patch(**_look(-1.0), label="negative")]
        legend(figure, 2, "outside lower center", handles=handles)
        return render(figure, "png", f"blocks of {', '.join(panels)}")


def _draw(axis: Any, matrix: np.ndarray[Any, Any]) -> None:
    from matplotlib.patches import Rectangle

    _, inputs, _, outputs = matrix.shape
    for row, column in np.argwhere(matrix.reshape(2 * inputs, 2 * outputs)):
        value = matrix.reshape(2 * inputs, 2 * outputs)[row, column]
        side = LARGEST_SIDE * abs(value) ** 0.5
        axis.add_patch(Rectangle((column - side / 2, row - side / 2), side, side, **_look(value)))
    axis.axhline(inputs - 0.5, color="black", lw=1)
    axis.axvline(outputs - 0.5, color="black", lw=1)
    axis.set(xlim=(-0.5, 2 * outputs - 0.5), ylim=(2 * inputs - 0.5, -0.5), aspect="equal")
    axis.set_xticks([outputs / 2 - 0.5, 1.5 * outputs - 0.5], ["from $m^+$", "from $m^-$"])
    axis.set_yticks([inputs / 2 - 0.5, 1.5 * inputs - 0.5], ["to $m^+$", "to $m^-$"], rotation=90, va="center")
    axis.grid(visible=False)
    axis.tick_params(length=0, labelsize=9)
    for spine in axis.spines.values():
        spine.set_visible(True)


def _look(value: float) -> dict[str, Any]:
    """Return the sign's look, which can be told without color: positive entries are filled, negative ones open."""
    return {"facecolor": "C0" if value > 0 else "white", "edgecolor": "C0" if value > 0 else "C1", "lw": 1.1}
