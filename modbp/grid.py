"""Grids: one walkthrough with every combination of several values of its parameters.

Each run of a grid leaves its executed copy and its record in one folder. A second call does what the first one left
undone: runs that failed or were interrupted, and those whose notebook has changed since.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modbp import notebooks, records, walkthrough
from modbp.errors import InputError
from modbp.files import expand, owned

MOST_RUNS = 10_000
"""More runs than this are a slip of the keyboard."""

TABLE = "table.csv"
"""The table of all records of a grid, in its folder."""


@dataclass(frozen=True)
class Run:
    """One run of a grid.

    Parameters
    ----------
    source : Path
        The walkthrough's notebook.
    name : str
        What tells it from the others, and what its files are called.
    folder : Path
        Where they go.
    parameters : dict from str to any
        What it gives to the notebook, besides where the record goes.

    Examples
    --------
    >>> run = Run(notebooks.find("csc-vgg16"), "csc-vgg16.seed=1", Path("out"), {"seed": 1})
    >>> run.record.name, run.finished
    ('csc-vgg16.seed=1.json', False)
    """

    source: Path
    name: str
    folder: Path
    parameters: dict[str, Any]

    @property
    def notebook(self) -> Path:
        """The executed copy."""
        return self.folder / f"{self.name}.ipynb"

    @property
    def record(self) -> Path:
        """The JSON record."""
        return self.folder / f"{self.name}.json"

    @property
    def finished(self) -> bool:
        """Whether both are there, and are those of this notebook and these parameters."""
        if not notebooks.is_finished(self.source, self.notebook, self.parameters, self.record):
            return False
        try:
            records.read(self.record)
        except InputError:
            return False
        return True


def plan(
    source: Path, folder: str | Path, axes: Mapping[str, Sequence[Any]], given: Mapping[str, Any] | None = None
) -> list[Run]:
    """Return the runs of a grid, after a look at every name and value; nothing is run or written.

    Parameters
    ----------
    source : Path
        A notebook, as `modbp.notebooks.find` returns it.
    folder : str or Path
        Where the runs are to leave their files.
    axes : mapping from str to sequence
        For each parameter that varies its values.
    given : mapping from str to any, optional
        Parameters that all runs have in common.

    Returns
    -------
    list of Run
        Every combination; the last parameter varies fastest.

    Raises
    ------
    InputError
        If a parameter is unknown, has no value, the same value twice, or one that the notebook does not allow; if the
        notebook cannot write a record; or if the grid is too large.

    Examples
    --------
    >>> source = notebooks.find("image-recovery-vgg16")
    >>> [run.name for run in plan(source, "out", {"seed": [0, 1]}, {"weights": "random"})]
    ['image-recovery-vgg16.weights=random.seed=0', 'image-recovery-vgg16.weights=random.seed=1']
    """
    given, defaults = dict(given or {}), notebooks.parameters(source)
    for name, values in axes.items():
        if name in given:
            raise InputError(f"the parameter {name!r} is given once for all runs and in the grid; allowed is one.")
        if not values:
            raise InputError(f"the parameter {name!r} of the grid has no value; allowed are one or more.")
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise InputError(f"the parameter {name!r} of the grid has the value {twice[0]!r} twice; allowed is once.")
    if not axes:
        raise InputError("the grid has no parameter; allowed are one or more.")
    if "results" in {*given, *axes}:
        raise InputError("the parameter 'results' is set for each run of a grid; allowed are all other parameters.")
    if "results" not in defaults:
        raise InputError(f"{source.stem} has no parameter 'results', so that its runs leave no records for a grid.")
    size = math.prod(map(len, axes.values()))
    if size > MOST_RUNS:
        raise InputError(f"the grid has {size:,} runs; allowed are {MOST_RUNS:,} at most.")
    for name, values in axes.items():
        for value in values:
            notebooks.check(source, {name: value})
    notebooks.check(source, given)
    target = expand(folder).absolute()
    runs = []
    for values in itertools.product(*axes.values()):
        chosen = given | dict(zip(axes, values, strict=True))
        # In the notebook's order: a parameter that moves from the common ones to the grid keeps its place.
        ordered = {name: chosen[name] for name in defaults if name in chosen}
        runs.append(Run(source, _name(source.stem, ordered), target, ordered))
    return runs


def _name(stem: str, chosen: Mapping[str, Any]) -> str:
    name = ".".join([stem, *(f"{key}={_readable(value)}" for key, value in chosen.items())])
    # File systems allow 255 bytes, and a temporary file needs some more than its final one.
    return name if len(name.encode()) <= 200 else f"{stem[:100]}.{_digest(name)}"


def _readable(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    if re.fullmatch(r"[a-z0-9_,.+-]{1,40}", text):
        return text
    # Not every file system tells capitals from small letters, or takes every sign.
    return f"{re.sub(r'[^a-z0-9_,.+-]+', '-', text.lower())[:30]}~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def execute(runs: Sequence[Run], *, jobs: int = 1, force: bool = False, progress: bool = False) -> dict[str, str]:
    """Do the runs of a grid that are not finished, and write the table of all that are.

    Parameters
    ----------
    runs : sequence of Run
        From `plan`.
    jobs : int, default 1
        How many at a time, each in a kernel of its own. They share the processor's cores, unless `OMP_NUM_THREADS`
        says otherwise.
    force : bool, default False
        Repeat finished runs too.
    progress : bool, default False
        Show progress bars: over the runs, and over the cells of those that are running.

    Returns
    -------
    dict from str to str
        For each run that failed its name and what went wrong, in the order of the runs.

    Raises
    ------
    InputError
        If `jobs` is below 1, or the folder cannot be made, written to, or is in use by another grid.
    KeyboardInterrupt
        When interrupted; the kernels are dead, and a note says how many runs are finished.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = plan(notebooks.find("image-recovery-vgg16"), folder, {"seed": [0, 1]})
    ...     execute(runs, jobs=0)
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: jobs is 0; allowed are whole numbers from 1 upwards.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs is {jobs!r}; allowed are whole numbers from 1 upwards.")
    with owned(runs[0].folder) as folder:
        _sweep(runs)
        waiting = [run for run in runs if force or not run.finished]
        try:
            failures = _execute(waiting, min(jobs, max(1, len(waiting))), progress, len(runs) - len(waiting))
        except KeyboardInterrupt as interruption:
            done = sum(run.finished for run in runs)
            interruption.add_note(
                f"{done} of {len(runs)} runs are finished in '{folder}', and the same call goes on from there"
            )
            raise
        finished = {run.name: records.read(run.record) for run in runs if run.name not in failures}
        if finished:
            held = {name for record in finished.values() for name in record["parameters"]}
            varied = [n for n in runs[0].parameters if n in held and len({str(r.parameters[n]) for r in runs}) > 1]
            records.write_table(folder / TABLE, records.table(finished, parameters=varied))
    return {run.name: failures[run.name] for run in runs if run.name in failures}


