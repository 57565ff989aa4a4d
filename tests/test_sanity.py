"""Sanity checks: similarities with closed forms, controls that do what they are for, and Quantus where we agree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn

import modbp
from modbp import metrics, networks
from modbp._captum import Attribution
from modbp._torchvision import torchvision
from modbp.errors import InputError
from modbp.layers import running_order
from modbp.metrics import sanity
from modbp.metrics.sanity.conventions import Drawn, Prepared
from modbp.metrics.similarity import states


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cnn(classes: int = 5, seed: int = 0) -> nn.Module:
    """A small network with what makes hooks fail: batch norm, a reused in-place ReLU, a residual sum."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(8, classes)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.bn1(self.conv1(x)))
            x = self.relu(x + self.bn2(self.conv2(x)))
            return self.fc(x.mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net().eval()
        for norm in (net.bn1, net.bn2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return net


def values(table: pd.DataFrame, **where: Any) -> list[float]:
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    assert len(table), where
    return table["value"].tolist()


# How maps are compared


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6), shift=st.floats(-3, 3))
@settings(max_examples=20)
def test_similarities_do_not_see_scale_and_the_best_sign_no_sign(seed: int, scale: float, shift: float) -> None:
    a, b = noise(1, 3, 12, 12, seed=seed).double(), noise(1, 3, 12, 12, seed=seed + 5000).double()
    base = sanity.ssim(a, b)
    assert sanity.ssim(a, scale * b) == pytest.approx(base, abs=1e-9)
    assert sanity.ssim(a, -b) == pytest.approx(base, abs=1e-9)
    assert sanity.ssim(a, b + shift) == pytest.approx(base, abs=1e-9), "clipping at percentiles takes a shift away"
    as_is = [sanity.ssim(*pair, sanity.SIGNED)[0] for pair in ((a, b), (b, a))]
    assert as_is[0] == pytest.approx(as_is[1], abs=1e-9), "the best sign is not symmetric: the second map is flipped"
    assert sanity.ssim(a, a) == sanity.ssim(a, -a) == [pytest.approx(1)]
    assert base[0] >= sanity.ssim(a, b, sanity.SIGNED)[0]
    assert base[0] <= 1
    signed, absolute = (metrics.rank_correlation(a, b, signed=s)[0] for s in (True, False))
    assert metrics.rank_correlation(a, -scale * b, signed=True)[0] == pytest.approx(-signed)
    assert metrics.rank_correlation(a, -scale * b)[0] == pytest.approx(absolute)


def test_ssim_is_scikit_images_on_pictures_that_are_clipped_by_hand() -> None:
    a, b = noise(2, 3, 20, 17, seed=1), noise(2, 3, 20, 17, seed=2) ** 3

    def picture(m: Tensor) -> np.ndarray[Any, Any]:
        shown = m.double().sum(0).numpy()
        low, high = (float(np.percentile(shown, q)) for q in (0.5, 99.5))
        return np.clip((shown - low) / (high - low), 0, 1)

    for size in (1.0, 2.0):
        as_is = [
            structural_similarity(picture(x), picture(y), win_size=5, data_range=size)
            for x, y in zip(a, b, strict=True)
        ]
        flipped = [
            structural_similarity(picture(x), picture(-y), win_size=5, data_range=size)
            for x, y in zip(a, b, strict=True)
        ]
        assert sanity.ssim(a, b, sanity.Convention(size, sign="as_is")) == pytest.approx(as_is, abs=1e-12)
        assert sanity.ssim(a, b, sanity.Convention(size)) == pytest.approx(list(map(max, as_is, flipped)), abs=1e-12)


def test_the_floor_depends_on_the_convention() -> None:
    """The numbers that claim S13 predicts for unrelated Gaussian noise, at the paper's size."""
    a, b = noise(3, 1, 224, 224, seed=3), noise(3, 1, 224, 224, seed=4)
    floors = {s: np.mean(sanity.ssim(a, b, sanity.Convention(s, sign="as_is"))) for s in (1.0, 2.0)}
    assert floors[1.0] == pytest.approx(0.009, abs=0.005)
    assert floors[2.0] == pytest.approx(0.045, abs=0.01)
    heavy = np.mean(sanity.ssim(a**3, b**3, sanity.Convention(2.0, sign="as_is")))
    assert heavy > 2 * floors[2.0], "sparse maps are the most inflated"


@pytest.mark.parametrize("size", [1.0, 2.0])
def test_the_floor_follows_its_law(size: float) -> None:
    """law-floor: also for pictures of other deviations, which is why each method has a floor of its own."""
    for deviation in (0.05, 0.1, 0.2):
        a, b = (0.5 + deviation * noise(4, 1, 160, 160, seed=s) for s in (3, 4))
        convention = sanity.Convention(size, "as_is", "none")
        assert np.mean(sanity.ssim(a, b, convention)) == pytest.approx(sanity.ssim_floor(deviation, size), abs=0.012)
        # Against chance it stands out: the law moves by more than its tolerance over these deviations.
    assert sanity.ssim_floor(0.05, size) - sanity.ssim_floor(0.2, size) > 0.1


