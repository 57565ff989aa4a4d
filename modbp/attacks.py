"""Small changes of a photograph that change its predicted class, and the noise of the same size beside them.

The attacks are foolbox's (Rauber et al. 2020). Sizes of changes are in 1/255 of the range of a pixel, whatever a
network's inputs are; its `transform` says which inputs are black and white.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modbp.checks import in_eval_mode, seeded, whole
from modbp.errors import InputError, first_line

KINDS = ("fgsm", "pgd")
LEVELS = 255.0
"""A white pixel, where a black one is 0: the largest change."""

STRIDE = 2.5
"""How far the steps of PGD would lead together, in budgets: from one side of what is allowed to the other, and more."""

SLACK = 1e-3
"""By how much inputs may miss the range of pixels, in 1/255, as rounding makes them."""

Bounds = tuple[float | Tensor, float | Tensor]


def attack(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor | Sequence[int],
    kind: str = "pgd",
    budget: float = 4.0,
    *,
    temperature: float = 10.0,
    steps: int = 10,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Tensor:
    r"""Change inputs within a budget so that their labels become less likely.

    FGSM adds :math:`\varepsilon\,\mathrm{sign}\,\nabla_xL`, with the cross-entropy :math:`L` of the labels. PGD takes
    several such steps of `STRIDE` / `steps` budgets each from a random start, and after each goes back into the
    budget and the range of pixels.

    The attack sees the logits divided by `temperature`. That changes no prediction. But with margins above about 17
    nats float32 rounds the probability of the label to one, and its part of the gradient to zero; above about 103
    nats nothing is left of the gradient.

    PGD is chaotic: the sign of an entry that is nearly zero hangs on a rounding error, and each step makes more of it.
    In float32 two processors may arrive at different images; with a network and inputs in float64 they do not.

    Parameters
    ----------
    network : nn.Module
        In eval mode; returns logits, shape (batch, classes). It is not changed.
    inputs : Tensor, shape (batch, ...)
    labels : Tensor or sequence of int, shape (batch,)
        The classes to be left, such as the predicted ones.
    kind : {"fgsm", "pgd"}, default "pgd"
    budget : float, default 4
        The largest change of a pixel, in 1/255 of its range: above 0, at most 255.
    temperature : float, default 10
    steps : int, default 10
        Of PGD.
    seed : int, default 0
        Of PGD's random start. No global random numbers are drawn.
    bounds : (number or Tensor, number or Tensor), optional
        The inputs of black and of white; they broadcast with the inputs. By default `pixel_bounds(network)`.

    Returns
    -------
    Tensor, of the shape and dtype of `inputs`
        The changed inputs, valid pixels throughout. Whether they have another class is for the caller to see.

    Raises
    ------
    InputError
        If an argument is out of its range, inputs are no pixels, the network is in training mode, or foolbox is not
        installed.

    Examples
    --------
    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> network.weight.data = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    >>> x = torch.tensor([[100.0, 49.0]])
    >>> network(x).argmax(1), attack(network, x, [0], "fgsm", budget=1.0, bounds=(0.0, 255.0))
    (tensor([0]), tensor([[99., 50.]]))
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}.")
    _check_budget(budget)
    if not _is_number(temperature) or not 0 < temperature < math.inf:
        raise InputError(f"temperature is {temperature!r}; allowed are finite numbers above 0.")
    whole("steps", steps)
    generator = seeded(seed)
    in_eval_mode("the network", network)
    black, white = _checked_bounds(network, inputs, bounds)
    classes = _checked_labels(labels, inputs)
    foolbox = _foolbox()
    if kind == "fgsm":
        attacker = foolbox.attacks.LinfFastGradientAttack()
    else:
        attacker = foolbox.attacks.LinfPGD(rel_stepsize=min(1.0, STRIDE / steps), steps=steps, random_start=True)
        attacker.get_random_start = lambda x, epsilon: x + epsilon * _uniform(x.raw, generator)
    attacker.value_and_grad = _value_and_grad
    pixels = ((inputs - black) / (white - black) * LEVELS).clamp(0, LEVELS)
    model = foolbox.PyTorchModel(
        _OfPixels(network, black, white, temperature, classes), bounds=(0, LEVELS), device=inputs.device
    )
    change = attacker.run(model, pixels, foolbox.criteria.Misclassification(classes), epsilon=float(budget)) - pixels
    return _moved(inputs, change, black, white)


