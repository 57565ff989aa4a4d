"""The walkthrough on cosine similarity convergence, re-run with other parameters through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import pytest

from modbp import cli, notebooks, walkthrough
from modbp.claims import quantities

NAME = "csc-vgg16"


def test_two_rules_on_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = {
        "weights": "random",
        "methods": "gradient,lrp_zplus",
        "n_images_unsettled": 1,
        "n_vectors_unsettled": 2,
        "results": "record.json",
    }
    status = cli.main(["run", NAME, *(word for name, value in given.items() for word in ("-p", name, str(value)))])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{NAME}.run.ipynb", "record.json"]

    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    defaults = notebooks.parameters(notebooks.find(NAME))
    assert record["parameters"] == defaults | given | {"methods": ["gradient", "lrp_zplus"]}
    assert record["versions"] == walkthrough.versions()
    assert set(record["medians"]) == {"gradient", "lrp_zplus"}
    assert record["medians"]["lrp_zplus"]["conv1_1"] > 0.999
    assert record["medians"]["gradient"]["conv1_1"] < 0.7
    assert list(record["starts"]) == ["lrp_zplus"]
    # Without trained weights only what needs none is judged, and of it what the two rules allow.
    verdicts = {claim: row["verdict"] for claim, row in record["verdicts"].items()}
    assert verdicts == dict.fromkeys(("S4", "S5", "S7", "S16"), "not testable here") | {"S6": "confirmed"}
    tested = {c["quantity"] for c in record["verdicts"]["S6"]["checks"] if c["verdict"] != "not testable here"}
    assert tested == {quantities.LOWER_STARTS.format("lrp_zplus")}
    # Shuffled or not, random weights are random: α5β4 aligns either way.
    assert record["shuffled_weights"] > 0.9


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        ({"n_vectors": 1}, "the parameter n_vectors is 1; allowed is a whole number from 2 to 1000."),
        ({"methods": "lrp"}, "the parameter methods is 'lrp'; allowed is one or more, with commas, of all, gradient,"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_the_papers_protocol_says_its_cost_before_it_starts() -> None:
    """The cell that prints the minutes stands before the one that measures, and times one run for it."""
    cells = [c.source for c in nbformat.read(notebooks.find(NAME), 4).cells if c.cell_type == "code"]
    cost = next(k for k, source in enumerate(cells) if "minutes on this machine" in source)
    work = next(k for k, source in enumerate(cells) if "found = dict(" in source)
    assert cost < work
    assert "if chosen.paper_protocol:" in "".join(cells[:cost])
