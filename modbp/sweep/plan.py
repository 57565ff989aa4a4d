"""The grid of a sweep: read, checked, and cut into tasks; nothing is measured or written here."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from modbp import images, sources
from modbp.attr import METHODS
from modbp.attr.methods import Preset
from modbp.backward import INPUT
from modbp.checks import seeded, whole
from modbp.errors import InputError, first_line, nearest
from modbp.files import expand
from modbp.layers import activation_points, running_order
from modbp.sweep.measures import MEASUREMENTS, Measurement, Method, row_key
from modbp.sweep.worker import Identity, Network, Order, Wanted, fixed_picture, load, subject_of

MEASURING = ("measure", "images", "n_images", "methods", "layers", "networks", "seeds")
"""The keys of a grid of measurements."""

RUNNING = ("notebook", "parameters", "grid")
"""The keys of a grid of notebook runs."""

ALL = "all"
"""The word for all of `modbp.METHODS` but those that need patterns."""

MOST_ROWS = 1_000_000_000
"""More rows than this are a slip of the keyboard."""


@dataclass(frozen=True)
class Grid:
    """A grid of measurements: everything is measured of every picture with every network.

    Parameters
    ----------
    measure : tuple of str
        Keys of `modbp.sweep.MEASUREMENTS`.
    methods : tuple of Method
    networks : tuple of Network
    images : str
        `"embedded"`, or a folder.
    n_images : int or None
        How many pictures, in the order of their names; None for all.
    layers : tuple of str or None
    seeds : tuple of int

    Examples
    --------
    >>> grid = Grid.of({"measure": "csc", "methods": ["gradient", {"method": "rectgrad", "percentile": 90}]})
    >>> [method.label for method in grid.methods], grid.seeds
    (['gradient', 'rectgrad(percentile=90)'], (0,))
    """

    measure: tuple[str, ...]
    methods: tuple[Method, ...]
    networks: tuple[Network, ...] = (Network("vgg16"),)
    images: str = images.EMBEDDED
    n_images: int | None = None
    layers: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Grid:
        """Return the grid that a mapping describes, after a look at every key and value.

        Parameters
        ----------
        given : mapping from str to any
            What the grid's file holds.

        Raises
        ------
        InputError
            If a key, a measurement, a method, an option or a network is unknown, or a value is not allowed.
        """
        check_keys(given, MEASURING, "the grid")
        for name in ("measure", "methods"):
            if name not in given:
                raise InputError(f"the grid has no key {name!r}; allowed is a grid that has it.")
        measure = _names(given, "measure", MEASUREMENTS)
        if given.get("n_images") is not None:
            whole("n_images", given["n_images"])
        folder = given.get("images", images.EMBEDDED)
        if not isinstance(folder, str):
            raise InputError(f'images is {folder!r}; allowed are a folder, and "{images.EMBEDDED}".')
        seeds = _several(given.get("seeds", 0), "seeds")
        for seed in seeds:
            seeded(seed)
        methods = _methods(given["methods"])
        return cls(
            measure=measure,
            methods=_once(methods, "methods", [m.label for m in methods]),
            networks=_networks(given.get("networks", "vgg16")),
            images=folder,
            n_images=given.get("n_images"),
            layers=_layers(given.get("layers")),
            seeds=_once(seeds, "seeds"),
        )


@dataclass(frozen=True)
class Runs:
    """A grid of runs of one notebook.

    Parameters
    ----------
    notebook : Path
    parameters : dict from str to any
        What all runs have in common.
    axes : dict from str to list
        The parameters that vary, with their values.

    Examples
    --------
    >>> Runs.of({"notebook": "csc-vgg16", "grid": {"seed": [0, 1]}}).axes
    {'seed': [0, 1]}
    """

    notebook: Path
    parameters: dict[str, Any]
    axes: dict[str, list[Any]]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Runs:
        """Return the grid that a mapping describes; `modbp.grid.plan` looks at names and values.

        Parameters
        ----------
        given : mapping from str to any

        Raises
        ------
        InputError
            If a key is unknown, the notebook does not exist, or its parameters are no mappings.
        """
        from modbp import notebooks

        check_keys(given, RUNNING, "the grid")
        name, parameters, axes = (given.get(key) for key in RUNNING)
        if not isinstance(name, str):
            raise InputError(f"notebook is {name!r}; allowed are the name of a walkthrough, and a notebook's path.")
        for key, value in (("parameters", parameters or {}), ("grid", axes)):
            if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
                raise InputError(f"{key} is {value!r}; allowed is a mapping from the names of parameters.")
        assert isinstance(axes, Mapping)
        return cls(notebooks.find(name), dict(parameters or {}), {k: list(_several(v, k)) for k, v in axes.items()})


def read(path: str | Path) -> Grid | Runs:
    r"""Read the file of a grid.

    Parameters
    ----------
    path : str or Path
        YAML; see `book/how-to-sweep.md`.

    Returns
    -------
    Grid or Runs

    Raises
    ------
    InputError
        If the file cannot be read, or as `Grid.of` and `Runs.of`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "grid.yaml").write_text("measure: [csc, alignment]\nmethods: all\n")
    ...     len(read(f"{folder}/grid.yaml").methods)
    25
    """
    given = read_mapping(path, "the grid")
    if "notebook" in given:
        return Runs.of(given)
    if "measure" not in given and set(given) & set(RUNNING):
        raise InputError("the grid has no key 'notebook'; allowed is a grid that has it.")
    return Grid.of(given)


class _Loader(yaml.SafeLoader):
    """YAML's own loader lets the second of two equal keys win without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InputError(f"the key {twice[0]!r} is given twice; allowed is once.")
        return super().construct_mapping(node, deep)


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """Read a mapping from a file of YAML.

    Parameters
    ----------
    path : str or Path
    what : str
        What the message calls it.

    Returns
    -------
    dict from str to any

    Raises
    ------
    InputError
        If the file cannot be read, is no YAML, has a key twice, or holds no mapping.

    Examples
    --------
    >>> read_mapping("no-such-file.yaml", "the grid")
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: the grid 'no-such-file.yaml' cannot be read (No such file or directory); allowed is a ...
    """
    path = expand(path)
    try:
        with path.open(encoding="utf-8") as file:
            given = yaml.load(file, Loader=_Loader)
    except OSError as error:
        raise InputError(f"{what} '{path}' cannot be read ({error.strerror}); allowed is a file of YAML.") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or first_line(error)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{what} '{path}' is no YAML ({reason}{where}); allowed is a mapping.") from None
    if not isinstance(given, dict) or not given or not all(isinstance(name, str) for name in given):
        raise InputError(f"{what} '{path}' holds no mapping; allowed is one from names to values.")
    return given


