"""The clip at additions: what it does to a rule, to a network and to the cosine of two signals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modbp.backward import Trace
from modbp.composite import Composite, sixt_alpha_beta, sixt_composite
from modbp.networks import ResidualMLP, residual_mlp, resnet50
from modbp.rules import (
    AlphaBeta,
    Clipped,
    Epsilon,
    Gamma,
    GuidedBackprop,
    Linear,
    SameSign,
    Transposed,
    ZBox,
    ZPlus,
    rectified_cosine,
)

INFINITE = (-math.inf, math.inf)
RULES = [Epsilon(0.0), Epsilon(0.1), Gamma(0.5), AlphaBeta(2.0), AlphaBeta(5.0, bias="included"), ZPlus(), SameSign()]


def network(seed: int = 0, blocks: int = 3) -> ResidualMLP:
    return residual_mlp(width=7, blocks=blocks, inputs=5, outputs=4, bias=0.3, seed=seed).double()


def samples(n: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def starts(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def maps(composite: Composite, net: Any, x: Tensor, start: Tensor, layers: list[str]) -> dict[str, Tensor]:
    return Trace(net, x, composite, layers).relevance(layers, start=start)


def at_sums(rule: Any, *bounds: float) -> Composite:
    return Composite("mine", {"affine": rule, "sum": Clipped(rule, *bounds)}, batch_norm="affine")


# The wrapped rule


@pytest.mark.parametrize("rule", [*RULES, Transposed()], ids=repr)
def test_infinite_bounds_leave_the_rule_alone(rule: Any) -> None:
    places = ["input", "stem", "blocks.0", "blocks.1"]
    plain = maps(Composite("plain", {"affine": rule}), network(), samples(), starts(2, 4), places)
    same = maps(Composite("all", {"affine": Clipped(rule, *INFINITE)}), network(), samples(), starts(2, 4), places)
    for place in places:
        assert plain[place].abs().max() > 0
        assert torch.equal(plain[place], same[place]), place


def test_first_and_last_rules_can_be_clipped_too() -> None:
    rules = {"affine": Epsilon(0.0)}
    clipped = Composite("mine", rules, first=Clipped(ZBox(-9.0, 9.0), 0.0, 0.5), last=Clipped(Epsilon(0.0)))
    plain = Composite("mine", rules, first=ZBox(-9.0, 9.0))
    found = maps(clipped, network(), samples(), starts(2, 4), ["input", "blocks.2"])
    unclipped = maps(plain, network(), samples(), starts(2, 4), ["input", "blocks.2"])
    assert unclipped["blocks.2"].min() < 0
    assert torch.equal(found["blocks.2"], unclipped["blocks.2"].clamp(min=0))
    assert found["input"].min() >= 0
    assert found["input"].max() == 0.5


@pytest.mark.parametrize("rule", [AlphaBeta(2.0), ZPlus(), SameSign(), Epsilon(0.0), Transposed()], ids=repr)
def test_it_keeps_what_the_engine_asks_of_a_rule(rule: Any) -> None:
    assert Clipped(rule).needs_output == rule.needs_output
    assert Clipped(rule).passes_relus == rule.passes_relus
    assert Composite("mine", {"affine": Clipped(rule)}).rule_for("relu") == (
        Composite("mine", {"affine": rule}).rule_for("relu")
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**31 - 1), st.floats(-2, 0), st.floats(0, 5))
def test_nothing_outside_the_bounds_is_handed_down(seed: int, low: float, high: float) -> None:
    composite = Composite("all", {"affine": Clipped(AlphaBeta(5.0), low, high)})
    places = ["input", "stem", "blocks.1.outer"]
    found = maps(composite, network(seed), samples(seed=seed), starts(2, 4, seed=seed), places)
    # At "stem" the parts of the skip and of the branch have met.
    for place, parts in (("input", 1), ("stem", 2)):
        assert found[place].min() >= parts * low - 1e-12
        assert found[place].max() <= parts * high + 1e-12


# The engine against a loop


def alpha_beta(R: Tensor, a: Tensor, W: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return the αβ rule with the whole bias in both denominators, term by term, for one sample."""
    handed = torch.zeros_like(a)
    for k in range(len(R)):
        terms = [float(W[k, j] * a[j]) for j in range(len(a))]
        up = sum(t for t in terms if t > 0) + float(b[k])
        down = sum(t for t in terms if t < 0) + float(b[k])
        for j, t in enumerate(terms):
            if t > 0 and up:
                handed[j] += alpha * t / up * R[k]
            elif t < 0 and down:
                handed[j] -= (alpha - 1) * t / down * R[k]
    return handed


def by_hand(net: ResidualMLP, x: Tensor, v: Tensor, alpha: float, clip: bool) -> Tensor:
    """Return the relevance of one sample's input."""
    h = net.stem(x)
    entered, inner, branches = [], [], []
    for block in net.blocks:
        entered.append(h)
        inner.append(block.inner(block.first(h)))
        branches.append(block.second(inner[-1]))
        h = block.outer(h + branches[-1])
    R = alpha_beta(v, h, net.head.weight, net.head.bias, alpha)
    for block, h, a, u in reversed(list(zip(net.blocks, entered, inner, branches, strict=True))):
        skip, branch = torch.zeros_like(R), torch.zeros_like(R)
        for k in range(len(R)):
            one = torch.ones(1, 2, dtype=R.dtype)
            handed = alpha_beta(R[k : k + 1], torch.stack([h[k], u[k]]), one, torch.zeros(1), alpha)
            skip[k], branch[k] = (handed.clamp(0, 1000) if clip else handed).tolist()
        below = alpha_beta(branch, a, block.second.weight, block.second.bias, alpha)
        R = skip + alpha_beta(below, h, block.first.weight, block.first.bias, alpha)
    return alpha_beta(R, x, net.stem[0].weight, net.stem[0].bias, alpha)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("clip", [False, True])
