"""The walkthrough on negative filtering and one random layer, re-run small through the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from modbp import claims, cli, images, networks, notebooks, walkthrough, zoo
from modbp.claims import quantities
from modbp.theory import recovery
from modbp.theory.recovery import Patches

NAME = "alignment-theorem-1"
FILTERING = ["guided_backprop", "rectgrad", "lrp_zplus", "deep_taylor", "excitation_bp"]
K = {
    "constant": math.pi,
    "guided_backprop": math.pi**2,
    "activation": 2.0,
    "positive": math.pi**2 / 2,
    "rectgrad": 9.459,
    "gradient": math.inf,
    "deconvolution": math.inf,
}


def law(coefficient: str, ratio: float) -> float:
    """For so many units per other input."""
    return (1 + K[coefficient] / ratio) ** -0.5


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = (t.detach().flatten().double() for t in (a, b))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_a_small_run_from_all_sides(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"n_images": 2, "size": 32, "n_pairs": 200, "draws": 20, "n_seeds": 2, "seed": 3}
    lists = {"inputs": "100,30", "ratios": "500,10", "filters": "64, 16", "kernels": "5,1"}
    words = [word for name, value in (given | lists).items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    defaults = notebooks.parameters(notebooks.find(NAME))
    numbers = {"inputs": [100, 30], "ratios": [500, 10], "filters": [64, 16], "kernels": [5, 1]}
    assert record["parameters"] == defaults | given | numbers | {"results": "record.json"}
    assert record["versions"] == walkthrough.versions()
    assert record["weights"] == zoo.describe(zoo.load().double())
    assert record["images"] == [p.name for p in images.load("embedded", 2)]

    checks = {claim: {c["quantity"]: c for c in row["checks"]} for claim, row in record["verdicts"].items()}
    tested = {
        claim: {quantity for quantity, c in by.items() if c["verdict"] != "not testable here"}
        for claim, by in checks.items()
    }
    assert tested["Z1"] == set(claims.find("Z1").predictions)
    assert tested["Z2"] == set(claims.find("Z2").predictions)
    coefficients = ("guided_backprop", "constant", "activation", "gradient", "deconvolution")
    assert tested["Z3"] == {
        *(quantities.ONE_LAYER.format(c, 10) for c in coefficients),
        quantities.INPUT_SIZES.format(30),
        *(quantities.OTHER_WEIGHTS.format(w) for w in ("uniform", "Rademacher", "isotropic Student")),
    }
    assert tested["Z4"] == {
        quantities.ONE_CONVOLUTION.format("normalized", "guided_backprop", filters) for filters in (16, 64)
    }

    check_forms(record)
    check_lemma(record)
    check_layers(record)
    check_convolution(record)

    # What the verdicts rest on are these numbers.
    means = {
        (layer["inputs"], layer["units"], layer["weights"]): {c: np.mean(v) for c, v in layer["cosines"].items()}
        for layer in record["one_layer"]
    }
    judged = {quantities.ONE_LAYER.format(c, 10): means[100, 1000, "Gaussian"][c] for c in coefficients}
    judged[quantities.INPUT_SIZES.format(30)] = means[30, 300, "Gaussian"]["guided_backprop"]
    for weights in ("uniform", "Rademacher", "isotropic Student"):
        judged[quantities.OTHER_WEIGHTS.format(weights)] = means[100, 1000, weights]["constant"]
    assert {q: checks["Z3"][q]["measured"] for q in judged} == pytest.approx(judged)
    for filters in (16, 64):
        values = record["one_convolution"][f"guided_backprop, {filters}"]["normalized"]
        own = [value for (kernel, *_), value in zip(record["networks"], values, strict=True) if kernel == 5]
        quantity = quantities.ONE_CONVOLUTION.format("normalized", "guided_backprop", filters)
        assert checks["Z4"][quantity]["measured"] == pytest.approx(np.mean(own))


def check_forms(record: dict) -> None:
    forms = record["forms"]
    assert set(forms) == {"inputs of both signs", "non-negative inputs", "VGG16"}
    for by_method in forms.values():
        assert set(by_method) == {*FILTERING, "gradient", "deconvolution"}
        assert max(f["difference"] for f in by_method.values()) < 1e-12
        assert min(f["control"] for f in by_method.values()) > 0.1
        assert [by_method[m]["outside"] for m in FILTERING] == [0] * 5
        assert min(by_method[m]["outside"] for m in ("gradient", "deconvolution")) > 0.25
        assert all(f["outside"] == max(f["layers"]) for f in by_method.values())
    for shares in record["relevance_outside_the_form"].values():
        assert len(shares) == 15
        assert max(shares) > 0.1

    # The gradient's share by autograd alone.
    network = networks.random_mlp(256, 6, inputs=100, outputs=100, seed=3).double()
    a = torch.randn(8, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    behind = []
    for layer in network:
        a = layer(a)
        if isinstance(layer, torch.nn.ReLU):
            behind.append(a)
    arriving = torch.autograd.grad(a.max(1).values.sum(), behind)
    passed = [r * (a > 0) for r, a in zip(arriving, behind, strict=True)]
    shares = [float(g.clamp(max=0).square().sum() / g.square().sum()) for g in passed]
    assert forms["inputs of both signs"]["gradient"]["layers"] == pytest.approx(shares)


def check_lemma(record: dict) -> None:
    assert [sum(counts) for counts in record["lemma_in_trials"].values()] == [0] * 5
    broken = [sum(counts) for counts in record["lemma_with_random_signs"].values()]
    assert all(10 < count <= 40 for count in broken)  # of forty pairs each
    in_vgg16 = record["lemma_in_vgg16"]
    # Two photographs, three logits, fifteen activations, three methods.
    assert in_vgg16["activations"] == {"pairs": 270, "violations": 0}
    assert in_vgg16["pre-activations"]["pairs"] == 270
    assert in_vgg16["pre-activations"]["violations"] > 90
    for found, expected in zip(record["cosines_of_noise"], (0, 1 / math.pi, math.sqrt(2) / math.pi), strict=True):
        assert found == pytest.approx([expected] * 5, abs=0.01)

    # The gradient at one activation, by autograd alone.
    network = zoo.load().double()
    x = torch.stack([network.transform(p.image) for p in images.load("embedded", 2)])
    x = torch.nn.functional.interpolate(x, 32, mode="area").double()
    a = network.features[:7](x).detach().requires_grad_()
    logits = network.classifier(network.avgpool(network.features[7:](a.clone())).flatten(1))
    stages = []
    for k in range(3):
        (r,) = torch.autograd.grad(logits[:, k].sum(), a, retain_graph=True)
        for signals in zip(r, r.clamp(min=0), r.clamp(min=0) * (a > 0), a, strict=True):
            *arriving, own = signals
            stages.append([cosine(signal, own) for signal in arriving])
    assert record["cosines_in_vgg16"]["gradient"]["conv2_1"] == pytest.approx(np.mean(stages, 0), abs=1e-9)


def check_layers(record: dict) -> None:
    layers = {(r["inputs"], r["units"], r["weights"]): r for r in record["one_layer"]}
    wide = [(n, ratio * n, "Gaussian") for n in (30, 100) for ratio in (10, 500)]
    assert set(layers) == {*wide, *((100, 1000, w) for w in ("uniform", "Rademacher", "isotropic Student"))}
    assert [layers[key]["drawn"] for key in wide] == [True, True, True, False]
    for (n, m, weights), layer in layers.items():
        for name, values in layer["cosines"].items():
            assert len(values) == 20
            dispersion = 1.178 if weights == "isotropic Student" else 1
            if name in ("activation", "rectgrad") and dispersion > 1:
                continue  # their coefficients look at the size of the response
            expected = law(name, m / (n - 1) / dispersion)
            # Single cosines deviate by 1/√n at most.
            assert np.mean(values) == pytest.approx(expected, abs=5 / math.sqrt(n * 20)), (n, m, weights, name)

    # One layer again, with NumPy alone: the third of the settings.
    x = torch.randn(100, generator=torch.Generator().manual_seed(103)).double().numpy()
    again = []
    for draw in range(20):
        W = np.random.default_rng([5, draw]).standard_normal((100, 1000))
        r = W @ (x @ W > 0)
        again.append(r @ x / np.linalg.norm(r) / np.linalg.norm(x))
    assert layers[100, 1000, "Gaussian"]["cosines"]["constant"] == pytest.approx(again)

    others = record["other_inputs"]
    assert len(others) == 8
    for kind, found in others.items():
        signs = kind == "one entry, Rademacher weights"
        expected = (1 + 2 * 99 / 1000) ** -0.5 if signs else law("constant", 1000 / 99)
        assert found["constant"] == pytest.approx(expected, abs=0.012), kind
    shuffled = others["non-negative, |N|, Gaussian weights"]
    assert shuffled["shuffled"] == pytest.approx(shuffled["guided_backprop"] * shuffled["shuffled input"], abs=0.03)
    assert shuffled["shuffled"] > 0.3 > abs(others["one entry, Gaussian weights"]["shuffled"])

    assert record["zplus_slopes"]["coefficients alike"] == pytest.approx(1, abs=0.15)
    for found in record["zplus"].values():
        assert min(found["R = x ⊙ r with x"]) > 0.97
        assert min(found["x ⊙ shuffled r with x"]) > 0.97
        assert 0.4 < np.mean(found["r with x, means removed"]) < 0.9


def check_convolution(record: dict) -> None:
    # With the judged kernel two networks for each photograph, with the other one a fifth of them, at least one.
    assert record["networks"] == [[5, 0, 3], [5, 0, 4], [5, 1, 5], [5, 1, 6], [1, 0, 3], [1, 1, 5]]
    network = zoo.load()
    x = torch.stack([network.transform(p.image) for p in images.load("embedded", 2)])
    x = torch.nn.functional.interpolate(x, 32, mode="area")
    patches, found = Patches(5), record["one_convolution"]
    methods = [*recovery.MASKS, "constant", "activation"]
    assert set(found) == {f"{method}, {filters}" for method in methods for filters in (16, 64)}
    masks = {**recovery.MASKS, "constant": lambda R, z: (z > 0).float(), "activation": lambda R, z: z.relu()}
    for place, (_, photograph, seed) in enumerate(record["networks"][:4]):
        one = x[[photograph]]
        maps = recovery.three_layer_maps(one, [16, 64], patches, seed=seed, methods=masks)
        expected = {
            "normalized": patches.normalized(one),
            "raw": one,
            "covered": one * patches.coverage(one)[:, None],
            "another": patches.normalized(x[[1 - photograph]]),
        }
        for name, by_image in found.items():
            method, filters = name.split(", ")
            again = {image: cosine(maps[method][int(filters)], other) for image, other in expected.items()}
            assert {image: v[place] for image, v in by_image.items()} == pytest.approx(again, abs=1e-6)
    for name in ("guided_backprop", "constant"):
        assert np.mean(found[f"{name}, 64"]["normalized"]) == pytest.approx(law(name, 64 / 3), abs=0.06)
    assert np.mean(found["activation, 64"]["covered"]) == pytest.approx(law("activation", 64 / 3), abs=0.06)
    assert np.abs(found["gradient, 64"]["normalized"]).max() < 0.1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weights": "none.pt"}, "weights is 'none.pt', and there is no such file; allowed are embedded,"),
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"n_images": 1}, "the parameter n_images is 1; allowed is a whole number from 2 to 100."),
        ({"size": 31}, "the parameter size is 31; allowed is a whole number from 32 to 224."),
        ({"n_pairs": 19}, "the parameter n_pairs is 19; allowed is a whole number from 20 to 10000000."),
        ({"inputs": "30,1"}, "the parameter inputs is '30,1'; allowed is one or more, with commas, of whole numbers"),
        ({"inputs": "2001"}, "of whole numbers from 2 to 2000."),
        ({"inputs": ""}, "the parameter inputs is ''; allowed is"),
        ({"ratios": "0.05"}, "the parameter ratios is '0.05'; allowed is one or more, with commas, of numbers from"),
        ({"ratios": "1,many"}, "the parameter ratios is '1,many'; allowed is"),
        ({"inputs": "30,2000", "ratios": "501,1"}, "ask for 2000 inputs with 501 units each; allowed are a million"),
        ({"inputs": "8,30", "ratios": "0.3"}, "ask for 8 inputs with 0.3 units each; allowed are three units"),
        ({"draws": 9}, "the parameter draws is 9; allowed is a whole number from 10 to 10000."),
        ({"filters": "16,0"}, "the parameter filters is '16,0'; allowed is one or more, with commas, of whole numbers"),
        ({"kernels": "16"}, "allowed is one or more, with commas, of whole numbers from 1 to 15."),
        ({"n_seeds": 0}, "the parameter n_seeds is 0; allowed is a whole number from 1 to 100."),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_one_picture_is_too_few(
    tmp_path_factory: pytest.TempPathFactory, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    pictures = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (40, 30), "teal").save(pictures / "only.png")
    said = "with one usable picture; allowed are two or more, since maps of different photographs are compared."
    refuses(NAME, {"images": str(pictures)}, said)
