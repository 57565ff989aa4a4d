"""The walkthrough on PatternAttribution, re-run once with other parameters through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import pytest

from modbp import claims, cli, notebooks, walkthrough, zoo

NAME = "pattern-attribution"


def test_a_random_network_and_two_photographs(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"weights": "random", "n_images": 2, "n_explained": 1, "n_vectors": 2, "results": folder / "record.json"}
    status = cli.main(["run", NAME, *(word for k, v in given.items() for word in ("-p", k, str(v)))])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert captured.out == f"wrote {folder / f'{NAME}.run.ipynb'}\n"

    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert record["walkthrough"] == NAME
    expected = notebooks.parameters(notebooks.find(NAME)) | given | {"results": str(folder / "record.json")}
    assert record["parameters"] == expected
    assert record["versions"] == walkthrough.versions()
    assert record["weights"] == zoo.describe(zoo.load(weights="random", seed=0))
    assert len(record["images"]) == 2

    # One verdict, on all of its quantities: nothing is said of a network that was not trained.
    row = record["verdicts"]["S10"]
    assert row["verdict"] == "not testable here"
    assert {c["quantity"] for c in row["checks"]} == set(claims.find("S10").predictions)

    # One fit on one photograph, then one on two; with two photographs a half is one of them.
    assert {count: len(fits) for count, fits in record["ratios_center"].items()} == {"1": 2, "2": 1}
    kinds = {"weight", "pattern", "pattern times weight"}
    for ratios in [*record["ratios_center"]["1"], *record["ratios_center"]["2"], record["ratios_all_taps"]]:
        assert set(ratios) == kinds
        assert all(len(v) == 13 and min(v) >= 1 for v in ratios.values())
    # Weights do not depend on the photographs, and random ones have no direction that stands out.
    assert record["ratios_center"]["1"][0]["weight"] == record["ratios_center"]["2"][0]["weight"]
    assert max(record["ratios_center"]["2"][0]["weight"][1:]) < 1.5

    methods = {"gradient", "pattern_attribution", "pattern_net", "patterns of other photographs", "patterns shuffled"}
    assert set(record["median_cosine"]) == set(record["undefined"]) == methods
    for ways in record["median_cosine"].values():
        for (column,) in (ways["position"], ways["map"]):
            assert len(column) == 14
            assert all(0 <= c <= 1 for c in column)
    for energies in record["energy"].values():
        assert len(energies) == 2  # places in one photograph
        assert all(len(e) == 13 and min(e) > 0 for e in energies)

    assert set(record["randomized"]) == {"frozen", "A kept", "A refitted", "gradient"}
    for by_stop in record["randomized"].values():
        assert len(by_stop) == 3
        assert all(-1 <= r < 1 for (r,) in by_stop)
    assert "another photograph" not in record["controls"]

    outputs = [o for cell in nbformat.read(folder / f"{NAME}.run.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert {o.output_type for o in outputs} <= {"execute_result", "display_data"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 1}, "the parameter n_images is 1; allowed is a whole number from 2 to 10000."),
        ({"n_explained": 0}, "the parameter n_explained is 0; allowed is a whole number from 1 to 10000."),
        ({"n_vectors": 1}, "the parameter n_vectors is 1; allowed is a whole number from 2 to 100."),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)
