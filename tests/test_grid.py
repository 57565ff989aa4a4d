"""Grids of runs: what is checked before, what is run, what is left after an interruption, a failure, a crash."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
from processes import alive, start, wait_for

from modbp import cli, grid, notebooks, records
from modbp.errors import InputError

DEFAULTS = 'n = 1\nword = "a"\nrate = 0.5\nfast = False\nresults = ""'
BEGIN = """
import os, pathlib, time
from modbp import walkthrough
page = walkthrough.begin(
    "demo", globals(), ["N1"], n=range(1, 10), word=str, rate=(0.0, 5.0), fast=bool, results=str
)
"""
CLOSE = """
page.judge("N1", {"largest relative difference": (0.1 if n > 2 else 0.0, 0.0)})
page.close()
with open("log", "a") as log:
    log.write(f"{n}{word} ")
"""


def write(folder: Path, *cells: str, defaults: str = DEFAULTS, close: str = CLOSE) -> Path:
    """Write a walkthrough `demo.ipynb` with these cells between its first and its last."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    parameters = nbformat.v4.new_code_cell(defaults, metadata={"tags": ["parameters"]})
    notebook.cells = [parameters, *map(nbformat.v4.new_code_cell, (BEGIN, *cells, close))]
    path = folder / "demo.ipynb"
    nbformat.write(notebook, path)
    return path


def command(*arguments: str) -> list[str]:
    return ["run", "demo.ipynb", "-o", "out", *arguments]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pairs(*stems: str) -> list[str]:
    return sorted(["table.csv", *(f"{stem}.{kind}" for stem in stems for kind in ("ipynb", "json"))])


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "table.csv"}


# What is planned


def test_the_runs_are_the_product_in_the_order_of_the_notebooks_parameters(folder: Path) -> None:
    source = write(folder)
    runs = grid.plan(source, "out", {"fast": [False, True], "n": [2, 1]}, {"word": "b"})
    assert [run.parameters for run in runs] == [
        {"n": n, "word": "b", "fast": fast} for fast in (False, True) for n in (2, 1)
    ]
    assert [run.name for run in runs] == [
        f"demo.n={n}.word=b.fast={fast}" for fast in ("false", "true") for n in (2, 1)
    ]
    # A parameter that moves from those in common to the grid leaves the names as they were.
    moved = grid.plan(source, "out", {"fast": [False, True], "n": [2, 1], "word": ["b"]})
    assert [run.name for run in moved] == [run.name for run in runs]
    assert names(folder) == ["demo.ipynb"]


