"""The benchmarks run, count and write; how fast anything is depends on the machine and is not tested."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(root: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "benchmarks" / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )


TINY = ["--size", "32", "--rounds", "1", "--batch", "2", "--threads", "1", "--network", "vgg16"]


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two contenders at a tiny size, with table and figure."""
    folder = tmp_path_factory.mktemp("benchmarks")
    done = run(root, "run.py", *TINY, "--only", "modbp/guided_backprop", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    done = run(root, "report.py", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "benchmarks.json").read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row for row in found}


def test_the_files_are_written_whole(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["benchmarks.json", "benchmarks.md", "benchmarks.svg"]


def test_each_contender_has_a_row_in_the_table(folder: Path, rows: dict[str, Any]) -> None:
    assert list(rows) == ["plain", "modbp/guided_backprop"]
    table = (folder / "benchmarks.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert [line[:2] for line in lines[2:]] == [["Forward and backward", "PyTorch"], ["Guided Backprop", "modbp"]]
    assert {len(line) for line in lines} == {6}


def test_the_plain_pass_applies_each_layer_twice(rows: dict[str, Any]) -> None:
    counted = {"convolution": 13, "convolution_backward": 13, "addmm": 3, "mm": 3}
    assert rows["plain"]["calls"] == counted
    assert rows["plain"]["products"] == rows["plain"]["least_products"] == 32
    assert rows["modbp/guided_backprop"]["calls"] == counted


def test_each_row_has_finite_numbers(rows: dict[str, Any]) -> None:
    for row in rows.values():
        assert row["ratio"] > 0
        assert row["quartiles"][0] <= row["quartiles"][1]
        assert row["peak_bytes"] > 0
    assert rows["plain"]["extra_bytes"] == 0


def test_the_results_name_no_folder_and_no_host(folder: Path) -> None:
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not [name for name in (str(Path.home()), os.uname().nodename, str(folder)) if f"{name}/" in text]
    machine = json.loads((folder / "benchmarks.json").read_text(encoding="utf-8"))["machine"]
    assert set(machine) == {"processor", "cores", "threads", "versions"}


def test_an_update_keeps_the_other_rows(root: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    results = json.loads((folder / "benchmarks.json").read_text(encoding="utf-8"))
    results["rows"][1]["ratio"] = 7.0  # of Guided Backprop, which is not measured again
    path.write_text(json.dumps(results), encoding="utf-8")
    arguments = [*TINY, "--only", "modbp/deconvolution", "--out", str(tmp_path), "--update"]
    done = run(root, "run.py", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == ["plain", "modbp/guided_backprop", "modbp/deconvolution"]
    assert rows[1]["ratio"] == 7.0
    assert rows[0] == results["rows"][0]  # measured along, but the other rows are multiples of the old one

    path.write_text(json.dumps(results | {"machine": {"processor": "an abacus"}}), encoding="utf-8")
    done = run(root, "run.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("benchmarks: --update was given for results of another machine; allowed is theirs")

    done = run(root, "run.py", *arguments, "--rounds", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("benchmarks: --update was given for results of other settings; allowed are theirs")
    path.unlink()
    assert "to update; allowed is to leave it out" in run(root, "run.py", *arguments).stderr


def test_convergence_is_measured_in_plain_passes(root: Path, tmp_path: Path) -> None:
    done = run(root, "run.py", *TINY, "--only", "csc/lrp_zplus", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert run(root, "report.py", "--out", str(tmp_path)).returncode == 0
    found = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))["rows"][1]
    assert (found["name"], found["kind"]) == ("csc/lrp_zplus", "csc")
    assert "fault" not in found
    # For each of two images a forward pass, the sums of positive contributions, and five ways back, 16 layers each;
    # and once a walk through the layers on shapes alone, which takes no time.
    assert found["products"] == 16 * (2 + 5) + 16 / 2
    table = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "**Cosine similarity convergence**" in table


def test_the_figure_shows_every_time_of_the_book(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    report = importlib.import_module("report")
    results = json.loads((root / "book" / "_static" / "benchmarks.json").read_text(encoding="utf-8"))
    drawn = report.figure(results)
    shown = [r for r in results["rows"] if "ratio" in r and r["kind"] == "map"]
    timed = {(r["network"], r["batch"]) for r in shown}
    times = [r["ratio"] for r in shown if r["name"] != "plain"]
    panels = [axis for axis in drawn.axes if axis.get_visible()]
    assert len(panels) == len(timed)
    marked = [x for axis in panels for line in axis.lines if line.get_marker() in "so^" for x in line.get_xdata()]
    for time in times:
        assert any(abs(time - x) < 1e-9 for x in marked), time
    for axis in panels:
        low, high = axis.get_xlim()
        assert low == 0
        assert max(times) < high


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rounds", "0"], "benchmarks: --rounds is 0; allowed are whole numbers from 1 upwards."),
        (["--rounds", "many"], "benchmarks: argument --rounds: invalid int value: 'many'."),
        (["--network", "lenet"], "benchmarks: --network is 'lenet'; allowed are vgg16, resnet50."),
        (["--device", "abacus"], "benchmarks: --device is 'abacus'; allowed are cpu, cuda."),
        (["--out", "no/such"], "benchmarks: --out is 'no/such', which is no folder; allowed is an existing one."),
    ],
)
def test_bad_options_are_refused_in_a_sentence(root: Path, arguments: list[str], sentence: str) -> None:
    done = run(root, "run.py", *arguments)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, sentence, "")


def test_a_report_without_numbers_is_refused_in_a_sentence(root: Path, tmp_path: Path) -> None:
    done = run(root, "report.py", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"benchmarks: '{tmp_path / 'benchmarks.json'}' does not exist; run benchmarks/run.py first.\n"
