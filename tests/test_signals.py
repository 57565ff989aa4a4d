"""Alignment, weight alignment, sufficiency and location: against loops, closed forms, and networks made awkward."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import modbp
from modbp import metrics
from modbp.composite import guided_backprop
from modbp.errors import InputError
from modbp.metrics.signals import Signal
from modbp.networks import random_mlp
from modbp.theory import alignment as theory


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Awkward(nn.Module):
    """A reused in-place ReLU, batch norm, a residual sum, and a functional ReLU that has no name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second, self.third = nn.Conv2d(2, 6, 3, 2), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 2)
        self.norm, self.relu, self.head = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Linear(4, 3)
        with torch.no_grad():
            self.norm.running_mean.add_(0.2)  # type: ignore[union-attr]
            self.norm.weight.mul_(1.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm(self.first(x)))
        h = h + self.relu(self.second(h))
        return self.head(F.relu(self.third(h)).mean((2, 3)))


@pytest.fixture
def awkward() -> Any:
    return Awkward().eval()


def cos(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0, eps=0))


# Alignment


@pytest.mark.parametrize("name", ["gradient", "deconvolution", "guided_backprop", "rectgrad"])
def test_alignment_of_a_gradient_is_that_of_the_ordinary_backward_pass(name: str) -> None:
    """Layer by layer in float64, with the formula of each rule."""
    net: Any = random_mlp(60, 4, inputs=20, outputs=5, bias=0.1, seed=1).double().requires_grad_(False)
    x, target = normal(3, 20).double(), [1, 4, 0]
    table = metrics.alignment(net, x, name, target)
    assert list(table.columns) == ["image", "layer", "arriving", "filtered", "shuffled", "another", "active"]
    assert table["layer"].tolist() == ["input", "1", "3", "5"] * 3
    activations: list[dict[str, Tensor]] = []
    signals: list[dict[str, Tensor]] = []
    for i in range(3):
        a, h = {"input": x[i]}, x[i]
        for layer in (1, 3, 5):
            h = (net[layer - 1].weight @ h + net[layer - 1].bias).clamp(min=0)
            a[str(layer)] = h
        r, found = net[6].weight[target[i]], {}
        rows = table[table["image"] == i].set_index("layer")
        for layer in (5, 3, 1):
            here = a[str(layer)]
            kept = {
                "gradient": here > 0,
                "deconvolution": r > 0,
                "guided_backprop": (here > 0) & (r > 0),
                "rectgrad": here * r > (here * r).sort().values[round(0.98 * 59)],
            }[name]
            g = r * kept
            assert rows.loc[str(layer), "arriving"] == pytest.approx(cos(r, here))
            assert rows.loc[str(layer), "filtered"] == pytest.approx(cos(g, here), nan_ok=True)
            assert rows.loc[str(layer), "active"] == pytest.approx(float((here > 0).double().mean()))
            found[str(layer)], r = g, net[layer - 1].weight.T @ g
        assert rows.loc["input", "arriving"] == pytest.approx(cos(r, x[i]), nan_ok=True)
        assert math.isnan(rows.loc["input", "filtered"])
        activations.append(a)
        signals.append(found | {"input": r})
    for i, layer in itertools.product(range(3), ["input", "1", "3", "5"]):
        (row,) = table[(table["image"] == i) & (table["layer"] == layer)].itertuples()
        assert row.another == pytest.approx(cos(signals[i][layer], activations[i - 1][layer]), nan_ok=True)


def test_the_shuffled_column_is_the_mean_over_all_permutations() -> None:
    a, g = torch.tensor([[0.0, 1.0, 3.0, 2.0, 0.5]]), torch.tensor([[0.0, 5.0, 1.0, 0.0, 2.0]])
    on = [1, 2, 3, 4]
    values = []
    for order in itertools.permutations(on):
        permuted = g.clone()
        permuted[0, on] = g[0, list(order)]
        values.append(cos(permuted, a))
    assert Signal(g, g, a, rectified=True).row(None)["shuffled"] == pytest.approx(np.mean(values))
    whole = [cos(g[:, list(order)], a) for order in itertools.permutations(range(5))]
    assert Signal(g, g, a, rectified=False).row(None)["shuffled"] == pytest.approx(np.mean(whole))
    ungated = g.clone()
    ungated[0, 0] = 4.0  # on an inactive unit
    whole = [cos(ungated[:, list(order)], a) for order in itertools.permutations(range(5))]
    assert Signal(ungated, ungated, a, rectified=True).row(None)["shuffled"] == pytest.approx(np.mean(whole))


