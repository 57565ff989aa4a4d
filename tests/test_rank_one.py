"""The theorems on rank-one convergence: identities, closed forms, and bounds that no matrix may violate."""

from __future__ import annotations

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

import modbp
from modbp.errors import InputError
from modbp.theory import rank_one
from modbp.theory.rank_one import chains as chain_module

SIZES = st.integers(2, 7)
SEEDS = st.integers(0, 2**31)
ROUNDING = 1e-9
matrices = importlib.import_module("modbp.theory.rank_one.stochastic")  # the name is a function of the package too


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def stochastic_matrices(draw: st.DrawFn, rows: int | None = None, columns: int | None = None) -> Tensor:
    """Sparse column-stochastic matrices, in which columns may be orthogonal, equal or unit vectors."""
    shape = (rows or draw(SIZES), columns or draw(SIZES))
    entries = draw(arrays(float, shape, elements=st.sampled_from([0.0, 0.0, 1e-3, 0.5, 1.0, 3.0])))
    entries[draw(st.integers(0, shape[0] - 1)), entries.sum(0) == 0] = 1
    return torch.tensor(entries / entries.sum(0))


@st.composite
def chains(draw: st.DrawFn, scaled: bool = False) -> list[Tensor]:
    sizes = draw(st.lists(SIZES, min_size=2, max_size=6))
    chain = [draw(stochastic_matrices(p, q)) for p, q in itertools.pairwise(sizes)]
    if scaled:
        scale = st.sampled_from([0.01, 1.0, 50.0])
        chain = [z * torch.tensor(draw(st.lists(scale, min_size=z.shape[1], max_size=z.shape[1]))) for z in chain]
    return chain


def cosine(a: Tensor, b: Tensor) -> float:
    """Not torch's, which adds a constant to small norms."""
    a, b = (v / v.abs().max() for v in (a, b))
    return float(a @ b / (a.norm() * b.norm()))


def vectors(size: int) -> st.SearchStrategy[Tensor]:
    return arrays(float, size, elements=st.floats(-10, 10)).map(torch.tensor)


# The z⁺ rule as a matrix


