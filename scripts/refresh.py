"""Execute the committed walkthroughs in place, at their defaults, and keep their records in `records/`.

    python scripts/refresh.py [NOTEBOOK ...]

Only outputs change, and a second run changes nothing: no timings, no machine's names, stable ids.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from modbp.files import replacing
from modbp.notebooks import QUIET_KERNEL
from modbp.walkthrough import RECORDS

ROOT = Path(__file__).resolve().parents[1]
COVER = ("image-recovery-vgg16.ipynb", "fig-recovery-classes")
COVER_FILE = ROOT / "book" / "_static" / "cover.jpg"
RECORD_FOLDER = ROOT / "records"


def refresh(path: Path) -> bool:
    """Execute one notebook in place, and return whether its file changed."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        coalesce_streams=True,  # or what is printed falls into pieces as chance has it
        resources={"metadata": {"path": path.parent}},
        extra_arguments=list(QUIET_KERNEL),
    )
    RECORD_FOLDER.mkdir(exist_ok=True)
    client.execute(env={**os.environ, RECORDS: str(RECORD_FOLDER)})
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        for key in ("papermill", "execution", "collapsed"):
            cell.metadata.pop(key, None)
    after = nbformat.writes(notebook) + "\n"
    if after == before:
        return False
    with replacing(path) as temporary:
        temporary.write_text(after, encoding="utf-8")
    return True


def cover() -> bytes:
    """Return the README's picture: the figure of that name in its walkthrough."""
    notebook = nbformat.read(ROOT / "notebooks" / COVER[0], as_version=4)
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == COVER[1]:
            return base64.b64decode(cell.outputs[0].data["image/jpeg"])
    raise KeyError(f"{COVER[0]} has no figure {COVER[1]!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Refresh the named notebooks, or all; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    for path in parser.parse_args(arguments).notebooks:
        if not path.is_file():
            parser.error(f"'{path}' does not exist; allowed are notebooks.")
        try:
            print(f"{path.stem}: {'changed' if refresh(path.resolve()) else 'as it was'}", flush=True)
        except CellExecutionError as error:
            print(f"error: {path.stem} failed: {error.ename}: {error.evalue}", file=sys.stderr)
            return 1
        except (CellTimeoutError, DeadKernelError, nbformat.reader.NotJSONError) as error:
            print(f"error: {path.stem} failed: {(str(error).splitlines() or ['its kernel died'])[0]}", file=sys.stderr)
            return 1
        if path.name == COVER[0]:
            COVER_FILE.write_bytes(cover())
    return 0


if __name__ == "__main__":
    sys.exit(main())