def test_a_residual_network_by_hand(alpha: float, clip: bool) -> None:
    net, x, v = network(seed=3), samples(3, seed=2), starts(3, 4)
    found = maps(sixt_alpha_beta(alpha, clip), net, x, v, ["input"])["input"]
    with torch.no_grad():
        expected = torch.stack([by_hand(net, x[i], v[i], alpha, clip) for i in range(3)])
        other = torch.stack([by_hand(net, x[i], v[i], alpha, not clip) for i in range(3)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(expected, other), "the clip should matter"


@pytest.mark.parametrize("make", [sixt_alpha_beta, sixt_composite])
@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_many_starts_at_once_are_each_on_its_own(make: Any, alpha: float) -> None:
    places = ["input", "stem", "blocks.1"]
    net, x, v = network(), samples(), starts(6, 2, 4)
    together = maps(make(alpha), net, x, v, places)
    for i in range(6):
        alone = maps(make(alpha), net, x, v[i], places)
        for place in places:
            torch.testing.assert_close(together[place][i], alone[place], rtol=1e-10, atol=1e-10)


def test_without_sums_a_clip_changes_nothing() -> None:
    net = network().stem
    clipped, plain = (
        maps(sixt_alpha_beta(5.0, clip), net, samples(), starts(2, 7), ["input"]) for clip in (True, False)
    )
    assert torch.equal(clipped["input"], plain["input"])


def test_the_relevance_that_enters_a_sum_is_cut_at_its_bounds() -> None:
    net, x = network(blocks=1), samples()
    v = 1e5 * starts(2, 4)
    for bounds, low, high in ((True, 0.0, 1000.0), ((-7.0, 8.0), -7.0, 8.0)):
        # What the branch's last layer receives is what the sum hands down.
        branch = maps(sixt_alpha_beta(5.0, bounds), net, x, v, ["blocks.0.second"])["blocks.0.second"]
        assert float(branch.min()) == low
        assert float(branch.max()) == high
    raw = maps(sixt_alpha_beta(5.0, False), net, x, v, ["blocks.0.second"])["blocks.0.second"]
    assert raw.min() < -1000
    assert raw.max() > 1000


def test_resnet50_has_sixteen_sums_and_the_clip_makes_none_negative() -> None:
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    net = resnet50(calibrate=x)
    blocks = [f"layer{i}.{j}.bn3" for i, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(n)]
    v = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    found = maps(sixt_alpha_beta(2.0), net, x[:1], v, blocks)
    assert len(found) == 16
    assert min(float(R.min()) for R in found.values()) == 0.0
    assert max(float(R.max()) for R in found.values()) <= 1000.0
    raw = maps(sixt_alpha_beta(2.0, clip=False), net, x[:1], v, blocks)
    assert all(float(R.min()) < 0 for R in raw.values())


# The presets


def test_the_presets_clip_where_the_papers_code_does() -> None:
    for make in (sixt_alpha_beta, sixt_composite):
        clipped, plain, other = make(5.0), make(5.0, clip=False), make(5.0, clip=(-1.0, 2.0))
        assert clipped.rule_for("sum") == Clipped(AlphaBeta(5.0, bias="included"), 0.0, 1000.0)
        assert other.rule_for("sum") == Clipped(AlphaBeta(5.0, bias="included"), -1.0, 2.0)
        assert plain.rule_for("sum") == AlphaBeta(5.0, bias="included")
        for kind in ("linear", "convolution", "batch_norm", "average_pool"):
            assert clipped.rule_for(kind) == plain.rule_for(kind) == other.rule_for(kind)
        assert clipped.batch_norm == plain.batch_norm == "affine"
        assert clipped.name != plain.name
    assert sixt_alpha_beta(2.0).rule_for("linear") == AlphaBeta(2.0, bias="included")
    assert sixt_composite(2.0).rule_for("linear") == Epsilon(1e-10)


# What clipping does to the cosine of two signals


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.318, 0.7, 0.99])
def test_the_cosine_of_rectified_gaussians(rho: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400_000, generator=generator, dtype=torch.float64)
    b = rho * a + math.sqrt(1 - rho**2) * b
    measured = torch.nn.functional.cosine_similarity(a.clamp(min=0), b.clamp(min=0), dim=0)
    assert float(measured) == pytest.approx(rectified_cosine(rho), abs=5e-3)


@given(st.floats(-1, 1))
def test_it_brings_every_pair_closer(rho: float) -> None:
    assert -1e-12 <= rectified_cosine(rho) <= 1 + 1e-12
    assert rectified_cosine(rho) >= rho - 1e-9


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipped(AlphaBeta, 1.0, 0.0), "low is 1 and high is 0; allowed is low <= high."),
        (lambda: Clipped(ZPlus(), math.nan), "low is nan; allowed is a number, or an infinite one."),
        (lambda: Clipped(ZPlus(), 0.0, True), "high is True; allowed is a number"),
        (lambda: Clipped(ZPlus(), "0"), "low is '0'; allowed is a number"),
        (lambda: Clipped(None), "rule is None; allowed are rules of relevance for affine layers."),
        (lambda: Clipped(GuidedBackprop()), "rule is GuidedBackprop(); allowed are rules of relevance"),
        (lambda: Clipped(Linear()), "rule is Linear(); allowed are rules of relevance"),
        (lambda: rectified_cosine(1.5), "cosine is 1.5; allowed is a number from -1 to 1."),
    ],
)
def test_bad_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"allowed") as refused:
        make()
    assert str(refused.value).startswith(message)
