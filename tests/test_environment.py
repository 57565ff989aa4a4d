"""One set of requirements, told three times: pyproject.toml, constraints.txt, environment.yml; and the Makefile."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


@pytest.fixture(scope="module")
def requirements(project: dict[str, Any]) -> dict[str, list[Requirement]]:
    """Every direct requirement, by its canonical name; those of the project itself are followed."""
    extras = project["optional-dependencies"]
    waiting = [*project["dependencies"], *(text for texts in extras.values() for text in texts)]
    found: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, waiting):
        if canonicalize_name(requirement.name) == project["name"]:
            assert requirement.extras <= set(extras), "an extra of our own that does not exist"
            continue
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pins_of(text: str) -> dict[str, list[Version]]:
    """Return the pinned versions by name; anything but `name==version` fails."""
    pins: dict[str, list[Version]] = {}
    for line in text.splitlines():
        if not (line := line.split("#")[0].strip()):
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        assert not requirement.extras, line
        assert requirement.marker is None, line
        pins.setdefault(canonicalize_name(requirement.name), []).append(Version(specifier.version))
    return pins


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, list[Version]]:
    return pins_of((root / "constraints.txt").read_text(encoding="utf-8"))


def test_every_requirement_has_one_pin_and_every_pin_is_required(
    requirements: dict[str, list[Requirement]], pins: dict[str, list[Version]]
) -> None:
    assert sorted(requirements.keys() - pins.keys()) == [], "without a pin"
    assert sorted(pins.keys() - requirements.keys()) == [], "pinned, and nobody asks for it"
    assert {name: versions for name, versions in pins.items() if len(versions) != 1} == {}, "pinned twice"
    assert {"torch", "torchvision"} <= pins.keys()


def test_every_pin_satisfies_its_requirements(
    requirements: dict[str, list[Requirement]], pins: dict[str, list[Version]]
) -> None:
    wrong = [
        f"{requirement} is pinned to {pins[name][0]}"
        for name, several in requirements.items()
        for requirement in several
        if not requirement.specifier.contains(pins[name][0], prereleases=True)
    ]
    assert wrong == []


def test_what_is_installed_is_what_is_pinned(pins: dict[str, list[Version]]) -> None:
    """Up to the local part: torch 2.13.0+cpu is torch 2.13.0."""
    installed = {name: Version(metadata.version(name)).public for name in pins}
    assert installed == {name: version.public for name, (version,) in pins.items()}


def test_the_extra_all_holds_every_extra(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert canonicalize_name(everything.name) == project["name"]
    assert everything.extras == set(extras) - {"all"}


def test_the_version_is_told_once(project: dict[str, Any]) -> None:
    import modbp

    assert modbp.__version__ == project["version"] == metadata.version("modbp")


def test_conda_installs_the_same(root: Path, project: dict[str, Any]) -> None:
    environment = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "modbp"
    (through_pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert through_pip == ["-c constraints.txt", "-e .[all]"]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {"pip", "make"} <= set(plain)
    # Conda's own packages would not know of the pins.
    assert len(plain) == 3
    (python,) = (entry.removeprefix("python=") for entry in plain if entry.startswith("python"))
    assert SpecifierSet(project["requires-python"]).contains(Version(python))


def test_this_python_is_allowed(project: dict[str, Any]) -> None:
    assert SpecifierSet(project["requires-python"]).contains(Version(".".join(map(str, sys.version_info[:3]))))


# The Makefile

make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    """A copy of what `make` looks at."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path / name)
    return tmp_path


def run_make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A `make` that runs these tests must not hand its own options down.
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "PYTHON")
    }
    return subprocess.run(["make", *arguments], cwd=tree, capture_output=True, text=True, check=False, env=environment)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@make
@pytest.mark.parametrize(("target", "work"), [("reproduce", "scripts/reproduce.py"), ("test", "-m pytest")])
def test_both_commands_install_first(target: str, work: str, tree: Path) -> None:
    done = run_make(tree, "-n", target)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert said.index("-m venv .venv") < said.index("pip install") < said.index("touch .venv/.modbp-installed")
    assert said.index("touch .venv/.modbp-installed") < said.index(work)
    assert "-c constraints.txt -e '.[all]'" in said


@make
def test_what_is_installed_is_not_installed_again(tree: Path) -> None:
    stamp = tree / ".venv" / ".modbp-installed"
    stamp.parent.mkdir()
    stamp.touch()
    later = time.time() + 10
    os.utime(stamp, (later, later))
    assert run_make(tree, "-q", "install").returncode == 0
    for name in ("pyproject.toml", "constraints.txt"):  # a change of either asks for a new installation
        os.utime(tree / name, (later + 10, later + 10))
        assert run_make(tree, "-q", "install").returncode == 1, name
        os.utime(tree / name, (later - 10, later - 10))
    assert run_make(tree, "-q", "install").returncode == 0


@make
def test_a_python_that_is_too_old_is_told_in_one_sentence(tree: Path) -> None:
    older = f"exec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])' \"$2\""
    python = script(tree / "python3.9", older)
    done = run_make(tree, "install", f"PYTHON={python}")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    needed = "modbp needs Python 3.11 or newer"
    assert said == [f"{needed}, and {python} is 3.9; give another one with PYTHON=..."]
    assert not (tree / ".venv").exists()


@make
def test_an_installation_that_fails_is_tried_again(tree: Path) -> None:
    script(tree / ".venv" / "bin" / "python", 'echo "$@" >> calls; exit 1')
    assert run_make(tree, "install", f"PYTHON={sys.executable}").returncode != 0
    assert not (tree / ".venv" / ".modbp-installed").exists()
    script(tree / ".venv" / "bin" / "python", 'echo "$@" >> calls')
    assert run_make(tree, "install", f"PYTHON={sys.executable}", "PIP_FLAGS=--no-index").returncode == 0
    assert (tree / ".venv" / ".modbp-installed").exists()
    first, second = (tree / "calls").read_text().splitlines()
    assert first == "-m pip install --quiet -c constraints.txt -e .[all]"
    assert second == "-m pip install --quiet --no-index -c constraints.txt -e .[all]"


@make
def test_help_names_every_target(tree: Path) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (tree / "Makefile").read_text(), re.MULTILINE)
    assert phony
    said = run_make(tree).stdout
    assert [name for name in phony.group(1).split() if name != "help" and f"make {name} " not in said] == []
