"""The walkthrough on depth, re-run small through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from modbp import claims, cli, images, metrics, networks, notebooks, walkthrough, zoo
from modbp.claims import quantities
from modbp.theory import recovery

NAME = "depth-and-class"
SEED = 5
DEPTHS = ("one block", "two blocks", "three blocks", "four blocks", "five blocks", "full network")
GUIDED = "max-pooled, guided_backprop"
POINTS = ("features.4", "features.9", "features.16", "features.23", "features.30")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of one small run, which all tests here look at."""
    path = tmp_path_factory.mktemp("depth")
    given = {"n_images": 2, "size": 48, "n_networks": 2, "width": 300, "depths": 4, "seed": SEED}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("OMP_NUM_THREADS", "1")
        assert cli.main(["run", NAME, *words, "-p", "results", "record.json"]) == 0
    found = json.loads((path / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    defaults = notebooks.parameters(notebooks.find(NAME))
    assert found["parameters"] == defaults | given | {"results": "record.json"}
    assert found["versions"] == walkthrough.versions()
    return found


def test_the_record_has_a_number_for_every_network_and_photograph(record: Any) -> None:
    assert record["images"] == [p.name for p in images.load(n=2)]
    assert [d["source"] for d in record["weights"]] == [f"random (seed {SEED + i})" for i in range(2)]
    assert record["weights"][1]["sha256"] == zoo.fingerprint(zoo.load(weights="random", seed=SEED + 1))
    keys = {
        f"{pooling}-pooled, {m}"
        for pooling in ("max", "average")
        for m in ("gradient", "deconvolution", "guided_backprop")
    }
    for quantity, by_key in record["random_vgg16"].items():
        assert set(by_key) == keys
        for by_place in by_key.values():
            places = [*POINTS[3::-1], "input"] if quantity == "from five blocks" else DEPTHS
            assert set(by_place) == set(places)
            assert {len(values) for values in by_place.values()} == {4}


@pytest.mark.parametrize(("pooling", "method"), [("max", "deconvolution"), ("average", "guided_backprop")])
@pytest.mark.parametrize("depth", [2, 5])
def test_the_numbers_are_those_of_a_network_with_a_linear_head(
    record: Any, pooling: str, method: str, depth: int
) -> None:
    """The other way round: build the head as a layer, and go through all layers by hand."""
    network = zoo.load(weights="random", seed=SEED + 1)
    inputs = torch.stack([network.transform(p.image) for p in images.load(n=2)])
    x, other = nn.functional.interpolate(inputs, size=(48, 48), mode="area").split(1)
    if pooling == "average":
        network = networks.average_pooled(network)
    end = int(POINTS[depth - 1].split(".")[1]) + 1
    trunk = [*network.features[:end], nn.Flatten()]
    channels, side = (128, 12) if depth == 2 else (512, 1)
    drawn = np.random.default_rng([SEED, 1, 0, depth - 1]).standard_normal((3, channels, side, side), np.float32)
    head = nn.Linear(channels * side * side, 3, bias=False)
    head.weight.data = torch.from_numpy(drawn).flatten(1)
    # The second network's first photograph stands third.
    mask = recovery.MASKS[method]
    maps = torch.stack([recovery.masked_backward([*trunk, head], x, torch.eye(3)[[k]], mask) for k in range(3)])
    recomputed = {
        "correlation": metrics.correlation(maps[:, 0], x).mean(),
        "correlation, another": metrics.correlation(maps[:, 0], other).mean(),
        "high-pass": metrics.high_pass_correlation(maps[:, 0], x).mean(),
        "high-pass, another": metrics.high_pass_correlation(maps[:, 0], other).mean(),
        "cosine": sum(metrics.cosine(maps[a], maps[b]) for a, b in ((0, 1), (0, 2), (1, 2))) / 3,
        "distance": metrics.class_distance(maps),
    }
    found = {q: record["random_vgg16"][q][f"{pooling}-pooled, {method}"][DEPTHS[depth - 1]][2] for q in recomputed}
    assert found == pytest.approx({q: float(value) for q, value in recomputed.items()}, abs=2e-4)
    if depth == 5:
        inside = record["random_vgg16"]["from five blocks"][f"{pooling}-pooled, {method}"]
        assert inside["input"][2] == found["cosine"]


def test_what_depth_does_to_random_networks(record: Any) -> None:
    means = {
        quantity: {key: [np.mean(by_place[d]) for d in DEPTHS] for key, by_place in by_key.items()}
        for quantity, by_key in record["random_vgg16"].items()
        if quantity != "from five blocks"
    }
    high_pass, cosines, distances = means["high-pass"], means["cosine"], means["distance"]
    assert min(high_pass["max-pooled, guided_backprop"]) > 0.5 > 0.2 > max(means["high-pass, another"][GUIDED])
    assert (
        min(high_pass["max-pooled, deconvolution"]) > 0.15 > max(map(abs, high_pass["average-pooled, deconvolution"]))
    )
    assert max(map(abs, high_pass["max-pooled, gradient"])) < 0.05
    for key in (GUIDED, "max-pooled, deconvolution"):
        assert all(deep > shallow for shallow, deep in pairwise(cosines[key])), key
        assert all(deep < shallow for shallow, deep in pairwise(distances[key])), key
    assert max(map(abs, cosines["max-pooled, gradient"][:5])) < 0.1
    assert distances["max-pooled, gradient"][0] == pytest.approx(2**0.5, abs=0.05)


def test_fully_connected_signals_are_those_of_the_formula(record: Any) -> None:
    """With matrices alone: ten logits start as the rows of the last weights."""
    signals = record["fully_connected"]
    assert {name: np.shape(runs) for name, runs in signals.items()} == dict.fromkeys(
        ["deconvolution", "gradient", "guided_backprop", "Guided Backprop, other weights"], (2, 5)
    )
    x = np.random.default_rng([SEED, 1]).standard_normal((1, 300), np.float32)
    mlp, other = (networks.random_mlp(300, 5, outputs=10, seed=SEED + n) for n in (1, 1001))
    own, strange = ([m.weight.detach().double() for m in net if isinstance(m, nn.Linear)] for net in (mlp, other))
    gates, a = [], torch.from_numpy(x).double()
    for weight in own[:-1]:
        a = (a @ weight.T).clamp(min=0)
        gates.append(a > 0)

    def down(weights: list[Tensor], mask: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        R = weights[-1]
        found = [R]
        for weight, gate in zip(weights[-2::-1], gates[::-1], strict=True):
            R = mask(R, gate) @ weight
            found.append(R)
        return [float(metrics.pairwise_cosine(R[:, None])) for R in found]

    expected = {
        "deconvolution": down(own, lambda R, gate: R.clamp(min=0)),
        "gradient": down(own, lambda R, gate: R * gate),
        "guided_backprop": down(own, lambda R, gate: R.clamp(min=0) * gate),
        "Guided Backprop, other weights": down(strange, lambda R, gate: R.clamp(min=0) * gate),
    }
    for name, cosines in expected.items():
        assert signals[name][1] == pytest.approx(cosines, abs=1e-5), name
    assert record["arc_cosine_recursion"] == recovery.arc_cosine_recursion(15)
    assert np.mean(signals["deconvolution"], 0) == pytest.approx(recovery.arc_cosine_recursion(4), abs=0.08)
    assert np.mean(signals["guided_backprop"], 0)[3] > recovery.arc_cosine_recursion(4)[3] + 0.1


def test_the_verdict_rests_on_these_numbers(record: Any) -> None:
    checks = {c["quantity"]: c for c in record["verdicts"]["N8"]["checks"]}
    assert set(checks) == set(claims.find("N8").predictions)
    assert [q for q, c in checks.items() if c["verdict"] == "not testable here"] == [quantities.ARC_COSINE.format(8)]
    vgg = record["random_vgg16"]
    plain = vgg["correlation"][GUIDED]
    expected = {
        "correlation with the image, five blocks minus one, guided_backprop": np.mean(plain["five blocks"])
        - np.mean(plain["one block"]),
        quantities.RANDOM_HIGH_PASS.format("five blocks", "average", "deconvolution"): np.mean(
            vgg["high-pass"]["average-pooled, deconvolution"]["five blocks"]
        ),
        quantities.RANDOM_HIGH_PASS.format("five blocks", "max", "guided_backprop"): np.mean(
            vgg["high-pass"][GUIDED]["five blocks"]
        ),
        quantities.RANDOM_CLASSES.format("one block", "deconvolution"): np.mean(
            vgg["cosine"]["max-pooled, deconvolution"]["one block"]
        ),
        quantities.RANDOM_CLASSES.format("five blocks", "guided_backprop"): np.mean(
            vgg["cosine"][GUIDED]["five blocks"]
        ),
        quantities.ARC_COSINE.format(4): np.mean(record["fully_connected"]["deconvolution"], 0)[4],
    }
    measured = {quantity: checks[quantity]["measured"] for quantity in expected}
    assert measured == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 1}, "the parameter n_images is 1; allowed is a whole number from 2 to 1000."),
        ({"size": 31}, "the parameter size is 31; allowed is a whole number from 32 to 1024."),
        ({"n_networks": 1}, "the parameter n_networks is 1; allowed is a whole number from 2 to 100."),
        ({"width": 1}, "the parameter width is 1; allowed is a whole number from 2 to 10000."),
        ({"depths": 0}, "the parameter depths is 0; allowed is a whole number from 1 to 64."),
        ({"width": 10_000}, "depths is 8 and width is 10000; allowed are at most 2·10⁸ weights"),
        ({"depths": 64}, "depths is 64 and width is 2000; allowed are at most 2·10⁸ weights"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_one_photograph_has_no_other_to_compare_with(
    tmp_path_factory: pytest.TempPathFactory, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    pictures = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (64, 64), "red").save(pictures / "lonely.png")
    refuses(NAME, {"images": pictures}, "images has one usable picture, lonely.png; allowed are at least two, since")
