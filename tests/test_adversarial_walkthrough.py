"""The walkthrough on adversarial images, re-run small through the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modbp import attacks, claims, cli, images, notebooks, walkthrough, zoo
from modbp.claims import quantities

NAME = "adversarial"
RATIO = "distance under sign noise over distance under PGD, guided_backprop"


@pytest.fixture
def beaker(folder: Path) -> Path:
    """A folder with one photograph, which both attacks flip."""
    pictures = folder / "pictures"
    pictures.mkdir()
    shutil.copy(images.embedded_folder() / "imagenet_02_438.jpg", pictures)
    return pictures


def run(capfd: pytest.CaptureFixture[str], given: Mapping[str, object]) -> dict[str, Any]:
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    record: dict[str, Any] = json.loads(Path("record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    defaults = notebooks.parameters(notebooks.find(NAME))
    names = str(given["methods"]).split(",")
    budgets = [float(budget) for budget in str(given["budgets"]).split(",")]
    expected = defaults | given | {"methods": names, "budgets": budgets, "results": "record.json"}
    assert record["parameters"] == expected
    assert record["versions"] == walkthrough.versions()
    return record


def gradient(network: Any, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Plain autograd, without any of our rules."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(of(network(x)[0]), x)[0]


def test_one_photograph_against_plain_autograd(beaker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"n_images": 1, "budgets": "4", "steps": 1, "methods": "gradient,guided_backprop", "seed": 3}
    record = run(capfd, given | {"images": str(beaker)})
    network = zoo.load()
    assert record["weights"] == zoo.describe(network)
    assert record["images"] == ["imagenet_02_438.jpg"]
    assert record["classes"] == ["beaker"]
    label = network.categories.index("beaker")

    # FGSM by hand, on inputs that are pixels minus a mean.
    (photograph,) = images.load(beaker)
    x = network.transform(photograph.image)[None]
    loss = gradient(network, x, lambda z: torch.nn.functional.cross_entropy(z[None] / 10, torch.tensor([label])))
    black, white = attacks.pixel_bounds(network)
    changed = torch.maximum(torch.minimum(x + 4 * loss.sign(), white), black)
    with torch.no_grad():
        before, after = (network(t)[0] for t in (x, changed))
    assert int(before.argmax()) == label
    assert record["margins"] == [pytest.approx(float(before.topk(2).values.diff().abs()), abs=1e-3)]
    became = int(after.argmax())
    assert became != label
    assert record["became"]["FGSM, 4/255"] == [network.categories[became]]
    assert record["became"]["sign noise, 4/255"] == ["–"]
    assert record["root_mean_square"]["fgsm, 4/255"] == pytest.approx(float((changed - x).square().mean().sqrt()), 1e-3)

    # The gradient's distances.
    noisy = attacks.sign_noise(network, x, 4, seed=3)
    maps = {
        "clean": gradient(network, x, lambda z: z[label]),
        "new": gradient(network, changed, lambda z: z[became]),
        "old": gradient(network, changed, lambda z: z[label]),
        "noise": gradient(network, noisy, lambda z: z[label]),
    }
    unit = {name: (m / m.norm()).double() for name, m in maps.items()}
    expected = {
        "attack": ("clean", "new"),
        "attack, old class": ("clean", "old"),
        "class alone": ("new", "old"),
        "sign noise": ("clean", "noise"),
    }
    found = record["distances"]["fgsm, 4/255"]
    for what, (a, b) in expected.items():
        assert found["gradient"][what] == [pytest.approx(float((unit[a] - unit[b]).norm()), abs=3e-3)], what

    # The verdicts are those of the distances under PGD.
    pgd = {m: {what: v[0] for what, v in d.items()} for m, d in record["distances"]["pgd, 4/255"].items()}
    checks = {c["quantity"]: c for c in record["verdicts"]["N11"]["checks"]}
    assert set(checks) == set(claims.find("N11").predictions)
    judged = {name: c["measured"] for name, c in checks.items() if c["verdict"] != "not testable here"}
    guided = pgd["guided_backprop"]
    assert judged == {
        quantities.MOVED.format("guided_backprop"): pytest.approx(guided["attack"]),
        quantities.MOVED_LESS.format("guided_backprop"): pytest.approx(pgd["gradient"]["attack"] - guided["attack"]),
        RATIO: pytest.approx(guided["sign noise"] / guided["attack"]),
    }
    assert guided["class alone"] < 0.2 < guided["attack"] < pgd["gradient"]["attack"]
    assert guided["sign noise"] == pytest.approx(found["guided_backprop"]["sign noise"][0]), "one noise for both"
    assert record["another_photograph"] == {"gradient": [], "guided_backprop": []}

    # The layers: noise and attack move the first one alike, and the attack moves the last one further.
    moved = {kind: [row[0] for row in rows[0]] for kind, rows in record["at_pools"].items()}
    assert moved["PGD"][-1] > 2 * moved["sign noise"][-1]
    assert moved["PGD"][0] < 2 * moved["sign noise"][0]


def test_a_change_that_flips_nothing_is_reported_and_judges_nothing(
    beaker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"n_images": 1, "budgets": "0.2", "steps": 1, "temperature": 1.0, "methods": "deconvolution"}
    record = run(capfd, given | {"images": str(beaker)})
    assert set(map(tuple, record["became"].values())) == {("–",)}
    attacked = ("pgd, 0.2/255, temperature 1", "fgsm, 0.2/255, temperature 1", "fgsm, 0.2/255, temperature 0.1")
    assert record["flipped"] == {key: [] for key in attacked}
    assert set(record["distances"]) == {"fgsm, 0.2/255", "pgd, 0.2/255"}
    assert {tuple(v) for by in record["distances"].values() for d in by.values() for v in d.values()} == {()}
    assert {c["verdict"] for c in record["verdicts"]["N11"]["checks"]} == {"not testable here"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        (
            {"budgets": "0,4"},
            "budgets is '0,4'; allowed is one or more, with commas, of numbers from 0.01 to 255.",
        ),
        ({"budgets": "300"}, "the parameter budgets is '300'; allowed is one or more, with commas, of numbers"),
        ({"budgets": "four"}, "the parameter budgets is 'four'; allowed is"),
        ({"budgets": ""}, "the parameter budgets is ''; allowed is"),
        ({"steps": 0}, "the parameter steps is 0; allowed is a whole number from 1 to 1000."),
        ({"temperature": 0.0}, "the parameter temperature is 0.0; allowed is a number from 0.001 to 1000."),
        ({"methods": "guided"}, "the parameter methods is 'guided'; allowed is one or more, with commas, of gradient,"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)
