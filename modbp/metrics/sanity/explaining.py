"""What makes the maps that a sanity check compares: a method of ours, one of Captum's, any function, or a control."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modbp._captum import Attribution
from modbp.attr import ModifiedBackprop
from modbp.attr.methods import Preset
from modbp.composite import Composite
from modbp.errors import InputError
from modbp.metrics.edges import edge_magnitude
from modbp.metrics.sanity.conventions import Drawn
from modbp.metrics.sender import name_of, sender_of
from modbp.parallel import in_parallel

Maps = Callable[[Callable[..., Any], Tensor, Tensor, Any], Tensor]

NOISE, EDGES = "noise", "edges"
"""Controls in the place of methods: a map that depends on everything and explains nothing, and the opposite."""

FLOOR = "unrelated noise"
"""What rows of the floor have for a method."""

UNSIGNED = ("gradient", "deconvolution", "guided_backprop", "rectgrad")
"""Methods whose maps the paper draws as the largest absolute value over the channels."""


@dataclass(frozen=True)
class Explainer:
    """What makes maps of a model's classes.

    Parameters
    ----------
    name : str
    maps : callable
        Of the model, inputs of shape (batch, ...), classes of shape (batch, maps) and baselines; returns maps, shape
        (maps, batch, ...).
    drawn : Drawn
        How its maps are drawn.
    ours : bool
        Whether it leaves the model alone, so that several may run at once.

    Examples
    --------
    >>> Explainer("the picture", lambda model, x, classes, baselines: x[None]).drawn.channels
    'sum'
    """

    name: str
    maps: Maps
    drawn: Drawn = field(default_factory=Drawn)
    ours: bool = True


def explainers_of(methods: Any, model: Callable[..., Any], controls: Sequence[str] = ()) -> list[Explainer]:
    """Return what makes the maps, one for each method, and the controls.

    Parameters
    ----------
    methods : str, composite, method, class, function; or sequence of them, or mapping from names to them
        Names of `modbp.METHODS`; composites and methods of `modbp.attr`, of which only the composite is used; classes
        of `captum.attr`; functions `(model, inputs, target) -> attributions`.
    model : callable
        To look whether they fit.
    controls : sequence of str, optional
        Names of controls to add.

    Returns
    -------
    list of Explainer

    Raises
    ------
    InputError
        If there is no method, one cannot be used, or two have one name.

    Examples
    --------
    >>> [e.name for e in explainers_of(["gradient", lambda model, x, target: x], lambda x: x, CONTROLS)]
    ['gradient', '<lambda>', 'noise', 'edges']
    """
    if isinstance(methods, Mapping):
        given = [(str(name), method) for name, method in methods.items()]
    else:
        several = isinstance(methods, Iterable) and not isinstance(methods, str)
        given = [(name_of(method), method) for method in (methods if several else [methods])]
    if not given:
        raise InputError("methods is empty; allowed are one or more.")
    given += [(name, name) for name in controls if name not in dict(given)]
    names = [name for name, _ in given]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"methods has {twice[0]!r} twice; allowed is a mapping that gives each its own name.")
    if FLOOR in names:
        raise InputError(f"methods has the name {FLOOR!r}, which the floor has; allowed is any other.")
    return [_explainer(name, method, model) for name, method in given]


def _explainer(name: str, method: Any, model: Callable[..., Any]) -> Explainer:
    if isinstance(method, str) and method in CONTROLS:
        return Explainer(name, CONTROLS[method])
    preset = isinstance(method, type) and issubclass(method, Preset)
    if preset or isinstance(method, str | Composite | ModifiedBackprop):
        composite = sender_of(method, model).composite

        def of_ours(net: Callable[..., Any], x: Tensor, classes: Tensor, baselines: Any) -> Tensor:
            reference = baselines if composite.compares else None
            return ModifiedBackprop(net, composite).attribute_classes(x, classes, baselines=reference)

        ends = (0.0, 100.0) if composite.name == "rectgrad" else Drawn().percentiles
        return Explainer(name, of_ours, Drawn("max_absolute" if composite.name in UNSIGNED else "sum", ends))
    if isinstance(method, type) and issubclass(method, Attribution):
        return Explainer(name, _by_class(name, _of_captum(method)), ours=False)
    if isinstance(method, Attribution) or not callable(method):
        raise InputError(
            f"methods has {name!r} of type {type(method).__name__}; allowed are names of modbp.METHODS, composites,"
            " methods of modbp.attr, classes of captum.attr, and functions of (model, inputs, target)."
        )
    return Explainer(name, _by_class(name, lambda net: lambda x, target: method(net, x, target)), ours=False)


def _of_captum(method: type) -> Callable[[Any], Callable[..., Tensor]]:
    # On a copy that asks for a gradient, or Captum warns at every call that it has to.
    return lambda net: lambda x, target: method(net).attribute(x.detach().clone().requires_grad_(), target=target)


def _by_class(name: str, attribute_of: Callable[[Any], Callable[..., Tensor]]) -> Maps:
    """Ask for the map of one class after the other, as functions that are not ours must be."""

    def maps(net: Callable[..., Any], x: Tensor, classes: Tensor, baselines: Any) -> Tensor:
        found = []
        for target in classes.T:
            one = attribute_of(net)(x, target=target)
            if not isinstance(one, Tensor) or one.shape[:1] != x.shape[:1]:
                given = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
                raise InputError(f"{name} returned {given} for {len(x)} inputs; allowed is a tensor with one map each.")
            found.append(one.detach())
        return torch.stack(found)

    return maps


def _noise(net: Callable[..., Any], x: Tensor, classes: Tensor, baselines: Any) -> Tensor:
    """Return Gaussian noise that is another one for another class, other parameters or another picture."""
    parameters: Iterable[Tensor] = getattr(net, "parameters", list)()
    seen = zlib.crc32(b"".join(p.detach().flatten()[:16].cpu().numpy().tobytes() for p in parameters))
    maps = torch.empty(classes.shape[1], *x.shape, dtype=x.dtype)
    for i, picture in enumerate(x.detach().cpu()):
        of_picture = zlib.crc32(picture.contiguous().numpy().tobytes(), seen)
        for m, k in enumerate(classes[i].tolist()):
            generator = torch.Generator().manual_seed(zlib.crc32(str(k).encode(), of_picture))
            maps[m, i] = torch.randn(x.shape[1:], generator=generator, dtype=x.dtype)
    return maps.to(x.device)


def _edges(net: Callable[..., Any], x: Tensor, classes: Tensor, baselines: Any) -> Tensor:
    """Return the edges of the pictures: the same whatever the class and the parameters."""
    if x.dim() != 4:
        raise InputError(f"inputs has shape {tuple(x.shape)}; allowed with {EDGES!r} are pictures.")
    return edge_magnitude(x).to(x).expand(classes.shape[1], *x.shape)


CONTROLS: Mapping[str, Maps] = {NOISE: _noise, EDGES: _edges}


def controls_for(inputs: Tensor) -> tuple[str, ...]:
    """Return the controls that there are for inputs: edges only of pictures.

    Parameters
    ----------
    inputs : Tensor, shape (batch, ...)

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> controls_for(torch.zeros(1, 3))
    ('noise',)
    """
    return (NOISE, EDGES) if inputs.dim() == 4 else (NOISE,)


def of_all(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return what a function makes of each job: ours side by side, then one by one those that may change a model.

    Parameters
    ----------
    function : callable
        Of what a job holds.
    jobs : sequence of tuples
        Each with an explainer first.

    Returns
    -------
    list
        In the order of the jobs.

    Examples
    --------
    >>> mine, yours = (Explainer(name, lambda *a: torch.zeros(1), ours=name == "mine") for name in ("mine", "yours"))
    >>> of_all(lambda e, stage: f"{e.name} {stage}", [(yours, 1), (mine, 1), (mine, 2)])
    ['yours 1', 'mine 1', 'mine 2']
    """
    together = [i for i, job in enumerate(jobs) if job[0].ours]
    done = dict(zip(together, in_parallel(lambda i: function(*jobs[i]), together), strict=True))
    return [done[i] if i in done else function(*job) for i, job in enumerate(jobs)]


