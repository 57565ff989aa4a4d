"""The walkthrough on alignment in VGG16, re-run small through the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import modbp
from modbp import cli, images, notebooks, walkthrough, zoo
from modbp.claims import quantities
from modbp.theory import alignment

NAME = "alignment-vgg16"
FILTERS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient": lambda r, a: r * (a > 0),
    "deconvolution": lambda r, a: r.clamp(min=0),
    "guided_backprop": lambda r, a: r.clamp(min=0) * (a > 0),
}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def by_hand(network: Any, x: Tensor, method: str, start: Tensor | None = None) -> tuple[Tensor, list[dict[str, float]]]:
    """A map, and the alignments from fc2 down to conv1_1, layer by layer without the package's engine."""
    modules = [*network.features, network.avgpool, nn.Flatten(), *network.classifier]
    values = [x]
    for module in modules:
        with torch.no_grad():
            values.append(F.relu(values[-1]) if isinstance(module, nn.ReLU) else module(values[-1]))
    logits = values[-1]
    r = F.one_hot(logits.argmax(1), logits.shape[1]).float() if start is None else start
    found = []
    for module, before, after in zip(reversed(modules), values[-2::-1], values[:0:-1], strict=True):
        if isinstance(module, nn.ReLU):
            g = FILTERS[method](r, after)
            on = (after > 0) | (method == "deconvolution")  # which has no gate
            shuffled = g[on].double().mean() * after[on].double().mean() * on.sum()
            found.append(
                {
                    "arriving": cosine(r, after),
                    "filtered": cosine(g, after),
                    "shuffled": float(shuffled / (g[on].double().norm() * after[on].double().norm())),
                }
            )
            r = g
        else:
            before = before.clone().requires_grad_()
            (r,) = torch.autograd.grad(module(before), before, r)
    return r, found


def mixed(trained: Any, random: Any, last_trained: int) -> Any:
    network = zoo.load(weights="embedded")
    layers = [name.removesuffix(".weight") for name in trained.state_dict() if name.endswith(".weight")]
    above = set(layers[last_trained + 1 :])
    states = trained.state_dict(), random.state_dict()
    network.load_state_dict({n: states[n.rpartition(".")[0] in above][n] for n in states[0]})
    return network


@torch.no_grad()
def toward_input(network: Any, x: Tensor) -> list[float]:
    """The mean cosine of the active weights of conv1_1 and fc2 with what they see, over its isotropic value."""
    found = []
    for layer, a in (
        (network.features[0], F.unfold(x, 3, padding=1)[0].T),
        (network.classifier[3], network.classifier[:3](network.avgpool(network.features(x)).flatten(1))),
    ):
        weight, a = layer.weight.flatten(1).double(), a.double()
        response = a @ weight.T
        cosines = response / a.norm(dim=1, keepdim=True) / weight.norm(dim=1)
        on = (response + layer.bias.double() > 0) & cosines.isfinite()
        n = weight.shape[1]
        isotropic = math.gamma(n / 2) / math.gamma((n + 1) / 2) / math.sqrt(math.pi)
        found.append(float(cosines[on].mean() / isotropic))
    return found


