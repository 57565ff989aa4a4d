"""The walkthrough on partly loaded networks, re-run small through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import modbp
from modbp import cli, images, notebooks, walkthrough, zoo
from modbp.claims import quantities

NAME = "partial-loading"


def mixed(trained: Any, random: Any, from_random: range) -> Any:
    """A network with the layers of these numbers from another one, by its state dict."""
    network = zoo.load(weights="embedded")
    layers = [name.removesuffix(".weight") for name in trained.state_dict() if name.endswith(".weight")]
    assert len(layers) == 16
    taken = {layers[i] for i in from_random}
    states = trained.state_dict(), random.state_dict()
    network.load_state_dict({n: states[n.rpartition(".")[0] in taken][n] for n in states[0]})
    return network


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def test_a_small_run_from_all_sides(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"size": 32, "n_draws": 2, "layers": "15,0,7", "methods": "gradient,guided_backprop", "seed": 5}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    methods = ["gradient", "guided_backprop"]
    lists = {"layers": [15, 0, 7], "methods": methods, "results": "record.json"}
    assert record["parameters"] == notebooks.parameters(notebooks.find(NAME)) | given | lists
    assert record["versions"] == walkthrough.versions()

    trained, *fresh = networks = [zoo.load(), *(zoo.load(weights="random", seed=seed) for seed in (6, 7))]
    assert record["weights"] == [zoo.describe(network) for network in networks]

    # The second draw again, with networks put together from state dicts.
    photographs = images.load("embedded", 2)
    assert record["images"] == [p.name for p in photographs]
    x = torch.stack([trained.transform(p.image) for p in photographs])
    x = torch.nn.functional.interpolate(x, size=(32, 32), mode="area")
    with torch.no_grad():
        target = trained(x).argmax(1)
    assert record["classes"] == [trained.categories[k] for k in target]
    names = {"conv1_1": 0, "conv4_1": 7, "logits": 15}
    loaded = {
        "first": {"none": range(16), **{name: range(k + 1, 16) for name, k in names.items()}},
        "last": {name: range(k + 1) for name, k in names.items()},
        "all_but_one": {name: range(k, k + 1) for name, k in names.items()},
    }
    assert {way: list(b) for way, b in record["cosine"].items()} == {way: sorted(b) for way, b in loaded.items()}
    some = [("first", "conv1_1"), ("first", "conv4_1"), ("last", "conv4_1"), ("all_but_one", "conv4_1")]
    for method in methods:
        explain = modbp.make(method, trained).attribute
        expected, another = (explain(x[i : i + 1], target[i : i + 1]) for i in (1, 0))
        for which, name in some:
            network = mixed(trained, fresh[1], loaded[which][name])
            found = modbp.make(method, network).attribute(x[1:], target[1:])
            numbers = [record[key][which][name][method][1] for key in ("cosine", "cosine_with_another_photograph")]
            assert numbers == pytest.approx([cosine(found, expected), cosine(found, another)], abs=1e-4), (which, name)

    # What is the same network has the same numbers, and the trained one is itself.
    for by_way in (record[key] for key in ("cosine", "correlation", "high_pass_correlation")):
        assert by_way["first"]["none"] == by_way["last"]["logits"]
        assert by_way["last"]["conv1_1"] == by_way["all_but_one"]["conv1_1"]
        assert [v for by_draw in by_way["first"]["logits"].values() for v in by_draw] == pytest.approx([1.0] * 4)
    photograph = record["high_pass_correlation_with_the_photograph"]["first"]
    assert min(photograph["none"]["guided_backprop"]) > 0.4

    # On top of trained layers the random ones have no scale: without biases they are homogeneous.
    assert [c for by_factor in record["cosine_when_scaled"]["first"].values() for c in by_factor] == pytest.approx(
        [1.0] * 4, abs=1e-5
    )
    for signals in record["signals"]:
        assert set(signals) == {"gradient", "guided_backprop", "rectgrad"}
        assert len(signals["guided_backprop"]) == 9
    last = [by_method["guided_backprop"][-1] for by_method in record["signals"]]
    assert last == pytest.approx(record["cosine"]["first"]["conv4_1"]["guided_backprop"], abs=1e-5)
    assert len(record["cosine_at_full_size"]) == 2
    assert all(0.5 < c < 1 for c in record["cosine_at_full_size"])

    # The verdict's numbers, from those of the draws.
    guided = {which: {n: np.array(m["guided_backprop"]) for n, m in b.items()} for which, b in record["cosine"].items()}
    flat = np.stack([guided["first"]["none"], *guided["last"].values()])
    others = np.minimum(guided["all_but_one"]["conv4_1"], guided["all_but_one"]["logits"])
    by_quantity = {
        quantities.LOADED.format("the first half loaded", "guided_backprop"): guided["first"]["conv4_1"],
        quantities.LOADED.format("all but the last loaded", "guided_backprop"): guided["all_but_one"]["logits"],
        quantities.LOADED.format("all but the last loaded", "gradient"): np.array(
            record["cosine"]["all_but_one"]["logits"]["gradient"]
        ),
        quantities.LOADED.format("all but the first loaded", "guided_backprop"): guided["last"]["conv1_1"],
        "cosine, all but the first loaded, minus the lowest with another one random, guided_backprop": (
            guided["last"]["conv1_1"] - others
        ),
        "cosine, most minus least over what is loaded above a random first layer, guided_backprop": (
            flat.max(0) - flat.min(0)
        ),
    }
    checks = {c["quantity"]: c for c in record["verdicts"]["N10"]["checks"]}
    assert checks.keys() == by_quantity.keys()
    for quantity, by_draw in by_quantity.items():
        assert checks[quantity]["measured"] == pytest.approx(by_draw.mean(), abs=1e-6), quantity
        assert checks[quantity]["verdict"] != "not testable here"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 31}, "the parameter size is 31; allowed is a whole number from 32 to 224."),
        ({"size": 225}, "the parameter size is 225; allowed is a whole number from 32 to 224."),
        ({"n_draws": 0}, "the parameter n_draws is 0; allowed is a whole number from 1 to 100."),
        ({"layers": "16"}, "the parameter layers is '16'; allowed is one or more, with commas, of whole numbers"),
        ({"layers": "0,-1"}, "the parameter layers is '0,-1'; allowed is one or more, with commas, of whole numbers"),
        ({"layers": "1.5"}, "the parameter layers is '1.5'; allowed is"),
        ({"layers": ""}, "the parameter layers is ''; allowed is"),
        ({"methods": "pattern_net"}, "the parameter methods is 'pattern_net'; allowed is one or more, with commas, of"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"weights": "none.pt"}, "weights is 'none.pt', and there is no such file; allowed are embedded,"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_a_classifier_of_other_widths_stops_there_too(
    tmp_path_factory: pytest.TempPathFactory, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    widths = [zoo.FEATURES, 4, 4, 3]
    state = zoo.trunk()
    for position, n_in, n_out in zip((0, 3, 6), widths, widths[1:], strict=False):
        state |= {f"classifier.{position}.weight": torch.ones(n_out, n_in)}
        state |= {f"classifier.{position}.bias": torch.zeros(n_out)}
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    save_file(state, path)
    refuses(NAME, {"weights": path}, "narrow.safetensors', with another classifier than the embedded one's; allowed")
