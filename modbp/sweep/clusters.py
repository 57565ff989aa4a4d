"""Where the tasks of a sweep run: workers on this machine, a running cluster, or jobs of a batch system."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dask
import distributed

from modbp.checks import whole
from modbp.errors import InputError, first_line, nearest
from modbp.sweep.plan import check_keys, read_mapping

KINDS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "local": "LocalCluster",
}
"""The batch systems that dask-jobqueue knows, and `local`, which runs its job scripts on this machine."""

ANSWER = 10
"""Seconds in which a running scheduler must answer."""

CLOSING = 20
"""Seconds that a cluster has to stop."""

SPAWNED = "distributed.nanny.pre-spawn-environ"
"""The environment that dask gives to a worker's process."""

WITHOUT: Mapping[str, None] = MappingProxyType({"MALLOC_TRIM_THRESHOLD_": None})
"""What is taken out of it: a setting that gives the memory of every tensor back to the system, to take it again. On
VGG16 it made a worker 1.5 times slower than the same work outside of dask."""

_OWN = ("kind", "jobs")
_SETTINGS = {
    # A worker gets the next task when it is done with one, so that its death concerns no other task.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 1,
    # A large picture travels with its task, and that is meant.
    "distributed.admin.large-graph-warning-threshold": "1GB",
    **{f"{SPAWNED}.{name}": value for name, value in WITHOUT.items()},
    # A measurement holds the interpreter for longer than dask's event loop expects of small tasks.
    "distributed.admin.tick.limit": "1h",
}


def cores() -> int:
    """Return how many cores this process may use.

    Examples
    --------
    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class IgnoreInterrupts(distributed.WorkerPlugin):
    """Let only the driver answer Control-C, which a terminal sends to all processes of a command."""

    def setup(self, worker: Any) -> None:
        """Ignore the signal from the keyboard in a worker's process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def on_this_machine(workers: int) -> Iterator[distributed.Client]:
    """Start workers on this machine, each a process with one thread for tasks.

    Parameters
    ----------
    workers : int

    Yields
    ------
    distributed.Client
    """
    # What a worker died of is done again, but alone: on one machine that is soon found out.
    with _settings({"distributed.scheduler.allowed-failures": 0}):
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",  # any free port: the usual one may be taken, which warns
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
        with _client(cluster) as client:
            client.register_plugin(IgnoreInterrupts())
            # PyTorch takes seconds to import, which would count as the first tasks' time.
            client.run(importlib.import_module, "modbp.sweep.worker")
            yield client


@contextmanager
def at(address: str) -> Iterator[distributed.Client]:
    """Connect to a running scheduler.

    Parameters
    ----------
    address : str
        Such as `tcp://10.0.0.1:8786`.

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        If none answers there.
    """
    with _settings():
        try:
            client = distributed.Client(address, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"the scheduler is '{address}', where none answers ({first_line(error)}); allowed is the address of a"
                " running one, such as tcp://10.0.0.1:8786."
            ) from None
        try:
            yield client
        finally:
            with suppress(TimeoutError):
                client.close(timeout=CLOSING)


@contextmanager
def of_jobs(options: Mapping[str, Any]) -> Iterator[distributed.Client]:
    """Submit jobs to a batch system, whose workers come when the jobs start.

    Parameters
    ----------
    options : mapping from str to any
        From `read`.

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        If dask-jobqueue refuses the options, or the batch system is not there.
    """
    with _settings():
        try:
            cluster = make(options)
            cluster.scale(jobs=options["jobs"])
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise InputError(
                f"the cluster of kind {options['kind']!r} cannot be had ({first_line(error)}); allowed is one whose"
                " commands are on this machine."
            ) from None
        with _client(cluster) as client:
            yield client


@contextmanager
def _client(cluster: Any) -> Iterator[distributed.Client]:
    try:
        client = distributed.Client(cluster, set_as_default=False)
        try:
            yield client
        finally:
            with suppress(TimeoutError):
                client.close(timeout=CLOSING)
    finally:
        # Workers of this machine that are still busy then end with this process.
        with suppress(TimeoutError):
            cluster.close(timeout=CLOSING)


@contextmanager
def _settings(others: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Set what matters to tasks of seconds and minutes, and keep dask's log off the terminal."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with dask.config.set({**_SETTINGS, **others}):
            yield
    finally:
        logger.setLevel(level)


def read(path: str | Path) -> dict[str, Any]:
    """Read the file that describes a cluster of jobs.

    Parameters
    ----------
    path : str or Path
        YAML: `kind`, `jobs`, and what dask-jobqueue's class for this kind takes.

    Returns
    -------
    dict from str to any

    Raises
    ------
    InputError
        If a key or the kind is unknown, or a value is missing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "slurm.yaml")
    ...     _ = file.write_text("{kind: slurm, jobs: 4, cores: 4, memory: 16GB, wall_time: '02:00:00'}")
    ...     read(file)
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: the cluster has the key 'wall_time' (did you mean walltime?); allowed are kind, ...
    """
    given = read_mapping(path, "the cluster")
    kind = given.get("kind")
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}{nearest(str(kind), KINDS)}; allowed are {', '.join(KINDS)}.")
    check_keys(given, [*_OWN, *_options_of(kind)], "the cluster")
    for name in ("cores", "memory"):
        if name not in given:
            raise InputError(f"the cluster has no key {name!r}; allowed is one that has it, for each of its jobs.")
    whole("jobs", given.setdefault("jobs", 1))
    return given


def make(options: Mapping[str, Any]) -> Any:
    """Return dask-jobqueue's cluster for options from `read`; no job is submitted yet.

    Parameters
    ----------
    options : mapping from str to any

    Returns
    -------
    dask_jobqueue.JobQueueCluster
    """
    given = {name: value for name, value in options.items() if name not in _OWN}
    # A worker computes with one thread, so by default each core of a job gets a worker of its own.
    own = {"processes": options["cores"], "scheduler_options": {"dashboard_address": ":0"}}
    environment = f"export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON={shlex.quote(repr(dict(WITHOUT)))}"
    # A local job is one line that is run without a shell.
    lines = [] if options["kind"] == "local" else [environment]
    prologue = {"job_script_prologue": [*lines, *given.get("job_script_prologue", [])]}
    return _class_of(options["kind"])(**(own | given | prologue))


def _class_of(kind: str) -> Any:
    import dask_jobqueue
    from dask_jobqueue.local import LocalCluster

    return LocalCluster if kind == "local" else getattr(dask_jobqueue, KINDS[kind])


def _options_of(kind: str) -> list[str]:
    from dask_jobqueue.core import Job

    cluster = _class_of(kind)
    left_out = {
        "self",
        "args",
        "kwargs",
        "base_class_kwargs",
        "job_kwargs",
        "scheduler",
        "name",
        "asynchronous",
        "loop",
    }
    found: dict[str, None] = {}
    for owner in (cluster.job_cls, Job, *cluster.__mro__):
        if owner.__module__.startswith("dask_jobqueue"):
            found |= dict.fromkeys(inspect.signature(owner.__init__).parameters)
    return [name for name in found if name not in left_out | {"job_cls", "n_workers", "dashboard_address", "host"}]