@pytest.mark.parametrize("name", ["lrp_zplus", "lrp_alpha2_beta1"])
def test_the_matrices_are_what_the_engine_computes(name: str) -> None:
    """Two implementations: matrices from activations and weights, and the rule from a start at every output."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 7, bias=False), nn.ReLU(), nn.Linear(7, 5, bias=False)).double()
    x = torch.rand(1, 9, dtype=torch.float64)
    by_engine = modbp.make(name, net).trace(x).relevance(start=torch.eye(5, dtype=torch.float64)[:, None])["input"]
    hidden = net[1](net[0](x))
    alpha = 1 if name == "lrp_zplus" else 2
    lower = rank_one.alpha_beta_matrix(x[0], net[0].weight, alpha)
    upper = rank_one.alpha_beta_matrix(hidden[0], net[2].weight, alpha)
    torch.testing.assert_close((lower @ upper).mT, by_engine[:, 0], rtol=1e-9, atol=1e-12)


def test_a_bias_in_the_denominator_is_the_engines_split_bias() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(6, 4).double()
    x = torch.rand(1, 6, dtype=torch.float64)
    start = torch.eye(4, dtype=torch.float64)[:, None]
    by_engine = modbp.make("lrp_zplus", nn.Sequential(layer), bias="split").trace(x).relevance(start=start)["input"]
    matrix = rank_one.z_plus_matrix(x[0], layer.weight, layer.bias)
    torch.testing.assert_close(matrix.mT, by_engine[:, 0], rtol=1e-9, atol=1e-12)
    free = rank_one.z_plus_matrix(x[0], layer.weight)
    kept = rank_one.column_sums(matrix)
    torch.testing.assert_close(matrix, free * kept)
    assert ((kept < 1) == (layer.bias > 0)).all()


@settings(deadline=None)
@given(SEEDS, st.floats(1, 10))
def test_columns_sum_to_one_or_are_dead(seed: int, alpha: float) -> None:
    a, weight = normal(6, seed=seed).clamp(min=0), normal(8, 6, seed=seed + 1)
    sums = rank_one.column_sums(rank_one.z_plus_matrix(a, weight))
    dead = ((a * weight.clamp(min=0)).sum(1)) == 0
    torch.testing.assert_close(sums, (~dead).double())
    both = ~dead & ((a * weight.clamp(max=0)).sum(1) < 0)
    signed = rank_one.column_sums(rank_one.alpha_beta_matrix(a, weight, alpha))
    torch.testing.assert_close(signed[both], torch.ones(int(both.sum()), dtype=torch.float64))


def test_dead_outputs_matter_only_at_the_start() -> None:
    """Lemma lem-dead: no relevance arrives at inner neurons that are dead, so their columns may be anything."""
    weights = [normal(12, 12, seed=s) - 0.4 for s in range(4)]
    a, chain = normal(12, seed=9).clamp(min=0), []
    for weight in weights:
        chain.append(rank_one.z_plus_matrix(a, weight))
        a = (weight @ a).clamp(min=0)
    product = rank_one.products(chain)[-1]
    changed = [z + 7.0 * (z.sum(0) == 0) for z in chain[:-1]] + chain[-1:]
    assert any((z.sum(0) == 0).any() for z in chain[:-1]), "no neuron is dead"
    assert torch.equal(rank_one.products(changed)[-1], product)
    live = rank_one.live_chain(chain)
    torch.testing.assert_close(rank_one.products(live)[-1], product[:, chain[-1].sum(0) > 0])
    for matrix in live:
        rank_one.check_stochastic(matrix)


def test_stochastic_drops_dead_columns_and_divides_the_others() -> None:
    found = rank_one.stochastic(torch.tensor([[2.0, 0.0, 1.0], [6.0, 0.0, 1.0]]))
    assert found.tolist() == [[0.25, 0.5], [0.75, 0.5]]


# Dobrushin's coefficient


def coefficient_by_loops(matrix: Tensor) -> float:
    columns = matrix.T.tolist()
    return 1 - min(sum(map(min, a, b)) for a in columns for b in columns)


@settings(deadline=None)
@given(stochastic_matrices())
def test_the_coefficient_is_one_minus_the_least_overlap(matrix: Tensor) -> None:
    assert float(rank_one.dobrushin(matrix)) == pytest.approx(coefficient_by_loops(matrix), abs=ROUNDING)


def test_the_coefficient_of_many_columns_compares_every_chunk_with_every_other(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.full((3, 11), 1 / 3, dtype=torch.float64)
    matrix[:, 1], matrix[:, 9] = torch.eye(3)[0], torch.eye(3)[2]
    monkeypatch.setattr(matrices, "COLUMNS", 2)
    assert float(rank_one.dobrushin(matrix)) == 1


@settings(deadline=None)
@given(st.data(), stochastic_matrices())
def test_contraction(data: st.DataObject, matrix: Tensor) -> None:
    """Lemma lem-dobrushin, items 2 and 4."""
    p, q = matrix.shape
    tau = float(rank_one.dobrushin(matrix))
    v = data.draw(vectors(q))
    v = v - v.mean()
    assert float((matrix @ v).abs().sum()) <= tau * float(v.abs().sum()) + ROUNDING
    h = data.draw(vectors(p))
    averages = h @ matrix
    assert float(averages.max() - averages.min()) <= tau * float(h.max() - h.min()) + ROUNDING


@settings(deadline=None)
@given(chains(), st.integers(1, 4))
def test_no_grouping_of_layers_bounds_from_below(chain: list[Tensor], block: int) -> None:
    exact = rank_one.contraction_bounds(chain, len(chain))
    torch.testing.assert_close(exact, torch.stack([rank_one.dobrushin(c) for c in rank_one.products(chain)]))
    by_block, by_layer = rank_one.contraction_bounds(chain, block), rank_one.contraction_bounds(chain)
    assert (exact <= by_block + ROUNDING).all()
    assert (by_block <= by_layer + ROUNDING).all()
    torch.testing.assert_close(by_layer, torch.stack([rank_one.dobrushin(z) for z in chain]).cumprod(0))


@settings(deadline=None)
@given(chains())
def test_columns_lie_within_the_bound_of_one_another(chain: list[Tensor]) -> None:
    """Theorem thm-stochastic: all columns within 2T of any point of the cone, such as their mean."""
    product = rank_one.products(chain)[-1]
    bound = float(rank_one.contraction_bounds(chain)[-1])
    assert float((product - product.mean(1, keepdim=True)).abs().sum(0).max()) <= 2 * bound + ROUNDING


@settings(deadline=None)
@given(stochastic_matrices())
def test_singular_values_obey_the_coefficient(matrix: Tensor) -> None:
    values = torch.linalg.svdvals(matrix)
    bound = rank_one.singular_bound(matrix)
    assert float(values[1] / values[0]) <= float(bound) + ROUNDING
    assert bound <= math.sqrt(len(matrix)) * rank_one.dobrushin(matrix) + ROUNDING


@settings(deadline=None)
@given(st.data(), stochastic_matrices(4, 3), st.floats(0, 0.3))
def test_cosines_obey_the_coefficient(data: st.DataObject, matrix: Tensor, spread: float) -> None:
    """Proposition prop-finite-depth, item 3, near a matrix of rank one so that the bound often says something."""
    matrix = spread * matrix + (1 - spread) * matrix[:, :1]
    v, w = data.draw(vectors(3)), data.draw(vectors(3))
    bound = float(rank_one.cosine_bound(v, w, matrix))
    assert 0 <= bound <= 1
    if bound > ROUNDING:
        assert abs(cosine(matrix @ v, matrix @ w)) >= bound - 1e-7


def test_the_cosine_bound_says_something_and_nothing_for_a_zero_sum() -> None:
    matrix = torch.tensor([[0.5, 0.4], [0.5, 0.6]], dtype=torch.float64)
    one, other, zero = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    tau, mean = 0.1, math.hypot(0.45, 0.55)
    assert float(rank_one.cosine_bound(one, other, matrix)) == pytest.approx(math.cos(2 * math.asin(tau / mean)))
    assert float(rank_one.cosine_bound(one, zero, matrix)) == pytest.approx(0, abs=1e-12)


def test_the_probability_of_a_usable_sum_is_a_lower_bound() -> None:
    """The corollary's event itself, not a formula: ρ ≤ √5·T√m/(δ‖c̄‖), where T and ‖c̄‖ cancel."""
    m, delta = 500, 0.3
    v = normal(4000, m, seed=3)
    total = v.sum(1, keepdim=True)
    within = (v - total / m).abs().sum(1) / total[:, 0].abs() <= math.sqrt(5 * m) / delta
    assert float(within.double().mean()) >= rank_one.gaussian_start_probability(delta, m)
    assert rank_one.gaussian_start_probability(delta, m) == pytest.approx(0.761, abs=5e-4)


