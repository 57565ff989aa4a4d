"""Write what 50,000 pictures would cost from the numbers that `sweep.py` measured.

    python benchmarks/sweep_report.py [--out FOLDER]

Nothing is measured here. Every number on the page is computed from the files `sweep.json` and, where a GPU was there,
`sweep-cuda.json`, and the page shows how.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modbp.errors import InputError, first_line
from modbp.files import replacing
from modbp.formatting import decimals
from modbp.sweep.costs import duration

OUT = Path(__file__).resolve().parents[1] / "book" / "_static"
FILES = {"one thread of the processor": "sweep.json", "one GPU": "sweep-cuda.json"}
PICTURES = 50_000
"""Of ImageNet's validation set."""

PICTURE_BYTES = 135_000
"""The mean size of one of its files: 6.7 GB in all."""

MANY = 64
"""Workers of the cluster in the example."""

Results = dict[str, Any]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _printed(value: float) -> float:
    """Return a number as it is printed, so that a reader who multiplies gets what the page says."""
    return float(_seconds(value))


def measurements(results: Results) -> dict[str, dict[str, float]]:
    """Return the seconds of one picture, by measurement and method, without the preparation."""
    return {name: found for name, found in results["seconds_per_image"].items() if name != "preparation"}


def per_task(results: Results) -> float:
    """Return the seconds that a task takes without work, with as many workers as were tried."""
    return _printed(results["overhead"][-1]["seconds_per_task"])


def per_picture(results: Results) -> float:
    """Return the seconds of everything that was measured of one picture."""
    parts = [_printed(results["seconds_per_image"]["preparation"]["forward"]), per_task(results)]
    return _printed(sum(parts) + sum(_printed(found["together"]) for found in measurements(results).values()))


def efficiency(results: Results) -> float:
    """Return the share of the workers' time that is work: 1 where n workers are n times as fast as one."""
    first, last = results["scaling"][0], results["scaling"][-1]
    return _printed(first["work"] * first["workers"] / (last["work"] * last["workers"]))


def describe(results: Results) -> str:
    """Return the sentence that says what was measured where."""
    machine = results["machine"]
    where = machine.get("accelerator", machine["processor"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    looked = f"{len(results['methods'])} methods ({', '.join(results['methods'])}), {len(results['layers'])} layers"
    rounds = "one round" if results["rounds"] == 1 else f"median of {results['rounds']} rounds"
    return f"Network {results['network']}; {looked}, one seed; {rounds}; {where}; {versions}."


def costs_table(results: Results) -> str:
    """Return the seconds of one picture: each method by itself, and all together."""
    found = measurements(results)
    alone = {name: {m: s for m, s in by_method.items() if m != "together"} for name, by_method in found.items()}
    methods = list(dict.fromkeys(method for by_method in alone.values() for method in by_method))
    rows = [[m, *(_seconds(alone[name][m]) if m in alone[name] else "–" for name in found)] for m in methods]
    sums = {name: sum(by_method.values()) for name, by_method in alone.items()}
    rows += [
        ["**sum**", *(_seconds(sums[name]) for name in found)],
        ["**together**", *(_seconds(found[name]["together"]) for name in found)],
        ["together ÷ sum", *(decimals(found[name]["together"] / sums[name]) for name in found)],
    ]
    return _table(["Seconds of one picture", *(f"`{name}`" for name in found)], rows)


def scaling_table(results: Results) -> str:
    """Return the seconds of one sweep on each number of workers."""
    first = results["scaling"][0]
    rows = [
        [
            str(each["workers"]),
            str(each["tasks"]),
            _seconds(each["seconds"]),
            _seconds(each["start"]),
            _seconds(each["work"]),
            decimals(first["work"] / each["work"]),
            decimals(first["work"] * first["workers"] / (each["work"] * each["workers"])),
        ]
        for each in results["scaling"]
    ]
    header = ["Workers", "pictures", "seconds in all", "until the workers answer", "of work", "speed-up", "efficiency"]
    return _table(header, rows)


def overhead_table(results: Results) -> str:
    """Return the cost of tasks without work."""
    rows = [
        [str(each["workers"]), str(each["tasks"]), _seconds(each["seconds"]), f"{each['seconds_per_task'] * 1000:.1f}"]
        for each in results["overhead"]
    ]
    return _table(["Workers", "empty tasks", "seconds", "milliseconds per task"], rows)


def extrapolation(results: Results, what: str) -> str:
    """Return the arithmetic of 50,000 pictures, line by line."""
    preparation, task = results["seconds_per_image"]["preparation"]["forward"], per_task(results)
    one, share = per_picture(results), efficiency(results)
    parts = [f"{_seconds(found['together'])} ({name})" for name, found in measurements(results).items()]
    total = PICTURES * one
    many = total / (MANY * share)
    lines = [
        f"- One picture: {_seconds(preparation)} (read it, predict its class) + {' + '.join(parts)} +"
        f" {_seconds(task)} (the task itself) = **{_seconds(one)} s**.",
        f"- On {what}: {PICTURES:,} × {_seconds(one)} s = {total:,.0f} s = **{duration(total)}**.",
        f"- On {MANY} of them, at the efficiency {decimals(share)} that was measured above: {total:,.0f} s ÷ ({MANY} ×"
        f" {decimals(share)}) = {many:,.0f} s = **{duration(many)}**. Machines that share no memory should do better.",
        f"- The limit of one driver: {PICTURES:,} × {_seconds(task)} s = {PICTURES * task:,.0f} s ="
        f" {duration(PICTURES * task)}, however many workers there are. {_seconds(one)} s ÷ {_seconds(task)} s ="
        f" {one / task:,.0f} workers reach it.",
        f"- What travels: {PICTURES:,} × {PICTURE_BYTES / 1000:.0f} kB = {PICTURES * PICTURE_BYTES / 1e9:.2f} GB of"
        " pictures.",
    ]
    return "\n".join(lines)


def page(found: dict[str, Results]) -> str:
    """Return all tables, for the page that includes them."""
    parts = ["<!-- Written by benchmarks/sweep_report.py. -->"]
    for what, file in FILES.items():
        parts.append(f"### On {what}")
        if what not in found:
            parts.append(
                f"Not measured: there was no GPU where this page was made. `python benchmarks/sweep.py --device cuda"
                f" --out book/_static/{file}` measures it, `python benchmarks/sweep_report.py` then fills in this part."
            )
            continue
        results = found[what]
        parts += [describe(results), costs_table(results), scaling_table(results), overhead_table(results)]
        parts += [f"**{PICTURES:,} pictures**", extrapolation(results, what)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read what was measured, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the numbers and of the tables")
    folder = parser.parse_args(arguments).out
    found: dict[str, Results] = {}
    try:
        for what, file in FILES.items():
            if (folder / file).is_file():
                found[what] = json.loads((folder / file).read_text(encoding="utf-8"))
        if next(iter(FILES)) not in found:
            raise InputError(f"'{folder}' has no sweep.json; allowed is a folder where benchmarks/sweep.py wrote one.")
        text = page(found)
    except (InputError, OSError, ValueError, KeyError) as error:
        said = str(error) if isinstance(error, InputError) else f"the numbers cannot be read ({first_line(error)})"
        print(f"sweep_report.py: {said}", file=sys.stderr)
        return 2
    with replacing((folder / "sweep.md").absolute()) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {folder / 'sweep.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
