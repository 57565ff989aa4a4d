"""Alignment as theory: closed forms, recursions and simulators, against numerical integrals, loops and the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import modbp
from modbp.errors import InputError
from modbp.networks import random_mlp
from modbp.theory import alignment, recovery
from modbp.theory.alignment import FILTERS, NO_FILTERS, filtered_backward, outside_form
from modbp.theory.alignment.coefficients import half_moment

COEFFICIENTS = [
    alignment.Constant(),
    alignment.GuidedBackprop(),
    alignment.Positive(),
    alignment.Activation(),
    alignment.Gradient(),
    alignment.Deconvolution(),
    alignment.Biased(0.7),
    alignment.Above(0.4),
    alignment.RectGrad(0.3),
]
ALIGNED = [c for c in COEFFICIENTS if math.isfinite(c.K)]
NAMES = [type(c).__name__ for c in COEFFICIENTS]
RATIOS = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 5.0]), min_size=1, max_size=6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Negative filtering


def awkward_chain() -> nn.Sequential:
    """Biases, strides, padding, pooling of both kinds, a dead filter, and layers without ReLUs between."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(20, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    )
    first: Any = net[0]
    with torch.no_grad():
        first.weight[0], first.bias[0] = -1.0, -100.0
    return net.double().eval()


@pytest.mark.parametrize("name", [*FILTERS, *NO_FILTERS])
@pytest.mark.parametrize("lowest", [-1.0, 0.0])
def test_each_method_is_its_filter(name: str, lowest: float) -> None:
    """Relevance at average pools is shared out by the activations, which in the signal is the plain adjoint."""
    net = awkward_chain()
    x = normal(3, 2, 12, 12, seed=1).clamp(min=lowest * 9)
    classes = torch.tensor([0, 2, 1])
    start = nn.functional.one_hot(classes, 3).double()
    rule = {**FILTERS, **NO_FILTERS}[name]
    method = modbp.make(name, net)
    if name == "rectgrad":  # the usual percentile leaves nothing of so few units
        rule, method = alignment.OfSignal(alignment.rectgrad_mask(70)), modbp.attr.RectGrad(net, percentile=70)
    done = filtered_backward(net, x, start, rule)
    own = method.attribute(x, target=classes)
    torch.testing.assert_close(done.map, own, rtol=1e-10, atol=1e-12 * float(own.abs().max()))
    assert bool(own.abs().max() > 0)


@pytest.mark.parametrize("percentile", [0, 35, 50, 90, 100])
def test_rectgrad_is_a_filter_wherever_its_threshold_is_not_negative(percentile: float) -> None:
    net = random_mlp(30, 3, inputs=12, outputs=4, seed=2).double()
    x, start = normal(5, 12), torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0]]
    mine = filtered_backward(net, x, start, alignment.OfSignal(alignment.rectgrad_mask(percentile)))
    own = modbp.attr.RectGrad(net, percentile=percentile).attribute(x, target=start.argmax(1))
    assert mine.outside_form() == 0
    same = torch.isclose(mine.map, own, rtol=1e-10).all()
    # Most products of activation and signal are zero here, so that low percentiles are negative or zero.
    assert bool(same) == (percentile >= 35)


@pytest.mark.parametrize("name", list(FILTERS))
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_the_form_holds_at_every_layer(name: str, seed: int) -> None:
    net = random_mlp(20, 4, inputs=9, outputs=3, seed=seed).double()
    x = normal(2, 9, seed=seed)
    with torch.no_grad():
        best = net(x).argmax(1)
        assume(bool((net(x).amax(1) > 0).all()))  # relevance starts as the logit
    done = filtered_backward(net, x, nn.functional.one_hot(best, 3).double(), FILTERS[name])
    assert done.outside_form() == 0
    assert len(done.signals) == 3
    for g, a in done.signals:
        assert bool((g >= 0).all())
        assert not bool(((a == 0) & (g != 0)).any())


