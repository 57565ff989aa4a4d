"""The measures: closed forms, invariances, and what is undefined stays undefined."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter
from torch import Tensor

import modbp
from modbp import metrics


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


seeds = st.integers(0, 10**6)
scales = st.floats(1e-6, 1e6)


@given(seed=seeds)
def test_correlation_equals_numpy_after_each_channels_mean_is_removed(seed: int) -> None:
    a, b = maps(seed, 2, 3, 7, 5), maps(seed + 1, 2, 3, 7, 5)
    found = metrics.correlation(a, b)
    for i in range(2):
        u, v = ((t[i] - t[i].mean((1, 2), keepdim=True)).flatten().numpy() for t in (a, b))
        assert math.isclose(found[i], np.corrcoef(u, v)[0, 1], rel_tol=1e-10, abs_tol=1e-12)


@given(seed=seeds, scale=scales, shift=st.floats(-10, 10))
def test_correlation_ignores_scale_and_a_shift_of_each_channel(seed: int, scale: float, shift: float) -> None:
    a, b = maps(seed, 2, 3, 9, 9), maps(seed + 1, 2, 3, 9, 9)
    moved = scale * a + shift * torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1)
    for measure in (metrics.correlation, metrics.high_pass_correlation):
        assert torch.allclose(measure(moved, b), measure(a, b), atol=1e-6)
        assert torch.allclose(measure(-a, b), -measure(a, b))
        assert torch.allclose(measure(a, b), measure(b, a))
        assert torch.allclose(measure(a, a), torch.ones(2, dtype=torch.float64))


def test_high_pass_equals_scipy_inside_and_a_loop_at_the_border() -> None:
    x = maps(3, 1, 2, 21, 17)
    found = metrics.high_pass(x)[0]
    filtered = x[0].numpy() - uniform_filter(x[0].numpy(), size=(1, 9, 9), mode="constant")
    np.testing.assert_allclose(found[:, 4:-4, 4:-4].numpy(), filtered[:, 4:-4, 4:-4], atol=1e-12)
    for i, j in [(0, 0), (2, 16), (20, 8)]:
        square = x[0, :, max(i - 4, 0) : i + 5, max(j - 4, 0) : j + 5]
        torch.testing.assert_close(found[:, i, j], x[0, :, i, j] - square.mean((1, 2)))


def test_high_pass_correlation_sees_edges_under_any_smooth_color() -> None:
    """A map that is the picture's texture on another smooth ramp: low correlation, high high-pass correlation."""
    texture = maps(0, 1, 3, 64, 64)
    ramp = torch.linspace(0, 10, 64, dtype=torch.float64).expand(1, 3, 64, 64)
    picture, drawn = texture + ramp, texture - ramp
    assert metrics.correlation(picture, drawn) < -0.7
    assert metrics.high_pass_correlation(picture, drawn) > 0.95


def test_chance_level_and_control() -> None:
    """Unrelated maps: mean 0 and standard deviation 1/√n, the level that a walkthrough draws."""
    a, b = maps(1, 400, 3, 10, 10), maps(2, 400, 3, 10, 10)
    found = metrics.correlation(a, b)
    n = 3 * (100 - 1)
    assert abs(found.mean()) < 4 / math.sqrt(400 * n)
    assert found.std() * math.sqrt(n) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("value", [0.0, 0.1, 123.456, -1e-9, 1e9])
def test_a_constant_map_has_no_correlation(value: float) -> None:
    picture = maps(0, 1, 3, 31, 29).float()
    # Constant up to a rounding error in each entry, as a map is that was computed and not filled.
    constant = torch.full((1, 3, 31, 29), value)
    up = torch.nextafter(constant, torch.tensor(torch.inf))
    constant = torch.where(picture > 0, up, constant) if value else constant
    assert metrics.correlation(constant, picture).isnan().all()
    assert metrics.high_pass_correlation(constant, picture).isnan().all()
    assert metrics.high_pass_correlation(picture, constant).isnan().all()


def test_undefined_samples_do_not_touch_the_others() -> None:
    a = maps(0, 3, 3, 12, 12)
    b = a.clone()
    b[1] = 0
    b[2, 0, 0, 0] = float("nan")
    for measure in (metrics.cosine, metrics.correlation, metrics.high_pass_correlation):
        found = measure(a, b)
        assert found[0] == pytest.approx(1)
        assert found[1:].isnan().all()
    assert metrics.pairwise_cosine(torch.stack([a, b])).isnan().tolist() == [False, True, True]


@given(seed=seeds, angle=st.floats(0, math.pi), scale=scales)
def test_cosine_of_a_known_angle(seed: int, angle: float, scale: float) -> None:
    u, v = maps(seed, 1, 30), maps(seed + 1, 1, 30)
    u = u / u.norm()
    v = v - (v * u).sum() * u
    turned = scale * (math.cos(angle) * u + math.sin(angle) * v / v.norm())
    assert float(metrics.cosine(u, turned)) == pytest.approx(math.cos(angle), abs=1e-9)


