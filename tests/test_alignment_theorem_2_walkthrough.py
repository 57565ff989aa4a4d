"""The walkthrough on what passes alignment on, re-run small through the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from modbp import cli, images, notebooks, walkthrough, zoo
from modbp.claims import find
from modbp.theory import alignment

NAME = "alignment-theorem-2"
SMALL: dict[str, object] = {
    "n_patches": 1,
    "inputs": 40,
    "draws": 4,
    "cases": 12,
    "width": 60,
    "narrow": 16,
    "networks": 2,
    "bottom": 80,
    "randomized": 5,
    "seed": 3,
}


def run(capfd: pytest.CaptureFixture[str], folder: Path, **given: object) -> dict[str, Any]:
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert captured.out == f"wrote {folder / f'{NAME}.run.ipynb'}\n"
    return json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def verdicts(record: Mapping[str, Any], claim: str) -> dict[str, str]:
    return {c["quantity"]: c["verdict"] for c in record["verdicts"][claim]["checks"]}


def signals_down(weights: Sequence[Tensor], x: Tensor, top: Tensor, filters: bool) -> tuple[list[float], Tensor]:
    """Gate each signal, filter it or not, and send it down; written once more, one signal at a time."""
    activations = [x]
    for W in weights:
        activations.append((W.T @ activations[-1]).relu())
    r, found = top, []
    for W, a in zip(reversed(weights), reversed(activations[1:]), strict=True):
        g = torch.where(a > 0, r.relu() if filters else r, 0.0)
        found.append(float(g @ a / (g.norm() * a.norm())))
        r = W @ g
    return found, r


def test_a_small_run_from_all_sides(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = run(capfd, folder, **SMALL)
    assert record["parameters"] == notebooks.parameters(notebooks.find(NAME)) | SMALL | {"results": "record.json"}
    assert record["versions"] == walkthrough.versions()
    assert record["images"] == [p.name for p in images.load("embedded", 2)]
    for claim in ("Z5", "Z6", "Z7"):
        found = verdicts(record, claim)
        assert set(found) == set(find(claim).predictions)
        assert "not testable here" not in found.values()

    # Z5
    exact = {"orthogonal", "± pairs, κ = 2"}
    assert {kind for kind, error in record["errors"].items() if error < 1e-14} == exact
    assert min(error for kind, error in record["errors"].items() if kind not in exact) > 0.01
    for kind, of in record["signals"].items():
        for cosine, sent in of.items():
            assert [done["above"] for done in sent] == pytest.approx([float(cosine)] * 8, abs=1e-12), kind
        ratios = [done["below"] / done["above"] for sent in of.values() for done in sent]
        apart = max(ratios) - min(ratios)
        assert (apart < 1e-12) == (kind in {"orthogonal", "± pairs"}), kind
    assert {verdicts(record, "Z5")[q] for q in verdicts(record, "Z5") if "violations" in q} == {"confirmed"}
    assert record["tested_for_violations"] == {"Gaussian": 12 + 3 * 3 * 4, "VGG16": 13 * 2 * 3}
    kept = record["passed_on"]
    assert {kind: set(of) for kind, of in kept.items()} == {
        "orthogonal": {"1/4", "1/2", "1"},
        "pairs": {"2", "4", "10"},
        "tight_frame": {"1", "2", "4", "10"},
        "gaussian": {"1/4", "1/2", "1", "2", "4", "10"},
    }
    for kind, of in kept.items():
        for ratio, values in of.items():
            top, _, bottom = ratio.partition("/")
            law = alignment.passed_on(kind, int(top) / int(bottom or 1))
            assert np.mean(values) == pytest.approx(law, abs=1e-9 if kind == "pairs" else 0.12), (kind, ratio)
    for draw in range(4):  # the share of the input that is seen by active columns that are orthonormal
        rng = np.random.default_rng([3, draw, 40])
        Q = alignment.orthogonal(40, 40, int(rng.integers(2**31)))
        a = torch.from_numpy(rng.standard_normal(40))
        share = (Q.T @ a).relu().norm() / a.norm()
        assert kept["orthogonal"]["1"][draw] == pytest.approx(float(share), abs=1e-12)

    network = zoo.load()
    W = network.features[0].weight.detach().flatten(1).double()
    rng = np.random.default_rng([3, 0])
    for number, photograph in enumerate(images.load("embedded", 2)):
        x = network.transform(photograph.image)
        row, column = rng.integers(x.shape[1] - 2, size=2)
        a = x[:, row : row + 3, column : column + 3].flatten().double()
        noise = torch.from_numpy(rng.standard_normal(64))
        open_gates = W @ a > 0
        for kind, g in (("activation", (W @ a).relu()), ("filtered noise", noise.relu() * open_gates)):
            below = cosine_similarity(W.T @ g, a, dim=0)
            assert record["vgg16"]["conv1_1"][kind][number]["below"] == pytest.approx(float(below), abs=1e-6)
        assert record["vgg16"]["conv1_1"]["active"][number] == float(open_gates.double().mean())
    assert list(record["vgg16"]) == list(zoo.vgg16_activations())[:13]
    for of in record["vgg16"].values():
        assert all(done["above"] >= 0 for kind in ("activation", "filtered noise", "noise") for done in of[kind])

    # Z6: the first of the two networks of equal width, once more.
    settling = record["settling"]
    layers = {"1/2": 8, "1": 10, "2": 8, "1, orthogonal": 10}
    assert {k: np.shape(of["filter, from noise"]) for k, of in settling.items()} == {
        k: (2, n + 1) for k, n in layers.items()
    }
    weights = alignment.random_weights([100] + [60] * 10, 3)
    rng = np.random.default_rng([3, 1])
    again: dict[str, list[list[float]]] = {}
    for _ in range(8):
        x = torch.from_numpy(rng.standard_normal(100))
        tops = torch.from_numpy(rng.standard_normal((4, 60)))
        a = x
        for W in weights:
            a = (W.T @ a).relu()
        for name, top, filters in [("filter, from noise", top, True) for top in tops] + [
            ("filter, aligned start", a, True),
            ("no filter, aligned start", a, False),
        ]:
            cosines, r = signals_down(weights, x, top, filters)
            again.setdefault(name, []).append([*cosines, float(cosine_similarity(r, x, dim=0))])
    for name, values in again.items():
        assert settling["1"][name][0] == pytest.approx(np.mean(values, 0), abs=2e-4), name
    for ratio, kappa in (("1/2", 0.5), ("1", 1.0), ("2", 2.0)):
        c = np.mean(settling[ratio]["filter, from noise"], 0)[7]
        assert c == pytest.approx(alignment.settled(kappa), abs=0.1)
        assert settling[ratio]["no filter, aligned start"][0][0] == pytest.approx(1, abs=1e-5)
    after = [np.mean(settling["1"]["no filter, aligned start"], 0)[k] for k in (1, 3, 9)]
    assert after == pytest.approx([1 / math.sqrt(1 + k) for k in (1, 3, 9)], abs=0.12)
    # The identity: below a layer of orthogonal weights of equal norm, √½ of what is above it.
    *_, above, below = np.mean(settling["1, orthogonal"]["filter, from noise"], 0)
    assert below == pytest.approx(math.sqrt(0.5) * above, abs=0.05)

    # Z7
    shapes = {"equal widths": [80] + [160] * 8, "falling widths": [80, 320, 240, 160, 120, 80, 40]}
    assert record["widths"] == shapes
    for shape, widths in shapes.items():
        recursion = alignment.randomized_from_top(alignment.layer_ratios(widths))
        assert record["predicted"][shape] == pytest.approx(recursion, abs=1e-12)
        runs = record["simulated"][shape]
        assert len(runs) == 5
        assert np.mean([found["guided_backprop"] for found in runs], 0) == pytest.approx(recursion, abs=0.1)
        assert abs(np.mean([found["gradient"] for found in runs])) < 0.1
        assert np.mean([found["deconvolution"][0] for found in runs]) > 0.6
        assert abs(np.mean([found["deconvolution"][-1] for found in runs])) < 0.15
    drawn, fresh = (alignment.random_weights(shapes["falling widths"], 2 * (3 + 4) + i) for i in (0, 1))
    rng = np.random.default_rng([3 + 4, 3])
    x, tops = torch.from_numpy(rng.standard_normal(80)), torch.from_numpy(rng.standard_normal((2, 40)))
    _, original = signals_down(drawn, x, tops[0], filters=True)
    for point, kept_layers in enumerate(range(6, -1, -1)):
        _, other = signals_down([*drawn[:kept_layers], *fresh[kept_layers:]], x, tops[1], filters=True)
        expected = float(cosine_similarity(original, other, dim=0))
        assert record["simulated"]["falling widths"][4]["guided_backprop"][point] == pytest.approx(expected, abs=1e-9)
    assert {name: list(of) for name, of in record["two_logits_predicted"].items()} == {
        name: ["1", "2", "4", "8"] for name in ("two logits", "a logit and its negative")
    }
    for name, of in record["two_logits_predicted"].items():
        means = np.mean([found[name] for found in record["two_logits"]], 0)
        assert means == pytest.approx(list(of.values()), abs=0.1), name
    # What was judged is the largest difference of the means.
    measured = {c["quantity"]: c["measured"] for c in record["verdicts"]["Z7"]["checks"]}
    curve = np.mean([found["guided_backprop"] for found in record["simulated"]["equal widths"]], 0)
    largest = np.abs(curve - record["predicted"]["equal widths"]).max()
    assert measured[next(q for q in measured if "from the top" in q)] == pytest.approx(largest)
    assert record["last_point"]["1"] == [found["guided_backprop"][-1] for found in record["simulated"]["equal widths"]]
    assert {share: len(values) for share, values in record["last_point"].items()} == {"0.25": 5, "0.5": 5, "1": 5}


def test_random_kernels_keep_what_gaussian_weights_do(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = run(capfd, folder, **SMALL | {"weights": "random", "n_patches": 8, "randomized": 2, "cases": 2})
    found = verdicts(record, "Z5")
    assert [q for q, v in found.items() if v == "not testable here"] == [q for q in found if "VGG16" in q]
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    for (name, of), inputs, units in zip(record["vgg16"].items(), widths, widths[1:], strict=False):
        law = alignment.passed_on("gaussian", units / (9 * inputs))
        below = np.mean([done["below"] for done in of["activation"]])
        assert below == pytest.approx(law, abs=0.08), name
        assert np.mean(of["active"]) == pytest.approx(0.5, abs=0.1), name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weights": "no-such-file.pt"}, "no-such-file.pt"),
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"n_patches": 0}, "the parameter n_patches is 0; allowed is a whole number from 1 to 100."),
        ({"inputs": 7}, "the parameter inputs is 7; allowed is a whole number from 8 to 1000."),
        ({"inputs": 302}, "the parameter inputs is 302; allowed is a multiple of 4, since layers with a quarter"),
        ({"draws": 1}, "the parameter draws is 1; allowed is a whole number from 2 to 1000."),
        ({"cases": 0}, "the parameter cases is 0; allowed is a whole number from 1 to 100000."),
        ({"width": 15}, "the parameter width is 15; allowed is a whole number from 16 to 4096."),
        ({"narrow": 129}, "the parameter narrow is 129; allowed is a whole number from 8 to 128."),
        ({"networks": 1}, "the parameter networks is 1; allowed is a whole number from 2 to 100."),
        ({"bottom": 15}, "the parameter bottom is 15; allowed is a whole number from 16 to 1000."),
        ({"randomized": 1}, "the parameter randomized is 1; allowed is a whole number from 2 to 1000."),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)
