"""Measure methods side by side, each in a process of its own, as multiples of a plain forward and backward pass.

    python benchmarks/run.py [--rounds 5] [--batch 1 --batch 4] [--network vgg16] [--only captum/lrp_epsilon]
    python benchmarks/report.py

The first writes the numbers to a JSON file, the second a table and a figure from them for the book. In every round a
process runs the plain pass and then its contender, so that a machine whose speed drifts slows both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from contenders import CONTENDERS, FORMULAS, NETWORKS, PLAIN
from tqdm import tqdm

from modbp.errors import InputError, first_line
from modbp.files import replacing

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "book" / "_static"
SMALLEST = 32


def stem(device: str) -> str:
    """Return the name of the files of one device, without their suffix."""
    return "benchmarks" if device == "cpu" else f"benchmarks-{device}"


class Parser(argparse.ArgumentParser):
    """Refuses in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints."""
        raise InputError(f"{message}.")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, behind two that warm up")
    parser.add_argument("--batch", type=int, action="append", help="samples at once; may be repeated (1 and 4)")
    parser.add_argument("--network", action="append", help=f"{' or '.join(NETWORKS)}; may be repeated (both)")
    parser.add_argument("--only", action="append", metavar="NAME", help="this contender beside plain; may be repeated")
    parser.add_argument("--update", action="store_true", help="keep what the results hold and is not measured now")
    parser.add_argument("--size", type=int, default=224, help="side of the square inputs, in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=OUT, help="an existing folder, for the results")
    options = parser.parse_args(arguments)
    options.batch = list(dict.fromkeys(options.batch or [1, 4]))
    options.network = list(dict.fromkeys(options.network or NETWORKS))
    least = [("--rounds", options.rounds, 1), ("--size", options.size, SMALLEST), ("--threads", options.threads, 1)]
    for name, value, smallest in [*least, *(("--batch", batch, 1) for batch in options.batch)]:
        if value < smallest:
            raise InputError(f"{name} is {value}; allowed are whole numbers from {smallest} upwards.")
    for name, values, known in (
        ("--network", options.network, NETWORKS),
        ("--only", options.only or [], CONTENDERS),
        ("--device", [options.device], ("cpu", "cuda")),
    ):
        for value in values:
            if value not in known:
                raise InputError(f"{name} is {value!r}; allowed are {', '.join(known)}.")
    if not options.out.is_dir():
        raise InputError(f"--out is '{options.out}', which is no folder; allowed is an existing one.")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("--device is 'cuda', and PyTorch finds no such device here; allowed is cpu.")
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all rows of the results have in common."""
    return {key: getattr(options, key) for key in ("size", "rounds", "threads", "device")}


def results_to_update(options: argparse.Namespace) -> dict[str, Any]:
    """Return the results that are there, which must have the same settings."""
    path = options.out / f"{stem(options.device)}.json"
    if not path.exists():
        raise InputError(f"--update was given, and there is no '{path}' to update; allowed is to leave it out.")
    old = dict(json.loads(path.read_text(encoding="utf-8")))
    if old["settings"] != settings_of(options):
        raise InputError(f"--update was given for results of other settings; allowed are theirs, {old['settings']}.")
    return old


def updated(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return old results with the rows that were measured anew in their places, and rows without a place at the end.

    The plain pass is always measured along. Its old row stays: most rows are multiples of the passes of that run.
    """

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["network"], row["batch"], row["name"]

    rows = {place(row): row for row in old["rows"]}
    rows |= {place(row): row for row in new["rows"] if row["name"] != PLAIN or place(row) not in rows}
    return new | {"rows": list(rows.values())}


def run_child(request: dict[str, Any]) -> dict[str, Any]:
    """Return what `measure.py` found in a process of its own, or how that process ended."""
    threads = str(request["threads"])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("measure.py")), json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        return {"refusal": first_line(said[-1] if said else f"its process ended with status {done.returncode}")}
    return dict(json.loads(lines[-1]))


def row(name: str, request: dict[str, Any], found: dict[str, Any], plain_peak: int | None) -> dict[str, Any]:
    """Return a contender's line of the results."""
    contender, network = CONTENDERS[name], request["network"]
    result: dict[str, Any] = {
        "name": name,
        "library": contender.library,
        "formula": contender.formula,
        "kind": contender.kind,
        "network": network,
        "batch": request["batch"],
    }
    if contender.kind == "map":
        result["least_products"] = FORMULAS[contender.formula].least(network)
        if plain_peak is not None and "peak_bytes" in found:
            result["extra_bytes"] = found["peak_bytes"] - plain_peak
    kept = ("refusal", "fault", "ratio", "quartiles", "unit_seconds", "peak_bytes", "calls", "products")
    return result | {key: found[key] for key in kept if key in found}


def run(options: argparse.Namespace, old: dict[str, Any] | None = None) -> dict[str, Any]:
    """Measure all that was asked for, one after another, and return the results, with the rows of old ones."""
    names = [name for name in CONTENDERS if not options.only or name in (PLAIN, *options.only)]
    plan = [(network, batch, name) for network in options.network for batch in options.batch for name in names]
    settings = settings_of(options)
    facts: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    peak: int | None = None
    bar = tqdm(plan, disable=None)
    for network, batch, name in bar:
        bar.set_description(f"{network}, batch {batch}: {name}")
        request = settings | {"network": network, "batch": batch, "contender": name}
        found = run_child(request)
        facts = facts or found.get("machine", {})
        if old is not None and facts != old["machine"]:  # the table names one machine for all of its rows
            raise InputError(f"--update was given for results of another machine; allowed is theirs, {old['machine']}.")
        if name == PLAIN:  # first in every plan
            if "refusal" in found:
                raise InputError(f"the plain pass on {network} at batch {batch} failed ({found['refusal']}).")
            peak = found.get("peak_bytes")
        if not found.get("absent"):
            rows.append(row(name, request, found, peak))
    results = {"settings": settings, "machine": facts, "rows": rows}
    return results if old is None else updated(old, results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; return the exit status."""
    try:
        options = read_options(arguments)
        results = run(options, results_to_update(options) if options.update else None)
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted; nothing was written.", file=sys.stderr)
        return 130
    path = options.out / f"{stem(options.device)}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
