"""Run a reference input beside a model's input, with DeepLIFT's rules as the backward pass of every operation."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves, tree_map_only

from modbp import operations as op
from modbp.composite import Composite
from modbp.errors import UnsupportedModelError
from modbp.rules.affine import AffineLayer, Diagonal
from modbp.rules.deeplift import Unit, max_pool_shares
from modbp.substitution import AffineCall, Facts, RelevanceSubstitution, facts_of, fitted

_ONE_AT_A_TIME = threading.Lock()
"""Forward-mode differentiation has one level for the whole process, which threads must not enter together."""


class _DifferenceAffine(torch.autograd.Function):
    """An affine operation on an input and its reference, whose backward pass moves multipliers.

    The gradient of the output is the positive multiplier, and that of the reference's output the negative one; with
    one chain the latter is never computed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(call: AffineCall, values: list[Tensor], *pairs: Tensor) -> tuple[Tensor, Tensor]:
        return values.pop(0), values.pop(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, _, *pairs = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*(pairs if ctx.call.keeps_output else []))
        ctx.shapes = [x.shape for x in pairs]

    @staticmethod
    def backward(ctx: Any, *multipliers: Any) -> tuple[Any, ...]:
        call: AffineCall = ctx.call
        if call.passes:
            return None, None, *multipliers
        delta = None
        if ctx.saved_tensors:
            inputs, references = _halves(ctx.saved_tensors)
            delta = _stacked(call, inputs) - _stacked(call, references)
        result = call.rule(multipliers, call.merged_map()[0], delta)
        if call.kind != "sum":
            return None, None, *result
        each = [r if r is None else r.unbind(0) for r in result]
        flat = [r for half in each for r in (half or [None] * (len(ctx.shapes) // 2))]
        return None, None, *(r if r is None else fitted(r, s) for r, s in zip(flat, ctx.shapes, strict=True))


class _DifferenceElementwise(torch.autograd.Function):
    """An elementwise function of an input and its reference: each multiplier gets a factor of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: list[Tensor], rule: Any, unit: Unit, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        return values.pop(0), values.pop(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, rule, unit, *_ = inputs
        ctx.set_materialize_grads(False)
        if rule.chains == 1:
            ctx.save_for_backward(rule.factors(unit)[0])
        else:  # the parts of a difference are known only once the model has run, since a batch norm may merge
            ctx.factors = functools.cache(lambda: rule.factors(unit))

    @staticmethod
    def backward(ctx: Any, *multipliers: Any) -> tuple[Any, ...]:
        factors = ctx.factors() if hasattr(ctx, "factors") else ctx.saved_tensors * 2
        moved = (m if m is None else m * f for m, f in zip(multipliers, factors, strict=True))
        return None, None, None, *moved


class _DifferenceMaximum(torch.autograd.Function):
    """A maximum over windows of an input and its reference, whose backward pass shares multipliers out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        values: list[Tensor],
        routes: tuple[Callable, Callable],
        deltas: tuple[Tensor, Tensor, Tensor],
        x: Tensor,
        reference: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return values.pop(0), values.pop(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.routes, ctx.deltas, *_ = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *multipliers: Any) -> tuple[Any, ...]:
        route, route_former = ctx.routes

        def shared(m: Tensor) -> Tensor:
            to_winner, to_former = max_pool_shares(m, *ctx.deltas)
            return route(to_winner) + route_former(to_former)

        return None, None, None, *(m if m is None else shared(m) for m in multipliers)


def _halves(tensors: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    middle = len(tensors) // 2
    return tuple(tensors[:middle]), tuple(tensors[middle:])


def parts_of(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positive and the negative part of a tensor's difference from its reference.

    Parameters
    ----------
    tensor : Tensor
        Of a model that ran with a `DifferenceSubstitution`, and dependent on its input.

    Examples
    --------
    >>> from modbp.composite import deeplift_rescale
    >>> x = torch.tensor([[3.0, -1.0]], requires_grad=True)
    >>> DifferenceSubstitution(deeplift_rescale(), lambda: "", {}, (torch.zeros(1, 2),)).enter((x,))
    >>> parts_of(x)
    (tensor([[3., 0.]]), tensor([[ 0., -1.]]))
    """
    facts = facts_of(tensor)
    assert facts is not None
    assert facts.reference is not None
    if facts.parts is not None:
        return facts.parts()
    delta = (tensor - facts.reference).detach()
    return delta.clamp(min=0), delta.clamp(max=0)


def _part(side: int, tensor: Tensor) -> Tensor:
    """Return one part of a tensor's difference from its reference; what does not depend on the input has none."""
    if facts_of(tensor) is not None:
        return parts_of(tensor)[side]
    return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor


def _stacked(call: AffineCall, tensors: tuple[Tensor, ...]) -> Tensor:
    return tensors[0] if call.kind != "sum" else torch.stack(torch.broadcast_tensors(*tensors))


class DifferenceSubstitution(RelevanceSubstitution):
    """Runs a reference input beside the input, and calls every operation with DeepLIFT's rules as its backward pass.

    Each tensor that depends on the input has a twin, its value under the reference, which every operation computes
    along with it. Positive multipliers travel as the gradient of the tensor, negative ones as that of its twin.

    Parameters
    ----------
    composite, layer, owners, beside
        As in `Substitution`.
    references : tuple of Tensor
        One for each input, of its shape.

    Examples
    --------
    >>> from modbp.composite import deeplift_rescale
    >>> x = torch.tensor([[3.0]], requires_grad=True)
    >>> mode = DifferenceSubstitution(deeplift_rescale(), lambda: "", {}, (torch.tensor([[-1.0]]),))
    >>> mode.enter((x,))
    >>> with mode:
    ...     y = x.relu()
    >>> torch.autograd.grad(y, x, torch.ones(1, 1))[0]  # the ReLU rises by 3 while its input rises by 4
    tensor([[0.7500]])
    """

    def __init__(
        self,
        composite: Composite,
        layer: Callable[[], str],
        owners: Mapping[int, list[str]],
        references: tuple[Tensor, ...],
        beside: Sequence[Composite] = (),
    ) -> None:
        super().__init__(composite, layer, owners, beside)
        self._references = references

    def enter(self, inputs: tuple[Tensor, ...]) -> None:
        """Mark the model's inputs, and give each its reference."""
        super().enter(inputs)
        for x, reference in zip(inputs, self._references, strict=True):
            self._pair(x, Facts(raw=True), reference.requires_grad_())

    def _pair(self, result: Tensor, facts: Facts, reference: Tensor, parts: Any = None) -> Tensor:
        facts.reference, facts.parts = reference, parts
        return self.note(result, facts)

    def _twin(self, value: Any) -> Any:
        """Return `value` with each tensor that depends on the input replaced by its reference."""
        return tree_map_only(Tensor, lambda t: f.reference if (f := facts_of(t)) is not None else t, value)

    def _both(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """Run an operation on the input and on the reference."""
        with torch.no_grad():
            return [func(*args, **kwargs), func(*self._twin(args), **self._twin(kwargs))]

    def reference_of(self, tensor: Tensor) -> Tensor:
        """Return a tensor's value under the reference input."""
        facts = facts_of(tensor)
        assert facts is not None
        assert facts.reference is not None
        return facts.reference

    def operate(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation with its rule, or refuse it."""
        if op.elementwise(func) and self.depends(op.argument(args, kwargs, 0, "input")):
            known = [facts_of(leaf) for leaf in tree_leaves((args, kwargs)) if self.depends(leaf)]
            if len(known) == 1:
                return self.counted(known, self.activation, func, args, kwargs, known)  # type: ignore[arg-type]
        return super().operate(func, args, kwargs)

    def activation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run an elementwise function with the rule for nonlinearities."""
        self.check_gradients()
        x = op.argument(args, kwargs, 0, "input")
        others, named = args[1:], {k: v for k, v in kwargs.items() if k != "input"}
        reference = known[0].reference
        assert reference is not None
        rule = self.composite.rule_for("relu")
        if rule is None or not hasattr(rule, "factors"):
            raise UnsupportedModelError(
                f"{self.composite.name} has no rule for {op.name_of(func)}, which {self.where()} calls; allowed is a"
                " composite with one of DeepLIFT's rules at 'relu'."
            )
        with torch.no_grad():
            a, base = x.detach(), reference.detach()
            values = [func(a, *others, **named), func(base, *others, **named)]
        # Of the outputs copies without a graph: a node that holds its own result is never let go of.
        y, below = (v.detach() for v in values)
        unit = Unit(lambda t: func(t, *others, **named), a, base, y, below, functools.partial(parts_of, x))
        result, twin = _DifferenceElementwise.apply(values, rule, unit, x, reference)
        # RevealCancel makes parts of its own, which a nonlinearity or a pool right behind it has to know.
        parts = functools.cache(lambda: rule.parts(unit)) if hasattr(rule, "parts") else None
        return self._pair(result, self.joined(known, nonnegative=False), twin, parts)

    def one_to_one(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run a shift or a scaling, as the affine layer that it is."""
        if func in op.DROPOUT:
            if not op.argument(args, kwargs, 2, "training", True):
                return op.argument(args, kwargs, 0, "input")
            raise UnsupportedModelError(
                f"{self.where()} drops units at random, which {self.composite.name} cannot compare with a reference;"
                " allowed is a model in evaluation mode: call model.eval()."
            )
        x = next(leaf for leaf in tree_leaves((args, kwargs)) if self.depends(leaf))
        weight = torch.as_tensor(op.factor(func, args, kwargs, self.depends), dtype=x.dtype, device=x.device).detach()
        shape = torch.broadcast_shapes(x.shape, weight.shape)
        if shape != x.shape:
            raise UnsupportedModelError(
                f"{self.where()} multiplies by a constant of a larger shape, for which {self.composite.name} has no"
                " rule; allowed are constants that broadcast to the other factor."
            )
        return self.affine(func, args, kwargs, op.Affine("scale", (x,), lambda: Diagonal(weight, shape)))

    def affine(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], affine: op.Affine) -> Any:
        """Run an affine operation on the input and on the reference."""
        self.check_gradients()
        known = [facts for x in affine.inputs if (facts := facts_of(x)) is not None]
        call = self.new_call(affine, known)
        call.keeps_output = self.composite.chains == 2  # here: whether the differences are kept
        references = tuple(self._twin(x) for x in affine.inputs)
        if func in op.LINEAR:  # its weights are most of the work, so they are read once
            with torch.no_grad():
                pair = torch.cat([affine.inputs[0], references[0]])
                args, kwargs = tree_map_only(Tensor, lambda t: pair if t is affine.inputs[0] else t, (args, kwargs))
                values = [half.clone() for half in func(*args, **kwargs).chunk(2)]
        else:
            values = self._both(func, args, kwargs)
        inputs = tuple(x.detach() for x in affine.inputs)
        bases = tuple(x.detach() for x in references)
        weakly = weakref.ref(call)  # it holds what follows, which must not hold it

        @functools.cache  # four products, and both RevealCancel's factors and a pool behind it ask for them
        def parts() -> tuple[Tensor, Tensor]:
            call = weakly()
            assert call is not None
            if call.passes and call.merged is not None and call.merged.parts is not None:
                return call.merged.parts()
            linear, _ = call.merged_map()
            delta = _stacked(call, inputs) - _stacked(call, bases)
            layer = AffineLayer(linear, delta)
            return layer.positive_contributions().total, layer.negative_contributions().total

        call.parts = parts if self.composite.chains == 2 else None
        result, twin = _DifferenceAffine.apply(call, values, *affine.inputs, *references)
        facts = self.joined(known, nonnegative=False)
        facts.producer = call
        if call.kind in ("linear", "convolution"):
            facts.raw, facts.sources = False, frozenset([call])
        return self._pair(result, facts, twin, call.parts)

    def max_pool(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run a maximum over windows on the input and on the reference."""
        self.check_gradients()
        x, others = op.argument(args, kwargs, 0, "input"), args[1:]
        named = {k: v for k, v in kwargs.items() if k != "input"}
        reference = known[0].reference
        assert reference is not None

        def run(at: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor], Any]:
            """Return the maxima, the other tensor's values where they are, the way back to there, and the result."""
            with _ONE_AT_A_TIME, torch.enable_grad(), forward_ad.dual_level():
                leaf = at.detach().requires_grad_()
                result = func(forward_ad.make_dual(leaf, other.detach()), *others, **named)
                first = result if isinstance(result, Tensor) else result[0]
                value, tangent = forward_ad.unpack_dual(first)
            return value, tangent.detach(), lambda s: torch.autograd.grad(value, leaf, s, retain_graph=True)[0], result

        y, below_there, route, whole = run(x, reference)
        below, above_there, route_former, _ = run(reference, x)
        y, below = y.detach(), below.detach()
        deltas = (y - below, y - below_there, above_there - below)
        result, twin = _DifferenceMaximum.apply([y, below], (route, route_former), deltas, x, reference)

        def parts() -> tuple[Tensor, Tensor]:
            """Return the parts of the winners' differences that the maximum takes over."""
            to_winner, to_former = max_pool_shares(torch.ones_like(deltas[0]), *deltas)
            plus, minus = (to_winner * run(x, part)[1] + to_former * run(reference, part)[1] for part in parts_of(x))
            return plus, minus

        moves = parts if hasattr(self.composite.rule_for("relu"), "parts") else None
        result = self._pair(result, self.joined(known, nonnegative=False), twin, moves)
        return result if isinstance(whole, Tensor) else type(whole)((result, *whole[1:]))

    def rearrangement(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run an operation that moves entries on the input and on the reference."""
        self.check_gradients()
        result = func(*args, **kwargs)
        if result is op.argument(args, kwargs, 0, "input"):
            return result
        twins = func(*self._twin(args), **self._twin(kwargs))

        def parts(i: int) -> Callable[[], tuple[Tensor, Tensor]] | None:
            if not any(f.parts is not None for f in known) or not _adds_nothing(func, args, kwargs):
                return None

            def moved() -> tuple[Tensor, Tensor]:
                halves = []
                for side in (0, 1):
                    half_args, half_kwargs = tree_map_only(Tensor, functools.partial(_part, side), (args, kwargs))
                    halves.append(tree_leaves(func(*half_args, **half_kwargs))[i])
                return halves[0], halves[1]

            return moved

        for i, (leaf, twin) in enumerate(zip(tree_leaves(result), tree_leaves(twins), strict=True)):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                self._pair(leaf, self.joined(known, nonnegative=False), twin, parts(i))
        return result


def _adds_nothing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return func is not nn.functional.pad or not op.argument(args, kwargs, 3, "value")
