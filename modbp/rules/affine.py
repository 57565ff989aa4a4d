r"""What a relevance rule sees of a layer: one affine map :math:`z = W a + b`, and how its output is made up.

A dense layer, a convolution, a batch norm in evaluation mode, an average pool and a sum are all of this form. A rule
never asks which: it forms *contributions* :math:`c_{kj} = w_{kj}\,a_j` of the inputs :math:`j` to an output :math:`k`,
perhaps of a part of the weights or of the inputs only, and hands the relevance :math:`R_k` back in proportion:

.. math:: R_j = \sum_k c_{kj}\,\frac{R_k}{\sum_i c_{ki}}.

:class:`AffineLayer` gives a rule the contributions; the subclasses of :class:`LinearMap` know how each kind of layer
applies :math:`W` and its transpose.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

Part = Callable[[Tensor], Tensor]
"""A function of single weights, such as their positive part: W stands for `whole(W)`, W⁺ for `positive(W)`."""


def whole(weight: Tensor) -> Tensor:
    """Return W itself.

    Examples
    --------
    >>> whole(torch.tensor([-1.0, 2.0]))
    tensor([-1.,  2.])
    """
    return weight


def positive(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return max(v, 0) of each entry, written to `out` if it is given.

    Examples
    --------
    >>> positive(torch.tensor([-1.0, 2.0])), negative(torch.tensor([-1.0, 2.0]))
    (tensor([0., 2.]), tensor([-1., 0.]))
    """
    return torch.clamp(values, min=0, out=out)