def test_tiny_float32_maps_keep_their_cosine() -> None:
    a = maps(0, 1, 3, 8, 8).float()
    assert metrics.cosine(1e-30 * a, a) == pytest.approx(1)


@given(seed=seeds, n=st.integers(2, 5))
def test_pairwise_cosine_is_the_mean_over_pairs(seed: int, n: int) -> None:
    a = maps(seed, n, 2, 3, 4, 4)
    pairs = [metrics.cosine(a[i], a[j]) for i in range(n) for j in range(i)]
    torch.testing.assert_close(metrics.pairwise_cosine(a), torch.stack(pairs).mean(0))


def test_summary_is_the_mean_with_a_bootstrap_interval() -> None:
    values = maps(0, 400).tolist()
    found = metrics.summarize([*values, float("nan")])
    assert found.mean == pytest.approx(np.mean(values))
    assert found.spread == pytest.approx(1.96 * np.std(values) / 20, rel=0.05)
    assert (found.defined, found.undefined) == (400, 1)
    assert metrics.summarize(values) == metrics.summarize(values)
    assert math.isnan(metrics.summarize([float("nan")]).mean)
    assert math.isnan(metrics.summarize([1.0]).spread)


def test_the_ratio_of_means_has_the_spread_of_the_delta_method_and_resamples_pairs() -> None:
    below = (5 + maps(0, 400)).tolist()
    noise = (0.2 * maps(1, 400)).tolist()
    above = [2 * b + e for b, e in zip(below, noise, strict=True)]
    found = metrics.ratio_of_means([*above, math.nan, 1.0], [*below, 1.0, math.inf])
    assert found.mean == pytest.approx(np.mean(above) / np.mean(below))
    assert found.spread == pytest.approx(1.96 * 0.2 / 5 / 20, rel=0.1)  # the part that pairs share cancels
    assert (found.defined, found.undefined) == (400, 2)
    assert metrics.ratio_of_means(above, above[::-1]).spread > 3 * found.spread
    assert metrics.ratio_of_means([3 * b for b in below], below).spread == pytest.approx(0, abs=1e-12)
    assert math.isnan(metrics.ratio_of_means([1.0, 2.0], [0.0, 0.0]).mean)
    assert math.isnan(metrics.ratio_of_means([1.0], [2.0]).spread)
    assert math.isnan(metrics.ratio_of_means([], []).mean)
    with pytest.raises(modbp.InputError, match=r"below has 1 values; allowed are as many as above has: 2\."):
        metrics.ratio_of_means([1.0, 2.0], [1.0])


def test_bad_maps_get_one_sentence() -> None:
    a = maps(0, 1, 3, 8, 8)
    cases = [
        ("allowed is .batch, channels", lambda: metrics.correlation(a[0], a[0])),
        ("shapes that broadcast", lambda: metrics.cosine(a, maps(0, 1, 3, 8, 7))),
        ("window is 8; allowed are odd", lambda: metrics.high_pass(a, 8)),
        ("window is -1", lambda: metrics.high_pass(a, -1)),
        ("at least two", lambda: metrics.pairwise_cosine(a[None])),
        ("allowed are equal", lambda: metrics.relative_difference(a, a[0])),
    ]
    for message, call in cases:
        with pytest.raises(modbp.InputError, match=message):
            call()


def test_high_pass_share_of_white_noise_and_of_smooth_maps() -> None:
    noise = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(metrics.high_pass_share(noise), 1 - 1 / 81, atol=0.01)
    ramp = torch.linspace(0, 1, 128).expand(1, 3, 128, 128)
    assert metrics.high_pass_share(ramp)[0] < 1e-3
    scales = torch.tensor([1.0, -1e-20, 1e20, 0.0])[:, None, None, None]
    shares = metrics.high_pass_share(noise[:1] * scales)
    np.testing.assert_allclose(shares[:3], [float(shares[0])] * 3, rtol=1e-6)
    assert shares[3].isnan()


# Distances between classes


@given(seeds, st.integers(2, 5))
def test_the_distance_of_classes_is_the_mean_over_pairs_of_unit_maps(seed: int, n: int) -> None:
    a = maps(seed, n, 2, 3, 4, 4).double()
    units = [m / m.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for m in a]
    ranged = [(m - m.amin((1, 2, 3), True)) / (m.amax((1, 2, 3), True) - m.amin((1, 2, 3), True)) for m in a]
    for scale, scaled in (("norm", units), ("range", ranged), ("raw", list(a))):
        pairs = [(scaled[i] - scaled[j]).flatten(1).norm(dim=1) for i in range(n) for j in range(i)]
        torch.testing.assert_close(metrics.class_distance(a, scale), torch.stack(pairs).mean(0))
    if n == 2:
        torch.testing.assert_close(metrics.class_distance(a), (2 - 2 * metrics.cosine(a[0], a[1])).sqrt())