def test_a_small_run_from_all_sides(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {
        "size": 32,
        "n_draws": 2,
        "methods": "excitation_bp,gradient",
        "layers": "7,0",
        "n_layers": 100,
        "n_networks": 2,
        "seed": 5,
    }
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    lists = {"layers": [7, 0], "methods": ["excitation_bp", "gradient"], "results": "record.json"}
    assert record["parameters"] == notebooks.parameters(notebooks.find(NAME)) | given | lists
    assert record["versions"] == walkthrough.versions()

    trained, *fresh = [zoo.load(), *(zoo.load(weights="random", seed=seed) for seed in (6, 7))]
    assert record["weights"] == [zoo.describe(network) for network in (trained, *fresh)]
    photographs = images.load("embedded", 2)
    assert record["images"] == [p.name for p in photographs]
    x = F.interpolate(torch.stack([trained.transform(p.image) for p in photographs]), size=(32, 32), mode="area")
    with torch.no_grad():
        target = trained(x).argmax(1)
    one = F.one_hot(target, 19).float()
    assert record["classes"] == [trained.categories[k] for k in target]

    # Z11: the profiles of the second photograph, from a backward pass by hand.
    for which, network in (("trained", trained), ("random", fresh[1])):
        for method in FILTERS:
            s, layers = by_hand(network, x[1:], method)
            for column in ("arriving", "filtered", "shuffled"):
                numbers = record["profile"][which][method][column][1]
                assert numbers[:-1] == pytest.approx([row[column] for row in layers], abs=1e-3), (which, method, column)
            assert record["profile"][which][method]["arriving"][1][-1] == pytest.approx(cosine(s, x[1:]), abs=1e-3)
    rules = record["every_rule"]
    assert rules["random"].keys() == {*record["profile"]["random"], "excitation_bp"}
    for by_rule in rules.values():  # z⁺ and Excitation BP differ in their start alone
        assert by_rule["excitation_bp"]["filtered"] == pytest.approx(by_rule["lrp_zplus"]["filtered"], abs=1e-4)
        assert np.mean(by_rule["lrp_zplus"]["shuffled"]) > 0.4 > np.mean(by_rule["gradient"]["filtered"])
    largest = record["gradient_of_logits"]["trained"]["the largest logit"][1]
    assert largest == pytest.approx(record["profile"]["trained"]["gradient"]["arriving"][1][:-1], abs=1e-5)
    # Without max-pooling nothing of Deconvolution arrives aligned at random layers.
    pooled = np.array(record["deconvolution_in"]["random, average-pooled"])
    assert abs(pooled[:, 0].mean()) < 0.05
    assert pooled[:, 1].mean() == pytest.approx(1 / math.pi, abs=0.05)

    # Z8: maps and signals of a network put together from state dicts.
    assert record["cosine_randomized"]["gradient"].keys() == {"conv4_1", "conv1_1", "none"}
    half = mixed(trained, fresh[1], 7)
    for method in ("gradient", "guided_backprop"):
        of_half, below = by_hand(half, x[1:], method, one[1:])
        whole, expected = by_hand(trained, x[1:], method, one[1:])
        of_random, _ = by_hand(fresh[1], x[1:], method, one[1:])
        another, _ = by_hand(trained, x[:1], method, one[:1])
        by_cut = {name: numbers[1] for name, numbers in record["cosine_randomized"][method].items()}
        assert by_cut["conv4_1"] == pytest.approx(cosine(of_half, whole), abs=1e-3)
        assert by_cut["none"] == pytest.approx(cosine(of_random, whole), abs=1e-3)
        control = record["cosine_with_another_photograph"][method][1]
        assert control == pytest.approx(cosine(of_half, another), abs=1e-3)
    signals = [[row["filtered"] for row in rows[::-1][:8]] for rows in (below, expected)]
    assert np.array(record["alignment_below"]["guided_backprop"][1]) == pytest.approx(np.array(signals), abs=1e-3)
    maps = [modbp.make("excitation_bp", network).attribute(x[1:], target[1:]) for network in (half, trained)]
    assert record["cosine_randomized"]["lrp_zplus"]["conv4_1"][1] == pytest.approx(cosine(*maps), abs=1e-3)
    by_percentile = {p: np.array(numbers) for p, numbers in record["rectgrad_by_percentile"].items()}
    default = record["cosine_randomized"]["rectgrad"]["conv4_1"]
    assert by_percentile["98"][:, 0] == pytest.approx(default, abs=1e-4)
    assert by_percentile["75"][:, 1].mean() > by_percentile["98"][:, 1].mean()

    # Z10: two layers by hand.
    for which, network in (("trained", trained), ("random", fresh[1])):
        numbers = record["weight_alignment"][which][1]
        assert [numbers[0], numbers[-1]] == pytest.approx(toward_input(network, x[1:]), abs=1e-3)
    assert np.mean(record["weight_alignment"]["entries shuffled"], 0)[12] < 0

    # Z9: maps of other starts by hand, and simulations near their laws.
    own, negated = (by_hand(trained, x[1:], "guided_backprop", sign * one[1:])[0] for sign in (1, -1))
    of_guided = record["starts"]["trained"]["guided_backprop"][1]
    assert of_guided[0] == pytest.approx(cosine(own, negated), abs=1e-3)
    assert of_guided[4:6] == pytest.approx([cosine(own, x[1:]), cosine(negated, x[1:])], abs=1e-3)
    for by_method in record["starts"].values():
        assert [row[0] for row in by_method["gradient"]] == pytest.approx([-1, -1], abs=1e-6)
    one_layer = record["one_layer"]
    assert np.mean(one_layer["logit and negated logit"]) == pytest.approx(10 / (10 + math.pi**2), abs=0.06)
    of_shares = {float(share): np.array(numbers) for share, numbers in record["rectgrad_one_layer"].items()}
    assert of_shares[0.25].mean() == pytest.approx(alignment.GuidedBackprop().cosine(100, 1000), abs=0.02)
    assert of_shares[0.02].mean() < of_shares[0.08].mean() < of_shares[0.17].mean() > of_shares[0.25].mean()
    deep = {float(share): np.array(numbers) for share, numbers in record["rectgrad_deep"].items()}
    assert deep[max(deep)].mean() == pytest.approx(alignment.settled(1), abs=0.04)
    in_vgg = np.array(record["rectgrad_in_vgg"])  # (weights, percentile, draw, over layers or at the input)
    for i, which in enumerate(("trained", "random")):
        profile = np.array(record["profile"][which]["guided_backprop"]["filtered"])[:, :-1].mean(1)
        assert in_vgg[i, 0, :, 0] == pytest.approx(profile, abs=1e-4)
    biased = np.array(record["biased_vgg"]).mean(1)  # (bias, over layers or at the input)
    assert biased[0, 0] > biased[1, 0] > biased[2, 0]
    widths = {int(width): np.array(numbers) for width, numbers in record["first_widths"].items()}
    laws = {w: alignment.input_cosine(alignment.layer_ratios([300, w] + [600] * 7)) for w in widths}
    assert {w: float(c.mean()) for w, c in widths.items()} == pytest.approx(laws, abs=0.1)

    # The verdicts' numbers, from those of the draws.
    def profile_of(which: str, method: str, column: str) -> float:
        return float(np.array(record["profile"][which][method][column])[:, :-1].mean())

    def first(numbers: Any, place: int = 0) -> float:
        return float(np.array(numbers)[:, place].mean())

    curves = np.array([*of_shares.values()])  # (share, batch)
    shares, deep_shares = np.array([*of_shares]), np.array([*deep])
    below_by_method = {m: np.array(numbers) for m, numbers in record["alignment_below"].items()}
    weights = {which: np.array(numbers).mean() for which, numbers in record["weight_alignment"].items()}
    starts = {w: np.array(by["guided_backprop"]) for w, by in record["starts"].items()}
    filtered = ("guided_backprop", "rectgrad", "lrp_zplus")
    expected_numbers: dict[str, dict[str, float]] = {
        "Z11": {
            quantities.PROFILE.format("guided_backprop", w): profile_of(w, "guided_backprop", "filtered")
            for w in ("trained", "random")
        }
        | {
            quantities.ARRIVING.format(m, w): profile_of(w, m, "arriving")
            for m in ("gradient", "deconvolution")
            for w in ("trained", "random")
        },
        "Z8": {
            quantities.HIGH_LAYERS.format(m): float(np.mean(record["cosine_randomized"][m]["conv4_1"]))
            for m in (*filtered, "gradient")
        }
        | {
            quantities.BELOW_RANDOM.format(m): float((by[:, 0] - by[:, 1]).mean())
            for m, by in below_by_method.items()
            if m in filtered
        },
        "Z10": {
            quantities.TOWARD_INPUT.format("trained"): weights["trained"],
            quantities.TOWARD_INPUT.format("random"): weights["random"],
            "share of trained layers above the isotropic value": float(
                np.mean([r > 1 for r in record["weight_alignment_of_all"].values()])
            ),
        },
        "Z9": {
            quantities.NEGATED.format("one layer"): float(np.mean(one_layer["logit and negated logit"])),
            quantities.NEGATED.format("random VGG16"): first(starts["random"]),
            quantities.NEGATED.format("trained VGG16"): first(starts["trained"]),
            "cosine with the input, map of the negated logit, one layer": float(
                np.mean(one_layer["negated logit and input"])
            ),
            quantities.POSITIVE_START.format("one layer"): float(np.mean(one_layer["logit and positive signal"])),
            quantities.POSITIVE_START.format("trained VGG16"): first(starts["trained"], 1),
            quantities.BEST_SHARE.format("one layer"): float(shares[curves.argmax(0)].mean()),
            quantities.BEST_SHARE.format("deep network"): float(
                deep_shares[np.array([*deep.values()]).argmax(0)].mean()
            ),
            "gain in cosine of RectGrad at its best over Guided Backprop, one layer": float(
                (curves.max(0) - of_shares[0.25]).mean()
            ),
            quantities.PREDICTED_CURVE.format("width of the first layer"): max(
                abs(float(numbers.mean()) - laws[w]) for w, numbers in widths.items()
            ),
        },
    }
    for claim, by_quantity in expected_numbers.items():
        checks = {c["quantity"]: c for c in record["verdicts"][claim]["checks"]}
        assert "not testable here" not in {c["verdict"] for c in checks.values()}
        for quantity, value in by_quantity.items():
            tolerance = 5e-3 if "deep network" in quantity else 1e-6
            assert checks[quantity]["measured"] == pytest.approx(value, abs=tolerance), quantity
    also = {quantities.BIASED.format(1): 0.785, quantities.BIASED.format(4): 0.399}
    by_bias = {c["quantity"]: c["measured"] for c in record["verdicts"]["Z9"]["checks"]}
    assert by_bias.keys() == expected_numbers["Z9"].keys() | also.keys()
    assert {q: by_bias[q] for q in also} == pytest.approx(also, abs=0.04)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 31}, "the parameter size is 31; allowed is a whole number from 32 to 224."),
        ({"n_draws": 1}, "the parameter n_draws is 1; allowed is a whole number from 2 to 100."),
        ({"methods": "pattern"}, "the parameter methods is 'pattern'; allowed is one or more, with commas, of"),
        ({"layers": "15"}, "the parameter layers is '15'; allowed is one or more, with commas, of whole numbers"),
        ({"layers": "-1"}, "allowed is one or more, with commas, of whole numbers from 0 to 14."),
        ({"layers": ""}, "the parameter layers is ''; allowed is"),
        ({"n_layers": 19}, "the parameter n_layers is 19; allowed is a whole number from 20 to 100000."),
        ({"n_networks": 1}, "the parameter n_networks is 1; allowed is a whole number from 2 to 100."),
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


def test_one_picture_is_too_few(
    tmp_path_factory: pytest.TempPathFactory, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    pictures = tmp_path_factory.mktemp("pictures")
    images.load("embedded", 1)[0].image.save(pictures / "one.png")
    refuses(NAME, {"images": pictures}, "with one usable picture; allowed are two or more")


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