@given(seed=st.integers(0, 1000), factor=st.floats(-1e3, 1e3).filter(lambda t: abs(t) > 1e-3))
@settings(max_examples=20)
def test_rank_one_maps_are_the_same_for_every_class(seed: int, factor: float) -> None:
    """prop-rank-one-checks."""
    c = noise(1, 3, 12, 12, seed=seed).double() ** 3
    for convention in (sanity.STRICT, sanity.PAPER):
        assert sanity.ssim(c, factor * c, convention) == pytest.approx([1])
    sign = math.copysign(1, factor)
    assert metrics.rank_correlation(c, factor * c) == pytest.approx([1])
    assert metrics.rank_correlation(c, factor * c, signed=True) == pytest.approx([sign])
    assert metrics.cosine(c, factor * c).tolist() == pytest.approx([sign])
    assert (sanity.ssim(c, factor * c, sanity.SIGNED)[0] > 0.99) == (factor > 0)


def test_channels_are_joined_as_the_convention_or_the_method_says() -> None:
    a, b = noise(1, 3, 9, 9, seed=5), noise(1, 3, 9, 9, seed=6)
    joined = {
        "sum": Tensor.sum,
        "absolute_sum": lambda m, d: m.abs().sum(d),
        "max_absolute": lambda m, d: m.abs().amax(d),
    }
    for how, join in joined.items():
        expected = sanity.ssim(join(a, 1)[:, None], join(b, 1)[:, None], sanity.SIGNED)
        assert sanity.ssim(a, b, sanity.Convention(sign="as_is", channels=how)) == pytest.approx(expected)
        assert sanity.ssim(a, b, sanity.SIGNED, Drawn(how)) == pytest.approx(expected)
    x = noise(2, 3, 8, 8, seed=7)
    table = sanity.random_logit(cnn(), x, ["gradient", "rectgrad", "lrp_zplus"], controls=False)
    made = table[table["measure"] == sanity.STRICT.label].groupby("method")[["channels", "normalization"]].first()
    assert made["channels"].to_dict() == {"gradient": "max_absolute", "rectgrad": "max_absolute", "lrp_zplus": "sum"}
    assert made["normalization"].to_dict() == {
        "gradient": "clip at 0.5 and 99.5 %",
        "rectgrad": "clip at 0 and 100 %",
        "lrp_zplus": "clip at 0.5 and 99.5 %",
    }


