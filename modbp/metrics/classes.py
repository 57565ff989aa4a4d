"""Which classes to ask about."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modbp.checks import seeded
from modbp.errors import InputError


def predicted_and_others(logits: Tensor, others: int, seed: int = 0) -> Tensor:
    """Return for each sample the predicted class, and other classes drawn at random without repetition.

    Parameters
    ----------
    logits : Tensor, shape (batch, classes)
    others : int
        How many other classes, at most all.
    seed : int, default 0

    Returns
    -------
    Tensor of integers, shape (batch, 1 + others)
        The predicted class first.

    Raises
    ------
    InputError
        If there are not that many other classes.

    Examples
    --------
    >>> predicted_and_others(torch.tensor([[0.0, 1.0, 0.0]]), others=2)[0].sort().values
    tensor([0, 1, 2])
    """
    classes = logits.shape[1]
    if not 0 <= others < classes:
        raise InputError(f"others is {others}; allowed for {classes} classes are 0 to {classes - 1}.")
    generator = seeded(seed)
    predicted = logits.argmax(1).cpu()
    drawn = torch.stack([torch.randperm(classes - 1, generator=generator)[:others] for _ in predicted])
    drawn = drawn + (drawn >= predicted[:, None])  # skips the predicted class
    return torch.cat([predicted[:, None], drawn], dim=1)


def checked_classes(classes: Any, samples: Tensor, least: int = 1) -> Tensor:
    """Return classes of shape (images, maps), or refuse them.

    Parameters
    ----------
    classes : any
    samples : Tensor, shape (images, ...)
    least : int, default 1
        How many maps there must be.

    Returns
    -------
    Tensor

    Raises
    ------
    InputError

    Examples
    --------
    >>> checked_classes(torch.tensor([[1, 2]]), torch.zeros(1, 3), 2).tolist()
    [[1, 2]]
    """
    fits = isinstance(classes, Tensor) and classes.dim() == 2 and len(classes) == len(samples)
    if not fits or classes.shape[1] < least or classes.is_floating_point():
        given = tuple(classes.shape) if isinstance(classes, Tensor) else type(classes).__name__
        at_least = f" with at least {least} maps" if least > 1 else ""
        raise InputError(f"classes is {given}; allowed is an integer tensor of shape ({len(samples)}, maps){at_least}.")
    return classes


def checked_targets(targets: Any, samples: Tensor, classes: int) -> Tensor:
    """Return one class for each sample, or refuse what is given.

    Parameters
    ----------
    targets : int or Tensor of integers, shape (images,)
        A class for all of them, or one for each.
    samples : Tensor, shape (images, ...)
    classes : int
        How many there are.

    Returns
    -------
    Tensor of integers, shape (images,)

    Raises
    ------
    InputError
        If they are neither, or lie outside the classes.

    Examples
    --------
    >>> checked_targets(2, torch.zeros(3, 4), 5).tolist()
    [2, 2, 2]
    """
    if isinstance(targets, int) and not isinstance(targets, bool):
        targets = torch.full((len(samples),), targets)
    if not isinstance(targets, Tensor) or targets.shape != samples.shape[:1] or targets.is_floating_point():
        given = tuple(targets.shape) if isinstance(targets, Tensor) else targets
        raise InputError(f"targets is {given!r}; allowed are a class, and an integer tensor with one per image.")
    outside = targets[(targets < 0) | (targets >= classes)].tolist()
    if outside:
        raise InputError(f"targets holds {outside[0]}; allowed are classes from 0 to {classes - 1}.")
    return targets.cpu()
