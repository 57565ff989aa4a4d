"""What a worker does: it loads a network once, and measures one picture after the other."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modbp import __version__, images, sources, zoo
from modbp.errors import InputError, first_line
from modbp.sweep.measures import MEASUREMENTS, Method, Sample, Value, row_key

DEVICES = ("auto", "cpu", "cuda")

_lock = threading.RLock()
"""One picture at a time in a process: a worker with several threads would load twice, and some methods hook a model."""


@dataclass(frozen=True)
class Network:
    """A network of a grid, as `modbp.sources.network` takes it.

    Parameters
    ----------
    spec : str
    weights : str, optional
    seed : int, default 0
        For random weights.
    layers : tuple of str, optional
        Where to look in this network, in place of the grid's layers.

    Examples
    --------
    >>> Network("vgg16", "random", 3).label
    'vgg16, random (seed 3)'
    """

    spec: str
    weights: str | None = None
    seed: int = 0
    layers: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        weights = f"{self.weights} (seed {self.seed})" if self.weights == zoo.RANDOM else self.weights
        return f"{self.spec}, {weights}" if weights else self.spec


@dataclass(frozen=True)
class Identity:
    """What makes a network the same one, whatever it is called and wherever its files are.

    Parameters
    ----------
    weights : str
        `modbp.zoo.fingerprint`.
    architecture : str
        SHA-256 of how it prints, without addresses in memory.
    preprocessing : str
        SHA-256 of what its transform makes of a fixed picture.

    Examples
    --------
    >>> network, identity = load(Network("efficientnet_lite0", "random"))
    >>> identity == Identity.of(network, "the same")
    True
    """

    weights: str
    architecture: str
    preprocessing: str

    @classmethod
    def of(cls, network: Any, name: str) -> Identity:
        """Return the identity of a network from `modbp.sources.network`.

        Parameters
        ----------
        network : nn.Module
            With its `transform`.
        name : str
            What the message calls it.

        Raises
        ------
        InputError
            If the transform is not the same twice.
        """
        seen = {_sha256(network.transform(fixed_picture())) for _ in range(2)}
        if len(seen) > 1:
            raise InputError(
                f"the transform of {name} is random; allowed is one that makes the same of a picture twice."
            )
        printed = re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(network).__qualname__} {network!r}")
        return cls(zoo.fingerprint(network), hashlib.sha256(printed.encode()).hexdigest(), seen.pop())


def _sha256(x: Tensor) -> str:
    return hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode() + x.contiguous().numpy().tobytes()).hexdigest()


def fixed_picture() -> Any:
    """Return a picture of 320 × 288 pixels with coarse and fine structure, always the same.

    Returns
    -------
    PIL.Image.Image

    Examples
    --------
    >>> fixed_picture().size
    (320, 288)
    """
    from PIL import Image

    y, x = torch.meshgrid(torch.arange(288), torch.arange(320), indexing="ij")
    channels = [(x * x // 97 + 5 * y) % 256, (x * y // 61) % 256, (3 * x + y * y // 89) % 256]
    return Image.fromarray(torch.stack(channels, dim=-1).to(torch.uint8).numpy())


@lru_cache(maxsize=2)  # tasks come network by network, so that two at a time are enough
def _loaded(network: Network, device: str) -> tuple[Any, Identity]:
    made = sources.network(network.spec, network.weights, seed=network.seed)
    identity = Identity.of(made, network.label)
    return made.requires_grad_(False).to(device), identity


def load(network: Network, device: str = "cpu") -> tuple[Any, Identity]:
    """Return a network and its identity; in one process it is loaded once.

    Parameters
    ----------
    network : Network
    device : str, default "cpu"

    Returns
    -------
    nn.Module and Identity

    Examples
    --------
    >>> load(Network("efficientnet_lite0", "random")) is load(Network("efficientnet_lite0", "random"))
    True
    """
    with _lock:
        return _loaded(network, device)


def forget() -> None:
    """Let go of the networks that `load` keeps.

    Examples
    --------
    >>> forget()
    """
    _loaded.cache_clear()


@dataclass(frozen=True)
class Wanted:
    """What is asked for of one picture: a measurement of a method with a seed, at layers.

    Parameters
    ----------
    measurement : str
    method : Method
    seed : int or None
        None where nothing is drawn.
    layers : tuple of str
        Empty where it does not look at layers.

    Examples
    --------
    >>> Wanted("csc", Method("gradient"), 0, ("input", "features.1")).rows
    8
    """

    measurement: str
    method: Method
    seed: int | None
    layers: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows it comes to."""
        return len(MEASUREMENTS[self.measurement].quantities) * max(1, len(self.layers))


@dataclass(frozen=True)
class Order:
    """All that a worker needs to measure one picture with one network; it shares no disk with who sends it.

    Parameters
    ----------
    network : Network
    identity : Identity
        What the network must turn out to be.
    image : str
        The name of the picture's file.
    content : bytes
        What the file holds.
    wanted : tuple of Wanted
    threads : int, default 1
        For PyTorch. Sums over more threads round otherwise.
    device : {"auto", "cpu", "cuda"}, default "auto"
    version : str, optional
        Of modbp, which must be the worker's.

    Examples
    --------
    >>> Order(Network("vgg16"), Identity("a", "b", "c"), "cat.png", b"", ()).device
    'auto'
    """

    network: Network
    identity: Identity
    image: str
    content: bytes
    wanted: tuple[Wanted, ...]
    threads: int = 1
    device: str = "auto"
    version: str = __version__


