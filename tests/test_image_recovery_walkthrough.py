"""The walkthrough on image recovery, re-run with other parameters through the command.

Each run costs the better part of half a minute, so there are few of them, each checked from all sides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import sobel
from scipy.stats import spearmanr

import modbp
from modbp import cli, images, metrics, notebooks, walkthrough, zoo

NAME = "image-recovery-vgg16"


def run(capfd: pytest.CaptureFixture[str], **given: object) -> tuple[int, str, list[str]]:
    """Run the walkthrough; return the exit status, what it printed, and the lines on its standard error."""
    arguments = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *arguments])
    captured = capfd.readouterr()
    return status, captured.out, captured.err.splitlines()


def test_two_random_networks(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = folder / "record.json"
    status, out, err = run(capfd, weights="random", methods="guided_backprop,gradient", n_images=1, results=results)
    assert (status, err) == (0, [])
    assert out == f"wrote {folder / f'{NAME}.run.ipynb'}\n"
    assert sorted(path.name for path in folder.iterdir()) == [f"{NAME}.run.ipynb", "record.json"]

    record = json.loads(results.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert record["walkthrough"] == NAME
    defaults = notebooks.parameters(notebooks.find(NAME))
    given = {
        "weights": "random",
        "methods": ["guided_backprop", "gradient"],
        "n_images": 1,
        "results": str(results),
    }
    assert record["parameters"] == defaults | given
    assert record["versions"] == walkthrough.versions()

    found = {description["source"]: description["sha256"] for description in record["weights"].values()}
    expected = {f"random (seed {seed})": zoo.fingerprint(zoo.load(weights="random", seed=seed)) for seed in (0, 1)}
    assert found == expected

    # What the random networks' maps show: Guided Backprop the image, the gradient nothing.
    for by_method in record["high_pass_correlation"].values():
        assert set(by_method) == {"guided_backprop", "gradient"}
        assert by_method["guided_backprop"][0] > 0.4
        assert abs(by_method["gradient"][0]) < 0.1
    check_edges(record)
    verdicts = {claim: row["verdict"] for claim, row in record["verdicts"].items()}
    assert verdicts == {"N1": "confirmed", "N9": "not testable here"}
    assert {c["verdict"] for c in record["verdicts"]["N9"]["checks"]} == {"not testable here"}

    outputs = [o for cell in nbformat.read(folder / f"{NAME}.run.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert {o.output_type for o in outputs} <= {"execute_result", "display_data"}
    assert any("not testable here" in o.data.get("text/plain", "") for o in outputs)


def check_edges(record: Mapping[str, Any]) -> None:
    """Compare the rank correlations with edges, of one photograph and two random networks, with scipy's."""
    network = zoo.load(weights="random", seed=1)
    (photograph,) = images.load("embedded", 1)
    x = network.transform(photograph.image)[None]
    channels = x[0].double().numpy()  # one by one: scipy would smooth across them too
    slopes = [np.hypot(*(sobel(c, axis=axis, mode="nearest") for axis in (0, 1))) for c in channels]
    edges = np.sum(slopes, axis=0).ravel()

    def ranked(values: torch.Tensor) -> float:
        return float(spearmanr(values[0].double().abs().sum(0).flatten().numpy(), edges).statistic)

    with torch.no_grad():
        tested = zoo.load(weights="random", seed=0)
        target = tested(x).argmax(1)  # the class that the network under test predicts
    found = record["rank_correlation_with_edges"]
    assert {name: sorted(by_method) for name, by_method in found.items()} == {
        name: ["gradient", "guided_backprop"] for name in ("under test", "random")
    }
    guided = modbp.make("guided_backprop", network).attribute(x, target)
    assert found["random"]["guided_backprop"] == pytest.approx([ranked(guided)], abs=1e-3)
    yardstick = record["rank_correlation_of_the_photograph_with_its_edges"]
    assert yardstick == {"photograph, high-pass": pytest.approx([ranked(metrics.high_pass(x))], abs=1e-6)}
    assert record["rank_correlation_with_other_edges"] == {}  # there is no other photograph


def test_a_folder_with_pictures_good_and_bad(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pictures = folder / "my pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 240)).save(pictures / "good.png")
    Image.fromarray(noise[..., 0]).resize((100, 80)).save(pictures / "gray.png")
    Image.fromarray(noise).save(pictures / "cut.jpg")
    (pictures / "cut.jpg").write_bytes((pictures / "cut.jpg").read_bytes()[:100])
    Image.new("RGB", (1, 1)).save(pictures / "pixel.png")
    status, _, err = run(capfd, images=pictures, methods="deconvolution", n_images=10, results="record.json")
    assert status == 0
    assert len(err) == 3
    for line, said in zip(err, ("left out cut.jpg", "gray.png is grayscale", "left out pixel.png"), strict=True):
        assert line.startswith(f"Note: {said}")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert record["images"] == ["good.png", "gray.png"]
    for name in ("high_pass_correlation", "rank_correlation_with_edges", "rank_correlation_with_other_edges"):
        assert {len(v) for m in record[name].values() for v in m.values()} == {2}, name
    verdicts = {c["quantity"]: c["verdict"] for c in record["verdicts"]["N9"]["checks"]}
    for quantity, verdict in verdicts.items():
        assert (verdict == "not testable here") == ("deconvolution" not in quantity), quantity


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"weights": "none.pt"}, "weights is 'none.pt', and there is no such file; allowed are embedded, imagenet,"),
    ],
)
def test_what_does_not_exist_stops_the_run_with_one_sentence(
    given: dict[str, str], said: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capfd, results="record.json", **given)
    assert (status, out) == (2, "")
    assert len(err) == 1, err
    assert err[0].startswith(f"modbp: {said}")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        ({"methods": "guided"}, "the parameter methods is 'guided'; allowed is one or more, with commas, of gradient,"),
        ({"methods": ""}, "the parameter methods is ''; allowed is"),
        ({"methods": "pattern_net"}, "the parameter methods is 'pattern_net'; allowed is one or more, with commas, of"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
        ({"results": "."}, "results is the folder"),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_every_method_has_a_name_for_the_figures() -> None:
    assert set(modbp.METHODS) <= set(modbp.plot.NAMES)