def _execute(runs: Sequence[Run], jobs: int, progress: bool, before: int) -> dict[str, str]:
    """Do the runs, and return what went wrong by name."""
    from tqdm.auto import tqdm

    environment = dict(os.environ)
    environment.pop(walkthrough.RECORDS, None)  # there each run would overwrite the one before
    if jobs > 1:  # kernels that run side by side share the cores instead of fighting for them
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    kernels = notebooks.Kernels(environment)
    failures: dict[str, str] = {}

    def do(run: Run) -> None:
        notebooks.run(
            run.source,
            run.notebook,
            run.parameters | {"results": str(run.record)},
            progress={"desc": run.name, "leave": False} if progress else False,
            record=run.record,
            kernels=kernels,
        )

    with tqdm(total=before + len(runs), initial=before, desc="runs", disable=not progress) as bar:

        def ended(name: str, error: BaseException | None) -> None:
            if isinstance(error, InputError | notebooks.NotebookError):
                failures[name] = str(error)
            elif error is not None:
                raise error
            bar.update()

        notebooks.side_by_side({run.name: partial(do, run) for run in runs}, kernels, jobs=jobs, ended=ended)
    return failures


def _sweep(runs: Sequence[Run]) -> None:
    """Remove what a killed process left half-written of these runs; `modbp.files.replacing` names it so."""
    half = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(ipynb|json)")
    names = {run.name for run in runs}
    for path in runs[0].folder.iterdir():
        if (match := half.fullmatch(path.name)) and match["name"] in names:
            path.unlink()
