"""Cosine similarity convergence: against a loop in float64, on chains whose rank is known, and on awkward networks."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import modbp
from modbp import layers
from modbp.attr import GuidedBackprop, ModifiedBackprop
from modbp.backward import Trace
from modbp.composite import Composite, lrp_zplus
from modbp.errors import InputError
from modbp.metrics import chance_level, convergence, csc
from modbp.rules import Flat

PERCENTILES = [column for column in convergence.PERCENTILES if column != 50]
CLOSE = {"rtol": 6e-4, "atol": 1e-9}


def convolutional(seed: int = 0, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, stride=2, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 9, 7, bias=bias),
    ).double()


def dense(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    modules = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, bias=False), nn.ReLU())]
    return nn.Sequential(*modules[:-1])


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.double)


# Against a loop


def loop(net: nn.Module, x: Tensor, method: str, points: list[str], n: int, seed: int, over: str) -> dict[str, Any]:
    """Every cosine by itself: one vector, one backward pass, one pair and one position at a time."""
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[float]] = {p: [] for p in points}
    for image in x.split(1):
        vectors = torch.randn(n, 1, 7, generator=generator).double()
        maps = [modbp.make(method, net).relevance(image, points, start=v) for v in vectors]
        for point in points:
            found = [m[point][0].numpy() for m in maps]
            found = [f.reshape(len(f), -1).T if over == "position" else f.reshape(1, -1) for f in found]
            for i in range(n):
                for j in range(i):
                    for a, b in zip(found[i], found[j], strict=True):
                        with np.errstate(invalid="ignore"):
                            values[point].append(abs(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return {p: np.array(v) for p, v in values.items()}


@pytest.mark.parametrize("method", ["gradient", "lrp_alpha2_beta1", "rectgrad", "deeplift_reveal_cancel"])
@pytest.mark.parametrize("over", ["position", "map"])
def test_it_equals_a_loop_over_images_pairs_and_positions(method: str, over: str) -> None:
    net, x = convolutional(), images()
    table = csc(net, x, method, n_vectors=3, seed=4, over=over).set_index("layer")
    points = ["input", "1", "4", "6"]
    assert list(table.index) == points
    expected = loop(net, x, method, points, 3, 4, over)
    for point in points:
        defined = expected[point][~np.isnan(expected[point])]
        row = table.loc[point]
        assert (row["values"], row["dropped"]) == (len(defined), len(expected[point]) - len(defined)), point
        np.testing.assert_allclose(row["mean"], defined.mean(), rtol=1e-12)
        np.testing.assert_allclose(row["median"], np.median(defined), **CLOSE)
        np.testing.assert_allclose(
            row[[f"p{q}" for q in PERCENTILES]].astype(float), np.percentile(defined, PERCENTILES), **CLOSE
        )
    if (method, over) == ("rectgrad", "position"):
        assert table["dropped"].sum() > 0, "some positions must have been silent, or dropping was not tested"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 4))
def test_percentiles_are_exact_near_zero_and_near_one(values: list[float], parts: int) -> None:
    """As streamed in parts, against numpy on all at once; both c and 1 - c to six parts in ten thousand."""
    held = convergence._Distribution(3)
    for part in np.array_split(np.array(values), parts):
        held.add(torch.tensor(part, dtype=torch.double), 0)
    row = held.row()
    for q in convergence.PERCENTILES:
        low, high = (np.percentile(values, q, method=how) for how in ("lower", "higher"))
        found = row["median" if q == 50 else f"p{q}"]
        # Where the two neighboring values differ, their own errors are what is allowed.
        allowed = 6e-4 * max(min(low, 1 - low), min(high, 1 - high)) + 1e-15
        assert abs(found - np.percentile(values, q)) <= allowed, q


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 1e-12])
def test_small_angles_are_resolved(distance: float) -> None:
    """1 - cos of two unit vectors at an angle φ is 2 sin²(φ/2), far below float32's rounding of 1."""
    angle = 2 * math.asin(math.sqrt(distance / 2))
    v = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.double)[:, None]
    (cosine,), dropped = convergence.InnerProducts.of(v).absolute_cosines()
    assert dropped == 0
    np.testing.assert_allclose(1 - float(cosine), distance, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), st.integers(1, 64))