def test_gradient_and_deconvolution_are_outside_the_form() -> None:
    net = random_mlp(400, 3, inputs=50, outputs=2).double()
    x, start = normal(1, 50), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for name, least in (("gradient", 0.3), ("deconvolution", 0.3)):
        done = filtered_backward(net, x, start, NO_FILTERS[name])
        assert least < done.outside_form() < 0.8
        assert done.outside_form() == max(outside_form(g, a) for g, a in done.signals)


def test_the_share_outside_counts_both_reasons() -> None:
    g, a = torch.tensor([1.0, -2.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert outside_form(g, a) == pytest.approx(13 / 14)
    assert outside_form(torch.zeros(2), torch.ones(2)) == 0


def test_chains_that_cannot_be_walked_are_refused() -> None:
    x, start = torch.zeros(1, 4), torch.zeros(1, 4)
    guided = FILTERS["guided_backprop"]
    for layers, said in (
        ([nn.ReLU()], "layer 0 is a ReLU behind no layer with weights; allowed is one directly behind it."),
        ([nn.Identity(), nn.Linear(4, 4)], "the first of the layers has no weights; allowed is a linear layer"),
        ([nn.Linear(4, 4), nn.LayerNorm(4)], "layer 1 is a LayerNorm, which has weights; allowed with weights are"),
    ):
        with pytest.raises(InputError, match=said):
            filtered_backward(layers, x, start, guided)


# Sign and filtering


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.0, 0.5, 3.0]))
def test_filtering_and_gating_never_lower_alignment(seed: int, n: int, shift: float) -> None:
    r, a = normal(n, seed=seed) - shift, normal(n, seed=seed + 1).clamp(min=0)
    assume(bool(a.any()) and bool(r.any()))

    def cos(u: Tensor) -> float:
        return float(u @ a / (u.norm() * a.norm())) if bool(u.any()) else 0.0

    assert cos(r.clamp(min=0)) >= max(cos(r), 0) - 1e-15
    assert abs(cos(r * (a > 0))) >= abs(cos(r)) - 1e-15


@given(st.integers(0, 10_000))
def test_a_filtered_signal_never_points_away_from_the_activation(seed: int) -> None:
    W, a, g = normal(6, 15, seed=seed), normal(6, seed=seed + 1), normal(15, seed=seed + 2).clamp(min=0)
    h = W.T @ a
    g = g * (h > 0)
    below = (W @ g) @ a
    torch.testing.assert_close(below, g @ h.clamp(min=0), rtol=1e-9, atol=1e-9)
    assert float(below) >= -1e-9


# One random layer


@pytest.mark.parametrize("coefficient", COEFFICIENTS, ids=NAMES)
@pytest.mark.parametrize(("i", "j"), [(1, 1), (2, 0), (2, 2), (4, 0), (3, 1)])
def test_moments_are_those_of_the_draws(coefficient: alignment.Coefficient, i: int, j: int) -> None:
    rng = np.random.default_rng(5)
    g = rng.standard_normal(1_000_000)
    c = coefficient.draw(g, rng)
    values = c**i * g**j
    error = values.std() / 1000
    assert abs(values.mean() - coefficient.moment(i, j)) < 5 * error + 1e-12
    if isinstance(coefficient, alignment.Above | alignment.RectGrad):
        assert abs((c != 0).mean() - coefficient.kept) < 0.003


@pytest.mark.parametrize("power", range(6))
def test_half_moments_are_integrals(power: int) -> None:
    from scipy.integrate import quad
    from scipy.stats import norm

    assert half_moment(power) == pytest.approx(quad(lambda t: t**power * norm.pdf(t), 0, np.inf)[0])


def test_the_values_of_k() -> None:
    pi = math.pi
    for coefficient, K in (
        (alignment.Constant(), pi),
        (alignment.GuidedBackprop(), pi**2),
        (alignment.Positive(), pi**2 / 2),
        (alignment.Activation(), 2),
        (alignment.Biased(4), pi * 17),
        (alignment.Above(0), pi),
        (alignment.Above(2), 7.80),
        (alignment.RectGrad(0), pi**2),
        (alignment.RectGrad(1), 12.995),
        (alignment.RectGrad(2), 26.09),
    ):
        assert pytest.approx(K, rel=1e-3) == coefficient.K


