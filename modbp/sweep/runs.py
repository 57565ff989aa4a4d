"""Runs of a notebook as tasks: a worker gets the notebook's bytes, and sends the executed copy and the record back."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modbp import __version__, notebooks, records
from modbp.claims import Check
from modbp.errors import InputError
from modbp.files import replacing
from modbp.grid import Run
from modbp.sweep.measures import digest
from modbp.walkthrough import RECORDS


@dataclass(frozen=True)
class NotebookOrder:
    """All that a worker needs to run a notebook.

    Parameters
    ----------
    name : str
        Of the notebook's file.
    content : bytes
        What the file holds.
    parameters : dict from str to any
    threads : int, default 1
        For the kernel (`OMP_NUM_THREADS`).
    version : str, optional
        Of modbp, which must be the worker's.

    Examples
    --------
    >>> NotebookOrder("demo.ipynb", b"{}", {"seed": 1}).threads
    1
    """

    name: str
    content: bytes
    parameters: dict[str, Any]
    threads: int = 1
    version: str = __version__


@dataclass(frozen=True)
class NotebookAnswer:
    """What a worker returns: the bytes of the executed copy and of the record.

    Examples
    --------
    >>> NotebookAnswer(b"{}", b"{}").record
    b'{}'
    """

    notebook: bytes
    record: bytes


def execute(order: NotebookOrder) -> NotebookAnswer:
    """Run a notebook in a temporary folder; it works in the worker's own folder.

    Parameters
    ----------
    order : NotebookOrder

    Returns
    -------
    NotebookAnswer

    Raises
    ------
    InputError
        If a cell refuses a parameter, or the worker has another version of modbp.
    modbp.notebooks.NotebookError
        If a cell fails.
    """
    if order.version != __version__:
        raise InputError(f"the worker has modbp {__version__}; allowed is {order.version}, which the sweep has.")
    environment = {name: value for name, value in os.environ.items() if name != RECORDS}
    environment["OMP_NUM_THREADS"] = str(order.threads)
    with tempfile.TemporaryDirectory(prefix="modbp-") as folder:
        source, output, record = (Path(folder, name) for name in (order.name, "executed.ipynb", "record.json"))
        source.write_bytes(order.content)
        notebooks.run(
            source,
            output,
            order.parameters | {"results": str(record)},
            record=record,
            kernels=notebooks.Kernels(environment),
        )
        return NotebookAnswer(output.read_bytes(), record.read_bytes())


def keep(run: Run, answer: NotebookAnswer) -> None:
    """Write what a worker sent to where the run's files belong, the record first.

    Parameters
    ----------
    run : modbp.grid.Run
    answer : NotebookAnswer

    Raises
    ------
    InputError
        If they cannot be written.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = Run(notebooks.find("csc-vgg16"), "csc-vgg16.seed=1", Path(folder), {"seed": 1})
    ...     keep(run, NotebookAnswer(b"{}", b"{}"))
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['csc-vgg16.seed=1.ipynb', 'csc-vgg16.seed=1.json']
    """
    try:
        for path, content in ((run.record, answer.record), (run.notebook, answer.notebook)):
            with replacing(path) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"the results cannot be written to '{run.folder}' ({error.strerror}); what is there stays, and the same"
            " command goes on from there once they can."
        ) from None


def rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of a finished run: the checks of its record.

    Parameters
    ----------
    run : modbp.grid.Run

    Returns
    -------
    list of dict
        By the names of `modbp.sweep.store.JUDGED`.
    """
    record = records.read(run.record)
    source = hashlib.sha256(json.dumps(notebooks.reading.cells(run.source)).encode()).hexdigest()
    subject = {"source": source, "parameters": run.parameters, "version": __version__}
    found = []
    for claim, judged in record["verdicts"].items():
        for number, kept in enumerate(judged["checks"]):
            check = Check.from_json(kept)
            found.append(
                {
                    "key": digest({**subject, "claim": claim, "quantity": check.quantity, "number": number}),
                    "walkthrough": record["walkthrough"],
                    "run": run.name,
                    "source": source,
                    "parameters": json.dumps(run.parameters, sort_keys=True),
                    "claim": claim,
                    "quantity": check.quantity,
                    "predicted": str(check.predicted),
                    "measured": check.measured,
                    "spread": check.spread,
                    "verdict": str(check.verdict),
                }
            )
    return found
