"""The command `modbp audit`: the battery of checks on a network that is named, and its report as one HTML file."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from modbp import notebooks, progress
from modbp.errors import InputError
from modbp.files import expand
from modbp.walkthrough import check_writable

NOTEBOOK = "audit"
"""The notebook that measures: the name of one of the repository's, or a path."""

PATIENCE = 120.0
"""For how many seconds an interrupted command waits for the unit that is running."""

_LOOK_EVERY = 0.2  # seconds

_SUFFIXES = (".html", ".htm")


def add_to(commands: Any) -> None:
    """Add the command to those of `modbp`.

    Parameters
    ----------
    commands : argparse subparsers

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_to(parser.add_subparsers())
    >>> parser.parse_args(["audit", "vgg16", "--batch", "2"]).batch
    '2'
    """
    audit = commands.add_parser(
        "audit",
        help="check the saliency maps of a network, and write a report",
        description="Check the saliency maps of a network by a battery of tests, and write a report: one HTML file"
        " that needs nothing beside it. Ctrl-C ends it after the unit that is running, and the report holds what was"
        " measured until then; a second Ctrl-C ends it at once.",
    )
    audit.set_defaults(function=_run)
    audit.add_argument(
        "model",
        help="such as vgg16, torchvision:resnet18, package.module:factory, or the path of a state dict of a VGG16",
    )
    audit.add_argument("--weights", help="embedded, imagenet, random, or the path of a state dict")
    audit.add_argument("--images", help="a folder of pictures, or embedded (the default)")
    audit.add_argument("--n-images", metavar="N", help="how many of them")
    audit.add_argument("--methods", nargs="+", metavar="METHOD", help="names with spaces or commas between them")
    audit.add_argument("--targets", metavar="CLASSES", help="numbers with commas, or predicted (the default)")
    audit.add_argument("--budget", help="quick or full")
    audit.add_argument("--batch", metavar="N", help="how many inputs are in memory at a time")
    audit.add_argument("--seed", metavar="N", help="of all that is drawn")
    audit.add_argument("--out", type=Path, metavar="FILE", help="the report, by default MODEL.audit.html")
    audit.add_argument("--record", type=Path, metavar="FILE", help="write what was measured there, too, as JSON")
    audit.add_argument("--notebook", type=Path, metavar="FILE", help="keep the executed notebook there")


def _run(options: argparse.Namespace) -> int:
    """Run the command; the status is 0 also where methods do badly, for that is a finding."""
    path = notebooks.find(NOTEBOOK)
    given = _check(options, path)
    out = options.out or Path(_default_name(options.model))
    files = {"out": out, "record": options.record, "notebook": options.notebook}
    _check_files({name: file for name, file in files.items() if file is not None}, path)
    _check_model(given)
    import nbconvert  # noqa: F401  # the report needs it, and its lack is to be said before the measuring

    record = expand(options.record).absolute() if options.record else None
    if record:
        given["results"] = str(record)
    with tempfile.TemporaryDirectory(prefix="modbp-", ignore_cleanup_errors=True) as folder:
        state, stop = Path(folder, "progress.json"), Path(folder, "stop")
        executed = options.notebook or Path(folder, "audit.ipynb")
        kernels = notebooks.Kernels(os.environ | {progress.PROGRESS: str(state), progress.STOP: str(stop)})

        def task() -> list[str]:
            notebooks.run(path, executed, given, record=record, kernels=kernels)
            notebooks.write_html(
                executed,
                out,
                title=f"Audit of {options.model}",
                description=f"Which saliency maps of {options.model} can be trusted, by a battery of checks.",
                at_defaults=False,
            )
            return list(dict.fromkeys(notebooks.notes(executed)))

        for line in _carry_out(task, kernels, stop, _Display(state), f"what was measured until then is in {out}"):
            print(line, file=sys.stderr)
    print(f"wrote {out}")
    return 0


def _default_name(model: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_+-]+', '-', model).strip('-')[-100:]}.audit.html"


def _check(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Return the notebook's parameters that were given, after a look at what can be told at once."""
    names = ("model", "weights", "images", "n_images", "methods", "targets", "budget", "batch", "seed")
    typed = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "methods" in typed:
        methods = re.split(r"[\s,]+", " ".join(typed["methods"]).strip(" ,"))
        typed["methods"] = ", ".join(dict.fromkeys(methods))
    if typed.get("targets") == "predicted":
        typed["targets"] = ""
    return notebooks.check(path, notebooks.parse(path, typed))


def _check_files(files: dict[str, Path], path: Path) -> None:
    if files["out"].suffix.lower() not in _SUFFIXES:
        raise InputError(f"out is '{files['out']}'; allowed is a file that ends in {' or '.join(_SUFFIXES)}.")
    places = {name: check_writable(file, name).resolve() for name, file in files.items()}
    for name, place in places.items():
        same = [other for other in places if other != name and places[other] == place]
        if same or place == path:
            what = f"the {same[0]}, too" if same else "the notebook that measures"
            raise InputError(f"{name} is '{files[name]}', which is {what}; allowed is a file of its own.")


def _check_model(given: dict[str, Any]) -> None:
    """Look at what takes a moment, because it needs the pictures and PyTorch."""
    from modbp import images

    if given.get("images"):
        with warnings.catch_warnings(action="ignore"):  # the run itself says what it leaves out
            images.load(given["images"], n=1)
    from modbp import sources

    sources.check_network(given["model"], given.get("weights") or None)
    for method in given["methods"].split(", ") if "methods" in given else ():
        sources.check_method(method)
    sources.targets(given.get("targets", ""))


class _Display:
    """A bar that shows what a kernel wrote of its progress, and counts on between two states."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: progress.State | None = None
        self._since = 0.0
        self._bar = progress.Bar("audit", disable=not notebooks.interactive())

    def show(self, note: str = "") -> None:
        now, state = time.monotonic(), progress.State.read(self._path)
        if state is None:
            return
        if state != self._state:
            self._state, self._since = state, now
        passed = now - self._since
        left = None if state.remaining is None else max(0.0, state.remaining - passed)
        if state.done == state.total:
            note = "writing the report"
        self._bar.show(replace(state, elapsed=state.elapsed + passed, remaining=left), note)

    def close(self) -> None:
        self._bar.close()


def _carry_out(
    task: Callable[[], list[str]], kernels: notebooks.Kernels, stop: Path, display: _Display, kept: str
) -> list[str]:
    """Return what a task returns that runs a notebook, in a thread; if interrupted, ask the notebook to stop.

    The main thread only waits, as in `modbp.notebooks.side_by_side`. Whoever interrupts again wants no report: the
    kernel is killed.
    """
    pool = ThreadPoolExecutor(1)
    working: Future[list[str]] | None = None
    try:
        working = pool.submit(task)
        while not working.done():
            wait([working], _LOOK_EVERY)
            display.show()
    except KeyboardInterrupt as interruption:
        stop.touch()
        end = time.monotonic() + PATIENCE
        while working and not working.done() and time.monotonic() < end and not getattr(interruption, "again", False):
            wait([working], _LOOK_EVERY)
            display.show("stopping; Ctrl-C once more stops at once")
        kernels.kill()
        pool.shutdown()
        if working and working.exception() is None:
            interruption.add_note(kept)
        raise
    finally:
        display.close()
        kernels.kill()
        pool.shutdown()
    return working.result()
