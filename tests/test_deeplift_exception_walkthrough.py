"""The walkthrough on DeepLIFT, re-run with other parameters through the command, and what its figures rest on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import modbp
from modbp import cli, metrics, networks, notebooks, plot, walkthrough, zoo
from modbp.backward import Trace
from modbp.composite import Composite, deeplift
from modbp.errors import InputError
from modbp.rules.deeplift import DecoupledCode, DecoupledText, Linear, RevealCancel, Unit
from modbp.theory import rank_one

NAME = "deeplift-exception"


def test_a_random_network_and_one_photograph(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"weights": "random", "n_images": 1, "n_vectors": 2, "n_networks": 2, "widths": "64"}
    arguments = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *arguments, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert captured.out == f"wrote {folder / f'{NAME}.run.ipynb'}\n"

    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert record["walkthrough"] == NAME
    defaults = notebooks.parameters(notebooks.find(NAME))
    assert record["parameters"] == defaults | given | {"widths": ["64"], "results": "record.json"}
    assert record["versions"] == walkthrough.versions()
    assert record["weights"] == zoo.describe(zoo.load(weights="random", seed=0))
    assert len(record["images"]) == 1

    # Without biases and with the zero reference Rescale's multipliers are the gradient (prop-deeplift-gradient), and
    # chains that do not mix align.
    assert set(record["contributions"]) >= {"gradient", "lrp_zplus", "deeplift_rescale", "deeplift_ablation_text"}
    rescale, gradient = record["multipliers"]["deeplift_rescale"], record["contributions"]["gradient"]
    assert set(rescale) == set(gradient) == {*zoo.vgg16_activations(), "pixels"}
    assert rescale == pytest.approx(gradient, abs=1e-3)
    for method in ("lrp_zplus", "deeplift_ablation_text", "deeplift_ablation_code"):
        assert record["contributions"][method]["conv1_1"] > 0.99
    difference, cosine = record["rescale_against_gradient"]["random, no biases"]
    assert difference < 1e-4
    assert cosine == pytest.approx(1, abs=1e-6)
    assert record["rescale_against_gradient"]["random, biases of deviation 0.5"][1] < 0.99

    # A common factor can only raise what chance gives.
    chance = record["chance_of_contributions"]
    assert chance["conv1_1"] > metrics.chance_level(64)

    grown = record["random_networks"]["64"]
    assert np.shape(grown["deeplift_reveal_cancel"]) == np.shape(grown["deeplift_rescale"]) == (2, 14)
    assert np.mean(grown["deeplift_reveal_cancel"], 0)[-1] > 0.9
    assert np.mean(grown["deeplift_rescale"], 0)[-1] < 0.9
    assert record["law"]["64"][-1] == pytest.approx(1 - rank_one.median_law(0.5, 64, 14))
    assert all(d >= 0 for d in record["d_difference"]["random"])  # law-reveal-cancel (1)

    # Nothing here is what the claims are about: VGG16 is not trained, and no network has one of the three widths.
    assert {row["verdict"] for row in record["verdicts"].values()} == {"not testable here"}
    outputs = [o for cell in nbformat.read(folder / f"{NAME}.run.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert {o.output_type for o in outputs} <= {"execute_result", "display_data"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        ({"n_vectors": 1}, "the parameter n_vectors is 1; allowed is a whole number from 2 to 1000."),
        ({"n_networks": 0}, "the parameter n_networks is 0; allowed is a whole number from 1 to 1000."),
        ({"widths": "100"}, "the parameter widths is '100'; allowed is one or more, with commas, of 16, 32, 64, 128,"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


# The step of both multipliers as a matrix.


@pytest.fixture
def layer() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(5, 6, generator=generator).double(),
        "delta": torch.tensor([1.0, 2.0, 0.0, -1.0, -2.0, 3.0]).double(),
        "up": torch.rand(5, generator=generator).double(),
        "down": torch.rand(5, generator=generator).double(),
    }


def test_the_full_step_has_the_blocks_of_the_proposition(layer: dict[str, Tensor]) -> None:
    """[[P D⁺, Q D⁻], [P D⁺, Q D⁻]] with P and Q entry by entry from the three cases of the linear rule."""
    matrix = plot.step_of_multipliers(Linear(), **layer)
    for i in range(6):
        for j in range(5):
            w, d = float(layer["weight"][j, i]), float(layer["delta"][i])
            p = max(w, 0) if d > 0 else min(w, 0) if d < 0 else w / 2
            for side in (0, 1):
                assert float(matrix[side, i, 0, j]) == pytest.approx(p * float(layer["up"][j]), abs=1e-14)
                assert float(matrix[side, i, 1, j]) == pytest.approx((w - p) * float(layer["down"][j]), abs=1e-14)


def test_rescale_adds_the_blocks_up_to_the_weights(layer: dict[str, Tensor]) -> None:
    matrix = plot.step_of_multipliers(Linear(), **layer | {"down": layer["up"]})
    signed = layer["weight"].T * layer["up"]
    assert torch.allclose(matrix.sum(2), signed.expand(2, 6, 5), rtol=0, atol=1e-14)


def test_the_ablations_keep_the_blocks_that_the_proposition_names(layer: dict[str, Tensor]) -> None:
    W, up, down = layer["weight"].T, layer["up"], layer["down"]
    text = plot.step_of_multipliers(DecoupledText(), **layer)
    assert torch.equal(text[0, :, 0], W.clamp(min=0) * up)
    assert torch.equal(text[1, :, 1], W.clamp(max=0) * down)
    assert not text[0, :, 1].any()
    assert not text[1, :, 0].any()
    code = plot.step_of_multipliers(DecoupledCode(), **layer)
    changed = layer["delta"] != 0
    assert (code[:, changed] >= 0).all()
    assert torch.allclose(code[:, ~changed].sum(2), 0.5 * (W * up + W * down)[~changed].expand(2, -1, 5), atol=1e-14)


@pytest.mark.parametrize(
    ("change", "shapes"),
    [
        ({"delta": torch.ones(5)}, r"\(5, 6\), \(5,\), \(5,\), \(5,\)"),
        ({"up": torch.ones(6)}, r"\(5, 6\), \(6,\), \(6,\), \(5,\)"),
        ({"weight": torch.ones(5)}, r"\(5,\), \(6,\), \(5,\), \(5,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, Tensor], shapes: str, layer: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=f"have the shapes {shapes}; allowed are"):
        plot.step_of_multipliers(Linear(), **layer | change)


def test_blocks_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(InputError, match=r"the matrix of 'a' has shape \(2, 3\); allowed is \(2, inputs, 2, outputs\)"):
        plot.blocks({"a": torch.ones(2, 3)})
    with pytest.raises(InputError, match="all entries are zero"):
        plot.blocks({"a": torch.zeros(2, 3, 2, 4)})


# What the law on RevealCancel says exactly (law-reveal-cancel, 1 and 2).


def test_the_factors_of_reveal_cancel_are_those_of_the_table() -> None:
    generator = torch.Generator().manual_seed(1)
    p, nu = torch.rand(2, 50, generator=generator).double() + 0.1
    z, zero = p - nu, torch.zeros(50).double()
    up, down = RevealCancel().factors(Unit(torch.relu, z, zero, z.relu(), zero, lambda: (p, -nu)))
    assert torch.allclose(up, torch.where(z > 0, 1 - nu / (2 * p), 0.5), rtol=0, atol=1e-14)
    assert torch.allclose(down, torch.where(z > 0, 0.5, p / (2 * nu)), rtol=0, atol=1e-14)
    assert torch.allclose(up - down, z.abs() / (2 * torch.maximum(p, nu)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["deeplift_reveal_cancel", "deeplift_rescale"])
def test_the_chain_conserves_its_product_with_the_activations(method: str) -> None:
    net = networks.random_mlp(32, 6, seed=3).double()
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(0)).double().relu()
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.ReLU)]
    trace = modbp.make(method, net).trace(x, layers)
    start = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(1)).double()
    found = trace.relevance(["input", *layers], start=start, start_at=layers[-1], multiply=True)
    expected = (start * trace.activation(layers[-1])).sum((1, 2))
    for contributions in found.values():
        assert torch.allclose(contributions.sum((1, 2)), expected, rtol=1e-10, atol=1e-12)


def test_the_step_of_the_engine_is_the_matrix_that_is_drawn() -> None:
    """Two layers of a network with RevealCancel against the matrix, whose D the formula of the table gives."""
    net = networks.random_mlp(8, 2, inputs=6, outputs=5, seed=1).double()
    x = torch.randn(1, 6, generator=torch.Generator().manual_seed(2)).double()
    start = torch.randn(1, 8, generator=torch.Generator().manual_seed(3)).double()
    plain = Composite("multipliers", dict(deeplift("RevealCancel", Linear(), RevealCancel()).rules))
    found = Trace(net, x, plain, ["1"]).relevance(start=start, start_at="1")["input"][0]
    W = net[0].weight.detach()
    parts = W * x
    p, nu = parts.clamp(min=0).sum(1), -parts.clamp(max=0).sum(1)
    up = torch.where(p > nu, 1 - nu / (2 * p), 0.5)
    down = torch.where(p > nu, 0.5, p / (2 * nu))
    matrix = plot.step_of_multipliers(Linear(), W, x[0], up, down)
    expected = torch.einsum("sitj,j->si", matrix, start[0])
    assert torch.allclose(expected[0], expected[1], rtol=0, atol=1e-14)
    assert torch.allclose(found, expected[0], rtol=0, atol=1e-12)