def check_keys(given: Collection[str], known: Sequence[str], what: str) -> None:
    """Refuse keys that are unknown.

    Parameters
    ----------
    given, known : collection of str
    what : str
        What has them.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_keys(["seed"], ["seeds"], "the grid")
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: the grid has the key 'seed' (did you mean seeds?); allowed are seeds.
    """
    for name in given:
        if name not in known:
            raise InputError(f"{what} has the key {name!r}{nearest(str(name), known)}; allowed are {', '.join(known)}.")


def _several(value: Any, name: str) -> tuple[Any, ...]:
    found = tuple(value) if isinstance(value, list) else (value,)
    if not found:
        raise InputError(f"{name} is empty; allowed are one or more.")
    return found


def _once(values: Sequence[Any], name: str, shown: Sequence[Any] = ()) -> tuple[Any, ...]:
    shown = list(shown or values)
    twice = [value for value in shown if shown.count(value) > 1]
    if twice:
        raise InputError(f"{name} holds {twice[0]!r} twice; allowed is once.")
    return tuple(values)


def _names(given: Mapping[str, Any], key: str, known: Collection[str]) -> tuple[str, ...]:
    found = _several(given[key], key)
    for name in found:
        if name not in known:
            raise InputError(f"{key} holds {name!r}{nearest(str(name), known)}; allowed are {', '.join(known)}.")
    return _once(found, key)


def _methods(given: Any) -> list[Method]:
    found = []
    for entry in [n for n in METHODS if issubclass(METHODS[n], Preset)] if given == ALL else _several(given, "methods"):
        if isinstance(entry, Mapping):
            if not isinstance(entry.get("method"), str) or not all(isinstance(name, str) for name in entry):
                raise InputError(
                    f"methods holds {dict(entry)!r}; allowed are names, and mappings with the key 'method'."
                )
            options = {name: value for name, value in entry.items() if name != "method"}
            name = entry["method"]
        else:
            name, options = entry, {}
        if not isinstance(name, str):
            raise InputError(f"methods holds {name!r}; allowed are names, and mappings with the key 'method'.")
        sources.check_method(name)
        if ":" not in name and not issubclass(METHODS[name], Preset):
            raise InputError(f"methods holds {name!r}, which needs patterns; allowed are methods that need none.")
        for option, value in options.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise InputError(f"the option {option} of {name} is {value!r}; allowed are a number and text.")
        # 1 and 1.0 are one number, and have one key.
        plain = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in options.items()}
        method = Method(name, tuple(sorted(plain.items())))
        if options:
            if ":" in name:
                raise InputError(f"the method {name!r} has options; allowed are they for names of modbp.METHODS.")
            method.made(torch.nn.Identity())
        else:
            method.sends()  # imports what is not ours
        found.append(method)
    return found


