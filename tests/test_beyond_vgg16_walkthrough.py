"""The walkthrough on other networks than VGG16, re-run with other parameters through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import pytest

from modbp import cli, notebooks, walkthrough
from modbp.claims import quantities

NAME = "beyond-vgg16"
NETWORKS = ("small CNN", "ResNet-50", "EfficientNet-Lite0")
TESTS = ("another class", "upper half random")


def test_two_rules_on_few_small_pictures(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {
        "epochs": 1,
        "n_pictures": 2,
        "n_images": 1,
        "size": 64,
        "methods": "gradient,lrp_zplus",
        "results": "record.json",
    }
    status = cli.main(["run", NAME, *(word for name, value in given.items() for word in ("-p", name, str(value)))])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == [f"{NAME}.run.ipynb", "record.json"]

    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    listed = {"methods": ["gradient", "lrp_zplus"], "data": ["digits"], "resnet_weights": ["random"]}
    assert record["parameters"] == notebooks.parameters(notebooks.find(NAME)) | given | listed
    assert record["versions"] == walkthrough.versions()

    # One epoch is enough for digits; the photographs are far too small, and at full size they are what they are.
    right = record["accuracy"]
    assert right["small CNN"] > 0.5
    assert right["EfficientNet-Lite0"] < right["at 224 pixels"] == 0.9
    assert record["layers"] == {"small CNN": 6, "ResNet-50": 54, "EfficientNet-Lite0": 50}

    assert tuple(sorted(record["another_class"])) == tuple(sorted(NETWORKS))
    for network in NETWORKS:
        stages = record["random_layers"][network]
        assert list(stages) == sorted(["output layer", "upper half", "three quarters", "all"])
        for values in (record["another_class"][network], *stages.values()):
            assert set(values) == {"gradient", "lrp_zplus", "noise", "edges", "unrelated noise"}
            # The controls: edges see neither the class nor the layers, and noise is as unlike as unrelated noise.
            assert values["edges"] == pytest.approx(1, abs=1e-9)
            assert abs(values["noise"]) < 0.25
            assert abs(values["unrelated noise"]) < 0.25
            assert all(-1 <= value <= 1 + 1e-9 for value in values.values())
        # z⁺ has no entry below zero, so its chain converges, and with a random output layer its map is the same.
        assert record["another_class"][network]["lrp_zplus"] > 0.95
        assert stages["output layer"]["lrp_zplus"] > 0.95
        # All layers of the network decide what z⁺ shows: with none of them left, the map is another one.
        assert stages["all"]["lrp_zplus"] < stages["output layer"]["lrp_zplus"]
    # The maps of noise are drawn from the class and the weights, and the floor from the seed alone.
    assert len({v["unrelated noise"] for v in record["random_layers"]["small CNN"].values()}) == 1
    assert len({v["noise"] for v in record["random_layers"]["small CNN"].values()}) == 4

    # Of one rule in each group there is one pair: its share is 0, a half or 1, and for one picture it is that of the
    # medians.
    checks = {c["quantity"]: c for c in record["verdicts"]["S15"]["checks"]}
    assert set(checks) == {quantities.PARTED.format(f"{test}, {network}") for test in TESTS for network in NETWORKS}
    for test in TESTS:
        for network in NETWORKS:
            check, singles = (
                checks[quantities.PARTED.format(f"{test}, {network}")],
                record["shares_of_pictures"][f"{test}, {network}"],
            )
            assert len(singles) == (2 if network == "small CNN" else 1)
            share = record["shares"][f"{test}, {network}"]
            assert share in (0, 0.5, 1)
            # The claim is about trained networks, and ResNet-50 has random weights.
            judged = network != "ResNet-50"
            assert check["measured"] == (share if judged else None)
            assert (check["verdict"] != "not testable here") == judged
            where = record["another_class"] if test == TESTS[0] else None
            values = where[network] if where else record["random_layers"][network]["upper half"]
            assert share == float(values["lrp_zplus"] > values["gradient"])
            if network != "small CNN":
                assert (singles, check["spread"]) == ([share], 0)
    # Two rules are too few for a rank correlation.
    assert all(values == [None, None] for values in record["rank_correlations"].values())


def test_the_chains_that_the_reasons_rest_on_end_where_they_must(root: Path) -> None:
    """The lower half of EfficientNet-Lite0 ends with the block whose layers all stay, and the next one is cut."""
    import torch

    from modbp.efficientnet import efficientnet_lite0
    from modbp.layers import running_order

    (cell,) = [c.source for c in nbformat.read(notebooks.find(NAME), 4).cells if "LOWER_END = " in c.source]
    end = cell.split('LOWER_END = "')[1].split('"')[0]
    layers = list(running_order(efficientnet_lite0("random"), torch.zeros(1, 3, 64, 64)))
    random = layers[len(layers) - len(layers) // 2 :]
    assert not any(name.startswith(f"{end}.") for name in random)
    assert any(name.startswith(f"{end}.") for name in layers)
    number = int(end.split(".")[1]) + 1
    assert any(name.startswith(f"_blocks.{number}.") for name in random)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": "mnist"}, "the parameter data is 'mnist'; allowed is one or more, with commas, of digits, cifar10."),
        ({"data": "digits,cifar10"}, "data is ['digits', 'cifar10']; allowed is one of them."),
        ({"resnet_weights": "embedded"}, "the parameter resnet_weights is 'embedded'; allowed is one or more"),
        ({"resnet_weights": "random,imagenet"}, "allowed is one of them."),
        ({"epochs": 0}, "the parameter epochs is 0; allowed is a whole number from 1 to 1000."),
        ({"n_images": 21}, "the parameter n_images is 21; allowed is a whole number from 1 to 20."),
        ({"size": 63}, "the parameter size is 63; allowed is a whole number from 64 to 224."),
        ({"methods": "pattern_net"}, "the parameter methods is 'pattern_net'; allowed is one or more, with commas,"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_the_cost_is_said_before_the_work_begins() -> None:
    """The cell that prints the minutes stands before those that train and measure."""
    cells = [c.source for c in nbformat.read(notebooks.find(NAME), 4).cells if c.cell_type == "code"]
    cost = next(k for k, source in enumerate(cells) if "minutes on this machine" in source)
    train = next(k for k, source in enumerate(cells) if "training.train(" in source)
    work = next(k for k, source in enumerate(cells) if "sanity.parameter_randomization(" in source)
    assert cost < train < work