def test_pictures_that_conventions_share_are_made_once() -> None:
    prepared = Prepared.of(noise(1, 3, 8, 8), [sanity.STRICT, sanity.PAPER, sanity.SIGNED], Drawn())
    pictures = prepared.pictures
    assert pictures[sanity.STRICT, False] is pictures[sanity.PAPER, False] is pictures[sanity.SIGNED, False]
    others = [sanity.Convention(normalization="range"), sanity.Convention(channels="max_absolute")]
    prepared = Prepared.of(noise(1, 3, 8, 8), [sanity.STRICT, *others], Drawn())
    for other in others:
        assert prepared.pictures[other, False] is not prepared.pictures[sanity.STRICT, False]


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_rank_correlations_are_scipys(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(-3, 4, (2, 2, 2, 6, 6), generator=generator).double()  # with many ties
    for signed in (False, True):
        join = (lambda m: m.sum(0)) if signed else (lambda m: m.abs().sum(0))
        expected = [spearmanr(join(x).flatten(), join(y).flatten()).statistic for x, y in zip(a, b, strict=True)]
        assert metrics.rank_correlation(a, b, signed) == pytest.approx(expected)


def test_entropy_of_a_histogram() -> None:
    two = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert sanity.histogram_entropy(two[None]).item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert sanity.histogram_entropy(torch.linspace(0, 1, 1000)[None], bins=10).item() == pytest.approx(
        math.log(10), abs=1e-3
    )
    x = noise(3, 50)
    assert torch.equal(sanity.histogram_entropy(x), sanity.histogram_entropy(4 * x)), "scale does not count"
    assert sanity.histogram_entropy(torch.stack([torch.ones(9), torch.full((9,), torch.nan)])).isnan().all()


@pytest.mark.usefixtures("no_warning")
def test_maps_without_a_picture_are_constant_or_not_finite() -> None:
    rounding = torch.full((1, 64), 1e6, dtype=torch.float64)
    rounding[0, 3] = torch.nextafter(rounding[0, 3], torch.tensor(torch.inf))
    assert states(torch.cat([rounding, 1e6 + noise(1, 64)])) == ["constant", "fine"]
    zero = torch.zeros(1, 3, 24, 24)
    spike = zero.clone()
    spike[0, 0, 4, 4] = 1  # clipped at 99.5 %, nothing is left of it; at 100 % it is
    for m in (zero, spike, zero + torch.nan):
        assert np.isnan(sanity.ssim(m, noise(1, 3, 24, 24))).all()
    assert np.isfinite(sanity.ssim(spike, noise(1, 3, 24, 24), drawn=Drawn(percentiles=(0, 100)))).all()


# Random logits


def test_one_row_for_each_image_method_class_and_measure() -> None:
    net, x = cnn(), noise(3, 3, 8, 8)
    classes = torch.tensor([[0, 1, 2], [4, 3, 0], [2, 2, 1]])
    table = sanity.random_logit(net, x, ["gradient", "lrp_zplus"], classes, batch=2)
    measures = table["measure"].unique().tolist()
    assert len(measures) == 6
    of_classes = table[table["against"] == sanity.ANOTHER_CLASS]
    assert len(of_classes) == 4 * 3 * 2 * 6  # two methods and two controls
    keys = ["method", "image", "target", "other", "measure"]
    assert not of_classes.duplicated(keys).any()
    assert set(zip(of_classes["image"], of_classes["target"], of_classes["other"], strict=True)) == {
        (i, int(c[0]), int(k)) for i, c in enumerate(classes) for k in c[1:]
    }
    assert len(table[table["against"] == sanity.ITSELF_NEGATED]) == 4 * 3 * 6
    assert len(table[table["method"] == sanity.FLOOR]) == 3 * 6
    # By hand, one of them.
    a, b = (modbp.make("lrp_zplus", net).attribute(x[1:2], target=k) for k in (4, 3))
    where = {"method": "lrp_zplus", "image": 1, "other": 3}
    assert values(of_classes, measure=sanity.STRICT.label, **where) == pytest.approx(sanity.ssim(a, b))
    assert values(of_classes, measure=sanity.COSINE, **where) == pytest.approx(metrics.cosine(a, b).tolist())
    assert values(of_classes, measure=sanity.SPEARMAN, **where) == pytest.approx(metrics.rank_correlation(a, b, True))
    # The class itself: the same map.
    same = of_classes[(of_classes["image"] == 2) & (of_classes["other"] == 2)]
    assert same["value"].to_numpy() == pytest.approx(1)


def test_controls_do_what_they_are_for() -> None:
    net, x = cnn(), noise(4, 3, 24, 24)
    table = sanity.random_logit(net, x, "guided_backprop", others=2, seed=3)
    medians = sanity.medians(table).set_index(["method", "against", "measure"])["median"]
    for measure in (sanity.STRICT.label, sanity.SPEARMAN, sanity.SPEARMAN_ABSOLUTE):
        assert abs(medians[sanity.NOISE, sanity.ANOTHER_CLASS, measure]) < 0.1, "noise passes"
        assert medians[sanity.EDGES, sanity.ANOTHER_CLASS, measure] == pytest.approx(1), "edges fail"
        assert abs(medians[sanity.FLOOR, sanity.OTHER_NOISE, measure]) < 0.1
    flipped = {m: medians["guided_backprop", sanity.ITSELF_NEGATED, m] for m in table["measure"].unique()}
    assert flipped[sanity.SPEARMAN] == pytest.approx(-1)
    assert flipped[sanity.COSINE] == pytest.approx(-1)
    for blind in (sanity.STRICT.label, sanity.PAPER.label, sanity.SPEARMAN_ABSOLUTE):
        assert flipped[blind] == pytest.approx(1)
    assert abs(medians["guided_backprop", sanity.ITSELF_SHUFFLED, sanity.SPEARMAN]) < 0.15
    # Noise is a function: of the picture, the class and the parameters.
    again = sanity.random_logit(net, x, "guided_backprop", others=2, seed=3, batch=1)
    pd.testing.assert_frame_equal(by_key(table), by_key(again), rtol=1e-3, atol=1e-4)


def by_key(table: pd.DataFrame) -> pd.DataFrame:
    keys = [c for c in ("method", "against", "stage", "image", "other", "measure") if c in table]
    return table.sort_values(keys).reset_index(drop=True)


def test_any_method_is_taken_and_the_model_stays_as_it_is() -> None:
    from captum.attr import InputXGradient, Saliency

    net, x = cnn(), noise(2, 3, 10, 10)
    before = {n: t.clone() for n, t in net.state_dict().items()}

    def own(model: Callable[..., Any], inputs: Tensor, target: Tensor) -> Tensor:
        leaf = inputs.detach().requires_grad_()
        return torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)[0]

    methods = {
        "by name": "gradient",
        "composite": modbp.composite.gradient(),
        "object": modbp.make("gradient", net),
        "class": modbp.attr.Gradient,
        "function": own,
        "captum": InputXGradient,
    }
    table = sanity.random_logit(net, x, methods)
    found = {name: values(table, method=name, against=sanity.ANOTHER_CLASS, measure=sanity.COSINE) for name in methods}
    for name in ("composite", "object", "class", "function"):
        assert found[name] == pytest.approx(found["by name"], abs=1e-5), name
    twin = values(
        sanity.random_logit(net, x, "input_x_gradient"),
        method="input_x_gradient",
        against=sanity.ANOTHER_CLASS,
        measure=sanity.COSINE,
    )
    assert found["captum"] == pytest.approx(twin, abs=1e-5)
    assert issubclass(Saliency, Attribution)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_constant_and_undefined_maps_are_named_and_counted() -> None:
    x = noise(3, 3, 8, 8)

    def broken(model: Callable[..., Any], inputs: Tensor, target: Tensor) -> Tensor:
        maps = inputs.clone()
        maps[0] = torch.nan
        maps[1] = 1.0
        return maps

    with pytest.warns(UserWarning, match=r"no value: \d+ not finite of broken, \d+ constant of broken\.$"):
        table = sanity.random_logit(cnn(), x, broken)
    medians = sanity.medians(table)
    row = medians[(medians["method"] == "broken") & (medians["against"] == sanity.ANOTHER_CLASS)]
    assert row[["defined", "constant", "not_finite"]].to_numpy().tolist() == [[1, 1, 1]] * 6
    assert row["median"].to_numpy() == pytest.approx(1), "what is left is the picture itself"
    assert values(table, method="broken", image=0, measure=sanity.COSINE, against=sanity.ANOTHER_CLASS) == [
        pytest.approx(math.nan, nan_ok=True)
    ]


