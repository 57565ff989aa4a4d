"""Fixtures shared by the tests."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import settings

from modbp import notebooks, walkthrough
from modbp.errors import InputError

# How long one example takes depends on what else the machine does.
settings.register_profile("modbp", deadline=None)
settings.load_profile("modbp")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def no_warning() -> Iterator[None]:
    """Let each warning of a test be an error, and none of what other tests have left to be collected."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="session")
def on_ci() -> bool:
    """Whether a missing tool is an error: on CI nobody reads the list of skipped tests."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


@pytest.fixture(scope="session")
def book_build(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Build the book from the sources as they are; return the folder of pages and the finished process.

    One worker builds once. Under pytest-xdist every test that needs the book must therefore be in one file, which
    `--dist loadfile` gives to one worker.
    """
    folder = tmp_path_factory.mktemp("book")
    # Through the interpreter that runs the tests: the command of that name may be another environment's.
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    # -n: a reference without a target warns; -W: a warning fails the build; --keep-going: after all were printed.
    done = subprocess.run(
        [*jupyter_book, "build", str(root), "--path-output", str(folder), "-W", "-n", "--keep-going"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,  # so that nothing relative lands in the work tree
        env=os.environ | {"NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return (folder / "_build" / "html").resolve(), done


@pytest.fixture(scope="session")
def built_book(book_build: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """The folder of pages; fails where the build left none."""
    folder, done = book_build
    if not (folder / "index.html").exists():
        pytest.fail(f"the book was not built:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}", pytrace=False)
    return folder


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    """Each test compiles as in a new process: after eight recompilations torch.compile runs the rest as it is."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and one thread for the kernel: more would fight with the other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Mapping[str, object], str], None]:
    """Check that a walkthrough's first cell refuses parameters in one sentence; without a kernel, before any work."""

    def check(name: str, given: Mapping[str, object], said: str) -> None:
        path = notebooks.find(name)
        parameters = notebooks.parameters(path) | notebooks.parse(path, {k: str(v) for k, v in given.items()})
        cells = (c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and "walkthrough.begin" in c.source)
        code = compile(next(cells).source, name, "exec")
        monkeypatch.setattr(walkthrough, "_show_plain_messages", lambda: None)
        with pytest.raises(InputError) as caught:
            exec(code, dict(parameters))
        sentence = str(caught.value)
        assert said in sentence
        assert "\n" not in sentence
        assert list(folder.iterdir()) == []

    return check
