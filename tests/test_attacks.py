"""Attacks and the noise beside them, against what can be computed by hand."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modbp import attacks, networks, zoo
from modbp.errors import InputError

RANGE = (0.0, 255.0)
CAFFE = (
    torch.tensor([-123.68, -116.779, -103.939]).view(3, 1, 1),
    torch.tensor([131.32, 138.221, 151.061]).view(3, 1, 1),
)
SCALED = torch.tensor([-2.1, -2.0, -1.8]).view(3, 1, 1), torch.tensor([2.2, 2.4, 2.6]).view(3, 1, 1)


def linear(weight: Tensor) -> nn.Linear:
    """A classifier without bias in float64."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double().eval()
    layer.weight.data = weight.double()
    return layer


def pictures(n: int, bounds: tuple[Any, Any], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random pixels, some of them black or white, as inputs."""
    generator = torch.Generator().manual_seed(seed)
    share = (torch.rand(n, 3, 6, 6, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    black, white = (torch.as_tensor(end, dtype=torch.float64) for end in bounds)
    return (black + share * (white - black)).to(dtype)


def small_network(seed: int = 0) -> nn.Sequential:
    """A ReLU network on 3 × 6 × 6 pixels, with margins of a few nats."""
    network = networks.random_mlp(width=16, depth=2, inputs=108, outputs=4, seed=seed)
    network[0].weight.data /= 100
    return nn.Sequential(nn.Flatten(), network).eval()


@pytest.mark.parametrize("bounds", [RANGE, CAFFE, SCALED], ids=["0 to 255", "caffe", "torchvision"])
def test_fgsm_is_one_step_along_the_sign_of_the_gradient(bounds: tuple[Any, Any]) -> None:
    """The gradient of the cross-entropy is worked out by hand, layer by layer."""
    network = small_network().double()
    x = pictures(5, bounds, seed=1)
    labels, budget, temperature = torch.tensor([0, 1, 2, 3, 0]), 3.0, 7.0
    first, second = network[1][0], network[1][2]
    z = x.flatten(1) @ first.weight.T + first.bias
    logits = z.clamp(min=0) @ second.weight.T + second.bias
    upper = ((logits / temperature).softmax(1) - nn.functional.one_hot(labels, 4)) / temperature
    gradient = ((upper @ second.weight) * (z > 0) @ first.weight).view_as(x)
    black, white = (torch.as_tensor(end, dtype=torch.float64).expand_as(x) for end in bounds)
    expected = torch.minimum(torch.maximum(x + budget / 255 * (white - black) * gradient.sign(), black), white)
    found = attacks.attack(network, x, labels, "fgsm", budget, temperature=temperature, bounds=bounds)
    assert (gradient.abs() > 1e-9).all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (found != x).double().mean() > 0.8


@settings(max_examples=25)
@given(
    kind=st.sampled_from([*attacks.KINDS, "noise"]),
    budget=st.floats(0.01, 255),
    steps=st.integers(1, 7),
    seed=st.integers(0, 1000),
    bounds=st.sampled_from([RANGE, CAFFE, SCALED]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_pixel_leaves_its_budget_or_its_range(
    kind: str, budget: float, steps: int, seed: int, bounds: tuple[Any, Any], dtype: torch.dtype
) -> None:
    network, x = small_network(seed).to(dtype), pictures(3, bounds, seed, dtype)
    if kind == "noise":
        found = attacks.sign_noise(network, x, budget, seed=seed, bounds=bounds)
    else:
        found = attacks.attack(network, x, [0, 1, 2], kind, budget, steps=steps, seed=seed, bounds=bounds)
    black, white = (torch.as_tensor(end, dtype=dtype) for end in bounds)
    assert (found.shape, found.dtype, found.requires_grad) == (x.shape, dtype, False)
    assert (found >= black).all()
    assert (found <= white).all()
    change = (found.double() - x.double()).abs() / (white - black).double() * 255
    rounding = 1e-4 if dtype == torch.float32 else 1e-9
    assert change.max() <= budget + rounding
    assert change.max() > 0.9 * min(budget, 120), "it changes something, as far as the budget allows"


@pytest.mark.parametrize("kind", attacks.KINDS)
@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_a_linear_classifier_flips_where_the_budget_exceeds_its_margin_over_the_norm(
    kind: str, temperature: float
) -> None:
    """The largest change of w·x within a budget is the budget times the sum of |w|: where no pixel hits its range."""
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(12, generator=generator, dtype=torch.float64)
    w -= w.mean()  # so that gray has no margin
    network = linear(torch.stack([w, torch.zeros(12)]))
    margin = 20.0
    x = (127.5 + margin * w / (w @ w))[None]
    assert network(x)[0, 0].item() == pytest.approx(margin)
    assert ((x > 60) & (x < 200)).all()
    critical = margin / float(w.abs().sum())
    for budget, flips in ((0.99 * critical, False), (1.01 * critical, True)):
        found = attacks.attack(network, x, [0], kind, budget, temperature=temperature, steps=4, bounds=RANGE)
        assert bool(network(found)[0, 0] < 0) == flips
        torch.testing.assert_close(found, x - budget * w.sign(), rtol=0, atol=1e-9)


def test_a_large_margin_hides_the_gradient_and_a_temperature_shows_it_again() -> None:
    """With 60 nats, float32 rounds the probability to one; the other class has no gradient of its own."""
    network = linear(torch.tensor([[0.6, 0.0], [0.0, 0.0]])).float()
    x = torch.tensor([[100.0, 100.0]])
    assert torch.equal(attacks.attack(network, x, [0], "fgsm", 101, temperature=1.0, bounds=RANGE), x)
    found = attacks.attack(network, x, [0], "fgsm", 99, temperature=10.0, bounds=RANGE)
    assert found.tolist() == [[1.0, 100.0]]


def test_a_temperature_divides_the_logits_and_changes_no_prediction() -> None:
    network, x = small_network(), pictures(6, CAFFE, 5, torch.float32)
    black, white = CAFFE
    pixels = (x - black) / (white - black) * 255
    answers = network(x)
    for temperature in (0.01, 1.0, 10.0, 1000.0):
        cooled = attacks._OfPixels(network, black, white, temperature, torch.zeros(6).long())(pixels)
        torch.testing.assert_close(cooled * temperature, answers, rtol=1e-3, atol=1e-3)
        assert torch.equal(cooled.argmax(1), answers.argmax(1))


def test_pgd_begins_at_random_and_is_repeated_by_its_seed() -> None:
    """Without a gradient it stays where it begins: anywhere in the budget."""
    network, x = linear(torch.zeros(2, 500)), torch.full((2, 500), 100.0, dtype=torch.float64)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, again, other = (
        attacks.attack(network, x, [0, 1], "pgd", 4, steps=3, seed=seed, bounds=RANGE) for seed in (5, 5, 6)
    )
    start = (one - x).flatten()
    assert 3.9 < start.max() <= 4
    assert -4 <= start.min() < -3.9
    assert abs(start.mean()) < 0.4
    assert start.square().mean().item() == pytest.approx(16 / 3, rel=0.1)
    noise = attacks.sign_noise(network, x, 4, seed=5, bounds=RANGE)
    assert torch.equal(torch.get_rng_state(), state), "no global random numbers are drawn"
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(noise, attacks.sign_noise(network, x, 4, seed=5, bounds=RANGE))
    assert not torch.equal(noise, attacks.sign_noise(network, x, 4, seed=6, bounds=RANGE))


def test_pgd_finds_no_lower_loss_than_fgsm() -> None:
    network, x = small_network(2).double(), pictures(8, RANGE, 2)
    labels = network(x).argmax(1)

    def loss(x: Tensor) -> float:
        return nn.functional.cross_entropy(network(x), labels).item()

    fgsm, pgd = (
        loss(attacks.attack(network, x, labels, kind, 20, steps=20, temperature=1.0, bounds=RANGE))
        for kind in attacks.KINDS
    )
    assert pgd >= fgsm > loss(x)


def test_the_network_stays_as_it_was() -> None:
    network, x = small_network(), pictures(2, RANGE, 0, torch.float32)
    before = copy.deepcopy(network.state_dict())
    for kind in attacks.KINDS:
        attacks.attack(network, x, [0, 1], kind, 4, bounds=RANGE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    assert not x.requires_grad
    with torch.no_grad():  # an attack needs gradients, whatever its caller does not need
        assert not torch.equal(attacks.attack(network, x, [0, 1], "fgsm", 4, bounds=RANGE), x)


def test_samples_do_not_meet_and_labels_may_be_a_list() -> None:
    network, x = small_network(), pictures(3, CAFFE, 4, torch.float32)
    together = attacks.attack(network, x, [2, 0, 1], "fgsm", 2, bounds=CAFFE)
    for i, label in enumerate((2, 0, 1)):
        alone = attacks.attack(network, x[i : i + 1], torch.tensor([label]), "fgsm", 2, bounds=CAFFE)
        torch.testing.assert_close(alone[0], together[i])


def test_sign_noise_has_the_whole_budget_and_no_direction() -> None:
    x = torch.full((1, 3, 40, 40), 100.0, dtype=torch.float64)
    change = attacks.sign_noise(nn.Identity(), x, 2.5, bounds=RANGE) - x
    assert set(change.unique().tolist()) == {-2.5, 2.5}
    assert abs(change.mean()) < 4 * 2.5 / x.numel() ** 0.5
    at_ends = torch.tensor([[0.0, 255.0] * 50])
    change = attacks.sign_noise(nn.Identity(), at_ends, 3.0, bounds=RANGE) - at_ends
    assert set(change[0, ::2].unique().tolist()) == {0.0, 3.0}
    assert set(change[0, 1::2].unique().tolist()) == {-3.0, 0.0}


def test_the_bounds_are_those_of_the_networks_transform() -> None:
    from PIL import Image

    for kind, black, scale in (
        ("caffe", CAFFE[0].flatten().tolist(), [255.0] * 3),
        (
            "torchvision",
            [-m / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))],
            [4.3668, 4.4643, 4.4444],
        ),
    ):
        network = zoo.load(weights="random", preprocessing=kind)
        found = attacks.pixel_bounds(network)
        assert found[0].flatten().tolist() == pytest.approx(black, abs=1e-4)
        assert (found[1] - found[0]).flatten().tolist() == pytest.approx(scale, abs=1e-3)
        noise = Image.effect_noise((256, 256), 90).convert("RGB")
        x = network.transform(noise)[None]
        change = (attacks.sign_noise(network, x, 4) - x) / (found[1] - found[0]) * 255
        assert float(change.abs().median()) == pytest.approx(4, abs=1e-4)


def test_changes_at_pools_of_a_larger_and_of_another_input() -> None:
    """Without biases a network of ReLUs doubles with its input, and no window has another winner."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(3, stride=1)),
    ).double()
    x, y = torch.randn(2, 2, 1, 16, 16, dtype=torch.float64)
    assert attacks.changes_at_pools(layers, x, x) == [(0.0, 0.0)] * 2
    assert attacks.changes_at_pools(layers, x, 2 * x) == [(pytest.approx(1.0), 0.0)] * 2
    (moved, winners), _ = attacks.changes_at_pools(layers, x, y)
    with torch.no_grad():
        a, b = (layers[:2](t) for t in (x, y))
    assert moved == pytest.approx(float((a - b).norm() / a.norm()))
    windows = [nn.functional.unfold(t.reshape(8, 1, 14, 14), 2, stride=2).argmax(1) for t in (a, b)]
    assert winners == pytest.approx(float((windows[0] != windows[1]).double().mean()))
    assert winners > 0.3


