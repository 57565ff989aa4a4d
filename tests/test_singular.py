"""Matrices of a layer's backward pass, and how the directions of neighbors fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import modbp
from modbp import metrics, networks, patterns
from modbp.errors import InputError
from modbp.theory import rank_one


def chain_of(sizes: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p, q, generator=generator, dtype=torch.float64) for p, q in pairwise(sizes)]


# One layer


def test_the_taps_of_a_kernel() -> None:
    kernel = torch.randn(4, 3, 5, 3)
    center, total, everything = (metrics.layer_matrix(kernel, taps) for taps in ("center", "sum", "all"))
    assert center.dtype == torch.float64
    for o in range(4):
        for i in range(3):
            assert center[i, o] == kernel[o, i, 2, 1].double()
            assert total[i, o] == pytest.approx(float(kernel[o, i].double().sum()))
    # All taps below each other: what a lone output hands to its whole field.
    alone = torch.zeros(1, 4, 5, 3, dtype=torch.float64)
    alone[0, :, 2, 1] = torch.tensor([1.0, -2.0, 0.5, 3.0])
    field = F.conv_transpose2d(alone, kernel.double(), padding=(2, 1))[0]
    assert torch.allclose(everything @ alone[0, :, 2, 1], field.flatten())


def test_a_dense_layer_behind_a_map_is_a_kernel() -> None:
    kernel = torch.randn(5, 3, 7, 7)
    dense = kernel.flatten(1)
    for taps in ("center", "sum", "all"):
        expected = metrics.layer_matrix(kernel, taps)
        assert torch.equal(metrics.layer_matrix(dense, taps, (7, 7)), expected)
    assert torch.equal(metrics.layer_matrix(dense), dense.double().T)


def test_the_effective_matrix_is_the_masked_transposed_convolution() -> None:
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64)
    below = torch.rand(4, 5, 7, generator=generator) < 0.6
    above = torch.rand(6, 5, 7, generator=generator) < 0.6
    signal = torch.randn(6, generator=generator, dtype=torch.float64)
    arriving = F.conv_transpose2d((signal[:, None, None] * above)[None], kernel, padding=1)[0] * below
    for position in ((0, 0), (2, 3), (4, 6), (0, 5)):
        M = metrics.effective_matrix(kernel, below, above, position)
        assert torch.allclose(M @ signal, arriving[:, position[0], position[1]]), position


def test_the_effective_chain_follows_pools() -> None:
    generator = torch.Generator().manual_seed(2)
    kernels = [torch.randn(q, p, 3, 3, generator=generator, dtype=torch.float64) for p, q in ((2, 3), (3, 4), (4, 5))]
    active = [torch.rand(c, s, s, generator=generator) < 0.5 for c, s in ((2, 8), (3, 8), (4, 4), (5, 4))]
    chain = metrics.effective_chain(kernels, active, (0.3, 0.8))
    pooled = F.max_pool2d(active[1].double()[None], 2)[0]
    assert torch.equal(chain[0], metrics.effective_matrix(kernels[0], active[0], active[1], (2, 6)))
    assert torch.equal(chain[1], metrics.effective_matrix(kernels[1], pooled, active[2], (1, 3)))
    assert torch.equal(chain[2], metrics.effective_matrix(kernels[2], active[2], active[3], (1, 3)))


def test_the_columns_of_pattern_times_weight_sum_to_one() -> None:
    """By the scale of patterns, for any data; hence relevance is conserved, and shuffling loses that."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())
    A = patterns.fit(net, [torch.randn(8, 2, 6, 6)])
    for name in ("0", "2"):
        weight = net.get_submodule(name).weight.detach()
        sums = rank_one.column_sums(metrics.layer_matrix(A[name].double() * weight.double(), "sum"))
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
        rotated = rank_one.column_sums(metrics.layer_matrix(A[name].roll(1, 0) * weight, "sum"))
        assert (rotated - 1).abs().min() > 0.01


