"""The driver of a sweep: it hands out tasks, writes what comes back, and says what failed."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import distributed
from distributed.scheduler import KilledWorker

from modbp.checks import not_negative, whole
from modbp.errors import InputError
from modbp.files import expand, owned
from modbp.formatting import count
from modbp.grid import Run
from modbp.grid import plan as plan_runs
from modbp.notebooks import NotebookError
from modbp.sweep import clusters, runs
from modbp.sweep.costs import duration, estimate
from modbp.sweep.plan import Grid, Runs, Task, plan
from modbp.sweep.store import JUDGED, MEASURED, Store
from modbp.sweep.worker import Answer, Wanted, forget, measure, pick_device, reason_of

FAILURES = "failures.csv"
"""The table of what failed in the last sweep, in the folder of the results."""

NOTEBOOKS = "runs"
"""The folder of executed copies and records, in the folder of the results."""

PATIENCE = 300.0
"""Seconds without any worker, after there had been some, until a sweep gives up."""


@dataclass(frozen=True)
class Failure:
    """What failed, and why.

    Parameters
    ----------
    what : dict from str to any
        Columns of the table of failures.
    rows : int
        How many rows are missing for it.
    reason : str

    Examples
    --------
    >>> Failure({"image": "cat.png"}, 18, "it is no picture").rows
    18
    """

    what: dict[str, Any]
    rows: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Parameters
    ----------
    folder : Path
    rows : int
        In the folder now.
    added : int
        In this call.
    failures : tuple of Failure
    seconds : float
        From the first task to the last, without the start of the workers.
    estimated : float or None
        The same, as it was foretold.

    Examples
    --------
    >>> Outcome(Path("results"), rows=10, added=4).failures
    ()
    """

    folder: Path
    rows: int
    added: int
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    estimated: float | None = None


class Job(Protocol):
    """What a worker is to do."""

    @property
    def rows(self) -> int:
        """How many rows it comes to."""

    def call(self) -> tuple[Callable[[Any], Any], Any]:
        """Return a function and what it is to be given on a worker; an `InputError` is a failure."""

    def accept(self, answer: Any) -> tuple[list[dict[str, Any]], list[Failure]]:
        """Return the rows and the failures of what a worker sent."""

    def failures(self, reason: str) -> list[Failure]:
        """Return the failures if all of it fails."""


@dataclass(frozen=True)
class Measuring:
    """A task of a grid of measurements."""

    task: Task
    threads: int
    device: str

    @property
    def rows(self) -> int:
        """How many rows it comes to."""
        return self.task.rows

    def call(self) -> tuple[Callable[[Any], Any], Any]:
        """Return `measure` and its order."""
        return measure, self.task.order(self.threads, self.device)

    def accept(self, answer: Answer) -> tuple[list[dict[str, Any]], list[Failure]]:
        """Return the rows and the failures of what a worker sent."""
        return answer.rows, [self._failure(wanted, reason) for wanted, reason in answer.failed]

    def failures(self, reason: str) -> list[Failure]:
        """Return the failures if all of it fails."""
        return [self._failure(wanted, reason) for wanted in self.task.wanted]

    def _failure(self, wanted: Wanted, reason: str) -> Failure:
        what = {
            "measurement": wanted.measurement,
            "network": self.task.subject.network.label,
            "image": self.task.picture.path.name,
            "method": wanted.method.label,
            "layers": " ".join(wanted.layers),
            "seed": wanted.seed,
        }
        return Failure(what, wanted.rows, reason)


@dataclass(frozen=True)
class Running:
    """A run of a grid of notebook runs."""

    run: Run
    threads: int
    rows: int = 1

    def call(self) -> tuple[Callable[[Any], Any], Any]:
        """Return `runs.execute` and its order."""
        content = self.run.source.read_bytes()
        return runs.execute, runs.NotebookOrder(self.run.source.name, content, self.run.parameters, self.threads)

    def accept(self, answer: runs.NotebookAnswer) -> tuple[list[dict[str, Any]], list[Failure]]:
        """Write the executed copy and the record, and return the record's rows."""
        runs.keep(self.run, answer)
        return runs.rows(self.run), []

    def failures(self, reason: str) -> list[Failure]:
        """Return the failure."""
        return [Failure({"run": self.run.name}, 1, reason)]


