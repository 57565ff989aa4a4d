"""The scripts behind `make reproduce` and `make refresh`, on throwaway notebooks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from modbp import notebooks, records, walkthrough

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import refresh
import reproduce

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a notebook with a cell of parameters and other cells to the folder `walkthroughs`."""
    (tmp_path / "walkthroughs").mkdir()

    def write(name: str, *cells: str) -> Path:
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        parameters = nbformat.v4.new_code_cell("n = 3", metadata={"tags": ["parameters"]})
        notebook.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
        path = tmp_path / "walkthroughs" / f"{name}.ipynb"
        nbformat.write(notebook, path)
        return path

    return write


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the scripts from this process's environment and from the README's picture."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(walkthrough.RECORDS, "")  # `run_all` sets it; this takes it back
    monkeypatch.setattr(refresh, "COVER_FILE", tmp_path / "cover.jpg")
    monkeypatch.setattr(refresh, "RECORD_FOLDER", tmp_path / "records")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Put a stub in the place of Jupyter Book, and return the list of what it was asked to build."""
    asked: list[Path] = []

    def build(source: Path, output: Path) -> int:
        asked.append(source)
        (output / "_build" / "html").mkdir(parents=True)
        (output / "_build" / "html" / "index.html").write_text("the book")
        return 0

    monkeypatch.setattr(reproduce, "build", build)
    return asked


def what_is_read(root: Path) -> dict[Path, tuple[int, int]]:
    """When each file that the book is made of was last written, and its size."""
    folders = [*(root / "book").rglob("*"), *(root / "notebooks").rglob("*"), root / "_config.yml", root / "_toc.yml"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folders if path.is_file()}


def test_the_book_is_built_from_the_executed_copies(
    write: Write, built: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write("b", "import os\nprint(n, os.getcwd())"), write("a", "print('a')")]
    before = [path.read_bytes() for path in paths]
    monkeypatch.chdir(tmp_path)
    moves: list[str] = []
    chdir = os.chdir
    monkeypatch.setattr(os, "chdir", lambda path: moves.append(str(path)) or chdir(path))
    # Relative paths, and two kernels at a time.
    assert reproduce.main(["--notebooks", "walkthroughs", "--output", "out"]) == 0
    assert set(moves) <= {str(tmp_path)}, "one thread moved the other's working folder"
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line for line in lines if line.endswith("started")] == ["[1/2] a: started", "[2/2] b: started"]
    assert sorted(line[:12] for line in lines if re.fullmatch(r"\[\d/2\] [ab]: done in \d+ s", line)) == [
        "[1/2] a: don",
        "[2/2] b: don",
    ]
    assert "building the book" in lines
    assert lines[-1].strip() == (tmp_path / "out" / "html" / "index.html").as_uri()

    source = tmp_path / "out" / "source"
    assert built == [source]
    executed = nbformat.read(source / "notebooks" / "b.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == f"3 {tmp_path / 'walkthroughs'}\n"
    assert {path.name for path in source.iterdir()} == {"_config.yml", "_toc.yml", "book", "notebooks", "records"}
    assert (tmp_path / "out" / "html" / "index.html").read_text() == "the book"
    assert [path.read_bytes() for path in paths] == before
    assert sorted(path.name for path in (tmp_path / "walkthroughs").iterdir()) == ["a.ipynb", "b.ipynb"]

    # Again over what the first run left.
    (source / "notebooks" / "stale.ipynb").write_text("old")
    assert reproduce.main(["--notebooks", "walkthroughs", "--output", "out", "--jobs", "1"]) == 0
    assert not (source / "notebooks" / "stale.ipynb").exists()


JUDGES = """
from modbp import walkthrough
page = walkthrough.begin("a", {"seed": 0}, ["N1"], seed=range(9))
page.judge("N1", {"largest relative difference": (2e-7, 0.0)})
page.close()
"""


def test_the_book_is_built_from_the_new_records(write: Write, built: list[Path], tmp_path: Path) -> None:
    write("a", JUDGES)
    assert reproduce.main(["--notebooks", str(tmp_path / "walkthroughs"), "--output", str(tmp_path / "out")]) == 0
    (found,) = records.read_folder(tmp_path / "out" / "source" / "records").values()
    assert found["verdicts"]["N1"]["verdict"] == "confirmed"


def test_a_refreshed_notebook_leaves_its_record_and_no_trace_of_it_in_the_page(write: Write, tmp_path: Path) -> None:
    path = write("a", JUDGES)
    assert refresh.main([str(path)]) == 0
    assert list(records.read_folder(tmp_path / "records")) == ["a"]
    assert str(tmp_path) not in path.read_text()
    assert len(nbformat.read(path, 4).cells) == 2


def test_a_notebook_that_fails_stops_the_build(
    write: Write, built: list[Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a", "x = 1", "1 / 0")
    write("b", "print('not reached')")
    before = what_is_read(root)
    arguments = ["--notebooks", str(tmp_path / "walkthroughs"), "--output", str(tmp_path / "out"), "--jobs", "1"]
    assert reproduce.main(arguments) == 1
    captured = capsys.readouterr()
    expected = "error: a failed in cell [3], which begins “1 / 0”: ZeroDivisionError: division by zero\n"
    assert captured.err == expected
    assert captured.out == "[1/2] a: started\n"
    assert built == []
    assert list((tmp_path / "out" / "source" / "notebooks").iterdir()) == []
    assert what_is_read(root) == before


def test_bad_input_inside_a_walkthrough_names_the_walkthrough(
    write: Write, built: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a", "from modbp.errors import InputError\nraise InputError('a sentence.')")
    arguments = ["--notebooks", str(tmp_path / "walkthroughs"), "--output", str(tmp_path / "out")]
    assert reproduce.main(arguments) == 1
    assert capsys.readouterr().err == "error: a failed in cell [2]: a sentence.\n"


def test_two_at_a_time_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most, begun = threading.Lock(), [0], [0], []
    both = threading.Barrier(2, timeout=20)  # breaks unless two run at the same time

    def run(path: Path, output: Path, **options: Any) -> None:
        with lock:
            begun.append(path.stem)
            running[0] += 1
            most[0] = max(most[0], running[0])
        both.wait()
        with lock:
            running[0] -= 1

    monkeypatch.setattr(notebooks, "run", run)
    assert reproduce.run_all([Path(f"{name}.ipynb") for name in "abcd"], tmp_path, jobs=2) == []
    assert most == [2]
    assert sorted(begun[:2]) == ["a", "b"]
    assert sorted(begun) == list("abcd")


def test_after_a_failure_nothing_more_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def run(path: Path, output: Path, **options: Any) -> None:
        begun.append(path.stem)
        if path.stem == "a":
            raise notebooks.NotebookError("a failed")
        time.sleep(0.2)  # so that the failure is noticed first

    monkeypatch.setattr(notebooks, "run", run)
    assert reproduce.run_all([Path(f"{name}.ipynb") for name in "abcd"], tmp_path, jobs=2) == ["a failed"]
    assert "d" not in begun


def test_a_book_that_does_not_build(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a", "pass")
    monkeypatch.setattr(notebooks, "run", lambda *args, **options: None)
    monkeypatch.setattr(reproduce, "build", lambda source, output: 2)
    arguments = ["--notebooks", str(tmp_path / "walkthroughs"), "--output", str(tmp_path / "out")]
    assert reproduce.main(arguments) == 1
    assert "error: the book was not built" in capsys.readouterr().err
    assert not (tmp_path / "out" / "html").exists()


def test_the_command_that_builds_the_book_exists(tmp_path: Path) -> None:
    """On an empty folder Jupyter Book itself complains, and not the interpreter that was to start it."""
    program = (
        f"import sys\nsys.path.insert(0, {str(Path(reproduce.__file__).parent)!r})\nfrom pathlib import Path\n"
        f"import reproduce\nsys.exit(reproduce.build(Path({str(tmp_path)!r}), Path({str(tmp_path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode not in (0, -1)
    said = done.stdout + done.stderr
    assert "No module named" not in said
    assert "_toc.yml" in said or "table of contents" in said.lower()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "--jobs is 0; allowed are whole numbers from 1 upwards"),
        (["--notebooks", "/no/such/folder"], "'/no/such/folder', which holds no notebook; allowed is a folder of some"),
    ],
)
def test_bad_options(arguments: list[str], said: str, built: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        reproduce.main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert built == []


def test_a_folder_with_other_things_is_not_written_over(
    write: Write, built: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a", "pass")
    mine = tmp_path / "mine"
    (mine / "source").mkdir(parents=True)
    (mine / "source" / "thesis.txt").write_text("years of work")
    (mine / "letter.txt").write_text("dear")
    for output in (mine, mine / "letter.txt"):
        with pytest.raises(SystemExit) as caught:
            reproduce.main(["--notebooks", str(tmp_path / "walkthroughs"), "--output", str(output)])
        assert caught.value.code == 2
        assert "which holds other things; allowed is an empty or a new folder" in capsys.readouterr().err
    assert (mine / "source" / "thesis.txt").read_text() == "years of work"


# Refreshing the committed notebooks


def test_refreshing_twice_changes_nothing(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("a", "import sys\nfor i in range(50):\n    print(i, flush=True)", "n + 1")
    notebook = nbformat.read(path, 4)
    notebook.metadata["papermill"] = {"duration": 3.2, "input_path": "/home/me/a.ipynb"}
    for cell in notebook.cells:
        cell.metadata["papermill"] = {"duration": 1.0, "status": "completed"}
        cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        cell.metadata["collapsed"] = False
    notebook.cells[1].metadata["mystnb"] = {"figure": {"caption": "x"}}
    nbformat.write(notebook, path)

    assert refresh.main([str(path)]) == 0
    assert capsys.readouterr().out == "a: changed\n"
    once = path.read_bytes()
    assert refresh.main([str(path)]) == 0
    assert capsys.readouterr().out == "a: as it was\n"
    assert path.read_bytes() == once

    found = nbformat.read(path, 4)
    assert set(found.metadata) == {"kernelspec", "language_info"}
    assert found.metadata.language_info == {"name": "python"}
    assert [dict(cell.metadata) for cell in found.cells] == [
        {"tags": ["parameters"]},
        {"mystnb": {"figure": {"caption": "x"}}},
        {},
    ]
    assert [cell.execution_count for cell in found.cells] == [1, 2, 3]
    assert [len(cell.outputs) for cell in found.cells] == [0, 1, 1], "a stream fell into pieces"
    assert b"papermill" not in once
    assert [p.name for p in path.parent.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize(
    ("cell", "said"), [("1 / 0", "ZeroDivisionError: division by zero"), ("import os; os._exit(3)", "Kernel died")]
)
def test_a_notebook_that_fails_is_left_as_it_was(
    cell: str, said: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("a", "print('before')", cell)
    before = path.read_bytes()
    assert refresh.main([str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"error: a failed: {said}\n"
    assert captured.out == ""
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.ipynb"]


def test_what_is_no_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ipynb"
    with pytest.raises(SystemExit) as caught:
        refresh.main([str(path)])
    assert caught.value.code == 2
    assert f"'{path}' does not exist; allowed are notebooks." in capsys.readouterr().err
    path.write_text("no JSON")
    assert refresh.main([str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a failed: Notebook does not appear to be JSON")
    assert path.read_text() == "no JSON"