def test_names_are_apart_where_a_file_system_would_not_tell_them_apart(folder: Path) -> None:
    words = ["a b", "a-b", "a/b", "A-b", "a-B", "", ".", "..", "é", "ü", "x" * 300, "x" * 301, "a*b", "a\nb", "~/a-b"]
    found = [run.name for run in grid.plan(write(folder), "out", {"word": words})]
    assert len({name.casefold() for name in found}) == len(words)
    for name in found:
        assert not set(name) & set('/\\:*?"<>| \n')
        assert len(f".{name}.{'0' * 16}.ipynb".encode()) <= 255
    assert "demo.word=a-b" in found
    many = "\n".join(f"parameter_{i} = 0" for i in range(30)) + '\nresults = ""'
    source = write(folder, defaults=many)
    axes = {f"parameter_{i}": [0] for i in range(29)} | {"parameter_29": [0, 1]}
    long = [run.name for run in grid.plan(source, "out", axes)]
    assert len(set(long)) == 2
    assert all(len(name) <= 200 for name in long)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--grid", "m", "1"], "demo has no parameter 'm'; allowed are n, word, rate, fast, results."),
        (["--grid", "wrd", "1"], "demo has no parameter 'wrd' (did you mean word?); allowed are"),
        (["--grid", "n"], "the parameter 'n' of the grid has no value; allowed are one or more."),
        (["--grid", "n", "1", "x"], "the parameter n is 'x'; allowed is a whole number, such as 1."),
        (["--grid", "n", "1", ""], "the parameter n is ''; allowed is a whole number, such as 1."),
        (["--grid", "n", "1", "10"], "the parameter n is 10; allowed is a whole number from 1 to 9."),
        (["--grid", "rate", "1", "inf"], "the parameter rate is 'inf'; allowed is a number, such as 0.5."),
        (["--grid", "n", "1", "01"], "the parameter 'n' of the grid has the value 1 twice; allowed is once."),
        (["--grid", "n", "1", "--grid", "n", "2"], "the parameter 'n' is given twice; allowed is once."),
        (["--grid", "n", "1", "-p", "n", "2"], "the parameter 'n' is given once for all runs and in the grid;"),
        (["--grid", "n", "1", "-p", "rate", "9"], "the parameter rate is 9.0; allowed is a number from 0 to 5."),
        (["--grid", "n", "1", "-p", "results", "a.json"], "the parameter 'results' is set for each run of a grid"),
        (["--grid", "results", "a.json"], "the parameter 'results' is set for each run of a grid"),
        (["--grid", "word", *map(str, range(10_001))], "the grid has 10,001 runs; allowed are 10,000 at most."),
    ],
)
def test_bad_input_stops_before_anything_starts_or_is_made(
    given: list[str], said: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "run", lambda *args, **options: pytest.fail("a kernel was to start"))
    write(folder)
    assert cli.main(command(*given)) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("modbp: ")
    assert said in line
    assert names(folder) == ["demo.ipynb"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--jobs", "0"], "jobs is 0; allowed are whole numbers from 1 upwards."),
        (["-o", "missing/out"], "which cannot be a folder to write to (No such file or directory)"),
        (["-o", "demo.ipynb"], "which cannot be a folder to write to (File exists)"),
        (["-o", "demo.ipynb/out"], "which cannot be a folder to write to (Not a directory)"),
        (["-o", "/proc/out"], "which cannot be a folder to write to ("),
        (["-o", "/proc"], "which cannot be a folder to write to ("),
        (["-o", "/dev/null"], "which cannot be a folder to write to (File exists)"),
    ],
)
def test_a_folder_that_cannot_be_written_stops_before_a_kernel_starts(
    given: list[str], said: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "run", lambda *args, **options: pytest.fail("a kernel was to start"))
    write(folder)
    assert cli.main(command("--grid", "n", "1", *given)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert names(folder) == ["demo.ipynb"]


def test_a_notebook_without_records_has_no_grid(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder, defaults="n = 1")
    assert cli.main(command("--grid", "n", "1")) == 2
    assert "demo has no parameter 'results', so that its runs leave no records" in capfd.readouterr().err


def test_from_python_types_and_names_are_checked_too(folder: Path) -> None:
    source = write(folder)
    with pytest.raises(InputError, match="n is '1'; allowed is a whole number from 1 to 9"):
        grid.plan(source, "out", {"n": ["1"]})
    with pytest.raises(InputError, match="the grid has no parameter"):
        grid.plan(source, "out", {})
    with pytest.raises(InputError, match="no parameter 'm'"):
        grid.plan(source, "out", {"n": [1]}, {"m": 1})
    with pytest.raises(InputError, match="jobs is True"):
        grid.execute(grid.plan(source, "out", {"n": [1]}), jobs=True)


# What is run


def test_a_grid_leaves_copies_records_and_a_table_and_resumes(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODBP_RECORDS", str(folder))  # where each run would overwrite the one before
    write(folder, "print(n, word, rate)")
    out = folder / "out"
    given = command("-p", "rate", "2", "--grid", "n", "1", "3", "--grid", "word", "a", "b")
    stems = [f"demo.n={n}.word={word}.rate=2.0" for n in (1, 3) for word in "ab"]
    assert cli.main(given) == 0
    captured = capfd.readouterr()
    assert captured.err == ""  # nobody watches
    assert captured.out.splitlines() == [
        "4 runs of demo, 0 finished before, 4 to do",
        f"{out} holds 4 runs and table.csv",
    ]
    assert names(out) == pairs(*stems)
    assert names(folder) == ["demo.ipynb", "log", "out"]
    assert (folder / "log").read_text() == "1a 1b 3a 3b "
    for stem in stems:
        record = records.read(out / f"{stem}.json")
        assert record["parameters"]["rate"] == 2
        assert stem == f"demo.n={record['parameters']['n']}.word={record['parameters']['word']}.rate=2.0"
        executed = nbformat.read(out / f"{stem}.ipynb", 4)
        texts = [o.text for cell in executed.cells for o in cell.get("outputs", []) if o.output_type == "stream"]
        assert f"{record['parameters']['n']} {record['parameters']['word']} 2.0\n" in texts
    table = pd.read_csv(out / "table.csv")
    assert list(table) == [
        "walkthrough",
        "n",
        "word",
        "claim",
        "quantity",
        "predicted",
        "measured",
        "spread",
        "verdict",
    ]
    assert list(zip(table["n"], table["word"], table["verdict"], strict=True)) == [
        *((1, word, "confirmed") for word in "ab"),
        *((3, word, "not confirmed") for word in "ab"),
    ]

    before = stamps(out)
    (out / "table.csv").unlink()
    (out / "notes.txt").write_text("mine")
    (out / "mine.json").write_text("no record")
    assert cli.main(given) == 0
    assert capfd.readouterr().out.splitlines()[-2:] == [
        "4 runs of demo, 4 finished before, 0 to do",
        f"{out} holds 4 runs and table.csv",
    ]
    assert stamps(out).items() >= before.items()
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "mine.json").read_text() == "no record"
    assert pd.read_csv(out / "table.csv").equals(table)

    # What does not belong to this notebook and these parameters any more is done again, and nothing else.
    (out / f"{stems[0]}.json").unlink()
    (out / f"{stems[1]}.ipynb").unlink()
    (out / f"{stems[2]}.json").write_text((out / f"{stems[3]}.json").read_text())
    (folder / "log").unlink()
    assert cli.main(given) == 0
    assert (folder / "log").read_text() == "1a 1b 3a "
    assert stamps(out)[f"{stems[3]}.ipynb"] == before[f"{stems[3]}.ipynb"]
    assert cli.main([*given, "--force"]) == 0
    assert (folder / "log").read_text() == "1a 1b 3a 1a 1b 3a 3b "
    write(folder, "print(n, word, 'changed')")
    (folder / "log").unlink()
    assert cli.main(given) == 0
    assert (folder / "log").read_text() == "1a 1b 3a 3b "


def test_a_run_that_fails_does_not_stop_the_others(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder, "if n == 2 and not pathlib.Path('mended').exists():\n    1 / 0")
    out = folder / "out"
    assert cli.main(command("--grid", "n", "1", "2", "3", "--jobs", "2")) == 1
    captured = capfd.readouterr()
    assert f"{out} holds 2 runs and table.csv" in captured.out
    named, last = captured.err.splitlines()
    assert named.startswith("modbp: demo.n=2: demo failed in cell [4], which begins “if n == 2")
    assert named.endswith("ZeroDivisionError: division by zero")
    assert last == "modbp: 1 of 3 runs failed; the same command tries again."
    assert names(out) == pairs("demo.n=1", "demo.n=3")
    assert list(pd.read_csv(out / "table.csv")["n"]) == [1, 3]
    before = stamps(out)
    (folder / "mended").touch()
    assert cli.main(command("--grid", "n", "1", "2", "3")) == 0
    assert names(out) == pairs("demo.n=1", "demo.n=2", "demo.n=3")
    assert stamps(out).items() >= before.items()
    assert list(pd.read_csv(out / "table.csv")["n"]) == [1, 2, 3]


def test_a_grid_of_which_every_run_fails_leaves_no_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder, "1 / 0")
    assert cli.main(command("--grid", "n", "1")) == 1
    assert "1 of 1 run failed" in capfd.readouterr().err
    assert names(folder) == ["demo.ipynb"]