@given(st.floats(0, 3), st.floats(0, 2))
@settings(max_examples=30)
def test_no_coefficient_on_active_units_does_better_than_the_activation(t: float, tau: float) -> None:
    assert alignment.Above(t).K >= 2
    assert alignment.RectGrad(tau).K >= 2


@pytest.mark.parametrize(
    ("law", "best", "kept"),
    [(alignment.Above, 0.6120, 0.2703), (alignment.RectGrad, 0.178, 0.169)],
    ids=["activation", "RectGrad"],
)
def test_the_best_thresholds(law: Callable[[float], Any], best: float, kept: float) -> None:
    grid = np.linspace(0, 1.5, 301)
    found = grid[np.argmin([law(t).K for t in grid])]
    assert found == pytest.approx(best, abs=0.01)
    assert law(best).kept == pytest.approx(kept, abs=2e-3)


@pytest.mark.parametrize("coefficient", ALIGNED, ids=[type(c).__name__ for c in ALIGNED])
def test_the_law_and_its_spread_are_those_of_explicit_weights(coefficient: alignment.Coefficient) -> None:
    n, m, draws = 100, 1000, 300
    x = normal(n, seed=4) * torch.linspace(0.1, 3, n, dtype=torch.float64)  # what x is plays no part
    maps = alignment.one_layer_maps(x, m, {"c": coefficient}, draws, seed=1)["c"]
    cosines = nn.functional.cosine_similarity(maps, x[None], dim=1)
    exact = torch.from_numpy(alignment.one_layer_cosines(coefficient, n, m, draws, seed=2))
    law, spread = coefficient.cosine(n, m), coefficient.spread(n, m)
    for seen in (cosines, exact):
        # A limit: at this size its bias is below a fifth of the spread of one draw.
        assert abs(float(seen.mean()) - law) < 0.2 * spread + 4 * spread / math.sqrt(draws)
        assert float(seen.std()) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("name", ["gradient", "deconvolution"])
def test_no_alignment_without_gate_or_filter(name: str) -> None:
    coefficient = {"gradient": alignment.Gradient(), "deconvolution": alignment.Deconvolution()}[name]
    x = normal(100, seed=4)
    maps = alignment.one_layer_maps(x, 1000, {"c": coefficient}, draws=300)["c"]
    cosines = nn.functional.cosine_similarity(maps, x[None], dim=1)
    assert abs(float(cosines.mean())) < 4 * 0.1 / math.sqrt(300)
    assert float(cosines.square().mean()) == pytest.approx(1 / 100, rel=0.3)
    assert coefficient.cosine(100, 1000) == 0


def test_heavy_tails_cost_what_their_norms_are_dispersed() -> None:
    x = normal(100, seed=1)
    constant = alignment.Constant()
    maps = alignment.one_layer_maps(x, 1000, {"c": constant}, draws=100, weights="isotropic Student")["c"]
    seen = float(nn.functional.cosine_similarity(maps, x[None], dim=1).mean())
    assert seen == pytest.approx(constant.cosine(100, 1000, alignment.norm_dispersion()), abs=0.012)
    assert seen < constant.cosine(100, 1000) - 0.005


def test_all_coefficients_see_the_same_weights_and_draws_differ() -> None:
    x = normal(20)
    both = alignment.one_layer_maps(x, 50, {"a": alignment.Activation(), "b": alignment.Constant()}, draws=3)
    alone = alignment.one_layer_maps(x, 50, {"b": alignment.Constant()}, draws=3)
    assert torch.equal(both["b"], alone["b"])
    assert not torch.equal(both["a"][0], both["a"][1])
    W = np.random.default_rng([0, 2]).standard_normal((20, 50))
    torch.testing.assert_close(
        both["a"][2], torch.from_numpy(W @ (x.numpy() @ W).clip(0) / np.linalg.norm(x) / np.sqrt((W**2).mean()))
    )


