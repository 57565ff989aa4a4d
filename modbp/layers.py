"""Which layers a model has, in the order in which they run, and where their activations are."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modbp.eager import uncompiled
from modbp.errors import InputError

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.modules.batchnorm._BatchNorm,)
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity),
)


Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextlib.contextmanager
def watching(hook: Hook) -> Iterator[None]:
    """Call a function after every module that runs in this thread.

    Nothing is left on a model, so that several threads may run one at a time. Modules that torch.compile has compiled
    run as they were before.

    Parameters
    ----------
    hook : callable
        Gets the module, its arguments and its output. What it returns takes the output's place, unless it is None.

    Examples
    --------
    >>> seen = []
    >>> with watching(lambda module, arguments, output: seen.append(type(module).__name__)):
    ...     _ = nn.Sequential(nn.Linear(2, 2), nn.ReLU())(torch.zeros(1, 2))
    >>> seen
    ['Linear', 'ReLU', 'Sequential']
    """
    thread = threading.get_ident()

    def of_this_thread(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        return hook(module, arguments, output) if threading.get_ident() == thread else None

    handle = nn.modules.module.register_module_forward_hook(of_this_thread)
    try:
        with uncompiled():
            yield
    finally:
        handle.remove()


def activation_points(
    model: Callable[..., Any], inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any = None
) -> dict[str, str]:
    """Return where the activation of each layer with weights is, in the order in which the layers run.

    That is the output of the batch norm and of the activation module that directly follow a linear layer or a
    convolution, as in the papers, whose layers include their activation; without such modules the layer's own output.

    Parameters
    ----------
    model : nn.Module
        Run once, on shapes alone where that is possible.
    inputs : Tensor or tuple of Tensor, shape (batch, ...)
    additional_forward_args : any, optional
        Passed to the model behind the inputs.

    Returns
    -------
    dict from str to str
        Each layer's name, with the name of the module at whose output its activation is. What runs more than once has
        one name a call, `"relu:0"`, `"relu:1"`, as in `modbp.backward.Trace`.

    Raises
    ------
    InputError
        If the model is no module, so that nothing in it has a name.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    >>> activation_points(net, torch.zeros(1, 3, 5, 5))
    {'0': '2', '4': '4'}
    """
    return _walk(model, inputs, additional_forward_args).points()


def _walk(model: Any, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any) -> _Walk:
    if not isinstance(model, nn.Module):
        raise InputError(f"model is of type {type(model).__name__}; allowed is an nn.Module, whose layers have names.")
    whole: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile was given
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    args = (*(inputs if isinstance(inputs, tuple) else (inputs,)), *(() if additional_forward_args is None else extra))
    try:
        return _Walk(*_without_numbers(whole, args))
    except Exception:  # whatever a model does that needs numbers; then it really runs, and says what it has to say
        return _Walk(whole, tuple(a.clone() if isinstance(a, Tensor) else a for a in args))


def running_order(
    model: nn.Module, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any = None
) -> dict[str, list[str]]:
    """Return the layers with weights in the order in which they first run, each with the batch norms behind it.

    Parameters
    ----------
    model : nn.Module
        Run once, on shapes alone where that is possible.
    inputs : Tensor or tuple of Tensor, shape (batch, ...)
    additional_forward_args : any, optional
        Passed to the model behind the inputs.

    Returns
    -------
    dict from str to list of str
        By the name of each linear layer and convolution, the names of the batch norms that run between it and the next
        one. A batch norm in front of them all stands for itself.

    Raises
    ------
    InputError
        As `activation_points`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).eval()
    >>> running_order(net, torch.zeros(1, 3, 5, 5))
    {'0': ['1'], '4': []}
    """
    return _walk(model, inputs, additional_forward_args).order


class _Walk:
    """Notes which module directly receives what the newest layer with weights has made."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self.calls: Counter[str] = Counter()
        self.found: list[tuple[tuple[str, int], tuple[str, int]]] = []  # calls of a layer, and of its activation
        self.order: dict[str, list[str]] = {}  # of layers, with their batch norms
        self._newest: Any = None
        with torch.no_grad(), watching(self._leave):
            model(*args)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module not in self.names:
            return
        name = self.names[module]
        call = (name, self.calls[name])
        self.calls[name] += 1
        if isinstance(module, WEIGHTED):
            self._group = self.order.setdefault(name, [])
            self.found.append((call, call))
            self._newest = output
            return
        if isinstance(module, NORMS) and call[1] == 0:
            self._place(name)
        if isinstance(module, NORMS + ACTIVATIONS) and self.found and args and args[0] is self._newest:
            self.found[-1] = (self.found[-1][0], call)
            self._newest = output

    def _place(self, norm: str) -> None:
        if self.order:
            self._group.append(norm)
        else:
            self._group = self.order.setdefault(norm, [])

    def points(self) -> dict[str, str]:
        return {self._named(*layer): self._named(*point) for layer, point in self.found}

    def _named(self, name: str, call: int) -> str:
        return f"{name}:{call}" if self.calls[name] > 1 else name


def _without_numbers(model: nn.Module, args: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return a copy of the model, and its inputs, that have shapes and no numbers: it runs in no time."""
    shapes: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
    shapes |= {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, shapes), tuple(a.to("meta") if isinstance(a, Tensor) else a for a in args)