def unrelated(x: Tensor, seed: int, number: int) -> Tensor:
    """Return two independent maps of Gaussian noise for each sample, shape (2, batch, ...): the floor.

    Parameters
    ----------
    x : Tensor, shape (batch, ...)
    seed : int
    number : int
        Of the first sample among all.

    Returns
    -------
    Tensor of float64

    Examples
    --------
    >>> unrelated(torch.zeros(2, 3), 0, 0)[:, 1].equal(unrelated(torch.zeros(1, 3), 0, 1)[:, 0])
    True
    """
    draws = []
    for i in range(len(x)):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {number + i}".encode()))
        draws.append(torch.randn(2, *x.shape[1:], generator=generator, dtype=torch.float64))
    return torch.stack(draws, 1)


def shuffled(maps: Tensor, seed: int, number: int) -> Tensor:
    """Return maps whose pixels have changed places at random, all channels of a pixel together.

    Parameters
    ----------
    maps : Tensor, shape (batch, channels, ...)
    seed : int
    number : int
        Of the first sample among all.

    Returns
    -------
    Tensor, of the same shape

    Examples
    --------
    >>> shuffled(torch.arange(4.0).reshape(1, 1, 2, 2), 0, 0).flatten().sort().values
    tensor([0., 1., 2., 3.])
    """
    result = torch.empty_like(maps)
    for i, one in enumerate(maps):
        generator = torch.Generator().manual_seed(zlib.crc32(f"shuffled {seed} {number + i}".encode()))
        rows = one.flatten(1) if one.dim() > 1 else one[None]
        order = torch.randperm(rows.shape[-1], generator=generator).to(maps.device)
        result[i] = rows[:, order].reshape(one.shape)
    return result