def test_the_overlap_of_two_columns_in_a_wide_layer() -> None:
    """Proposition prop-overlap: half the l1 distance tends to 1/√2 for z⁺ and to √2 − 1 for absolute weights."""
    a, weight = normal(200_000, seed=1).clamp(min=0), normal(2, 200_000, seed=2)
    for weights, expected in ((weight, 1 / math.sqrt(2)), (weight.abs(), math.sqrt(2) - 1)):
        assert float(rank_one.dobrushin(rank_one.z_plus_matrix(a, weights))) == pytest.approx(expected, abs=0.01)


# Any non-negative chain, biases, residual blocks


@settings(deadline=None)
@given(chains(scaled=True))
def test_a_scaled_chain_is_the_chain_with_normalized_columns(chain: list[Tensor]) -> None:
    factors, h = rank_one.scaled_chain(chain)
    for factor in factors:
        rank_one.check_stochastic(factor)
    product = rank_one.products(chain)[-1]
    torch.testing.assert_close(h, product.sum(0))
    torch.testing.assert_close(rank_one.products(factors)[-1], product / product.sum(0))


@settings(deadline=None)
@given(SEEDS, st.integers(1, 5), st.floats(0.01, 2))
def test_even_positive_columns_contract(seed: int, length: int, spread: float) -> None:
    """Theorem thm-positive, for columns of very different scale."""
    chain = [(spread * normal(5, 5, seed=seed + i)).exp() * (3 * normal(5, seed=seed - i)).exp() for i in range(length)]
    factors, _ = rank_one.scaled_chain(chain)
    for matrix, factor in zip(chain, factors, strict=True):
        assert float(rank_one.dobrushin(factor)) <= 1 - float(rank_one.positivity(matrix)) + ROUNDING


@settings(deadline=None)
@given(SEEDS, st.integers(1, 6), st.floats(0, 0.5))
def test_biases_leave_the_chain_within_its_bound(seed: int, length: int, leak: float) -> None:
    """Proposition prop-bias, on matrices whose columns are alike enough for κτ < 1."""
    chain, coefficients, ratios = [], [], []
    for i in range(length):
        free = rank_one.stochastic((0.3 * normal(6, 6, seed=seed + i)).exp())
        kept = 1 - leak * torch.rand(6, generator=torch.Generator().manual_seed(seed + i), dtype=torch.float64)
        chain.append(free * kept)
        coefficients.append(float(rank_one.dobrushin(free)))
        ratios.append(float(kept.max() / kept.min()))
    factors, h = rank_one.scaled_chain(chain)
    bound = rank_one.bias_bound(max(coefficients), max(ratios), length)
    assert float(rank_one.dobrushin(rank_one.products(factors)[-1])) <= bound + ROUNDING
    torch.testing.assert_close(h, rank_one.column_sums(rank_one.products(chain)[-1]))


@settings(deadline=None)
@given(st.data(), st.integers(2, 6), st.floats(0, 1))
def test_a_skip_connection_keeps_its_share_apart(data: st.DataObject, size: int, skip: float) -> None:
    """Proposition prop-residual: both sides of the bound, and what perfectly mixing branches leave."""
    branch = data.draw(stochastic_matrices(size, size))
    block = rank_one.residual_matrix(torch.full((size,), skip, dtype=torch.float64), branch)
    rank_one.check_stochastic(block)
    kept, mixed = 1 - float(rank_one.dobrushin(block)), (1 - skip) * (1 - float(rank_one.dobrushin(branch)))
    omega = float((branch - torch.diag(branch.diag())).max())
    assert mixed - ROUNDING <= kept <= mixed + 2 * (1 - skip) * omega + ROUNDING
    perfect = rank_one.residual_matrix(torch.full((size,), skip, dtype=torch.float64), branch[:, :1].expand(-1, size))
    v = data.draw(vectors(size))
    v = v - v.mean()
    torch.testing.assert_close(torch.linalg.matrix_power(perfect, 4) @ v, skip**4 * v, atol=1e-8, rtol=1e-8)


