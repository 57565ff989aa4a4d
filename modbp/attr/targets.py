"""Which logit is explained: the target formats of Captum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from modbp.errors import InputError

Target = Any
"""What Captum takes: None, int, tuple of int, list of int or of tuples, or a tensor of integers."""


def one_hot(output: Tensor, target: Target) -> Tensor:
    """Return the start vector that picks one logit of each sample.

    Parameters
    ----------
    output : Tensor, shape (batch, classes), (batch, classes, ...) or (batch,)
        A model's output.
    target : int, list, tuple or Tensor, optional
        As in `ModifiedBackprop.attribute`.

    Returns
    -------
    Tensor, shape of `output`
        One at the target, zero elsewhere.

    Raises
    ------
    InputError
        If the target's form does not fit the output, or an index lies outside of it.

    Examples
    --------
    >>> one_hot(torch.zeros(2, 3), target=[0, 2])
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    batch, free = output.shape[0] if output.dim() else 1, output.shape[1:]
    if target is None:
        if output.numel() != batch:
            raise InputError(
                f"target is None; allowed for an output of shape {tuple(output.shape)} are {_allowed(free)}."
            )
        return torch.ones_like(output)
    rows = _rows(target, batch)
    start = torch.zeros_like(output)
    for sample, row in enumerate(rows):
        if len(row) != len(free) or any(isinstance(i, bool) or not isinstance(i, int) for i in row):
            raise InputError(
                f"target is {target!r}; allowed for an output of shape {tuple(output.shape)} are {_allowed(free)}."
            )
        if any(not 0 <= i < size for i, size in zip(row, free, strict=True)):
            shown = row[0] if len(row) == 1 else row
            raise InputError(f"target is {shown!r}; allowed are {_allowed(free)}.")
        start[(sample, *row)] = 1
    return start


def _rows(target: Target, batch: int) -> list[tuple[Any, ...]]:
    """Return one tuple of indices per sample."""
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool:
            raise InputError(f"target has dtype {target.dtype}; allowed is an integer tensor.")
        target = target.item() if target.numel() == 1 else target.tolist()
    elif hasattr(target, "item") and not isinstance(target, int):
        target = target.item()  # a NumPy integer
    if isinstance(target, list):
        if len(target) != batch:
            raise InputError(f"target has {len(target)} entries; allowed are one number, or one per sample: {batch}.")
        return [tuple(t) if isinstance(t, tuple | list) else (t,) for t in target]
    return [target if isinstance(target, tuple) else (target,)] * batch


def _allowed(free: Iterable[int]) -> str:
    ranges = [f"0 to {size - 1}" for size in free]
    return f"the classes {ranges[0]}" if len(ranges) == 1 else f"tuples of indices in {ranges}" if ranges else "None"
