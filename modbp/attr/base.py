"""The base of every attribution method, with Captum's interface: `Method(model).attribute(inputs, target=...)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from modbp._captum import GradientAttribution, log_usage
from modbp.attr.targets import Target, one_hot
from modbp.backward import INPUT, OUTPUT, Tensors, Trace, check_baselines, check_inputs
from modbp.composite import Composite
from modbp.errors import InputError


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
        """Whether what arrives at the input is multiplied by it, as in input × gradient."""
        return self.composite.multiply

    @log_usage()  # NoiseTunnel calls what this decorator wraps
    def attribute(self, inputs: Tensors, target: Target = None, additional_forward_args: Any = None) -> Tensors:
        """Return what arrives at the inputs when the target's logit sends back its start.

        The start is a one, or the logit itself where relevance is to sum to it: `composite.start` says which.

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
        return self._attribute(inputs, target, additional_forward_args)

    def _attribute(
        self, inputs: Tensors, target: Target, additional_forward_args: Any, baselines: Any = None
    ) -> Tensors:
        trace = self.trace(inputs, (), additional_forward_args, baselines)
        return trace.relevance([INPUT], start=self.start(trace.output, target), keep=False)[INPUT]

    def start(self, output: Tensor, target: Target) -> Tensor:
        """Return the start vector at the output, of its shape: the target's logit, or a one in its place."""
        one = one_hot(output, target)
        return one * output.detach() if self.composite.start == "logit" else one

    def attribute_classes(
        self, inputs: Tensor, classes: Tensor, batch: int | None = None, baselines: Any = None
    ) -> Tensor:
        """Return the maps of several classes of each sample, from one forward pass and one batched backward pass.

        Parameters
        ----------
        inputs : Tensor, shape (batch, ...)
        classes : Tensor of integers, shape (batch, maps)
            For each sample the classes whose logits are explained.
        batch : int, optional
            Samples at a time, to bound the memory; by default all. Work of many batches shows its progress.
        baselines : number or Tensor, optional
            For DeepLIFT, the reference input; by default zero.

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
        >>> from modbp.attr import GuidedBackprop
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
        references = [None] * len(samples) if baselines is None else check_baselines(baselines, samples)[0].split(size)
        chunks = list(zip(samples.split(size), classes.split(size), references, strict=False))
        maps = []
        for x, columns, reference in tqdm(chunks, desc=self.composite.name, disable=None if len(chunks) > 1 else True):
            trace = self.trace(x, baselines=reference)
            starts = torch.stack([self.start(trace.output, column) for column in columns.T])
            maps.append(trace.relevance([INPUT], start=starts, keep=False)[INPUT])
        return torch.cat(maps, dim=1)

    def trace(
        self,
        inputs: Tensors,
        layers: Iterable[str] = (),
        additional_forward_args: Any = None,
        baselines: Any = None,
    ) -> Trace:
        """Run the model once with the rules in place; see `modbp.backward.Trace`."""
        if baselines is not None and not self.composite.compares:
            raise InputError(
                f"baselines is given, and {self.composite.name} compares with no reference; allowed is None."
            )
        return Trace(self.forward_func, inputs, self.composite, layers, additional_forward_args, baselines)

    def relevance(
        self,
        inputs: Tensors,
        at: Iterable[str] = (INPUT,),
        *,
        target: Target = None,
        start: Tensor | None = None,
        start_at: str = OUTPUT,
        additional_forward_args: Any = None,
        baselines: Any = None,
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
        baselines : number, Tensor, or tuple of them, optional
            For DeepLIFT, the reference input; by default zero.

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
        trace = self.trace(inputs, [*points, start_at], additional_forward_args, baselines)
        if start is None and start_at == OUTPUT:
            start = self.start(trace.output, target)
        return trace.relevance(points, start=start, start_at=start_at, keep=False)