X = torch.full((2, 3), 100.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "cw"}, "kind is 'cw'; allowed are fgsm, pgd."),
        ({"budget": 0}, "budget is 0; allowed are numbers above 0 and at most 255."),
        ({"budget": 255.5}, "budget is 255.5; allowed are"),
        ({"budget": float("nan")}, "budget is nan; allowed are"),
        ({"budget": True}, "budget is True; allowed are"),
        ({"budget": "4"}, "budget is '4'; allowed are"),
        ({"temperature": 0.0}, "temperature is 0.0; allowed are finite numbers above 0."),
        ({"temperature": float("inf")}, "temperature is inf; allowed are"),
        ({"steps": 0}, "steps is 0; allowed are whole numbers from 1 upwards."),
        ({"steps": 2.0}, "steps is 2.0; allowed are"),
        ({"seed": -1}, "seed is -1; allowed are whole numbers from 0"),
        ({"labels": [0]}, "labels are torch.int64 of shape (1,); allowed are 2 whole numbers"),
        ({"labels": [0.0, 1.0]}, "labels are torch.float32 of shape (2,); allowed are"),
        ({"labels": [True, False]}, "labels are torch.bool of shape (2,); allowed are"),
        ({"labels": [-1, 0]}, "labels are torch.int64 of shape (2,) from -1; allowed are"),
        ({"labels": [0, 2]}, "the largest label is 2; allowed for logits of shape (2, 2) are classes from 0 to 1."),
        ({"inputs": X - 101}, "inputs from -1 to -1 are no pixels; allowed are 0 for black to 255 for white."),
        ({"inputs": X * float("nan")}, "inputs from nan to nan are no pixels;"),
        ({"inputs": X.long()}, "inputs are torch.int64 of shape (2, 3); allowed are floating-point tensors"),
        ({"inputs": X[:0]}, "inputs are torch.float32 of shape (0, 3); allowed are"),
        ({"bounds": (255.0, 0.0)}, "white above black."),
        ({"bounds": (torch.zeros(4), torch.ones(4))}, "the bounds have the shapes (4,) and (4,); allowed for inputs"),
        ({"bounds": None}, "the network has no transform that says what black and white are;"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(given: dict[str, Any], said: str) -> None:
    network = linear(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).float()
    arguments = {"inputs": X, "labels": [0, 1], "bounds": RANGE} | given
    with pytest.raises(InputError) as caught:
        attacks.attack(network, **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    if set(given) & {"budget", "seed", "inputs", "bounds"}:
        with pytest.raises(InputError) as caught:
            attacks.sign_noise(network, **{name: v for name, v in arguments.items() if name != "labels"})
        assert said in str(caught.value)


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match="in training mode; allowed is eval mode"):
        attacks.attack(nn.Linear(3, 2), X, [0, 1], bounds=RANGE)


def test_a_transform_without_light_is_refused() -> None:
    network = nn.Identity()
    network.transform = lambda image: torch.zeros(3, 224, 224)
    with pytest.raises(InputError, match="does not make white larger than black"):
        attacks.pixel_bounds(network)


def test_without_foolbox_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(InputError, match=r"need foolbox .*; install it with: pip install 'modbp\[embedded\]'\.$"):
        attacks.attack(nn.Linear(3, 2).eval(), X, [0, 1], bounds=RANGE)
