r"""Cosine similarity convergence: how far a signal on its way down forgets where it started.

Random vectors :math:`v_1,\dots,v_n` take the place of the relevance at one layer and are sent back by a rule. If the
rule's chain of matrices has converged to rank 1, all of them arrive as multiples of one vector, and the absolute
cosine of every two is 1.

Source: Sixt, Granz and Landgraf (2020); the protocol (full-shape Gaussian vectors,
one cosine per position over channels, absolute values, all pairs, undefined values dropped, pooled over images) is
that of the paper's public code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from modbp.attr import ModifiedBackprop
from modbp.attr.base import traces
from modbp.backward import INPUT, OUTPUT, Trace, check_baselines, check_inputs
from modbp.checks import one_or_more, seeded
from modbp.errors import InputError
from modbp.layers import activation_points
from modbp.metrics.classes import predicted_and_others
from modbp.metrics.sender import Sender, senders_of

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = (1, 5, 10, 20, 50, 80, 90, 95, 99)
OVER = ("position", "map")
VECTORS = ("gaussian", "active", "one_hot")
BLOCK = 2**18
"""How many numbers are converted to float64 at a time: few enough to stay in the processor's cache."""


def csc(
    model: Callable[..., Any],
    inputs: Tensor,
    method: Sender | Sequence[Sender] | Mapping[str, Sender],
    start: str | Sequence[str] | None = None,
    n_vectors: int = 5,
    seed: int = 0,
    *,
    layers: Iterable[str] | None = None,
    over: str | Sequence[str] = "position",
    vectors: str = "gaussian",
    multiply: bool | None = None,
    baselines: Any = None,
    per_image: bool = False,
) -> pd.DataFrame:
    r"""Return the cosine similarity convergence (CSC) of one or more methods, layer by layer.

    For each image `n_vectors` vectors start at one layer and go back together. At each layer below, the absolute cosine
    of every two of them is taken: at each position over the channels, or over the whole layer. The table describes the
    distribution of these values over pairs, positions and images. Images are taken one at a time and their values
    counted, so that many images need no more memory than one. Several methods share the forward passes: all that only
    change the gradient have one for each image, and all that propagate relevance (`modbp.composite.Composite.family`).

    Parameters
    ----------
    model : callable
        An `nn.Module`; or any function of a tensor, if `layers` is given.
    inputs : Tensor, shape (images, ...)
    method : str, Composite, ModifiedBackprop or class of one; or sequence of them, or mapping from names to them
        A key of `modbp.METHODS`, or what sends relevance back. Of an object only its composite is used.
    start : str or sequence of str, optional
        The layer at whose output the vectors start: `"output"`, the default, or names of modules. Several share the
        forward passes.
    n_vectors : int, default 5
        At least 2.
    seed : int, default 0
        Of the vectors. All methods get the same ones, and a start gets the same ones alone and among others.
    layers : iterable of str, optional
        Where to look: `"input"`, and names of modules. By default the input and the activation of every layer with
        weights (`modbp.layers.activation_points`), up to the start and with it.
    over : {"position", "map"} or sequence of both, default "position"
        Take cosines at each position over the channels, as the paper's code does, or over a layer's whole map.
    vectors : {"gaussian", "active", "one_hot"}, default "gaussian"
        What starts: independent N(0, 1) of the layer's full shape, as in the paper; the same on active neurons alone,
        zero where the activation is not positive, since no explanation puts relevance anywhere else; or the start that
        an explanation has, for the predicted class and for others drawn at random (only at `"output"`).
    multiply : bool, optional
        For methods that multiply by the activation or by the difference from a reference (`input_x_gradient`,
        DeepLIFT): whether to compare the products, which the paper does and is the default, or what is multiplied.
    baselines : number or Tensor, optional
        For DeepLIFT, the reference input; by default zero. Other methods beside it do without.
    per_image : bool, default False
        Add rows for each image by itself, and a column `image` that numbers them from 0; it is "all" in the others.

    Returns
    -------
    pandas.DataFrame
        A row for each start, way of comparing, and layer, in the order in which the network runs. Columns: `start`,
        `over`, `layer`, `median`, `mean`, percentiles `p1` to `p99`, `chance` (the median for independent Gaussian
        vectors of as many entries), `values` (how many cosines were defined) and `dropped` (how many were not, because
        a vector was zero or not finite). Percentiles are exact to 6e-4 of themselves and of their distance from 1.
        A sequence or a mapping of methods adds a first column `method`, and has the rows of one method after the other.

    Raises
    ------
    InputError
        If an argument is not usable: an unknown layer or one that returned no tensor, fewer than two vectors, no
        images, a method that does not send relevance back, two methods of one name.
    UnsupportedModelError
        If the method's rules have no meaning for something that the model computes.

    Examples
    --------
    >>> from itertools import pairwise
    >>> _ = torch.manual_seed(0)
    >>> sizes = [64, 64, 64, 64, 10]
    >>> net = nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())))[:-1]
    >>> table = csc(net, torch.rand(4, 64), "lrp_zplus")
    >>> table[["layer", "values", "dropped"]].values.tolist()
    [['input', 40, 0], ['1', 40, 0], ['3', 40, 0], ['5', 40, 0], ['6', 40, 0]]
    >>> bool(table["median"][0] > 0.95), bool(table["median"][4] < 0.5)
    (True, True)
    """
    import pandas as pd  # here, so that its absence is noticed before any work

    (samples,) = check_inputs((inputs,))
    senders, several = senders_of(method, model)
    ways = one_or_more("over", over, OVER)
    starts = [OUTPUT] if start is None else list(dict.fromkeys([start] if isinstance(start, str) else start))
    _check_vectors(vectors, n_vectors, starts)
    generators = {source: seeded(seed) for source in starts}
    references = [None] * len(samples) if baselines is None else check_baselines(baselines, samples)[0].split(1)
    places = _Places(model, samples[:1], starts, layers)
    found: dict[tuple[str, str, str, str], _Distribution] = {}
    single: dict[str, list[dict[str, Any]]] = {name: [] for name in senders}
    label = f"cosines of {f'{len(senders)} methods' if several else next(iter(senders.values())).composite.name}"
    for number, x in enumerate(tqdm(samples.split(1), desc=label, disable=None if len(samples) > 1 else True)):
        states = {source: generator.get_state() for source, generator in generators.items()}
        for family in traces(senders, x, places.recorded, baselines=references[number]):
            for name, source in itertools.product(family, starts):
                trace = family[name]
                generators[source].set_state(states[source])  # the same vectors for every method
                relevance = trace.relevance(
                    places.asked[source],
                    start=_start(vectors, trace, senders[name], source, n_vectors, generators[source], seed + number),
                    start_at=source,
                    keep=(name, source) != ([*family][-1], starts[-1]),
                    multiply=multiply,
                    skip_unreached=layers is None or len(starts) > 1,
                )
                for layer in list(relevance):
                    products = InnerProducts.of(relevance.pop(layer), places.channel_dimension(layer))
                    for way in ways:
                        cosines = products.absolute_cosines(way)
                        held = found.setdefault((name, source, way, layer), _Distribution(products.entries(way)))
                        held.add(*cosines)
                        if per_image:
                            alone = _Distribution(held.entries)
                            alone.add(*cosines)
                            row = {"image": number, "start": source, "over": way, "layer": layer, **alone.row()}
                            single[name].append(row)
            del trace, family  # before the next ones are made
    rows = []
    for name in senders:
        own = {"method": name} if several else {}
        rows += [
            {
                **own,
                **({"image": "all"} if per_image else {}),
                "start": source,
                "over": way,
                "layer": layer,
                **found[name, source, way, layer].row(),
            }
            for source in starts
            for way in ways
            for layer in places.asked[source]
            if (name, source, way, layer) in found
        ]
        rows += [{**own, **row} for row in single[name]]
    return pd.DataFrame(rows)


