"""Every relevance rule against its formula, on the dense matrix of every kind of affine layer.

A layer's matrix is its Jacobian, row by row, and a formula is stated for one unit z = w · a + b, in NumPy. Neither
knows how modbp applies a layer or its transpose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modbp.backward import Trace
from modbp.composite import Composite
from modbp.rules import (
    AlphaBeta,
    Contrast,
    Epsilon,
    Flat,
    Gamma,
    PatternAttribution,
    PatternNet,
    Transposed,
    WSquare,
    ZBox,
    ZPlus,
)

BATCH = 2
LOW, HIGH = -1.5, 2.0

# Formulas: how one unit z = w · a + b hands on a relevance of one. `low` and `high` bound a.

Unit = tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]
"""w, a, b, low, high."""
Formula = Callable[..., np.ndarray]


def pos(v: Any) -> Any:
    return np.maximum(v, 0)


def neg(v: Any) -> Any:
    return np.minimum(v, 0)


def in_proportion(c: np.ndarray, bias: float = 0.0) -> np.ndarray:
    total = c.sum() + bias
    return c / total if total != 0 else np.zeros_like(c)


def part_of(bias: str, b: float, part: Callable[[Any], Any]) -> float:
    return {"excluded": 0.0, "included": b, "split": float(part(b))}[bias]


def z_rule(w: np.ndarray, a: np.ndarray, b: float, *_: Any, epsilon: float, bias: str) -> np.ndarray:
    z = (w * a).sum() + part_of(bias, b, float)
    return in_proportion(w * a, z - (w * a).sum() + (epsilon if z >= 0 else -epsilon))


def gamma_rule(w: np.ndarray, a: np.ndarray, b: float, *_: Any, gamma: float, bias: str) -> np.ndarray:
    c = w * a
    z = c.sum() + (0 if bias == "excluded" else b)
    if z == 0:
        return np.zeros_like(c)
    favored = pos if z > 0 else neg
    shift = {"excluded": 0.0, "included": b, "split": b + gamma * favored(b)}[bias]
    return in_proportion(c + gamma * favored(c), shift)


def alpha_beta(w: np.ndarray, a: np.ndarray, b: float, *_: Any, alpha: float, beta: float, bias: str) -> np.ndarray:
    shares = [in_proportion(part(w * a), part_of(bias, b, part)) for part in (pos, neg)]
    return alpha * shares[0] - beta * shares[1]


def w_square(w: np.ndarray, a: np.ndarray, b: float, *_: Any, bias: str) -> np.ndarray:
    return in_proportion(w**2, part_of(bias, b**2, float))


def flat(w: np.ndarray, a: np.ndarray, b: float, *_: Any, bias: str) -> np.ndarray:
    return in_proportion((w != 0).astype(float), part_of(bias, float(b != 0), float))


def z_box(w: np.ndarray, a: np.ndarray, b: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return in_proportion(w * a - pos(w) * low - neg(w) * high)


def transposed(w: np.ndarray, *_: Any) -> np.ndarray:
    return w


ALL_BIASES, TWO_BIASES = ("excluded", "included", "split"), ("excluded", "included")

RULES: dict[str, tuple[Any, Formula]] = {
    **{
        f"epsilon {e:g}, bias {bias}": (Epsilon(e, bias), partial(z_rule, epsilon=e, bias=bias))
        for e in (0.0, 0.3)
        for bias in TWO_BIASES
    },
    **{
        f"gamma {g:g}, bias {bias}": (Gamma(g, bias), partial(gamma_rule, gamma=g, bias=bias))
        for g in (0.25, 3.0)
        for bias in ALL_BIASES
    },
    **{
        f"alpha {n:g}, beta {n - 1:g}, bias {bias}": (
            AlphaBeta(n, n - 1, bias),
            partial(alpha_beta, alpha=n, beta=n - 1, bias=bias),
        )
        for n in (1.0, 2.0, 5.0)
        for bias in ALL_BIASES
    },
    **{f"z+, bias {bias}": (ZPlus(bias=bias), partial(alpha_beta, alpha=1, beta=0, bias=bias)) for bias in ALL_BIASES},
    **{f"w², bias {bias}": (WSquare(bias), partial(w_square, bias=bias)) for bias in TWO_BIASES},
    **{f"flat, bias {bias}": (Flat(bias), partial(flat, bias=bias)) for bias in TWO_BIASES},
    "contrast": (Contrast(), partial(alpha_beta, alpha=1, beta=1, bias="excluded")),
    "transposed": (Transposed(), transposed),
    "zB": (ZBox(LOW, HIGH), z_box),
}


# Layers: each is affine in its inputs, whatever PyTorch calls it.


class Call(nn.Module):
    """A function of the inputs, perhaps of a matrix M and a vector v."""

    def __init__(self, function: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.parameters_ = nn.ParameterList([torch.empty(shape), torch.empty(shape[-1])] if shape else [])

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, *self.parameters_)


@dataclass(frozen=True)
class Layer:
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def pattern_layer(module: nn.Module) -> nn.Module:
        """The layer whose weights a pattern replaces."""
        return module[0] if isinstance(module, nn.Sequential) else module


def merged(layer: Callable[[], nn.Module], norm: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(layer(), norm())


def of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return partial(function, *args, **kwargs)


LINEAR: dict[str, Layer] = {
    "linear": Layer(of(nn.Linear, 5, 4), ((5,),)),
    "linear without bias": Layer(of(nn.Linear, 5, 4, bias=False), ((5,),)),
    "linear of tokens": Layer(of(nn.Linear, 5, 4), ((3, 5),)),
    "conv1d": Layer(of(nn.Conv1d, 2, 3, 3, stride=2, padding=1), ((2, 7),)),
    "conv1d same, even kernel": Layer(of(nn.Conv1d, 2, 3, 4, padding="same"), ((2, 6),)),
    "conv1d circular": Layer(of(nn.Conv1d, 2, 2, 3, padding=1, padding_mode="circular"), ((2, 5),)),
    "conv2d": Layer(of(nn.Conv2d, 2, 3, 3, padding=1), ((2, 4, 4),)),
    "conv2d without bias": Layer(of(nn.Conv2d, 2, 3, 3, padding="valid", bias=False), ((2, 4, 5),)),
    "conv2d strided, dilated": Layer(of(nn.Conv2d, 2, 2, (3, 2), (2, 1), (2, 1), (1, 2)), ((2, 5, 4),)),
    "conv2d in groups": Layer(of(nn.Conv2d, 4, 6, 3, stride=2, padding=1, groups=2), ((4, 4, 4),)),
    "conv2d depthwise": Layer(of(nn.Conv2d, 3, 3, 3, padding="same", groups=3), ((3, 4, 4),)),
    "conv2d same, even kernel": Layer(of(nn.Conv2d, 2, 2, (2, 4), padding="same", dilation=(1, 3)), ((2, 4, 4),)),
    "conv3d": Layer(of(nn.Conv3d, 2, 2, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)), ((2, 3, 4, 3),)),
    "transposed conv1d": Layer(of(nn.ConvTranspose1d, 2, 3, 3, stride=2, output_padding=1), ((2, 4),)),
    "transposed conv2d in groups": Layer(
        of(nn.ConvTranspose2d, 4, 6, 3, stride=2, padding=1, output_padding=(1, 0), groups=2, dilation=(1, 2)),
        ((4, 3, 3),),
    ),
    "transposed conv2d without bias": Layer(of(nn.ConvTranspose2d, 2, 2, 2, bias=False), ((2, 3, 3),)),
    "linear, batch norm": Layer(merged(of(nn.Linear, 5, 4), of(nn.BatchNorm1d, 4)), ((5,),)),
    "linear without bias, plain batch norm": Layer(
        merged(of(nn.Linear, 5, 4, bias=False), of(nn.BatchNorm1d, 4, affine=False)), ((5,),)
    ),
    "conv1d, batch norm": Layer(merged(of(nn.Conv1d, 2, 3, 3), of(nn.BatchNorm1d, 3)), ((2, 6),)),
    "grouped conv2d, batch norm": Layer(
        merged(of(nn.Conv2d, 4, 6, 3, padding=1, groups=2), of(nn.BatchNorm2d, 6)), ((4, 3, 3),)
    ),
    "transposed conv2d in groups, batch norm": Layer(
        merged(of(nn.ConvTranspose2d, 4, 6, 2, stride=2, groups=2, bias=False), of(nn.BatchNorm2d, 6)), ((4, 2, 2),)
    ),
}
OTHERS: dict[str, Layer] = {
    "matmul": Layer(of(Call, lambda x, M, v: x @ M, 5, 4), ((5,),)),
    "matmul of tokens": Layer(of(Call, lambda x, M, v: torch.matmul(x, M), 5, 4), ((3, 5),)),
    "mm": Layer(of(Call, lambda x, M, v: x.mm(M), 5, 4), ((5,),)),
    "addmm": Layer(of(Call, lambda x, M, v: torch.addmm(v, x, M), 5, 4), ((5,),)),
    "batch norm 1d": Layer(of(nn.BatchNorm1d, 5), ((5,),)),
    "batch norm 1d of a sequence": Layer(of(nn.BatchNorm1d, 3), ((3, 4),)),
    "batch norm 2d": Layer(of(nn.BatchNorm2d, 3), ((3, 2, 3),)),
    "plain batch norm 2d": Layer(of(nn.BatchNorm2d, 3, affine=False), ((3, 2, 3),)),
    "average pool 1d": Layer(of(nn.AvgPool1d, 3, 2), ((2, 7),)),
    "average pool, padding counted": Layer(of(nn.AvgPool2d, 3, 2, padding=1), ((2, 5, 4),)),
    "average pool, padding not counted": Layer(
        of(nn.AvgPool2d, 3, 2, padding=1, count_include_pad=False), ((2, 5, 4),)
    ),
    "average pool, ceil mode": Layer(of(nn.AvgPool2d, 3, 2, ceil_mode=True), ((2, 6, 4),)),
    "average pool, divisor": Layer(of(nn.AvgPool2d, 2, 1, divisor_override=3), ((1, 4, 3),)),
    "average pool 3d": Layer(of(nn.AvgPool3d, 2), ((1, 4, 2, 2),)),
    "adaptive average pool": Layer(of(nn.AdaptiveAvgPool2d, (2, 3)), ((2, 5, 7),)),
    "adaptive average pool 1d": Layer(of(nn.AdaptiveAvgPool1d, 3), ((2, 5),)),
    "mean over two dimensions": Layer(of(Call, lambda x: x.mean((2, 3))), ((2, 3, 3),)),
    "mean over one dimension": Layer(of(Call, lambda x: torch.mean(x, dim=-1, keepdim=True)), ((2, 5),)),
    "sum over one dimension": Layer(of(Call, lambda x: x.sum(1)), ((2, 5),)),
    "sum of two": Layer(of(Call, lambda x, y: x + y), ((2, 3), (2, 3))),
    "sum of two, one scaled": Layer(of(Call, lambda x, y: torch.add(x, y, alpha=2)), ((4,), (4,))),
    "difference": Layer(of(Call, lambda x, y: x - y), ((2, 3), (2, 3))),
    "reversed difference": Layer(of(Call, lambda x, y: torch.rsub(x, y)), ((4,), (4,))),
    "sum that broadcasts": Layer(of(Call, lambda x, y: x.add(y)), ((2, 3, 4), (2, 1, 1))),
    "difference that broadcasts": Layer(of(Call, lambda x, y: torch.sub(x, y)), ((2, 1, 3), (1, 4, 1))),
}
LAYERS = LINEAR | OTHERS


def module_of(name: str) -> nn.Module:
    """The layer with all its numbers random, those of a batch norm too."""
    torch.manual_seed(sum(map(ord, name)))
    module = LAYERS[name].make().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        for key, buffer in module.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_()
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return module


def inputs_of(name: str, *, signed: bool) -> tuple[Tensor, ...]:
    torch.manual_seed(len(name) + 1)
    uniform = [torch.rand(BATCH, *shape, dtype=torch.float64) for shape in LAYERS[name].shapes]
    return tuple(2 * u - 1 if signed else u.where(u > 0.2, 0) for u in uniform)


def flattened(tensors: Any) -> np.ndarray:
    """One row per sample, all inputs side by side."""
    tensors = tensors if isinstance(tensors, tuple) else (tensors,)
    return torch.cat([t.reshape(len(t), -1) for t in tensors], dim=1).detach().numpy()


def matrix_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[np.ndarray, np.ndarray]:
    """W and b of z = W a + b, over all inputs side by side, for one sample."""
    zeros = tuple(torch.zeros_like(x[:1]) for x in inputs)
    z = module(*zeros)
    jacobians = torch.autograd.functional.jacobian(module, zeros)
    W = torch.cat([j.reshape(z.numel(), -1) for j in jacobians], dim=1)
    return W.numpy(), z.detach().reshape(-1).numpy()


@cache
def dense(name: str) -> tuple[np.ndarray, np.ndarray]:
    return matrix_of(module_of(name), inputs_of(name, signed=True))


def by_formula(
    formula: Formula, W: np.ndarray, b: np.ndarray, a: np.ndarray, R: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Σ_k R_k · formula(unit k), for each sample."""
    return np.stack(
        [
            sum(r * formula(w, sample, shift, lo, hi) for w, shift, r in zip(W, b, start, strict=True))
            for sample, start, lo, hi in zip(a, R, low, high, strict=True)
        ]
    )