def test_inner_products_do_not_depend_on_the_size_of_a_block(v: int, b: int, c: int, p: int, block: int) -> None:
    R = torch.randn(v, b, c, p, dtype=torch.double)
    first, second = torch.triu_indices(v, v)
    expected = torch.einsum("vbcp,wbcp->vwbp", R, R)[first, second]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convergence, "BLOCK", block)
        found = convergence.InnerProducts.of(R.unflatten(-1, (p, 1)))
    torch.testing.assert_close(found.gram, expected)
    assert (found.entries("position"), found.entries("map")) == (c, c * p)


# Chains whose rank is known


def test_vectors_that_meet_in_one_unit_agree_to_the_last_bit() -> None:
    net = dense(16, 1, 16, 5).double()
    net[0].weight.data.abs_()  # so that the one unit is active
    table = csc(net, torch.rand(3, 16).double(), "gradient").set_index("layer")
    assert 1 - table.loc["input", "p1"] < 1e-12
    assert table.loc["3", "p99"] < 1 - 1e-6


def test_a_start_itself_lies_at_the_chance_level() -> None:
    net = dense(32, 2000, 400)
    table = csc(net, torch.rand(30, 32), "gradient", n_vectors=8, start=["output", "1"]).set_index(["start", "layer"])
    for start, layer, entries in (("output", "2", 400), ("1", "1", 2000)):
        row = table.loc[(start, layer)]
        assert row["chance"] == chance_level(entries)
        # The median of 840 values has a spread of about 4 %.
        np.testing.assert_allclose(row["median"], row["chance"], rtol=0.15)


@pytest.mark.parametrize("entries", [2, 3, 10, 200])
def test_the_chance_level_is_the_median_for_gaussian_vectors(entries: int) -> None:
    a, b = torch.randn(2, 200_000, entries, generator=torch.Generator().manual_seed(0))
    found = float(nn.functional.cosine_similarity(a, b).abs().median())
    np.testing.assert_allclose(chance_level(entries), found, rtol=0.01)


def test_the_chance_level_of_few_and_of_many_entries() -> None:
    assert chance_level(1) == 1.0
    np.testing.assert_allclose(chance_level(3), 0.5, rtol=1e-12)  # |cos| is uniform in three dimensions
    np.testing.assert_allclose(chance_level(10**6) * 1e3, 0.6745, rtol=1e-4)


def test_one_by_one_convolutions_converge_per_position_and_not_over_the_map() -> None:
    torch.manual_seed(0)
    modules = [m for _ in range(8) for m in (nn.Conv2d(6, 6, 1, bias=False), nn.ReLU())]
    net = nn.Sequential(*modules)
    for module in net:
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
    table = csc(net, torch.rand(2, 6, 5, 5), "lrp_zplus", start="15", over=["position", "map"]).set_index(
        ["over", "layer"]
    )
    assert table.loc[("position", "input"), "p1"] > 0.999
    assert table.loc[("map", "input"), "median"] < 0.6
    assert table.loc[("map", "input"), "chance"] == chance_level(6 * 25)


def test_vectors_of_equal_contrast_cancel_into_dropped_values() -> None:
    """A unit that no vector reaches leaves no cosine: it is dropped and counted, never taken for zero or one."""
    net = dense(4, 3, 2).double()
    net[0].weight.data = -torch.ones(3, 4).double()  # every unit is silent
    table = csc(net, torch.rand(2, 4).double(), "gradient", n_vectors=4).set_index("layer")
    assert (table.loc["input", "values"], table.loc["input", "dropped"]) == (0, 12)
    assert math.isnan(table.loc["input", "median"])
    assert math.isnan(table.loc["input", "mean"])


# Starts