def test_the_scale_of_a_method_changes_its_raw_distance_alone() -> None:
    a = maps(3, 4, 2, 3, 4, 4)
    for scale in ("norm", "range"):
        torch.testing.assert_close(metrics.class_distance(1000 * a, scale), metrics.class_distance(a, scale))
    torch.testing.assert_close(metrics.class_distance(1000 * a, "raw"), 1000 * metrics.class_distance(a, "raw"))
    # The size of each class's map is no difference between classes either.
    sizes = torch.tensor([1.0, 10.0, 100.0, 1000.0])[:, None, None, None, None]
    torch.testing.assert_close(metrics.class_distance(sizes * a), metrics.class_distance(a))


def test_distances_that_are_known() -> None:
    noise = maps(0, 5, 1, 3, 64, 64)
    np.testing.assert_allclose(metrics.class_distance(noise), math.sqrt(2), atol=0.01)
    same = noise[:1].expand(3, -1, -1, -1, -1)
    assert metrics.class_distance(same).item() == 0
    assert metrics.class_distance(torch.stack([noise[0], -noise[0]])).item() == pytest.approx(2)
    shifted = noise[0].double() + 1e-9 * noise[1].double()
    assert metrics.class_distance(torch.stack([noise[0].double(), shifted])).item() == pytest.approx(1e-9, rel=0.1)


@given(seeds, st.integers(2, 4))
def test_distances_up_to_sign_do_not_see_the_sign(seed: int, n: int) -> None:
    a = maps(seed, n, 2, 3, 4, 4)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:n, None, None, None, None]
    found = metrics.class_distances(a, up_to_sign=True)
    torch.testing.assert_close(metrics.class_distances(signs * a, up_to_sign=True), found)
    cosines = torch.stack([metrics.cosine(a[i], a[j]).abs() for i in range(n) for j in range(i + 1, n)])
    torch.testing.assert_close(found, (2 - 2 * cosines).sqrt())
    torch.testing.assert_close(found.mean(0), metrics.class_distance(a, up_to_sign=True))


def test_undefined_distances_are_nan() -> None:
    a = maps(1, 3, 4, 3, 4, 4)
    a[1, 0] = 0
    a[2, 1] = math.inf
    a[0, 2] = 5.0  # constant: it has a norm and no range
    undefined = {scale: metrics.class_distance(a, scale).isnan().tolist() for scale in ("norm", "range")}
    assert undefined == {"norm": [True, True, False, False], "range": [True, True, True, False]}


# Is it noise?


def test_kurtosis_equals_scipys_after_each_channels_mean_is_removed() -> None:
    from scipy.stats import kurtosis

    x = maps(0, 2, 3, 8, 8).exp()
    for found, sample in zip(metrics.excess_kurtosis(x), x.double(), strict=True):
        centered = sample - sample.mean((1, 2), keepdim=True)
        assert float(found) == pytest.approx(kurtosis(centered.flatten().numpy()))
    torch.testing.assert_close(metrics.excess_kurtosis(1e-20 * x), metrics.excess_kurtosis(x))
    assert metrics.excess_kurtosis(torch.ones(1, 3, 8, 8)).isnan()
    noise = maps(1, 1, 3, 128, 128)
    assert abs(float(metrics.excess_kurtosis(noise))) < 0.1


@pytest.mark.parametrize("lag", [1, 3])
def test_autocorrelation_equals_numpy(lag: int) -> None:
    x = maps(2, 1, 1, 9, 7).double()
    z = x[0, 0].numpy()
    down = np.corrcoef(z[lag:].ravel(), z[:-lag].ravel())[0, 1]
    right = np.corrcoef(z[:, lag:].ravel(), z[:, :-lag].ravel())[0, 1]
    assert float(metrics.autocorrelation(x, lag)) == pytest.approx((down + right) / 2)
    smooth = torch.nn.functional.avg_pool2d(maps(3, 1, 3, 130, 130), 3, stride=1)  # 2/3 of two neighbors is shared
    assert float(metrics.autocorrelation(smooth)) == pytest.approx(2 / 3, abs=0.03)
    assert metrics.autocorrelation(torch.ones(1, 3, 8, 8)).isnan()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.class_distance(maps(0, 1, 1, 3, 4, 4)), "there are 1 maps per sample; allowed are at least"),
        (lambda: metrics.class_distance(maps(0, 2, 1, 3, 4, 4), "unit"), "scale is 'unit'; allowed are norm, range,"),
        (lambda: metrics.excess_kurtosis(maps(0, 3, 4)), "a map has shape .3, 4.; allowed is .batch, channels"),
        (lambda: metrics.autocorrelation(maps(0, 1, 3, 4, 6), 4), "lag is 4; allowed are whole numbers from 1 to 3."),
        (lambda: metrics.autocorrelation(maps(0, 1, 3, 4, 6), 0), "lag is 0; allowed are whole numbers from 1 to 3."),
    ],
)
def test_bad_maps_and_options_of_distances_and_noise(call: Callable[[], object], said: str) -> None:
    with pytest.raises(modbp.InputError, match=said):
        call()
