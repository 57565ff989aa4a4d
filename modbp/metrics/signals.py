r"""Alignment: how well a signal on its way down agrees with the activations that it meets.

At each layer :math:`r_l` is the signal that arrives at the activation :math:`a_l`, and :math:`g_l` what the rule at the
ReLU lets through. For methods that propagate relevance :math:`R_l=a_l\odot r_l`, so that :math:`r_l` is relevance over
activation: otherwise the activation itself would make the cosine.

Source: that the maps of modified backpropagation are alignment with the input is a claim of Zheng et al. (2025); the
measure and its controls are ours (`book/alignment.md`, definition "Alignment").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from modbp.attr import ModifiedBackprop
from modbp.attr.base import traces
from modbp.attr.targets import Target
from modbp.backward import INPUT, OUTPUT, Trace, check_baselines, check_inputs
from modbp.composite import Composite
from modbp.errors import InputError
from modbp.layers import WEIGHTED, activation_points, watching
from modbp.metrics.sender import Sender, senders_of
from modbp.rules import Pass

if TYPE_CHECKING:
    import pandas as pd

OF = ("signal", "relevance")


def alignment(
    model: Callable[..., Any],
    inputs: Tensor,
    method: Sender | Sequence[Sender] | Mapping[str, Sender],
    target: Target = None,
    *,
    layers: Iterable[str] | None = None,
    of: str = "signal",
    baselines: Any = None,
) -> pd.DataFrame:
    r"""Return how well the signal of one or more methods is aligned with the activations, layer by layer.

    Images are taken one at a time, so that many need no more memory than two. Several methods share the forward passes:
    all that only change the gradient have one for each image, and all that propagate relevance
    (`modbp.composite.Composite.family`).

    Parameters
    ----------
    model : callable
        An `nn.Module`; or any function of a tensor, if `layers` is given.
    inputs : Tensor, shape (images, ...)
        As the model sees them.
    method : str, Composite, ModifiedBackprop or class of one; or sequence of them, or mapping from names to them
        A key of `modbp.METHODS`, or what sends relevance back. Of an object only its composite is used.
    target : int, list, tuple or Tensor, optional
        As in `attribute`: the class whose logit is explained. By default the predicted one of each image. (The gradient
        of a large logit is aligned a little for that reason alone: its inner product with the input is the logit.)
    layers : iterable of str, optional
        Names of modules that return an activation. By default those directly behind a linear layer or a convolution.
    of : {"signal", "relevance"}, default "signal"
        What is compared with the activation: the signal, or what the method itself returns at a layer, which for
        methods that multiply holds the activation as a factor.
    baselines : number or Tensor, optional
        For DeepLIFT, the reference input; by default zero. Other methods beside it do without.

    Returns
    -------
    pandas.DataFrame
        A row for each image and layer, in the order in which the network runs, the input first. Columns: `image`,
        `layer`; `arriving`, the cosine of :math:`r_l` with :math:`a_l`; `filtered`, that of :math:`g_l` (NaN at the
        input); `shuffled`, the mean cosine of :math:`g_l` with its entries permuted at random, in closed form: what
        non-negative numbers have in common without any agreement (permuted over the active units, or over all if the
        rule lets signals through on inactive ones); `another`, the cosine with the
        activation of another image, the one before it (NaN for one image alone); `active`, the share of units whose
        activation is positive. At the input the last three are of :math:`r_0` over all entries. NaN where a signal or
        an activation is zero or not finite. A sequence or a mapping of methods adds a first column `method`, and has
        the rows of one method after the other.

    Raises
    ------
    InputError
        If an argument is not usable: an unknown layer, a method that does not send relevance back, no activation
        module in the model, a target outside the classes, two methods of one name.
    UnsupportedModelError
        If the method's rules have no meaning for something that the model computes.

    Examples
    --------
    >>> from modbp.networks import random_mlp
    >>> network = random_mlp(width=300, depth=4)
    >>> table = alignment(network, torch.randn(2, 300, generator=torch.manual_seed(0)), "guided_backprop", target=0)
    >>> table["layer"].tolist()
    ['input', '1', '3', '5', 'input', '1', '3', '5']
    >>> bool((table["filtered"].dropna() > 0.35).all())
    True
    """
    import pandas as pd  # here, so that its absence is noticed before any work

    (samples,) = check_inputs((inputs,))
    if of not in OF:
        raise InputError(f"of is {of!r}; allowed are {', '.join(OF)}.")
    senders, several = senders_of(method, model)
    points = points_behind_relus(model, samples[:1]) if layers is None else list(dict.fromkeys(layers))
    if INPUT in points or OUTPUT in points or not points:
        raise InputError(f"layers is {points!r}; allowed are one or more names of modules that return an activation.")
    references = [None] * len(samples) if baselines is None else check_baselines(baselines, samples)[0].split(1)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in senders}
    first: dict[str, dict[str, Tensor]] = {}
    before: dict[str, dict[str, Tensor]] = {name: {} for name in senders}
    label = f"alignment of {f'{len(senders)} methods' if several else next(iter(senders.values())).composite.name}"
    for number, x in enumerate(tqdm(samples.split(1), desc=label, disable=None if len(samples) > 1 else True)):
        targets = [target_of(target, number, len(samples))]
        for family in traces(senders, x, points, baselines=references[number]):
            for name, trace in family.items():
                (found,) = _signals_of(trace, senders[name], x, points, targets, of, keep=name != [*family][-1])
                for layer, here in found.items():
                    own = {"method": name} if several else {}
                    rows[name].append({**own, "image": number, "layer": layer, **here.row(before[name].get(layer))})
                if number == 0:
                    first[name] = {layer: here.filtered for layer, here in found.items()}
                before[name] = {layer: here.activation for layer, here in found.items()}
            del trace, family  # before the next ones are made
    if len(samples) > 1:
        for name in senders:
            for row in rows[name][: len(first[name])]:  # before the first image comes the last
                row["another"] = _cosine(*(s[name][row["layer"]].flatten().double() for s in (first, before)))
    return pd.DataFrame([row for name in senders for row in rows[name]])


@dataclass(frozen=True)
class Signal:
    """A signal and the activation that it meets, of one image.

    Parameters
    ----------
    arriving : Tensor, shape (1, ...)
        What arrives at the activation.
    filtered : Tensor, shape (1, ...)
        What the rule lets through; at the input, what arrives.
    activation : Tensor, shape (1, ...)
    rectified : bool
        Whether there is a ReLU, as everywhere but at the input.

    Examples
    --------
    >>> a = torch.tensor([[1.0, 0.0, 2.0]])
    >>> r = torch.tensor([[1.0, 5.0, 2.0]])
    >>> {name: round(value, 2) for name, value in Signal(r, r * (a > 0), a, True).row(None).items()}
    {'arriving': 0.41, 'filtered': 1.0, 'shuffled': 0.9, 'another': nan, 'active': 0.67}
    """

    arriving: Tensor
    filtered: Tensor
    activation: Tensor
    rectified: bool

    def row(self, another: Tensor | None) -> dict[str, float]:
        """Return the numbers of a row; `another` is the activation of another image."""
        a = self.activation.flatten().double()
        r = self.arriving.flatten().double()
        g = r if self.filtered is self.arriving else self.filtered.flatten().double()
        with_a = _cosine(g, a)
        return {
            "arriving": with_a if g is r else _cosine(r, a),
            "filtered": with_a if self.rectified else math.nan,
            "shuffled": self._shuffled(g, a),
            "another": math.nan if another is None else _cosine(g, another.flatten().double()),
            "active": float((a > 0).sum()) / len(a),
        }

    def _shuffled(self, g: Tensor, a: Tensor) -> float:
        """Return the mean cosine over all permutations of g on the units that it may reach: only the sums enter."""
        inactive = a <= 0
        # At the input nothing is gated, and some rules have no gate.
        everywhere = not self.rectified or bool(g[inactive].any())
        places = len(a) if everywhere else len(a) - int(inactive.sum())
        sizes = float(g.norm() * a.norm())
        return float(g.sum() * a.sum()) / places / sizes if sizes > 0 and math.isfinite(sizes) else math.nan


def _cosine(u: Tensor, v: Tensor) -> float:
    """Return the cosine of two vectors of float64; NaN where one is zero or not finite."""
    sizes = float(u.norm() * v.norm())
    return max(-1.0, min(1.0, float(u @ v) / sizes)) if sizes > 0 and math.isfinite(sizes) else math.nan


def signals(
    sender: ModifiedBackprop,
    x: Tensor,
    points: list[str],
    targets: Sequence[Target],
    of: str = "signal",
    baselines: Any = None,
) -> list[dict[str, Signal]]:
    """Return the signals of one image at the input and at activations, from one forward pass.

    Parameters
    ----------
    sender : ModifiedBackprop
    x : Tensor, shape (1, ...)
    points : list of str
        Names of modules that return an activation.
    targets : sequence of int, tuple or None
        The classes that are explained; None is the predicted one.
    of : {"signal", "relevance"}, default "signal"
        See `alignment`.
    baselines : optional
        See `alignment`.

    Returns
    -------
    list of dict from str to Signal
        One for each target, with `"input"` first.

    Examples
    --------
    >>> from modbp.metrics.sender import sender_of
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> found = signals(sender_of("gradient", network), torch.randn(1, 4), ["1"], [0, 2])
    >>> [list(of_class) for of_class in found]
    [['input', '1'], ['input', '1']]
    """
    return _signals_of(sender.trace(x, points, baselines=baselines), sender, x, points, targets, of)


def _signals_of(
    trace: Trace,
    sender: ModifiedBackprop,
    x: Tensor,
    points: list[str],
    targets: Sequence[Target],
    of: str,
    keep: bool = False,
) -> list[dict[str, Signal]]:
    names = [INPUT, *points]
    starts = [sender.start(trace.output, predicted(trace.output) if t is None else t) for t in targets]
    composite = sender.composite
    relevance = composite.propagates and isinstance(composite.rule_for("relu"), Pass)
    divides = of == "signal" and relevance and not composite.multiply
    multiply = False if of == "signal" and composite.multiply else None
    together = torch.stack(starts) if len(starts) > 1 else starts[0]
    arrived = trace.relevance(names, start=together, keep=keep, multiply=multiply)
    found: list[dict[str, Signal]] = [{} for _ in starts]
    for name in names:
        a = x if name == INPUT else trace.activation(name)
        of_each = arrived[name].detach() if len(starts) > 1 else [arrived[name].detach()]
        for of_class, R in zip(found, of_each, strict=True):
            r = torch.where(a == 0, 0, R / a) if divides else R
            of_class[name] = Signal(r, r if name == INPUT else _let_through(composite, r, a), a, name != INPUT)
    return found


def _let_through(composite: Composite, r: Tensor, a: Tensor) -> Tensor:
    """Return what the rule at a ReLU makes of a signal; without a rule of that kind, the signal on active units."""
    rule = composite.rule_for("relu")
    if rule is None or isinstance(rule, Pass) or composite.compares:
        return r * (a > 0)
    g: Tensor = rule(r, a)
    return g


def predicted(output: Tensor) -> Target:
    """Return the class of the largest logit; None where the output is one number.

    Examples
    --------
    >>> predicted(torch.tensor([[0.0, 2.0, 1.0]])), predicted(torch.zeros(1, 1))
    (1, None)
    """
    if output.numel() == 1:
        return None
    if output.dim() != 2:
        raise InputError(f"target is None, and the output has shape {tuple(output.shape)}; allowed then are classes.")
    return int(output.argmax())


def target_of(target: Target, number: int, images: int) -> Target:
    """Return the target of one image, from what `attribute` takes for all.

    Examples
    --------
    >>> target_of([3, 4], 1, 2), target_of(5, 1, 2), target_of(torch.tensor([3, 4]), 0, 2)
    (4, 5, 3)
    """
    if isinstance(target, Tensor) and target.dim() == 1 and len(target) > 1:
        target = target.tolist()
    if isinstance(target, list):
        if len(target) != images:
            raise InputError(f"target has {len(target)} entries; allowed are one number, or one per image: {images}.")
        return target[number]
    return target


def points_behind_relus(model: Callable[..., Any], x: Tensor) -> list[str]:
    """Return the names of the activation modules directly behind linear layers and convolutions.

    Parameters
    ----------
    model : nn.Module
    x : Tensor, shape (1, ...)

    Returns
    -------
    list of str
        In the order in which they run.

    Raises
    ------
    InputError
        If there are none.

    Examples
    --------
    >>> points_behind_relus(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 4))
    ['1']
    """
    found = [point for layer, point in activation_points(model, x).items() if point != layer]
    if not found:
        raise InputError(
            "the model has no activation module directly behind a linear layer or a convolution; allowed then are"
            " layers: names of modules that return an activation."
        )
    return found


@torch.no_grad()
def weight_alignment(model: nn.Module, inputs: Tensor, layers: Iterable[str] | None = None) -> pd.DataFrame:
    r"""Return how far the weights of active units point toward their input, layer by layer.

    .. math:: \mu=\operatorname{mean}_{j\text{ active}}\cos(w_j,a)

    over units, positions and images, where a is what a unit sees: the layer's input, or a patch of it. Source: the term
    weight alignment is of the abstract of Zheng et al. (2025), the measure is ours.

    Parameters
    ----------
    model : nn.Module
    inputs : Tensor, shape (images, ...)
    layers : iterable of str, optional
        Names of linear layers and convolutions. By default all with an activation module directly behind them.

    Returns
    -------
    pandas.DataFrame
        A row for each layer, in the order in which the network runs. Columns: `layer`; `inputs`, n, how many entries a
        unit sees; `mean` and `mean_square` of the cosines of active units; `active`, the share of units and positions
        that are, and `units`, how many are active at a position on average; `isotropic`, the mean of isotropic weights
        (`modbp.theory.alignment.isotropic_cosine`); `ratio`, of `mean` to it.

    Raises
    ------
    InputError
        If a layer is unknown or has no weights, or none has an activation module behind it.

    Examples
    --------
    >>> from modbp.networks import random_mlp
    >>> x = torch.randn(50, 64, generator=torch.manual_seed(0))
    >>> table = weight_alignment(random_mlp(width=1000, depth=3, inputs=64), x)
    >>> table["layer"].tolist(), bool((table["ratio"].sub(1).abs() < 0.05).all())
    (['0', '2'], True)
    """
    import pandas as pd

    from modbp.theory.alignment import isotropic_cosine

    (samples,) = check_inputs((inputs,))
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    points = activation_points(model, samples[:1])
    wanted = [layer for layer, point in points.items() if point != layer] if layers is None else list(layers)
    modules = dict(model.named_modules())
    for name in wanted:
        if not isinstance(modules.get(name), WEIGHTED):
            raise InputError(
                f"layer {name!r} is no linear layer or convolution that runs once; allowed are {[*points]}."
            )
    if not wanted:
        raise InputError("no layer has an activation module directly behind it; allowed then are layers by name.")
    names = {modules[name]: name for name in wanted}
    sums: dict[str, Tensor] = {}

    def note(module: Any, arguments: tuple[Any, ...], z: Any) -> None:
        if module in names:
            name = names[module]
            sums[name] = sums.get(name, torch.zeros(5, dtype=torch.float64)) + _sums(module, arguments[0], z)

    with watching(note):
        for x in tqdm(samples.split(1), desc="weights", disable=None if len(samples) > 1 else True):
            model(x)
    rows = []
    for name in (n for n in points if n in sums):
        active, total, of_cosines, of_squares, positions = sums[name].tolist()
        n = modules[name].weight[0].numel()
        mean = of_cosines / active if active else math.nan
        rows.append(
            {
                "layer": name,
                "inputs": n,
                "mean": mean,
                "mean_square": of_squares / active if active else math.nan,
                "active": active / total,
                "units": active / positions,
                "isotropic": isotropic_cosine(n),
                "ratio": mean / isotropic_cosine(n),
            }
        )
    return pd.DataFrame(rows)


def _sums(module: Any, a: Tensor, z: Tensor) -> Tensor:
    """Return how many units are active, how many there are, sums of cosines and their squares, and positions."""
    weight, a, z = module.weight.double(), a.double(), z.double()
    channels = 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
    shape = [1] * z.dim()
    shape[channels] = -1
    bias = 0.0 if module.bias is None else module.bias.double().reshape(shape)
    size = weight.flatten(1).norm(dim=1).reshape(shape)
    cosines = (z - bias) / (size * _patch_norms(module, a, weight))
    on = (z > 0) & torch.isfinite(cosines)
    seen = cosines[on]
    positions = z.numel() // z.shape[channels]
    return torch.tensor(
        [float(on.sum()), float(z.numel()), float(seen.sum()), float(seen.square().sum()), float(positions)],
        dtype=torch.float64,
    )


def _patch_norms(module: Any, a: Tensor, weight: Tensor) -> Tensor:
    """Return the norm of what each unit sees, broadcastable to the layer's output."""
    if isinstance(module, nn.Linear):
        return a.norm(dim=-1, keepdim=True)
    ones = torch.ones_like(weight if module.groups > 1 else weight[:1])
    padding = module.padding
    if module.padding_mode != "zeros":
        a, padding = F.pad(a, module._reversed_padding_repeated_twice, mode=module.padding_mode), 0
    convolve = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[type(module)]
    return convolve(a.square(), ones, None, module.stride, padding, module.dilation, module.groups).clamp(min=0).sqrt()
