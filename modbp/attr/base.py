"""The base of every attribution method, with Captum's interface: `Method(model).attribute(inputs, target=...)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from modbp._captum import GradientAttribution, log_usage
from modbp.attr.targets import Target, one_hot
from modbp.backward import INPUT, OUTPUT, Tensors, Trace, check_baselines, check_inputs
from modbp.composite import Composite, families
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
        maps = []
        for x, columns, reference in _batches(inputs, classes, batch, baselines, self.composite.name):
            trace = self.trace(x, baselines=reference)
            maps.append(self._maps(trace, columns, keep=False))
        return torch.cat(maps, dim=1)

    def _maps(self, trace: Trace, columns: Tensor, keep: bool) -> Tensor:
        """Return the maps of several classes of each sample, shape (maps, batch, ...)."""
        starts = torch.stack([self.start(trace.output, column) for column in columns.T])
        found: Tensor = trace.relevance([INPUT], start=starts, keep=keep)[INPUT]
        return found

    def trace(
        self,
        inputs: Tensors,
        layers: Iterable[str] = (),
        additional_forward_args: Any = None,
        baselines: Any = None,
        beside: Iterable[Composite] = (),
    ) -> Trace:
        """Run the model once with the rules in place; see `modbp.backward.Trace`."""
        if baselines is not None and not self.composite.compares:
            raise InputError(
                f"baselines is given, and {self.composite.name} compares with no reference; allowed is None."
            )
        return Trace(self.forward_func, inputs, self.composite, layers, additional_forward_args, baselines, beside)

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


def attribute_methods(
    model: Callable[..., Any],
    methods: Any,
    inputs: Tensor,
    classes: Tensor,
    baselines: Any = None,
    batch: int | None = None,
) -> dict[str, Tensor]:
    """Return the maps of several methods, from one forward pass for each family of methods.

    Rules act on the way back alone. So one forward pass serves all methods that only change the gradient, and one all
    that propagate relevance (`modbp.composite.Composite.family`). The maps are those of each method alone.

    Parameters
    ----------
    model : callable
        An `nn.Module` or a function of tensors that returns logits, shape (batch, classes).
    methods : str, Composite, ModifiedBackprop or class of one; or iterable of them, or mapping from names to them
        Keys of `modbp.METHODS`, or what sends relevance back. Of an object only its composite is used.
    inputs : Tensor, shape (batch, ...)
    classes : Tensor of integers, shape (batch, maps)
        For each sample the classes whose logits are explained.
    baselines : number or Tensor, optional
        The reference input of the methods that compare with one (DeepLIFT); by default zero.
    batch : int, optional
        Samples at a time, to bound the memory; by default all. Work of many batches shows its progress.

    Returns
    -------
    dict from str to Tensor, each of shape (maps, batch, ...)
        By the methods' names, in their order; `result[name]` is the method's `attribute_classes`.

    Raises
    ------
    InputError
        As `ModifiedBackprop.attribute_classes`; or if a method is unknown, or two have one name.
    UnsupportedModelError
        If the rules of a method have no meaning for something that the model computes.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> found = attribute_methods(net, ["gradient", "lrp_zplus"], torch.randn(2, 4), torch.tensor([[0], [2]]))
    >>> {name: tuple(maps.shape) for name, maps in found.items()}
    {'gradient': (1, 2, 4), 'lrp_zplus': (1, 2, 4)}
    """
    from modbp.metrics.sender import senders_of  # here, since it is made of what this module is the base of

    senders, _ = senders_of(methods, model, "methods")
    maps: dict[str, list[Tensor]] = {name: [] for name in senders}
    for x, columns, reference in _batches(inputs, classes, batch, baselines, f"{len(senders)} methods"):
        for family in traces(senders, x, baselines=reference):
            for name, trace in family.items():
                maps[name].append(senders[name]._maps(trace, columns, keep=name != [*family][-1]))
            del trace, family  # before the next ones are made
    return {name: torch.cat(found, dim=1) for name, found in maps.items()}


def traces(
    methods: Mapping[str, ModifiedBackprop],
    inputs: Tensors,
    layers: Iterable[str] = (),
    additional_forward_args: Any = None,
    baselines: Any = None,
) -> Iterator[dict[str, Trace]]:
    """Run a model once for each family of methods, and hand out the traces of one family after the other.

    Whoever lets go of a family's traces before asking for the next has one graph in memory at a time.

    Parameters
    ----------
    methods : mapping from str to ModifiedBackprop
        One or more, all of one model.
    inputs, layers, additional_forward_args
        As of `modbp.backward.Trace`.
    baselines : number, Tensor, or tuple of them, optional
        The reference input of those that compare with one.

    Yields
    ------
    dict from str to Trace
        By the names of a family's methods.

    Raises
    ------
    InputError
        As `modbp.backward.Trace`, or if there are baselines and no method compares with a reference.
    UnsupportedModelError
        If the rules of one of them would not act on this model as they are meant to.

    Examples
    --------
    >>> from modbp.attr import make
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> methods = {name: make(name, net) for name in ("gradient", "lrp_z", "guided_backprop")}
    >>> [list(family) for family in traces(methods, torch.randn(2, 4))]
    [['gradient', 'guided_backprop'], ['lrp_z']]
    """
    names, senders, points = list(methods), list(methods.values()), list(layers)
    composites = [sender.composite for sender in senders]
    if baselines is not None and len(names) > 1 and not any(c.compares for c in composites):
        raise InputError(
            f"baselines is given, and none of {', '.join(names)} compares with a reference; allowed is None."
        )
    for family in families(composites):
        first, *others = family
        references = baselines if composites[first].compares or len(names) == 1 else None
        beside = [composites[place] for place in others]
        yield _by_name(
            [names[place] for place in family],
            senders[first].trace(inputs, points, additional_forward_args, references, beside),
        )


def _by_name(names: list[str], trace: Trace) -> dict[str, Trace]:
    return dict(zip(names, (trace, *trace.beside), strict=True))


def _batches(
    inputs: Tensor, classes: Tensor, batch: int | None, baselines: Any, label: str
) -> Iterable[tuple[Tensor, Tensor, Any]]:
    """Return samples with their classes and their reference, a batch at a time, with the progress of many."""
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
    return tqdm(chunks, desc=label, disable=None if len(chunks) > 1 else True)
