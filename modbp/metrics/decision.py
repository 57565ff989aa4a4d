r"""Sufficiency: how far the information that a map picks out drives the decision.

The abstract of Zheng et al. (2025) names a measure of that kind, whose definition we have not seen. These two are ours
(`book/alignment.md`, definition "Sufficiency, two measures"): put the signal in the place of the activation, or keep
only the pixels that the map points at, and see how the network decides. Each is asked of the predicted class and of
wrong ones: a map that keeps the decision although it explains another class has not picked out what drives it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from modbp.attr import ModifiedBackprop
from modbp.attr.methods import Preset
from modbp.backward import INPUT, OUTPUT, check_baselines, check_inputs
from modbp.checks import seeded
from modbp.composite import Composite
from modbp.errors import InputError
from modbp.layers import watching
from modbp.metrics.classes import checked_classes, predicted_and_others
from modbp.metrics.sender import sender_of
from modbp.metrics.signals import points_behind_relus, signals

if TYPE_CHECKING:
    import pandas as pd

RANDOM = "random"
"""In the place of a method: noise, which has picked out nothing. Its numbers are the chance level."""

WAYS = ("signal", "pixels")


def sufficiency(
    model: nn.Module,
    inputs: Tensor,
    method: str | Composite | ModifiedBackprop | type[Preset],
    classes: Tensor | None = None,
    *,
    way: str = "signal",
    layers: Iterable[str] | None = None,
    shares: Sequence[float] = (0.05, 0.1, 0.2),
    fill: float | Tensor = 0.0,
    seed: int = 0,
    baselines: Any = None,
) -> pd.DataFrame:
    r"""Return what a network decides when it is given only what a map picks out.

    Parameters
    ----------
    model : nn.Module
        Returns logits, shape (batch, classes).
    inputs : Tensor, shape (images, channels, ...)
    method : str, Composite, ModifiedBackprop or class of one
        As in `alignment`; or `"random"`, for the chance level: Gaussian noise on active units, or pixels drawn at
        random.
    classes : Tensor of integers, shape (images, maps), optional
        The classes that are explained. By default the predicted one, and another one drawn at random.
    way : {"signal", "pixels"}, default "signal"
        `"signal"`: at one layer at a time, :math:`g_l\lVert a_l\rVert/\lVert g_l\rVert` takes the place of the
        activation :math:`a_l`, where :math:`g_l` is what the method returns there behind its rule; at the input the
        map takes the place of the picture. `"pixels"`: only the share of pixels with the largest sums of
        :math:`|R|` over the channels stays.
    layers : iterable of str, optional
        For `"signal"`: `"input"` and names of modules that return an activation. By default the input and all modules
        directly behind a linear layer or a convolution.
    shares : sequence of float, default (0.05, 0.1, 0.2)
        For `"pixels"`: which shares stay.
    fill : float or Tensor, default 0
        For `"pixels"`: what the others become, broadcastable to an input.
    seed : int, default 0
        Of the classes that are drawn, and of `"random"`.
    baselines : number or Tensor, optional
        For DeepLIFT, the reference input; by default zero.

    Returns
    -------
    pandas.DataFrame
        A row for each image, class and place. Columns: `image`; `explained`, the class; `predicted`, the network's
        decision on the whole picture; `wrong`, whether the two differ; `place`, the layer or the share; `decided`, what
        the network decides now (-1 where there was no signal to decide on, or its logits are not finite); `keeps`,
        whether that is the prediction; `follows`, whether it is the class that was explained.

    Raises
    ------
    InputError
        If an argument is not usable.
    UnsupportedModelError
        If the method's rules have no meaning for something that the model computes.

    Examples
    --------
    >>> from modbp.networks import random_mlp
    >>> network = random_mlp(width=100, depth=3, outputs=10)
    >>> x = torch.randn(4, 100, generator=torch.manual_seed(0))
    >>> table = sufficiency(network, x, "input_x_gradient", layers=["3"])
    >>> table.groupby("wrong")["follows"].mean().tolist()  # it makes the network decide for what it explains
    [1.0, 1.0]
    """
    import pandas as pd  # here, so that its absence is noticed before any work

    (samples,) = check_inputs((inputs,))
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    if not isinstance(model, nn.Module):
        raise InputError(f"model is of type {type(model).__name__}; allowed is an nn.Module, whose layers have names.")
    if way not in WAYS:
        raise InputError(f"way is {way!r}; allowed are {', '.join(WAYS)}.")
    sender = sender_of("gradient" if method == RANDOM else method, model)
    places = _places(model, samples, layers) if way == "signal" else _checked_shares(shares, samples)
    if classes is None:
        with torch.no_grad():
            classes = predicted_and_others(torch.cat([model(x) for x in samples.split(1)]), 1, seed)
    explained = checked_classes(classes, samples)
    references = [None] * len(samples) if baselines is None else check_baselines(baselines, samples)[0].split(1)
    label = f"sufficiency of {method if isinstance(method, str) else sender.composite.name}"
    rows = []
    for number, x in enumerate(tqdm(samples.split(1), desc=label, disable=None if len(samples) > 1 else True)):
        generator = seeded(seed + number) if method == RANDOM else None
        targets = explained[number].tolist()
        if way == "signal":
            logits = _from_signals(model, sender, x, targets, places, generator, references[number])
        else:
            logits = _from_pixels(model, sender, x, targets, places, fill, generator, references[number])
        *decided, predicted = _decisions(logits)
        for i, place in enumerate(places):
            decisions = decided[i * len(targets) : (i + 1) * len(targets)]
            rows += [
                {
                    "image": number,
                    "explained": target,
                    "predicted": predicted,
                    "wrong": target != predicted,
                    "place": place,
                    "decided": decision,
                    "keeps": decision == predicted,
                    "follows": decision == target,
                }
                for target, decision in zip(targets, decisions, strict=True)
            ]
    return pd.DataFrame(rows)


def _from_signals(
    model: nn.Module,
    sender: ModifiedBackprop,
    x: Tensor,
    targets: list[int],
    places: list[Any],
    generator: torch.Generator | None,
    baselines: Any,
) -> Tensor:
    """Return logits, shape (places × targets + 1, classes): from the signals, and from the picture itself."""
    points = [place for place in places if place != INPUT]
    replaced: dict[str, list[Tensor]] = {place: [] for place in places}
    of_targets = signals(sender, x, points, targets if generator is None else targets[:1], "relevance", baselines)
    # Of noise only the activations are wanted, which are the same for every target.
    for found in of_targets if generator is None else of_targets * len(targets):
        for place in places:
            here = found[place]
            g, a = here.filtered, here.activation
            if generator is not None:
                noise = torch.randn(a.shape, generator=generator).to(a)
                g = noise * (a > 0) if here.rectified else noise
            replaced[place].append(g * (a.norm() / g.norm()))
    return _run_with(model, x, {place: torch.cat(values) for place, values in replaced.items()})


def _from_pixels(
    model: nn.Module,
    sender: ModifiedBackprop,
    x: Tensor,
    targets: list[int],
    shares: list[Any],
    fill: float | Tensor,
    generator: torch.Generator | None,
    baselines: Any,
) -> Tensor:
    """Return logits, shape (shares × targets + 1, classes): from some of the pixels, and from all."""
    if generator is None:
        maps = sender.attribute_classes(x, torch.tensor([targets]), baselines=baselines)[:, 0]
        scores = maps.double().abs().sum(1)
    else:
        scores = torch.rand(len(targets), *x.shape[2:], generator=generator, dtype=torch.float64).to(x.device)
    order = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    background = torch.as_tensor(fill, dtype=x.dtype, device=x.device).expand_as(x)
    pictures = []
    for share in shares:
        kept = torch.zeros_like(scores, dtype=torch.bool).flatten(1)
        kept.scatter_(1, order[:, : max(1, round(share * order.shape[1]))], True)
        pictures.append(torch.where(kept.reshape(scores.shape)[:, None], x, background))
    with torch.no_grad():
        found: Tensor = model(torch.cat([*pictures, x]))
    return found


@torch.no_grad()
def _run_with(model: nn.Module, x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return the logits with values in the place of what modules return for one picture, and of the picture itself.

    All in one forward pass. The picture goes through it as the last of the batch, and at each place the batch grows by
    the values that belong there, so that nothing runs twice.
    """
    order = [INPUT] if INPUT in values else []

    def grow(place: str, output: Tensor) -> Tensor:
        order.append(place)
        return torch.cat([output[:-1], values[place].to(output), output[-1:]])

    try:
        with _replacing(model, values, grow):
            found: Tensor = model(torch.cat([values[INPUT], x]) if INPUT in values else x)
        parts = dict(zip(order, found[:-1].split([len(values[place]) for place in order]), strict=True))
        return torch.cat([*(parts[place] for place in values), found[-1:]])
    except RuntimeError:  # the model joins what is above with what is below, and needs as many of both
        return torch.cat([*(_run_from(model, x, place, values[place]) for place in values), model(x)])