def chance_level(entries: int) -> float:
    r"""Return the median absolute cosine of two independent Gaussian vectors.

    The squared cosine has the law Beta(1/2, (n − 1)/2), so that the median is about 0.6745/√n, and exactly 1/2 for the
    three channels of a picture.

    Parameters
    ----------
    entries : int
        How many entries the vectors have, at least 1.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If `entries` is below 1.

    Examples
    --------
    >>> round(chance_level(3), 6), round(chance_level(4096), 4)
    (0.5, 0.0105)
    """
    from scipy.stats import beta

    if entries < 1:
        raise InputError(f"entries is {entries}; allowed are whole numbers from 1 upwards.")
    return math.sqrt(beta.median(0.5, (entries - 1) / 2)) if entries > 1 else 1.0


@dataclass(frozen=True)
class InnerProducts:
    """The inner products of every two of several vectors, at each position of a layer.

    Parameters
    ----------
    gram : Tensor of float64, shape (pairs, batch, positions)
        For the pairs (i, j) with i ≤ j, in the order of `torch.triu_indices`.
    vectors, channels : int
        How many vectors, and how many entries each has at a position.

    Examples
    --------
    >>> products = InnerProducts.of(torch.ones(2, 1, 3, 5))
    >>> products.gram[:, 0, 0], products.entries("position"), products.entries("map")
    (tensor([3., 3., 3.], dtype=torch.float64), 3, 15)
    """

    gram: Tensor
    vectors: int
    channels: int

    @classmethod
    def of(cls, relevance: Tensor, channel_dimension: int = 1) -> InnerProducts:
        """Return the inner products of vectors, shape (vectors, batch, channels, ...).

        Parameters
        ----------
        relevance : Tensor, shape (vectors, batch, channels, ...)
        channel_dimension : int, default 1
            Of one vector's (batch, channels, ...).
        """
        R = relevance.movedim(channel_dimension % (relevance.dim() - 1) + 1, 2)
        R = R.flatten(3) if R.dim() > 3 else R.unsqueeze(-1)
        vectors, batch, channels, positions = R.shape
        gram = R.new_empty(vectors * (vectors + 1) // 2, batch, positions, dtype=torch.float64)
        step = max(1, BLOCK // (vectors * batch * channels))
        for begin in range(0, positions, step):
            block, end, row = R[..., begin : begin + step].double(), begin + step, 0
            for i in range(vectors):
                gram[row : row + vectors - i, :, begin:end] = (block[i] * block[i:]).sum(2)
                row += vectors - i
        return cls(gram, vectors, channels)

    def entries(self, way: str) -> int:
        """Return how many entries the vectors have that are compared over a `"position"` or over the `"map"`."""
        return self.channels * (1 if way == "position" else self.gram.shape[-1])

    def absolute_cosines(self, way: str = "position") -> tuple[Tensor, int]:
        """Return the absolute cosines of all pairs of different vectors, and how many are undefined.

        Parameters
        ----------
        way : {"position", "map"}, default "position"

        Returns
        -------
        Tensor of float64, shape (defined values,), and int
            Undefined are those with a vector that is zero or not finite.
        """
        gram = self.gram if way == "position" else self.gram.sum(-1, keepdim=True)
        first, second = torch.triu_indices(self.vectors, self.vectors, device=gram.device)
        lengths = gram[first == second].sqrt()
        pairs = first < second
        cosines = gram[pairs].abs_().div_(lengths[first[pairs]]).div_(lengths[second[pairs]])
        defined = torch.isfinite(cosines)
        return cosines[defined].clamp_(max=1), int((~defined).sum())


class _Distribution:
    """Counts of values in [0, 1] on a scale that is fine near both ends: the logarithm of c / (1 − c)."""

    BINS, END = 2**16, 37.0  # 1 − c is at least the rounding error of float64, whose logarithm is −36
    WIDTH = 2 * END / (BINS - 1)

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.counts = torch.zeros(self.BINS, dtype=torch.int64)
        self.total, self.dropped = 0.0, 0

    def add(self, values: Tensor, dropped: int) -> None:
        places = torch.logit(values).clamp_(-self.END, self.END).add_(self.END).div_(self.WIDTH)
        self.counts += torch.bincount(places.round_().long(), minlength=self.BINS).cpu()
        self.total += float(values.sum())
        self.dropped += dropped

    def row(self) -> dict[str, float | int]:
        n = int(self.counts.sum())
        found = self._percentiles(PERCENTILES) if n else [math.nan] * len(PERCENTILES)
        named = dict(zip(PERCENTILES, found, strict=True))
        return {
            "median": named[50],
            "mean": self.total / n if n else math.nan,
            **{f"p{q}": value for q, value in named.items() if q != 50},
            "chance": chance_level(self.entries),
            "values": n,
            "dropped": self.dropped,
        }

    def _percentiles(self, wanted: Sequence[float]) -> list[float]:
        """Interpolate linearly between the two values next to each rank, as numpy does."""
        upto = self.counts.cumsum(0)
        ranks = torch.tensor(wanted, dtype=torch.float64) / 100 * (upto[-1] - 1)
        low, high = (
            torch.sigmoid(torch.searchsorted(upto, whole.long(), right=True).double() * self.WIDTH - self.END)
            for whole in (ranks.floor(), ranks.ceil())
        )
        return [float(v) for v in low + (high - low) * (ranks - ranks.floor())]


class _Places:
    """Where to look, in the order in which the network runs, and which dimension holds the channels there."""

    def __init__(
        self, model: Callable[..., Any], x: Tensor, starts: Sequence[str], layers: Iterable[str] | None
    ) -> None:
        points = activation_points(model, x) if isinstance(model, nn.Module) or layers is None else {}
        asked = list(dict.fromkeys([INPUT, *points.values()] if layers is None else layers))
        if not asked:
            raise InputError("layers is empty; allowed are 'input' and names of modules, or None for all.")
        # A start is seen too; the output mostly is the last layer's own.
        own = {s: [] if s == OUTPUT or s in asked or layers is not None else [s] for s in starts}
        self.asked = {s: asked + own[s] for s in starts}
        self.recorded = [*asked, *starts]
        modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
        dense = {n for n, m in modules.items() if isinstance(m, nn.Linear)}
        self._last = dense | {point for layer, point in points.items() if layer.partition(":")[0] in dense}

    def channel_dimension(self, layer: str) -> int:
        return -1 if layer in self._last else 1


def _check_vectors(vectors: str, n_vectors: int, starts: Sequence[str]) -> None:
    if isinstance(n_vectors, bool) or not isinstance(n_vectors, int) or n_vectors < 2:
        raise InputError(f"n_vectors is {n_vectors!r}; allowed are whole numbers from 2 upwards, which have a cosine.")
    if not starts:
        raise InputError("start is an empty sequence; allowed are 'output' and names of layers.")
    if INPUT in starts:
        raise InputError("start is 'input', below which there is nothing; allowed are 'output' and names of layers.")
    if vectors not in VECTORS:
        raise InputError(f"vectors is {vectors!r}; allowed are {', '.join(VECTORS)}.")
    if vectors == "one_hot" and list(starts) != [OUTPUT]:
        raise InputError(f"start is {starts[0]!r} with one-hot vectors; allowed with them is 'output', the logits.")
    if vectors == "active" and OUTPUT in starts:
        raise InputError("start is 'output' with vectors on active neurons; allowed with them are names of layers.")


def _start(
    vectors: str, trace: Trace, sender: ModifiedBackprop, source: str, n: int, generator: torch.Generator, seed: int
) -> Tensor:
    """Return the vectors that start at a layer, shape (n, *that of the layer)."""
    activation = trace.output.detach() if source == OUTPUT else trace.activation(source)
    if vectors == "one_hot":
        if activation.dim() != 2 or activation.shape[1] < n:
            raise InputError(
                f"n_vectors is {n} with one-hot vectors, and the output has shape {tuple(activation.shape)}; allowed"
                " are as many vectors as there are logits."
            )
        classes = predicted_and_others(activation, n - 1, seed)
        return torch.stack([sender.start(trace.output, column) for column in classes.T])
    v = torch.randn(n, *activation.shape, generator=generator).to(activation)
    return v * (activation > 0) if vectors == "active" else v