def by_engine(module: nn.Module, inputs: tuple[Tensor, ...], rule: Any, **options: Any) -> tuple[Any, np.ndarray]:
    """The relevance of the inputs from a random start, and that start."""
    trace = Trace(module, inputs, Composite("alone", {"affine": rule}, **options))
    torch.manual_seed(7)
    start = torch.randn_like(trace.output)
    return flattened(trace.relevance(start=start)["input"]), flattened(start)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(expected).all()
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_rule_is_its_formula(rule: str, layer: str) -> None:
    ours, formula = RULES[rule]
    module, (W, b) = module_of(layer), dense(layer)
    for signed in (True, False):
        inputs = inputs_of(layer, signed=signed)
        found, R = by_engine(module, inputs, ours)
        a = flattened(inputs)
        assert_close(found, by_formula(formula, W, b, a, R, np.full_like(a, LOW), np.full_like(a, HIGH)))


@pytest.mark.parametrize("layer", LINEAR)
@pytest.mark.parametrize("box", ["per channel", "per sample"])
def test_zb_takes_bounds_per_channel_and_else_each_samples_own(box: str, layer: str) -> None:
    module, (W, b), inputs = module_of(layer), dense(layer), inputs_of(layer, signed=True)
    (x,), a = inputs, flattened(inputs)
    if box == "per sample":
        rule, low, high = ZBox(), a.min(1, keepdims=True), a.max(1, keepdims=True)
    else:
        bounds = [v * (1 + torch.rand(x.shape[1], *[1] * (x.dim() - 2), dtype=torch.float64)) for v in (-1, 1)]
        rule, (low, high) = ZBox(*bounds), (flattened(bound.expand_as(x)) for bound in bounds)
    found, R = by_engine(module, inputs, rule)
    low, high = (np.broadcast_to(bound, a.shape) for bound in (low, high))
    assert_close(found, by_formula(z_box, W, b, a, R, low, high))