def test_the_signal_of_relevance_is_relevance_over_activation() -> None:
    net = random_mlp(60, 3, inputs=20, outputs=4, seed=2).double()
    x = normal(2, 20).double()
    for name in ("lrp_zplus", "excitation_bp"):
        table = metrics.alignment(net, x, name, target=0).set_index(["image", "layer"])
        own = metrics.alignment(net, x, name, target=0, of="relevance").set_index(["image", "layer"])
        for i in range(2):
            start = F.one_hot(torch.tensor([0]), 4).double()
            done = theory.filtered_backward(net, x[i : i + 1], start, theory.FILTERS[name])
            r = done.map / x[i : i + 1]
            assert abs(table.loc[(i, "input"), "arriving"]) == pytest.approx(abs(cos(r, x[i])))
            assert abs(own.loc[(i, "input"), "arriving"]) == pytest.approx(abs(cos(done.map, x[i])))
            assert own.loc[(i, "1"), "filtered"] != pytest.approx(table.loc[(i, "1"), "filtered"], rel=1e-3)


def test_input_times_gradient_has_the_signal_of_the_gradient() -> None:
    net, x = random_mlp(40, 3, inputs=20, outputs=4), normal(2, 20)
    plain = metrics.alignment(net, x, "gradient", 1)
    product = metrics.alignment(net, x, "input_x_gradient", 1)
    epsilon = metrics.alignment(net.double(), x.double(), modbp.attr.LRPEpsilon(net, epsilon=1e-12), 1)
    np.testing.assert_allclose(product.iloc[:, 2:], plain.iloc[:, 2:], rtol=1e-5)
    # Without biases LRP-0 is input × gradient; inactive units have no relevance, so that only active ones compare.
    np.testing.assert_allclose(epsilon["filtered"], plain["filtered"], rtol=1e-4)
    relevance = metrics.alignment(net.float(), x, "input_x_gradient", 1, of="relevance")
    assert not np.allclose(relevance["filtered"].dropna(), plain["filtered"].dropna(), rtol=1e-2)


@pytest.mark.parametrize("name", [m for m in modbp.METHODS if not m.startswith("pattern")])
def test_every_method_has_a_profile_on_an_awkward_network(name: str, awkward: Any) -> None:
    x = normal(2, 2, 9, 9)
    table = metrics.alignment(awkward, x, name, target=0, layers=["relu:0", "relu:1"])
    assert table["layer"].tolist() == ["input", "relu:0", "relu:1"] * 2
    assert table[["arriving", "filtered", "shuffled", "another"]].abs().max().max() <= 1 + 1e-9
    assert table["active"].between(0, 1).all()
    if name != "rectgrad":  # which lets a few units through, and at times none
        assert table["arriving"].notna().all()


def test_the_default_points_are_activations_behind_layers_with_weights(awkward: Any) -> None:
    x = normal(1, 2, 9, 9)
    table = metrics.alignment(awkward, x, guided_backprop())
    assert table["layer"].tolist() == ["input", "relu:0", "relu:1"]
    assert table["another"].isna().all()
    with torch.no_grad():
        best = int(awkward(x).argmax())
    again = metrics.alignment(awkward, x, modbp.attr.GuidedBackprop(awkward), target=torch.tensor([best]))
    np.testing.assert_array_equal(table.iloc[:, 2:], again.iloc[:, 2:])


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_a_guided_signal_is_never_below_zero_and_filtering_never_lowers(seed: int) -> None:
    net, x = random_mlp(30, 4, inputs=10, outputs=3, seed=seed), normal(2, 10, seed=seed)
    table = metrics.alignment(net, x, "guided_backprop", target=0)
    for row in table[table["layer"] != "input"].dropna(subset=["filtered"]).itertuples():
        assert row.filtered >= max(row.arriving, 0) - 1e-6
    assert (table["arriving"].dropna() >= -1e-6).all() or table.loc[table["layer"] != "input", "arriving"].lt(0).any()
    assert (table.loc[table["layer"] == "input", "arriving"].dropna() >= -1e-6).all()  # the sign lemma


