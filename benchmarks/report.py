"""Write the table and the figure of the book from the numbers that `run.py` measured.

    python benchmarks/report.py [--device cuda] [--out FOLDER]

Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contenders import FORMULAS, NETWORK_LABELS, PLAIN, STARTS
from run import OUT, Parser, stem

from modbp.errors import InputError, first_line
from modbp.files import replacing
from modbp.formatting import decimals

LIBRARIES = {"torch": "PyTorch", "captum": "Captum", "zennit": "zennit", "modbp": "modbp"}
MARKERS = {"captum": ("s", "#E69F00"), "zennit": ("^", "#009E73"), "modbp": ("o", "#0072B2")}
NONE = "–"

Rows = list[dict[str, Any]]


def _values(rows: Rows, key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def describe(results: dict[str, Any]) -> str:
    """Return the sentence that says what was measured where."""
    settings, machine = results["settings"], results["machine"]
    side, rounds = settings["size"], settings["rounds"]
    where = f"{machine['processor']}, {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    if "accelerator" in machine:
        tf32 = "with" if machine.get("tf32_convolutions") else "without"
        where = f"{machine['accelerator']}, convolutions {tf32} TF32"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    units = [
        f"{NETWORK_LABELS[row['network']]} at batch {row['batch']}: {row['unit_seconds']:.3g} s"
        for row in results["rows"]
        if row["name"] == PLAIN and "unit_seconds" in row
    ]
    return (
        f"Inputs of {side} × {side} pixels in float32; {where}; {versions}; {rounds} round{'s' if rounds > 1 else ''}."
        f" A plain forward and backward pass takes, on {'; on '.join(units)}."
    )


def _time(row: dict[str, Any] | None) -> str:
    if row is None or "ratio" not in row:
        return NONE
    low, high = row["quartiles"]
    return f"{decimals(row['ratio'])} ({decimals(low)}–{decimals(high)})"


def _memory(row: dict[str, Any] | None) -> str:
    if row is None or "extra_bytes" not in row or "ratio" not in row:
        return NONE
    return str(round(row["extra_bytes"] / 1e6)).replace("-", "−")


def _note(row: dict[str, Any]) -> str:
    if "refusal" in row:
        text = row["refusal"].replace("|", "/").replace("`", "'")
        return f"No map: `{text}`"
    return f"Wrong: {row['fault']}." if "fault" in row else ""


def _notes(rows: Rows, of: Callable[[dict[str, Any]], str]) -> str:
    """Return what stands under a table: one line for each row that has no time, with the reason."""
    lines = [f"- {FORMULAS[r['formula']].label}, {of(r)}, batch {r['batch']}. {_note(r)}" for r in rows if _note(r)]
    return "".join(f"\n{line}" for line in ["", *lines]) if lines else ""


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]], numbers: int) -> str:
    """Return a table whose first two columns are text and whose next `numbers` columns are aligned right."""
    align = ["---"] * 2 + ["---:"] * numbers
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *lines))


def methods_table(rows: Rows) -> str:
    """Return the table of one network: one line per formula and library, one column per batch."""
    batches = _values(rows, "batch")
    names = sorted(_values(rows, "name"), key=lambda name: list(FORMULAS).index(name.rpartition("/")[2]))
    by_key = {(row["name"], row["batch"]): row for row in rows}
    header = [
        "Formula",
        "Library",
        *(f"Time, batch {batch}" for batch in batches),
        *(f"Memory, batch {batch}" for batch in batches),
        "Products",
        "Least",
    ]
    lines = []
    for name in names:
        found = [by_key.get((name, batch)) for batch in batches]
        measured = [row for row in found if row is not None]
        counted = next((row for row in measured if "products" in row), {})
        lines.append(
            [
                FORMULAS[measured[0]["formula"]].label,
                LIBRARIES[measured[0]["library"]],
                *map(_time, found),
                *map(_memory, found),
                f"{counted['products']:g}" if counted else NONE,
                str(measured[0]["least_products"]),
            ]
        )
    return _markdown(header, lines, 2 * len(batches) + 2) + _notes(rows, lambda row: LIBRARIES[row["library"]])


def starts_table(rows: Rows) -> str:
    """Return the table of several start vectors at once."""
    batches = _values(rows, "batch")
    by_key = {(row["network"], row["formula"], row["batch"]): row for row in rows}
    lines = []
    for network, formula in dict.fromkeys((row["network"], row["formula"]) for row in rows):
        found = [by_key.get((network, formula, batch)) for batch in batches]
        lines.append([NETWORK_LABELS[network], FORMULAS[formula].label, *map(_time, found)])
    header = ["Network", "Formula", *(f"Time, batch {batch}" for batch in batches)]
    return _markdown(header, lines, len(batches)) + _notes(rows, lambda row: NETWORK_LABELS[row["network"]])


def tables(results: dict[str, Any]) -> str:
    """Return all tables, for a page that includes them."""
    rows: Rows = results["rows"]
    parts = ["<!-- Written by benchmarks/report.py. -->", describe(results)]
    for network in _values(rows, "network"):
        chosen = [row for row in rows if row["network"] == network and row["kind"] == "map"]
        parts += [f"**{NETWORK_LABELS[network]}**", methods_table(chosen)]
    for kind, title in (
        ("starts", f"**{STARTS} start vectors to all convolutions at once**, as a multiple of {STARTS} separate runs"),
        ("csc", f"**Cosine similarity convergence**, {STARTS} vectors to all layers, as a multiple of a plain pass"),
    ):
        found = [row for row in rows if row["kind"] == kind]
        if found:
            parts += [title, starts_table(found)]
    return "\n\n".join(parts) + "\n"


def figure(results: dict[str, Any]) -> Any:
    """Return the figure: time by formula, one panel per network and batch, one marker and color per library."""
    from matplotlib.figure import Figure

    from modbp import plot

    rows: Rows = [row for row in results["rows"] if row["kind"] == "map"]
    networks, batches = _values(rows, "network"), _values(rows, "batch")
    formulas = [name for name in FORMULAS if name != PLAIN and any(row["formula"] == name for row in rows)]
    with plot.style():
        size = (3.7 * len(networks) + 0.9, (0.34 * len(formulas) + 0.9) * len(batches) + 0.3)
        drawn = Figure(figsize=size)
        panels = drawn.subplots(len(batches), len(networks), squeeze=False, sharey=True, sharex=True)
        for b, batch in enumerate(batches):
            for n, network in enumerate(networks):
                chosen = [row for row in rows if row["network"] == network and row["batch"] == batch]
                panels[b][n].set_visible(bool(chosen))  # not every batch need have been measured on every network
                _draw(panels[b][n], chosen, formulas)
                panels[b][n].set_title(f"{NETWORK_LABELS[network]}, batch {batch}")
        panels[0][0].set_xlim(left=0)  # of all panels, and only now: it ends the fitting of the limits to the data
        for axis in panels[-1]:
            axis.set_xlabel("time, in plain passes")
        labels = {label: h for axis in panels.flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        drawn.legend(labels.values(), labels.keys(), loc="outside upper center", ncols=len(labels))
    return drawn


def _draw(axis: Any, rows: Rows, formulas: Sequence[str]) -> None:
    """Draw one panel."""
    plain = next((row["products"] for row in rows if row["formula"] == PLAIN), None)
    axis.axvline(1, color="0.4", lw=1)
    for y, formula in enumerate(formulas):
        found = [row for row in rows if row["formula"] == formula]
        if found and plain:
            least = found[0]["least_products"] / plain
            axis.plot([least], [y], "|", color="black", ms=15, mew=1.5, label="least products needed")
        for row in found:
            if "ratio" not in row:
                continue
            marker, color = MARKERS[row["library"]]
            low, high = row["quartiles"]
            at = y + 0.22 * (list(MARKERS).index(row["library"]) - 1)
            axis.plot([low, high], [at, at], color=color, lw=1.5)
            axis.plot([row["ratio"]], [at], marker, color=color, ms=5.5, ls="none", label=LIBRARIES[row["library"]])
    axis.set_yticks(range(len(formulas)), [FORMULAS[formula].label for formula in formulas])
    axis.set(ylim=(len(formulas) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)


def write(folder: Path, device: str) -> list[Path]:
    """Write the table and the figure beside the numbers, and return their paths."""
    import matplotlib as mpl

    source = folder / f"{stem(device)}.json"
    if not source.is_file():
        raise InputError(f"'{source}' does not exist; run benchmarks/run.py first.")
    try:
        results = json.loads(source.read_text(encoding="utf-8"))
        text, drawn = tables(results), figure(results)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{source}' holds no results ({first_line(error)}); run benchmarks/run.py again.") from None
    table, picture = source.with_suffix(".md"), source.with_suffix(".svg")
    with replacing(table) as temporary:
        temporary.write_text(text, encoding="utf-8")
    # The same numbers give the same file.
    with mpl.rc_context({"svg.hashsalt": "modbp"}), replacing(picture) as temporary:
        drawn.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return [table, picture]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write; return the exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="whose numbers")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the numbers")
    try:
        options = parser.parse_args(arguments)
        for path in write(options.out, options.device):
            print(f"wrote {path}")
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
