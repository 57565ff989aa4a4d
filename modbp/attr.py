"""Attribution methods with Captum's interface: `Method(model).attribute(inputs, target=...)`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm import TqdmWarning, tqdm

from modbp import composite as composites
from modbp.backward import INPUT, OUTPUT, Tensors, Trace, check_inputs
from modbp.composite import Composite
from modbp.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # Captum asks for a widget that it does without
    from captum.attr import GradientAttribution
    from captum.log import log_usage

Target = Any
"""What Captum takes: None, int, tuple of int, list of int or of tuples, or a tensor of integers."""


class ModifiedBackprop(GradientAttribution):
    """An attribution that is a gradient under substituted backward passes.

    Subclasses only choose the composite. Everything of Captum that takes a `GradientAttribution` (`NoiseTunnel`,
    `captum.metrics`) takes these too. Unlike Captum's own classes they need no ReLU *module*: functional, reused and
    in-place ReLUs are treated alike, and a model on which the rule has no meaning is refused, not passed over.

    Parameters
    ----------
    model : callable
        An `nn.Module` or a function of tensors that returns logits, shape (batch, classes).
    composite : Composite
        Which rule acts on which operation.

    Examples
    --------
    >>> from modbp.composite import Composite
    >>> from modbp.rules import GuidedBackprop
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> method = ModifiedBackprop(net, Composite("mine", {"relu": GuidedBackprop()}))
    >>> method.attribute(torch.randn(2, 4), target=1).shape
    torch.Size([2, 4])
    """

    def __init__(self, model: Callable[..., Any], composite: Composite) -> None:
        if not callable(model):
            raise InputError(
                f"model is of type {type(model).__name__}; allowed is an nn.Module or a function of tensors."
            )
        super().__init__(model)
        self.composite = composite

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: these maps are signals at the input, not contributions of it."""
        return False

    @log_usage()  # NoiseTunnel calls what this decorator wraps
    def attribute(self, inputs: Tensors, target: Target = None, additional_forward_args: Any = None) -> Tensors:
        """Return the signal that arrives at the inputs when the target's logit sends back a one.

        Parameters
        ----------
        inputs : Tensor or tuple of Tensor, shape (batch, ...)
        target : int, list, tuple or Tensor, optional
            The class whose logit is explained: one for all samples, or one per sample; a tuple of indices where the
            output has more than two dimensions. None where the output has one number per sample.
        additional_forward_args : any, optional
            Passed to the model behind the inputs.

        Returns
        -------
        Tensor or tuple of Tensor
            As many as there are inputs, of their shapes and dtypes.

        Raises
        ------
        InputError
            If the inputs hold NaN or infinite values, or the target lies outside the classes.
        UnsupportedModelError
            If the rules have no meaning for something that the model computes.
        """
        trace = self.trace(inputs, additional_forward_args=additional_forward_args)
        start = one_hot(trace.output, target)
        return trace.relevance([INPUT], start=start, keep=False)[INPUT]

    def attribute_classes(self, inputs: Tensor, classes: Tensor, batch: int | None = None) -> Tensor:
        """Return the maps of several classes of each sample, from one forward pass and one batched backward pass.

        Parameters
        ----------
        inputs : Tensor, shape (batch, ...)
        classes : Tensor of integers, shape (batch, maps)
            For each sample the classes whose logits are explained.
        batch : int, optional
            Samples at a time, to bound the memory; by default all. Work of many batches shows its progress.

        Returns
        -------
        Tensor, shape (maps, batch, ...)
            `result[m]` is `attribute(inputs, classes[:, m])`.

        Raises
        ------
        InputError
            As `attribute`; or if `classes` is no matrix with one row per sample, or `batch` is below 1.

        Examples
        --------
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> GuidedBackprop(net).attribute_classes(torch.randn(2, 4), torch.tensor([[0, 1], [2, 1]])).shape
        torch.Size([2, 2, 4])
        """
        if not isinstance(classes, Tensor) or classes.dim() != 2:
            given = tuple(classes.shape) if isinstance(classes, Tensor) else type(classes).__name__
            raise InputError(f"classes is {given}; allowed is an integer tensor of shape (batch, maps).")
        if batch is not None and batch < 1:
            raise InputError(f"batch is {batch}; allowed are whole numbers from 1 upwards.")
        (samples,) = check_inputs((inputs,))
        if len(samples) != len(classes):
            raise InputError(f"classes has {len(classes)} rows for {len(samples)} samples; allowed is one per sample.")
        size = batch or len(samples)
        chunks = list(zip(samples.split(size), classes.split(size), strict=True))
        maps = []
        for x, columns in tqdm(chunks, desc=self.composite.name, disable=None if len(chunks) > 1 else True):
            trace = self.trace(x)
            starts = torch.stack([one_hot(trace.output, column) for column in columns.T])
            maps.append(trace.relevance([INPUT], start=starts, keep=False)[INPUT])
        return torch.cat(maps, dim=1)

    def trace(self, inputs: Tensors, layers: Iterable[str] = (), additional_forward_args: Any = None) -> Trace:
        """Run the model once with the rules in place; see `modbp.backward.Trace`."""
        return Trace(self.forward_func, inputs, self.composite, layers, additional_forward_args)

    def relevance(
        self,
        inputs: Tensors,
        at: Iterable[str] = (INPUT,),
        *,
        target: Target = None,
        start: Tensor | None = None,
        start_at: str = OUTPUT,
        additional_forward_args: Any = None,
    ) -> dict[str, Any]:
        """Return the relevance at any layers, from a target's logit or from any start.

        Parameters
        ----------
        inputs : Tensor or tuple of Tensor, shape (batch, ...)
        at : iterable of str, default ("input",)
            `"input"` or names of modules.
        target : optional
            As in `attribute`; only where no `start` is given.
        start : Tensor, optional
            Relevance of the shape of the point `start_at`, or with a dimension for many starts in front.
        start_at : str, default "output"
            `"output"` or the name of a module.
        additional_forward_args : any, optional

        Returns
        -------
        dict from str to Tensor
            See `modbp.backward.Trace.relevance`.

        Raises
        ------
        InputError
            If both a target and a start are given, or either has the wrong form.
        """
        points = list(at)
        if start is not None and target is not None:
            raise InputError("both target and start are given; allowed is one of them.")
        trace = self.trace(inputs, [*points, start_at], additional_forward_args)
        if start is None and start_at == OUTPUT:
            start = one_hot(trace.output, target)
        return trace.relevance(points, start=start, start_at=start_at, keep=False)