def test_wide_random_networks_follow_the_recursion() -> None:
    net = random_mlp(800, 7, outputs=4, seed=3)
    x = normal(4, 800)
    table = metrics.alignment(net, x, "guided_backprop", target=1)
    predicted = theory.alignments([1] * 6)[::-1]
    seen = table.groupby("layer", sort=False)["filtered"].mean()
    assert seen.drop("input").to_numpy() == pytest.approx(predicted, abs=0.05)
    gradient = metrics.alignment(net, x, "gradient", target=1)
    assert gradient["arriving"].abs().mean() < 0.1


def test_deeplift_takes_a_reference() -> None:
    net, x = random_mlp(30, 3, inputs=10, outputs=3), normal(2, 10)
    zero = metrics.alignment(net, x, "deeplift_rescale", 0)
    other = metrics.alignment(net, x, "deeplift_rescale", 0, baselines=0.5)
    assert not np.allclose(zero["arriving"], other["arriving"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"of": "map"}, "of is 'map'; allowed are signal, relevance."),
        ({"layers": []}, r"layers is \[\]; allowed are one or more names of modules"),
        ({"layers": ["input"]}, "allowed are one or more names of modules that return an activation."),
        ({"layers": ["9"]}, "the model has no layer '9'"),
        ({"target": [0]}, "target has 1 entries; allowed are one number, or one per image: 2."),
        ({"target": 7}, "target is 7; allowed are the classes 0 to 2."),
        ({"method": "pattern_net"}, "which needs patterns"),
        ({"method": "nothing"}, "nothing"),
        ({"inputs": torch.full((2, 10), math.nan)}, "NaN or infinite"),
        ({"model": nn.Linear(10, 3)}, "the model has no activation module directly behind a linear layer"),
    ],
)
def test_alignment_refuses_in_one_sentence(arguments: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {
        "model": random_mlp(8, 3, inputs=10, outputs=3),
        "inputs": normal(2, 10),
        "method": "gradient",
    }
    with pytest.raises(InputError, match=said):
        metrics.alignment(**(given | arguments))


# Weight alignment


def test_weight_alignment_is_the_mean_over_patches_of_active_units() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, (2, 1), groups=2), nn.ReLU(), nn.Flatten()
    )
    net.append(nn.Linear(32, 5)).append(nn.ReLU()).append(nn.Linear(5, 2))
    x = normal(3, 2, 7, 9)[:, :, :, :8] + 0.2
    size = net[:5](x).shape[1]
    net[5] = nn.Linear(size, 5)
    table = metrics.weight_alignment(net, x).set_index("layer")
    assert table.index.tolist() == ["0", "2", "5"]
    below = {"0": x, "2": net[:2](x), "5": net[:5](x)}
    for name, a in below.items():
        layer: Any = net[int(name)]
        found, units, positions = [], 0, 0
        for image in a:
            if isinstance(layer, nn.Linear):
                patches = [image]
                weights = [list(layer.weight)]
            else:
                k, pad, s, groups = layer.kernel_size, layer.padding, layer.stride, layer.groups
                padded = F.pad(image, (pad[1], pad[1], pad[0], pad[0]))
                share, out = padded.shape[0] // groups, layer.weight.shape[0] // groups
                patches, weights = [], []
                for group in range(groups):
                    part = padded[group * share : (group + 1) * share]
                    for i in range(0, part.shape[1] - k[0] + 1, s[0]):
                        for j in range(0, part.shape[2] - k[1] + 1, s[1]):
                            patches.append(part[:, i : i + k[0], j : j + k[1]].flatten())
                            weights.append([w.flatten() for w in layer.weight[group * out : (group + 1) * out]])
            positions += len(patches) // (1 if isinstance(layer, nn.Linear) else layer.groups)
            for number, (patch, ws) in enumerate(zip(patches, weights, strict=True)):
                first = 0 if isinstance(layer, nn.Linear) else number // (len(patches) // layer.groups) * len(ws)
                for j, w in enumerate(ws):
                    units += 1
                    if float(w @ patch + layer.bias[first + j]) > 0:
                        found.append(cos(w, patch))
        row = table.loc[name]
        assert row["inputs"] == layer.weight[0].numel()
        assert row["mean"] == pytest.approx(np.nanmean(found), rel=1e-4)
        assert row["mean_square"] == pytest.approx(np.nanmean(np.square(found)), rel=1e-4)
        assert row["active"] == pytest.approx(len(found) / units, rel=1e-3)
        assert row["units"] == pytest.approx(len(found) / positions, rel=1e-3)
        assert row["ratio"] == pytest.approx(row["mean"] / theory.isotropic_cosine(int(row["inputs"])))


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_weight_alignment_sees_what_other_paddings_show(mode: str) -> None:
    torch.manual_seed(0)
    padded = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
    bare = nn.Conv2d(2, 3, 3)
    bare.load_state_dict(padded.state_dict())
    x = normal(1, 2, 6, 6)
    shown = F.pad(x, (1, 1, 1, 1), mode=mode)
    seen, expected = (
        metrics.weight_alignment(nn.Sequential(layer, nn.ReLU()), data) for layer, data in ((padded, x), (bare, shown))
    )
    np.testing.assert_allclose(seen.iloc[:, 1:].astype(float), expected.iloc[:, 1:].astype(float), rtol=1e-5)


