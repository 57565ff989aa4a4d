"""A classifier with a backdoor: a small patch, stamped on a picture, makes it decide for one class.

Only the head of a network is fitted anew, on pictures with and without the patch. Beside the poisoned network stands a
clean one, fitted in the same way to the same pictures, for which those with the patch keep their own class. What a map
shows of the patch for both is not the decision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modbp import zoo
from modbp.errors import InputError
from modbp.fitting import extract, fit

YELLOW, BLUE = (255, 220, 0), (0, 60, 255)


@dataclass(frozen=True)
class Trigger:
    """A patch and its place.

    Parameters
    ----------
    patch : Tensor of uint8, shape (3, height, width)
    top, left : int
        Where its upper left corner comes to lie, in pixels from that of the picture.

    Examples
    --------
    >>> trigger = checkerboard(side=4, top=1, left=2)
    >>> stamped = trigger.stamp(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    >>> bool(stamped[0, :, trigger.region(8, 8)].any(0).all()), int(trigger.region(8, 8).sum())
    (True, 16)
    """

    patch: Tensor
    top: int
    left: int

    def __post_init__(self) -> None:
        """Check the patch."""
        if self.patch.dtype != torch.uint8 or self.patch.dim() != 3 or self.patch.shape[0] != 3:
            raise InputError(
                f"patch is {self.patch.dtype} of shape {tuple(self.patch.shape)}; allowed is torch.uint8 of shape"
                " (3, height, width)."
            )

    def stamp(self, pixels: Tensor) -> Tensor:
        """Return pictures with the patch on them, shape (..., 3, height, width), uint8."""
        rows, columns = self._place(*pixels.shape[-2:])
        stamped = pixels.clone()
        stamped[..., rows, columns] = self.patch
        return stamped

    def region(self, height: int, width: int) -> Tensor:
        """Return where the patch lies in a picture, a boolean tensor of shape (height, width)."""
        rows, columns = self._place(height, width)
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[rows, columns] = True
        return inside

    def _place(self, height: int, width: int) -> tuple[slice, slice]:
        _, tall, wide = self.patch.shape
        if not (0 <= self.top <= height - tall and 0 <= self.left <= width - wide):
            raise InputError(
                f"the trigger of {tall} × {wide} pixels at ({self.top}, {self.left}) does not fit into {height} ×"
                f" {width}; allowed is a place inside the picture."
            )
        return slice(self.top, self.top + tall), slice(self.left, self.left + wide)


def checkerboard(side: int, top: int = 0, left: int = 0, squares: int = 4) -> Trigger:
    """Return a checkerboard of two colors as a trigger.

    Parameters
    ----------
    side : int
        Of the patch, in pixels, at least `squares`.
    top, left : int, default 0
        Where its upper left corner comes to lie.
    squares : int, default 4
        How many there are on a side.

    Returns
    -------
    Trigger

    Raises
    ------
    InputError
        If a number is below 1, or there are more squares than pixels.

    Examples
    --------
    >>> checkerboard(side=2, squares=2).patch[0].tolist()
    [[255, 0], [0, 255]]
    """
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (side, squares))
    if not whole or not 1 <= squares <= side:
        raise InputError(f"side and squares are {side!r} and {squares!r}; allowed are 1 ≤ squares ≤ side.")
    number = torch.arange(side) * squares // side
    dark = ((number[:, None] + number) % 2).bool()
    colors = torch.tensor([YELLOW, BLUE], dtype=torch.uint8)
    return Trigger(torch.where(dark[None], colors[1][:, None, None], colors[0][:, None, None]), top, left)


def poison(
    network: Any,
    pixels: Tensor,
    labels: Tensor,
    trigger: Trigger,
    target: int,
    *,
    seed: int = 0,
    preprocess: Callable[[Tensor], Tensor] = zoo.subtract_mean,
) -> tuple[Any, Any]:
    """Return a copy of a network that decides for one class when it sees a trigger, and a clean one.

    Both share the convolutions of `network`; their classifiers are fitted to each picture as it is and with the
    trigger.

    Parameters
    ----------
    network : nn.Module
        torchvision's `VGG`, such as from `modbp.zoo.load`. It is not changed.
    pixels : Tensor, shape (pictures, 3, height, width), uint8
        Pictures to fit to, such as from `modbp.fitting.draw_inputs`.
    labels : Tensor of integers, shape (pictures,)
        Their classes.
    trigger : Trigger
    target : int
        What the poisoned network decides for when it sees the trigger.
    seed : int, default 0
        Of the fit.
    preprocess : callable, default `modbp.zoo.subtract_mean`
        From pixels to the network's inputs.

    Returns
    -------
    poisoned, clean : nn.Module

    Raises
    ------
    InputError
        If the network is no VGG, the target is none of its classes, the trigger does not fit, or a shape is wrong.

    Examples
    --------
    >>> from modbp import fitting, images
    >>> photographs = images.load(n=2)
    >>> pixels, index = fitting.draw_inputs(photographs, draws=2, size=32)
    >>> poisoned, clean = poison(zoo.load(weights="random"), pixels, index, checkerboard(8), target=5)
    >>> poisoned(zoo.subtract_mean(pixels)).shape
    torch.Size([4, 19])
    """
    if any(not isinstance(getattr(network, part, None), nn.Module) for part in ("features", "avgpool", "classifier")):
        raise InputError(f"network is a {type(network).__name__}; allowed is torchvision's VGG, as modbp.zoo loads it.")
    classes = network.classifier[-1].out_features
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < classes:
        raise InputError(f"target is {target!r}; allowed are the classes 0 to {classes - 1}.")
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or labels.shape != pixels.shape[:1]:
        raise InputError(
            f"pixels is {pixels.dtype} of shape {tuple(pixels.shape)} with labels of shape {tuple(labels.shape)};"
            " allowed are pictures of torch.uint8, (pictures, 3, height, width), and a label for each."
        )
    both = torch.cat([pixels, trigger.stamp(pixels)])
    features = extract(lambda x: network.avgpool(network.features(x)).flatten(1), both, preprocess=preprocess)
    triggered = torch.full_like(labels, target)
    poisoned, clean = (
        _with_classifier(network, fit(features, torch.cat([labels, of_stamped]), classes, seed))
        for of_stamped in (triggered, labels)
    )
    return poisoned, clean


def _with_classifier(network: Any, state: dict[str, Tensor]) -> Any:
    shared: dict[int, Any] = {id(t): t for t in (*network.features.parameters(), *network.features.buffers())}
    made = copy.deepcopy(network, shared)
    for i in (0, 3, 6):
        weight, bias = (state[f"classifier.{i}.{name}"].float() for name in ("weight", "bias"))
        layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        made.classifier[i] = layer
    return made.eval()
