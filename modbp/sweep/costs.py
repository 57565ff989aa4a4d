"""What a sweep will cost: maps and forward passes are counted, and one of each is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from functools import partial

import torch

from modbp.errors import InputError
from modbp.metrics.flipping import ORDERS, SHARES
from modbp.metrics.sanity.explaining import explainers_of
from modbp.progress import seconds_of
from modbp.sweep.measures import N_VECTORS, Method
from modbp.sweep.plan import Subject, Task
from modbp.sweep.worker import Wanted, fixed_picture, load, pick_device

BUDGET = 10.0
"""Seconds for the timing of one network; methods that find no more time are taken for average ones."""

_FLIPPED = len(ORDERS) * sum(0 < share < 1 for share in SHARES)


def estimate(tasks: Iterable[Task], device: str = "auto", threads: int = 1) -> float:
    """Return how long one worker will take, in seconds.

    Counted are maps and forward passes; what methods share, and what comparisons of maps cost, is left out. So expect
    it to be off by a factor of two in either direction, and by more for networks of a few milliseconds.

    Parameters
    ----------
    tasks : iterable of Task
    device : {"auto", "cpu", "cuda"}, default "auto"
        Of this machine; the workers' may differ.
    threads : int, default 1
        For PyTorch, while one of each is timed.

    Returns
    -------
    float

    Examples
    --------
    >>> estimate([])
    0.0
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    timed: dict[int, _Timed] = {}
    total = 0.0
    try:
        for task in tasks:
            if task.picture.reason:
                continue
            if id(task.subject) not in timed:
                timed[id(task.subject)] = _Timed(task.subject, pick_device(device))
            total += sum(map(timed[id(task.subject)].cost, task.wanted))
    finally:
        torch.set_num_threads(before)
    return total


class _Timed:
    """The seconds of a forward pass and of each method's map, for one network."""

    def __init__(self, subject: Subject, device: str) -> None:
        network, _ = load(subject.network, device)
        x = network.transform(fixed_picture())[None].to(device)
        with torch.no_grad():
            target = int(network(x).argmax())  # the first run of a process is a slow one
            self.forward = seconds_of(lambda: network(x), device)
        self.maps: dict[Method, float] = {}
        begun = time.perf_counter()
        for method in dict.fromkeys(each.method for each in subject.wanted if not each.method.is_control):
            if time.perf_counter() - begun > BUDGET:
                break
            try:
                (explainer,) = explainers_of({"it": method.made(network)}, network)
                one = partial(explainer.maps, network, x, torch.tensor([[target]]), None)
                self.maps[method] = seconds_of(one, device)
            except Exception:  # its rows will say why
                continue
        self.average = statistics.mean(self.maps.values()) if self.maps else 3 * self.forward
        self.known: dict[tuple[str, Method, int], float] = {}

    def cost(self, wanted: Wanted) -> float:
        key = wanted.measurement, wanted.method, len(wanted.layers)
        if key not in self.known:
            self.known[key] = self._cost(wanted)
        return self.known[key]

    def _cost(self, wanted: Wanted) -> float:
        whole = 0.0 if wanted.method.is_control else self.maps.get(wanted.method, self.average)
        backward = max(0.0, whole - self.forward)
        return {
            "csc": whole + (N_VECTORS - 1) * backward,
            "alignment": whole,
            "classes": whole + backward,
            "randomization": (len(wanted.layers) + 1) * whole,
            "flipping": whole + _FLIPPED * self.forward,
        }[wanted.measurement]


def duration(seconds: float) -> str:
    """Return a duration as text, with two digits.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Raises
    ------
    InputError
        If it is negative.

    Examples
    --------
    >>> duration(0.42), duration(95), duration(5400), duration(1e6)
    ('0.42 s', '1.6 min', '1.5 h', '12 d')
    """
    if seconds < 0:
        raise InputError(f"seconds is {seconds}; allowed are numbers from 0 upwards.")
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 0.0)):
        if seconds >= 1.5 * size:
            value = seconds / size if size else seconds
            return f"{float(f'{value:.2g}'):g} {unit}"
    raise AssertionError
