"""What a sweep can measure of one network and one picture, and the rows that come of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modbp.attr import METHODS, ModifiedBackprop, attribute_methods, make
from modbp.attr.methods import Preset
from modbp.backward import INPUT
from modbp.composite import Composite
from modbp.errors import InputError
from modbp.metrics.convergence import csc
from modbp.metrics.flipping import EDGES as EDGE_ORDER
from modbp.metrics.flipping import ORDERS, RANDOM_ORDER, SHARES, flipping_area, pixel_flipping
from modbp.metrics.sanity import CONVENTIONS, COSINE, EDGES, ENTROPY_RISE, NOISE, SPEARMAN, SPEARMAN_ABSOLUTE
from modbp.metrics.sanity.explaining import explainers_of
from modbp.metrics.sanity.logits import random_logit
from modbp.metrics.sanity.parameters import parameter_randomization
from modbp.metrics.signals import alignment
from modbp.metrics.similarity import FINE
from modbp.sources import method as method_named

if TYPE_CHECKING:
    import pandas as pd

UNDEFINED = "undefined"
"""The state of a row whose quantity has no value, such as the cosine with a vector that is zero."""

N_VECTORS = 5
"""How many random vectors start for one cosine similarity convergence, as in the paper."""

_PERCENTILES = ("p10", "p90")
_LIKENESS = (*(c.label for c in CONVENTIONS), SPEARMAN, SPEARMAN_ABSOLUTE, COSINE)
_AREAS = ("area_most", "area_least", "separation")


@dataclass(frozen=True)
class Method:
    """A method of a grid: its name with its options, or a control.

    Parameters
    ----------
    name : str
        As `modbp.sources.method` takes it, or the name of a control.
    options : tuple of (str, any), optional
        What the class in `modbp.METHODS` takes beside the model, sorted by name.

    Examples
    --------
    >>> Method("rectgrad", (("percentile", 90),)).label
    'rectgrad(percentile=90)'
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """What tables call it."""
        said = ", ".join(f"{name}={value!r}" for name, value in self.options)
        return f"{self.name}({said})" if said else self.name

    @property
    def is_control(self) -> bool:
        """Whether it stands beside the methods for comparison, and knows nothing of a rule."""
        return self.name in CONTROLS

    def made(self, network: nn.Module) -> Any:
        """Return it as the measures take it: a name, a class, a composite, an object or a function."""
        if self.options:
            return make(self.name, network, **dict(self.options))
        return self.name if self.is_control else method_named(self.name)

    def sends(self) -> bool:
        """Return whether relevance goes from layer to layer, so that it can be looked at on its way."""
        if ":" not in self.name:
            return self.name in METHODS
        found = method_named(self.name)
        return isinstance(found, Composite | ModifiedBackprop) or (
            isinstance(found, type) and issubclass(found, Preset)
        )


@dataclass(frozen=True)
class Value:
    """One number: what a row of the results is made of.

    Parameters
    ----------
    method : Method
    layer : str or None
    quantity : str
    value : float
        NaN where it is not defined.
    n : int
        How many values it sums up.
    state : str
        `"fine"`, or why there is no value.
    target, other : int or None
        The class that is explained, and the one that it is compared with.

    Examples
    --------
    >>> Value(Method("gradient"), "input", "median", 0.5).state
    'fine'
    """

    method: Method
    layer: str | None
    quantity: str
    value: float
    n: int = 1
    state: str = FINE
    target: int | None = None
    other: int | None = None


@dataclass(frozen=True)
class Sample:
    """One picture, ready for one network.

    Parameters
    ----------
    network : nn.Module
        In eval mode.
    x : Tensor, shape (1, channels, height, width)
    sha256 : str
        Of the picture's file. What is drawn at random for a picture depends on it, and not on the picture's place.
    target : int
        The explained class.

    Examples
    --------
    >>> sample = Sample.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.zeros(1, 3, 2, 2), "ab")
    >>> sample.drawn(0) == sample.drawn(0), sample.drawn(0) == sample.drawn(1)
    (True, False)
    """

    network: nn.Module
    x: Tensor
    sha256: str
    target: int

    @classmethod
    def of(cls, network: nn.Module, x: Tensor, sha256: str) -> Sample:
        """Return the sample with the class that the network predicts.

        Parameters
        ----------
        network : nn.Module
        x : Tensor, shape (1, channels, height, width)
        sha256 : str

        Raises
        ------
        InputError
            If the network returns no logits.
        """
        with torch.no_grad():
            logits = network(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
            given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"the network returns {given}; allowed are logits, shape (batch, classes).")
        return cls(network, x, sha256, int(logits.argmax()))

    def drawn(self, seed: int) -> int:
        """Return the seed of what is drawn for this picture alone."""
        return int(hashlib.sha256(f"{seed} {self.sha256}".encode()).hexdigest()[:8], 16)


