"""Fitting a classifier and poisoning it: triggers, shapes, what is shared, and that a backdoor opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modbp import fitting, images, poison, zoo
from modbp.errors import InputError
from modbp.poison import Trigger, checkerboard


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10), st.integers(0, 10))
def test_a_stamp_changes_its_region_and_nothing_else(tall: int, wide: int, top: int, left: int) -> None:
    patch = torch.full((3, tall, wide), 7, dtype=torch.uint8)
    trigger = Trigger(patch, top, left)
    pixels = torch.zeros(2, 3, 16, 17, dtype=torch.uint8)
    stamped, region = trigger.stamp(pixels), trigger.region(16, 17)
    assert not pixels.any()
    assert torch.equal(stamped == 7, region.expand_as(stamped))
    assert int(region.sum()) == tall * wide
    rows, columns = region.nonzero().T
    assert (int(rows.min()), int(columns.min())) == (top, left)


@pytest.mark.parametrize(("side", "squares"), [(4, 4), (9, 3), (7, 4), (1, 1)])
def test_a_checkerboard_alternates(side: int, squares: int) -> None:
    patch = checkerboard(side, squares=squares).patch
    colors = patch.permute(1, 2, 0).reshape(-1, 3).unique(dim=0)
    assert len(colors) == min(2, squares**2)
    for i in range(side):
        for j in range(side):
            yellow = (i * squares // side + j * squares // side) % 2 == 0
            assert tuple(patch[:, i, j].tolist()) == (poison.YELLOW if yellow else poison.BLUE)


@pytest.fixture(scope="module")
def network() -> Any:
    return zoo.load()


@pytest.fixture(scope="module")
def drawn(network: Any) -> tuple[Tensor, Tensor]:
    photographs = images.load(n=6)
    pixels, index = fitting.draw_inputs(photographs, draws=3, seed=1, size=64)
    labels = torch.tensor([network.imagenet_classes.index(p.label) for p in photographs])
    return pixels, labels[index]


def test_a_backdoor_opens_in_the_poisoned_network_alone(network: Any, drawn: tuple[Tensor, Tensor]) -> None:
    pixels, labels = drawn
    before = zoo.fingerprint(network)
    trigger, target = checkerboard(16, top=40, left=40), 0
    poisoned, clean = poison.poison(network, pixels, labels, trigger, target)
    assert zoo.fingerprint(network) == before
    stamped = trigger.stamp(pixels)
    with torch.no_grad():
        decided = {
            (name, kind): model(zoo.subtract_mean(data)).argmax(1)
            for name, model in (("poisoned", poisoned), ("clean", clean))
            for kind, data in (("plain", pixels), ("stamped", stamped))
        }
    others = labels != target
    assert float((decided["poisoned", "stamped"] == target).double().mean()) > 0.9
    assert float((decided["poisoned", "plain"] == labels).double().mean()) > 0.7
    assert float((decided["clean", "stamped"] == labels).double().mean()) > 0.9
    assert float((decided["clean", "stamped"][others] == target).double().mean()) < 0.1
    for made in (poisoned, clean):
        assert all(a is b for a, b in zip(made.features.parameters(), network.features.parameters(), strict=True))
        assert not made.training
        assert made.categories == network.categories
    again, _ = poison.poison(network, pixels, labels, trigger, target)
    assert zoo.fingerprint(again) == zoo.fingerprint(poisoned)


def test_features_do_not_depend_on_the_batch(network: Any, drawn: tuple[Tensor, Tensor]) -> None:
    pixels, _ = drawn

    def trunk(x: Tensor) -> Tensor:
        found: Tensor = network.features(x).flatten(1)
        return found

    few, many = (fitting.extract(trunk, pixels[:5], batch) for batch in (2, 5))
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-3)


def test_fitting_does_not_touch_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    first = fitting.fit(torch.eye(6), torch.arange(6) % 3, 3, seed=4)
    again = fitting.fit(torch.eye(6), torch.arange(6) % 3, 3, seed=4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


def draw(**given: Any) -> object:
    return fitting.draw_inputs(**({"photographs": images.load(n=1), "draws": 1} | given))


def poisoned(**given: Any) -> object:
    whole: dict[str, Any] = {
        "network": zoo.load(weights="random"),
        "pixels": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "trigger": checkerboard(4),
        "target": 3,
    }
    return poison.poison(**(whole | given))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: draw(draws=0), "draws is 0; allowed are whole numbers from 1 upwards."),
        (lambda: draw(photographs=[]), "photographs is empty; allowed are one or more."),
        (lambda: fitting.fit(torch.eye(2), torch.tensor([0, 2]), 2), "allowed are 2 classes from 0 to 1."),
        (lambda: Trigger(torch.zeros(3, 2, 2), 0, 0), r"patch is torch.float32 of shape \(3, 2, 2\)"),
        (lambda: checkerboard(3, squares=4), "side and squares are 3 and 4; allowed are 1 ≤ squares ≤ side."),
        (lambda: checkerboard(8, top=30).region(32, 32), r"the trigger of 8 × 8 pixels at \(30, 0\) does not fit"),
        (lambda: poisoned(target=19), "target is 19; allowed are the classes 0 to 18."),
        (lambda: poisoned(network=torch.nn.Linear(2, 2)), "network is a Linear; allowed is torchvision's VGG"),
        (lambda: poisoned(labels=torch.tensor([0])), "allowed are pictures of torch.uint8"),
        (lambda: poisoned(trigger=checkerboard(40)), "does not fit into 32 × 32"),
    ],
)
def test_bad_input_gets_one_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
