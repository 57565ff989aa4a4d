"""The command `modbp audit`: what it refuses, what it writes, how it stops, and its report in a browser.

How it stops is tested with a small notebook of the same parameters, whose units take as long as a test wants.
"""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from processes import alive, wait_for
from test_book import browser  # noqa: F401  # the fixture
from test_report import problems_of

from modbp import audit_command, cli, notebooks
from modbp.progress import Bar, State

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PARAMETERS = """model = "vgg16"
weights = ""
images = "embedded"
n_images = 8
methods = "gradient, guided_backprop"
targets = ""
budget = "quick"
batch = 8
seed = 0
results = ""
"""

BEGIN = """import os, signal, sys, time
from pathlib import Path
from modbp import progress, walkthrough
Path("pid").write_text(str(os.getpid()))
if False:  # what it allows is read from here; to run it would import PyTorch
    page = walkthrough.begin("audit", globals(), claims=[], model=str, weights=str, images=str, methods=str,
        n_images=range(1, 10_001), targets=str, budget=walkthrough.One(("quick", "full")),
        batch=range(1, 1025), seed=range(2**31), results=str)
"""

UNITS = """units = progress.Progress([("map", 1)] * n_images)
done = 0
for _ in range(n_images):
    if progress.stop_asked():
        break
    with units.unit():
        time.sleep({seconds})
        done += 1
    Path("done").write_text(str(done))
    Path("shown").write_text(Path(os.environ[progress.PROGRESS]).read_text())
if not done:
    raise walkthrough.InputError("nothing was measured; allowed is one unit or more.")
print("incomplete" if done < n_images else "complete", done)
"""

TINY = """import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )

def prepared():
    def transform(image):
        values = torch.tensor(list(image.resize((32, 32)).tobytes()), dtype=torch.float32)
        return values.reshape(32, 32, 3).permute(2, 0, 1) / 255

    return network(), transform
"""

Write = Callable[..., Path]


@pytest.fixture
def user(folder: Path) -> Path:
    """A user's working folder: a module with a network, and a folder of six small pictures."""
    (folder / "tiny.py").write_text(TINY)
    (folder / "photos").mkdir()
    for i in range(6):
        picture = Image.linear_gradient("L").resize((40, 40)).rotate(60 * i)
        Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180))).save(folder / "photos" / f"{i}.png")
    return folder


@pytest.fixture
def write(user: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Put a notebook of some cells in the place of the one that measures."""

    def write(*cells: str) -> Path:
        (user / "other").mkdir(exist_ok=True)
        path = user / "other" / "audit.ipynb"
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        first = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        notebook.cells = [first, *map(nbformat.v4.new_code_cell, (BEGIN, *cells))]
        nbformat.write(notebook, path)
        monkeypatch.setattr(audit_command, "NOTEBOOK", str(path))
        return path

    return write


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `modbp audit` with the notebook of this test in a process that the signals of a terminal stop.

    The look at the network, for which it imports PyTorch, is left out where a notebook of a test does so, too.
    """

    def as_at_a_terminal() -> None:
        for number in cli.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    program = (
        "import sys; from modbp import audit_command, cli;"
        f"audit_command.NOTEBOOK = {audit_command.NOTEBOOK!r}; cli.SAME_WITHIN = {cli.SAME_WITHIN};"
        + ("" if audit_command.NOTEBOOK == "audit" else "audit_command._check_model = lambda given: None;")
        + "sys.exit(cli.main(['audit', *sys.argv[1:]]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_at_a_terminal,
    )


@pytest.fixture
def running() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command; whatever of it a failed test leaves is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        started.append(start(*arguments))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def written(folder: Path) -> list[str]:
    """Return what a run has left, beside what was there and what the notebook notes for its test."""
    there = {"tiny.py", "photos", "other", "pid", "done", "shown", "__pycache__"}
    return sorted(path.name for path in folder.iterdir() if path.name not in there)


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str], status: int = 2) -> str:
    assert cli.main(["audit", *arguments]) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "Traceback" not in line
    return line.removeprefix("modbp: ")