def test_several_starts_share_what_each_would_find_alone() -> None:
    net, x = convolutional(), images(3)
    together = csc(net, x, "lrp_zplus", start=["output", "4", "1"], n_vectors=3)
    assert list(dict.fromkeys(together["start"])) == ["output", "4", "1"]
    for start in ("output", "4", "1"):
        alone = csc(net, x, "lrp_zplus", start=start, n_vectors=3)
        same = together[together["start"] == start].reset_index(drop=True)
        assert list(same["layer"]) == list(alone["layer"])
        np.testing.assert_allclose(same["median"].astype(float), alone["median"].astype(float), rtol=1e-6)
    assert list(alone["layer"]) == ["input", "1"]


def test_the_seed_decides_the_vectors_and_nothing_else_does() -> None:
    net, x = convolutional(), images()
    first, again, other = (csc(net, x, "gradient", seed=s, n_vectors=2)["median"].tolist() for s in (0, 0, 1))
    assert first == again
    assert first != other
    torch.manual_seed(99)
    assert csc(net, x, "gradient", seed=0, n_vectors=2)["median"].tolist() == first


def test_vectors_on_active_neurons_are_zero_elsewhere() -> None:
    net, x = convolutional(), images(1)
    active = csc(net, x, "lrp_zplus", start="4", vectors="active", layers=["4"], n_vectors=2).iloc[0]
    with torch.no_grad():
        activation = net[:5](x)[0]
    v = torch.randn(2, 12, 3, 3, generator=torch.Generator().manual_seed(0)).double() * (activation > 0)
    expected = nn.functional.cosine_similarity(v[0], v[1], 0).abs()[(activation > 0).any(0)].numpy()
    assert active["values"] == expected.size
    np.testing.assert_allclose(active["median"], np.median(expected), **CLOSE)


def test_one_hot_vectors_are_the_starts_of_explanations() -> None:
    """For the predicted class and others; with two classes these are both of them."""
    net = dense(6, 9, 2).double()
    x = torch.rand(4, 6).double()
    table = csc(net, x, "gradient", vectors="one_hot", n_vectors=2).set_index("layer")
    maps = modbp.make("gradient", net).attribute_classes(x, torch.tensor([[0, 1]] * 4))
    expected = nn.functional.cosine_similarity(*maps, dim=1).abs().numpy()
    np.testing.assert_allclose(table.loc["input", "median"], np.median(expected), **CLOSE)
    assert table.loc["2", "p99"] < 1e-12, "one-hot vectors of different classes are orthogonal"


# What is read


def test_products_and_what_is_multiplied() -> None:
    net, x = convolutional(), images(1)
    products = csc(net, x, "input_x_gradient", n_vectors=3)["median"]
    factors = csc(net, x, "input_x_gradient", n_vectors=3, multiply=False)["median"]
    np.testing.assert_allclose(factors, csc(net, x, "gradient", n_vectors=3)["median"])
    assert not np.allclose(factors, products)


def test_multipliers_of_rescale_without_biases_are_the_gradient() -> None:
    net, x = convolutional(bias=False), images(1)
    found = csc(net, x, "deeplift_rescale", n_vectors=3, multiply=False, layers=["input", "1", "4"])
    np.testing.assert_allclose(
        found["median"], csc(net, x, "gradient", n_vectors=3, layers=["input", "1", "4"])["median"]
    )


def test_multipliers_of_two_chains_are_what_contributions_are_made_of() -> None:
    net, x = convolutional(), images(1)
    trace = modbp.make("deeplift_ablation_text", net).trace(x, ["1"])
    start = torch.randn(1, 7, dtype=torch.double)
    contributions = trace.relevance(["input", "1"], start=start)
    multipliers = trace.relevance(["input", "1"], start=start, multiply=False)
    reference = net[:2](torch.zeros_like(x)).detach()
    for point, delta in (("input", x), ("1", trace.activation("1") - reference)):
        torch.testing.assert_close(multipliers[point] * delta, contributions[point])


def test_the_reference_matters_to_deeplift_and_is_refused_elsewhere() -> None:
    net, x = convolutional(), images(2)
    zero, other = (csc(net, x, "deeplift_rescale", baselines=b)["median"].tolist() for b in (None, x.mean(0)))
    assert zero != other
    with pytest.raises(InputError, match="lrp_zplus compares with no reference"):
        csc(net, x, "lrp_zplus", baselines=0.5)


