"""The measurements of an audit: every method on the same pictures, classes, random networks and vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modbp import patterns
from modbp.attr import METHODS, make
from modbp.attr.methods import Preset
from modbp.auditing.verdicts import ALL, CEILING, CLASS, FLOOR, IMAGE, LATER
from modbp.backward import INPUT
from modbp.errors import InputError, first_line
from modbp.layers import running_order
from modbp.metrics.classes import checked_targets, predicted_and_others
from modbp.metrics.convergence import InnerProducts, chance_level, csc
from modbp.metrics.flipping import CONTROLS as ORDERS_WITHOUT_MAP
from modbp.metrics.flipping import flipping_area, pixel_flipping
from modbp.metrics.sanity import EDGES, NOISE, SPEARMAN_ABSOLUTE, STRICT, parameter_randomization
from modbp.metrics.sanity.conventions import COSINE, Prepared
from modbp.metrics.sanity.explaining import Explainer, controls_for, explainers_of, of_all, shuffled
from modbp.metrics.similarity import CONSTANT, FINE, class_distance, cosine, high_pass_correlation

DISTANCE, ALIGNED, CONVERGED, SEPARATION = "distance between classes", "alignment", "convergence", "pixel flipping"
"""What else is measured of each method, beside the similarities that answer the questions."""

RANDOM_VECTORS, OTHER_CLASSES = "random vectors", "maps of classes"
"""What convergence compares: signals sent back from the output, or maps where a method sends none back."""

LAST_QUARTER = 0.25
"""The share of the layers that are called the later ones."""

RESERVED = (NOISE, EDGES, *ORDERS_WITHOUT_MAP)
"""Names that a method of one's own may not have."""


@dataclass(frozen=True)
class Budget:
    """How much is measured for each picture; every picture is measured, whatever the budget.

    Parameters
    ----------
    others : int
        Other classes for each picture, at most all.
    stages : tuple of float
        Beside the last quarter of the layers and all of them: shares of the layers that are random, from the output.
    converging : int
        On how many pictures convergence is measured.
    vectors : int
        How many random vectors are sent back.
    shares : tuple of float
        Shares of the pixels that pixel flipping replaces.
    squares : int
        How many squares of pixels the shorter side of a picture has.

    Examples
    --------
    >>> BUDGETS["quick"].others
    1
    """

    others: int
    stages: tuple[float, ...]
    converging: int
    vectors: int
    shares: tuple[float, ...]
    squares: int


BUDGETS: Mapping[str, Budget] = {
    "quick": Budget(1, (0.5,), 2, 2, (0.0, 0.1, 0.3, 0.6), 14),
    "full": Budget(5, (0.0, 0.125, 0.5, 0.75), 10, 5, (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0), 28),
}
"""The budgets by name. A share of 0 is the last layer alone."""


@dataclass
class Measured:
    """What was measured, in rows.

    Attributes
    ----------
    numbers : list of dict
        A row for each method, quantity, measure and picture: `method`, `quantity`, `measure`, `image`, `value`.
    convergence : list of dict
        A row for each method, picture and layer: `method`, `start`, `image`, `layer`, `median`, `chance`.
    curves : list of DataFrame
        From `modbp.metrics.pixel_flipping`, with `image` counted over all pictures.
    constant : dict from str to int
        For how many pictures the map of a method was constant.
    failures : dict from str to str
        Why a method has no, or no more, numbers.
    examples : dict from str to Tensor, shape (classes, pictures, ...)
        Maps of the first pictures.

    Examples
    --------
    >>> Measured().numbers
    []
    """

    numbers: list[dict[str, Any]] = field(default_factory=list)
    convergence: list[dict[str, Any]] = field(default_factory=list)
    curves: list[Any] = field(default_factory=list)
    constant: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    examples: dict[str, Tensor] = field(default_factory=dict)


Unit = tuple[str, float, Callable[[], None]]
"""A part of the work: its kind, its cost in maps of one picture, and what does it."""


