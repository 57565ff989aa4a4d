"""An honest remaining time for work whose units differ in kind, and a file that asks the work to stop.

A command that waits for a notebook's kernel learns from a file how far the kernel is (`PROGRESS`), and asks it to stop
by another one (`STOP`): to interrupt a kernel can hit any cell, and loses what it measured.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modbp.errors import InputError
from modbp.files import replacing

PROGRESS = "MODBP_PROGRESS"
"""The environment variable that names the file where `Progress` writes how far it is."""

STOP = "MODBP_STOP"
"""The environment variable that names the file whose existence asks to stop; see `stop_asked`."""


@dataclass(frozen=True)
class State:
    """How far the work is.

    Parameters
    ----------
    done, total : int
        Units.
    elapsed : float
        Seconds since the beginning.
    remaining : float or None
        Seconds until the end, as estimated; None where nothing was measured yet.
    description : str
        The kind of the unit that comes next or is running; empty at the end.

    Examples
    --------
    >>> State(done=1, total=3, elapsed=2.0, remaining=4.0, description="flipping").remaining
    4.0
    """

    done: int
    total: int
    elapsed: float
    remaining: float | None
    description: str

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all; where that fails the work goes on.

        Parameters
        ----------
        path : Path
        """
        with suppress(OSError), replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> State | None:
        """Return what was written last; None where nothing was yet.

        Parameters
        ----------
        path : Path

        Returns
        -------
        State or None

        Examples
        --------
        >>> State.read(Path("no-such-file")) is None
        True
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


class Bar:
    """A progress bar whose remaining time is given, and not computed from the number of units.

    Parameters
    ----------
    title : str
    disable : bool, optional
        By default it is silent where nobody watches standard error.

    Examples
    --------
    >>> Bar("audit", disable=True).show(State(1, 2, elapsed=3.0, remaining=3.0, description="flipping"))
    """

    def __init__(self, title: str, disable: bool | None = None) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(total=1.0, disable=disable, leave=False, bar_format=f"{_literal(title)}: starting")
        self._title = title

    def show(self, state: State, note: str = "") -> None:
        """Draw a state.

        Parameters
        ----------
        state : State
        note : str, default ""
            What stands at the end in place of the remaining time and the running unit.
        """
        from tqdm import tqdm

        left = state.remaining
        self._bar.n = 0.0 if left is None or not state.elapsed + left else state.elapsed / (state.elapsed + left)
        clock = tqdm.format_interval
        rest = note or f"{'an unknown time' if left is None else clock(math.ceil(left))} left, {state.description}"
        told = f"{state.done} of {state.total}, {clock(state.elapsed)}, {rest}"
        self._bar.bar_format = f"{_literal(self._title)}: {{percentage:3.0f}}%|{{bar}}| {_literal(told)}"
        self._bar.refresh()

    def close(self) -> None:
        """Remove it."""
        self._bar.close()


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


class Progress:
    """The remaining time of units of different kinds, from what units of their kind took.

    A kind that was measured is taken at its mean time. One that was not is taken at its prior cost times the speed so
    far, in seconds per prior cost: a wrong prior is forgotten as soon as its kind was seen once.

    Parameters
    ----------
    units : sequence of (str, float)
        All planned units in their order, each a kind, such as `"flipping of gradient"`, and its prior cost, above 0
        and in any unit.
    description : str, default ""
        Of the progress bar, which appears where someone watches.
    clock : callable, optional
        Returns seconds.

    Raises
    ------
    InputError
        If a cost is not above 0.

    Examples
    --------
    >>> seconds = iter([0, 0, 0, 2, 2])
    >>> progress = Progress([("map", 1), ("map", 1), ("flipping", 10)], clock=lambda: next(seconds))
    >>> with progress.unit():
    ...     pass  # which takes two seconds
    >>> progress.remaining()
    22.0
    """

    def __init__(
        self,
        units: Sequence[tuple[str, float]],
        description: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from modbp.checks import above_zero  # it imports PyTorch, which a command that only shows a bar does without

        for kind, cost in units:
            above_zero(f"the cost of {kind!r}", cost)
        self._units, self._clock = list(units), clock
        self._done = 0
        self._times: dict[str, list[float]] = defaultdict(list)
        self._worked = self._worth = 0.0
        self._running_since: float | None = None
        self._began = clock()
        self._bar = Bar(description or "progress") if self._units else None
        self._tell()

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Measure the next unit; it is done also where an exception passes through.

        Yields
        ------
        None

        Raises
        ------
        InputError
            If no unit is left.

        Examples
        --------
        >>> progress = Progress([("map", 1)])
        >>> with progress.unit():
        ...     pass
        >>> progress.remaining()
        0.0
        """
        self._check_left(1)
        kind, cost = self._units[self._done]
        began = self._running_since = self._clock()
        finished = False
        try:
            yield
            finished = True
        finally:
            took, self._running_since = self._clock() - began, None
            self._times[kind].append(took)
            if finished:  # a failure ends early, and says nothing of how fast the rest will be
                self._worked += took
                self._worth += cost
            self._done += 1
            self._tell()

    def skip(self, n: int = 1) -> None:
        """Leave out the next units: they are done, and nothing was measured.

        Parameters
        ----------
        n : int, default 1

        Raises
        ------
        InputError
            If fewer are left.

        Examples
        --------
        >>> progress = Progress([("map", 1), ("flipping", 10)])
        >>> progress.skip(2)
        >>> progress.remaining()
        0.0
        """
        from modbp.checks import whole

        whole("n", n, 0)
        self._check_left(n)
        self._done += n
        self._tell()

    def _check_left(self, n: int) -> None:
        left = len(self._units) - self._done
        if n > left:
            raise InputError(f"n is {n} units; allowed are the {left} that are left of {len(self._units)}.")

    def remaining(self) -> float | None:
        """Return the time until the end.

        Returns
        -------
        float or None
            In seconds; None before anything was measured that it could be estimated from.
        """
        expected = [self._expected(kind, cost) for kind, cost in self._units[self._done :]]
        if expected and self._running_since is not None and expected[0] is not None:
            expected[0] = max(0.0, expected[0] - (self._clock() - self._running_since))
        known = [seconds for seconds in expected if seconds is not None]
        return math.fsum(known) if len(known) == len(expected) else None

    def _expected(self, kind: str, cost: float) -> float | None:
        if times := self._times.get(kind):
            return math.fsum(times) / len(times)
        return cost * self._worked / self._worth if self._worth else None

    def _tell(self) -> None:
        following = self._units[self._done][0] if self._done < len(self._units) else ""
        elapsed = self._clock() - self._began
        state = State(self._done, len(self._units), elapsed, self.remaining(), following)
        if path := os.environ.get(PROGRESS):
            state.write(Path(path))
        if self._bar is not None:
            self._bar.show(state)
            if not following:
                self.close()

    def close(self) -> None:
        """Remove the bar, as the last unit does; for work that ends before it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def stop_asked() -> bool:
    """Return whether the work is asked to stop: whether the file exists that the variable `MODBP_STOP` names.

    Returns
    -------
    bool

    Examples
    --------
    >>> stop_asked()
    False
    """
    path = os.environ.get(STOP)
    return bool(path and Path(path).exists())


def seconds_of(call: Callable[[], Any], device: str = "cpu") -> float:
    """Return how long one call takes, on a GPU until the last kernel has ended.

    Parameters
    ----------
    call : callable
        Without arguments; what it returns is dropped.
    device : str, default "cpu"
        Where it computes: PyTorch's name of a device.

    Returns
    -------
    float

    Examples
    --------
    >>> seconds_of(lambda: time.sleep(0.01)) >= 0.01
    True
    """
    # PyTorch takes seconds to import, and commands that only show progress do without.
    import torch

    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begun