def _run_from(model: nn.Module, x: Tensor, place: str, values: Tensor) -> Tensor:
    """Return the logits with values in one place, in a batch that has their number throughout."""
    if place == INPUT:
        found: Tensor = model(values)
        return found
    with _replacing(model, {place: values}, lambda _, __: values):
        found = model(x.expand(len(values), *x.shape[1:]))
    return found


@contextlib.contextmanager
def _replacing(model: nn.Module, places: Iterable[str], replacement: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Put something in the place of what modules return, for as long as the context lasts."""
    wanted: dict[nn.Module, dict[int, str]] = {}
    for place in places:
        if place != INPUT:
            name, _, call = place.rpartition(":") if ":" in place else (place, "", "0")
            wanted.setdefault(model.get_submodule(name), {})[int(call)] = place
    calls = dict.fromkeys(wanted, 0)

    def replace(module: nn.Module, arguments: Any, output: Any) -> Tensor | None:
        if module not in wanted:
            return None
        place = wanted[module].get(calls[module])
        calls[module] += 1
        return None if place is None else replacement(place, output)

    with watching(replace):
        yield


def _decisions(logits: Tensor) -> list[int]:
    usable = torch.isfinite(logits).all(1)
    return [int(k) if fine else -1 for k, fine in zip(logits.argmax(1), usable, strict=True)]


def _places(model: nn.Module, samples: Tensor, layers: Iterable[str] | None) -> list[Any]:
    found = [INPUT, *points_behind_relus(model, samples[:1])] if layers is None else list(dict.fromkeys(layers))
    if not found or OUTPUT in found:
        raise InputError(f"layers is {found!r}; allowed are 'input' and names of modules that return an activation.")
    return found


def _checked_shares(shares: Sequence[float], samples: Tensor) -> list[Any]:
    found = list(dict.fromkeys(shares))
    if not found or any(isinstance(s, bool) or not isinstance(s, int | float) or not 0 < s <= 1 for s in found):
        raise InputError(f"shares is {shares!r}; allowed are one or more numbers above 0 and up to 1.")
    if samples.dim() < 3:
        raise InputError(f"inputs has shape {tuple(samples.shape)}; allowed with way='pixels' are pictures.")
    return found