class Battery:
    """All measurements of an audit, as units of work that can be done one by one.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    inputs : Tensor, shape (images, ...)
    methods : mapping from str to method
        From `by_name`.
    targets : int or Tensor of integers, shape (images,), optional
        By default the predicted classes.
    budget : Budget
    batch : int
        Pictures at a time.
    baselines : number or Tensor, optional
    seed : int
    examples : int
        Of how many pictures the maps are kept.
    stop : callable, optional
        Asked between methods, too, since a part of the work may take minutes.

    Examples
    --------
    >>> net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.rand(2, 4)
    >>> battery = Battery(net, x, {"gradient": "gradient"}, None, BUDGETS["quick"], 2, None, 0, 0)
    >>> for kind, cost, work in battery.units():
    ...     work()
    >>> sorted({row["quantity"] for row in battery.measured.numbers})[:3]
    ['alignment', 'all layers random', 'another class']
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        methods: Mapping[str, Any],
        targets: int | Tensor | None,
        budget: Budget,
        batch: int,
        baselines: Any,
        seed: int,
        examples: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.inputs, self.budget, self.batch, self.seed = model, inputs, budget, batch, seed
        self.baselines, self.examples, self.stop = baselines, examples, stop
        self.pictures = inputs.dim() == 4
        # SSIM looks through a window; of what is smaller, or no picture, the cosine tells as well.
        self.measure = STRICT.label if self.pictures and min(inputs.shape[2:]) >= STRICT.window else COSINE
        self.conventions = [STRICT] if self.measure == STRICT.label else []
        self.controls = controls_for(inputs)
        self.given = {**methods, **{name: name for name in self.controls}}
        self.explainers = explainers_of(self.given, model)
        with torch.no_grad():
            self.logits = torch.cat([_logits(model, x) for x in inputs.split(batch)])
        classes = self.logits.shape[1]
        likely = self.logits
        if targets is not None:
            # As if the network predicted them, so that none of the other classes is the explained one.
            explained = checked_targets(targets, inputs, classes)
            likely = torch.zeros(self.logits.shape).scatter_(1, explained[:, None], 1.0)
        self.asked = predicted_and_others(likely, min(budget.others, classes - 1), seed)
        self.layers = list(running_order(model, inputs[:1]))
        if not self.layers:
            raise InputError("model has no linear layer and no convolution; allowed is one with layers to randomize.")
        self.stages = stages_of(self.layers, budget.stages)
        self.measured = Measured()
        self._to_flip: dict[str, Tensor] = {}
        self._first: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}

    def units(self) -> Iterator[Unit]:
        """Yield the units of work, so that each picture is finished before many are begun."""
        ours = sum(e.ours and e.name not in self.controls for e in self.explainers)
        n, kinds = len(self.explainers), self.asked.shape[1] + 1
        yield "trial of every method", n / 2, self._try
        for start in range(0, len(self.inputs), self.batch):
            chunk = range(start, min(start + self.batch, len(self.inputs)))
            size = len(chunk)
            yield "maps of classes", size * n * kinds * 0.7, lambda chunk=chunk: self._classes(chunk)  # type: ignore[misc]
            for i in chunk:
                if self.pictures:
                    flips = 2 * sum(0 < s < 1 for s in self.budget.shares) * (n + 1)
                    yield "pixel flipping", flips / 3, lambda i=i, at=i - start: self._flip(i, at)  # type: ignore[misc]
                yield "random layers", n * (len(self.stages) + 1), lambda i=i: self._randomize(i)  # type: ignore[misc]
                if i < self.budget.converging and ours:
                    cost = ours * (1 + self.budget.vectors)
                    yield "convergence", cost, lambda i=i: self._converge(i)  # type: ignore[misc]

    # The measurements.

    def _try(self) -> None:
        """Ask each method for one map, so that one that cannot be used does not stop the others midway."""

        def one(explainer: Explainer) -> None:
            maps = self._maps(explainer, range(1), self.asked[:1, :1])
            if self.pictures and (maps.dim() != 5 or maps.shape[3:] != self.inputs.shape[2:]):
                raise InputError(
                    f"it returned maps of shape {tuple(maps.shape[1:])}; allowed are those of the pictures, with any"
                    f" number of channels: {tuple(self.inputs[:1].shape)}."
                )

        self._of_each(one)

    def _classes(self, chunk: range) -> None:
        asked, self._to_flip = self.asked[list(chunk)], {}

        def one(explainer: Explainer) -> None:
            maps = self._maps(explainer, chunk, asked)
            again = self._maps(explainer, chunk, asked[:, :1])[0]
            self._similar(explainer, chunk, maps, again)
            self._kept(explainer, chunk, maps)

        self._of_each(one)

    def _similar(self, explainer: Explainer, chunk: range, maps: Tensor, again: Tensor) -> None:
        first = self._prepared(explainer, maps[0])
        name = explainer.name
        self.measured.constant[name] = self.measured.constant.get(name, 0) + first.states.count(CONSTANT)
        others = [self._likeness(first, self._prepared(explainer, other)) for other in maps[1:]]
        self._note(explainer, CLASS, chunk, {m: _means([each[m] for each in others]) for m in others[0]})
        self._note(explainer, CEILING, chunk, self._likeness(first, self._prepared(explainer, again)))
        mixed = shuffled(maps[0], self.seed, chunk[0])
        self._note(explainer, FLOOR, chunk, self._likeness(first, self._prepared(explainer, mixed)))
        self._note(explainer, DISTANCE, chunk, {"": class_distance(maps, up_to_sign=True).tolist()})
        self._note(explainer, ALIGNED, chunk, {"": self._aligned(maps[0], self.inputs[list(chunk)])})
        if not explainer.ours or name in self.controls:
            self._cosines_of_classes(explainer, chunk, maps)
        self._neighbors(explainer, chunk, maps[0], first)

    def _neighbors(self, explainer: Explainer, chunk: range, maps: Tensor, prepared: Prepared) -> None:
        """Compare each picture's map with that of the picture before it, and the last one's with the first one's."""
        name = explainer.name
        before = maps[:-1]
        if name in self._last:
            before = torch.cat([self._last[name][None], before])
        held = list(chunk)[len(chunk) - len(before) :]
        if len(before):
            mine = prepared if len(before) == len(maps) else self._prepared(explainer, maps[1:])
            self._note(explainer, IMAGE, held, self._likeness(mine, self._prepared(explainer, before)))
        self._first.setdefault(name, maps[0])
        self._last[name] = maps[-1]
        if chunk[-1] == len(self.inputs) - 1 and len(self.inputs) > 2:
            ends = (self._prepared(explainer, end[None]) for end in (self._first[name], maps[-1]))
            self._note(explainer, IMAGE, [0], self._likeness(*ends))

    def _kept(self, explainer: Explainer, chunk: range, maps: Tensor) -> None:
        """Keep what the next unit flips, and the first pictures' maps."""
        if self.pictures and explainer.name not in self.controls:
            self._to_flip[explainer.name] = maps[0]
        missing = self.examples - chunk[0]
        if missing > 0:
            held = self.measured.examples.get(explainer.name)
            more = maps[:, :missing].detach().cpu()
            self.measured.examples[explainer.name] = more if held is None else torch.cat([held, more], 1)

    def _flip(self, i: int, at: int) -> None:
        """Flip the pixels of a picture, whose maps are at one place of those that were kept."""
        drawn = {e.name: e.drawn.channels for e in self.explainers if len(self._to_flip.get(e.name, ())) > at}
        if not drawn:
            return
        table = pixel_flipping(
            self.model,
            self.inputs[i : i + 1],
            {name: self._to_flip[name][at : at + 1] for name in drawn},
            self.asked[i : i + 1, 0],
            order=("most", "least"),
            shares=self.budget.shares,
            patch=max(1, min(self.inputs.shape[2:]) // self.budget.squares),
            channels=drawn,
            batch=self.batch,
            seed=self.seed + i,
        )
        table["image"] = i
        self.measured.curves.append(table)
        areas = flipping_area(table)
        for method, separation in areas[["method", "separation"]].itertuples(index=False):
            self._row(method, SEPARATION, "", i, separation)

    def _randomize(self, i: int) -> None:
        """Compare with networks with random layers: others for each picture, so that the draw counts as spread."""

        def some(methods: Mapping[str, Any]) -> None:
            table = parameter_randomization(
                self.model,
                self.inputs[i : i + 1],
                methods,
                self.asked[i : i + 1, 0],
                layers=self.stages,
                conventions=self.conventions,
                controls=False,
                batch=1,
                baselines=self._references(range(i, i + 1)),
                seed=self.seed + i,
            )
            for method, stage, measure, value in table[["method", "stage", "measure", "value"]].itertuples(index=False):
                if measure in (self.measure, SPEARMAN_ABSOLUTE):
                    self._row(method, stage, measure, i, abs(value) if measure == COSINE else value)

        self._of_all(some, self.explainers)

    def _converge(self, i: int) -> None:
        def some(methods: Mapping[str, Any]) -> None:
            vectors = self.budget.vectors
            table = csc(self.model, self.inputs[i : i + 1], methods, n_vectors=vectors, seed=self.seed + i)
            columns = ["method", "layer", "median", "chance"]
            for method, layer, median, chance in table[columns].itertuples(index=False):
                self._converged(method, RANDOM_VECTORS, i, layer, median, chance)

        self._of_all(some, [e for e in self.explainers if e.ours and e.name not in self.controls])

    def _cosines_of_classes(self, explainer: Explainer, chunk: range, maps: Tensor) -> None:
        for place, i in enumerate(chunk):
            products = InnerProducts.of(maps[:, place : place + 1])
            found, _ = products.absolute_cosines()
            median = float(found.median()) if len(found) else math.nan
            chance = chance_level(products.entries("position"))
            self._converged(explainer.name, OTHER_CLASSES, i, INPUT, median, chance)

    # What they have in common.

    def _maps(self, explainer: Explainer, chunk: range, classes: Tensor) -> Tensor:
        x = self.inputs[list(chunk)]
        return explainer.maps(self.model, x, classes, self._references(chunk))

    def _references(self, chunk: range) -> Any:
        given = self.baselines
        return given[list(chunk)] if isinstance(given, Tensor) and len(given) == len(self.inputs) else given

    def _prepared(self, explainer: Explainer, maps: Tensor) -> Prepared:
        return Prepared.of(maps, self.conventions, explainer.drawn)

    def _likeness(self, a: Prepared, b: Prepared) -> dict[str, list[float]]:
        """Return how like each other maps are, by the measure that answers and by a second one."""
        found = {str(getattr(k, "label", k)): v for k, v in a.similarities(b, self.conventions).items()}
        kept = {m: found[m] for m in dict.fromkeys((self.measure, SPEARMAN_ABSOLUTE))}
        for measure, values in kept.items():
            for i, states in enumerate(zip(a.states, b.states, strict=True)):
                if states != (FINE, FINE):
                    values[i] = math.nan
                elif measure == COSINE:
                    values[i] = abs(values[i])  # a chain of rank 1 may turn the sign, and SSIM is of the better one
        return kept

    def _aligned(self, maps: Tensor, x: Tensor) -> list[float]:
        if not self.pictures:
            return [abs(v) for v in cosine(maps, x).tolist()] if maps.shape == x.shape else [math.nan] * len(x)
        shown = x if maps.shape[1] == x.shape[1] else x.mean(1, keepdim=True)
        single = maps if maps.shape[1] == shown.shape[1] else maps.sum(1, keepdim=True)
        return [abs(v) for v in high_pass_correlation(single, shown).tolist()]

    def _note(self, explainer: Explainer, quantity: str, images: Any, found: Mapping[str, list[float]]) -> None:
        for measure, values in found.items():
            for i, value in zip(images, values, strict=True):
                self._row(explainer.name, quantity, measure, i, value)

    def _row(self, method: str, quantity: str, measure: str, image: int, value: float) -> None:
        self.measured.numbers.append(
            {"method": method, "quantity": quantity, "measure": measure, "image": image, "value": float(value)}
        )

    def _converged(self, method: str, start: str, image: int, layer: str, median: float, chance: float) -> None:
        self.measured.convergence.append(
            {
                "method": method,
                "start": start,
                "image": image,
                "layer": layer,
                "median": float(median),
                "chance": float(chance),
            }
        )

    # Methods that fail.

    def _of_each(self, function: Callable[[Explainer], None]) -> None:
        """Call a function for each explainer, ours side by side; one that fails is left out from then on."""

        def guarded(explainer: Explainer) -> tuple[Explainer, Exception] | None:
            try:
                if not self.stop():
                    function(explainer)
            except Exception as error:  # the code may be a user's, and raise anything
                return explainer, error
            return None

        for failed in of_all(guarded, [(e,) for e in self.explainers]):
            if failed is not None:
                self._fail(*failed)

    def _of_all(self, function: Callable[[Mapping[str, Any]], None], explainers: Sequence[Explainer]) -> None:
        """Call a function for methods at once; where that fails, for each by itself, to learn which it was."""
        if not explainers:
            return
        try:
            function({e.name: self.given[e.name] for e in explainers})
        except Exception:
            for explainer in explainers:
                try:
                    function({explainer.name: self.given[explainer.name]})
                except Exception as error:
                    self._fail(explainer, error)

    def _fail(self, explainer: Explainer, error: Exception) -> None:
        self.explainers = [e for e in self.explainers if e is not explainer]
        said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
        self.measured.failures[explainer.name] = said


def by_name(methods: Any, model: nn.Module, inputs: Tensor, batch: int) -> dict[str, Any]:
    """Return methods by name; to those that need patterns they are fitted, on the inputs.

    Parameters
    ----------
    methods : str, composite, method, class, function; or sequence of them, or mapping from names to them
        As for `modbp.metrics.random_logit`.
    model : nn.Module
    inputs : Tensor, shape (images, ...)
    batch : int
        Inputs at a time.

    Returns
    -------
    dict from str to method

    Raises
    ------
    InputError
        If there is no method, one is unknown, or two have one name.

    Examples
    --------
    >>> list(by_name(["gradient", lambda model, x, target: x], nn.Linear(2, 2), torch.zeros(1, 2), 1))
    ['gradient', '<lambda>']
    """
    fitted: Any = None

    def with_patterns(method: Any) -> Any:
        nonlocal fitted
        if not isinstance(method, str) or method not in METHODS or issubclass(METHODS[method], Preset):
            return method
        fitted = fitted or patterns.fit(model, inputs.split(batch))
        return make(method, model, patterns=fitted)

    several = isinstance(methods, Iterable) and not isinstance(methods, str | Mapping)
    given: Any = methods if several or isinstance(methods, Mapping) else [methods]
    if isinstance(given, Mapping):
        given = {str(name): with_patterns(method) for name, method in given.items()}
    else:
        given = [with_patterns(method) for method in given]
    names = [explainer.name for explainer in explainers_of(given, model)]
    taken = [name for name in names if name in RESERVED]
    if taken:
        raise InputError(f"methods has the name {taken[0]!r}, which a control has; allowed is any other.")
    return dict(zip(names, given.values() if isinstance(given, Mapping) else given, strict=True))


def stages_of(layers: list[str], shares: tuple[float, ...]) -> dict[str, str]:
    """Return from which layer upwards the layers are random at each stage of the cascade.

    The later layers, which a verdict asks for, are the last quarter. In VGG16 that is the dense layers, on which the
    book's own guidance rests (its decisive questions), and the convolution in front of them.

    Parameters
    ----------
    layers : list of str
        With weights, in the order in which they run.
    shares : tuple of float
        Beside a quarter and all.

    Returns
    -------
    dict from str to str
        The stages in the order of the cascade; of two that are the same network, one.

    Examples
    --------
    >>> stages_of([*"abcdefgh"], (0.0, 0.5))
    {'last layer random': 'h', 'later layers random': 'g', '4 of 8 layers random': 'e', 'all layers random': 'a'}
    """
    n = len(layers)
    starts = {share: min(n - 1, n - round(share * n)) for share in (LAST_QUARTER, *shares)}
    found = {LATER: starts[LAST_QUARTER], ALL: 0}
    for start in starts.values():
        if start not in found.values():
            found["last layer random" if start == n - 1 else f"{n - start} of {n} layers random"] = start
    return {name: layers[start] for name, start in sorted(found.items(), key=lambda item: -item[1])}


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return what a model of a user's says of inputs, if these are logits."""
    try:
        found = model(x)
    except Exception as error:  # the code is not ours, and may raise anything
        raise InputError(
            f"model cannot be called with inputs of shape {tuple(x.shape)} ({type(error).__name__}:"
            f" {first_line(error)}); allowed are inputs as it sees them."
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 2 or found.shape[1] < 2:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"model returned {what}; allowed are logits of two classes or more, shape (images, classes).")
    if not found.isfinite().all():
        raise InputError("model returned logits that are not finite; allowed are numbers.")
    return found


def _means(lists: list[list[float]]) -> list[float]:
    """Return the mean of each position over lists."""
    return [sum(values) / len(values) for values in zip(*lists, strict=True)]