def test_the_exact_law_is_the_one_of_image_recovery() -> None:
    mine = alignment.one_layer_cosines(alignment.GuidedBackprop(), 27, 64, 4000, seed=1)
    theirs = recovery.one_patch_cosines(27, 64, 4000, seed=2)
    assert mine.mean() == pytest.approx(theirs.mean(), abs=0.01)
    assert mine.std() == pytest.approx(theirs.std(), rel=0.06)
    ratio = alignment.GuidedBackprop().K * 26 / 64
    assert recovery.fully_connected_cosine(27, 64) == pytest.approx(1 / math.sqrt(1 + ratio))


def test_two_maps_of_one_layer() -> None:
    """The maps of a logit, of its negative, of another logit, and of a positive signal, with the same weights."""
    n, m, draws = 100, 1000, 200
    x = normal(n, seed=8)
    maps: dict[str, list[Tensor]] = {name: [] for name in ("logit", "negative", "another", "positive")}
    for draw in range(draws):
        W, v = normal(n, m, seed=draw), normal(3, m, seed=10_000 + draw)
        on = W.T @ x > 0
        for name, signal in zip(maps, (v[0].relu(), (-v[0]).relu(), v[1].relu(), v[2].abs()), strict=True):
            maps[name].append(W @ (signal * on))
    first = torch.stack(maps["logit"])
    guided, positive = alignment.GuidedBackprop(), alignment.Positive()
    for name, law in (
        ("negative", alignment.two_maps_cosine(guided, guided, 0, 10)),
        ("another", alignment.two_maps_cosine(guided, guided, 1 / math.pi, 10)),
    ):
        seen = float(nn.functional.cosine_similarity(first, torch.stack(maps[name]), dim=1).mean())
        assert seen == pytest.approx(law, abs=0.015)
    assert alignment.two_maps_cosine(guided, guided, 1 / math.pi, 10) == pytest.approx(
        recovery.two_logits_cosine("guided_backprop", 10 / math.pi**2)
    )
    # |v| of the logit's own weights, in part the same signal.
    own = torch.stack(
        [
            normal(n, m, seed=d) @ (normal(3, m, seed=10_000 + d)[0].abs() * (normal(n, m, seed=d).T @ x > 0))
            for d in range(60)
        ]
    )
    seen = float(nn.functional.cosine_similarity(first[:60], own, dim=1).mean())
    assert seen == pytest.approx(alignment.two_maps_cosine(guided, positive, 1 / math.sqrt(2), 10), abs=0.02)
    seen = float(nn.functional.cosine_similarity(first, torch.stack(maps["positive"]), dim=1).mean())
    assert seen == pytest.approx(alignment.two_maps_cosine(guided, positive, math.sqrt(2) / math.pi, 10), abs=0.015)


# What one layer passes on


@given(st.integers(0, 10_000), st.integers(2, 12), st.floats(0.1, 10))
def test_orthogonal_weights_pass_every_cosine_on_by_one_factor(seed: int, n: int, alpha: float) -> None:
    m = 1 + seed % n
    W, a, g = alpha * alignment.orthogonal(n, m, seed), normal(n, seed=seed), normal(m, seed=seed + 1)
    assume(bool((W.T @ a > 0).any()))
    done = alignment.passage(W, g, a)
    assert done.error < 1e-13
    active = W.T @ a > 0
    projected = W[:, active] @ (W[:, active].T @ a) / alpha**2
    assert done.factor == pytest.approx(float(projected.norm() / a.norm()))
    assert done.factor <= 1 + 1e-12
    g = g * active
    torch.testing.assert_close((W.T @ (W @ g)) * active, alpha**2 * g)  # what was passed on is read back


@given(st.integers(0, 10_000), st.integers(2, 10), st.integers(1, 30))
def test_the_bound_holds_for_any_weights(seed: int, n: int, m: int) -> None:
    W, a, g = normal(n, m, seed=seed), normal(n, seed=seed + 1), normal(m, seed=seed + 2)
    assume(bool((W.T @ a > 0).any()))
    done = alignment.passage(W, g, a)
    assert not done.violates_bound
    g = g * (W.T @ a > 0)
    above = (W.T @ a).clamp(min=0)
    sizes = float(g.norm() * above.norm() / ((W @ g).norm() * a.norm()))
    assert done.below == pytest.approx(done.above * sizes, abs=1e-9)