def test_pattern_attribution_frozen_is_pattern_net_with_the_product() -> None:
    """How a walkthrough keeps the product of the trained network while its forward pass changes."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    A = patterns.fit(net, [torch.randn(64, 5)])
    x = torch.randn(4, 5)
    AW = {n: A[n] * net.get_submodule(n).weight.detach() for n in A}
    expected = modbp.make("pattern_attribution", net, patterns=A).attribute(x, 1)
    assert torch.equal(modbp.make("pattern_net", net, patterns=AW).attribute(x, 1), expected)


def test_the_mean_active_input() -> None:
    torch.manual_seed(10)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU())
    x = torch.randn(4, 2, 3, 3)
    y = net[0](x).flatten(1)
    found = metrics.mean_active_input(patterns.PatternEstimator(net).update(x).sums["0"])
    means = [x[y[:, o] > 0, :, 1, 1].mean(0) for o in range(3) if (y[:, o] > 0).any()]
    assert torch.allclose(found, torch.stack(means).mean(0).double(), atol=1e-6)


def test_the_leading_cosine() -> None:
    Z = chain_of([5, 4], seed=11)[0]
    u = torch.from_numpy(scipy.linalg.svd(Z.numpy())[0][:, 0].copy())
    v = torch.randn(5, dtype=torch.float64)
    v = v - (v @ u) * u
    assert metrics.leading_cosine(Z, -3 * u).item() == pytest.approx(1)
    assert metrics.leading_cosine(Z, v).item() == pytest.approx(0, abs=1e-12)
    assert metrics.leading_cosine(Z, u + v / v.norm()).item() == pytest.approx(0.5**0.5)


# Chains


@given(st.integers(0, 1000), st.lists(st.integers(2, 7), min_size=3, max_size=5))
@settings(deadline=None, max_examples=30)
def test_interlayer_matrices_multiply_to_the_chain(seed: int, sizes: list[int]) -> None:
    chain = chain_of(sizes, seed)
    inner = reduce(torch.matmul, [metrics.interlayer_matrix(a, b) for a, b in pairwise(chain)])
    left, first, _ = torch.linalg.svd(chain[0], full_matrices=False)
    _, last, right = torch.linalg.svd(chain[-1], full_matrices=False)
    product = left * first.sqrt() @ inner @ (last.sqrt()[:, None] * right)
    assert torch.allclose(product, reduce(torch.matmul, chain), atol=1e-9)


def test_neighbors_against_another_library() -> None:
    chain = chain_of([4, 6, 5, 3], seed=5)
    table = metrics.neighbors(chain)
    assert len(table) == 3
    assert table.iloc[2, 1:].isna().all()
    assert table["ratio"].tolist() == pytest.approx([float(rank_one.singular_ratio(Z)) for Z in chain])
    for row, (lower, upper) in enumerate(pairwise(chain)):
        _, below, right = scipy.linalg.svd(lower.numpy())
        left, above, _ = scipy.linalg.svd(upper.numpy())
        overlap = abs(right[0] @ left[:, 0])
        found = table.iloc[row]
        assert found["ratio"] == pytest.approx(below[0] / below[1])
        assert found["overlap"] == pytest.approx(overlap)
        assert found["overlap"] == pytest.approx(float(rank_one.leading_overlap(lower, upper)))
        assert found["transmitted"] == pytest.approx(overlap * below[0] / below[1])
        assert found["chance"] == metrics.chance_level(lower.shape[1])
        between = np.diag(below**0.5) @ right[: len(below)] @ left[:, : len(above)] @ np.diag(above**0.5)
        values = scipy.linalg.svdvals(between)
        assert found["interlayer"] == pytest.approx(values[0] / values[1])


def test_random_directions_keep_ratios_and_lose_overlaps() -> None:
    chain = [torch.diag(torch.tensor([9.0, *[1.0] * 99], dtype=torch.float64))] * 2
    assert metrics.neighbors(chain)["overlap"][0] == pytest.approx(1)
    overlaps = []
    for seed in range(40):
        drawn = [metrics.random_directions(Z, 2 * seed + n) for n, Z in enumerate(chain)]
        assert torch.allclose(torch.linalg.svdvals(drawn[0]), torch.linalg.svdvals(chain[0]))
        overlaps.append(metrics.neighbors(drawn)["overlap"][0])
    # The standard error of the median of 40 values is about 0.014.
    assert np.median(overlaps) == pytest.approx(metrics.chance_level(100), abs=0.05)
    tall = metrics.random_directions(torch.ones(5, 2))
    assert tall.shape == (5, 2)
    assert torch.linalg.matrix_rank(tall) == 1


def test_shuffling_moves_whole_patterns() -> None:
    pattern = torch.arange(24.0).reshape(4, 3, 2, 1)
    shuffled = metrics.shuffled_outputs(pattern, seed=1)
    assert not torch.equal(shuffled, pattern)
    assert torch.equal(shuffled[shuffled[:, 0, 0, 0].argsort()], pattern)
    assert torch.equal(shuffled, metrics.shuffled_outputs(pattern, seed=1))


def test_energy_rate() -> None:
    Z = chain_of([6, 4], seed=6)[0] + 0.4
    mean = Z.mean(1)
    energy = sum(float(((Z[:, j] - mean) ** 2).sum()) for j in range(4)) / 3
    expected = energy / (float(Z.sum()) / 4) ** 2
    assert metrics.energy_rate(Z).item() == pytest.approx(expected)
    # Zero columns take no part, and neither a scale nor the sign counts.
    padded = torch.cat([torch.zeros(6, 3, dtype=torch.float64), Z], 1)
    assert metrics.energy_rate(-2 * padded).item() == pytest.approx(expected)
    # Entries of mean 1 and spread 2: the law of mean, spread and width.
    noisy = 1 + 2 * chain_of([400, 300], seed=7)[0]
    assert metrics.energy_rate(noisy).item() == pytest.approx(4 / 400, rel=0.05)


# New weights, and how alike maps are


def test_layers_get_new_weights_and_the_model_keeps_its_own() -> None:
    torch.manual_seed(8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5, bias=False), nn.Linear(5, 4))
    before = {n: p.clone() for n, p in net.named_parameters()}
    some = networks.randomized_layers(net, ["4"], seed=1)
    more = networks.randomized_layers(net, ["3", "4", "0"], seed=1)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert torch.equal(some[0].weight, net[0].weight)
    assert not torch.equal(some[4].weight, net[4].weight)
    assert torch.equal(some[4].weight, more[4].weight), "what was drawn stays when more layers are"
    assert not torch.equal(more[0].weight, net[0].weight)
    assert not more[0].bias.any()
    assert not some[4].bias.any()
    for layer, fans in ((more[0], (3 + 8) * 9), (more[3], 8 + 5)):
        bound = (6 / fans) ** 0.5
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
    twins = networks.randomized_layers(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), ["0", "1"])
    assert not torch.equal(twins[0].weight, twins[1].weight)
    other = networks.randomized_layers(net, ["4"], seed=2)
    assert not torch.equal(some[4].weight, other[4].weight)


def test_rank_correlation_sees_order_alone() -> None:
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(9))
    assert metrics.rank_correlation(x, -7 * x**3) == pytest.approx([1, 1])
    assert metrics.rank_correlation(x, 1 / x) == pytest.approx([-1, -1])
    assert np.isnan(metrics.rank_correlation(x, torch.ones_like(x))).all()
    # Several channels are added up first.
    parts = torch.stack([x[:, 0] * 0.25, -x[:, 0] * 0.75], 1)
    assert metrics.rank_correlation(parts, x.repeat(1, 2, 1, 1)) == pytest.approx([1, 1])


# Bad input


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: metrics.layer_matrix(torch.ones(2, 2), "middle"), "taps is 'middle'; allowed are center, sum, all."),
        (lambda: metrics.layer_matrix(torch.ones(2)), "weight has shape (2,); allowed are"),
        (lambda: metrics.layer_matrix(torch.ones(2, 5), grid=(2, 2)), "weight has shape (2, 5) for the grid (2, 2);"),
        (
            lambda: metrics.effective_matrix(torch.ones(1, 1, 2, 2), torch.ones(1, 3, 3), torch.ones(1, 3, 3), (0, 0)),
            "the kernel has size 2 × 2; allowed are squares of odd size.",
        ),
        (
            lambda: metrics.effective_matrix(torch.ones(1, 2, 1, 1), torch.ones(1, 3, 3), torch.ones(1, 3, 3), (0, 0)),
            "the masks have 1 and 1 channels; allowed are 2 and 1, as the kernel has.",
        ),
        (
            lambda: metrics.effective_chain([torch.ones(1, 1, 1, 1)], [torch.ones(1, 2, 2)], (0, 0)),
            "there are 1 masks for 1 kernels; allowed is one more than kernels.",
        ),
        (lambda: networks.randomized_layers(nn.Sequential(nn.ReLU()), ["0"]), "the layer '0' has no weight to draw;"),
        (lambda: networks.randomized_layers(nn.Sequential(nn.ReLU()), ["x"]), "the layer 'x' has no weight to draw;"),
        (
            lambda: metrics.rank_correlation(torch.ones(1, 2), torch.ones(1, 2)),
            "the maps have shapes (1, 2) and (1, 2)",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