@pytest.mark.parametrize("layer", LINEAR)
def test_patterns_stand_in_for_the_weights_and_are_multiplied_with_them(layer: str) -> None:
    module, (W, _), inputs = module_of(layer), dense(layer), inputs_of(layer, signed=True)
    with_pattern = copy.deepcopy(LAYERS[layer].pattern_layer(module))
    with torch.no_grad():
        pattern = with_pattern.weight.normal_().clone()
    A, _ = matrix_of(with_pattern, inputs)
    for rule, matrix in ((PatternNet(pattern), A), (PatternAttribution(pattern), W * A)):
        found, R = by_engine(module, inputs, rule)
        assert_close(found, R @ matrix)


@pytest.mark.parametrize("layer", [name for name in LINEAR if "batch norm" in name])
@pytest.mark.parametrize("rule", ["epsilon 0.3, bias included", "gamma 3, bias split", "w², bias included"])
def test_an_unmerged_batch_norm_is_a_layer_of_its_own(rule: str, layer: str) -> None:
    ours, formula = RULES[rule]
    (below, norm), inputs = module_of(layer), inputs_of(layer, signed=True)
    found, R = by_engine(nn.Sequential(below, norm), inputs, ours, batch_norm="affine")
    middle = (below(*inputs).detach(),)
    for module, given in ((norm, middle), (below, inputs)):
        a = flattened(given)
        R = by_formula(formula, *matrix_of(module, given), a, R, a, a)
    assert_close(found, R)