def test_a_bound_can_be_violated() -> None:
    assert alignment.Passage(above=0.5, below=0.29, factor=1, bound=0.3).violates_bound
    assert not alignment.Passage(above=-0.5, below=-0.4, factor=1, bound=-0.3).violates_bound


def test_unequal_norms_and_gaussian_weights_do_not_obey_the_identity() -> None:
    a, signals = normal(30, seed=1), normal(10, 30, seed=2).abs()
    unequal = alignment.orthogonal(30, 30) * torch.linspace(0.2, 2, 30, dtype=torch.float64)
    for W in (unequal, alignment.gaussian(30, 30)):
        assert max(alignment.passage(W, g, a).error for g in signals) > 0.02


@pytest.mark.parametrize(
    ("kind", "ratio", "tolerance"),
    [
        ("orthogonal", 1, 0.02),
        ("orthogonal", 0.5, 0.02),
        ("pairs", 2, 1e-12),
        ("pairs", 4, 1e-12),
        ("gaussian", 1, 0.02),
        ("gaussian", 2, 0.02),
        ("gaussian", 10, 0.01),
        ("tight_frame", 2, 0.02),
        ("tight_frame", 10, 0.01),
    ],
)
def test_what_is_passed_on_of_the_activation_itself(kind: str, ratio: float, tolerance: float) -> None:
    n = 400 if ratio < 10 else 150
    seen = []
    for seed in range(6):
        a = normal(n, seed=100 + seed)
        W = alignment.KINDS[kind](n, round(ratio * n), seed)
        seen.append(alignment.passage(W, (W.T @ a).clamp(min=0), a).below)
    assert np.mean(seen) == pytest.approx(alignment.passed_on(kind, ratio), abs=tolerance)


def test_pairs_pass_any_signal_on_whole_and_unions_of_them_do_not() -> None:
    a = normal(40, seed=5)
    g = normal(80, seed=6)
    done = alignment.passage(alignment.pairs(40, 80), g, a)
    assert done.factor == pytest.approx(1)
    assert done.error < 1e-14
    union = alignment.passage(alignment.pairs(40, 160), normal(160, seed=6).abs(), a)
    assert union.error > 0.02


def test_weights_that_point_toward_their_input() -> None:
    n, active, mu = 400, 400, 0.2
    seen = []
    for seed in range(5):
        x = nn.functional.normalize(normal(n, seed=seed), dim=0)
        rest = normal(n, active, seed=seed + 50)
        rest = nn.functional.normalize(rest - x[:, None] * (x @ rest), dim=0)
        w = mu * x[:, None] + math.sqrt(1 - mu**2) * rest
        r = w.sum(1)
        seen.append(float(r @ x / r.norm()))
    assert np.mean(seen) == pytest.approx(alignment.weight_alignment(mu, active, mean_square=mu**2), abs=0.01)
    assert alignment.weight_alignment(-mu, active) < 0
    assert alignment.weight_alignment(0, active) == 0
    isotropic = alignment.weight_alignment(math.sqrt(2 / (math.pi * 100)), 500)
    assert isotropic == pytest.approx(alignment.Constant().cosine(101, 1000), abs=1e-9)


def test_the_isotropic_cosine() -> None:
    w = nn.functional.normalize(normal(200_000, 9, seed=1), dim=1)[:, 0]
    assert float(w[w > 0].mean()) == pytest.approx(alignment.isotropic_cosine(9), abs=2e-3)
    assert alignment.isotropic_cosine(1) == pytest.approx(1)
    assert alignment.isotropic_cosine(10_000) == pytest.approx(math.sqrt(2 / (math.pi * 10_000)), rel=1e-4)


# Deep networks


