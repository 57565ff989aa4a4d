"""The walkthrough on parameter randomization, re-run with other parameters through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import pytest

from modbp import cli, networks, notebooks, walkthrough, zoo
from modbp.claims import quantities
from modbp.metrics import sanity
from modbp.theory import alignment

NAME = "parameter-randomization"
STAGES = ["fc3", "fc1", "conv5_3", "conv5_1", "conv4_3", "conv4_1", "conv3_1", "conv2_1", "conv1_1"]


def test_three_rules_on_random_weights(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    methods = ["gradient", "lrp_zplus", "excitation_bp"]
    given = {"weights": "random", "methods": ",".join(methods), "n_images": 1, "size": 40}
    arguments = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *arguments, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == [f"{NAME}.run.ipynb", "record.json"]

    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=lambda name: None)
    defaults = notebooks.parameters(notebooks.find(NAME))
    assert record["parameters"] == defaults | given | {"methods": methods, "results": "record.json"}
    assert record["versions"] == walkthrough.versions()
    assert record["weights"] == zoo.describe(zoo.load(weights="random", seed=0))

    ssim = record["medians"][sanity.STRICT.label]
    assert set(ssim) == {*methods, sanity.NOISE, sanity.EDGES}
    floors = record["floor"]
    for measure, by_method in record["medians"].items():
        for by_stage in by_method.values():
            assert set(by_stage) == set(STAGES)
            assert all(-1 <= value <= 1 + 1e-9 for value in by_stage.values())
        # A map of noise is as far from itself as two unrelated ones, and edges do not know the network.
        assert all(value == pytest.approx(floors[measure], abs=0.12) for value in by_method[sanity.NOISE].values())
        assert all(value == pytest.approx(1) for value in by_method[sanity.EDGES].values())
        # Random or not, z+ has forgotten the dense layers, and the gradient has not.
        assert by_method["excitation_bp"]["fc1"] > 0.95 > 0.6 > by_method["gradient"]["fc1"]
    # Excitation BP is the chain of z+ from another start: the best one of both signs cannot tell them apart.
    assert ssim["lrp_zplus"] == pytest.approx(ssim["excitation_bp"], abs=1e-3)
    paper = record["medians"][sanity.PAPER.label]
    assert all(paper["gradient"][s] >= ssim["gradient"][s] for s in STAGES)

    # Both groups are judged by the rules that are there, which part in every measure but the signed ones.
    for stage in ("fc1", "conv4_1"):
        assert record["parted"][stage][sanity.STRICT.label] == 1
    assert record["undefined"] == {m: dict.fromkeys(STAGES, 0) for m in methods}
    assert record["patterns"] == {}

    # A prediction for random networks holds in this random one; it starts at 1 and falls.
    widths = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6, 128, 128]
    ratios = alignment.layer_ratios(widths)
    ratios[13] = 128 / 512  # at 40 pixels a single position is left of conv5_3
    down = ["fc3", *reversed([name for name in zoo.vgg16_activations() if name != "logits"])]
    recursion = dict(zip(down, alignment.randomized_from_top(ratios), strict=True))
    assert record["recursion"] == pytest.approx(recursion)
    for kind in ("trained weights", "random weights"):
        curve = record["guided_backprop"][kind]
        assert set(curve) == set(recursion)
        assert max(abs(curve[s] - p) for s, p in recursion.items()) < 0.15

    orders = record["orders"]
    assert set(orders) == {"gradient", "lrp_zplus", sanity.NOISE, sanity.EDGES}
    assert orders["lrp_zplus"]["from the top, conv4_1"] == ssim["lrp_zplus"]["conv4_1"]
    assert all(orders[m]["all"] == pytest.approx(ssim[m]["conv1_1"]) for m in orders)  # the same network
    assert orders[sanity.EDGES]["all, rise of entropy"] == 0
    # What belongs to the edges and to noise in the cascade stands beside edges and a random order.
    assert record["flipping"]["edges"]["change_fc1"] == pytest.approx(0)
    assert record["flipping"]["random order"]["change_fc1"] == 1 - ssim[sanity.NOISE]["fc1"]
    assert set(record["flipping"]) == {"gradient", "lrp_zplus", "edges", "random order"}

    # Without trained weights nothing is judged.
    (verdict,) = record["verdicts"].values()
    assert verdict["verdict"] == "not testable here"
    assert {c["verdict"] for c in verdict["checks"]} == {"not testable here"}
    assert quantities.RECURSION.format("guided_backprop") in {c["quantity"] for c in verdict["checks"]}


def test_the_stages_are_those_of_the_paper() -> None:
    """The module of each stage is a convolution or a dense layer of the paper's name, from the top down."""
    network = zoo.load(weights="random")
    layers = networks.weighted_layers(network)
    names = [name if name != "logits" else "fc3" for name in zoo.vgg16_activations()]
    modules = dict(zip(names, layers, strict=True))
    expected = "classifier.6 classifier.0 features.28 features.24 features.21 features.17 features.10 features.5"
    assert [modules[s] for s in STAGES] == [*expected.split(), "features.0"]
    source = "".join(c.source for c in nbformat.read(notebooks.find(NAME), 4).cells if c.cell_type == "code")
    assert 'HIGH = ["fc3", "fc1", "conv5_3", "conv5_1", "conv4_3", "conv4_1"]' in source
    assert '[*HIGH, "conv3_1", "conv2_1", "conv1_1"]' in source


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        ({"n_fitted": 0}, "the parameter n_fitted is 0; allowed is a whole number from 1 to 10000."),
        ({"size": 31}, "the parameter size is 31; allowed is a whole number from 32 to 512."),
        ({"methods": "lrp"}, "the parameter methods is 'lrp'; allowed is one or more, with commas, of all, gradient,"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_the_cost_is_said_before_the_long_work() -> None:
    cells = [c.source for c in nbformat.read(notebooks.find(NAME), 4).cells if c.cell_type == "code"]
    cost = next(k for k, source in enumerate(cells) if "minutes on this machine" in source)
    work = next(k for k, source in enumerate(cells) if "rules = {" in source)
    assert cost < work
    assert "if chosen.paper_protocol:" in "".join(cells[:cost])
