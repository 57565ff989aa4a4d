"""Run a model with rules in place, and send relevance from any point of it back to any other.

A rule is a custom backward of an operation, and an attribution is ordinary autograd under substituted backwards:
`modbp.substitution` puts them in place while the model runs once, and a `Trace` walks the graph that this leaves.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modbp.composite import Composite
from modbp.differences import DifferenceSubstitution, parts_of
from modbp.eager import uncompiled
from modbp.errors import InputError, UnsupportedModelError
from modbp.substitution import RelevanceSubstitution, Substitution

INPUT, OUTPUT = "input", "output"
"""The names of the two ends of a model, beside the names of its modules."""

Tensors = Tensor | tuple[Tensor, ...]


class Recorder:
    """Notes the outputs of chosen modules while a model runs, and which module is running.

    The hooks are torch's global ones, filtered by module and thread, so that the model's own are never touched.

    Parameters
    ----------
    model : callable
    layers : sequence of str, default ()
        Names of the modules whose outputs are kept.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    >>> recorder = Recorder(net, ["1"])
    >>> with recorder.recording():
    ...     _ = net(torch.zeros(2, 4))
    >>> recorder.outputs["1"][0].shape
    torch.Size([2, 8])
    """

    def __init__(self, model: Callable[..., Any], layers: Sequence[str] = ()) -> None:
        self.names = {m: name for name, m in model.named_modules()} if isinstance(model, nn.Module) else {}
        self.wanted = set(layers)
        self.outputs: dict[str, list[Any]] = {name: [] for name in layers}
        self._stack: list[str] = []
        self._thread = threading.get_ident()

    def owners(self) -> dict[int, list[str]]:
        """Return for the `id` of each parameter the names of the modules that own it."""
        found: dict[int, list[str]] = {}
        for module, name in self.names.items():
            for parameter in module.parameters(recurse=False):
                found.setdefault(id(parameter), []).append(name)
        return found

    def layer(self) -> str:
        """Return the name of the innermost module that is running, "" outside of any."""
        return self._stack[-1] if self._stack else ""

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() == self._thread and module in self.names:
            self._stack.append(self.names[module])

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == self._thread and module in self.names:
            name = self._stack.pop()
            if name in self.wanted:
                self.outputs[name].append(output)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record for as long as the context lasts."""
        handles = [
            nn.modules.module.register_module_forward_pre_hook(self._enter),
            nn.modules.module.register_module_forward_hook(self._leave),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextlib.contextmanager
def _buffers_kept(model: Callable[..., Any]) -> Iterator[None]:
    """Undo what a forward pass in training mode writes into buffers, such as batch norm's running mean."""
    training = isinstance(model, nn.Module) and any(m.training for m in model.modules())
    kept = {name: b.clone() for name, b in model.named_buffers()} if training else {}  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if kept:
            for name, buffer in model.named_buffers():  # type: ignore[attr-defined]
                buffer.data.copy_(kept[name])  # through .data, or autograd would miss what the graph has saved


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def check_inputs(inputs: Tensors) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple of tensors that an attribution can start from.

    Parameters
    ----------
    inputs : Tensor or tuple of Tensor, shape (batch, ...)

    Returns
    -------
    tuple of Tensor

    Raises
    ------
    InputError
        If an input is no floating-point tensor, is empty, or holds NaN or an infinite value.

    Examples
    --------
    >>> len(check_inputs(torch.zeros(2, 3)))
    1
    """
    tensors = _as_tuple(inputs)
    if not tensors:
        raise InputError("inputs is an empty tuple; allowed is a tensor or a tuple of tensors.")
    for i, x in enumerate(tensors):
        name = "inputs" if not isinstance(inputs, tuple) else f"inputs[{i}]"
        if not isinstance(x, Tensor):
            raise InputError(f"{name} is of type {type(x).__name__}; allowed is a torch.Tensor.")
        if not x.is_floating_point():
            raise InputError(f"{name} has dtype {x.dtype}; allowed is a floating-point tensor, such as torch.float32.")
        if x.numel() == 0:
            raise InputError(f"{name} has shape {tuple(x.shape)} and so no entries; allowed is at least one sample.")
        if not torch.isfinite(x).all():
            bad = int((~torch.isfinite(x)).sum())
            raise InputError(f"{name} holds {bad} values that are NaN or infinite; allowed are finite numbers.")
    return tensors


class Trace:
    """One forward pass of a model with rules in place, to be walked backwards as often as one likes.

    Parameters
    ----------
    model : callable
        Usually an `nn.Module`; any function of tensors will do, but only the layers of a module have names.
    inputs : Tensor or tuple of Tensor, shape (batch, ...)
    composite : Composite
        Which rule acts on which operation.
    layers : iterable of str, default ()
        Names of modules (as in `model.named_modules()`) from or to which relevance will be asked. A module that the
        model calls more than once has one point a call: `"block.relu:0"`, `"block.relu:1"`, and so on.
    additional_forward_args : any, optional
        Passed to the model behind the inputs, as in Captum.
    baselines : number, Tensor, or tuple of them, optional
        For DeepLIFT, the reference input: of the input's shape, or broadcastable to it. By default zero.
    beside : iterable of Composite, default ()
        Others of the same family (`Composite.family`), which share the forward pass.

    Attributes
    ----------
    output : Tensor
        What the model returned, shape (batch, ...).
    beside : tuple of Trace
        For each composite beside the first, the trace that it would have alone. All walk one graph, each with its own
        rules, and a call with `keep=False` gives it up for all. Threads that walk it take turns.

    Raises
    ------
    InputError
        If the inputs or a layer's name are not usable, or a composite is of another family.
    UnsupportedModelError
        If the composite's rules would not act on this model as they are meant to.

    Examples
    --------
    >>> from modbp.composite import guided_backprop
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> trace = Trace(net, torch.randn(2, 4), guided_backprop(), layers=["1"])
    >>> maps = trace.relevance(["1", "input"], start=torch.eye(3)[[0, 2]])
    >>> [tuple(m.shape) for m in maps.values()]
    [(2, 8), (2, 4)]
    """

    def __init__(
        self,
        model: Callable[..., Any],
        inputs: Tensors,
        composite: Composite,
        layers: Iterable[str] = (),
        additional_forward_args: Any = None,
        baselines: Any = None,
        beside: Iterable[Composite] = (),
    ) -> None:
        others = tuple(beside)
        stranger = next((c for c in others if c.family != composite.family), None)
        if stranger is not None:
            raise InputError(
                f"beside holds {stranger.name}, whose family is {stranger.family}; allowed is that of {composite.name},"
                f" {composite.family}."
            )
        self._tuple_given = isinstance(inputs, tuple)
        model = getattr(model, "_orig_mod", model)  # what torch.compile was given
        points = [name for name in dict.fromkeys(layers) if name not in (INPUT, OUTPUT)]
        recorder = Recorder(model, [name.rpartition(":")[0] or name for name in points])
        for one in (composite, *others):
            check_model(model, one, recorder)
        # Detached, so that the caller's tensors keep their flags.
        self._inputs = tuple(x.detach().requires_grad_() for x in check_inputs(inputs))

        references = check_baselines(baselines, inputs) if composite.compares else ()
        mode = _substitution(composite, recorder, references, others)
        self._entered, output = run(model, self._inputs, mode, recorder, additional_forward_args)
        self._composite, self._number, self._turns = composite, 0, mode.turns
        self._differences = mode if isinstance(mode, DifferenceSubstitution) else None
        self.output: Tensor = output
        self._points: dict[str, Tensor] = {name: _recorded(name, recorder.outputs) for name in points}
        self.beside: tuple[Trace, ...] = ()
        self.beside = tuple(self._of(number, other) for number, other in enumerate(others, start=1))

    def _of(self, number: int, composite: Composite) -> Trace:
        """Return the same forward pass as another of its composites walks it."""
        view = copy.copy(self)
        view._number, view._composite = number, composite
        return view

    def activation(self, layer: str) -> Tensor:
        """Return a recorded layer's output in the forward pass, shape (batch, ...), without its graph."""
        point = self._point(layer)
        if isinstance(point, tuple):
            raise InputError("'input' has several tensors, which are known to the caller; allowed are layers' names.")
        return point.detach()

    def _point(self, name: str) -> Tensors:
        if name == OUTPUT:
            return self.output
        if name == INPUT:
            return self._inputs if self._tuple_given else self._inputs[0]
        if name not in self._points:
            known = ", ".join(map(repr, [INPUT, *self._points, OUTPUT]))
            raise InputError(f"layer {name!r} was not recorded; allowed are {known}.")
        return self._points[name]

    def relevance(
        self,
        at: Iterable[str] = (INPUT,),
        *,
        start: Tensor | None = None,
        start_at: str = OUTPUT,
        keep: bool = True,
        multiply: bool | None = None,
        skip_unreached: bool = False,
    ) -> dict[str, Any]:
        """Send relevance from one point of the model back to others.

        Parameters
        ----------
        at : iterable of str, default ("input",)
            Where to read the relevance: `"input"`, or layers that were given to `Trace`.
        start : Tensor, shape of the point `start_at`, or (starts, ...) with that shape behind
            The relevance to start from. With one more dimension in front, each slice is a start of its own, and all
            go back together through the one graph. By default ones.
        start_at : str, default "output"
            Where to start: `"output"`, or a layer that was given to `Trace`.
        keep : bool, default True
            Keep the graph for another call. The last call may give it up, which saves memory.
        multiply : bool, optional
            Multiply what arrives by the activation, or for DeepLIFT by the difference from the reference. By default
            as the composite says. DeepLIFT without it returns multipliers: the one that the difference meets.
        skip_unreached : bool, default False
            Leave out points that do not lie below the start, in place of an error.

        Returns
        -------
        dict from str to Tensor
            For each name in `at` the relevance there, of the shape of that point (a tuple for `"input"` if the
            inputs were one), with the dimension of the starts in front if there was one.

        Raises
        ------
        InputError
            If a name is unknown, the start has the wrong shape, or a point does not lie below the start.
        """
        names = list(at)
        source = self._point(start_at)
        if start_at == INPUT or isinstance(source, tuple):
            raise InputError("start_at is 'input', below which there is nothing; allowed is 'output' or a layer.")
        start, batched = _check_start(start, source, start_at)
        points = {name: _as_tuple(self._point(name)) for name in names}
        flat = [t for tensors in points.values() for t in tensors]
        sources, ends = [source], list(flat)
        if self._differences is not None and self._composite.chains == 2:
            sources, ends = sources + self._twins(sources), ends + self._twins(flat)
        try:
            with self._turns.of(self._number):
                grads = torch.autograd.grad(
                    *(sources, ends, [start] * len(sources)),
                    retain_graph=keep,
                    is_grads_batched=batched,
                    allow_unused=True,
                )
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise InputError(
                "the graph was given up by an earlier call with keep=False; allowed is keep=True."
            ) from None
        products = self._composite.multiply if multiply is None else multiply
        found: dict[str, Any] = {}
        place = 0
        for name, tensors in points.items():
            here = []
            for tensor in tensors:
                up, down = grads[place], grads[place + len(flat)] if len(ends) > len(flat) else None
                place += 1
                if up is None and skip_unreached:
                    continue
                if up is None:
                    raise InputError(f"no relevance can reach {name!r} from {start_at!r}: it does not lie below it.")
                if products:
                    here.append(self._contribution(tensor, up, down))
                elif multiply is None:  # a composite that does not multiply asks for the positive multiplier itself
                    here.append(up)
                else:
                    here.append(self._single(tensor, up, down))
            if len(here) < len(tensors):
                continue
            found[name] = tuple(here) if isinstance(self._point(name), tuple) else here[0]
        return found

    def _contribution(self, tensor: Tensor, up: Tensor, down: Tensor | None) -> Tensor:
        """Return what arrives at a tensor times its value, or times its difference from the reference."""
        if self._differences is None:
            return up * tensor.detach()
        pair = self._pair_of(tensor)
        if down is None:
            (twin,) = self._twins([tensor])
            return up * (tensor - twin).detach()
        plus, minus = parts_of(pair)
        return up * plus.detach() + down * minus.detach()

    def _single(self, tensor: Tensor, up: Tensor, down: Tensor | None) -> Tensor:
        """Return what arrives at a tensor; of two multipliers the one that its difference from the reference meets."""
        if down is None:
            return up
        (twin,) = self._twins([tensor])
        return torch.where(tensor.detach() >= twin, up, down)

    def _pair_of(self, tensor: Tensor) -> Tensor:
        """Return the tensor by which the engine knows a point: for an input, the copy that the model was given."""
        return next((c for x, c in zip(self._inputs, self._entered, strict=True) if x is tensor), tensor)

    def _twins(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the values of tensors under the reference input."""
        assert self._differences is not None
        return [self._differences.reference_of(self._pair_of(t)) for t in tensors]


def run(
    model: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    mode: Substitution,
    recorder: Recorder,
    additional_forward_args: Any = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run a model with rules in place; return the copies of the inputs that it was given, and its output.

    Raises
    ------
    UnsupportedModelError
        If the rules have no meaning for something that the model computes.

    Examples
    --------
    >>> net, composite = nn.Linear(4, 8), Composite("gradient")
    >>> recorder = Recorder(net)
    >>> mode = Substitution(composite, recorder.layer, recorder.owners())
    >>> run(net, (torch.zeros(2, 4),), mode, recorder)[1].shape
    torch.Size([2, 8])
    """
    extra = () if additional_forward_args is None else _as_tuple(additional_forward_args)
    with torch.enable_grad(), uncompiled(), _buffers_kept(model), recorder.recording():
        # Copies, so that a model that writes to its input writes neither to the caller's nor to a leaf.
        copies = tuple(x.clone() for x in inputs)
        mode.enter(copies)
        with mode:
            output = model(*copies, *extra)
    output = mode.follow(output)
    if not isinstance(output, Tensor):
        raise UnsupportedModelError(
            f"the model returned a {type(output).__name__}; allowed is a model that returns one tensor of logits."
        )
    mode.finish(output)
    return copies, output


def _substitution(
    composite: Composite, recorder: Recorder, references: tuple[Tensor, ...], beside: Sequence[Composite]
) -> Substitution:
    if composite.compares:
        return DifferenceSubstitution(composite, recorder.layer, recorder.owners(), references, beside)
    if composite.propagates:
        return RelevanceSubstitution(composite, recorder.layer, recorder.owners(), beside)
    return Substitution(composite, recorder.layer, recorder.owners(), not recorder.wanted, beside)


def check_baselines(baselines: Any, inputs: Tensors) -> tuple[Tensor, ...]:
    """Return one reference for each input, of its shape.

    Parameters
    ----------
    baselines : number, Tensor, or tuple of them, optional
        By default zero.
    inputs : Tensor or tuple of Tensor

    Returns
    -------
    tuple of Tensor

    Raises
    ------
    InputError
        If there are not as many as inputs, or one does not broadcast to its input's shape or is not finite.

    Examples
    --------
    >>> check_baselines(0.5, torch.zeros(1, 2))
    (tensor([[0.5000, 0.5000]]),)
    """
    tensors = check_inputs(inputs)
    given = tuple([0.0] * len(tensors)) if baselines is None else _as_tuple(baselines)
    if len(given) != len(tensors):
        raise InputError(f"baselines has {len(given)} entries for {len(tensors)} inputs; allowed is one per input.")
    found = []
    for baseline, x in zip(given, tensors, strict=True):
        if not isinstance(baseline, Tensor | int | float) or isinstance(baseline, bool):
            raise InputError(
                f"baselines holds a {type(baseline).__name__}; allowed are numbers and tensors of the input's shape."
            )
        value = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).detach()
        if not torch.isfinite(value).all():
            raise InputError("baselines holds values that are NaN or infinite; allowed are finite numbers.")
        try:
            found.append(value.expand_as(x).clone())
        except RuntimeError:
            raise InputError(
                f"baselines has shape {tuple(value.shape)}; allowed is what broadcasts to the input's {tuple(x.shape)}."
            ) from None
    return tuple(found)


def check_model(model: Callable[..., Any], composite: Composite, recorder: Recorder) -> None:
    """Refuse a model that rules cannot act on, or layers that it does not have.

    Raises
    ------
    InputError
    UnsupportedModelError

    Examples
    --------
    >>> net = nn.Linear(4, 8)
    >>> check_model(net, Composite("gradient"), Recorder(net))
    """
    if not callable(model):
        raise InputError(f"model is of type {type(model).__name__}; allowed is an nn.Module or a function of tensors.")
    scripted = [name or "the model" for m, name in recorder.names.items() if isinstance(m, torch.jit.ScriptModule)]
    if scripted and not composite.is_plain:
        raise UnsupportedModelError(
            f"{scripted[0]} is a TorchScript module, which hides its operations, so {composite.name} cannot act on it;"
            " allowed are modules in eager PyTorch."
        )
    known = set(recorder.names.values())
    for name in sorted(recorder.wanted - known):
        close = difflib.get_close_matches(name, sorted(known - {""}), n=5, cutoff=0)
        nearest = ", ".join(map(repr, close)) or "none, since none of its modules has a name"
        raise InputError(f"the model has no layer {name!r}; allowed are its modules' names, the nearest {nearest}.")


def _recorded(name: str, outputs: dict[str, list[Any]]) -> Tensor:
    module, _, call = name.rpartition(":")
    calls = outputs[module or name]
    if not calls:
        raise InputError(f"layer {name!r} did not run; allowed are layers that the model uses.")
    if not module and len(calls) > 1:
        raise InputError(f"layer {name!r} ran {len(calls)} times; allowed are '{name}:0' to '{name}:{len(calls) - 1}'.")
    if module and not (call.isdigit() and int(call) < len(calls)):
        raise InputError(f"layer {module!r} has no call {call!r}; allowed are 0 to {len(calls) - 1}.")
    output = calls[int(call) if module else 0]
    if not isinstance(output, Tensor):
        raise InputError(
            f"layer {name!r} returned a {type(output).__name__}; allowed are layers that return one tensor."
        )
    return output


def _check_start(start: Tensor | None, source: Tensor, name: str) -> tuple[Tensor, bool]:
    if start is None:
        return torch.ones_like(source), False
    batched = isinstance(start, Tensor) and start.dim() == source.dim() + 1
    if not isinstance(start, Tensor) or (start.shape[1:] if batched else start.shape) != source.shape:
        given = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
        shape = tuple(source.shape)
        raise InputError(f"start is {given}; allowed at {name!r} is the shape {shape}, or (starts, *{shape}).")
    return start.to(source), batched