def monte_carlo(tau: float, s: float, n: int = 2_000_000) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    z, eta, other = rng.standard_normal((3, n))
    z, second = np.abs(z), s * eta + math.sqrt(1 - s * s) * other
    first, second = ((tau * z + e).clip(0) for e in (eta, second))
    return float((first * z).mean() / math.sqrt((first**2).mean())), float((first * second).mean() / (first**2).mean())


@pytest.mark.parametrize(("tau", "s"), [(0.0, 0.0), (0.4, 0.3), (1.3, 0.4), (3.0, 0.9)])
def test_the_steps_are_expectations(tau: float, s: float) -> None:
    aligned, shared = monte_carlo(tau, s)
    assert alignment.guided_step(tau) == pytest.approx(aligned, abs=2e-3)
    assert alignment.shared_step(tau, s) == pytest.approx(shared, abs=2e-3)


@given(st.floats(0, 5), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40)
def test_the_steps_keep_order_and_bounds(tau: float, s: float, t: float) -> None:
    low, high = sorted((s, t))
    assert -1e-9 <= alignment.shared_step(tau, low) <= alignment.shared_step(tau, high) + 1e-9 <= 1 + 2e-9
    assert alignment.guided_step(tau) >= alignment.gradient_step(tau)  # the filter never lowers it
    assert alignment.NOISE <= alignment.guided_step(tau) + 1e-12 <= 1 + 1e-9
    cosine, kept = alignment.rectgrad_step(tau, low)
    assert 0 < kept <= 0.5 + 1e-9
    assert cosine <= 1 + 1e-9


@given(st.floats(0, 5), st.floats(1e-4, 0.6))
@settings(max_examples=25)
def test_the_threshold_of_a_share_keeps_it(tau: float, kept: float) -> None:
    threshold = alignment.rectgrad_threshold(tau, kept)
    most = alignment.rectgrad_step(tau, 0)[1]
    assert alignment.rectgrad_step(tau, threshold)[1] == pytest.approx(min(kept, most), abs=1e-9)
    assert (threshold == 0) == (kept >= most)


def test_rectgrad_without_a_threshold_is_guided_backprop_and_gains_little_with_one() -> None:
    for tau in (0.0, 0.45, 0.724, 1.5):
        assert alignment.rectgrad_step(tau, 0)[0] == pytest.approx(alignment.guided_step(tau), abs=1e-9)
    for tau, kept in ((0.0, 0.169), (0.45, 0.23), (0.724, 0.26), (1.5, 0.34)):
        grid = [alignment.rectgrad_step(tau, t) for t in np.linspace(0, 1.5, 151)]
        best = max(grid)
        assert best[1] == pytest.approx(kept, abs=0.015)
        assert 0 < best[0] - grid[0][0] < 0.012


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("step", [alignment.guided_step, alignment.gradient_step], ids=["filtered", "plain"])
def test_a_deep_network_settles(ratio: float, step: Callable[[float], float]) -> None:
    found = alignment.alignments([ratio] * 400, step, start=1.0)[-1]
    # Without the filter and without widening there is nothing to settle at: it decays as one over the root of depth.
    expected = alignment.settled(ratio, step) if step is alignment.guided_step or ratio > 1 else 0.0
    assert found == pytest.approx(expected, abs=1e-6 if expected else 0.06)


def test_plain_alignment_decays_as_one_over_the_root_of_depth() -> None:
    found = alignment.alignments([1] * 10, alignment.gradient_step, start=1.0)
    assert found == pytest.approx([1 / math.sqrt(1 + k) for k in range(10)])


@given(RATIOS)
def test_the_recursion_is_the_one_of_one_layer_at_the_bottom(ratios: list[float]) -> None:
    c = alignment.alignments(ratios)[-1]
    assert alignment.input_cosine(ratios) == pytest.approx(1 / math.sqrt(1 + 2 / (ratios[0] * c * c)))
    if len(ratios) == 1:  # K = π²
        assert alignment.input_cosine(ratios) == pytest.approx(1 / math.sqrt(1 + math.pi**2 / ratios[0]))
        guided = alignment.GuidedBackprop()
        assert alignment.two_logits(ratios) == pytest.approx(
            alignment.two_maps_cosine(guided, guided, 1 / math.pi, ratios[0])
        )
        assert alignment.negated(ratios) == pytest.approx(alignment.two_maps_cosine(guided, guided, 0, ratios[0]))


