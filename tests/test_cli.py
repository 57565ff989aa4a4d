"""The command `modbp`, on throwaway notebooks: what it checks, what it says, what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from modbp import __version__, cli, notebooks

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
    assert capfd.readouterr().err == "Note: left out x.jpg\n"


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
    assert f"the walkthrough {name!r} does not exist; allowed are " in line
    assert "image-recovery-vgg16" in line
    assert names(folder) == ["notes.txt"]


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

    def execute(source: str, output: str, **options: Any) -> None:
        shown.append(options["progress_bar"])
        Path(output).write_text(Path(source).read_text())

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
    import subprocess
    import sys

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