# Counterexamples


@settings(deadline=None)
@given(st.integers(1, 60))
def test_the_powers_of_the_counterexamples(power: int) -> None:
    matrices = {2: rank_one.COUNTEREXAMPLE_2, 3: rank_one.COUNTEREXAMPLE_3}
    for size, matrix in matrices.items():
        assert torch.equal(torch.linalg.matrix_power(matrix, power), rank_one.power_of_counterexample(power, size))
        factors, _ = rank_one.scaled_chain([matrix] * power)
        exact = float(rank_one.dobrushin(rank_one.products(factors)[-1]))
        assert exact == pytest.approx(rank_one.counterexample_coefficient(power))
        assert float(rank_one.contraction_bounds(factors)[-1]) == pytest.approx(exact), "the bound is attained"
    first, second = torch.linalg.matrix_power(matrices[2], power).T
    assert cosine(first, second) == pytest.approx(rank_one.counterexample_cosine(power))


def test_where_the_counterexamples_end() -> None:
    limit = rank_one.power_of_counterexample(60)
    np.testing.assert_allclose(torch.linalg.svdvals(limit), [3, 1, 0], atol=1e-12)
    assert cosine(limit[:, 1], limit[:, 2]) == pytest.approx(0.8)
    for matrix in (rank_one.COUNTEREXAMPLE_2, rank_one.COUNTEREXAMPLE_3):
        assert (matrix >= 0).all()
        assert (matrix.sum(0) > 0).all()
        assert (matrix.T @ matrix > 0).all(), "two columns are orthogonal"


# Simulated chains


def test_disagreement_is_one_minus_the_absolute_cosine() -> None:
    signals = normal(3, 4, 6)
    found = rank_one.disagreement(signals)
    for chain, values in zip(signals, found, strict=True):
        pairs = itertools.combinations(chain, 2)
        expected = [1 - abs(cosine(a, b)) for a, b in pairs]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


@settings(deadline=None)
@given(st.floats(1e-14, 1e-2), st.booleans())
def test_disagreement_is_resolved_below_rounding(angle: float, flipped: bool) -> None:
    v, w = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    found = rank_one.disagreement(torch.stack([v.double(), -w if flipped else w]))
    assert float(found) == pytest.approx(2 * math.sin(angle / 2) ** 2, rel=1e-6)


def test_pairs_of_a_vector_with_itself() -> None:
    values = rank_one.disagreement(normal(9, 5))
    with_them = torch.cat([values, torch.zeros(9, dtype=torch.float64)]).mean()
    torch.testing.assert_close(rank_one.with_self_pairs(values.mean(), 9), with_them)


