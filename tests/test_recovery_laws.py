"""The theory of image recovery as code: patches, laws and simulators, against loops, closed forms and the engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import modbp
from modbp.errors import InputError
from modbp.metrics import cosine
from modbp.theory import recovery
from modbp.theory.recovery import Patches, simulate

layouts = st.builds(Patches, st.integers(1, 5), st.integers(1, 3), st.sampled_from(["zero", "periodic"]))


def selections(x: Tensor, patches: Patches) -> list[Tensor]:
    """The matrices D_j of the definition, one row per entry of a patch, built entry by entry."""
    _, channels, height, width = x.shape
    k, before = patches.kernel, (patches.kernel - 1) // 2
    found = []
    for top in range(0, height, patches.stride):
        for left in range(0, width, patches.stride):
            D = torch.zeros(channels * k * k, channels * height * width, dtype=torch.float64)
            for c in range(channels):
                for i in range(k):
                    for j in range(k):
                        row, column = top + i - before, left + j - before
                        if patches.border == "periodic":
                            row, column = row % height, column % width
                        if 0 <= row < height and 0 <= column < width:
                            D[(c * k + i) * k + j, (c * height + row) * width + column] = 1
            found.append(D)
    return found


def images(height: int, width: int, seed: int, channels: int = 2) -> Tensor:
    return torch.randn(1, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(layouts, st.integers(6, 8), st.integers(6, 8), st.integers(0, 99))
def test_patches_are_the_definitions(patches: Patches, height: int, width: int, seed: int) -> None:
    x = images(height, width, seed)
    x[..., :3, :3] = 0  # so that some patch may be zero
    flat, chosen = x.flatten(), selections(x, patches)
    k = patches.kernel
    filters = images(k, k, seed + 1).repeat(3, 1, 1, 1) * torch.tensor([1.0, -2.0, 0.5])[:, None, None, None]
    by_hand = torch.stack([filters.flatten(1) @ (D @ flat) for D in chosen], 1)
    z = patches.convolve(x, filters)
    torch.testing.assert_close(z.flatten(2)[0], by_hand)

    signal = torch.randn(z.shape, dtype=torch.float64)
    spread = sum(
        signal[0].flatten(1)[i, j] * D.T @ filters[i].flatten() for j, D in enumerate(chosen) for i in range(3)
    )
    torch.testing.assert_close(patches.transpose(signal, filters, x).flatten(), spread)

    seen = [D for D in chosen if (D @ flat).norm() > 0]
    coverage, normalized = torch.zeros_like(flat), torch.zeros_like(flat)
    for D in seen:
        coverage += D.sum(0)
        normalized += D.T @ (D @ flat) / (D @ flat).norm()
    torch.testing.assert_close(patches.coverage(x).flatten().repeat(2), coverage)
    torch.testing.assert_close(patches.normalized(x).flatten(), normalized)
    snr = 7 * normalized.square().sum() / (math.pi**2 * coverage.sum())
    assert float(recovery.signal_to_noise(x, 7, patches)) == pytest.approx(float(snr))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2), (2, 1), (3, 3), (4, 1)])
def test_the_correction_is_the_trace_of_the_two_gate_matrices(kernel: int, stride: int) -> None:
    patches = Patches(kernel, stride, "periodic")
    x = images(12 if stride == 3 else 8, 12 if stride == 3 else 8, seed=kernel)
    chosen = selections(x, patches)
    units = [D @ x.flatten() / (D @ x.flatten()).norm() for D in chosen]
    total = 0.0
    for j, a in enumerate(units):
        for m, b in enumerate(units):
            if j != m:
                cos = a @ b
                S = torch.outer(a, b) + torch.outer(b, a) - cos * (torch.outer(a, a) + torch.outer(b, b))
                total += float((chosen[j].T @ (S / (1 - cos**2).sqrt()) @ chosen[m]).trace())
    power = float(patches.normalized(x).square().sum())
    entries = sum(float(D.sum()) for D in chosen)
    assert float(recovery.noise_correction(x, patches)) == pytest.approx((total - power) / (math.pi**2 * entries))


@given(st.integers(1, 2), st.integers(1, 2), st.integers(0, 999))
def test_the_ratio_never_exceeds_that_of_equal_norms(halves: int, stride: int, seed: int) -> None:
    patches = Patches(2 * halves, stride, "periodic")
    x = images(8, 8, seed, channels=3)
    bound = recovery.equal_norm_snr(10, 3, stride)
    assert float(recovery.signal_to_noise(x, 10, patches)) <= bound * (1 + 1e-12)
    constant = torch.ones_like(x)
    assert float(recovery.signal_to_noise(constant, 10, patches)) == pytest.approx(bound)


def weights_of(
    x: Tensor, patches: Patches, n_filters: int, units: tuple[int, int], logits: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The simulator's weights, drawn again."""
    filters, tops = [], []
    for number in range(-(-n_filters // simulate.FILTERS)):
        rng = np.random.default_rng([seed, number])
        shape = (simulate.FILTERS, x.shape[1], patches.kernel, patches.kernel)
        filters.append(torch.from_numpy(rng.standard_normal(shape)))
        tops.append(torch.from_numpy(rng.standard_normal((logits, simulate.FILTERS, *units))))
    return torch.cat(filters)[:n_filters], torch.cat(tops, 1)[:, :n_filters]


@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(3, 1, padding=1), nn.MaxPool2d(2), nn.AvgPool2d(2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_streamed_maps_are_the_engines(
    pool: nn.Module | None, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights in a network of modules, explained by the rules that all other pages use."""
    monkeypatch.setattr(simulate, "FILTERS", 16)
    x = torch.cat([images(8, 8, seed, channels=3) for seed in (1, 2)])
    patches, n, logits = Patches(5, stride), 21, 2  # 21 filters are a block and a part of one
    convolution = nn.Conv2d(3, n, 5, stride, padding=2, bias=False).double()
    layers = [convolution, nn.ReLU(), pool or nn.Identity()]
    units = nn.Sequential(*layers)(x).shape[2:]
    filters, tops = weights_of(x, patches, n, tuple(units), logits, seed=3)
    linear = nn.Linear(tops[0].numel(), logits, bias=False).double()
    with torch.no_grad():
        convolution.weight.copy_(filters)
        linear.weight.copy_(tops.flatten(1))
    network = nn.Sequential(*layers, nn.Flatten(), linear).eval()
    maps = recovery.three_layer_maps(x, [5, n], patches, pool, logits, seed=3)
    for method in recovery.MASKS:
        for logit in range(logits):
            expected = modbp.make(method, network).attribute(x, logit)
            torch.testing.assert_close(maps[method][n][logit], expected)
    if pool is None:  # Euler's identity, and that Guided Backprop never points away from the image
        f = network(x).T
        torch.testing.assert_close((maps["gradient"][n] * x).flatten(2).sum(2), f)
        assert ((maps["guided_backprop"][n] * x).flatten(2).sum(2) >= 0).all()


def test_one_run_gives_all_narrower_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "FILTERS", 16)
    x, patches = images(8, 8, 0), Patches(3)
    together = recovery.three_layer_maps(x, [20, 4, 37, 16], patches, seed=5)
    for n in (4, 16, 20, 37):
        alone = recovery.three_layer_maps(x, n, patches, seed=5)
        for method in recovery.MASKS:
            torch.testing.assert_close(together[method][n], alone[method][n])
    assert list(together["gradient"]) == [4, 16, 20, 37]
    more = recovery.three_layer_maps(x, 20, patches, logits=3, seed=5)["gradient"][20]
    assert not torch.equal(more[0], more[1])
    other = recovery.three_layer_maps(x, 20, patches, seed=6)["gradient"][20]
    assert float(cosine(other, together["gradient"][20])[0].abs()) < 0.9


@pytest.mark.parametrize("method", recovery.MASKS)
def test_one_method_alone_has_the_same_weights(method: str) -> None:
    x = images(6, 6, 0)
    for simulated in (
        lambda **options: recovery.three_layer_maps(x, 20, Patches(3), logits=2, **options),
        lambda **options: recovery.one_patch_maps(x.flatten(), 20, draws=2, **options),
    ):
        alone = simulated(methods=[method])
        assert list(alone) == [method]
        assert torch.equal(alone[method][20], simulated()[method][20])


def test_one_patch_is_a_fully_connected_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "ENTRIES", 2 * 12 * 7)  # blocks of seven units for two draws
    x = images(2, 2, 1, channels=3).flatten()
    maps = recovery.one_patch_maps(x, [3, 16], draws=2, seed=4)
    filters, tops = [], []
    for number in range(3):
        rng = np.random.default_rng([4, number])
        filters.append(torch.from_numpy(rng.standard_normal((2, 7, 12))))
        tops.append(torch.from_numpy(rng.standard_normal((2, 7))))
    W, v = torch.cat(filters, 1), torch.cat(tops, 1)
    for method, mask in recovery.MASKS.items():
        for n in (3, 16):
            by_hand = sum(mask(v[:, i], W[:, i] @ x)[:, None] * W[:, i] for i in range(n))
            torch.testing.assert_close(maps[method][n], by_hand)


def test_float32_is_drawn_and_summed_without_losing_digits() -> None:
    """Thousands of blocks are added; the sum stays in float64."""
    x = images(6, 6, 0)
    single = recovery.three_layer_maps(x.float(), 64, Patches(3))["guided_backprop"][64]
    assert single.dtype == torch.float64
    assert float(cosine(single[0], Patches(3).normalized(x))[0]) > 0.7


def test_guided_backprop_follows_its_mean_and_its_noise() -> None:
    """Theorems on the mean and the noise: 2000 networks of 8 filters on a small periodic image."""
    x, patches, n, draws = images(6, 6, 3), Patches(3, border="periodic"), 8, 2000
    maps = torch.stack(
        [recovery.three_layer_maps(x, n, patches, seed=s)["guided_backprop"][n][0, 0] for s in range(draws)]
    )
    B = patches.normalized(x)[0]
    mean = n / (2 * math.pi) * B
    spread = maps.std(0) / math.sqrt(draws)
    assert ((maps.mean(0) - mean).abs() < 5 * spread).all()
    noise = float((maps - mean).square().sum((1, 2, 3)).mean())
    delta = float(recovery.noise_correction(x, patches)[0])
    expected = float(mean.square().sum()) * (1 + delta) / float(recovery.signal_to_noise(x, n, patches)[0])
    assert noise == pytest.approx(expected, rel=0.03)


def test_the_gradients_covariance_and_deconvolutions_constant() -> None:
    x, n, draws = images(5, 5, 3), 8, 3000
    patches = Patches(3, border="periodic")
    found = [recovery.three_layer_maps(x, n, patches, seed=s) for s in range(draws)]
    gradient = torch.stack([f["gradient"][n].flatten() for f in found])
    covariance = gradient.T @ gradient / draws
    expected = torch.diag(recovery.gradient_variance(x, n, patches).expand_as(x).flatten())
    assert expected[0, 0] == n * 9 / 2
    assert float((covariance - expected).abs().max()) < 0.15 * n * 9 / 2
    deconvolution = torch.stack([f["deconvolution"][n][0, 0] for f in found])
    constant = deconvolution.mean((2, 3), keepdim=True).expand_as(deconvolution)
    share = float(recovery.constant_power(deconvolution).sum() / deconvolution.square().sum())
    assert share == pytest.approx(float(constant.square().sum() / deconvolution.square().sum()))
    assert share == pytest.approx(recovery.constant_share(25), abs=0.02)


@pytest.mark.parametrize(("entries", "n_filters"), [(9, 64), (27, 256), (75, 1024)])
def test_the_error_of_one_patch(entries: int, n_filters: int) -> None:
    x = torch.randn(entries, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = 4000 if entries < 75 else 600
    maps = recovery.one_patch_maps(x, n_filters, draws=draws)["guided_backprop"][n_filters]
    mean = n_filters / (2 * math.pi) * x / x.norm()
    errors = recovery.squared_error(maps, mean)
    torch.testing.assert_close(errors, (maps - mean).square().sum(1) / mean.square().sum())
    assert float(errors.mean()) == pytest.approx(recovery.one_patch_error(entries, n_filters), rel=0.06)
    drawn = recovery.one_patch_cosines(entries, n_filters, draws=draws)
    simulated = cosine(maps, x[None])
    assert float(simulated.mean()) == pytest.approx(drawn.mean(), abs=5 * drawn.std() / math.sqrt(draws))
    assert float(simulated.std()) == pytest.approx(drawn.std(), rel=0.15)


def test_the_open_gates_alone_have_the_smaller_error() -> None:
    w = np.random.default_rng(0).standard_normal((20_000, 64, 9))
    sums = (w * (w[..., :1] > 0)).sum(1)  # the patch points along the first axis
    mean = np.eye(9)[0] * 64 / math.sqrt(2 * math.pi)
    error = ((sums - mean) ** 2).sum(1).mean() / (mean**2).sum()
    assert error == pytest.approx(recovery.one_patch_error(9, 64, top_weights=False), rel=0.02)


def test_the_published_numbers_of_the_page() -> None:
    ratios = [recovery.equal_norm_snr(n) for n in (16, 64, 256, 1024, 4096)]
    assert [round(recovery.recovery_cosine(s), 3) for s in ratios] == [0.592, 0.827, 0.947, 0.986, 0.996]
    assert [round(recovery.recovery_cosine(s, centered=True), 3) for s in ratios] == [0.625, 0.848, 0.955, 0.988, 0.997]
    assert [round(recovery.max_pooled_cosine("guided_backprop", 128, w), 3) for w in (2, 4, 8)] == [0.863, 0.843, 0.732]
    recursion = recovery.arc_cosine_recursion(15)
    assert [round(r, 3) for r in recursion[1:6]] == [0.318, 0.494, 0.605, 0.681, 0.736]
    assert round(recursion[-1], 3) == 0.923
    late = recovery.arc_cosine_recursion(2000)[-1]
    assert (1 - late) * 2000**2 / (4.5 * math.pi**2) == pytest.approx(0.984, abs=0.001)


@given(st.floats(-1, 1))
def test_a_rectification_brings_signals_closer(rho: float) -> None:
    assert recovery.arc_cosine(rho) >= rho - 1e-15
    assert -1e-15 <= recovery.arc_cosine(rho) <= 1 + 1e-15


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.5, 0.95])
def test_the_arc_cosine_kernel_is_an_expectation(rho: float) -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 10**6))
    b = rho * a + math.sqrt(1 - rho**2) * b
    a, b = a.clip(min=0), b.clip(min=0)
    assert (a @ b) / math.sqrt((a @ a) * (b @ b)) == pytest.approx(recovery.arc_cosine(rho), abs=0.004)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_the_expected_maximum_is_that_of_draws(n: int) -> None:
    largest = np.random.default_rng(2).standard_normal((400_000, n)).max(1)
    assert largest.mean() == pytest.approx(recovery.expected_maximum(n), abs=0.006)
    assert largest.clip(min=0).mean() == pytest.approx(recovery.expected_maximum(n, positive_part=True), abs=0.006)
    assert recovery.expected_maximum(1) == pytest.approx(0, abs=1e-9)


def test_what_a_max_pooling_lets_through_of_a_white_image() -> None:
    patches = Patches(7, border="periodic")
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    maps = recovery.three_layer_maps(x, 128, patches, nn.MaxPool2d(4))
    B = patches.normalized(x)
    for method in ("deconvolution", "guided_backprop"):
        expected = recovery.max_pooled_cosine(method, 128, 4)
        assert float(cosine(maps[method][128][0], B)[0]) == pytest.approx(expected, abs=0.03)
    assert abs(float(cosine(maps["gradient"][128][0], B)[0])) < 0.08


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Patches(0), "kernel is 0; allowed are whole numbers from 1 upwards."),
        (lambda: Patches(3, stride=True), "stride is True; allowed are whole numbers"),
        (lambda: Patches(3, border="mirror"), "border is 'mirror'; allowed are zero and periodic."),
        (lambda: recovery.noise_correction(torch.ones(1, 1, 8, 8), Patches(3)), "allowed is a periodic border"),
        (
            lambda: recovery.three_layer_maps(torch.ones(3, 8, 8), 4, Patches(3)),
            "x is torch.float32 of shape (3, 8, 8)",
        ),
        (lambda: recovery.three_layer_maps(torch.ones(1, 1, 8, 8), [], Patches(3)), "n_filters is empty"),
        (lambda: recovery.three_layer_maps(torch.ones(1, 1, 8, 8), 0, Patches(3)), "n_filters is 0; allowed"),
        (lambda: recovery.three_layer_maps(torch.ones(1, 1, 8, 8), 4, Patches(3), logits=0), "logits is 0; allowed"),
        (lambda: recovery.three_layer_maps(torch.ones(1, 1, 8, 8), 4, Patches(3), seed=-1), "seed is -1; allowed"),
        (lambda: recovery.three_layer_maps(torch.full((1, 1, 8, 8), math.nan), 4, Patches(3)), "NaN"),
        (
            lambda: recovery.three_layer_maps(torch.ones(1, 1, 8, 8), 4, Patches(3), methods=["rectgrad"]),
            "methods is ['rectgrad']; allowed are one or more of gradient, deconvolution, guided_backprop, or masks by",
        ),
        (lambda: recovery.one_patch_maps(torch.ones(2), 4, methods=()), "methods is (); allowed are one or more"),
        (lambda: recovery.one_patch_maps(torch.ones(2, 2), 4), "x is torch.float32 of shape (2, 2); allowed"),
        (lambda: recovery.one_patch_maps(torch.ones(2), 4, draws=0), "draws is 0; allowed"),
        (lambda: recovery.recovery_cosine(-1.0), "snr is -1.0; allowed are finite numbers"),
        (lambda: recovery.two_logits_cosine("rectgrad", 1.0), "method is 'rectgrad'; allowed are gradient"),
        (lambda: recovery.max_pooled_cosine("gradient", 4, 2), "method is 'gradient'; allowed are deconvolution and"),
        (lambda: recovery.max_pooled_cosine("deconvolution", 4, 1), "window is 1; allowed are whole numbers from 2"),
        (lambda: recovery.arc_cosine(1.5), "rho is 1.5; allowed are numbers from -1 to 1."),
        (lambda: recovery.arc_cosine_recursion(-1), "steps is -1; allowed are whole numbers from 0"),
        (lambda: recovery.expected_maximum(0), "n is 0; allowed"),
        (lambda: recovery.constant_share(0), "pixels is 0; allowed"),
    ],
)
def test_bad_input_gets_one_sentence(call: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