def one_hot(output: Tensor, target: Target) -> Tensor:
    """Return the start vector that picks one logit of each sample.

    Parameters
    ----------
    output : Tensor, shape (batch, classes), (batch, classes, ...) or (batch,)
        A model's output.
    target : int, list, tuple or Tensor, optional
        As in `ModifiedBackprop.attribute`.

    Returns
    -------
    Tensor, shape of `output`
        One at the target, zero elsewhere.

    Raises
    ------
    InputError
        If the target's form does not fit the output, or an index lies outside of it.

    Examples
    --------
    >>> one_hot(torch.zeros(2, 3), target=[0, 2])
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    batch, free = output.shape[0] if output.dim() else 1, output.shape[1:]
    if target is None:
        if output.numel() != batch:
            raise InputError(
                f"target is None; allowed for an output of shape {tuple(output.shape)} are {_allowed(free)}."
            )
        return torch.ones_like(output)
    rows = _rows(target, batch)
    start = torch.zeros_like(output)
    for sample, row in enumerate(rows):
        if len(row) != len(free) or any(isinstance(i, bool) or not isinstance(i, int) for i in row):
            raise InputError(
                f"target is {target!r}; allowed for an output of shape {tuple(output.shape)} are {_allowed(free)}."
            )
        if any(not 0 <= i < size for i, size in zip(row, free, strict=True)):
            shown = row[0] if len(row) == 1 else row
            raise InputError(f"target is {shown!r}; allowed are {_allowed(free)}.")
        start[(sample, *row)] = 1
    return start


def _rows(target: Target, batch: int) -> list[tuple[Any, ...]]:
    """Return one tuple of indices per sample."""
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool:
            raise InputError(f"target has dtype {target.dtype}; allowed is an integer tensor.")
        target = target.item() if target.numel() == 1 else target.tolist()
    elif hasattr(target, "item") and not isinstance(target, int):
        target = target.item()  # a NumPy integer
    if isinstance(target, list):
        if len(target) != batch:
            raise InputError(f"target has {len(target)} entries; allowed are one number, or one per sample: {batch}.")
        return [tuple(t) if isinstance(t, tuple | list) else (t,) for t in target]
    return [target if isinstance(target, tuple) else (target,)] * batch


def _allowed(free: Iterable[int]) -> str:
    ranges = [f"0 to {size - 1}" for size in free]
    return f"the classes {ranges[0]}" if len(ranges) == 1 else f"tuples of indices in {ranges}" if ranges else "None"


class Gradient(ModifiedBackprop):
    """The gradient of the logit, with its sign (Simonyan, Vedaldi and Zisserman, 2013, section 3).

    Examples
    --------
    >>> net = torch.nn.Linear(4, 3)
    >>> torch.equal(Gradient(net).attribute(torch.randn(1, 4), target=2)[0], net.weight[2])
    True
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(model, composites.gradient())