@given(RATIOS)
@settings(max_examples=20)
def test_the_curve_of_randomization_falls_to_the_squared_cosine(ratios: list[float]) -> None:
    curve = alignment.randomized_from_top(ratios)
    assert len(curve) == len(ratios) + 1
    assert all(a >= b - 1e-12 for a, b in pairwise(curve))
    assert curve[-1] == pytest.approx(alignment.input_cosine(ratios) ** 2)
    assert curve[0] == pytest.approx(alignment.two_logits(ratios))  # only the logit's weights are drawn anew
    assert alignment.negated(ratios) <= alignment.two_logits(ratios) + 1e-12


def test_backward_is_the_engine() -> None:
    widths = [12, 30, 25, 20]
    weights, top, x = alignment.random_weights(widths, seed=3), normal(2, 20), normal(12)
    layers: list[nn.Module] = []
    for W in weights:
        layer = nn.Linear(W.shape[0], W.shape[1], bias=False).double()
        layer.weight.data = W.T.clone()
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers)
    for mask in recovery.MASKS:
        done = alignment.backward(weights, x, top, mask)
        table = modbp.make(mask, net).relevance(x[None], ["input"], start=top[:, None], start_at="5")
        torch.testing.assert_close(done.map, table["input"][:, 0])
        assert done.alignments.shape == (3, 2)
    done = alignment.backward(weights, x, top[0])
    z = torch.relu(x @ weights[0]) @ weights[1]
    z = torch.relu(z) @ weights[2]
    g = top[0].relu() * (z > 0)
    assert float(done.alignments[0]) == pytest.approx(float(g @ z.relu() / (g.norm() * z.relu().norm())))


def test_a_signal_behind_the_relu_is_not_filtered_again() -> None:
    weights, x = alignment.random_weights([10, 40, 30], seed=1), normal(10)
    a = torch.relu(torch.relu(x @ weights[0]) @ weights[1])
    perfect = alignment.backward(weights, x, a, "gradient", filter_top=False)
    assert float(perfect.alignments[0]) == pytest.approx(1)
    noise = normal(30, seed=9)
    free = alignment.backward(weights, x, noise, "guided_backprop", filter_top=False)
    torch.testing.assert_close(free.alignments[0], nn.functional.cosine_similarity(noise, a, dim=0))


def test_simulated_networks_follow_the_recursion() -> None:
    widths = [300, *[600] * 4]
    ratios = alignment.layer_ratios(widths)
    seen, cosines, curves = [], [], []
    for seed in range(6):
        weights, fresh = (alignment.random_weights(widths, s) for s in (seed, 1000 + seed))
        x, tops = normal(300, seed=seed), normal(2, 600, seed=seed + 77)
        done = alignment.backward(weights, x, tops[0])
        seen.append(done.alignments.numpy())
        cosines.append(float(nn.functional.cosine_similarity(done.map, x, dim=0)))
        maps = alignment.randomized_maps(weights, fresh, x, tops)
        torch.testing.assert_close(maps[0], done.map)
        curves.append(nn.functional.cosine_similarity(maps[1:], maps[:1], dim=1).numpy())
    assert np.mean(seen, 0) == pytest.approx(alignment.alignments(ratios), abs=0.04)
    assert np.mean(cosines) == pytest.approx(alignment.input_cosine(ratios), abs=0.04)
    assert np.mean(curves, 0) == pytest.approx(alignment.randomized_from_top(ratios), abs=0.05)


def test_randomization_replaces_the_top_layers() -> None:
    weights, fresh = alignment.random_weights([8, 20, 16], seed=0), alignment.random_weights([8, 20, 16], seed=1)
    x, tops = normal(8), normal(2, 16, seed=4)
    maps = alignment.randomized_maps(weights, fresh, x, tops, "gradient")
    for row, (lower, upper) in enumerate([(weights[0], weights[1]), (weights[0], fresh[1]), (fresh[0], fresh[1])], 1):
        torch.testing.assert_close(maps[row], alignment.backward([lower, upper], x, tops[1], "gradient").map)