def _networks(given: Any) -> tuple[Network, ...]:
    found = []
    for entry in _several(given, "networks"):
        described = dict(entry) if isinstance(entry, Mapping) else {"network": entry}
        check_keys(described, ("network", "weights", "seed", "layers"), "an entry of networks")
        spec, weights, seed = described.get("network"), described.get("weights"), described.get("seed", 0)
        if not isinstance(spec, str):
            raise InputError(f"networks holds {entry!r}; allowed are names, and mappings with the key 'network'.")
        sources.check_network(spec, weights)
        seeded(seed)
        found.append(Network(spec, weights, seed, _layers(described.get("layers"))))
    return _once(found, "networks", [network.label for network in found])


def _layers(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    found = tuple(str(layer) for layer in _several(given, "layers"))  # YAML reads the name 0 as a number
    return _once(found, "layers")


@dataclass(frozen=True)
class Picture:
    """A picture of a grid.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of its file; empty where it cannot be read.
    reason : str
        Why it cannot be read; empty where it can.

    Examples
    --------
    >>> pictures("embedded", 1)[0].reason
    ''
    """

    path: Path
    sha256: str
    reason: str = ""


def pictures(source: str, n: int | None) -> list[Picture]:
    """Return the pictures of a grid, each content once; those that cannot be read are among them.

    Parameters
    ----------
    source : str
        `"embedded"` or a folder.
    n : int or None

    Returns
    -------
    list of Picture
        In the order of their names.

    Raises
    ------
    InputError
        If the folder does not exist or holds no picture.

    Examples
    --------
    >>> len(pictures("embedded", 3))
    3
    """
    paths = images.files(source)[:n]
    if not paths:
        raise InputError(f"the folder '{source}' holds no picture; allowed are JPEG, PNG, WebP and what Pillow reads.")
    found: dict[str, Picture] = {}
    for path in paths:
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            found[str(path)] = Picture(path, "", f"it cannot be read ({error.strerror})")
            continue
        found.setdefault(sha256, Picture(path, sha256))
    return list(found.values())


@dataclass(frozen=True)
class Subject:
    """A network of a grid, with what is wanted of each picture.

    Parameters
    ----------
    network : Network
    identity : Identity
    wanted : tuple of Wanted

    Examples
    --------
    >>> wanted = (Wanted("csc", Method("gradient"), 0, ("input", "features.1")),)
    >>> Subject(Network("vgg16"), Identity("a", "b", "c"), wanted).rows
    8
    """

    network: Network
    identity: Identity
    wanted: tuple[Wanted, ...]

    @property
    def rows(self) -> int:
        """How many rows one picture comes to."""
        return sum(each.rows for each in self.wanted)

    def missing(self, sha256: str, done: Collection[str]) -> tuple[Wanted, ...]:
        """Return what is wanted of a picture and not done.

        Parameters
        ----------
        sha256 : str
            Of the picture's file.
        done : collection of str
            Keys of rows.

        Returns
        -------
        tuple of Wanted
        """
        if not done or not sha256:
            return self.wanted
        subject = subject_of(self.identity, sha256)
        found = []
        for each in self.wanted:
            kind = MEASUREMENTS[each.measurement]

            def is_done(layer: str | None, each: Wanted = each, kind: Measurement = kind) -> bool:
                return all(row_key(kind, q, subject, each.method, layer, each.seed) in done for q in kind.quantities)

            if not each.layers:
                found += [] if is_done(None) else [each]
            elif left := tuple(layer for layer in each.layers if not is_done(layer)):
                found.append(Wanted(each.measurement, each.method, each.seed, left))
        return tuple(found)


@dataclass(frozen=True)
class Task:
    """One picture with one network, and what is not done of it.

    Parameters
    ----------
    subject : Subject
    picture : Picture
    wanted : tuple of Wanted

    Examples
    --------
    >>> wanted = (Wanted("classes", Method("gradient"), 0),)
    >>> subject = Subject(Network("vgg16"), Identity("a", "b", "c"), wanted)
    >>> Task(subject, Picture(Path("cat.png"), "ab"), wanted).rows
    6
    """

    subject: Subject
    picture: Picture
    wanted: tuple[Wanted, ...]

    @property
    def rows(self) -> int:
        """How many rows it comes to."""
        return sum(each.rows for each in self.wanted)

    def order(self, threads: int = 1, device: str = "auto") -> Order:
        """Return what a worker needs for it, with the picture's bytes.

        Parameters
        ----------
        threads, device
            See `modbp.sweep.worker.Order`.

        Raises
        ------
        InputError
            If the picture cannot be read, or has changed since it was planned.
        """
        if self.picture.reason:
            raise InputError(self.picture.reason)
        try:
            content = self.picture.path.read_bytes()
        except OSError as error:
            raise InputError(f"it cannot be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != self.picture.sha256:
            raise InputError("the file has changed since the sweep began")
        subject = self.subject
        return Order(subject.network, subject.identity, self.picture.path.name, content, self.wanted, threads, device)


@dataclass(frozen=True)
class Plan:
    """A grid with its networks looked at, and its pictures.

    Parameters
    ----------
    grid : Grid
    subjects : tuple of Subject
    pictures : tuple of Picture
    notes : tuple of str
        What is left out, and why.

    Examples
    --------
    >>> Plan(Grid.of({"measure": "classes", "methods": "gradient"}), (), ()).rows
    0
    """

    grid: Grid
    subjects: tuple[Subject, ...]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows the grid comes to."""
        return len(self.pictures) * sum(subject.rows for subject in self.subjects)

    def tasks(self, done: Collection[str] = ()) -> Iterator[Task]:
        """Yield the tasks that are not done, network by network.

        Parameters
        ----------
        done : collection of str
            Keys of rows.

        Yields
        ------
        Task
        """
        for subject in self.subjects:
            for picture in self.pictures:
                if wanted := subject.missing(picture.sha256, done):
                    yield Task(subject, picture, wanted)


def plan(grid: Grid) -> Plan:
    """Look at a grid's pictures and networks, and return what is to be measured; every network is loaded once.

    Parameters
    ----------
    grid : Grid

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        If there are no pictures, a network cannot be had, a layer is unknown, nothing is to be measured, or the grid
        is too large.

    Examples
    --------
    >>> found = plan(Grid.of({"measure": "classes", "methods": "gradient", "n_images": 2}))
    >>> len(found.pictures), found.rows
    (2, 36)
    """
    found = pictures(grid.images, grid.n_images)
    notes: dict[str, None] = {}
    between = [m for m in grid.methods if m.sends()]
    looking = [name for name in grid.measure if MEASUREMENTS[name].between_layers]
    if looking and len(between) < len(grid.methods):
        others = ", ".join(m.label for m in grid.methods if m not in between)
        notes[f"{' and '.join(looking)}: left out {others}, which sends nothing from layer to layer"] = None
    subjects = tuple(_subject(network, grid, between) for network in grid.networks)
    if not any(subject.wanted for subject in subjects):
        raise InputError(
            f"measure is {', '.join(grid.measure)}, which none of the methods and layers allows; allowed are methods"
            " of modbp.METHODS, and layers with weights for randomization."
        )
    made = Plan(grid, subjects, tuple(found), tuple(notes))
    if made.rows > MOST_ROWS:
        raise InputError(f"the grid has {made.rows:,} rows; allowed are {MOST_ROWS:,} at most.")
    return made


def _subject(network: Network, grid: Grid, between: Sequence[Method]) -> Subject:
    model, identity = load(network)
    x = model.transform(fixed_picture())[None]
    points, weighted = activation_points(model, x), list(running_order(model, x))
    layers = network.layers or grid.layers
    if layers is not None:
        known = [INPUT, *dict.fromkeys([*points.values(), *points, *(n for n, _ in model.named_modules() if n)])]
        for layer in layers:
            if layer not in known:
                shown = [INPUT, *dict.fromkeys(points.values())]
                raise InputError(
                    f"layers holds {layer!r}{nearest(layer, known)}; allowed in {network.label} are names of its"
                    f" modules, such as {', '.join(shown[:6])}."
                )
    behind = [point for layer, point in points.items() if layer != point]
    of_point = {point: layer.partition(":")[0] for layer, point in points.items()}
    at: dict[str, list[str]] = {
        "csc": list(layers or [INPUT, *points.values()]),
        "alignment": list(layers or [INPUT, *behind]),
        # An activation stands for the layer with the weights that it belongs to.
        "randomization": weighted if layers is None else [of_point.get(layer, layer) for layer in layers],
    }
    at["randomization"] = [layer for layer in dict.fromkeys(at["randomization"]) if layer in weighted]
    wanted: list[Wanted] = []
    for name in grid.measure:
        kind = MEASUREMENTS[name]
        methods = [*(between if kind.between_layers else grid.methods), *map(Method, kind.controls)]
        places = tuple(dict.fromkeys(at[name])) if kind.layered else ()
        if kind.layered and not places:
            continue
        seeds: Sequence[int | None] = grid.seeds if kind.seeded else (None,)
        wanted += [Wanted(name, method, seed, places) for seed in seeds for method in methods]
    return Subject(network, identity, tuple(wanted))