# ── Before it runs ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["vgg61"], "the network 'vgg61' is unknown (did you mean vgg16"),
        (["torchvision:resnet81"], "(did you mean resnet18"),
        (["tinny:network"], "names a module 'tinny' that does not exist"),
        (["missing.pt"], "there is no such file"),
        (["tiny:network", "--weights", "missing.pt"], "weights is 'missing.pt' for tiny:network; allowed is the path"),
        (["vgg16", "--weights", "imagnet"], "weights is 'imagnet' for vgg16; allowed are"),
        (["vgg16", "--methods", "gradeint"], "the method 'gradeint' is unknown (did you mean gradient?)"),
        (["vgg16", "--methods", "gradient,guided_backprob"], "'guided_backprob' is unknown (did you mean guided"),
        (["vgg16", "--images", "missing"], "the image folder 'missing' does not exist"),
        (["vgg16", "--images", "tiny.py"], "images is the file 'tiny.py'; allowed is a folder"),
        (["vgg16", "--images", "empty"], "the folder 'empty' holds no usable picture"),
        (["vgg16", "--n-images", "0"], "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        (["vgg16", "--n-images", "six"], "the parameter n_images is 'six'; allowed is a whole number, such as 8."),
        (["vgg16", "--batch", "0"], "the parameter batch is 0; allowed is a whole number from 1 to"),
        (["vgg16", "--seed", "-1"], "the parameter seed is -1; allowed is a whole number from 0 to"),
        (["vgg16", "--budget", "ful"], "the parameter budget is 'ful'; allowed is one of quick, full."),
        (["vgg16", "--targets", "1,x"], "targets is '1,x'; allowed are classes as whole numbers from 0 upwards"),
        (["vgg16", "--targets", "-1"], "targets is '-1'; allowed are classes as whole"),
        (["vgg16", "--out", "report.pdf"], "out is 'report.pdf'; allowed is a file that ends in .html or .htm."),
        (["vgg16", "--out", "missing/report.html"], "which does not exist; allowed is an existing folder."),
        (["vgg16", "--out", "folder.html"], "out is the folder '"),
        (["vgg16", "--record", "missing/a.json"], "which does not exist; allowed is an existing folder."),
        (["vgg16", "--record", "a.html", "--out", "./a.html"], "which is the record, too; allowed is a file of its"),
        (["vgg16", "--notebook", "other/audit.ipynb"], "which is the notebook that measures; allowed is a file of"),
    ],
)
def test_bad_input_stops_before_a_kernel_starts(
    given: list[str],
    said: str,
    write: Write,
    user: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write()
    (user / "empty").mkdir()
    (user / "folder.html").mkdir()
    monkeypatch.setattr(notebooks, "run", lambda *args, **options: pytest.fail("a kernel was to start"))
    assert said in refused(given, capfd)
    assert written(user) == ["empty", "folder.html"]


def test_numbers_and_files_are_checked_without_waiting_for_torch(write: Write, user: Path) -> None:
    program = (
        "import sys; from modbp import audit_command, cli;"
        f"audit_command.NOTEBOOK = {str(write())!r};"
        "print(cli.main(['audit', 'vgg16', '--images', 'missing']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"


def test_the_notebook_is_given_what_was_typed(
    write: Write, user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[dict[str, Any]] = []

    def take(path: Path, output: Path, parameters: dict[str, Any], **options: Any) -> None:
        given.append(parameters)
        nbformat.write(nbformat.v4.new_notebook(), output)

    write()
    monkeypatch.setattr(notebooks, "run", take)
    assert cli.main(["audit", "tiny:network"]) == 0
    everything = [
        *("tiny:network", "--images", "photos", "--n-images", "3", "--methods", "gradient,lrp_z", "captum:Saliency"),
        *("gradient", "--targets", "0,3", "--budget", "full", "--batch", "2", "--seed", "7", "--record", "a.json"),
        *("--out", "b.htm"),
    ]
    assert cli.main(["audit", *everything]) == 0
    assert cli.main(["audit", "tiny:network", "--targets", "predicted", "--out", "c.HTML"]) == 0
    assert given == [
        {"model": "tiny:network"},
        {
            **{"model": "tiny:network", "images": "photos", "n_images": 3, "targets": "0,3", "budget": "full"},
            **{"methods": "gradient, lrp_z, captum:Saliency", "batch": 2, "seed": 7, "results": str(user / "a.json")},
        },
        {"model": "tiny:network", "targets": ""},
    ]
    assert written(user) == ["b.htm", "c.HTML", "tiny-network.audit.html"]
    assert capsys.readouterr().out == "wrote tiny-network.audit.html\nwrote b.htm\nwrote c.HTML\n"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("vgg16", "vgg16.audit.html"),
        ("torchvision:resnet18", "torchvision-resnet18.audit.html"),
        ("../my nets/a.pt", "my-nets-a-pt.audit.html"),
        ("a" * 300, "a" * 100 + ".audit.html"),
    ],
)
def test_the_default_name_is_one_for_a_file(model: str, name: str) -> None:
    assert audit_command._default_name(model) == name


# ── A run ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_users_folder_is_the_kernels(
    write: Write, user: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (user / "elsewhere").mkdir()
    (user / "elsewhere" / "beside.py").write_text("WORD = 'from the PYTHONPATH'")
    monkeypatch.setenv("PYTHONPATH", str(user / "elsewhere"))
    write(
        "import beside, tiny\nprint(beside.WORD, len(list(Path(images).iterdir())), tiny.__file__)",
        "for _ in range(2):\n    print('Note: look at this', file=sys.stderr)\nPath(results).write_text('{}')",
    )
    given = ["tiny:network", "--images", "photos", "--out", "report.html", "--record", "record.json"]
    assert cli.main(["audit", *given, "--notebook", "kept.ipynb"]) == 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("wrote report.html\n", "Note: look at this\n")
    assert written(user) == ["elsewhere", "kept.ipynb", "record.json", "report.html"]
    page = BeautifulSoup((user / "report.html").read_text(encoding="utf-8"), "html.parser")
    assert page.title.string == "Audit of tiny:network"
    assert f"from the PYTHONPATH 6 {user / 'tiny.py'}" in page.get_text()
    assert nbformat.read(user / "kept.ipynb", 4).metadata.papermill.output_path == str(user / "kept.ipynb")


@pytest.mark.parametrize(
    ("cell", "status", "said"),
    [
        ("1 / 0", 1, "audit failed in cell [4], which begins “1 / 0”: ZeroDivisionError: division by zero"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "audit failed: its kernel died, perhaps for want of memory."),
        ("raise walkthrough.InputError('a sentence.')", 2, "a sentence."),
    ],
)
def test_a_failure_leaves_an_older_report_as_it_was(
    cell: str, status: int, said: str, write: Write, user: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(cell)
    (user / "report.html").write_text("old")
    assert refused(["tiny:network", "--out", "report.html"], capfd, status) == said
    assert (user / "report.html").read_text() == "old"
    assert written(user) == ["report.html"]


def test_a_full_disk_leaves_an_older_report_as_it_was(
    write: Write, user: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(user / "report.html"))

    monkeypatch.setattr(notebooks, "run", lambda path, output, *args, **options: full())
    write()
    (user / "report.html").write_text("old")
    line = refused(["tiny:network", "--out", "report.html"], capfd)
    assert line == f"'{user / 'report.html'}' cannot be used (No space left on device)."
    assert (user / "report.html").read_text() == "old"


# ── Stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped")])
def test_a_stopped_audit_keeps_what_was_measured(
    number: signal.Signals,
    word: str,
    write: Write,
    user: Path,
    running: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "SAME_WITHIN", 30)
    write(UNITS.format(seconds=0.7))
    (user / "report.html").write_text("old")
    process = running("tiny:network", "--out", "report.html", "--n-images", "5000")
    wait_for((user / "done").exists)
    assert (user / "report.html").read_text() == "old"
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # as `timeout` does; it counts as one
    out, error = process.communicate(timeout=60)
    said = f"modbp: {word}; what was measured until then is in report.html.\n"
    assert (process.returncode, out, error) == (128 + number, "", said)
    text = BeautifulSoup((user / "report.html").read_text(encoding="utf-8"), "html.parser").get_text()
    assert f"incomplete {(user / 'done').read_text()}" in text
    assert written(user) == ["report.html"]
    shown = json.loads((user / "shown").read_text())
    assert shown["total"] == 5000
    # Each unit sleeps for so long, and takes no less.
    assert shown["remaining"] >= 0.7 * (5000 - shown["done"])
    pid = int((user / "pid").read_text())
    wait_for(lambda: not alive(pid))


def test_a_second_interruption_stops_at_once(
    write: Write, user: Path, running: Callable[..., subprocess.Popen[str]]
) -> None:
    write(UNITS.format(seconds="600 if done else 0"))
    (user / "report.html").write_text("old")
    process = running("tiny:network", "--out", "report.html")
    wait_for((user / "done").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(2 * cli.SAME_WITHIN)
    pid = int((user / "pid").read_text())
    assert process.poll() is None
    assert alive(pid)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "modbp: interrupted; nothing was written.\n")
    assert (user / "report.html").read_text() == "old"
    assert written(user) == ["report.html"]
    wait_for(lambda: not alive(pid))


class _Interrupting(audit_command._Display):
    """A bar at which somebody loses patience, once a file is there."""

    def show(self, note: str = "") -> None:
        super().show(note)
        if not note and Path("pid").exists():
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("cell", "patience"),
    [
        ("time.sleep(600)", 0.5),  # a unit that does not end
        # A stop before anything was measured.
        ("while not progress.stop_asked():\n    time.sleep(0.05)\nraise walkthrough.InputError('nothing.')", 60),
    ],
)
def test_where_nothing_comes_of_it_nothing_is_written(
    cell: str,
    patience: float,
    write: Write,
    user: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_command, "PATIENCE", patience)
    monkeypatch.setattr(audit_command, "_Display", _Interrupting)
    write(cell)
    (user / "report.html").write_text("old")
    given = ["tiny:network", "--out", "report.html", "--notebook", "kept.ipynb"]
    assert refused(given, capfd, 130) == "interrupted; nothing was written."
    assert (user / "report.html").read_text() == "old"
    assert written(user) == ["report.html"]
    pid = int((user / "pid").read_text())
    wait_for(lambda: not alive(pid))


class _Broken(audit_command._Display):
    """A bar that fails, once a file is there."""

    def show(self, note: str = "") -> None:
        if Path("pid").exists():
            raise ZeroDivisionError


def test_whatever_else_goes_wrong_leaves_no_kernel(write: Write, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_command, "_Display", _Broken)
    write("time.sleep(20)", "Path('late').touch()")
    with pytest.raises(ZeroDivisionError):
        cli.main(["audit", "tiny:network", "--out", "report.html"])
    assert written(user) == []
    pid = int((user / "pid").read_text())
    wait_for(lambda: not alive(pid))


def test_the_bar_counts_on_between_two_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[State, str]] = []
    monkeypatch.setattr(Bar, "show", lambda bar, state, note="": shown.append((state, note)))
    now = [100.0]
    monkeypatch.setattr(audit_command.time, "monotonic", lambda: now[0])
    display = audit_command._Display(tmp_path / "progress.json")
    display.show()
    assert shown == []  # nothing was told yet
    for state in (State(0, 3, 1.0, None, "map"), State(1, 3, 4.0, 6.0, "map")):
        state.write(tmp_path / "progress.json")
        display.show()
        now[0] += 2.0
        display.show("stopping")
    now[0] += 60.0
    display.show()
    State(3, 3, 70.0, 0.0, "").write(tmp_path / "progress.json")
    display.show()
    display.close()
    assert shown == [
        (State(0, 3, 1.0, None, "map"), ""),
        (State(0, 3, 3.0, None, "map"), "stopping"),
        (State(1, 3, 4.0, 6.0, "map"), ""),
        (State(1, 3, 6.0, 4.0, "map"), "stopping"),
        (State(1, 3, 66.0, 0.0, "map"), ""),
        (State(3, 3, 70.0, 0.0, ""), "writing the report"),
    ]