def test_a_layers_weights_do_not_depend_on_the_layers_above() -> None:
    short, long = alignment.random_weights([5, 7], seed=2), alignment.random_weights([5, 7, 9], seed=2)
    assert torch.equal(short[0], long[0])
    assert float(alignment.random_weights([400, 300])[0].square().mean()) == pytest.approx(2 / 400, rel=0.02)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: alignment.Constant().cosine(0, 5), "inputs is 0; allowed are whole numbers from 1 upwards."),
        (lambda: alignment.Constant().spread(5, 2.0), "units is 2.0; allowed are whole numbers"),  # type: ignore[arg-type]
        (lambda: alignment.rectgrad_threshold(0.5, 0), "kept is 0; allowed are finite numbers above 0."),
        (lambda: alignment.Biased(-1), "deviation is -1; allowed are finite numbers from 0 upwards."),
        (lambda: alignment.Above(math.nan), "threshold is nan; allowed are finite numbers"),
        (lambda: alignment.RectGrad(True), "threshold is True; allowed are finite numbers"),
        (lambda: alignment.Biased(1).moment(1, 3), "of_g is 3; allowed here are 1 and even numbers."),
        (lambda: alignment.rectgrad_mask(101), "percentile is 101; allowed is a number from 0 to 100."),
        (lambda: alignment.one_layer_maps(torch.zeros(3), 2, {}), r"x has shape \(3,\); allowed is a vector"),
        (lambda: alignment.one_layer_maps(torch.ones(3), 2, {}, weights="Cauchy"), "weights is 'Cauchy'; allowed are"),
        (lambda: alignment.norm_dispersion(2), "degrees is 2; allowed are whole numbers from 3 upwards."),
        (lambda: alignment.orthogonal(3, 4), "units is 4 with 3 inputs; allowed are at most"),
        (lambda: alignment.pairs(3, 4), "units is 4 with 3 inputs; allowed are multiples of 6."),
        (lambda: alignment.tight_frame(3, 2), "units is 2 with 3 inputs; allowed are at least"),
        (lambda: alignment.passed_on("pairs", 3), "ratio is 3 for pairs; allowed is even numbers."),
        (lambda: alignment.passed_on("random", 1), "kind is 'random'; allowed are orthogonal, pairs"),
        (lambda: alignment.passage(torch.ones(2, 3), torch.ones(2), torch.ones(2)), "have the shapes"),
        (lambda: alignment.passage(torch.eye(2), torch.ones(2), -torch.ones(2)), "g is zero on all active units"),
        (lambda: alignment.weight_alignment(2, 3), "allowed are -1 to 1, 0 to 1, and numbers from 1 upwards."),
        (lambda: alignment.guided_step(-1), "tau is -1; allowed are finite numbers from 0 upwards."),
        (lambda: alignment.shared_step(1, 1.1), "s is 1.1; allowed are numbers from 0 to 1."),
        (lambda: alignment.alignments([]), "ratios is empty; allowed are one or more numbers above 0."),
        (lambda: alignment.alignments([1], start=2), "start is 2; allowed are cosines from 0 to 1."),
        (lambda: alignment.shared_cosine([1], 0, 2), "layers is 2; allowed are whole numbers from 0 to 1."),
        (lambda: alignment.two_maps_cosine(alignment.Constant(), alignment.Constant(), 2, 1), "overlap is 2; allowed"),
        (lambda: alignment.layer_ratios([3]), "widths has 1 entries; allowed are two or more."),
        (lambda: alignment.random_weights([3, 0]), "widths is 0; allowed are whole numbers from 1 upwards."),
        (lambda: alignment.backward([torch.ones(2, 3)], torch.ones(2), torch.ones(3), "relu"), "mask is 'relu'"),
        (lambda: alignment.backward([torch.ones(2, 3)], torch.ones(3), torch.ones(3)), "x and top have the shapes"),
    ],
)
def test_bad_input_gets_one_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