def sign_noise(
    network: nn.Module, inputs: Tensor, budget: float = 4.0, *, seed: int = 0, bounds: Bounds | None = None
) -> Tensor:
    """Change every entry of inputs by the whole budget, up or down at random: what an attack does, without its aim.

    Parameters
    ----------
    network : nn.Module
        Only for its `transform`.
    inputs : Tensor, shape (batch, ...)
    budget : float, default 4
        In 1/255 of the range of a pixel: above 0, at most 255.
    seed : int, default 0
    bounds : (number or Tensor, number or Tensor), optional
        As for `attack`.

    Returns
    -------
    Tensor, of the shape and dtype of `inputs`
        Valid pixels: where the budget leads out of their range, it ends there.

    Raises
    ------
    InputError
        If an argument is out of its range, or inputs are no pixels.

    Examples
    --------
    >>> x = torch.tensor([[100.0, 254.0, 0.0]])
    >>> (sign_noise(nn.Identity(), x, budget=2.0, bounds=(0.0, 255.0)) - x).abs().max()
    tensor(2.)
    """
    _check_budget(budget)
    generator = seeded(seed)
    black, white = _checked_bounds(network, inputs, bounds)
    signs = torch.randint(0, 2, inputs.shape, generator=generator).to(inputs) * 2 - 1
    return _moved(inputs, budget * signs, black, white)


def pixel_bounds(network: Any) -> tuple[Tensor, Tensor]:
    """Return what a network's `transform` makes of a black and of a white picture.

    Parameters
    ----------
    network : nn.Module
        From `modbp.zoo.load`, or with a `transform` of its own that shifts and scales colors.

    Returns
    -------
    black, white : Tensor, shape (channels, 1, 1)

    Raises
    ------
    InputError
        If the network has no `transform`, or one for which white is not above black in every channel.

    Examples
    --------
    >>> from modbp import zoo
    >>> black, white = pixel_bounds(zoo.load(weights="random"))
    >>> black.flatten(), (white - black).flatten()
    (tensor([-123.6800, -116.7790, -103.9390]), tensor([255., 255., 255.]))
    """
    from PIL import Image

    if not callable(getattr(network, "transform", None)):
        raise InputError("the network has no transform that says what black and white are; allowed is to give bounds.")
    black, white = (network.transform(Image.new("RGB", (256, 256), color))[:, :1, :1] for color in ("black", "white"))
    if not bool((white > black).all()):
        raise InputError("the network's transform does not make white larger than black; allowed is one that does.")
    return black, white


def changes_at_pools(layers: Iterable[nn.Module], before: Tensor, after: Tensor) -> list[tuple[float, float]]:
    """Return what a change of inputs does at each max-pooling on the way up.

    Parameters
    ----------
    layers : iterable of nn.Module
        In the order in which they run, such as the `features` of a VGG.
    before, after : Tensor, shape (batch, ...)
        Inputs of the first layer.

    Returns
    -------
    list of (float, float)
        For each `nn.MaxPool2d`, the lowest first: how far what arrives has moved, over its norm before; and the share
        of windows with another winner.

    Examples
    --------
    >>> x = torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]])
    >>> changes_at_pools([nn.MaxPool2d(2)], x, x.flip(2))[0][1], changes_at_pools([nn.MaxPool2d(2)], x, x)
    (1.0, [(0.0, 0.0)])
    """
    found = []
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.MaxPool2d):
                moved = (after - before).norm() / before.norm()
                naming = copy.copy(layer)
                naming.return_indices = True
                first, second = (naming(x)[1] for x in (before, after))
                found.append((float(moved), float((first != second).double().mean())))
            before, after = layer(before), layer(after)
    return found