def test_one_bad_map_of_two_is_enough() -> None:
    spike = torch.zeros(1, 3, 24, 24)
    spike[0, 0, 4, 4] = 1  # nothing is left of it where it is clipped

    def broken(model: Callable[..., Any], inputs: Tensor, target: Tensor) -> Tensor:
        return {0: inputs, 1: inputs + torch.nan, 2: spike}[int(target)]

    with pytest.warns(UserWarning, match="no value: 6 not finite of broken, 3 constant of broken"):
        table = sanity.random_logit(
            cnn(), noise(1, 3, 24, 24), broken, torch.tensor([[0, 1, 2]]), controls=False
        ).set_index(["other", "measure"])
    assert set(table.loc[1, "state"]) == {"not finite"}
    lost = table.loc[2, "state"] == "constant"
    assert {m for m, gone in lost.items() if gone} == {c.label for c in sanity.CONVENTIONS}
    assert table["value"].isna().eq(table["state"] != "fine").all()


def test_a_reference_reaches_the_methods_that_compare() -> None:
    net, x = cnn(), noise(3, 3, 8, 8)
    reference = noise(3, 3, 8, 8, seed=1)
    tables = [
        sanity.random_logit(net, x, ["deeplift_rescale", "gradient"], torch.tensor([[0, 1]] * 3), batch=2, baselines=b)
        for b in (None, reference)
    ]
    where = {"against": sanity.ANOTHER_CLASS, "measure": sanity.COSINE}
    plain, compared = (values(t, method="deeplift_rescale", **where) for t in tables)
    maps = [modbp.make("deeplift_rescale", net).attribute(x, target=k, baselines=reference) for k in (0, 1)]
    assert compared == pytest.approx(metrics.cosine(*maps).tolist(), abs=1e-5)
    assert np.abs(np.array(plain) - compared).max() > 1e-3
    assert values(tables[0], method="gradient", **where) == values(tables[1], method="gradient", **where)


def test_what_may_change_a_model_runs_alone() -> None:
    import threading

    seen: list[int] = []

    def theirs(model: Callable[..., Any], inputs: Tensor, target: Tensor) -> Tensor:
        seen.append(threading.get_ident())
        return inputs

    sanity.parameter_randomization(cnn(), noise(2, 3, 8, 8), theirs, batch=1, controls=False)
    assert set(seen) == {threading.get_ident()}
    assert len(seen) == 2 * (1 + 3)


def test_inputs_that_are_no_pictures_have_no_ssim() -> None:
    net, x = networks.random_mlp(width=30, depth=3, outputs=4), noise(3, 30)
    table = sanity.random_logit(net, x, "gradient")
    assert set(table["measure"]) == {sanity.SPEARMAN, sanity.SPEARMAN_ABSOLUTE, sanity.COSINE}
    assert set(table["method"]) == {"gradient", sanity.NOISE, sanity.FLOOR}


# Randomized parameters


