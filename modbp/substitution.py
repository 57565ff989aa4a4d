"""Call every operation of a running model with a rule as its backward pass.

A `torch.overrides.TorchFunctionMode` sees each operation before it runs, from wherever the model calls it, and these
modes run it inside an autograd function whose backward is a rule. Nothing of the model is changed: no hook is left on
it and no weight is overwritten, and a functional, a reused or an in-place ReLU is caught like any other.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from modbp import operations as op
from modbp.composite import Composite
from modbp.errors import UnsupportedModelError
from modbp.rules import Pass
from modbp.rules.affine import AffineLayer, LinearMap

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function with its arguments."""


class _Turns:
    """Says which of several composites has its turn to go back through their one graph: one at a time."""

    def __init__(self, composites: int) -> None:
        self.number = 0
        self._alone: Any = threading.Lock() if composites > 1 else contextlib.nullcontext()

    @contextlib.contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Give the turn to a composite for as long as the context lasts."""
        with self._alone:
            self.number = number
            yield


class _Exchanged:
    """A rule that is another one for each of several composites."""

    def __init__(self, rules: Sequence[Any], turns: _Turns) -> None:
        self.rules, self.turns = rules, turns

    def __call__(self, *arguments: Any) -> Any:
        return self.rules[self.turns.number](*arguments)


def _ordinary(relevance: Tensor, activation: Tensor) -> Tensor:
    """Return R · 1[a > 0], the ordinary backward pass of a ReLU, by the function that autograd calls."""
    return torch.ops.aten.threshold_backward(relevance, activation, 0)


class _RuledReLU(torch.autograd.Function):
    """A ReLU whose backward pass is a rule; in place where it `writes`."""

    generate_vmap_rule = True  # many start vectors go back through one graph

    @staticmethod
    def forward(x: Tensor, rule: Any, writes: bool) -> Tensor:
        return x.relu_() if writes else x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.rule, writes = inputs
        if writes:
            ctx.mark_dirty(x)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        (activation,) = ctx.saved_tensors
        return ctx.rule(relevance, activation), None, None


class _Forked(torch.autograd.Function):
    """One value with two ways back; `value` holds it, and `ordinary` says which composites take the first way."""

    generate_vmap_rule = True

    @staticmethod
    def forward(turns: _Turns, ordinary: list[bool], value: list[Tensor], first: Tensor, second: Tensor) -> Tensor:
        return value.pop()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.turns, ctx.ordinary, *_ = inputs

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        taken = (relevance, None) if ctx.ordinary[ctx.turns.number] else (None, relevance)
        return None, None, None, *taken


class _Passed(torch.autograd.Function):
    """An operation that relevance passes as it is; `value` holds what the operation returned."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: list[Tensor]) -> Tensor:
        return value.pop()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return fitted(relevance, ctx.shape), None