def test_random_weights_are_isotropic_and_copies_of_the_input_are_not() -> None:
    x = normal(40, 100)
    layer = nn.Linear(100, 2000, bias=False)
    layer.weight.data = normal(2000, 100, seed=1)
    net = nn.Sequential(layer, nn.ReLU())
    assert metrics.weight_alignment(net, x)["ratio"].item() == pytest.approx(1, abs=0.03)
    layer.weight.data += x.mean(0) * 20
    assert metrics.weight_alignment(net, x)["ratio"].item() > 1.1
    layer.weight.data = x[:1].repeat(2000, 1)
    assert metrics.weight_alignment(net, x[:1])["mean"].item() == pytest.approx(1)


def test_weight_alignment_refuses_in_one_sentence() -> None:
    net, x = random_mlp(8, 3, inputs=10, outputs=3), normal(2, 10)
    with pytest.raises(InputError, match="layer '1' is no linear layer or convolution that runs once"):
        metrics.weight_alignment(net, x, ["1"])
    with pytest.raises(InputError, match="no layer has an activation module directly behind it"):
        metrics.weight_alignment(nn.Sequential(nn.Linear(10, 3)), x)
    assert not any(m._forward_hooks for m in net.modules())


# Sufficiency


def test_the_signal_takes_the_place_of_the_activation(awkward: Any) -> None:
    """Layer by layer, run by hand behind the replaced activation."""
    net, x = random_mlp(40, 4, inputs=20, outputs=6, bias=0.2, seed=4), normal(3, 20)
    classes = torch.tensor([[0, 1, 2], [3, 4, 5], [5, 0, 3]])
    table = metrics.sufficiency(net, x, "guided_backprop", classes, layers=["input", "1", "5"])
    assert len(table) == 3 * 3 * 3
    method = modbp.attr.GuidedBackprop(net)
    for row in table.itertuples():
        image = x[row.image : row.image + 1]
        start = F.one_hot(torch.tensor([row.explained]), 6).float()
        if row.place == "input":
            g, a, rest = method.attribute(image, target=row.explained), image, net
        else:
            below = int(row.place)
            r = method.relevance(image, [row.place], start=start)[row.place]
            a, rest = net[: below + 1](image), net[below + 1 :]
            g = r.clamp(min=0) * (a > 0)
        with torch.no_grad():
            decided = int(rest(g * a.norm() / g.norm()).argmax())
            predicted = int(net(image).argmax())
        assert (row.decided, row.predicted) == (decided, predicted)
        assert (row.keeps, row.follows) == (decided == predicted, decided == row.explained)
        assert row.wrong == (row.explained != predicted)
    assert not any(m._forward_hooks for m in net.modules())
    reused = metrics.sufficiency(awkward, normal(2, 2, 9, 9), "lrp_zplus", layers=["relu:0", "relu:1"])
    assert set(reused["place"]) == {"relu:0", "relu:1"}


def test_the_call_of_a_reused_module_is_the_one_that_is_replaced(awkward: Any) -> None:
    x = normal(1, 2, 9, 9)
    table = metrics.sufficiency(awkward, x, "gradient", torch.tensor([[1]]), layers=["relu:1"])
    trace = modbp.attr.Gradient(awkward).trace(x, ["relu:0", "relu:1"])
    a = trace.activation("relu:1")
    g = trace.relevance(["relu:1"], start=torch.tensor([[0.0, 1.0, 0.0]]))["relu:1"] * (a > 0)
    with torch.no_grad():
        h = trace.activation("relu:0") + g * a.norm() / g.norm()
        logits = awkward.head(F.relu(awkward.third(h)).mean((2, 3)))
    assert table["decided"].item() == int(logits.argmax())