Measure = Callable[[Sample, Sequence[Method], Sequence[str], int], list[Value]]
"""Of a sample, methods, layers and a seed."""


@dataclass(frozen=True)
class Measurement:
    """A measurement: what it returns, and what it depends on.

    Parameters
    ----------
    name : str
    version : int
        Part of the keys of its rows. It rises when the measure changes, so that older rows do not pass for new ones.
    quantities : tuple of str
        What it returns for each method, layer and seed.
    function : callable
    layered : bool
        Whether it looks at layers.
    seeded : bool
        Whether anything is drawn at random.
    between_layers : bool
        Whether it needs methods that send relevance from layer to layer.
    controls : tuple of str
        What is measured besides the methods, for comparison.

    Examples
    --------
    >>> MEASUREMENTS["flipping"].controls
    ('random order', 'edges')
    """

    name: str
    version: int
    quantities: tuple[str, ...]
    function: Measure
    layered: bool = False
    seeded: bool = True
    between_layers: bool = False
    controls: tuple[str, ...] = ()


def _made(sample: Sample, methods: Sequence[Method]) -> dict[str, Any]:
    """Return methods by their labels; measures that are given all of them at once let them share forward passes."""
    return {method.label: method.made(sample.network) for method in methods}


def _csc(sample: Sample, methods: Sequence[Method], layers: Sequence[str], seed: int) -> list[Value]:
    table = csc(
        sample.network, sample.x, _made(sample, methods), n_vectors=N_VECTORS, seed=sample.drawn(seed), layers=layers
    )
    of_label = {method.label: method for method in methods}
    return [
        _value(of_label[row["method"]], row["layer"], quantity, row[quantity], n=row["values"])
        for row in table.to_dict("records")
        for quantity in MEASUREMENTS["csc"].quantities
    ]


def _alignment(sample: Sample, methods: Sequence[Method], layers: Sequence[str], seed: int) -> list[Value]:
    points = [layer for layer in layers if layer != INPUT]
    table = alignment(sample.network, sample.x, _made(sample, methods), sample.target, layers=points or None)
    of_label = {method.label: method for method in methods}
    return [
        _value(of_label[row["method"]], row["layer"], quantity, row[quantity], target=sample.target)
        for row in table.to_dict("records")
        if row["layer"] in layers
        for quantity in MEASUREMENTS["alignment"].quantities
    ]


def _classes(sample: Sample, methods: Sequence[Method], layers: Sequence[str], seed: int) -> list[Value]:
    table = random_logit(sample.network, sample.x, _made(sample, methods), controls=False, seed=sample.drawn(seed))
    return _of_table(table, methods)


def _randomization(sample: Sample, methods: Sequence[Method], layers: Sequence[str], seed: int) -> list[Value]:
    table = parameter_randomization(
        sample.network, sample.x, _made(sample, methods), sample.target, layers=layers, controls=False, seed=seed
    )
    return _of_table(table, methods, layer="stage")


def _of_table(table: pd.DataFrame, methods: Sequence[Method], layer: str = "") -> list[Value]:
    """Return the rows of a sanity check."""
    of_label = {method.label: method for method in methods}
    return [
        Value(
            of_label[row["method"]],
            row[layer] if layer else None,
            row["measure"],
            float(row["value"]),
            n=int(row["state"] == FINE),
            state=row["state"],
            target=int(row["target"]),
            other=int(row["other"]) if row["other"] >= 0 else None,
        )
        for row in table.to_dict("records")
    ]


