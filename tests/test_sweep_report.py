"""The page of what 50,000 pictures cost: its arithmetic, and that it is that of the committed numbers."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RESULTS: dict[str, Any] = {
    "machine": {"processor": "a processor", "threads": 1, "versions": {"torch": "2.0"}},
    "network": "vgg16",
    "methods": ["gradient", "lrp_zplus"],
    "layers": ["features.1"],
    "rounds": 3,
    "seconds_per_image": {
        "preparation": {"forward": 0.5},
        "csc": {"gradient": 2.0, "lrp_zplus": 3.0, "together": 4.0},
        "flipping": {"gradient": 1.0, "lrp_zplus": 1.0, "edges": 0.5, "together": 1.5},
    },
    "scaling": [
        {"workers": 1, "tasks": 4, "seconds": 30.0, "start": 5.0, "work": 20.0},
        {"workers": 2, "tasks": 4, "seconds": 18.0, "start": 5.0, "work": 12.5},
    ],
    "overhead": [
        {"workers": 1, "tasks": 100, "seconds": 2.0, "seconds_per_task": 0.02},
        {"workers": 2, "tasks": 100, "seconds": 1.0, "seconds_per_task": 0.01},
    ],
}


@pytest.fixture
def report(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("sweep_report")


def test_a_picture_costs_its_preparation_its_measurements_and_its_task(report: Any) -> None:
    assert report.per_picture(RESULTS) == pytest.approx(0.5 + 4.0 + 1.5 + 0.01)
    assert report.efficiency(RESULTS) == pytest.approx(20 / 25)


def test_the_arithmetic_is_visible_and_right(report: Any) -> None:
    text = report.extrapolation(RESULTS, "a thing")
    assert (
        "0.50 (read it, predict its class) + 4.00 (csc) + 1.50 (flipping) + 0.010 (the task itself) = **6.01 s**"
        in text
    )
    assert "On a thing: 50,000 × 6.01 s = 300,500 s" in text
    assert "300,500 s ÷ (64 × 0.80) = 5,869 s" in text
    assert "50,000 × 0.010 s = 500 s" in text
    assert "6.01 s ÷ 0.010 s = 601 workers" in text
    assert "50,000 × 135 kB = 6.75 GB" in text


def test_the_tables_hold_what_was_measured(report: Any) -> None:
    costs, scaling = report.costs_table(RESULTS), report.scaling_table(RESULTS)
    assert "| gradient | 2.00 | 1.00 |" in costs
    assert "| edges | – | 0.50 |" in costs
    assert "| **sum** | 5.00 | 2.50 |" in costs
    assert "| **together** | 4.00 | 1.50 |" in costs
    assert "| together ÷ sum | 0.80 | 0.60 |" in costs
    assert "| 2 | 4 | 18.00 | 5.00 | 12.50 | 1.60 | 0.80 |" in scaling
    assert "| 2 | 100 | 1.00 | 10.0 |" in report.overhead_table(RESULTS)


def test_a_gpu_that_was_not_there_is_said_to_be_missing(report: Any) -> None:
    cpu, gpu = report.FILES
    text = report.page({cpu: RESULTS})
    assert text.partition(f"### On {gpu}")[2].strip().startswith("Not measured")
    assert "Not measured" not in report.page({cpu: RESULTS, gpu: RESULTS})


def test_the_page_is_that_of_the_committed_numbers(report: Any, root: Path) -> None:
    static = root / "book" / "_static"
    found = {
        what: json.loads((static / file).read_text(encoding="utf-8"))
        for what, file in report.FILES.items()
        if (static / file).is_file()
    }
    assert (static / "sweep.md").read_text(encoding="utf-8") == report.page(found)
    # Two workers on two cores: if they were no faster than one, there would be no reason for them.
    first, *_, last = next(iter(found.values()))["scaling"]
    assert last["workers"] > first["workers"]
    assert last["work"] < first["work"]


def test_without_numbers_there_is_one_sentence(root: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(root / "benchmarks" / "sweep_report.py"), "--out", str(tmp_path)]
    for content in (None, "{", "{}"):
        if content is not None:
            (tmp_path / "sweep.json").write_text(content)
        done = subprocess.run(script, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert re.fullmatch(r"sweep_report.py: [^\n]+\n", done.stderr), done.stderr
    assert not (tmp_path / "sweep.md").exists()
