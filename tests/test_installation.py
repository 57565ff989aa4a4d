"""What `pip install` brings to people who have no clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from modbp import cli, notebooks


def run(*command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what is in the wheel, built from the source distribution of a copy of the repository."""
    folder = tmp_path_factory.mktemp("installation")
    copy = folder / "copy"
    for name in ("modbp", "notebooks"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(root / name, copy / name)
    run(sys.executable, "-c", "from setuptools import build_meta as b; b.build_sdist('..')", folder=copy)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (source,) = (path for path in folder.glob("modbp-*") if path.is_dir())
    run(sys.executable, "-c", "from setuptools import build_meta as b; b.build_wheel('..')", folder=source)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed_wheel:
        packed_wheel.extractall(folder / "site")
    shutil.rmtree(copy)
    shutil.rmtree(source)
    return folder / "site"


def test_the_wheel_has_every_walkthrough_as_it_is_but_for_the_outputs(installed: Path) -> None:
    paths = notebooks.known_walkthroughs()
    assert [path.name for path in sorted(installed.glob("modbp/walkthroughs/*"))] == [path.name for path in paths]
    for path in paths:
        here, there = (json.loads((p / path.name).read_text()) for p in (path.parent, installed / "modbp/walkthroughs"))
        for notebook in (here, there):
            for cell in notebook["cells"]:
                assert notebook is here or not cell.get("outputs")
                cell.pop("outputs", None)
                cell.pop("execution_count", None)
        assert here == there


def test_without_a_clone_the_command_finds_and_checks_its_walkthroughs(installed: Path, tmp_path: Path) -> None:
    command = "import modbp; from modbp import cli, notebooks; print(notebooks.find('audit')); cli.main(['list'])"
    said = run(sys.executable, "-c", command, folder=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert Path(said[0]) == (installed / "modbp/walkthroughs/audit.ipynb").resolve()
    assert len(said) == 1 + 2 * len(notebooks.known_walkthroughs())
    listed = run(
        *(sys.executable, "-m", "modbp.cli", "run", "image-recovery-vgg16", "--list"),
        folder=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert "weights = 'embedded'" in listed


def test_the_wheel_brings_its_data_and_not_the_tests(installed: Path, root: Path) -> None:
    data = [path.name for path in sorted((installed / "modbp/data").iterdir())]
    assert data == [path.name for path in sorted((root / "modbp/data").iterdir())]
    assert (installed / "modbp/py.typed").exists()
    folders = {path.name for path in installed.iterdir()}
    assert folders == {"modbp", *(name for name in folders if name.endswith(".dist-info"))}


def test_a_command_knows_which_extra_brings_what_it_lacks() -> None:
    given = {extra: set(modules) for extra, modules in cli.EXTRAS.items()}
    owners = metadata.packages_distributions()
    for text in metadata.requires("modbp") or []:
        requirement = Requirement(text)
        extras = [extra for extra in given if requirement.marker and requirement.marker.evaluate({"extra": extra})]
        modules = {m for m, names in owners.items() if requirement.name.lower() in [n.lower() for n in names]}
        for extra in extras:
            known = set().union(*given.values())
            assert modules & known, f"{requirement.name} is brought by {extra}, and no module of it is known"


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        (("run", "rank-one-theory", "--list"), "papermill", "notebooks"),
        (("audit", "vgg16"), "papermill", "notebooks"),
        (("audit", "vgg16"), "nbconvert", "notebooks"),
        (("sweep", "grid.yaml", "--out", "out"), "dask", "sweep"),
    ],
)
def test_without_an_extra_one_sentence_says_which(
    command: tuple[str, ...], missing: str, extra: str, tmp_path: Path
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from modbp import cli, notebooks; notebooks.run = None"
    code += f"; sys.exit(cli.main({list(command)!r}))"  # and it says so before it runs anything
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    install = f"pip install 'modbp[{extra}]'"
    assert (done.returncode, done.stderr) == (
        2,
        f"modbp: modbp {command[0]} needs {missing}; install it with: {install}.\n",
    )
    assert list(tmp_path.iterdir()) == []