def test_a_run_that_leaves_no_record_has_failed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder, close="pass")
    assert cli.main(command("--grid", "n", "1")) == 1
    assert "demo failed: it left no record" in capfd.readouterr().err
    assert names(folder) == ["demo.ipynb"]


def test_two_jobs_run_at_the_same_time_and_share_the_cores(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    meet = """
pathlib.Path(f"here{n}").touch()
end = time.monotonic() + 60
while not pathlib.Path(f"here{3 - n}").exists():
    assert time.monotonic() < end, "nobody else is running"
    time.sleep(0.02)
page.note(threads=os.environ["OMP_NUM_THREADS"])
"""
    write(folder, meet)
    assert cli.main(command("--grid", "n", "1", "2", "--jobs", "8")) == 0, capfd.readouterr().err
    assert [record["threads"] for record in records.read_folder(folder / "out").values()] == ["3", "3"]
    assert "OMP_NUM_THREADS" not in os.environ
    # papermill's note of a working folder, which two runs at a time can leave behind, would move the next one.
    assert papermill.iorw.papermill_io.get_handler("local").cwd(None) is None


def test_a_full_disk_fails_the_runs_and_leaves_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder)

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nbformat, "write", full)
    assert cli.main(command("--grid", "n", "1", "2")) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("cannot be written (No space left on device)" in line for line in lines[:2])
    # The records are whole, and those of runs without a copy count for nothing.
    assert names(folder / "out") == ["demo.n=1.json", "demo.n=2.json"]
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert not any(run.finished for run in grid.plan(folder / "demo.ipynb", "out", {"n": [1, 2]}))


def test_progress_is_shown_to_people_only(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "interactive", lambda: True)
    write(folder)
    assert cli.main(command("--grid", "n", "1")) == 0
    shown = capfd.readouterr().err
    assert "runs: 100%" in shown
    assert "demo.n=1" in shown


