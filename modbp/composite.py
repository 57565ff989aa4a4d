"""Which rule acts on which operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modbp.rules import Deconvolution, GuidedBackprop, RectGrad


@dataclass(frozen=True)
class Composite:
    """Rules by kind of operation; an operation without a rule is differentiated as usual.

    Parameters
    ----------
    name : str
        What messages call it.
    rules : mapping from str to rule, default empty
        The kind of operation (today `"relu"`) and the rule that replaces its backward pass.

    Examples
    --------
    >>> Composite("guided", {"relu": GuidedBackprop()}).rule_for("relu")
    GuidedBackprop()
    >>> Composite("gradient").rule_for("relu") is None
    True
    """

    name: str
    rules: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the mapping too, so that a composite can be shared."""
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))

    def rule_for(self, kind: str, layer: str = "") -> Any | None:
        """Return the rule for an operation of this kind in this layer, or None for the ordinary backward pass."""
        return self.rules.get(kind)


def gradient() -> Composite:
    """Return no rule at all: the gradient."""
    return Composite("gradient")


def deconvolution() -> Composite:
    """Return Deconvolution at every ReLU."""
    return Composite("deconvolution", {"relu": Deconvolution()})


def guided_backprop() -> Composite:
    """Return Guided Backprop at every ReLU."""
    return Composite("guided_backprop", {"relu": GuidedBackprop()})


def rectgrad(percentile: float = 98.0, threshold: float | None = None) -> Composite:
    """Return RectGrad at every ReLU; see `modbp.rules.RectGrad` for the arguments."""
    return Composite("rectgrad", {"relu": RectGrad(percentile, threshold)})