# ── The real notebook ────────────────────────────────────────────────────────────────────────────────────────────

METHODS = ("gradient", "lrp_zplus")


def test_the_parameters_are_those_of_the_notebook(root: Path) -> None:
    defaults: dict[str, Any] = {}
    exec(PARAMETERS, {}, defaults)
    found = notebooks.parameters(root / "notebooks" / "audit.ipynb")
    assert list(found) == list(defaults)
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in defaults.items()}


def test_a_tiny_network_gets_a_report_that_looks_right(
    browser: Browser,  # noqa: F811
    user: Path,
    running: Callable[..., subprocess.Popen[str]],
) -> None:
    given = ["--images", "photos", "--n-images", "6", "--methods", *METHODS, "--batch", "3", "--record", "record.json"]
    process = running("tiny:prepared", *given, "--out", "report.html")
    out, error = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "wrote report.html\n"), error
    assert written(user) == ["record.json", "report.html"]
    record = json.loads((user / "record.json").read_text(encoding="utf-8"))
    assert record["parameters"]["model"] == "tiny:prepared"
    page = BeautifulSoup((user / "report.html").read_text(encoding="utf-8"), "html.parser")
    text = re.sub(r"\s+", " ", page.main.get_text())
    tables = [table.get_text(" ", strip=True).lower() for table in page.find_all("table")]
    verdicts = next(table for table in tables if "verdict" in table)
    assert "gradient" in verdicts
    assert "z⁺" in verdicts
    assert "{term}" not in text
    assert page.find_all("img")
    assert problems_of(browser, user / "report.html") == []