# Interruptions

SLOW = """
if n == 2 and not pathlib.Path("go").exists():
    pathlib.Path(f"pid.{word}").write_text(str(os.getpid()))
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "status", "jobs"),
    [(signal.SIGINT, 130, "1"), (signal.SIGINT, 130, "2"), (signal.SIGTERM, 143, "2"), (signal.SIGHUP, 129, "1")],
)
def test_an_interrupted_grid_keeps_what_is_finished_and_goes_on_from_there(
    number: signal.Signals, status: int, jobs: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, SLOW)
    out = folder / "out"
    given = ["--grid", "n", "1", "2", "--grid", "word", "a", "b", "--jobs", jobs]
    running = start(*command(*given))
    slow = ["pid.a", "pid.b"][: int(jobs)]
    wait_for(lambda: all((folder / name).exists() and (folder / name).read_text() for name in slow))
    running.send_signal(number)
    printed, error = running.communicate(timeout=60)
    assert running.returncode == status
    word = "interrupted" if number == signal.SIGINT else "stopped"
    assert error == f"modbp: {word}; 2 of 4 runs are finished in '{out}', and the same call goes on from there.\n"
    assert printed == "4 runs of demo, 0 finished before, 4 to do\n"
    for name in slow:
        assert not alive(int((folder / name).read_text()))
    done = ["demo.n=1.word=a", "demo.n=1.word=b"]
    assert names(out) == [name for name in pairs(*done) if name != "table.csv"]
    before = stamps(out)
    (folder / "go").touch()
    assert cli.main(command(*given)) == 0
    assert capfd.readouterr().out.startswith("4 runs of demo, 2 finished before, 2 to do\n")
    assert names(out) == pairs(*done, "demo.n=2.word=a", "demo.n=2.word=b")
    assert stamps(out).items() >= before.items()
    assert sorted((folder / "log").read_text().split()) == ["1a", "1b", "2a", "2b"]


def test_a_killed_grid_leaves_nothing_that_is_taken_for_finished(folder: Path) -> None:
    write(folder, SLOW)
    out = folder / "out"
    running = start(*command("--grid", "n", "1", "2"))
    wait_for(lambda: (folder / "pid.a").exists() and (folder / "pid.a").read_text())
    # Meanwhile the folder is taken.
    second = start(*command("--grid", "n", "1", "2"))
    _, error = second.communicate(timeout=60)
    assert second.returncode == 2
    assert error == f"modbp: another grid is running in '{out}'; allowed is another folder, or to wait for it.\n"
    running.kill()
    running.communicate(timeout=60)
    wait_for(lambda: not alive(int((folder / "pid.a").read_text())))  # a kernel notices that its parent is gone
    half = [name for name in names(out) if name.startswith(".demo.n=2.")]
    assert half
    foreign = out / ".other.0123456789abcdef.ipynb"
    foreign.write_text("")
    before = stamps(out)
    (folder / "go").touch()
    assert cli.main(command("--grid", "n", "1", "2")) == 0
    assert names(out) == [foreign.name, *pairs("demo.n=1", "demo.n=2")]
    after = stamps(out)
    assert all(after[name] == before[name] for name in ("demo.n=1.ipynb", "demo.n=1.json"))
    assert (folder / "log").read_text().split() == ["1a", "2a"]


@pytest.mark.parametrize("damage", ["no metadata", "no mark", "half", "of another run", "of another version"])
def test_a_copy_without_a_whole_mark_is_not_finished(
    damage: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = grid.plan(write(folder), "out", {"n": [1, 2]})
    assert grid.execute([first, second]) == {}
    assert first.finished
    assert second.finished
    text = first.notebook.read_text()
    content = json.loads(text)
    if damage == "no metadata":
        del content["metadata"]
    elif damage == "no mark":
        del content["metadata"][notebooks.MARK]
    elif damage == "of another run":
        content = json.loads(second.notebook.read_text())
    elif damage == "of another version":
        monkeypatch.setattr(notebooks.running, "__version__", "0.0.0")
    first.notebook.write_text(text[:-100] if damage == "half" else json.dumps(content))
    assert not first.finished
    assert second.finished == (damage != "of another version")


def test_a_moved_folder_is_still_finished(folder: Path) -> None:
    source = write(folder)
    assert grid.execute(grid.plan(source, "out", {"n": [1]})) == {}
    (folder / "out").rename(folder / "elsewhere")
    assert all(run.finished for run in grid.plan(source, "elsewhere", {"n": [1]}))
    assert not any(run.finished for run in grid.plan(source, "out", {"n": [1]}))