def test_stages_of_a_cascade() -> None:
    net, x = cnn(), noise(2, 3, 8, 8)
    assert running_order(net, x) == {"conv1": ["bn1"], "conv2": ["bn2"], "fc": []}
    before = {n: t.clone() for n, t in net.state_dict().items()}
    for order, stages in {
        "from_top": {"fc": ["fc"], "conv2": ["fc", "conv2"], "conv1": ["fc", "conv2", "conv1"]},
        "from_bottom": {"conv1": ["conv1"], "conv2": ["conv1", "conv2"], "fc": ["fc", "conv2", "conv1"]},
        "single": {"fc": ["fc"], "conv2": ["conv2"], "conv1": ["conv1"]},
        "all": {"all": ["fc", "conv2", "conv1"]},
    }.items():
        table = sanity.parameter_randomization(net, x, "gradient", torch.tensor([1, 2]), order=order, controls=False)
        assert table["stage"].unique().tolist() == list(stages), order
        for stage, names in stages.items():
            norms = [n.replace("conv", "bn") for n in names if n != "fc"]
            random = networks.randomized_layers(net, [*names, *norms])
            expected = metrics.cosine(
                *(modbp.make("gradient", n).attribute(x, target=torch.tensor([1, 2])) for n in (net, random))
            )
            assert values(table, stage=stage, measure=sanity.COSINE) == pytest.approx(expected.tolist(), abs=1e-5)
            assert set(table[table["stage"] == stage]["random_layers"]) == {len(names)}
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_all_methods_see_the_same_networks_and_a_batch_changes_nothing() -> None:
    net, x = cnn(), noise(3, 3, 8, 8)
    both = sanity.parameter_randomization(net, x, ["lrp_zplus", "gradient"], seed=4, batch=2)
    alone = sanity.parameter_randomization(net, x, "gradient", seed=4)
    pick = both[both["method"] == "gradient"]
    pd.testing.assert_frame_equal(by_key(pick), by_key(alone[alone["method"] == "gradient"]), rtol=1e-4, atol=1e-6)
    other = sanity.parameter_randomization(net, x, "gradient", seed=5)
    assert not np.allclose(values(alone, method="gradient"), values(other, method="gradient"), equal_nan=True)


def test_the_controls_of_randomization() -> None:
    net, x = cnn(), noise(3, 3, 24, 24)
    table = sanity.parameter_randomization(net, x, "gradient", layers={"top": "fc", "bottom": "conv1"})
    assert table["stage"].unique().tolist() == ["top", "bottom", sanity.TRAINED]
    for stage in ("top", "bottom"):
        where = {"stage": stage, "against": sanity.TRAINED_NETWORK}
        assert values(table, method=sanity.EDGES, measure=sanity.STRICT.label, **where) == pytest.approx([1] * 3)
        assert values(table, method=sanity.EDGES, measure=sanity.ENTROPY_RISE, **where) == pytest.approx([0] * 3)
        assert max(map(abs, values(table, method=sanity.NOISE, measure=sanity.SPEARMAN, **where))) < 0.15
    assert set(table[table["method"] == sanity.FLOOR]["stage"]) == {sanity.TRAINED}


def test_smooth_maps_are_means_over_the_same_noise() -> None:
    net, x = cnn(), noise(2, 3, 8, 8)
    table = sanity.parameter_randomization(
        net, x, "gradient", 1, order="all", samples=3, noise=0.2, controls=False, batch=1, seed=2
    )
    random = networks.randomized_layers(net, ["fc", "conv1", "bn1", "conv2", "bn2"], seed=2)
    from modbp.metrics.sanity.parameters import _noisy

    copies = _noisy(x, 3, 0.2, 2, 0)
    drawn = torch.stack([c - x for c in copies]).flatten(2)
    assert torch.nn.functional.cosine_similarity(drawn[:, 0], drawn[:, 1]).abs().max() < 0.3, "pictures share no noise"
    assert all(torch.equal(c[1:], alone) for c, alone in zip(copies, _noisy(x[1:], 3, 0.2, 2, 1), strict=True))
    spread = torch.stack([c - x for c in copies]).std().item()
    assert spread == pytest.approx(0.2 * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).mean().item(), rel=0.15)
    means = [
        torch.stack([modbp.make("gradient", n).attribute(c, target=1) for c in copies]).mean(0) for n in (net, random)
    ]
    assert values(table, measure=sanity.COSINE) == pytest.approx(metrics.cosine(*means).tolist(), abs=1e-5)
    rise = sanity.histogram_entropy(means[1].abs().amax(1)) / sanity.histogram_entropy(means[0].abs().amax(1)) - 1
    assert values(table, measure=sanity.ENTROPY_RISE) == pytest.approx(rise.tolist(), abs=1e-9)
    plain = sanity.parameter_randomization(
        net, x, "gradient", 1, order="all", samples=3, noise=0, controls=False, seed=2
    )
    once = sanity.parameter_randomization(net, x, "gradient", 1, order="all", controls=False, seed=2)
    assert values(plain, measure=sanity.COSINE) == pytest.approx(values(once, measure=sanity.COSINE), abs=1e-5)


def test_a_network_in_float64_is_randomized_like_the_same_in_float32() -> None:
    single, double = (networks.randomized_layers(n, ["conv1", "fc"], seed=1) for n in (cnn(), cnn().double()))
    for name in ("conv1", "fc"):
        weight = double.get_submodule(name).weight
        assert weight.dtype == torch.float64
        assert torch.equal(weight, single.get_submodule(name).weight.double())


