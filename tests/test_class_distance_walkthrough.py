"""The walkthrough on distances between classes: its record against maps made here, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import modbp
from modbp import cli, metrics, zoo
from modbp import images as pictures

NAME = "class-distance"


def run(folder: Path, capfd: pytest.CaptureFixture[str], **given: object) -> dict:
    arguments = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *arguments, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    return json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_the_record_holds_the_distances_of_maps_made_here(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    methods = ["gradient", "deconvolution", "lrp_zplus"]
    record = run(folder, capfd, size=32, n_classes=3, methods=",".join(methods))
    assert set(record["distance"]) == set(record["distance_random"]) == set(methods)

    networks = {"distance": zoo.load(), "distance_random": zoo.load(weights="random", seed=1)}
    transformed = torch.stack([networks["distance"].transform(p.image) for p in pictures.load("embedded", 2)])
    inputs = torch.nn.functional.interpolate(transformed, 32, mode="area")
    with torch.no_grad():
        logits = networks["distance"](inputs)
    classes = metrics.predicted_and_others(logits, 2, 0)
    named = [[networks["distance"].categories[k] for k in row] for row in classes]
    assert record["classes"] == named

    for key, network in networks.items():
        for method in methods:
            columns = [modbp.make(method, network).attribute(inputs, column) for column in classes.T]
            units = [m.double() / m.double().flatten(1).norm(dim=1)[:, None, None, None] for m in columns]
            pairs = [(a, b) for a in range(3) for b in range(a)]
            plain = torch.stack([(units[a] - units[b]).flatten(1).norm(dim=1) for a, b in pairs])
            opposite = torch.stack([(units[a] + units[b]).flatten(1).norm(dim=1) for a, b in pairs])
            raw = torch.stack([(columns[a] - columns[b]).flatten(1).norm(dim=1) for a, b in pairs])
            found = record[key][method]
            assert found["as they are"] == pytest.approx(plain.mean(0).tolist(), rel=1e-3, abs=1e-4)
            assert found["up to the sign"] == pytest.approx(
                torch.minimum(plain, opposite).mean(0).tolist(), rel=1e-3, abs=1e-4
            )
            assert found["raw"] == pytest.approx(raw.double().mean(0).tolist(), rel=1e-3)
            apart = torch.stack([torch.stack([u[0], u[1]]) for u in units], 1)  # (photographs, classes, ...)
            control = metrics.class_distance(apart, up_to_sign=True)
            assert found["photographs"] == pytest.approx(control.tolist(), rel=1e-3)

    checks = {c["quantity"]: c for c in record["verdicts"]["N12"]["checks"]}
    gradient = checks["distance between classes, gradient"]
    expected = sum(record["distance"]["gradient"]["as they are"]) / 2
    assert gradient["measured"] == pytest.approx(expected)
    assert abs(expected - math.sqrt(2)) < 0.3
    assert checks["distance between classes, guided_backprop"]["verdict"] == "not testable here"
    assert checks["distance between classes, deconvolution"]["measured"] < 0.3


def test_random_weights_and_one_photograph(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = run(folder, capfd, weights="random", size=32, n_images=1, n_classes=2, methods="guided_backprop")
    assert record["verdicts"]["N12"]["verdict"] == "not testable here"
    assert "photographs" not in record["distance"]["guided_backprop"]
    assert record["distance"]["guided_backprop"]["as they are"][0] < 0.2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_classes": 1}, "the parameter n_classes is 1; allowed is a whole number from 2 to 1000."),
        ({"n_classes": 20}, "the parameter n_classes is 20; allowed for this network is a whole number from 2 to 19."),
        ({"size": 31}, "the parameter size is 31; allowed is a whole number from 32 to 1024."),
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        ({"methods": "distance"}, "the parameter methods is 'distance'; allowed is one or more, with commas, of all,"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"weights": "none.pt"}, "weights is 'none.pt', and there is no such file; allowed are embedded,"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)