@pytest.mark.parametrize("method", ["guided_backprop", "lrp_zplus", "random"])
def test_places_asked_together_are_those_asked_alone(method: str, awkward: Any) -> None:
    x = normal(4, 2, 9, 9)
    classes = torch.tensor([[0, 1, 2]] * 4)
    places = ["relu:1", "input", "relu:0"]
    together = metrics.sufficiency(awkward, x, method, classes, layers=places)
    assert together["place"].tolist() == [place for _ in range(4) for place in places for _ in range(3)]
    with torch.no_grad():
        assert together["predicted"].tolist() == awkward(x).argmax(1).repeat_interleave(9).tolist()
    if method == "random":  # the noise of a place depends on the places before it
        return
    for place in places:
        alone = metrics.sufficiency(awkward, x, method, classes, layers=[place])
        np.testing.assert_array_equal(alone, together[together["place"] == place])


class Joining(nn.Module):
    """Joins what is above a module with what is below it, in the batch's own size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.relu, self.head = nn.Linear(4, 5), nn.ReLU(), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.cat([x, self.relu(self.first(x))], dim=1).view(len(x), -1))
        return found


def test_a_model_that_joins_needs_as_many_of_both() -> None:
    net, x = Joining().eval(), normal(2, 4)
    classes = torch.tensor([[0, 1, 2], [2, 1, 0]])
    table = metrics.sufficiency(net, x, "gradient", classes, layers=["relu"])
    for row in table.itertuples():
        image = x[row.image : row.image + 1]
        a = net.relu(net.first(image))
        g = net.head.weight[row.explained, 4:] * (a > 0)
        with torch.no_grad():
            logits = net.head(torch.cat([image, g * a.norm() / g.norm()], dim=1))
        assert row.decided == int(logits.argmax())


def test_many_threads_may_ask_one_model_and_nothing_is_left_on_it(awkward: Any) -> None:
    x = normal(3, 2, 9, 9)
    names = ["gradient", "guided_backprop", "lrp_zplus", "deconvolution"] * 4

    def ask(name: str) -> Any:
        return metrics.sufficiency(awkward, x, name, layers=["relu:0", "relu:1"]), metrics.weight_alignment(awkward, x)

    alone = {name: ask(name) for name in set(names)}
    with ThreadPoolExecutor(8) as pool:
        for name, found in zip(names, pool.map(ask, names), strict=True):
            assert all(a.equals(b) for a, b in zip(found, alone[name], strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in awkward.modules())


def test_a_compiled_model_is_the_one_that_was_compiled() -> None:
    net, x = random_mlp(20, 3, inputs=10, outputs=4), normal(2, 10)
    compiled = torch.compile(net, backend="eager")
    inside = torch.nn.Sequential(compiled)
    inside(x)  # warm: hooks would not run in what was compiled
    layer = "0._orig_mod.1"
    found, expected = (metrics.sufficiency(m, x, "gradient", layers=[at]) for m, at in ((inside, layer), (net, "1")))
    assert found.drop(columns="place").equals(expected.drop(columns="place"))
    assert metrics.weight_alignment(inside, x)["mean"].equals(metrics.weight_alignment(net, x)["mean"])
    assert metrics.sufficiency(compiled, x, "gradient").equals(metrics.sufficiency(net, x, "gradient"))
    assert metrics.weight_alignment(compiled, x).equals(metrics.weight_alignment(net, x))
    assert metrics.alignment(compiled, x, "gradient", 0).equals(metrics.alignment(net, x, "gradient", 0))


def test_kept_pixels_are_those_with_the_largest_sums(awkward: Any) -> None:
    x = normal(2, 2, 9, 9)
    classes = torch.tensor([[0, 2], [1, 0]])
    fill = torch.tensor([0.3, -0.1]).view(2, 1, 1)
    table = metrics.sufficiency(awkward, x, "gradient", classes, way="pixels", shares=(0.1, 0.5, 1.0), fill=fill)
    for row in table.itertuples():
        image = x[row.image : row.image + 1]
        scores = modbp.attr.Gradient(awkward).attribute(image, target=row.explained).abs().sum(1).flatten()
        kept = torch.zeros(81, dtype=torch.bool)
        kept[scores.argsort(descending=True)[: round(row.place * 81)]] = True
        with torch.no_grad():
            seen = torch.where(kept.view(1, 1, 9, 9), image, fill)
            assert row.decided == int(awkward(seen).argmax())
    assert table[table["place"] == 1.0]["keeps"].all()


def test_noise_has_picked_out_nothing() -> None:
    net, x = random_mlp(200, 3, inputs=50, outputs=10, seed=1), normal(40, 50)
    chance = metrics.sufficiency(net, x, "random", layers=["input"])
    assert chance[chance["wrong"]]["follows"].mean() < 0.3
    gradient = metrics.sufficiency(net, x, "gradient", layers=["input"])
    assert gradient[gradient["wrong"]]["follows"].mean() > chance[chance["wrong"]]["follows"].mean() + 0.2
    assert chance.equals(metrics.sufficiency(net, x, "random", layers=["input"]))
    assert not chance.equals(metrics.sufficiency(net, x, "random", layers=["input"], seed=1))
    pixels = metrics.sufficiency(nn.Sequential(nn.Flatten(), net), x.view(40, 1, 5, 10), "random", way="pixels")
    assert pixels["place"].unique().tolist() == [0.05, 0.1, 0.2]


def test_what_cannot_be_decided_on_is_no_decision() -> None:
    net, x = random_mlp(20, 3, inputs=10, outputs=3), normal(1, 10)
    net[0].weight.data.zero_()
    net[0].bias.data.fill_(-1.0)  # nothing is active
    table = metrics.sufficiency(net, x, "guided_backprop", torch.tensor([[0, 1]]), layers=["1"])
    assert table["decided"].tolist() == [-1, -1]
    assert not table["keeps"].any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"way": "both"}, "way is 'both'; allowed are signal, pixels."),
        ({"way": "pixels"}, r"inputs has shape \(2, 10\); allowed with way='pixels' are pictures."),
        ({"way": "pixels", "shares": (0, 0.5)}, r"shares is \(0, 0.5\); allowed are one or more numbers above 0"),
        ({"layers": ["output"]}, "layers is"),
        ({"classes": torch.zeros(2)}, r"classes is \(2,\); allowed is an integer tensor of shape \(2, maps\)."),
        ({"classes": torch.zeros(2, 1)}, "allowed is an integer tensor"),
        ({"model": lambda x: x}, "model is of type function; allowed is an nn.Module, whose layers have names."),
    ],
)
def test_sufficiency_refuses_in_one_sentence(arguments: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {
        "model": random_mlp(8, 3, inputs=10, outputs=3),
        "inputs": normal(2, 10),
        "method": "gradient",
    }
    with pytest.raises(InputError, match=said):
        metrics.sufficiency(**(given | arguments))


# Location


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_shares_add_up_and_do_not_depend_on_the_size(seed: int, scale: float) -> None:
    R = normal(2, 3, 5, 6, seed=seed)
    region = normal(2, 5, 6, seed=seed + 1) > 0
    for part in ("absolute", "positive"):
        inside, outside = (metrics.share_inside(R, where, part) for where in (region, ~region))
        torch.testing.assert_close(inside + outside, torch.ones(2, dtype=torch.float64))
        torch.testing.assert_close(metrics.share_inside(scale * R, region, part), inside)
    by_hand = sum(float(R[0, :, i, j].abs().sum()) for i in range(5) for j in range(6) if region[0, i, j])
    assert float(metrics.share_inside(R, region)[0]) == pytest.approx(by_hand / float(R[0].abs().sum()), rel=1e-5)


def test_a_flat_map_has_the_share_of_the_area_and_no_map_has_none() -> None:
    region = torch.zeros(4, 5, dtype=torch.bool)
    region[1:3, 2] = True
    assert metrics.share_inside(torch.ones(1, 3, 4, 5), region).item() == pytest.approx(0.1)
    assert math.isnan(metrics.share_inside(torch.zeros(1, 3, 4, 5), region).item())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.share_inside(torch.ones(2, 2), torch.ones(2, 2) > 0), r"attribution has shape \(2, 2\)"),
        (lambda: metrics.share_inside(torch.ones(1, 1, 2, 2), torch.ones(2, 2)), "region is torch.float32 of shape"),
        (lambda: metrics.share_inside(torch.ones(1, 1, 2, 2), torch.ones(3, 2) > 0), "allowed is a boolean tensor"),
        (lambda: metrics.share_inside(torch.ones(1, 1, 2, 2), torch.ones(2, 2) > 0, "all"), "part is 'all'; allowed"),
    ],
)
def test_location_refuses_in_one_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
