"""The command `modbp`, on throwaway notebooks: what it checks, what it says, what it leaves behind."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from processes import alive, start, wait_for

from modbp import __version__, claims, cli, notebooks

DEFAULTS = 'n = 3  # how many\nname = "a"\nrate = 0.5\nfast = False'
Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    """Write a notebook `demo.ipynb` with a cell of parameters and other cells."""

    def write(*cells: str, defaults: str = DEFAULTS, name: str = "demo") -> Path:
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        parameters = nbformat.v4.new_code_cell(defaults, metadata={"tags": ["parameters"]})
        notebook.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
        path = folder / f"{name}.ipynb"
        nbformat.write(notebook, path)
        return path

    return write


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str], status: int = 2) -> str:
    """Run the command, see that it fails with one line, and return this line.

    `capfd` takes what the kernel, another process, writes too.
    """
    assert cli.main(arguments) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    line = captured.err.rstrip()
    assert line.startswith("modbp: ")
    assert "Traceback" not in line
    return line


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def text_of(path: Path) -> str:
    return "".join(o.get("text", "") for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", []))


def test_a_run_writes_the_executed_copy(write: Write, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write("import os\nprint(n + 1, name, rate, fast, os.getcwd())")
    before = path.read_bytes()
    given = ["-p", "n", "-7", "-p", "name", "b c", "--parameter", "rate", "2", "-p", "fast", "True"]
    assert cli.main(["run", "demo.ipynb", *given]) == 0
    captured = capfd.readouterr()
    output = folder / "demo.run.ipynb"
    assert captured.out == f"wrote {output}\n"
    assert captured.err == ""
    assert text_of(output) == f"-6 b c 2.0 True {folder}\n"
    assert names(folder) == ["demo.ipynb", "demo.run.ipynb"]
    assert path.read_bytes() == before


def test_defaults_and_another_output(write: Write, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write("import sys\nprint(n, name)\nprint('Note: left out x.jpg', file=sys.stderr)", name="a {n} b")
    (folder / "out {x}").mkdir()
    output = folder / "out {x}" / "copy.ipynb"
    assert cli.main(["run", str(folder / "a {n} b.ipynb"), "-o", str(output)]) == 0
    assert text_of(output).startswith("3 a\n")
    # What the notebook says on its standard error, the command says too.
    assert capfd.readouterr().err.splitlines() == ["Note: left out x.jpg"]


def test_a_note_of_a_walkthrough_is_shown(write: Write, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    (pictures / "broken.jpg").write_bytes(b"no picture")
    from PIL import Image

    Image.new("RGB", (32, 32)).save(pictures / "good.png")
    write(
        "from modbp import images, walkthrough\n"
        "page = walkthrough.begin('demo', globals(), ['N1'], folder=str)\n"
        "print(len(images.load(page.parameters.folder)))",
        defaults='folder = ""',
    )
    assert cli.main(["run", "demo.ipynb", "-p", "folder", str(pictures)]) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Note: left out broken.jpg: it is no picture")
    assert "1" in text_of(folder / "demo.run.ipynb").splitlines()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["-p", "m", "1"], "demo has no parameter 'm'; allowed are n, name, rate, fast."),
        (["-p", "raet", "1"], "demo has no parameter 'raet' (did you mean rate?); allowed are n, name, rate, fast."),
        (["-p", "rate", "nan"], "the parameter rate is 'nan'; allowed is a number, such as 0.5."),
        (["-p", "rate", "1e999"], "the parameter rate is '1e999'; allowed is a number, such as 0.5."),
        (["-p", "n", "[1, 2]"], "the parameter n is '[1, 2]'; allowed is a whole number, such as 3."),
        (["-p", "n", "1,2"], "the parameter n is '1,2'; allowed is a whole number, such as 3."),
        (["--jobs", "2"], "--jobs is 2 without --grid; allowed is it for a grid of runs."),
        (["-o", "demo.ipynb/out.ipynb"], "which does not exist; allowed is an existing folder."),
        (["-o", "x" * 300], "cannot be used (File name too long)."),
        (["-o", "/proc/out.ipynb"], "the output '/proc/out.ipynb' cannot be written ("),
        (["-p", "n", "abc"], "the parameter n is 'abc'; allowed is a whole number, such as 3."),
        (["-p", "n", "1.5"], "the parameter n is '1.5'; allowed is a whole number, such as 3."),
        (["-p", "n", ""], "the parameter n is ''; allowed is a whole number, such as 3."),
        (["-p", "rate", "x"], "the parameter rate is 'x'; allowed is a number, such as 0.5."),
        (["-p", "fast", "1"], "the parameter fast is '1'; allowed is true or false."),
        (["-p", "n", "1", "-p", "name", "b", "-p", "n", "1"], "the parameter 'n' is given twice; allowed is once."),
        (["-o", "missing/out.ipynb"], "which does not exist; allowed is an existing folder."),
        (["-o", "."], "the output is the folder"),
        (["-o", "/dev/null"], "the output is '/dev/null', which is no plain file"),
        (["-o", "demo.ipynb"], "is the notebook itself; allowed is another file."),
        (["-o", "./missing/../demo.ipynb"], "does not exist"),
    ],
)
def test_bad_input_stops_before_a_kernel_starts(
    given: list[str], said: str, write: Write, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = write("1 / 0").read_bytes()
    assert said in refused(["run", "demo.ipynb", *given], capfd)
    assert names(folder) == ["demo.ipynb"]
    assert (folder / "demo.ipynb").read_bytes() == before


@pytest.mark.parametrize("name", ["no-such", "", ".", "missing.ipynb", "notes.txt"])
def test_an_unknown_walkthrough(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "notes.txt").write_text("text")
    line = refused(["run", name], capfd)
    assert f"the walkthrough {name!r} does not exist; allowed are the names that 'modbp list' prints, and " in line
    assert names(folder) == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("image-recovery-vg16", "image-recovery-vgg16"),
        ("Partial-Loading", "partial-loading"),
        ("notebooks/csc_vgg16.ipynb", "csc-vgg16"),
        ("poly/adverserial", "adversarial"),
        ("theorem", "alignment-theorem-1 or alignment-theorem-2"),
    ],
)
def test_a_misspelled_walkthrough_brings_the_nearest_names(
    name: str, meant: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refused(["run", name], capfd)
    assert re.search(rf"{re.escape(repr(name))} does not exist \(did you mean {meant}\b[^)]*\?\); allowed are", line)


def test_without_the_repository_only_a_path_is_allowed(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks.reading, "FOLDER", folder)
    line = refused(["run", "csc-vgg16"], capfd)
    assert line == "modbp: the walkthrough 'csc-vgg16' does not exist; allowed is the path of a notebook."


def test_the_list_of_walkthroughs(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    assert len(lines) == 2 * len(paths)
    assert lines[::2] == [f"{p.stem} ({', '.join(notebooks.claims(p)) or 'judges no claim'})" for p in paths]
    assert all(line.startswith("    ") and line.strip() for line in lines[1::2])
    assert {"image-recovery-vgg16 (N1, N9)", "rules-vgg16 (judges no claim)"} <= set(lines)
    judged = [claim for path in paths for claim in notebooks.claims(path)]
    assert sorted(judged) == sorted(set(judged))
    assert set(judged) <= set(claims.LEDGER)


@pytest.mark.parametrize("content", ["", "no JSON", "{}", "[1]", '{"cells": 3}'])
def test_a_file_that_is_no_notebook(content: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "demo.ipynb").write_text(content)
    line = refused(["run", "demo.ipynb"], capfd)
    assert "cannot be read as a notebook" in line
    assert names(folder) == ["demo.ipynb"]


def test_a_parameter_that_is_computed(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write("pass", defaults="n = 2**31")
    assert "is computed; allowed are plain numbers" in refused(["run", "demo.ipynb", "--list"], capfd)


def test_a_notebook_without_parameters(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write("pass", defaults="")
    assert "demo has no parameter 'n'; allowed are none." in refused(["run", "demo.ipynb", "-p", "n", "1"], capfd)


def test_a_cell_that_fails(write: Write, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write("# why\n\nx = n - 3\ny = 1 / x", "print('not reached')")
    line = refused(["run", "demo.ipynb"], capfd, status=1)
    assert line == "modbp: demo failed in cell [2], which begins “x = n - 3”: ZeroDivisionError: division by zero"
    assert names(folder) == ["demo.ipynb"]


def test_a_failure_leaves_an_older_output_as_it_was(write: Write, folder: Path) -> None:
    write("1 / 0")
    (folder / "demo.run.ipynb").write_text("old")
    assert cli.main(["run", "demo.ipynb"]) == 1
    assert (folder / "demo.run.ipynb").read_text() == "old"


def test_a_kernel_that_dies(write: Write, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write("import os\nos._exit(9)")
    line = refused(["run", "demo.ipynb"], capfd, status=1)
    assert line == "modbp: demo failed: its kernel died, perhaps for want of memory."
    assert names(folder) == ["demo.ipynb"]


@pytest.mark.parametrize(
    ("file", "text", "cell", "status", "said"),
    [
        ("sitecustomize.py", "import os\nos.write(2, b'a race\\n')", "pass", 0, ""),
        (
            "sitecustomize.py",
            "import os\nos.write(2, b'a race\\n')",
            "import os\nos._exit(9)",
            1,
            "a race\nmodbp: demo failed: its kernel died, perhaps for want of memory.\n",
        ),
        (
            "ipykernel_launcher.py",
            "raise SystemExit('no kernel today')",
            "pass",
            1,
            "no kernel today\nmodbp: demo failed: Kernel died before replying to kernel_info.\n",
        ),
    ],
    ids=["well", "dies", "never starts"],
)
def test_what_the_process_of_a_kernel_writes_is_shown_only_if_it_dies(
    file: str,
    text: str,
    cell: str,
    status: int,
    said: str,
    write: Write,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(cell)
    (folder / "path").mkdir()
    (folder / "path" / file).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder / "path"))
    assert cli.main(["run", "demo.ipynb"]) == status
    assert capfd.readouterr().err == said


def test_a_refused_parameter_is_said_in_its_sentence_alone(
    write: Write, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begin = (
        "from modbp import walkthrough\npage = walkthrough.begin('demo', globals(), ['N1'], n=range(1, 5), results=str)"
    )
    write(begin, defaults="n = 3\nresults = ''")
    results = str(folder / "record.json")
    line = refused(["run", "demo.ipynb", "-p", "n", "5", "-p", "results", results], capfd)
    assert line == "modbp: the parameter n is 5; allowed is a whole number from 1 to 4."
    assert names(folder) == ["demo.ipynb"]


def test_a_model_that_a_rule_does_not_know_is_bad_input_too(write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write("from modbp.errors import UnsupportedModelError\nraise UnsupportedModelError('a sentence.')")
    assert refused(["run", "demo.ipynb"], capfd) == "modbp: a sentence."


def test_the_list_of_parameters(write: Write, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write("1 / 0")
    assert cli.main(["run", "demo.ipynb", "--list"]) == 0
    assert capfd.readouterr().out.splitlines() == ["n = 3", "name = 'a'", "rate = 0.5", "fast = False"]
    assert names(folder) == ["demo.ipynb"]


@pytest.mark.parametrize(("text", "parsed"), [("1, 2", [1, 2]), ("7", [7]), ("-1,0", [-1, 0])])
def test_a_list_is_given_with_commas(text: str, parsed: list[int], write: Write) -> None:
    assert notebooks.parse(write("pass", defaults="sizes = [3]"), {"sizes": text}) == {"sizes": parsed}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the parameter sizes is ''; allowed are one or more values, with commas."),
        ("1,x", "the parameter sizes is 'x'; allowed is a whole number, such as 3."),
        ("1,", "the parameter sizes is ''; allowed is a whole number, such as 3."),
    ],
)
def test_a_list_with_a_bad_value(text: str, said: str, write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write("1 / 0", defaults="sizes = [3]")
    assert refused(["run", "demo.ipynb", "-p", "sizes", text], capfd) == f"modbp: {said}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("n_images", "0"), "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        (("seed", "-1"), "the parameter seed is -1; allowed is a whole number from 0 to 2147483647."),
        (("budgets", "2,x"), "the parameter budgets is '2,x'; allowed is one or more, with commas, of numbers from"),
        (("temperature", "0"), "the parameter temperature is 0.0; allowed is a number from 0.001 to 1000."),
    ],
)
def test_a_value_out_of_range_stops_before_a_kernel_starts(
    given: tuple[str, str], said: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "run", lambda *args, **options: pytest.fail("a kernel was to start"))
    assert said in refused(["run", "adversarial", "-p", *given], capfd)


def test_what_is_read_of_the_ranges_is_what_a_walkthrough_checks(root: Path) -> None:
    for path in (root / "notebooks").glob("*.ipynb"):
        ranges = notebooks.reading._ranges(path)
        assert {"seed", "results"} <= set(ranges) <= set(notebooks.parameters(path)), path
        assert notebooks.check(path, notebooks.parameters(path)) == notebooks.parameters(path)


@pytest.mark.parametrize("when", ["while it runs", "at the end"])
def test_a_full_disk_leaves_an_older_output_as_it_was(
    when: str, write: Write, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import papermill

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write("pass")
    output = folder / "demo.run.ipynb"
    output.write_text("old")
    if when == "while it runs":
        monkeypatch.setattr(papermill, "execute_notebook", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    line = refused(["run", "demo.ipynb"], capfd)
    assert line.startswith(f"modbp: the output '{output}' cannot be written (No space left on device); allowed is")
    assert names(folder) == ["demo.ipynb", "demo.run.ipynb"]
    assert output.read_text() == "old"


def test_a_finished_run_is_left_alone_only_if_asked_to(
    write: Write, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write("open('log', 'a').write(f'{n} ')")
    output = folder / "demo.run.ipynb"

    def said(*arguments: str) -> str:
        assert cli.main(["run", "demo.ipynb", *arguments]) == 0
        return capfd.readouterr().out

    assert said("--resume") == f"wrote {output}\n"
    assert said("--resume", "-p", "n", "3") == f"{output} is finished already\n"  # 3 is the default
    assert said("--resume", "-p", "n", "4") == f"wrote {output}\n"  # what is there is of another run
    assert said("-p", "n", "4") == f"wrote {output}\n"
    write("open('log', 'a').write(f'{n}! ')")
    assert said("-p", "n", "4", "--resume") == f"wrote {output}\n"  # the notebook has changed
    output.write_text(output.read_text()[:-50])
    assert said("-p", "n", "4", "--resume") == f"wrote {output}\n"  # the copy is damaged
    assert (folder / "log").read_text() == "3 4 4 4! 4! "
    written = nbformat.read(output, 4)
    assert written.metadata.papermill.output_path == str(output)


def test_a_promised_record_must_be_there(write: Write, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write("if n == 3:\n    open(results, 'w').write('{}')", defaults="n = 3\nresults = ''")
    record = folder / "record.json"
    given = ["run", "demo.ipynb", "--resume", "-p", "results", "record.json"]
    assert cli.main(given) == 0
    capfd.readouterr()
    assert cli.main(given) == 0
    assert "finished already" in capfd.readouterr().out
    record.write_text("{} ")
    assert cli.main(given) == 0
    assert "wrote" in capfd.readouterr().out
    # An older record of that name is not this run's.
    line = refused([*given, "-p", "n", "4"], capfd, status=1)
    assert line == "modbp: demo failed: it left no record 'record.json'."


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "modbp: interrupted; nothing was written.\n"),
        (signal.SIGTERM, 143, "modbp: stopped; nothing was written.\n"),
    ],
)
@pytest.mark.parametrize("when", ["busy", "starting"])
def test_a_stopped_run_leaves_no_file_and_no_kernel(
    number: signal.Signals, status: int, said: str, when: str, write: Write, folder: Path
) -> None:
    write("import os, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)")
    running = start("run", "demo.ipynb")
    wait_for(lambda: list(folder.glob("pid" if when == "busy" else ".demo.run.*")))
    running.send_signal(number)
    _, error = running.communicate(timeout=60)
    assert (running.returncode, error) == (status, said)
    assert set(names(folder)) <= {"demo.ipynb", "pid"}
    if when == "busy":
        pid = int((folder / "pid").read_text())
        wait_for(lambda: not alive(pid))


def test_an_interruption(
    write: Write, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import papermill

    def interrupt(*args: Any, **options: Any) -> None:
        Path(args[1]).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", interrupt)
    write("pass")
    assert refused(["run", "demo.ipynb"], capfd, status=130) == "modbp: interrupted; nothing was written."
    assert names(folder) == ["demo.ipynb"]


def test_progress_is_shown_to_people_only(write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import papermill

    shown: list[Any] = []

    def execute(source: str, output: str, **options: Any) -> nbformat.NotebookNode:
        shown.append(options["progress_bar"])
        notebook = nbformat.read(source, 4)
        notebook.metadata["papermill"] = {}
        return notebook

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    write("pass")
    for watched in (True, False):
        monkeypatch.setattr(notebooks, "interactive", lambda watched=watched: watched)
        assert cli.main(["run", "demo.ipynb"]) == 0
    assert shown == [True, False]


def test_version_and_usage(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, status in (
        (["--version"], 0),
        ([], 2),
        (["walk"], 2),
        (["run"], 2),
        (["run", "demo", "-p", "n"], 2),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == status
    assert capfd.readouterr().out == f"modbp {__version__}\n"


def test_arguments_are_checked_without_waiting_for_torch(root: Path) -> None:
    program = (
        "import sys\nfrom modbp import cli\n"
        "status = cli.main(['run', 'image-recovery-vgg16', '-p', 'seeed', '1'])\n"
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"


def test_the_walkthroughs_of_the_repository_are_found_by_name(root: Path) -> None:
    for path in (root / "notebooks").glob("*.ipynb"):
        assert notebooks.find(path.stem) == path
        defaults = notebooks.parameters(path)
        assert list(defaults)[-1] == "results"
        assert json.loads(json.dumps(defaults)) == defaults
