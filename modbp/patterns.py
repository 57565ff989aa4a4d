r"""Patterns: the directions of the input that a network's units answer to, estimated from data.

For a unit :math:`y = w^\top x` the pattern :math:`a` is the direction in which the input moves when the unit's signal
moves. It is the covariance of x and y, scaled so that :math:`w^\top a = 1`. Behind a ReLU only the samples that
activate the unit count (the two-component estimator):

.. math:: a = \frac{E_+[x y] - E_+[x]\,E[y]}{w^\top\left(E_+[x y] - E_+[x]\,E[y]\right)},

where :math:`E_+` is the mean over samples (and positions) with a positive output and :math:`E` the mean over all. For
a layer without a ReLU behind it, :math:`E_+` is :math:`E` (the linear estimator). The bias has no part in y.

All that is needed are sums, so one pass over the data will do, a batch at a time, and sums of several machines add up.

Source: Kindermans et al., *Learning how to explain neural networks: PatternNet and PatternAttribution* (2018),
equations 6 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from modbp.backward import Recorder, check_inputs, check_model, run
from modbp.composite import Composite
from modbp.errors import InputError
from modbp.operations import Affine
from modbp.rules import Transposed
from modbp.rules.affine import LinearMap
from modbp.substitution import AffineCall, RelevanceSubstitution


@dataclass
class Sums:
    """What one layer's patterns are made of, in float64.

    Attributes
    ----------
    xy, x : Tensor, shape of the weight
        Sums of x y and of x over the samples that count, one for each output.
    y, count, all : Tensor, shape (outputs,)
        The sum of y over all samples, how many count, and how many there were.

    Examples
    --------
    >>> one = torch.ones(1, 2)
    >>> (Sums(one, one, one[0], one[0], one[0]) + Sums(one, one, one[0], one[0], one[0])).x
    tensor([[2., 2.]])
    """

    xy: Tensor
    x: Tensor
    y: Tensor
    count: Tensor
    all: Tensor

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over both sets of samples."""
        return Sums(*(a + b for a, b in zip(self._tensors(), other._tensors(), strict=True)))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.xy, self.x, self.y, self.count, self.all

    def pattern(self, linear: LinearMap) -> Tensor:
        """Return the patterns of a layer, shape of its weight; zero for units that no sample activated."""
        seen = self.count.clamp(min=1)
        mean_y = self.y / self.all.clamp(min=1)
        spread = (self.xy - self.x * linear.like_weight(mean_y)) / linear.like_weight(seen)
        scale = linear.summed_per_output(linear.weight.double() * spread)
        return spread / linear.like_weight(scale.masked_fill(scale == 0, 1))


class _Observed(RelevanceSubstitution):
    """Keeps what each layer received and returned."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[tuple[AffineCall, Tensor, Tensor]] = []

    def affine(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], affine: Affine) -> Any:
        result = super().affine(func, args, kwargs, affine)
        if affine.kind in ("linear", "convolution"):
            self.seen.append((self.calls[-1], affine.inputs[0].detach(), result.detach()))
        return result


class PatternEstimator:
    """Collects, batch by batch, what a model's patterns are made of.

    A batch norm that merges into a layer counts as part of it (see `modbp.composite.Composite`), and a module that
    the model calls more than once has one pattern for all its calls.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.

    Raises
    ------
    InputError
        If the model is no module.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> one, two = PatternEstimator(net), PatternEstimator(net)
    >>> one.update(torch.randn(64, 4)).merge(two.update(torch.randn(64, 4)))
    >>> {name: tuple(pattern.shape) for name, pattern in one.patterns().items()}
    {'0': (8, 4), '2': (3, 8)}
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(
                f"model is of type {type(model).__name__}; allowed is an nn.Module, whose layers have names."
            )
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile was given
        self.sums: dict[str, Sums] = {}
        self._maps: dict[str, LinearMap] = {}

    def update(self, inputs: Tensor, additional_forward_args: Any = None) -> PatternEstimator:
        """Add a batch of samples, shape (batch, ...), and return the estimator.

        Raises
        ------
        InputError
            If the inputs are not usable.
        UnsupportedModelError
            If the model has a layer that pattern methods have no rule for.
        """
        composite = Composite("the fit of patterns", {"affine": Transposed()})
        recorder = Recorder(self.model)
        check_model(self.model, composite, recorder)
        mode = _Observed(composite, recorder.layer, recorder.owners())
        leaves = tuple(x.detach().requires_grad_() for x in check_inputs(inputs))
        run(self.model, leaves, mode, recorder, additional_forward_args)
        with torch.no_grad():
            for call, a, z in mode.seen:
                self._add(call, a, z)
        return self

    def _add(self, call: AffineCall, a: Tensor, z: Tensor) -> None:
        layer = call.layer((a,), z)
        y, linear = layer.output_without_bias, layer.linear
        counts = (layer.output > 0).to(y) if call.rectified else torch.ones_like(y)
        channel = 1 if call.kind == "convolution" else -1
        others = [d for d in range(y.dim()) if d != channel % y.dim()]
        found = Sums(
            xy=linear.weight_gradient(a, counts * y).double(),
            x=linear.weight_gradient(a, counts).double(),
            y=y.double().sum(others),
            count=counts.double().sum(others),
            all=torch.full((y.shape[channel],), y.numel() / y.shape[channel], dtype=torch.double, device=y.device),
        )
        self.sums[call.name] = self.sums[call.name] + found if call.name in self.sums else found
        self._maps[call.name] = linear

    def merge(self, other: PatternEstimator) -> None:
        """Add what another estimator of the same model has collected.

        Raises
        ------
        InputError
            If the other one is of a model with other layers.
        """
        shapes = {name: sums.x.shape for name, sums in self.sums.items()}
        if shapes and other.sums and shapes != {name: sums.x.shape for name, sums in other.sums.items()}:
            raise InputError("other has collected patterns of other layers; allowed is an estimator of the same model.")
        for name, sums in other.sums.items():
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums
            self._maps.setdefault(name, other._maps[name])

    def patterns(self) -> dict[str, Tensor]:
        """Return the patterns by layer name, each of the shape and type of the layer's weight.

        Raises
        ------
        InputError
            If no batch was added.
        """
        if not self.sums:
            raise InputError("no batch was added; allowed is to ask for patterns after update(inputs).")
        return {name: sums.pattern(self._maps[name]).to(self._maps[name].weight) for name, sums in self.sums.items()}


def fit(model: Callable[..., Any], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Estimate a model's patterns in one pass over batches of inputs.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    batches : iterable of Tensor, shape (batch, ...)
        Inputs, prepared as for the model. A tensor is one batch.

    Returns
    -------
    dict from str to Tensor
        Patterns by layer name, to be given to `modbp.make("pattern_attribution", model, patterns=...)`.

    Raises
    ------
    InputError
        If there is no batch, or one is not usable.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> net.weight.data = torch.tensor([[1.0, -1.0]])  # answers to a signal along (1, 0), and cancels along (1, 1)
    >>> signal, distractor = torch.randn(2, 1000, 1)
    >>> pattern = fit(net, [signal * torch.tensor([1.0, 0.0]) + distractor])[""]  # the model itself is the layer
    >>> bool((pattern - torch.tensor([1.0, 0.0])).abs().max() < 0.1)
    True
    """
    estimator = PatternEstimator(model)
    for batch in tqdm([batches] if isinstance(batches, Tensor) else batches, desc="patterns", disable=None):
        estimator.update(batch)
    return estimator.patterns()
