"""Run every walkthrough at its defaults and build the book from the executed copies and their records.

    python scripts/reproduce.py [--output _build/reproduce] [--jobs 2]

Nothing outside the output folder is written. A walkthrough that fails stops the build.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from modbp import notebooks
from modbp.errors import InputError
from modbp.walkthrough import RECORDS

ROOT = Path(__file__).resolve().parents[1]


def run_all(paths: Sequence[Path], target: Path, jobs: int) -> list[str]:
    """Execute notebooks, `jobs` at a time, into a folder, and return what failed; their records go beside that folder.

    Each notebook runs in its own process; the threads here only wait for them.
    """
    os.environ[RECORDS] = str(target.parent / "records")
    # Kernels that run side by side share the cores instead of fighting for them.
    threads = max(1, (os.cpu_count() or 1) // min(jobs, len(paths)))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    failures: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        waiting = list(enumerate(paths, start=1))
        running: set[Future[None]] = set()
        while waiting or running:
            while waiting and len(running) < jobs and not failures:
                number, path = waiting.pop(0)
                running.add(pool.submit(_run_one, path, target, f"[{number}/{len(paths)}] {path.stem}"))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            failures += [str(error) for future in done if (error := future.exception())]
            if failures:  # what runs may end, nothing more begins
                waiting.clear()
    return failures


def _run_one(path: Path, target: Path, label: str) -> None:
    print(f"{label}: started", flush=True)
    begun = time.monotonic()
    bar = {"desc": label, "leave": False} if notebooks.interactive() else False
    try:
        notebooks.run(path, target / path.name, cwd=path.parent, progress=bar)
    except InputError as error:  # nobody typed what it complains of, so say where it comes from
        where = "".join(f" in {note}" for note in getattr(error, "__notes__", []))
        raise notebooks.NotebookError(f"{path.stem} failed{where}: {error}") from None
    print(f"{label}: done in {time.monotonic() - begun:.0f} s", flush=True)


def stage(source: Path) -> None:
    """Lay out a book's sources, without notebooks and their records, in an empty folder."""
    shutil.rmtree(source, ignore_errors=True)
    for name in ("notebooks", "records"):
        (source / name).mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, source / name)
    shutil.copytree(ROOT / "book", source / "book")


def build(source: Path, output: Path) -> int:
    """Build the book; return the exit status of jupyter-book, which is 0 only without warnings.

    What jupyter-book says is printed only where it fails: it names a folder that is about to move.
    """
    # The package has no __main__, and its script need not be on the path.
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
    options = ["--path-output", str(output), "-W", "-n", "--keep-going", "--quiet"]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
    return done.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 when a walkthrough or the build failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "reproduce")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks", help="the folder of the walkthroughs")
    parser.add_argument("--jobs", type=int, default=2, help="walkthroughs at a time")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; allowed are whole numbers from 1 upwards.")
    paths = sorted(options.notebooks.absolute().glob("*.ipynb"))
    if not paths:
        parser.error(f"--notebooks is '{options.notebooks}', which holds no notebook; allowed is a folder of some.")
    output = options.output.absolute()
    # What lies there is replaced, so it must be an earlier run's.
    if output.is_file() or (output.is_dir() and {p.name for p in output.iterdir()} - {"source", "_build", "html"}):
        parser.error(f"--output is '{options.output}', which holds other things; allowed is an empty or a new folder.")
    source = output / "source"
    stage(source)
    failures = run_all(paths, source / "notebooks", options.jobs)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if failures:
        return 1
    print("building the book", flush=True)
    if build(source, output):
        print("error: the book was not built; the messages above say why.", file=sys.stderr)
        return 1
    html = output / "html"
    shutil.rmtree(html, ignore_errors=True)
    (output / "_build" / "html").rename(html)
    print(f"\nThe book is ready. Open\n  {(html / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
