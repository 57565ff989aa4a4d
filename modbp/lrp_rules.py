"""The rules of this package as rules of Captum: `layer.rule = AlphaBeta(2)` inside `captum.attr.LRP` and `LayerLRP`.

Captum finds a rule on a module's `rule` attribute. The ones here run the module's own forward pass with our rule in
place, by the same code as our methods, so that there is no second implementation that could differ. They mix freely
with Captum's own rules in one model.

Captum's limits remain where Captum itself is at work: a residual sum is not seen, a module must not be called twice,
and rules are deleted from the model after each call. Our methods (`modbp.make`) have none of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from modbp import rules
from modbp._captum import PropagationRule
from modbp.backward import Recorder
from modbp.composite import Composite
from modbp.errors import InputError, UnsupportedModelError
from modbp.substitution import RelevanceSubstitution


class CaptumRule(PropagationRule):
    """One of our rules for affine layers, in the form that Captum's LRP asks for.

    Parameters
    ----------
    rule : rule
        From `modbp.rules`, or your own with the same interface. It sees one affine layer at a time.

    Examples
    --------
    >>> import torch
    >>> from captum.attr import LRP
    >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    >>> net[0].rule, net[2].rule = CaptumRule(rules.WSquare()), CaptumRule(rules.ZPlus())
    >>> LRP(net).attribute(torch.rand(1, 4), target=2).shape
    torch.Size([1, 4])
    """

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def forward_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> Tensor:
        """Return the module's output with our rule as its backward pass; called by Captum."""
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        recorder = Recorder(module)
        mode = RelevanceSubstitution(
            Composite(str(self.rule), {"affine": self.rule}), recorder.layer, recorder.owners()
        )
        copy = x.clone() if x.requires_grad else x.detach().requires_grad_()
        mode.enter((copy,))
        with mode:
            output = module.forward(copy)
        mode.finish(output)
        if len(mode.calls) != 1:
            raise UnsupportedModelError(
                f"{type(module).__name__} holds {len(mode.calls)} affine layers; allowed for a rule is a module of one."
            )
        self._keep(copy, "relevance_input", x.device)
        self._keep(output, "relevance_output", x.device)
        return output

    def _keep(self, tensor: Tensor, name: str, device: Any) -> None:
        """Leave the relevance where Captum's LayerLRP looks for it."""
        tensor.register_hook(lambda relevance: getattr(self, name).__setitem__(device, relevance))

    def _manipulate_weights(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        """Leave the weights as they are: a rule here needs no changed copy of them."""


class _Ours(CaptumRule):
    """A rule of `modbp.rules` that takes the same arguments here as there."""

    _rule: ClassVar[Callable[..., Any]]

    def __init__(self, *args: Any, **options: Any) -> None:
        try:
            super().__init__(type(self)._rule(*args, **options))
        except (ValueError, TypeError) as error:
            raise InputError(str(error)) from None


class Epsilon(_Ours):
    """LRP-ε, and LRP-0 with ε = 0; arguments as of `modbp.rules.Epsilon`.

    Examples
    --------
    >>> layer = nn.Linear(4, 8)
    >>> layer.rule = Epsilon(0.1)
    """

    _rule = rules.Epsilon


class Gamma(_Ours):
    """LRP-γ, also for negative inputs and outputs; arguments as of `modbp.rules.Gamma`.

    Examples
    --------
    >>> layer = nn.Linear(4, 8)
    >>> layer.rule = Gamma(0.25)
    """

    _rule = rules.Gamma


class AlphaBeta(_Ours):
    """LRP-αβ for any α − β = 1, also for negative inputs; arguments as of `modbp.rules.AlphaBeta`.

    Examples
    --------
    >>> layer = nn.Linear(4, 8)
    >>> layer.rule = AlphaBeta(2)
    """

    _rule = rules.AlphaBeta


class ZPlus(_Ours):
    """z⁺, also for negative inputs; arguments as of `modbp.rules.ZPlus`.

    Examples
    --------
    >>> layer = nn.Linear(4, 8)
    >>> layer.rule = ZPlus()
    """

    _rule = rules.ZPlus


class WSquare(_Ours):
    """w²; arguments as of `modbp.rules.WSquare`.

    Examples
    --------
    >>> layer = nn.Linear(4, 8)
    >>> layer.rule = WSquare()
    """

    _rule = rules.WSquare


class Flat(_Ours):
    """The flat rule; arguments as of `modbp.rules.Flat`.

    Examples
    --------
    >>> layer = nn.Linear(4, 8)
    >>> layer.rule = Flat()
    """

    _rule = rules.Flat


class ZBox(_Ours):
    """zᴮ, for a first layer with bounded inputs; arguments as of `modbp.rules.ZBox`.

    Examples
    --------
    >>> layer = nn.Linear(4, 8)
    >>> layer.rule = ZBox(0, 1)
    """

    _rule = rules.ZBox