@pytest.mark.parametrize(
    "method",
    ["guided_backprop", GuidedBackprop, modbp.make("guided_backprop", nn.ReLU()), GuidedBackprop(nn.ReLU()).composite],
    ids=["name", "class", "method", "composite"],
)
def test_a_method_is_given_in_any_form(method: Any) -> None:
    net, x = convolutional(), images(1)
    expected = csc(net, x, "guided_backprop", n_vectors=2)["median"]
    np.testing.assert_array_equal(csc(net, x, method, n_vectors=2)["median"], expected)


def test_your_own_composite_and_patterns() -> None:
    net, x = convolutional(), images(1)
    assert len(csc(net, x, Composite("mine", {"affine": Flat()}))) == 4
    fitted = modbp.make("pattern_net", net, data=[images(4)])
    assert csc(net, x, fitted)["median"].between(0, 1).all()


@pytest.mark.parametrize("method", [m for m in modbp.METHODS if not m.startswith("pattern")])
def test_every_method_has_a_table(method: str) -> None:
    table = csc(convolutional(), images(1), method, n_vectors=2)
    assert (table["values"] + table["dropped"] > 0).all()
    assert table.loc[table["values"] > 0, "median"].between(0, 1).all()


# Awkward networks


class Residual(nn.Module):
    """A ReLU that is used twice, functional ReLUs, a sum, batch norm, a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.side = nn.Conv2d(8, 8, 1)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm(self.stem(x)))
        h = self.relu(self.branch(h)) + torch.relu(self.side(h))
        return self.head(h.mean((2, 3)))


def test_activations_are_found_behind_norms_and_reused_relus() -> None:
    net = Residual().eval()
    expected = {"stem": "relu:0", "branch": "relu:1", "side": "side", "head": "head"}
    assert layers.activation_points(net, images(1).float()) == expected
    net.training = True  # one that needs numbers takes another path
    assert layers.activation_points(net, images(1).float()) == expected


def test_a_model_that_needs_numbers_is_really_run() -> None:
    class Branching(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)  # shapes alone cannot decide

    net = Branching(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert layers.activation_points(net, torch.ones(1, 4)) == {"0": "1", "2": "2"}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_residual_network_is_read_in_the_order_in_which_it_runs() -> None:
    torch.manual_seed(0)
    net = Residual().eval()
    x = torch.rand(1, 3, 6, 6)
    table = csc(net, x, "lrp_zplus", start=["output", "branch"])
    below = {s: table[table["start"] == s]["layer"].tolist() for s in ("output", "branch")}
    assert below["output"] == ["input", "relu:0", "relu:1", "side", "head"]
    assert below["branch"] == ["input", "relu:0", "branch"], "side runs later and is no part of it"


def test_tokens_have_their_channels_last() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    table = csc(net, torch.rand(1, 10, 6), "gradient", layers=["1", "2"], n_vectors=2).set_index("layer")
    assert table["chance"].tolist() == [chance_level(16), chance_level(4)]
    assert table["values"].tolist() == [10, 10]


def test_a_function_without_modules() -> None:
    W = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    table = csc(lambda x: torch.relu(x) @ W.T, torch.rand(2, 8), "gradient", layers=["input"])
    assert table["layer"].tolist() == ["input"]
    with pytest.raises(InputError, match=re.escape("model is of type function; allowed is an nn.Module")):
        csc(lambda x: torch.relu(x) @ W.T, torch.rand(2, 8), "gradient")


def test_one_image_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Trace]] = []
    most = [0]
    whole = ModifiedBackprop.trace

    def trace(self: ModifiedBackprop, *arguments: Any, **options: Any) -> Trace:
        found = whole(self, *arguments, **options)
        most[0] = max(most[0], 1 + sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(ModifiedBackprop, "trace", trace)
    csc(convolutional(), images(6), "gradient", n_vectors=2)
    assert len(alive) == 6
    assert most[0] <= 2, "the last trace may live until the next one takes its name"


def test_each_image_by_itself() -> None:
    net, x = convolutional(), images(3)
    table = csc(net, x, "gradient", n_vectors=2, per_image=True)
    pooled = table[table["image"] == "all"].drop(columns="image").reset_index(drop=True)
    assert pooled.equals(csc(net, x, "gradient", n_vectors=2).astype(pooled.dtypes))
    first = table[table["image"] == 0].drop(columns="image").reset_index(drop=True)
    alone = csc(net, x[:1], "gradient", n_vectors=2)
    assert first[["layer", "median", "values"]].values.tolist() == alone[["layer", "median", "values"]].values.tolist()
    parts = table[(table["image"] != "all") & (table["layer"] == "1")]
    assert (len(parts), parts["values"].sum()) == (3, pooled.set_index("layer").loc["1", "values"])


def test_the_model_and_its_hooks_stay_as_they_were() -> None:
    net = convolutional()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    csc(net, images(1), "lrp_alpha2_beta1", n_vectors=2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


# Bad input


class Pairs(nn.Module):
    """Returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def _bad(**changes: Any) -> Callable[[], Any]:
    return lambda: csc(**{"model": convolutional(), "inputs": images(1), "method": "gradient", **changes})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (_bad(start="5x"), "the model has no layer '5x'; allowed are its modules' names, the nearest '5'"),
        (_bad(start="input"), "start is 'input', below which there is nothing; allowed are"),
        (_bad(start=[]), "start is an empty sequence; allowed are"),
        (_bad(layers=["conv"]), "the model has no layer 'conv'; allowed are its modules' names, the nearest"),
        (_bad(layers=[]), "layers is empty; allowed are"),
        (_bad(layers=["6"], start="4"), "no relevance can reach '6' from '4': it does not lie below it."),
        (_bad(n_vectors=1), "n_vectors is 1; allowed are whole numbers from 2 upwards"),
        (_bad(n_vectors=2.0), "n_vectors is 2.0; allowed are whole numbers from 2 upwards"),
        (_bad(seed=-1), "seed is -1; allowed are whole numbers from 0"),
        (_bad(inputs=images(0)), "inputs has shape (0, 3, 16, 16) and so no entries; allowed is at least one sample."),
        (_bad(inputs=images(1) * math.nan), "values that are NaN or infinite"),
        (_bad(method="integrated_gradients"), "the method 'integrated_gradients' is unknown; allowed are gradient,"),
        (_bad(method=nn.ReLU()), "method is of type ReLU, which has no relevance between the layers"),
        (_bad(method="pattern_net"), "method is 'pattern_net', which needs patterns; allowed is modbp.make("),
        (_bad(over="channel"), "over is 'channel'; allowed are one or more of position, map."),
        (_bad(vectors="ones"), "vectors is 'ones'; allowed are gaussian, active, one_hot."),
        (_bad(vectors="one_hot", start="4"), "start is '4' with one-hot vectors; allowed with them is 'output'"),
        (_bad(vectors="one_hot", n_vectors=8), "n_vectors is 8 with one-hot vectors, and the output has shape (1, 7)"),
        (_bad(vectors="active"), "start is 'output' with vectors on active neurons; allowed with them are names"),
        (_bad(model=Pairs(), inputs=torch.rand(1, 5, 3), layers=["lstm"]), "layer 'lstm' returned a tuple; allowed"),
        (_bad(model="vgg16"), "model is of type str; allowed is an nn.Module"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value).replace("inputs[0]", "inputs")
    assert "\n" not in str(caught.value)


def test_captums_methods_without_relevance_are_refused() -> None:
    from captum.attr import IntegratedGradients

    with pytest.raises(InputError, match="method is of type IntegratedGradients, which has no relevance between"):
        csc(convolutional(), images(1), IntegratedGradients(convolutional()))  # type: ignore[arg-type]


def test_the_composite_that_was_given_is_not_changed() -> None:
    composite = lrp_zplus()
    csc(convolutional(), images(1), composite, n_vectors=2)
    assert composite == lrp_zplus()