class _OfPixels(nn.Module):
    """A network as a function of pixels from 0 to 255, with cooler logits."""

    def __init__(self, network: nn.Module, black: Tensor, white: Tensor, temperature: float, labels: Tensor) -> None:
        super().__init__()
        self.answer: Callable[[Tensor], Tensor] = network.__call__  # no submodule, which foolbox would move
        self.black, self.scale = black, (white - black) / LEVELS
        self.temperature, self.labels = temperature, labels
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.answer(self.black + pixels * self.scale)
        if logits.dim() != 2 or int(self.labels.max()) >= logits.shape[1]:
            raise InputError(
                f"the largest label is {int(self.labels.max())}; allowed for logits of shape {tuple(logits.shape)} are"
                f" classes from 0 to {logits.shape[-1] - 1}."
            )
        return logits / self.temperature


def _value_and_grad(loss: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """Do what foolbox's own does, without leaving gradients in the network's parameters."""
    inputs = x.raw.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(type(x)(inputs))
    (gradient,) = torch.autograd.grad(value.raw, inputs)
    return value, type(x)(gradient)


def _moved(inputs: Tensor, change: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Return the inputs, changed by so many 1/255 and no further than black and white."""
    return torch.maximum(torch.minimum(inputs + change * ((white - black) / LEVELS), white), black)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator, dtype=like.dtype) * 2 - 1).to(like.device)


def _foolbox() -> Any:
    try:
        import foolbox
    except ImportError as error:
        raise InputError(
            f"attacks need foolbox ({first_line(error)}); install it with: pip install 'modbp[embedded]'."
        ) from None
    return foolbox


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_budget(budget: object) -> None:
    if not _is_number(budget) or not 0 < budget <= LEVELS:  # type: ignore[operator]
        raise InputError(f"budget is {budget!r}; allowed are numbers above 0 and at most 255.")


def _checked_bounds(network: nn.Module, inputs: Tensor, bounds: Bounds | None) -> tuple[Tensor, Tensor]:
    if not inputs.is_floating_point() or inputs.dim() < 2 or len(inputs) == 0:
        raise InputError(
            f"inputs are {inputs.dtype} of shape {tuple(inputs.shape)}; allowed are floating-point tensors of shape"
            " (batch, ...)."
        )
    black, white = (torch.as_tensor(end).to(inputs) for end in bounds or pixel_bounds(network))
    fits = all(_broadcasts(end.shape, inputs.shape) for end in (black, white))
    if not fits or not bool((white > black).all()):
        raise InputError(
            f"the bounds have the shapes {tuple(black.shape)} and {tuple(white.shape)}; allowed for inputs of shape"
            f" {tuple(inputs.shape)} are two that broadcast with them, white above black."
        )
    outside = torch.maximum(black - inputs, inputs - white) / (white - black) * LEVELS
    if not float(outside.max()) <= SLACK:  # a NaN is neither
        raise InputError(
            f"inputs from {float(inputs.min()):g} to {float(inputs.max()):g} are no pixels; allowed are"
            f" {float(black.min()):g} for black to {float(white.max()):g} for white."
        )
    return black, white


def _broadcasts(shape: torch.Size, whole: torch.Size) -> bool:
    """Return whether a tensor of one shape, repeated, has the other."""
    return len(shape) <= len(whole) and all(n in (1, m) for n, m in zip(shape[::-1], whole[::-1], strict=False))


def _checked_labels(labels: Tensor | Sequence[int], inputs: Tensor) -> Tensor:
    classes = torch.as_tensor(labels)
    whole = not classes.is_floating_point() and not classes.is_complex() and classes.dtype != torch.bool
    fits = whole and classes.shape == (len(inputs),)
    if not fits or int(classes.min()) < 0:
        least = f" from {int(classes.min())}" if fits else ""
        raise InputError(
            f"labels are {classes.dtype} of shape {tuple(classes.shape)}{least}; allowed are {len(inputs)} whole"
            " numbers from 0 upwards, one per input."
        )
    return classes.to(inputs.device).long()