@pytest.mark.parametrize("entries", [2**21, 60])
def test_a_chain_by_hand(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers in whole factors and plain matrix products, without scaling on the way."""
    monkeypatch.setattr(chain_module, "ENTRIES", entries)
    widths, seed = (9, 17, 12, 6), 3
    series = {**rank_one.SERIES, "αβ": rank_one.alpha_beta(3), "flips": rank_one.sign_flips(0.3)}
    found = rank_one.simulate_chains(series, widths, repetitions=1, vectors=4, seed=seed)
    assert not any(kind.uniform for kind in rank_one.SERIES.values())
    generator, uniforms = (torch.Generator().manual_seed(s) for s in (2 * seed, 2 * seed + 1))
    start = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    normals, signs = [], []
    for above, below in itertools.pairwise(widths):
        parts = [len(rows) for rows in torch.arange(above).split(entries // below)]
        normals.append(torch.cat([torch.randn(n, below, generator=generator, dtype=torch.float64) for n in parts]))
        signs.append(torch.cat([torch.rand(n, below, generator=uniforms, dtype=torch.float64) for n in parts]))
    positive = [n.abs() for n in normals]
    factors = {
        "signed": normals,
        "positive": positive,
        "stochastic": [m / m.sum(1, keepdim=True) for m in positive],
        "non-negative": [n.clamp(min=0) for n in normals],
        "αβ": [torch.where(n > 0, 3 * n, 2 * n) for n in normals],
        "flips": [m * torch.where(u < 0.3, -1, 1) for m, u in zip(positive, signs, strict=True)],
    }
    for name, chain in factors.items():
        expected = torch.stack([rank_one.disagreement(start @ c) for c in rank_one.products(chain)])
        torch.testing.assert_close(found[name][0], expected, rtol=1e-8, atol=1e-12)
    signal = ((start @ normals[0]).clamp(min=0) @ normals[1]).clamp(min=0) @ normals[2]
    torch.testing.assert_close(found["signed, ReLU on the signal"][0, -1], rank_one.disagreement(signal))


def test_seeds_and_repetitions_differ() -> None:
    a, b = (rank_one.simulate_chains(rank_one.SERIES, (9, 8), 2, 3, seed=s)["signed"] for s in (0, 1))
    assert len({round(float(v), 9) for v in (*a[:, 0, 0], *b[:, 0, 0])}) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repetitions": 0}, "the number of repetitions is 0; allowed are numbers from 1 upwards."),
        ({"vectors": 1}, "the number of vectors is 1; allowed are numbers from 2 upwards."),
        ({"widths": [3]}, "the number of widths is 1; allowed are numbers from 2 upwards."),
    ],
)
def test_chains_that_cannot_be(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        rank_one.simulate_chains(rank_one.SERIES, **given)  # type: ignore[arg-type]


def test_a_relu_network_by_its_own_rule() -> None:
    """The simulator against the engine: a network of the same weights, relevance by the αβ rule."""
    width, depth, seed = 24, 3, 5
    found, participation = rank_one.simulate_relu_net([2.0], width, depth, vectors=4, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator, dtype=torch.float64)[0]

    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=False, dtype=torch.float64), nn.ReLU()]
        layers[-2].weight.data = drawn(width, width) * math.sqrt(2 / width)
    x, start = drawn(width).clamp(min=0), drawn(width, 4).T
    net = nn.Sequential(*layers[:-1])
    points = ["3", "1", "input"]
    trace = modbp.make("lrp_alpha2_beta1", net).trace(x[None], layers=points)
    relevance = trace.relevance(points, start=start[:, None])
    for place, name in enumerate(points):
        torch.testing.assert_close(
            found[0, 0, place], rank_one.disagreement(relevance[name][:, 0]), rtol=1e-6, atol=1e-12
        )
        a = x if name == "input" else trace.activation(name)[0]
        assert float(participation[0, place]) == pytest.approx(float(rank_one.participation_ratio(a)))


def test_noise_grows_by_the_energy_of_the_columns() -> None:
    """Theorem thm-energy inside a network: the sum is conserved, and what has no sum falls by t per layer."""
    alphas, width = [1.0, 2.0, 4.0], 256
    growth = rank_one.zero_sum_growth(alphas, width, depth=6, repetitions=2).mean(1)
    law = [rank_one.alpha_beta_energy(a, rank_one.effective_width(width)) for a in alphas]
    np.testing.assert_allclose(growth, law, rtol=0.25)
    one = rank_one.zero_sum_growth([3.0], width=40, depth=1, vectors=3)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 40, 40, generator=generator, dtype=torch.float64)[0]
    a = torch.randn(1, 40, generator=generator, dtype=torch.float64)[0].clamp(min=0)
    start = torch.randn(1, 40, 3, generator=generator, dtype=torch.float64)[0]
    start = start - start.mean(0)
    noise = rank_one.alpha_beta_matrix(a, weight, 3.0) @ start
    torch.testing.assert_close(noise.sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(one[0, 0], (noise.norm(dim=0) / start.norm(dim=0)).square().log().mean().exp())


def test_the_energy_of_columns_by_loops() -> None:
    matrix, importance = normal(5, 4), torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    middle = sum(matrix.T) / 4
    each = [float((column - middle).square().sum()) * 4 / 3 for column in matrix.T]
    assert float(rank_one.column_energy(matrix)) == pytest.approx(sum(each) / 4)
    torch.testing.assert_close(rank_one.column_energy(matrix), matrix.var(1).sum())
    expected = (each[1] + 2 * each[2] + 5 * each[3]) / 8
    assert float(rank_one.column_energy(matrix, importance)) == pytest.approx(expected)


def test_relevance_arrives_where_columns_are_even() -> None:
    """Why chains of z⁺ in a network beat the law: all columns have its energy, those that count have less."""
    width = 256
    every, arriving = rank_one.layer_energies(1, width, repetitions=12)
    assert float(every.mean()) == pytest.approx(1, abs=0.06)
    growth = rank_one.zero_sum_growth([1], width, repetitions=8) / rank_one.alpha_beta_energy(1, width / math.pi)
    assert float(growth.mean()) < 0.9
    assert float(growth.mean()) == pytest.approx(float(arriving.mean()), abs=0.06)


# Mean, spread and width


@settings(deadline=None)
@given(st.floats(1, 30), st.integers(8, 5000))
def test_the_energy_is_one_at_the_boundary(alpha: float, width: int) -> None:
    assert rank_one.alpha_beta_energy(rank_one.alpha_boundary(width), width) == pytest.approx(1)
    assert rank_one.flips_energy(rank_one.flips_boundary(width), width) == pytest.approx(1)
    # The definition: t = σ²/(μ²n), with the moments of the entries from those of half a Gaussian.
    mean = (alpha - (alpha - 1)) / math.sqrt(2 * math.pi)
    variance = (alpha**2 + (alpha - 1) ** 2) / 2 - mean**2
    assert rank_one.alpha_beta_energy(alpha, width) == pytest.approx(variance / (mean**2 * width))


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(8, 5000))
def test_the_energy_of_flipped_signs(share: float, width: int) -> None:
    mean = math.sqrt(2 / math.pi) * (1 - 2 * share)
    if abs(mean) < 1e-6:
        return
    assert rank_one.flips_energy(share, width) == pytest.approx((1 - mean**2) / (mean**2 * width))


def test_boundaries_of_the_theory_page() -> None:
    found = [round(rank_one.alpha_boundary(n), 2) for n in (64, 128, 256, 512, 1024, 4096)]
    assert found == [3.68, 5.0, 6.88, 9.52, 13.26, 26.03]
    inside = [round(rank_one.alpha_boundary(rank_one.effective_width(n)), 2) for n in (128, 512)]
    assert inside == [3.03, 5.58]


def test_energies_are_those_of_drawn_matrices() -> None:
    n = 400
    a = normal(n, seed=7).clamp(min=0)
    for alpha in (1, 2, 5):
        matrix = rank_one.alpha_beta_matrix(a, normal(n, n, seed=8), alpha)
        law = rank_one.alpha_beta_energy(alpha, float(rank_one.participation_ratio(a)))
        assert float(rank_one.column_energy(matrix)) == pytest.approx(law, rel=0.1)
    assert float(rank_one.participation_ratio(normal(10**6).clamp(min=0))) == pytest.approx(10**6 / math.pi, rel=0.01)


def test_the_energy_law_of_conserving_signed_rules() -> None:
    """Theorem thm-energy, with its own example: columns 1/n plus noise, an exact mean over draws."""
    n, noise, draws = 60, 0.08, 800
    d = normal(n, seed=1)
    d = d - d.mean()
    z = noise * normal(3, draws, n, n, seed=2)
    z = z - z.mean(2, keepdim=True) + 1 / n
    measured = (z[0] @ (z[1] @ (z[2] @ d).unsqueeze(-1))).squeeze(-1).square().sum(1).mean() / d.square().sum()
    assert float(measured) == pytest.approx((noise**2 * (n - 1)) ** 3, rel=0.05)
    assert float(rank_one.column_energy(z[0]).mean()) == pytest.approx(noise**2 * (n - 1), rel=0.01)


def test_the_recursion_of_second_moments() -> None:
    n, p, mean, deviation, draws = 12, 9, 0.3, 1.0, 100_000
    r, s = normal(2, n, seed=4) + 0.5
    images = (mean + deviation * normal(draws, p, n, seed=5)) @ torch.stack([r, s], 1)
    M, Q = images.mean(1).prod(1).mean(), images.prod(2).mean()
    expected = rank_one.second_moments(mean, deviation**2, n, p) @ torch.tensor([r.mean() * s.mean(), r @ s / n])
    np.testing.assert_allclose([float(M), float(Q)], expected, rtol=0.03)


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_mean_and_median_scale_differently(noise: float) -> None:
    """Proposition prop-mean-median, by integration over both sums: the mean falls with A, the median with A²."""
    g = math.sqrt(2) * torch.erfinv((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    lost = -torch.expm1(-0.5 * torch.log1p((noise / g) ** 2))
    both = lost[:, None] + lost - lost[:, None] * lost
    assert float(both.mean()) == pytest.approx(rank_one.MEAN_CONSTANT * noise, rel=0.03)
    assert float(both.median()) == pytest.approx(rank_one.MEDIAN_CONSTANT * noise**2, rel=0.03)
    assert round(rank_one.MEDIAN_CONSTANT, 3) == 4.396


@pytest.mark.parametrize(("alpha", "width"), [(1, 128), (2, 128), (2, 256), (3, 256)])
def test_simulated_medians_follow_the_law(alpha: float, width: int) -> None:
    t, factors = rank_one.alpha_beta_energy(alpha, width), 8
    chain = rank_one.simulate_chains({"αβ": rank_one.alpha_beta(alpha)}, [width] * (factors + 1), 4, 24)["αβ"]
    medians = chain.median(2).values.log().mean(0).exp()
    assert float(rank_one.late_rate(medians)) == pytest.approx(t, rel=0.25)
    assert float(medians[-1].log()) == pytest.approx(math.log(rank_one.median_law(t, width, factors)), abs=1.5)


@settings(deadline=None)
@given(st.floats(0.01, 0.6), st.integers(32, 2000))
def test_the_median_law_falls_late_by_the_energy(energy: float, width: int) -> None:
    start = math.ceil(rank_one.factors_until_visible(energy, width)) + 8
    values = [rank_one.median_law(energy, width, start + k) for k in (0, 1)]
    assert values[1] / values[0] == pytest.approx(energy, rel=0.05)
    limit = rank_one.MEDIAN_CONSTANT * energy**start * width * (1 - energy)
    assert values[0] == pytest.approx(limit, rel=0.1)


def test_without_a_mean_nothing_is_visible() -> None:
    assert rank_one.factors_until_visible(1.0, 100) == math.inf
    assert rank_one.flips_energy(0.5, 100) == math.inf
    assert rank_one.median_law(2.0, 512, 40) > 0.9
    for n in (16, 64, 1000):
        assert rank_one.lyapunov_gap(n) == pytest.approx(1 / (2 * n), rel=2 / n)


@settings(deadline=None)
@given(st.floats(0.01, 0.9), st.integers(4, 12), st.integers(1, 3))
def test_the_late_rate_of_a_geometric_series_is_its_ratio(ratio: float, steps: int, window: int) -> None:
    series = torch.tensor([5.0, *[3 * ratio**k for k in range(steps)]], dtype=torch.float64)
    assert float(rank_one.late_rate(series, window)) == pytest.approx(ratio)


def test_the_rate_is_taken_late_and_before_rounding() -> None:
    """At 0.1 until the tenth factor, then constant as rounding would have it; L* is 2 for t = 0.1 and n = 100."""
    values = 0.1 ** torch.arange(30.0, dtype=torch.float64).clamp(max=9)[:, None].expand(30, 3)
    assert float(rank_one.rate_of_median(values, 0.1, 100)) == pytest.approx(0.1)
    assert float(rank_one.rate_of_median(values, 0.9, 100)) == 1
    assert float(rank_one.rate_of_median(values[:5], 2.0, 100)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 1, 3], 2.5), ([0, 2, 1], 2), ([2, 3, 4], math.nan), ([0, 1, 1], math.nan)]
)
def test_where_a_level_is_crossed(values: list[float], expected: float) -> None:
    assert rank_one.crossing([1, 2, 3], values, 2) == pytest.approx(expected, nan_ok=True)


def test_a_window_as_long_as_the_series_is_refused() -> None:
    with pytest.raises(InputError, match=r"window is 3; allowed for 3 values are 1 to 2\."):
        rank_one.late_rate(torch.ones(3), 3)


def test_reveal_cancel_multipliers_have_a_positive_mean() -> None:
    """Law law-reveal-cancel, part (1): the definition inserted."""
    n = 300
    a, weight = normal(n, seed=1).clamp(min=0), normal(4000, n, seed=2)
    plus, minus = (a * weight.clamp(min=0)).sum(1), -(a * weight.clamp(max=0)).sum(1)
    f = torch.relu
    up = (f(plus) - f(torch.zeros(1)) + f(plus - minus) - f(-minus)) / 2 / plus
    down = (f(torch.zeros(1)) - f(-minus) + f(plus) - f(plus - minus)) / 2 / minus
    assert (up - down >= -1e-12).all()
    measured = float((up - down).mean())
    assert measured == pytest.approx(float(rank_one.participation_ratio(a)) ** -0.5, rel=0.15)


def test_reveal_cancel_halves_the_energy_beside_what_it_conserves() -> None:
    """Law law-reveal-cancel, parts (2) and (3): aᵀm stays to rounding, and an unrelated m keeps half of its energy."""
    n = 2000
    a, weight = normal(n, seed=1).clamp(min=0), normal(n, n, seed=2) * math.sqrt(2 / n)  # from input to output
    plus, minus = weight.clamp(min=0).T @ a, -(weight.clamp(max=0).T @ a)
    active = plus > minus
    up = torch.where(active, 1 - minus / (2 * plus), torch.full_like(plus, 0.5))
    down = torch.where(active, torch.full_like(plus, 0.5), plus / (2 * minus))
    above = (plus - minus).clamp(min=0)
    m = normal(n, seed=3)
    # No input has a negative difference; where it is zero both parts count half.
    signed, absolute = weight @ (m * (up + down) / 2), weight.abs() @ (m * (up - down) / 2)
    below = signed + torch.where(a > 0, absolute, torch.zeros_like(a))
    assert float(a @ below) == pytest.approx(float(above @ m), rel=1e-9)
    rest = below - (a @ below) / (a @ a) * a
    before = m - (above @ m) / (above @ above) * above
    kept = float((rest @ rest) / (before @ before)) / float((above @ above) / (a @ a)) ** -1
    assert kept == pytest.approx(rank_one.REVEAL_CANCEL_ENERGY, rel=0.1)


# Singular values


@settings(deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_the_ratio_of_a_product_is_bounded_by_its_factors(seed: int, length: int) -> None:
    chain = [normal(5, 5, seed=seed + i) for i in range(length)]
    ratio = rank_one.singular_ratio(rank_one.products(chain)[-1])
    assert 1 / float(ratio) <= float(rank_one.ratio_bound(chain)) * (1 + 1e-6)
    assert 0 < float(rank_one.transmission(chain)) <= 1 + 1e-9


@settings(deadline=None)
@given(SEEDS, st.floats(2.5, 12), st.floats(0.05, 0.9), st.integers(1, 5))
def test_within_a_cone_ratios_multiply(seed: int, ratio: float, part: float, length: int) -> None:
    """Proposition prop-cone, with factors whose leading vectors meet at exactly the angle."""
    slope = part * (ratio - 1) / (2 * math.sqrt(ratio))
    angle = math.atan(slope)
    turn = torch.eye(5, dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    turn[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    values = torch.tensor([ratio, 1, 1, 1, 1], dtype=torch.float64)
    chain = []
    for i in range(length):
        rest = torch.block_diag(torch.eye(1, dtype=torch.float64), torch.linalg.qr(normal(4, 4, seed=seed + i)).Q)
        chain.append(turn @ torch.diag(values) @ rest)
    for lower, upper in itertools.pairwise(chain):
        assert float(rank_one.leading_overlap(lower, upper)) == pytest.approx(math.cos(angle))
    found = 1 / float(rank_one.singular_ratio(rank_one.products(chain)[-1]))
    assert found <= rank_one.cone_bound(ratio, math.cos(angle), length) * (1 + 1e-9)


@settings(deadline=None)
@given(SEEDS)
def test_the_overlap_of_rank_one_factors_is_a_cosine(seed: int) -> None:
    u, v, x, y = (normal(size, seed=seed + i) for i, size in enumerate((3, 4, 4, 5)))
    overlap = rank_one.leading_overlap(torch.outer(u, v), torch.outer(x, y))
    assert float(overlap) == pytest.approx(abs(cosine(v, x)), abs=1e-9)


def test_ratios_alone_prove_nothing() -> None:
    """Two factors of ratio 4 each, whose leading vectors are orthogonal: the product has the ratio 1."""
    chain = [torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([1.0, 4.0]))]
    assert float(rank_one.leading_overlap(*chain)) == 0
    assert float(rank_one.singular_ratio(chain[0] @ chain[1])) == 1
    with pytest.raises(InputError, match=r"overlap is 0\.5; allowed for the ratio 6 is above 0\.7"):
        rank_one.cone_bound(6, 0.5, 2)


def test_an_isotropic_bulk_aligns_at_its_rate() -> None:
    n, ratio, overlap = 128, 6.0, 0.7
    u = normal(n, seed=1)
    u = u / u.norm()
    signal = normal(32, n, seed=2).T
    medians = []
    for i in range(9):
        away = normal(n, seed=10 + i)
        away = away - (away @ u) * u
        v = overlap * u + math.sqrt(1 - overlap**2) * away / away.norm()
        bulk = torch.linalg.qr(normal(n, n, seed=50 + i)).Q
        bulk = bulk - torch.outer(u, u @ bulk)
        bulk = bulk - torch.outer(bulk @ v, v)
        signal = ratio * torch.outer(u, v @ signal) + bulk @ signal
        medians.append(rank_one.disagreement(signal.T).median())
    assert float(rank_one.late_rate(torch.stack(medians), 4)) == pytest.approx(
        rank_one.bulk_rate(ratio, overlap), rel=0.2
    )


# Bad input


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rank_one.z_plus_matrix(torch.tensor([-1.0]), torch.ones(1, 1)), "an activation is -1; allowed are"),
        (lambda: rank_one.stochastic(-torch.ones(2, 2)), "an entry is -1; allowed are"),
        (lambda: rank_one.dobrushin(torch.ones(2, 2)), "a column's sum differs from 1 by 1; allowed is"),
        (lambda: rank_one.dobrushin(torch.tensor([[2.0], [-1.0]])), "an entry is -1; allowed in a stochastic matrix"),
        (lambda: rank_one.dobrushin(torch.full((1, 1), math.nan)), "a column's sum differs from 1 by nan"),
        (lambda: rank_one.dobrushin(torch.ones(3)), r"the matrix has shape \(3,\); allowed is \(p, q\)"),
        (lambda: rank_one.contraction_bounds([torch.eye(2)], 0), "block is 0; allowed are"),
        (lambda: rank_one.scaled_chain([torch.zeros(2, 2)]), "allowed are matrices without negative entries and zero"),
        (lambda: rank_one.cone_bound(0.5, 0.5, 1), "ratio is 0.5 and overlap 0.5; allowed are a ratio above 1"),
    ],
)
def test_what_has_no_meaning_is_refused(call: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()  # type: ignore[operator]