def negative(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return min(v, 0) of each entry, written to `out` if it is given.

    Examples
    --------
    >>> negative(torch.tensor([-1.0, 2.0]))
    tensor([-1.,  0.])
    """
    return torch.clamp(values, max=0, out=out)


class LinearMap:
    """The linear part of a layer: a ↦ W a, and its transpose s ↦ Wᵀ s.

    Parameters
    ----------
    weight : Tensor
        The weights in the layer's own layout.
    input_shape : torch.Size
        Shape of the input, (batch, ...).

    Examples
    --------
    >>> dense = Dense(torch.tensor([[3.0, -1.0]]), torch.Size((1, 2)))
    >>> dense.apply(torch.ones(1, 2)), dense.transpose(torch.ones(1, 1), positive)
    (tensor([[2.]]), tensor([[3., 0.]]))
    """

    def __init__(self, weight: Tensor, input_shape: torch.Size) -> None:
        self.weight, self.input_shape = weight, input_shape

    def apply(self, a: Tensor, part: Part = whole) -> Tensor:
        """Return part(W) a, of the output's shape."""
        raise NotImplementedError

    def transpose(self, s: Tensor, part: Part = whole) -> Tensor:
        """Return part(W)ᵀ s, of the input's shape."""
        raise NotImplementedError

    def weight_gradient(self, a: Tensor, s: Tensor) -> Tensor:
        """Return Σ s aᵀ over samples and positions, of the weight's shape: how W moves s · W a."""
        raise NotImplementedError

    def like_weight(self, values: Tensor) -> Tensor:
        """Return one value per output, broadcastable to the weight."""
        raise NotImplementedError

    def summed_per_output(self, values: Tensor) -> Tensor:
        """Return a tensor of the weight's shape summed over the inputs of each output."""
        raise NotImplementedError

    def scaled(self, scale: Tensor) -> LinearMap:
        """Return the map whose outputs are multiplied by `scale`, one factor per output channel."""
        return self.with_weight(self.weight * self.like_weight(scale))

    def with_weight(self, weight: Tensor) -> LinearMap:
        """Return the map of the same form that has other weights."""
        other = copy.copy(self)
        other.weight = weight
        return other


class Dense(LinearMap):
    """`torch.nn.functional.linear`: the last dimension, weights of shape (out, in).

    Examples
    --------
    >>> Dense(torch.tensor([[3.0, -1.0]]), torch.Size((1, 2))).apply(torch.ones(1, 2), negative)
    tensor([[-1.]])
    """

    # A dense layer at batch 1 is bound by reading its weights (411 MB in VGG16's first), and a clamped copy of them
    # would be written to memory and read again. A few rows at a time stay in the processor's cache.
    _ENTRIES_AT_A_TIME = 2**20

    def apply(self, a: Tensor, part: Part = whole) -> Tensor:
        """Return part(W) a."""
        if part is whole:
            return F.linear(a, self.weight)
        return torch.cat([F.linear(a, rows) for rows in self._rows(part)], dim=-1)

    def transpose(self, s: Tensor, part: Part = whole) -> Tensor:
        """Return part(W)ᵀ s."""
        if part is whole:
            return s @ self.weight
        rows = self._rows(part)
        first, *others = s.split(self._rows_at_a_time, dim=-1)
        total = first @ next(rows)
        for share in others:
            total = total.add_(share @ next(rows))
        return total

    @property
    def _rows_at_a_time(self) -> int:
        return max(1, self._ENTRIES_AT_A_TIME // self.weight.shape[1])

    def _rows(self, part: Part) -> Iterator[Tensor]:
        """Yield part(W) a few rows at a time, in the same memory each time where the part allows it."""
        chunks = self.weight.split(self._rows_at_a_time)
        buffer = torch.empty_like(chunks[0]) if part in (positive, negative) and len(chunks) > 1 else None
        for rows in chunks:
            yield part(rows) if buffer is None else part(rows, out=buffer[: len(rows)])  # type: ignore[call-arg]

    def weight_gradient(self, a: Tensor, s: Tensor) -> Tensor:
        """Return Σ s aᵀ over samples."""
        return s.reshape(-1, s.shape[-1]).T @ a.reshape(-1, a.shape[-1])

    def like_weight(self, values: Tensor) -> Tensor:
        """Return one value per row."""
        return values[:, None]

    def summed_per_output(self, values: Tensor) -> Tensor:
        """Return the sum of each row."""
        return values.sum(1)


@dataclass(frozen=True)
class Geometry:
    """Where a convolution's kernel goes: the arguments of `torch.convolution` behind the bias.

    Examples
    --------
    >>> Geometry((2,), (1,), (1,), False, (0,), 1).stride
    (2,)
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


class Convolution(LinearMap):
    """A convolution of one to three dimensions, or a transposed one, with any stride, dilation and groups.

    `pad`, as in `torch.nn.functional.pad`, comes before the padding of the geometry, which is equal on both sides.

    Examples
    --------
    >>> geometry = Geometry((1,), (0,), (1,), False, (0,), 1)
    >>> kernel = Convolution(torch.tensor([[[1.0, -2.0]]]), torch.Size((1, 1, 3)), geometry)
    >>> kernel.apply(torch.ones(1, 1, 3)), kernel.transpose(torch.ones(1, 1, 2), positive)
    (tensor([[[-1., -1.]]]), tensor([[[1., 1., 0.]]]))
    """

    def __init__(self, weight: Tensor, input_shape: torch.Size, geometry: Geometry, pad: Sequence[int] = ()) -> None:
        super().__init__(weight, input_shape)
        self.geometry, self._pad = geometry, tuple(pad)

    def _padded(self, a: Tensor) -> Tensor:
        return F.pad(a, self._pad) if self._pad else a

    def apply(self, a: Tensor, part: Part = whole) -> Tensor:
        """Return part(W) a."""
        g = self.geometry
        return torch.convolution(
            *(self._padded(a), part(self.weight), None, g.stride, g.padding, g.dilation, g.transposed),
            *(g.output_padding, g.groups),
        )

    def transpose(self, s: Tensor, part: Part = whole) -> Tensor:
        """Return part(W)ᵀ s."""
        g, shape = self.geometry, self.input_shape
        if self._pad:
            shape = self._padded(torch.empty(shape, device="meta")).shape
        shape_only = s.new_empty(shape)  # never read nor written; an expanded number would be copied to full size
        grads = torch.ops.aten.convolution_backward(
            *(s, shape_only, part(self.weight), None, g.stride, g.padding, g.dilation, g.transposed),
            *(g.output_padding, g.groups, [True, False, False]),
        )
        return F.pad(grads[0], [-side for side in self._pad]) if self._pad else grads[0]

    def weight_gradient(self, a: Tensor, s: Tensor) -> Tensor:
        """Return Σ s aᵀ over samples and positions."""
        g = self.geometry
        grads = torch.ops.aten.convolution_backward(
            *(s, self._padded(a), self.weight, None, g.stride, g.padding, g.dilation, g.transposed),
            *(g.output_padding, g.groups, [False, True, False]),
        )
        return grads[1]

    def like_weight(self, values: Tensor) -> Tensor:
        """Return one value per output channel."""
        ones = [1] * (self.weight.dim() - 2)
        if not self.geometry.transposed:
            return values.reshape(-1, 1, *ones)
        # A transposed convolution keeps its outputs in the second dimension, one group after another in the first.
        groups, (inputs, outputs) = self.geometry.groups, self.weight.shape[:2]
        return (
            values.reshape(groups, 1, outputs).expand(groups, inputs // groups, outputs).reshape(inputs, outputs, *ones)
        )

    def summed_per_output(self, values: Tensor) -> Tensor:
        """Return the sum over the kernel and its input channels."""
        if not self.geometry.transposed:
            return values.flatten(1).sum(1)
        return values.reshape(self.geometry.groups, -1, *values.shape[1:]).flatten(3).sum((1, 3)).flatten()


class Diagonal(LinearMap):
    """One weight per channel, as in a batch norm in evaluation mode; `weight` broadcasts against the input.

    Examples
    --------
    >>> Diagonal(torch.tensor([2.0, -1.0]), torch.Size((1, 2))).apply(torch.ones(1, 2))
    tensor([[ 2., -1.]])
    """

    def apply(self, a: Tensor, part: Part = whole) -> Tensor:
        """Return part(W) a."""
        return part(self.weight) * a

    def transpose(self, s: Tensor, part: Part = whole) -> Tensor:
        """Return part(W)ᵀ s."""
        return part(self.weight) * s


class AveragePool(LinearMap):
    """A mean over windows or dimensions. All weights of an output are equal, so one number stands for them.

    Parameters
    ----------
    pool : callable
        a ↦ W a, for the weights of the layer.

    Examples
    --------
    >>> mean = AveragePool(torch.ones(()), torch.Size((1, 4)), lambda a: a.mean(1))
    >>> mean.transpose(torch.ones(1))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, weight: Tensor, input_shape: torch.Size, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__(weight, input_shape)
        self._pool = pool

    def apply(self, a: Tensor, part: Part = whole) -> Tensor:
        """Return part(W) a, up to a factor that is the same for all inputs of an output."""
        return self._pool(a * part(self.weight))

    def transpose(self, s: Tensor, part: Part = whole) -> Tensor:
        """Return part(W)ᵀ s, up to the same factor."""
        with torch.enable_grad():
            a = self.weight.new_zeros(self.input_shape, requires_grad=True)
            z = self._pool(a)
        return torch.autograd.grad(z, a, s)[0] * part(self.weight)


class Sum(LinearMap):
    """A sum of tensors, stacked along a new first dimension: `weight` holds a factor for each, such as 1 and −1.

    Examples
    --------
    >>> difference = Sum(torch.tensor([1.0, -1.0]).reshape(2, 1, 1), torch.Size((2, 1, 3)))
    >>> difference.apply(torch.ones(2, 1, 3))
    tensor([[0., 0., 0.]])
    """

    def apply(self, a: Tensor, part: Part = whole) -> Tensor:
        """Return part(W) a."""
        return (part(self.weight) * a).sum(0)

    def transpose(self, s: Tensor, part: Part = whole) -> Tensor:
        """Return part(W)ᵀ s."""
        return part(self.weight) * s


def divide(relevance: Tensor, total: Tensor) -> Tensor:
    """Return R / z, and zero where z is zero: what nothing contributed to has nothing to hand its relevance to.

    Examples
    --------
    >>> divide(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]))
    tensor([0.5000, 0.0000])
    """
    return _over(relevance, total.masked_fill(total == 0, math.inf))


def divide_by_sum(relevance: Tensor, total: Tensor, sign: Part) -> Tensor:
    """Return R / z as `divide` does, for sums of contributions that all have one sign; z is overwritten.

    Examples
    --------
    >>> divide_by_sum(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0]), negative)
    tensor([-0.5000, -0.0000])
    """
    # A comparison that makes a mask takes several times as long as a threshold, which makes none.
    if sign is positive:
        return _over(relevance, torch.threshold_(total, 0, math.inf))
    return _over(relevance, torch.threshold_(total.neg_(), 0, math.inf).neg_())


def divide_away_from_zero(relevance: Tensor, total: Tensor, epsilon: float) -> Tensor:
    """Return R / (z + ε sign(z)), with sign(0) = +1.

    Examples
    --------
    >>> divide_away_from_zero(torch.tensor([1.0, 1.0]), torch.tensor([1.5, -1.5]), 0.5)
    tensor([ 0.5000, -0.5000])
    """
    return _over(relevance, torch.copysign(total.new_tensor(epsilon), total).add_(total))


def _over(relevance: Tensor, total: Tensor) -> Tensor:
    """Return R / z, in the memory of z where that can be: a new large tensor takes longer than the division."""
    alike = relevance.shape == total.shape and relevance.dtype == total.dtype
    recorded = torch.is_grad_enabled() and (relevance.requires_grad or total.requires_grad)
    if not alike or recorded or many_starts(relevance):
        return relevance / total
    return torch.div(relevance, total, out=total)


def many_starts(relevance: Tensor) -> bool:
    """Return whether several starts go back together, so that no single truth can be told of the values.

    Examples
    --------
    >>> many_starts(torch.ones(2))
    False
    """
    return torch._C._functorch.is_legacy_batchedtensor(relevance)


def all_starts(relevance: Tensor) -> Tensor:
    """Return the relevance of all starts that go back together as one plain tensor, of which a truth can be told.

    Examples
    --------
    >>> all_starts(torch.ones(2))
    tensor([1., 1.])
    """
    if not many_starts(relevance):
        return relevance
    level = torch._C._vmapmode_increment_nesting() - 1  # the only way to ask how deep it is
    torch._C._vmapmode_decrement_nesting()
    return torch._remove_batch_dim(relevance, level, 1, 0)


class Contributions:
    """A way to make up a layer's output: terms of an input part and a weight part, c = Σ part(W) · a.

    Parameters
    ----------
    linear : LinearMap
    terms : sequence of (Tensor, callable)
        Input parts, broadcastable to the shape of the input, each with the part of the weights that it meets.

    Examples
    --------
    >>> dense = Dense(torch.tensor([[3.0, -1.0]]), torch.Size((1, 2)))
    >>> Contributions(dense, [(torch.ones(1, 2), whole)]).total
    tensor([[2.]])
    """

    def __init__(self, linear: LinearMap, terms: Sequence[tuple[Tensor, Part]]) -> None:
        self._linear, self._terms = linear, terms

    @cached_property
    def total(self) -> Tensor:
        """The contributions to each output added up, of the output's shape."""
        first, *others = (self._linear.apply(a, part) for a, part in self._terms)
        return sum(others, start=first)

    def share(self, s: Tensor) -> Tensor:
        """Return for each input j the sum over outputs k of c_kj · s_k; s = R / total redistributes R."""
        shares = [self._linear.transpose(s, part).mul_(a) for a, part in self._terms]
        total = shares[0]
        for other in shares[1:]:
            total = total.add_(other)
        return total


class AffineLayer:
    """One call of a layer, z = W a + b, as its rule sees it.

    Parameters
    ----------
    linear : LinearMap
    input : Tensor, shape (batch, ...)
        a.
    output : Tensor, shape (batch, ...), optional
        z, the bias included; computed when a rule asks for it and it was not given.
    bias : Tensor, optional
        b, broadcastable to the output.
    nonnegative : bool, default False
        Whether a is known to have no negative entry, as behind a ReLU. Else a rule for which it matters has to look.

    Examples
    --------
    >>> a, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    >>> layer = AffineLayer(Dense(W, a.shape), a, F.linear(a, W))
    >>> layer.contributions().total, layer.positive_contributions().total, layer.negative_contributions().total
    (tensor([[1.]]), tensor([[3.]]), tensor([[-2.]]))
    >>> layer.contributions().share(torch.tensor([[1.0]]))
    tensor([[ 3., -2.]])
    """

    def __init__(
        self,
        linear: LinearMap,
        input: Tensor,
        output: Tensor | None = None,
        bias: Tensor | None = None,
        nonnegative: bool = False,
    ) -> None:
        self.linear, self.input, self.bias, self._known_nonnegative = linear, input, bias, nonnegative
        if output is not None:
            self.output = output

    @cached_property
    def output(self) -> Tensor:
        """Return z = W a + b."""
        return self.with_bias(self.linear.apply(self.input))

    @cached_property
    def nonnegative(self) -> bool:
        """Whether a has no negative entry; the terms with its negative part then vanish."""
        return self._known_nonnegative or not bool(self.input.min() < 0)

    def with_bias(self, total: Tensor, part: Part = whole) -> Tensor:
        """Return total + part(b)."""
        return total if self.bias is None else total + part(self.bias)

    def add_bias_(self, total: Tensor, part: Part = whole) -> Tensor:
        """Return total + part(b), written to the memory of the total."""
        return total if self.bias is None else total.add_(part(self.bias))

    @property
    def output_without_bias(self) -> Tensor:
        """W a."""
        return self.output if self.bias is None else self.output - self.bias

    def contributions(self, *terms: tuple[Tensor, Part]) -> Contributions:
        """Return contributions made of the given terms; by default all of them, w · a."""
        return Contributions(self.linear, terms or [(self.input, whole)])

    def signed_contributions(self, with_positive: Part, with_negative: Part) -> Contributions:
        """Return part(W) a⁺ + part'(W) a⁻, for parts that differ by the sign of the input."""
        if self.nonnegative:
            return self.contributions((self.input, with_positive))
        return self.contributions((positive(self.input), with_positive), (negative(self.input), with_negative))

    def positive_contributions(self) -> Contributions:
        """Return the contributions (w a)⁺: W⁺a⁺ + W⁻a⁻."""
        return self.signed_contributions(positive, negative)

    def negative_contributions(self) -> Contributions:
        """Return the contributions (w a)⁻: W⁻a⁺ + W⁺a⁻."""
        return self.signed_contributions(negative, positive)
