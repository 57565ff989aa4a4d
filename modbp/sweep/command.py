"""The command `modbp sweep`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from modbp import notebooks
from modbp.formatting import count


def add_to(commands: Any) -> None:
    """Add the command to those of `modbp`.

    Parameters
    ----------
    commands : argparse's sub-commands

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_to(parser.add_subparsers())
    >>> parser.parse_args(["sweep", "grid.yaml", "--out", "results", "--workers", "2"]).workers
    2
    """
    sweep = commands.add_parser(
        "sweep",
        help="measure a grid of pictures, methods, layers, networks and seeds on many processes or machines",
        description="Do what a grid says, on workers of this machine, a running dask cluster, or jobs of a batch"
        " system. A second call does what the first one left undone.",
    )
    sweep.set_defaults(function=_sweep)
    sweep.add_argument("grid", type=Path, help="a YAML file with the grid")
    sweep.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the folder of the results")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="processes on this machine, by default one per core")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a running dask scheduler, such as tcp://10.0.0.1:8786")
    where.add_argument("--cluster", type=Path, metavar="FILE", help="a YAML file with jobs of a batch system")
    sweep.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch in each worker, by default 1")
    sweep.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda; by default auto")
    sweep.add_argument(
        "--write-every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="write what came in after so many seconds, by default 30",
    )
    sweep.add_argument("--dry-run", action="store_true", help="print the size and the cost, and stop")


def _sweep(options: argparse.Namespace) -> int:
    # Not above: the other commands need none of it.
    from modbp.sweep import clusters, plan, run

    end = run.run(
        plan.read(options.grid),
        options.out,
        workers=options.workers,
        scheduler=options.scheduler,
        cluster=clusters.read(options.cluster) if options.cluster else None,
        threads=options.threads,
        device=options.device,
        every=options.write_every,
        dry_run=options.dry_run,
        progress=notebooks.interactive(),
        say=lambda line: print(line, flush=True),
    )
    for line in run.summary(end.failures):
        print(f"modbp: {line}", file=sys.stderr)
    if end.failures:
        rows = sum(failure.rows for failure in end.failures)
        print(
            f"modbp: {count(rows, 'row')} failed, all of them in {end.folder / run.FAILURES}; the same command"
            " tries again.",
            file=sys.stderr,
        )
    return 1 if end.failures else 0