@dataclass
class Answer:
    """What a worker returns.

    Parameters
    ----------
    rows : list of dict
        By the names of the results' columns.
    failed : list of (Wanted, str)
        What could not be measured, and why.
    seconds : float
        How long the worker took.

    Examples
    --------
    >>> Answer().rows
    []
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[Wanted, str]] = field(default_factory=list)
    seconds: float = 0.0


def measure(order: Order) -> Answer:
    """Measure one picture with one network.

    What fails of one method fails alone. A picture that cannot be read, or a network that cannot be had, fails whole.

    Parameters
    ----------
    order : Order

    Returns
    -------
    Answer

    Raises
    ------
    InputError
        If the picture cannot be read, or the worker's network or version of modbp is another one.

    Examples
    --------
    >>> from modbp.sweep.plan import Grid, plan
    >>> grid = {"measure": "classes", "methods": "gradient", "networks": "efficientnet_lite0", "n_images": 1}
    >>> task = next(plan(Grid.of(grid)).tasks())
    >>> len(measure(task.order()).rows) == task.rows
    True
    """
    with _lock, _quiet():
        begun = time.perf_counter()
        if order.version != __version__:
            raise InputError(f"the worker has modbp {__version__}; allowed is {order.version}, which the sweep has.")
        if torch.get_num_threads() != order.threads:
            torch.set_num_threads(order.threads)
        device = pick_device(order.device)
        network, identity = load(order.network, device)
        if identity != order.identity:
            other = next(name for name, value in vars(identity).items() if value != getattr(order.identity, name))
            raise InputError(f"{order.network.label} has other {other} on the worker; allowed are the sweep's own.")
        x = network.transform(images.decode(order.image, io.BytesIO(order.content)))[None].to(device)
        sha256 = hashlib.sha256(order.content).hexdigest()
        sample = Sample.of(network, x, sha256)
        answer = Answer()
        for group in _groups(order.wanted):
            for wanted, values in _measured(group, sample, answer.failed):
                answer.rows += _rows(wanted, values, order, sha256, network.source)
        answer.seconds = time.perf_counter() - begun
        return answer


def pick_device(device: str) -> str:
    """Return `"cuda"` or `"cpu"`; `"auto"` is the first where there is one.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}

    Returns
    -------
    str

    Raises
    ------
    InputError
        If it is another word, or `"cuda"` and there is none.

    Examples
    --------
    >>> pick_device("cpu")
    'cpu'
    """
    if device not in DEVICES:
        raise InputError(f"device is {device!r}; allowed are {', '.join(DEVICES)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', and PyTorch sees none; allowed then are auto, cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep progress bars and warnings off the terminal, where they would not say which worker they are of."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _groups(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Return what can be measured together: the methods of one measurement, with one seed and the same layers."""
    groups: dict[Any, list[Wanted]] = {}
    for each in wanted:
        groups.setdefault((each.measurement, each.seed, each.layers), []).append(each)
    return list(groups.values())


def _measured(
    group: Sequence[Wanted], sample: Sample, failed: list[tuple[Wanted, str]]
) -> list[tuple[Wanted, list[Value]]]:
    """Measure methods together; if that fails, in halves, so that in the end one method fails alone."""
    first = group[0]
    function: Callable[..., list[Value]] = MEASUREMENTS[first.measurement].function
    try:
        values = function(sample, [each.method for each in group], first.layers, first.seed or 0)
    except Exception as error:  # of whatever a method, a network or the machine's memory raises
        if len(group) == 1:
            failed.append((first, reason_of(error)))
            return []
        half = len(group) // 2
        return _measured(group[:half], sample, failed) + _measured(group[half:], sample, failed)
    of_method: dict[Method, list[Value]] = {each.method: [] for each in group}
    for value in values:
        of_method[value.method].append(value)
    return [(each, of_method[each.method]) for each in group]


def reason_of(error: BaseException) -> str:
    """Return why something failed, short enough for a line of a table.

    Parameters
    ----------
    error : exception

    Returns
    -------
    str

    Examples
    --------
    >>> reason_of(InputError("it is so.")), reason_of(KeyError("a"))
    ('it is so', "KeyError: 'a'")
    """
    said = first_line(error)
    return said if isinstance(error, InputError) or said == type(error).__name__ else f"{type(error).__name__}: {said}"


def _rows(wanted: Wanted, values: Sequence[Value], order: Order, sha256: str, source: str) -> list[dict[str, Any]]:
    measurement = MEASUREMENTS[wanted.measurement]
    subject = subject_of(order.identity, sha256)
    return [
        {
            "key": row_key(measurement, v.quantity, subject, v.method, v.layer, wanted.seed),
            "measurement": measurement.name,
            "quantity": v.quantity,
            "network": source,
            "weights": order.identity.weights,
            "image": order.image,
            "sha256": sha256,
            "method": v.method.label,
            "layer": v.layer,
            "seed": wanted.seed,
            "target": v.target,
            "other": v.other,
            "value": v.value,
            "n": v.n,
            "state": v.state,
        }
        for v in values
    ]


def subject_of(identity: Identity, sha256: str) -> dict[str, str]:
    """Return what the keys of a picture's rows have in common; see `modbp.sweep.measures.row_key`.

    Parameters
    ----------
    identity : Identity
    sha256 : str
        Of the picture's file.

    Returns
    -------
    dict from str to str

    Examples
    --------
    >>> sorted(subject_of(Identity("a", "b", "c"), "d"))
    ['architecture', 'image', 'preprocessing', 'weights']
    """
    return {**vars(identity), "image": sha256}