class _RuledAffine(torch.autograd.Function):
    """An affine operation whose backward pass is a rule; `value` holds what the operation returned."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: AffineCall, value: list[Tensor], *inputs: Tensor) -> Tensor:
        return value.pop()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call, _, *tensors = inputs
        ctx.save_for_backward(*tensors, *([output] if ctx.call.keeps_output else []))

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        call: AffineCall = ctx.call
        saved = ctx.saved_tensors
        inputs, output = (saved[:-1], saved[-1]) if call.keeps_output else (saved, None)
        if call.passes:
            return None, None, relevance
        result = call.rule(relevance, call.layer(inputs, output))
        if call.kind != "sum":
            return None, None, result
        return None, None, *(fitted(r, x.shape) for r, x in zip(result.unbind(0), inputs, strict=True))


def fitted(relevance: Tensor, shape: torch.Size) -> Tensor:
    """Add up what came back for copies that broadcasting made.

    Examples
    --------
    >>> fitted(torch.ones(2, 3), torch.Size((1, 3)))
    tensor([[2., 2., 2.]])
    """
    return relevance if relevance.shape == shape else relevance.sum_to_size(shape)


@dataclass(eq=False)
class AffineCall:
    """One affine operation of a forward pass.

    Attributes
    ----------
    kind, name : str
        What it is, and the module that it belongs to.
    linear : callable
        Returns its `LinearMap`.
    bias : Tensor, optional
    nonnegative : bool
        Whether its input is known to have no negative entry.
    first, last : bool
        Whether it meets the input itself, or makes the output.
    keeps_output : bool
        Whether its rule may ask for the output.
    rule : rule
        Known once the forward pass has ended.
    norm : AffineCall, optional
        The batch norm that follows it and is to be merged into it.
    passes : bool
        Whether it is a batch norm that was merged.
    uses : int
        How many operations its output went into.
    rectified : bool
        Whether a ReLU follows.
    parts : callable, optional
        For DeepLIFT, returns the positive and the negative part of its output's difference from the reference.

    Examples
    --------
    >>> from modbp.rules.affine import Dense
    >>> weight = torch.tensor([[3.0, -1.0]])
    >>> call = AffineCall("linear", "head", lambda: Dense(weight, torch.Size((1, 2))), None)
    >>> call.layer((torch.ones(1, 2),), None).output
    tensor([[2.]])
    """

    kind: str
    name: str
    linear: Callable[[], LinearMap]
    bias: Tensor | None
    nonnegative: bool = False
    first: bool = False
    last: bool = False
    keeps_output: bool = True
    rule: Any = None
    norm: AffineCall | None = None
    passes: bool = False
    uses: int = 0
    rectified: bool = False
    parts: Callable[[], tuple[Tensor, Tensor]] | None = None
    _merged: Callable[[], AffineCall | None] = field(default=lambda: None, repr=False)

    @property
    def merged(self) -> AffineCall | None:
        """Of a batch norm, the layer that it is to be merged into."""
        return self._merged()

    @merged.setter
    def merged(self, layer: AffineCall) -> None:
        # Weak, or the two would keep each other, and what they hold, in memory. The layer's node is below this one's.
        self._merged = weakref.ref(layer)

    def layer(self, inputs: tuple[Tensor, ...], output: Tensor | None) -> AffineLayer:
        """Return what the rule sees of it, with the batch norm that was merged into it."""
        a = inputs[0] if self.kind != "sum" else torch.stack(torch.broadcast_tensors(*inputs))
        linear, bias = self.merged_map()
        if self.norm is not None and output is not None:
            scale, shift = self._norm()
            output = output * scale + shift
        return AffineLayer(linear, a, output, bias, self.nonnegative)

    def merged_map(self) -> tuple[LinearMap, Tensor | None]:
        """Return its weights and bias, with the batch norm that was merged into it."""
        if self.norm is None:
            return self.linear(), self.bias
        scale, shift = self._norm()
        return self.linear().scaled(scale.reshape(-1)), shift if self.bias is None else self.bias * scale + shift

    def _norm(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift of the merged batch norm, broadcastable to the output."""
        assert self.norm is not None
        assert self.norm.bias is not None
        scale, shift = self.norm.linear().weight, self.norm.bias
        return (scale, shift) if self.kind == "convolution" else (scale.reshape(-1), shift.reshape(-1))


@dataclass
class Facts:
    """What is known of a tensor that depends on the model's input.

    Attributes
    ----------
    nonnegative : bool
        It has no negative entry.
    raw : bool
        No linear layer or convolution lies between the input and it.
    sources : frozenset of AffineCall
        The linear layers and convolutions from which it comes with none in between.
    producer : AffineCall, optional
        The affine operation whose output it is.
    reference : Tensor, optional
        For DeepLIFT, its value under the reference input.
    parts : callable, optional
        For DeepLIFT, returns the positive and the negative part of its difference from the reference.

    Examples
    --------
    >>> Facts(nonnegative=True).raw
    False
    """

    nonnegative: bool = False
    raw: bool = False
    sources: frozenset[AffineCall] = field(default_factory=frozenset)
    producer: AffineCall | None = None
    reference: Tensor | None = None
    parts: Callable[[], tuple[Tensor, Tensor]] | None = None