def run(
    grid: Grid | Runs,
    out: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    cluster: dict[str, Any] | None = None,
    threads: int = 1,
    device: str = "auto",
    every: float = 30.0,
    dry_run: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Do what is not done of a grid, and write the rows into a folder.

    A script that calls it needs the guard `if __name__ == "__main__":`, because the workers are processes.

    Parameters
    ----------
    grid : Grid or Runs
        From `modbp.sweep.plan.read`.
    out : str or Path
        The folder of the results; its parent exists.
    workers : int, optional
        Processes on this machine, by default as many as it has cores.
    scheduler : str, optional
        In their place, the address of a running dask scheduler.
    cluster : dict, optional
        In their place, a description of jobs, from `modbp.sweep.clusters.read`.
    threads : int, default 1
        For PyTorch in each worker. With one, the numbers are the same to the last digit on any number of workers.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Where the workers compute; `"auto"` is a GPU where a worker has one.
    every : float, default 30
        Write what came in after so many seconds; 0 writes each task's rows at once.
    dry_run : bool, default False
        Only say how much there is to do.
    progress : bool, default False
        Show a progress bar.
    say : callable, optional
        Is given each line about size, cost and end.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        If an argument is not usable, the folder is in use by another sweep, or the results cannot be written.
    KeyboardInterrupt
        When interrupted; what came in is written, and a note says how much.

    Examples
    --------
    >>> import tempfile
    >>> grid = Grid.of({"measure": "classes", "methods": "gradient", "n_images": 1})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = run(grid, f"{folder}/results", dry_run=True, say=print)
    1 picture × 1 network × 1 measurement × 1 method × 1 seed
    1 task, 18 rows: 0 done before, 18 to do
    about ...
    """
    given = [
        name for name, v in (("workers", workers), ("scheduler", scheduler), ("cluster", cluster)) if v is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are given; allowed is one of them.")
    if workers is not None:
        whole("workers", workers)
    whole("threads", threads)
    not_negative("every", every)
    pick_device("auto" if given and given != ["workers"] else device)
    folder = expand(out).absolute()
    here = scheduler is None and cluster is None
    made = (
        _Measurements(grid, device, threads)
        if isinstance(grid, Grid)
        else _NotebookRuns(grid, folder / NOTEBOOKS, threads)
    )
    if dry_run:
        store = Store(folder, made.schema)
        made.look(store)
        _foretell(made, _number(workers, made) if here else None, say)
        return Outcome(folder, len(store.keys), 0)
    with owned(folder):
        store = Store(folder, made.schema, every=every)
        store.clean()
        made.look(store)
        number = _number(workers, made) if here else None
        foretold = _foretell(made, number, say)
        before, seconds = store.written, 0.0
        failures: list[Failure] = []
        if made.tasks:
            forget()
            failures, seconds = _drive(_cluster(number, scheduler, cluster), made.jobs(), store, made, progress, say)
        store.flush()
        _write_failures(folder / FAILURES, failures)
        end = Outcome(folder, store.written, store.written - before, tuple(failures), seconds, foretold)
    _tell(end, made, say)
    return end


def _cluster(
    workers: int | None, scheduler: str | None, cluster: dict[str, Any] | None
) -> AbstractContextManager[distributed.Client]:
    if workers is not None:
        return clusters.on_this_machine(workers)
    return clusters.at(scheduler) if scheduler is not None else clusters.of_jobs(cluster or {})


class _Measurements:
    """What a grid of measurements still needs."""

    schema, unit = MEASURED, "pictures"

    def __init__(self, grid: Grid, device: str, threads: int) -> None:
        self.plan, self.device, self.threads = plan(grid), device, threads
        self.todo: list[Task] = []
        self.total = self.plan.rows

    def look(self, store: Store) -> None:
        self.todo = list(self.plan.tasks(store.keys))
        self.left = sum(task.rows for task in self.todo)
        self.tasks = len(self.todo)

    def lines(self) -> Iterator[str]:
        grid = self.plan.grid
        parts = [("picture", self.plan.pictures), ("network", grid.networks), ("measurement", grid.measure)]
        parts += [("method", grid.methods), ("seed", grid.seeds)]
        yield " × ".join(count(len(values), name) for name, values in parts)
        yield from self.plan.notes

    def seconds(self) -> float | None:
        return estimate(self.todo, self.device, self.threads)

    def jobs(self) -> Iterator[Job]:
        return (Measuring(task, self.threads, self.device) for task in self.todo)


class _NotebookRuns:
    """What a grid of notebook runs still needs."""

    schema, unit = JUDGED, "runs"

    def __init__(self, grid: Runs, folder: Path, threads: int) -> None:
        self.runs = plan_runs(grid.notebook, folder, grid.axes, grid.parameters)
        self.folder, self.threads = folder, threads
        self.total = self.left = len(self.runs)

    def look(self, store: Store) -> None:
        finished = [run for run in self.runs if run.finished]
        for each in finished:  # whose rows a killed driver may not have written
            store.add(runs.rows(each))
        self.todo = [run for run in self.runs if run not in finished]
        self.left = self.tasks = len(self.todo)

    def lines(self) -> Iterator[str]:
        yield f"{count(len(self.runs), 'run')} of {self.runs[0].source.stem}"

    def seconds(self) -> float | None:
        return None  # only the first run tells

    def jobs(self) -> Iterator[Job]:
        self.folder.mkdir(exist_ok=True)
        return (Running(run, self.threads) for run in self.todo)


_Made = _Measurements | _NotebookRuns


def _number(workers: int | None, made: _Made) -> int:
    """Return how many workers to start on this machine."""
    return max(1, min(workers or clusters.cores(), made.tasks))


def _foretell(made: _Made, workers: int | None, say: Callable[[str], None]) -> float | None:
    """Say how much there is to do, and return how long it will take where that is known: not on other machines."""
    for line in made.lines():
        say(line)
    kind = "row" if isinstance(made, _Measurements) else "run"
    say(
        f"{count(made.tasks, 'task')}, {count(made.total, kind)}: {made.total - made.left:,} done before,"
        f" {made.left:,} to do"
    )
    if not made.tasks:
        return None
    seconds = made.seconds()
    if seconds is None:
        say("how long a run takes is not known before the first one")
        return None
    where = f"on {count(workers, 'worker')}" if workers else "for one worker like this machine"
    say(
        f"about {duration(seconds / (workers or 1))} {where}, start aside, from one map of each method; it may be off"
        " by a factor of 2, or by more for networks of milliseconds"
    )
    return seconds / workers if workers else None


def _drive(
    connection: AbstractContextManager[distributed.Client],
    jobs: Iterator[Job],
    store: Store,
    made: _Made,
    progress: bool,
    say: Callable[[str], None],
) -> tuple[list[Failure], float]:
    """Hand out the jobs until all have ended, and return what failed, and the seconds since the workers are there."""
    from tqdm.auto import tqdm

    try:
        with connection as client, tqdm(total=made.tasks, desc=made.unit, disable=not progress) as bar:
            driver, begun = _Driver(client, store, bar, say), time.monotonic()
            with driver.stopping():
                suspects = driver.all(jobs)
                for job in suspects:  # each alone, so that a death tells of which task it was
                    driver.one_alone(job)
            return driver.failed, time.monotonic() - begun
    except KeyboardInterrupt as interruption:
        with suppress(InputError):
            store.flush()
        interruption.add_note(
            f"{count(store.written, 'row')} are in '{store.folder.parent}', and the same command goes on from there"
        )
        raise


class _Driver:
    """Keeps workers busy, and takes what they send."""

    def __init__(self, client: distributed.Client, store: Store, bar: Any, say: Callable[[str], None]) -> None:
        self.client, self.store, self.bar, self.say = client, store, bar, say
        self.failed: list[Failure] = []
        self.running: dict[Any, Job] = {}
        self.ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.number, self.token = 0, secrets.token_hex(4)
        self.threads, self.looked, self.seen = 0, 0.0, 0.0
        self.told = False

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Leave no task behind on a cluster that is not ours."""
        try:
            yield
        except BaseException:
            with suppress(Exception):
                self.client.cancel(list(self.running), force=True)
            raise

    def all(self, jobs: Iterator[Job]) -> list[Job]:
        """Do the jobs, and return those whose worker died too often."""
        suspects: list[Job] = []
        more = True
        while more or self.running:
            while more and len(self.running) < max(2, 2 * self._threads()):
                job = next(jobs, None)
                more = job is not None
                if job is not None:
                    self._submit(job)
            future = self._next()
            if future is not None and not self._finish(future):
                suspects.append(self.running.pop(future))
            self.store.flush_if_due()
        return suspects

    def one_alone(self, job: Job) -> None:
        """Do one job, and take the death of its worker for its failure."""
        self._submit(job)
        while self.running:
            future = self._next()
            if future is not None and not self._finish(future):
                said = "the worker died of it each time, perhaps for want of memory"
                self._fail(self.running.pop(future), said)
            self.store.flush_if_due()

    def _submit(self, job: Job) -> None:
        try:
            function, order = job.call()
        except InputError as error:
            self._fail(job, reason_of(error))
            return
        self.number += 1
        future = self.client.submit(function, order, key=f"modbp-{self.token}-{self.number}", pure=False, retries=0)
        self.running[future] = job
        future.add_done_callback(self.ended.put)

    def _next(self) -> Any:
        """Return a future that has ended; None if none did for a while."""
        if not self.running:
            return None
        try:
            return self.ended.get(timeout=0.5)
        except queue.Empty:
            self._look_after_workers()
            return None

    def _threads(self) -> int:
        if time.monotonic() - self.looked > 2 or not self.threads:
            self.looked = time.monotonic()
            try:
                self.threads = sum(self.client.nthreads().values())
            except (OSError, RuntimeError):  # of a connection that is closed
                raise self._gone("the scheduler is gone") from None
            self.seen = self.looked if self.threads else self.seen
        return self.threads

    def _look_after_workers(self) -> None:
        if self.client.status not in ("running", "connecting"):
            raise self._gone("the scheduler is gone")
        if self._threads():
            return
        if not self.seen and not self.told:
            self.told = True
            self.say("waiting for workers")
        if self.seen and time.monotonic() - self.seen > PATIENCE:
            raise self._gone(f"no worker is left since {PATIENCE:.0f} seconds")

    def _gone(self, what: str) -> InputError:
        with suppress(InputError):
            self.store.flush()
        return InputError(
            f"{what}; {count(self.store.written, 'row')} are in '{self.store.folder.parent}', and the same command goes"
            " on from there."
        )

    def _finish(self, future: Any) -> bool:
        """Take what a future holds; return False, and leave it among the running ones, if its worker died too often."""
        if future.status == "cancelled":
            raise self._gone("the scheduler is gone")
        if future.status in ("lost", "pending"):  # its worker died with the result
            self._submit(self.running.pop(future))
            future.release()
            return True
        error = future.exception()
        if isinstance(error, KilledWorker):
            return False
        job = self.running[future]
        if error is not None:
            self._fail(job, str(error) if isinstance(error, NotebookError) else reason_of(error))
        else:
            rows, failures = job.accept(future.result())
            self.store.add(rows)
            self.failed += failures
            self.bar.update()
        del self.running[future]
        future.release()
        return True

    def _fail(self, job: Job, reason: str) -> None:
        self.failed += job.failures(reason)
        self.bar.update()


def _write_failures(path: Path, failures: Sequence[Failure]) -> None:
    from modbp.records import write_table

    if not failures:
        path.unlink(missing_ok=True)
        return
    import pandas as pd

    write_table(path, pd.DataFrame([{**f.what, "rows": f.rows, "reason": f.reason} for f in failures]))


def _tell(end: Outcome, made: _Made, say: Callable[[str], None]) -> None:
    foretold = f" (foretold: {duration(end.estimated)})" if end.estimated is not None else ""
    took = f" in {duration(end.seconds)}{foretold}" if made.tasks else ""
    say(f"{end.folder} holds {count(end.rows, 'row')}, {end.added:,} of them new{took}")


def summary(failures: Iterable[Failure], most: int = 20) -> list[str]:
    """Return lines that name what failed.

    Parameters
    ----------
    failures : iterable of Failure
    most : int, default 20
        How many lines at most, before one that counts the rest.

    Returns
    -------
    list of str

    Examples
    --------
    >>> what = {"measurement": "csc", "network": "vgg16", "image": "a.jpg", "method": "gradient"}
    >>> summary([Failure(what, 8, "it is so")])
    ['csc, vgg16, a.jpg, gradient: it is so (8 rows)']
    """
    # What has one cause is one line: an unreadable picture fails for each measurement and method.
    together: dict[tuple[Any, ...], list[Failure]] = {}
    for failure in failures:
        what = failure.what
        together.setdefault((what.get("network"), what.get("image"), what.get("run"), failure.reason), []).append(
            failure
        )
    lines = []
    for (network, image, name, reason), same in together.items():
        if name is not None:
            lines.append(f"{name}: {reason}")
            continue
        parts = [_some([f.what[key] for f in same]) for key in ("measurement", "method")]
        rows = count(sum(f.rows for f in same), "row")
        lines.append(f"{parts[0]}, {network}, {image}, {parts[1]}: {reason} ({rows})")
    rest = len(lines) - most
    return [*lines[:most], f"… and {rest:,} more"] if rest > 0 else lines


def _some(names: Sequence[str]) -> str:
    found = list(dict.fromkeys(names))
    return " and ".join(found) if len(found) <= 3 else f"{found[0]} and {len(found) - 1} more"