class Deconvolution(ModifiedBackprop):
    """Deconvolution: each ReLU keeps the positive part of the signal (Zeiler and Fergus, 2014, section 2.1).

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> Deconvolution(net).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(model, composites.deconvolution())


class GuidedBackprop(ModifiedBackprop):
    """Guided Backprop: each ReLU keeps the positive part of the signal where it is active (Springenberg et al., 2014).

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x = torch.randn(1, 4)
    >>> bool((x * GuidedBackprop(net).attribute(x, target=2)).sum() >= 0)
    True
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(model, composites.guided_backprop())


class RectGrad(ModifiedBackprop):
    """RectGrad: each ReLU keeps the signal where activation times signal is among the largest (Kim et al., 2019).

    Parameters
    ----------
    model : callable
    percentile : float, default 98
        The share of a layer's units, in percent, whose signal is dropped.
    threshold : float, optional
        A fixed threshold on activation times signal in place of the percentile.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> RectGrad(net, percentile=90).attribute(torch.randn(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    def __init__(self, model: Callable[..., Any], percentile: float = 98.0, threshold: float | None = None) -> None:
        super().__init__(model, composites.rectgrad(percentile, threshold))


METHODS: Mapping[str, type[ModifiedBackprop]] = MappingProxyType(
    {"gradient": Gradient, "deconvolution": Deconvolution, "guided_backprop": GuidedBackprop, "rectgrad": RectGrad}
)
"""Every attribution method by name."""


def make(name: str, model: Callable[..., Any], **options: Any) -> ModifiedBackprop:
    """Return an attribution method by name.

    Parameters
    ----------
    name : str
        A key of `modbp.METHODS`.
    model : callable
        An `nn.Module` or a function of tensors that returns logits, shape (batch, classes).
    **options
        What the method's class takes beside the model, such as `percentile` for RectGrad.

    Returns
    -------
    ModifiedBackprop
        A `captum.attr.GradientAttribution`.

    Raises
    ------
    InputError
        If the name is no method's, or the method has no such option.

    Examples
    --------
    >>> make("rectgrad", torch.nn.ReLU(), percentile=90).composite.rule_for("relu").percentile
    90
    """
    if name not in METHODS:
        raise InputError(f"the method {name!r} is unknown; allowed are {', '.join(METHODS)}.")
    try:
        return METHODS[name](model, **options)
    except TypeError as error:
        raise InputError(f"{name} does not take these options ({error}).") from None
    except ValueError as error:
        raise InputError(str(error)) from None