_FACTS = "_modbp_facts"


def facts_of(value: Any) -> Facts | None:
    """Return what is known of a tensor, or None for what does not depend on the model's input.

    Examples
    --------
    >>> facts_of(torch.ones(2)) is None
    True
    """
    return getattr(value, _FACTS, None) if isinstance(value, Tensor) else None


class Substitution(TorchFunctionMode):
    """Calls every rectifier that a rule acts on with the rule as its backward pass.

    In-place operations become out-of-place ones, or they would overwrite what a rule has saved. The name that pointed
    at the overwritten tensor must then point at the new one, also where the model ignores what the operation returns
    (`x.relu_(); return x`): `follow` does that, for the arguments of every later operation and for the output. An
    in-place ReLU stays in place where it directly follows an operation that has not kept its result.

    Several composites of one family share the forward pass: each rule is then one that is exchanged, and `turns` says
    whose rules act. A message names the composite that it concerns.

    Parameters
    ----------
    composite : Composite
    layer : callable
        Returns the name of the module that is running, "" outside of any.
    owners : mapping from int to list of str
        For the `id` of each parameter the modules that own it.
    overwrites : bool, default False
        Let an in-place ReLU write where that is safe. No layer may be recorded then: its output could be overwritten.
    beside : sequence of Composite, default ()
        Others of the same family.

    Examples
    --------
    >>> from modbp.composite import guided_backprop
    >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
    >>> with Substitution(guided_backprop(), lambda: "", {}):
    ...     y = (-x).relu() - x.relu()
    >>> torch.autograd.grad(y.sum(), x)[0]  # at the second ReLU a negative signal arrives
    tensor([-1., 0.])
    """

    def __init__(
        self,
        composite: Composite,
        layer: Callable[[], str],
        owners: Mapping[int, list[str]],
        overwrites: bool = False,
        beside: Sequence[Composite] = (),
    ) -> None:
        super().__init__()
        self.composite, self.running, self.owners, self.overwrites = composite, layer, owners, overwrites
        self.composites = (composite, *beside)
        self.turns = _Turns(len(self.composites))
        self.hits = 0
        rules = [c.rule_for("relu") for c in self.composites]
        self._ordinary = [rule is None for rule in rules]  # whether it goes back through a ReLU as the gradient does
        self._ruling = next((c for c, rule in zip(self.composites, rules, strict=True) if rule is not None), None)
        self._relu_rule = self.exchanged([_ordinary if rule is None else rule for rule in rules])
        self._forked_rule = self.exchanged([Pass() if rule is None else rule for rule in rules])
        self._latest: Callable[[], Any] = lambda: None  # a weak reference to what the last operation returned
        # Weak, so that what the model has let go of does not stay in memory to the end of the forward pass.
        self._replaced = WeakTensorKeyDictionary()  # from the overwritten tensor to the new one
        self._viewed = WeakTensorKeyDictionary()  # the tensors whose memory others share

    def enter(self, inputs: tuple[Tensor, ...]) -> None:
        """Take note of the model's inputs."""

    def exchanged(self, rules: Sequence[Any]) -> Any:
        """Return the rule of the composite whose turn it is, from those of all: of one alone its own."""
        return rules[0] if len(rules) == 1 else _Exchanged(rules, self.turns)

    def finish(self, output: Tensor) -> None:
        """Refuse a model on which no rule has acted; called once the forward pass has ended."""
        for composite, ordinary in zip(self.composites, self._ordinary, strict=True):
            if composite.rules and (ordinary or not self.hits):
                raise UnsupportedModelError(
                    f"{composite.name} acts on ReLUs and none was seen while the model ran, so its map would be the"
                    " plain gradient; allowed are models in eager PyTorch that rectify with ReLU."
                )

    def follow(self, value: Any) -> Any:
        """Return `value` with each tensor that an in-place operation has overwritten replaced by its successor."""
        return tree_map_only(Tensor, self._successor, value) if self._replaced else value

    def _successor(self, tensor: Tensor) -> Tensor:
        while tensor in self._replaced:
            tensor = self._replaced[tensor]
        return tensor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = self._dispatched(func, args, kwargs)
        self._latest = weakref.ref(result) if isinstance(result, Tensor) else lambda: None
        return result

    def _dispatched(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        overwritten = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("input")
        args, kwargs = self.follow(args), self.follow(kwargs)
        call = op.out_of_place(func, args, kwargs)
        if call is not None and isinstance(overwritten, Tensor) and self.takes_over(*call):
            found = self._rectifier(*call) if self._may_overwrite(overwritten) else None
            if found == math.inf and not self._forks(call[0]):
                return self._ruled(overwritten, self._relu_rule, math.inf, writes=True)
            result = self.operate(*call)
            return self._written(overwritten, self.converted(result, overwritten.dtype))
        result = self.operate(func, args, kwargs)
        for leaf in tree_leaves(result):  # several, from chunk and split
            if isinstance(leaf, Tensor) and leaf._base is not None:
                self._viewed[leaf._base] = True
        return result

    def _may_overwrite(self, x: Tensor) -> bool:
        """Return whether nothing can have kept the value of `x` for the way back."""
        newest = self.overwrites and x is self._latest() and x._base is None and x not in self._viewed
        return newest and x.grad_fn is not None and x.grad_fn.name() in op.KEEP_NO_RESULT

    def converted(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the result in the type of the tensor that an in-place operation writes to."""
        return result.to(dtype)

    def takes_over(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether an in-place operation is to become an out-of-place one."""
        x = op.argument(args, kwargs, 0, "input")
        return x.requires_grad or self._rectifier(func, args, kwargs) is not None

    def operate(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, with a rule as its backward pass where there is one for it."""
        cap = self._rectifier(func, args, kwargs)
        if cap is None:
            return func(*args, **kwargs)
        x = op.argument(args, kwargs, 0, "input")
        if not self._forks(func):
            return self._ruled(x, self._relu_rule, cap)
        plain = func(*args, **kwargs)
        ruled = self._ruled(x, self._forked_rule, cap)
        return _Forked.apply(self.turns, self._ordinary, [plain.detach()], plain, ruled)

    def _forks(self, func: Callable[..., Any]) -> bool:
        """Return whether a gradient goes back through a rectifier by another way than the rules beside it.

        A ReLU has one way. Where the input of a clamp is a bound, what its gradient is depends on how it was written.
        """
        mixed = self._ruling is not None and any(self._ordinary)
        return mixed and func not in op.RELU and func not in op.THRESHOLD

    @staticmethod
    def _ruled(x: Tensor, rule: Any, cap: float, writes: bool = False) -> Tensor:
        """Return min(max(x, 0), cap): the rule acts on the ReLU, and the cap stays what it is."""
        result = _RuledReLU.apply(x, rule, writes)
        return result if cap == math.inf else result.clamp(max=cap)

    def _rectifier(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
        """Return the cap of a ReLU that has a rule, or None where the ordinary backward pass is right."""
        found = op.rectifier(func, args, kwargs) if self._ruling is not None else None
        if found is None or self._ruling is None:
            return None
        kind, cap = found
        if kind != "relu":
            raise UnsupportedModelError(
                f"{self._ruling.name} has a rule for ReLU and none for {op.name_of(func)}, which {self.where()}"
                " calls; allowed are models whose rectifiers are ReLUs or ReLU6s."
            )
        self.hits += 1
        self.check_gradients(self._ruling)
        return cap

    def check_gradients(self, composite: Composite | None = None) -> None:
        """Refuse an operation from which nothing can come back; `composite` is whom it concerns, if not all."""
        if not torch.is_grad_enabled():
            raise UnsupportedModelError(
                f"{self.where()} runs with gradients switched off (torch.no_grad, or reentrant checkpointing), so"
                f" no relevance can come back through it; {(composite or self.composite).name} needs them on."
            )

    def where(self) -> str:
        """Return what a message calls the place where the model is."""
        return f"layer {self.running()!r}" if self.running() else "the model"

    def _written(self, overwritten: Any, result: Tensor) -> Tensor:
        """Make `result` the value of the overwritten tensor, and return that value."""
        current = self._successor(overwritten)
        if result is current:  # what changes nothing may hand back its input
            return result
        if current._base is not None or current in self._viewed:
            # Other tensors share this memory and must see the change, so here the operation really writes.
            return self.write(current, result)
        self._replaced[current] = result
        return result

    def write(self, current: Tensor, result: Tensor) -> Tensor:
        """Write to memory that several tensors share."""
        return current.copy_(result)


class RelevanceSubstitution(Substitution):
    """Calls every affine operation with its rule as the backward pass, and refuses what no rule can treat.

    What is known of each tensor that depends on the input travels with it, as an attribute of the tensor: whether an
    operation is on the path from the input, whether its input is non-negative, which layers are the first and last.

    Examples
    --------
    >>> from modbp.composite import lrp_zplus
    >>> x, weight = torch.ones(1, 2, requires_grad=True), torch.tensor([[3.0, -1.0]])
    >>> mode = RelevanceSubstitution(lrp_zplus(), lambda: "", {})
    >>> mode.enter((x,))
    >>> with mode:
    ...     y = torch.nn.functional.linear(x, weight)
    >>> mode.finish(y)
    >>> torch.autograd.grad(y, x, torch.ones(1, 1))[0]
    tensor([[1., 0.]])
    """

    def __init__(
        self,
        composite: Composite,
        layer: Callable[[], str],
        owners: Mapping[int, list[str]],
        beside: Sequence[Composite] = (),
    ) -> None:
        super().__init__(composite, layer, owners, beside=beside)
        self.calls: list[AffineCall] = []
        self._leaves: set[int] = set()
        relu = composite.rule_for("relu")
        self._passes_activations = isinstance(relu, Pass)

    # What is known of tensors.

    def depends(self, value: Any) -> bool:
        """Return whether a value depends on the model's input."""
        return facts_of(value) is not None

    def note(self, result: Any, facts: Facts) -> Any:
        """Attach what is known to each tensor of a result, and return the result."""
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                setattr(leaf, _FACTS, replace(facts))
        return result

    def enter(self, inputs: tuple[Tensor, ...]) -> None:
        """Mark the model's inputs."""
        for x in inputs:
            self.note(x, Facts(raw=True))
            if x.grad_fn is not None:
                self._leaves.add(id(x.grad_fn))

    # Running an operation.

    def takes_over(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether an in-place operation is on the path from the input."""
        return any(map(self.depends, tree_leaves((args, kwargs))))

    def converted(self, result: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the result in another type, with what is known of it."""
        facts = facts_of(result)
        return result if result.dtype == dtype or facts is None else self.note(result.to(dtype), facts)

    def write(self, current: Tensor, result: Tensor) -> Tensor:
        """Refuse: what is known of the tensors that share this memory would no longer hold."""
        raise UnsupportedModelError(
            f"{self.where()} writes in place to memory that another tensor shares, which {self.composite.name} cannot"
            " follow; allowed are operations out of place, or in place on a tensor without views."
        )

    def operate(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation with its rule, or refuse it."""
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [facts for leaf in leaves if (facts := facts_of(leaf)) is not None]
        if not known:
            result = func(*args, **kwargs)
            self._check_origin(leaves)
            return result
        if op.preserves_zero(func, args, kwargs):
            return self.counted(known, self.activation, func, args, kwargs, known)
        affine = op.affine_map(func, args, kwargs, self.depends)
        if affine is not None:
            self._check_origin(leaves)
            return self.counted(known, self.affine, func, args, kwargs, affine)
        if op.shifts_or_scales(func, args, kwargs, self.depends) or func in op.DROPOUT:
            self._check_origin(leaves)
            return self.counted(known, self.one_to_one, func, args, kwargs, known)
        if op.is_max_pool(func, args, kwargs):
            return self.counted(known, self.max_pool, func, args, kwargs, known)
        if func in op.REARRANGEMENTS:
            self._check_origin(leaves)
            return self.counted(known, self.rearrangement, func, args, kwargs, known)
        if func in op.CUTS:
            return func(*args, **kwargs)
        return self.other(func, args, kwargs, known)

    def counted(self, known: list[Facts], handle: Callable[..., Any], *arguments: Any) -> Any:
        """Count one more use of the layers whose outputs an operation takes, and run it."""
        for facts in known:
            if facts.producer is not None:
                facts.producer.uses += 1
        return handle(*arguments)

    def activation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run an elementwise function that maps zero to zero."""
        found = op.rectifier(func, args, kwargs)
        rectified = found is not None and found[0] == "relu"
        if rectified and known[0].producer is not None:
            known[0].producer.rectified = True
            if known[0].producer.merged is not None:
                known[0].producer.merged.rectified = True
        facts = self.joined(known, nonnegative=rectified)
        if self._passes_activations:
            return self._passed(func, args, kwargs, facts)
        return self.note(super().operate(func, args, kwargs), facts)

    def one_to_one(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run an operation in which each output has one input: it hands on all relevance."""
        if func in op.DROPOUT and not op.argument(args, kwargs, 2, "training", True):
            return op.argument(args, kwargs, 0, "input")
        facts = self.joined(known, nonnegative=func in op.DROPOUT and all(f.nonnegative for f in known))
        if self._passes_activations:
            return self._passed(func, args, kwargs, facts)
        return self.note(func(*args, **kwargs), facts)

    def max_pool(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run a maximum over windows: the winners receive the relevance, as they receive a gradient."""
        return self.rearrangement(func, args, kwargs, known)

    def rearrangement(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run an operation that moves entries: relevance goes back to where they came from."""
        self.check_gradients()
        result = func(*args, **kwargs)
        same = all(f.nonnegative for f in known) and _adds_no_negative(func, args, kwargs)
        x = op.argument(args, kwargs, 0, "input")
        if result is x:
            return result
        tensors = [
            leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        return self.note(result, self.joined(known, nonnegative=same and len(tensors) == len(known)))

    def other(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Facts]) -> Any:
        """Run what returns no tensor, such as a shape, and refuse the rest."""
        name = op.name_of(func)
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        result = None if writes else func(*args, **kwargs)
        returned = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not writes and not any(leaf.requires_grad for leaf in returned):
            return result
        advice = "; explain the logits, without it" if "softmax" in name or "sigmoid" in name else ""
        raise UnsupportedModelError(
            f"{self.composite.name} has no rule for {name}, which {self.where()} applies to what depends on the"
            f" input{advice}; allowed are affine layers, elementwise activations that map 0 to 0, pools, sums and"
            " rearrangements."
        )

    def affine(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], affine: op.Affine) -> Any:
        """Run an affine operation with its rule."""
        self.check_gradients()
        known = [facts for x in affine.inputs if (facts := facts_of(x)) is not None]
        call = self.new_call(affine, known)
        with torch.no_grad():
            value = func(*args, **kwargs)
        result = _RuledAffine.apply(call, [value], *affine.inputs)
        same = call.kind in ("average_pool", "sum") and all(f.nonnegative for f in known)
        same = same and not (call.kind == "sum" and bool((call.linear().weight < 0).any()))
        is_layer = call.kind in ("linear", "convolution")
        facts = self.joined(known, nonnegative=same)
        facts.producer = call
        if is_layer:
            facts.raw, facts.sources = False, frozenset([call])
        return self.note(result, facts)

    def new_call(self, affine: op.Affine, known: list[Facts]) -> AffineCall:
        """Return the record of an affine operation, and let a batch norm merge into the layer in front of it."""
        layer = affine.kind in ("linear", "convolution")
        name = self._owner(affine.weight)
        first = layer and all(f.raw for f in known)
        nonnegative = all(f.nonnegative for f in known)
        call = AffineCall(affine.kind, name, affine.linear, affine.bias, nonnegative, first)
        candidates = [c.rule_for(call.kind, name, first, last) for c in self.composites for last in (False, True)]
        call.keeps_output = any(getattr(rule, "needs_output", True) for rule in candidates if rule is not None)
        producer = known[0].producer
        merges = affine.kind == "batch_norm" and self.composite.batch_norm == "merge" and producer is not None
        # A linear layer has its outputs in the last dimension, a batch norm its channels in the second.
        mergeable = ("linear", "convolution") if affine.inputs[0].dim() == 2 else ("convolution",)
        if merges and producer.kind in mergeable and producer.norm is None:  # type: ignore[union-attr]
            producer.norm = call  # type: ignore[union-attr]
            call.merged = producer  # type: ignore[assignment]
        self.calls.append(call)
        return call

    def _owner(self, weight: Tensor | None) -> str:
        """Return the name of the module that an operation belongs to: the owner of its weight, or the one that runs."""
        owners = self.owners.get(id(weight), []) if weight is not None else []
        return self.running() if not owners or self.running() in owners else owners[0]

    def _passed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], facts: Facts) -> Tensor:
        self.check_gradients()
        x = next(leaf for leaf in tree_leaves((args, kwargs)) if self.depends(leaf))
        with torch.no_grad():
            value = func(*args, **kwargs)
        return self.note(_Passed.apply(x, [value]), facts)

    @staticmethod
    def joined(known: list[Facts], nonnegative: bool) -> Facts:
        """Return what is known of a result from what is known of its inputs."""
        sources = frozenset().union(*(f.sources for f in known))
        return Facts(nonnegative, all(f.raw for f in known), sources)

    def _check_origin(self, leaves: list[Tensor]) -> None:
        """Refuse a tensor that depends on the input by a way that was not seen."""
        for leaf in leaves:
            if leaf.grad_fn is not None and not self.depends(leaf) and self._reaches_input(leaf.grad_fn):
                raise UnsupportedModelError(
                    f"{self.where()} uses what {leaf.grad_fn.name()} returned, an autograd function of its own, for"
                    f" which {self.composite.name} has no rule; allowed are models made of PyTorch's operations."
                )

    def _reaches_input(self, node: Any) -> bool:
        stack, seen = [node], set()
        while stack:
            node = stack.pop()
            if node is None or id(node) in seen:
                continue
            if id(node) in self._leaves:
                return True
            seen.add(id(node))
            stack += [parent for parent, _ in node.next_functions]
        return False

    # The end of the forward pass.

    def finish(self, output: Tensor) -> None:
        """Settle which layers are the last, which batch norms are merged, and which rule each layer has."""
        facts = facts_of(output)
        if facts is None:
            self._check_origin([output])
            raise UnsupportedModelError(
                f"the model's output does not depend on its input by any operation that {self.composite.name} saw;"
                " allowed are models in eager PyTorch."
            )
        if facts.producer is not None:
            facts.producer.uses += 1
        for call in self.calls:
            if call.merged is not None:
                call.passes = call.merged.uses == 1
                if not call.passes:
                    call.merged.norm = None
        ends = facts.sources
        for call in self.calls:
            call.last = call in ends
            rules = [c.rule_for(call.kind, call.name, call.first, call.last) for c in self.composites]
            without = next((c for c, rule in zip(self.composites, rules, strict=True) if rule is None), None)
            if without is not None and not call.passes:
                place = f"layer {call.name!r}" if call.name else "the model"
                raise UnsupportedModelError(
                    f"{without.name} has no rule for the {call.kind.replace('_', ' ')} in {place}; allowed are models"
                    " whose every affine layer has one."
                )
            call.rule = self.exchanged(rules)
        if not self.calls:
            raise UnsupportedModelError(
                f"{self.composite.name} acts on affine layers and none was seen while the model ran; allowed are models"
                " in eager PyTorch."
            )


def _adds_no_negative(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func is not nn.functional.pad:
        return True
    value = op.argument(args, kwargs, 3, "value")
    return value is None or value >= 0
