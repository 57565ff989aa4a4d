"""The command `modbp`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modbp import __version__, notebooks
from modbp.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default the command line's.

    Returns
    -------
    int
        0 when all is well, 1 when a walkthrough failed, 2 for bad input, 130 when interrupted.

    Examples
    --------
    >>> main(["run", "image-recovery-vgg16", "--list"])
    weights = 'embedded'
    ...
    0
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except InputError as error:
        print(f"modbp: {error}", file=sys.stderr)
        return 2
    except notebooks.NotebookError as error:
        print(f"modbp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("modbp: interrupted; nothing was written.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modbp", description="Run the walkthroughs of modbp.")
    parser.add_argument("--version", action="version", version=f"modbp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a walkthrough with other parameters")
    run.add_argument("walkthrough", help="its name, such as image-recovery-vgg16, or the path of a notebook")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("-o", "--output", type=Path, help="the executed copy; by default NAME.run.ipynb in this folder")
    run.add_argument("--list", action="store_true", help="print the parameters with their defaults, and stop")
    return parser


def _run(options: argparse.Namespace) -> int:
    path = notebooks.find(options.walkthrough)
    if options.list:
        for name, default in notebooks.parameters(path).items():
            print(f"{name} = {default!r}")
        return 0
    names = [name for name, _ in options.parameter]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"the parameter {twice[0]!r} is given twice; allowed is once.")
    given = notebooks.parse(path, dict(options.parameter))
    output = (options.output or Path(f"{path.stem}.run.ipynb")).absolute()
    notebooks.run(path, output, given, progress=notebooks.interactive())
    for line in notebooks.notes(output):
        print(line, file=sys.stderr)
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