def test_batch_norms_are_reset_or_kept() -> None:
    net = cnn()
    reset = networks.randomized_layers(net, ["conv1", "bn1"])
    assert reset.bn1.weight.eq(1).all()
    assert reset.bn1.running_var.eq(1).all()
    assert not reset.bn1.bias.any()
    assert not reset.bn1.running_mean.any()
    kept = networks.randomized_layers(net, ["conv1", "bn1"], norms="keep")
    assert kept.bn1.weight is net.bn1.weight
    assert torch.equal(kept.conv1.weight, reset.conv1.weight)
    x = noise(2, 3, 8, 8)
    tables = [sanity.parameter_randomization(net, x, "gradient", 0, norms=n, controls=False) for n in networks.NORMS]
    assert not np.allclose(values(tables[0], stage="conv1"), values(tables[1], stage="conv1"))


def test_parameters_of_no_layer_are_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with pytest.warns(UserWarning, match="the parameters of '1' belong to no linear layer"):
        table = sanity.parameter_randomization(net, noise(1, 3, 8, 8), lambda model, x, target: x, controls=False)
    assert table["value"].dropna().iloc[0] == pytest.approx(1)


# Medians


def test_medians_and_bands_are_scipys() -> None:
    from scipy.stats import bootstrap

    generator = np.random.default_rng(0)
    rows = [
        {
            "method": m,
            "image": i,
            "value": generator.normal() if (m, i) != ("b", 3) else np.nan,
            "state": "fine" if (m, i) != ("b", 3) else "constant",
        }
        for m in "abc"
        for i in range(8)
    ]
    table = sanity.medians(pd.DataFrame(rows), resamples=999).set_index("method")
    for method in "abc":
        data = np.array([r["value"] for r in rows if r["method"] == method and not np.isnan(r["value"])])
        interval = bootstrap(
            (data,),
            np.median,
            confidence_level=0.99,
            n_resamples=999,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        assert table.loc[method, "median"] == np.median(data)
        # Ours resamples several groups at once, and quantiles of 999 medians are coarse.
        assert table.loc[method, "low"] == pytest.approx(interval.low, abs=1e-9)
        assert table.loc[method, "high"] == pytest.approx(interval.high, abs=1e-9)
    assert table[["defined", "constant", "not_finite"]].to_numpy().tolist() == [[8, 0, 0], [7, 1, 0], [8, 0, 0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = sanity.medians(pd.DataFrame([{"method": "a", "value": 1.0, "state": "fine"}] * 3))
    assert same[["median", "low", "high"]].to_numpy().tolist() == [[1, 1, 1]]
    one = sanity.medians(pd.DataFrame([{"method": "a", "value": 1.0, "state": "fine"}]))
    assert one["median"].tolist() == [1]
    assert one[["low", "high"]].isna().all(axis=None)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8), st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_share_in_order_is_a_count_of_pairs(above: list[int], below: list[int]) -> None:
    expected = np.mean([(a > b) + 0.5 * (a == b) for a in above for b in below])
    assert sanity.share_in_order(above, below) == pytest.approx(expected)
    assert sanity.share_in_order(above, below) + sanity.share_in_order(below, above) == pytest.approx(1)
    assert math.isnan(sanity.share_in_order([], below))


# Quantus


class Named(nn.Linear):
    """Draws for itself what `networks.randomized_layers` draws for a layer of its name.

    Quantus calls `reset_parameters` of each module, under the same global seed, so that layers of one shape would get
    the same weights; with this class both see the same random networks.
    """

    def __init__(self, name: str, *sizes: int) -> None:
        self.name = name
        super().__init__(*sizes)
        nn.init.normal_(self.weight)

    def reset_parameters(self) -> None:
        drawn = networks.randomized_layers(nn.Sequential(nn.Linear(self.in_features, self.out_features)), [], 0)[0]
        whole = nn.Module()
        whole.add_module(self.name, drawn)
        drawn = getattr(networks.randomized_layers(whole, [self.name], 0), self.name)
        with torch.no_grad():
            self.weight.copy_(drawn.weight)
            self.bias.copy_(drawn.bias)


@pytest.fixture(scope="module")
def quantus() -> Any:
    torchvision()  # Quantus imports it, which fails beside some builds of PyTorch
    import quantus

    return quantus


@pytest.fixture(scope="module")
def net_and_data() -> tuple[nn.Module, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    torch.manual_seed(0)
    layers = [Named("first", 64, 32), nn.ReLU(), Named("second", 32, 32), nn.ReLU(), Named("third", 32, 6)]
    names = ["first", "relu1", "second", "relu2", "third"]
    body = nn.Sequential()
    body.add_module("flatten", nn.Flatten())
    for name, layer in zip(names, layers, strict=True):
        body.add_module(name, layer)
    x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    return body.eval(), x, np.array([0, 3, 5, 1, 3])


def explain(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
    """Signed maps: of this example all conventions agree, since one channel needs no joining."""
    x = torch.as_tensor(np.asarray(inputs), dtype=torch.float32)
    return modbp.make("gradient", model).attribute(x, target=torch.as_tensor(np.asarray(targets))).numpy()


SAME = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}


def test_random_logit_is_that_of_quantus(quantus: Any, net_and_data: Any) -> None:
    """Matched: signed maps, no normalization, Spearman with signs, and its own draw of other classes."""
    net, x, y = net_and_data
    asked: list[Any] = []

    def watched(model: nn.Module, inputs: Any, targets: Any, **options: Any) -> np.ndarray[Any, Any]:
        asked.append(np.asarray(targets))
        return explain(model, inputs, targets, **options)

    metric = quantus.RandomLogit(num_classes=6, similarity_func=quantus.correlation_spearman, **SAME)
    a = explain(net, x, y)
    theirs = metric(model=net, x_batch=x, y_batch=y, a_batch=a, explain_func=watched, device="cpu")
    classes = torch.tensor(np.stack([y, asked[-1]], 1))
    table = sanity.random_logit(net, torch.tensor(x), "gradient", classes, controls=False)
    assert values(table, measure=sanity.SPEARMAN) == pytest.approx(np.asarray(theirs, float).tolist(), abs=1e-6)


def test_its_ssim_is_ours_with_its_conventions(quantus: Any) -> None:
    """Matched: window 7, the data range of the pair, division by the largest value, the sign as it is."""
    a, b = (noise(1, 1, 16, 16, seed=s) for s in (1, 2))
    convention = sanity.Convention("pair", "as_is", "maximum", window=7)
    scaled = [m[0, 0].double().numpy() / float(m.abs().max()) for m in (a, b)]
    theirs = quantus.ssim(*scaled, win_size=7)
    assert sanity.ssim(a, b, convention) == pytest.approx([theirs], abs=1e-9)
    # What its RandomLogit does is another thing: it takes the SSIM of the flattened map, in one dimension.
    flat = quantus.ssim(*(m.ravel() for m in scaled))
    assert abs(flat - theirs) > 0.005


@pytest.mark.parametrize(
    ("order", "theirs"), [("from_top", "top_down"), ("from_bottom", "bottom_up"), ("single", "independent")]
)
def test_cascades_are_those_of_quantus(quantus: Any, net_and_data: Any, order: str, theirs: str) -> None:
    """Matched: signed maps without normalization, Spearman with signs, and the same random weights (`Named`)."""
    net, x, y = net_and_data
    metric = quantus.MPRT(similarity_func=quantus.correlation_spearman, layer_order=theirs, seed=0, **SAME)
    scores = metric(model=net, x_batch=x, y_batch=y, a_batch=explain(net, x, y), explain_func=explain, device="cpu")
    table = sanity.parameter_randomization(
        net, torch.tensor(x), "gradient", torch.tensor(y), order=order, controls=False
    )
    assert set(scores) - {"original"} == set(table["stage"])
    for stage in table["stage"].unique():
        assert values(table, stage=stage, measure=sanity.SPEARMAN) == pytest.approx(scores[stage], abs=1e-5), stage


def test_the_efficient_test_is_that_of_quantus(quantus: Any, net_and_data: Any) -> None:
    """Matched: signed maps, 100 bins (its own search for a number of bins is turned off), everything random."""
    from quantus.functions.complexity_func import discrete_entropy

    net, x, y = net_and_data
    options = {**SAME, "complexity_func": discrete_entropy, "complexity_func_kwargs": {"n_bins": 100}}
    metric = quantus.EfficientMPRT(layer_order="bottom_up", seed=0, **options)
    scores = metric(model=net, x_batch=x, y_batch=y, a_batch=explain(net, x, y), explain_func=explain, device="cpu")

    def signed(model: Callable[..., Any], inputs: Tensor, target: Tensor) -> Tensor:
        return modbp.make("gradient", model).attribute(inputs, target=target)

    table = sanity.parameter_randomization(
        net, torch.tensor(x), {"gradient": signed}, torch.tensor(y), order="all", controls=False
    )
    assert values(table, measure=sanity.ENTROPY_RISE) == pytest.approx(np.asarray(scores, float).tolist(), abs=1e-6)


# Bad input


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sanity.Convention(data_range=0), "data_range is 0; allowed are finite numbers above 0."),
        (
            lambda: sanity.Convention(data_range="wide"),
            "data_range is 'wide'; allowed are numbers above 0, and 'pair'.",
        ),
        (lambda: sanity.Convention(sign="any"), "sign is 'any'; allowed are best, as_is."),
        (lambda: sanity.Convention(normalization="z"), "normalization is 'z'; allowed are clip, range, maximum, none."),
        (lambda: sanity.Convention(channels="mean"), "channels is 'mean'; allowed are None, sum, absolute_sum,"),
        (lambda: sanity.Convention(window=4), "window is 4; allowed are odd numbers from 3 upwards."),
        (
            lambda: sanity.Convention(percentiles=(50, 50)),
            "percentiles is (50, 50); allowed are two increasing numbers",
        ),
        (
            lambda: sanity.ssim(noise(1, 3, 8, 8), noise(1, 3, 9, 9)),
            "the maps have shapes (1, 3, 8, 8) and (1, 3, 9, 9);",
        ),
        (lambda: sanity.ssim(noise(1, 3, 4, 4), noise(1, 3, 4, 4)), "window is 5 for maps of 4 pixels; allowed are"),
        (lambda: sanity.ssim_floor(0), "deviation is 0; allowed are finite numbers above 0."),
        (lambda: sanity.ssim_floor(1, 0), "data_range is 0; allowed are finite numbers above 0."),
        (lambda: sanity.histogram_entropy(noise(1, 4), bins=1), "bins is 1; allowed are whole numbers from 2 upwards."),
        (lambda: run("grad"), "grad"),
        (lambda: run([]), "methods is empty; allowed are one or more."),
        (lambda: run(["gradient", modbp.composite.gradient()]), "methods has 'gradient' twice; allowed is a mapping"),
        (lambda: run({"unrelated noise": "gradient"}), "methods has the name 'unrelated noise', which the floor has;"),
        (lambda: run(3), "methods has 'int' of type int; allowed are names of modbp.METHODS, composites,"),
        (lambda: run("pattern_net"), "method is 'pattern_net', which needs patterns; allowed is"),
        (lambda: run(lambda m, x, target: x[:1]), "<lambda> returned (1, 3, 8, 8) for 2 inputs; allowed is a tensor"),
        (
            lambda: run("gradient", torch.zeros(2, 1, dtype=torch.long)),
            "classes is (2, 1); allowed is an integer tensor",
        ),
        (lambda: run("gradient", others=5), "others is 5; allowed for 5 classes are 0 to 4."),
        (lambda: run("gradient", others=0), "others is 0; allowed are whole numbers from 1 upwards."),
        (lambda: run("gradient", batch=0), "batch is 0; allowed are whole numbers from 1 upwards."),
        (lambda: run("gradient", seed=-1), "seed is -1; allowed are whole numbers from 0 to"),
        (
            lambda: sanity.random_logit(cnn().train(), noise(1, 3, 8, 8), "gradient"),
            "model is in training mode; allowed is eval mode, in which it answers the same twice.",
        ),
        (
            lambda: sanity.parameter_randomization(
                nn.Sequential(nn.Dropout(), cnn()).eval().append(nn.Dropout()), noise(1, 3, 8, 8), "gradient"
            ),
            "model is in training mode; allowed is eval mode,",
        ),
        (lambda: randomize(order="top"), "order is 'top'; allowed are from_top, from_bottom, single, all."),
        (lambda: randomize(layers=["fc2"]), "layers holds 'fc2'; allowed are conv1, conv2, fc."),
        (lambda: randomize(layers="fc"), "layers is 'fc'; allowed are several names out of conv1, conv2, fc."),
        (lambda: randomize(layers=[]), "layers is []; allowed are several names out of conv1, conv2, fc."),
        (lambda: randomize(layers={"trained": "fc"}), "layers has the name 'trained', which rows of controls have;"),
        (lambda: randomize(targets=torch.zeros(3)), "targets is (3,); allowed are a class, and an integer tensor"),
        (lambda: randomize(samples=0), "samples is 0; allowed are whole numbers from 1 upwards."),
        (lambda: randomize(noise=-1), "noise is -1; allowed are finite numbers from 0 upwards."),
        (lambda: randomize(norms="drop"), "norms is 'drop'; allowed are reset, keep."),
        (
            lambda: sanity.parameter_randomization(lambda x: x, noise(1, 3, 8, 8), "gradient"),
            "model is of type function; allowed is an nn.Module, whose layers have names.",
        ),
        (
            lambda: sanity.parameter_randomization(nn.Flatten().eval(), noise(1, 3, 8, 8), "gradient"),
            "model has no linear layer and no convolution; allowed is one with layers to randomize.",
        ),
        (lambda: sanity.medians(pd.DataFrame({"value": [1.0]})), "table has no column 'state'; allowed are tables"),
        (
            lambda: sanity.medians(pd.DataFrame({"value": [], "state": []}), confidence=1),
            "confidence is 1; allowed are",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def run(methods: Any, classes: Tensor | None = None, **options: Any) -> object:
    return sanity.random_logit(cnn(), noise(2, 3, 8, 8), methods, classes, **options)


def randomize(**options: Any) -> object:
    return sanity.parameter_randomization(cnn(), noise(2, 3, 8, 8), "gradient", **options)