def _flipping(sample: Sample, methods: Sequence[Method], layers: Sequence[str], seed: int) -> list[Value]:
    explained = torch.tensor([[sample.target]])
    own = [method for method in methods if not method.is_control]
    sending = [method for method in own if method.sends()]
    maps = attribute_methods(sample.network, _made(sample, sending), sample.x, explained) if sending else {}
    channels = {}
    for explainer in explainers_of(_made(sample, own), sample.network) if own else ():
        channels[explainer.name] = explainer.drawn.channels
        if explainer.name not in maps:
            maps[explainer.name] = explainer.maps(sample.network, sample.x, explained, None)
    table = pixel_flipping(
        sample.network,
        sample.x,
        # The controls have no map of their own, and without any map there is no table.
        {name: of_class[0] for name, of_class in maps.items()} or {"none": torch.zeros_like(sample.x)},
        explained[:, 0],
        order=ORDERS,
        channels=channels or "sum",
        # A batch holds the pictures of one map, so that a score has the same rounding beside any other maps.
        batch=len(ORDERS) * sum(0 < share < 1 for share in SHARES),
        seed=sample.drawn(seed),
    )
    areas = flipping_area(table).set_index("method")
    states = table.groupby("method")["state"].first()
    return [
        _value(method, None, quantity, areas.loc[method.label, quantity], states[method.label], target=sample.target)
        for method in methods
        for quantity in _AREAS
    ]


def _value(
    method: Method,
    layer: str | None,
    quantity: str,
    value: Any,
    state: str = FINE,
    n: int = 1,
    target: int | None = None,
) -> Value:
    value = float(value)
    if math.isnan(value):
        return Value(method, layer, quantity, value, 0, UNDEFINED if state == FINE else state, target)
    return Value(method, layer, quantity, value, int(n), state, target)


MEASUREMENTS: Mapping[str, Measurement] = MappingProxyType(
    {
        m.name: m
        for m in (
            Measurement("csc", 1, ("median", "mean", *_PERCENTILES), _csc, layered=True, between_layers=True),
            Measurement(
                "alignment",
                1,
                ("arriving", "filtered", "shuffled", "active"),
                _alignment,
                layered=True,
                seeded=False,
                between_layers=True,
            ),
            Measurement("classes", 1, _LIKENESS, _classes, controls=(NOISE, EDGES)),
            Measurement(
                "randomization", 1, (*_LIKENESS, ENTROPY_RISE), _randomization, layered=True, controls=(NOISE, EDGES)
            ),
            Measurement("flipping", 1, _AREAS, _flipping, controls=(RANDOM_ORDER, EDGE_ORDER)),
        )
    }
)
"""Every measurement of a sweep by name.

`csc` is `modbp.metrics.csc`, `alignment` is `modbp.metrics.alignment`, `classes` is `modbp.metrics.random_logit` with
one other class, `randomization` is `modbp.metrics.parameter_randomization` from the output down to a layer, and
`flipping` the areas of `modbp.metrics.pixel_flipping`. What they leave open has its default. What is drawn at random
for a picture depends on the seed and the picture's content; random weights depend on the seed alone.
"""

CONTROLS = frozenset(name for m in MEASUREMENTS.values() for name in m.controls)


def row_key(
    measurement: Measurement, quantity: str, subject: Mapping[str, str], method: Method, layer: str | None, seed: Any
) -> str:
    """Return the key of a row: a hash of what it measures.

    Parameters
    ----------
    measurement : Measurement
    quantity : str
    subject : mapping from str to str
        Hashes of what is measured: the network's weights and architecture, the preprocessing, the picture.
    method : Method
    layer : str or None
    seed : int or None

    Returns
    -------
    str
        32 hexadecimal digits.

    Examples
    --------
    >>> row_key(MEASUREMENTS["csc"], "median", {"image": "ab"}, Method("gradient"), "input", 0)
    '904c3a6a92dff2919c16327fe14f66ea'
    """
    return digest(
        {
            **subject,
            "measurement": measurement.name,
            "version": measurement.version,
            "quantity": quantity,
            "method": method.name,
            "options": dict(method.options),
            "layer": layer,
            "seed": seed,
        }
    )


def digest(value: Any) -> str:
    """Return the hash of a JSON value: 32 hexadecimal digits, the same whatever the order of its mappings.

    Parameters
    ----------
    value : any

    Returns
    -------
    str

    Examples
    --------
    >>> digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
