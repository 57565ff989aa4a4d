"""The walkthrough on sufficiency, wrong decisions and triggers, re-run small through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import modbp
from modbp import cli, fitting, images, notebooks, walkthrough, zoo
from modbp.claims import quantities
from modbp.poison import checkerboard, poison

NAME = "alignment-and-decision"
METHODS = ["gradient", "guided_backprop", "lrp_zplus", "excitation_bp"]
PLACES = ["input", "conv2_2", "conv4_1", "conv5_3", "fc2"]
SIZE, SIDE, MARGIN = 32, 14, 2


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def decision(network: Any, x: Tensor) -> int:
    with torch.no_grad():
        return int(network(x).argmax())


def fed_back(method: str, network: Any, x: Tensor, target: int) -> int:
    """What the network decides when the map takes the place of the picture, with its norm."""
    s = modbp.make(method, network).attribute(x, target=target).detach()
    return decision(network, s * (x.norm() / s.norm()))


def share_at(s: Tensor, corner: int) -> float:
    mass = s.abs().double()
    return float(mass[..., corner : corner + SIDE, corner : corner + SIDE].sum() / mass.sum())


def test_a_small_run_from_all_sides(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = {"size": SIZE, "n_images": 2, "n_others": 1, "n_crops": 1, "n_decisions": 2, "n_draws": 2}
    given = small | {"side": SIDE, "target": 7, "n_triggered": 2, "methods": ",".join(METHODS), "seed": 4}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    lists = {"methods": METHODS, "results": "record.json"}
    assert record["parameters"] == notebooks.parameters(notebooks.find(NAME)) | given | lists
    assert record["versions"] == walkthrough.versions()
    network = zoo.load()
    assert record["weights"] == zoo.describe(network)

    # The map in the place of the picture, computed here.
    photographs = images.load()
    truth = torch.tensor([network.imagenet_classes.index(p.label) for p in photographs])
    x = torch.stack([network.transform(p.image) for p in photographs[:2]])
    x = torch.nn.functional.interpolate(x, size=(SIZE, SIZE), mode="area")
    explained = record["explained"]
    assert [row[0] for row in explained] == [decision(network, one[None]) for one in x]
    assert all(len(set(row)) == 2 for row in explained)
    for method in METHODS:
        signal = record["signal"][method]
        assert {question: list(by_place) for question, by_place in signal.items()} == {
            question: sorted(PLACES)
            for question in ("right class: keeps", "wrong class: follows", "wrong class: keeps")
        }
        for i, (right, wrong) in enumerate(explained):
            kept, after = (fed_back(method, network, x[i : i + 1], k) for k in (right, wrong))
            assert signal["right class: keeps"]["input"][i] == (kept == right)
            assert signal["wrong class: keeps"]["input"][i] == (after == right)
            assert signal["wrong class: follows"]["input"][i] == (after == wrong)
    # At the last hidden layer the gradient's signal is the template of the class that is asked for.
    assert record["signal"]["gradient"]["right class: keeps"]["fc2"] == [1.0, 1.0]
    assert record["signal"]["gradient"]["wrong class: follows"]["fc2"] == [1.0, 1.0]
    assert set(record["pixels"]) == set(record["signal"]) == {*METHODS, "random"}
    # The two rules differ by the sign of their start, which a pixel's rank does not see.
    assert record["pixels"]["lrp_zplus"] == record["pixels"]["excitation_bp"]

    # Wrong decisions, on crops drawn here.
    crops, index = fitting.draw_inputs(photographs, 1, 5, SIZE)
    own = truth[index]
    inputs = zoo.subtract_mean(crops)
    decided = [decision(network, one[None]) for one in inputs]
    drawn = record["crops"]
    assert drawn["all"] == 20
    assert drawn["decided wrongly"] == sum(k != int(t) for k, t in zip(decided, own, strict=True))
    assert len(drawn["wrong"]) == 2
    assert all(decided[i] != own[i] for i in drawn["wrong"])
    assert all(decided[i] == own[i] for i in drawn["right"])
    for method in METHODS[:3]:
        for position, i in enumerate(drawn["wrong"]):
            of_decision, of_truth = (
                modbp.make(method, network).attribute(inputs[i : i + 1], target=int(k)) for k in (decided[i], own[i])
            )
            found = record["cosine"][method]["wrong: true class"][position]
            assert found == pytest.approx(cosine(of_decision, of_truth), abs=1e-3)
    assert set(record["cosine"]) == set(METHODS[:3])
    for row, i in zip(drawn["classes"], [*drawn["wrong"], *drawn["right"]], strict=True):
        assert row[0] == decided[i]
        assert len(set(row)) == 3

    # The trigger, with classifiers fitted here. Their weights agree to float16, not bit by bit.
    pixels, of = fitting.draw_inputs(photographs, 2, 4, SIZE)
    trigger = checkerboard(SIDE, MARGIN, MARGIN)
    networks = dict(zip(("poisoned", "clean"), poison(network, pixels, truth[of], trigger, 7, seed=4), strict=True))
    stamped = zoo.subtract_mean(trigger.stamp(crops))
    shares: dict[tuple[str, str], list[float]] = {}
    for who, fitted in networks.items():
        accuracy = np.mean([decision(fitted, one[None]) == int(t) for one, t in zip(inputs, own, strict=True)])
        assert record["accuracy"][f"{who}, no trigger"] == pytest.approx(accuracy, abs=0.051)
        hits = [decision(fitted, one[None]) == 7 for one, t in zip(stamped, own, strict=True) if t != 7]
        assert record["attack_success"][f"{who}, trigger"] == pytest.approx(np.mean(hits), abs=0.06)
        for method in METHODS[:3]:
            for i in record["triggered"]:
                assert own[i] != 7
                one = stamped[i : i + 1]
                s = modbp.make(method, fitted).attribute(one, target=decision(fitted, one))
                shares.setdefault((who, method), []).append(share_at(s, MARGIN))
            found = record["share_in_the_trigger"][who][method]["decided"]
            assert found == pytest.approx(shares[who, method], rel=0.03)
    assert record["attack_success"]["poisoned, trigger"] > 0.5 > record["attack_success"]["clean, trigger"]
    assert all(decision(networks["poisoned"], stamped[i : i + 1]) == 7 for i in record["triggered"])

    # The verdict's numbers, from those of the pictures.
    kept = {m: np.mean(list(record["signal"][m]["right class: keeps"].values())) for m in METHODS}
    follows = {m: np.mean(record["signal"][m]["wrong class: follows"]["input"]) for m in METHODS}
    at_random = record["pixels"]["random"]
    chance = np.mean([at_random[question]["0.2"] for question in ("right class: keeps", "wrong class: keeps")])
    fifth = {m: np.mean(record["pixels"][m]["right class: keeps"]["0.2"]) - chance for m in METHODS}
    wrong_ones = {m: np.mean(record["cosine"][m]["wrong: true class"]) for m in METHODS[:3]}
    over = {m: np.mean(shares["poisoned", m]) / np.mean(shares["clean", m]) for m in METHODS[:3]}
    pixels_kept = "share of decisions kept, a fifth of the pixels, {} minus random pixels"
    expected = {
        **{quantities.KEPT.format(m, "signal in place of the activation"): kept[m] for m in METHODS[:2]},
        **{
            quantities.FOLLOWED.format(m, "signal in place of the input"): follows[m] for m in ("gradient", "lrp_zplus")
        },
        **{pixels_kept.format(m): fifth[m] for m in METHODS[:2]},
        **{quantities.WRONG.format(m): wrong_ones[m] for m in METHODS[:3]},
        **{quantities.TRIGGER.format(m): over[m] for m in METHODS[:3]},
    }
    verdicts = record["verdicts"]
    assert list(verdicts) == ["Z12", "Z13"]
    checks = {c["quantity"]: c for claim in verdicts.values() for c in claim["checks"]}
    missing = quantities.FOLLOWED.format("deconvolution", "signal in place of the input")
    assert checks.pop(missing)["verdict"] == "not testable here"
    assert checks.keys() == expected.keys()
    for quantity, value in expected.items():
        assert checks[quantity]["measured"] == pytest.approx(value, rel=0.03, abs=1e-3), quantity
        assert checks[quantity]["verdict"] != "not testable here"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 31}, "the parameter size is 31; allowed is a whole number from 32 to 224."),
        ({"n_images": 21}, "the parameter n_images is 21; allowed is a whole number from 1 to 20."),
        ({"n_others": 0}, "the parameter n_others is 0; allowed is a whole number from 1 to 18."),
        ({"n_others": 19}, "the parameter n_others is 19; allowed is a whole number from 1 to 18."),
        ({"n_crops": 0}, "the parameter n_crops is 0; allowed is a whole number from 1 to 100."),
        ({"n_decisions": 0}, "the parameter n_decisions is 0; allowed is a whole number from 1 to 100."),
        ({"n_draws": 0}, "the parameter n_draws is 0; allowed is a whole number from 1 to 100."),
        ({"side": 3}, "the parameter side is 3; allowed is a whole number from 4 to 112."),
        ({"side": 29}, "the parameter side is 29, and size is 64; allowed is a trigger of at most 28 pixels"),
        ({"target": 19}, "the parameter target is 19; allowed is a whole number from 0 to 18."),
        ({"n_triggered": 0}, "the parameter n_triggered is 0; allowed is a whole number from 1 to 100."),
        ({"methods": "pattern_net"}, "the parameter methods is 'pattern_net'; allowed is one or more, with commas, of"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"weights": "imagenet"}, "the parameter weights is 'imagenet'; allowed are embedded and random"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)