@pytest.mark.parametrize("rule", ["epsilon 0, bias included", "gamma 0.25, bias split", "alpha 2, beta 1, bias split"])
def test_a_batch_norm_that_is_not_alone_behind_its_layer_is_not_merged(rule: str) -> None:
    """The sum has the convolution's output too, which no merged layer makes."""
    ours, formula = RULES[rule]
    conv, norm = module_of("conv2d"), module_of("batch norm 2d")
    x = inputs_of("conv2d", signed=True)
    z = (conv(*x).detach(),)
    terms = (norm(*z).detach(), *z)

    def model(v: Tensor) -> Tensor:
        shared = conv(v)
        return norm(shared) + shared

    def back(module: nn.Module, given: tuple[Tensor, ...], R: np.ndarray) -> np.ndarray:
        a = flattened(given)
        return by_formula(formula, *matrix_of(module, given), a, R, a, a)

    found, R = by_engine(Call(model), x, ours)
    of_norm, of_conv = np.split(back(Call(torch.add), terms, R), 2, axis=1)
    assert_close(found, back(conv, x, of_conv + back(norm, z, of_norm)))


@pytest.mark.parametrize("rule", ["epsilon 0, bias included", "w², bias included", "transposed"])
def test_a_batch_norm_over_tokens_is_not_merged_into_a_linear_layer_over_features(rule: str) -> None:
    """On (batch, tokens, features) the one acts along the tokens and the other along the features, equally many."""
    ours, formula = RULES[rule]
    norm, dense_layer = module_of("batch norm 1d of a sequence"), nn.Linear(5, 3).double()
    x = (torch.randn(BATCH, 3, 5, dtype=torch.float64),)
    found, R = by_engine(nn.Sequential(dense_layer, norm), x, ours)
    for module, given in ((norm, (dense_layer(*x).detach(),)), (dense_layer, x)):
        a = flattened(given)
        R = by_formula(formula, *matrix_of(module, given), a, R, a, a)
    assert_close(found, R)


def test_a_sum_of_nothing_drops_its_relevance() -> None:
    layer = nn.Linear(3, 2, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[2.0, 2.0, 0.0]], dtype=torch.float64)
    for name in (
        "epsilon 0, bias included",
        "gamma 0.25, bias split",
        "alpha 2, beta 1, bias split",
        "w², bias excluded",
    ):
        ours, formula = RULES[name]
        found, R = by_engine(layer, (x,), ours)
        W, a = layer.weight.detach().numpy(), x.numpy()
        np.testing.assert_allclose(found, by_formula(formula, W, np.zeros(2), a, R, a, a), atol=1e-15)
        assert F.linear(x, layer.weight)[0, 1] == 0
