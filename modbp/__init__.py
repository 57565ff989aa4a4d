"""modbp: modified-backpropagation attributions, and the theorems about them, made executable."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from modbp import attr as attr
    from modbp import auditing as auditing
    from modbp import images as images
    from modbp import layers as layers
    from modbp import lrp_rules as lrp_rules
    from modbp import metrics as metrics
    from modbp import patterns as patterns
    from modbp import zoo as zoo
    from modbp.attr import METHODS as METHODS
    from modbp.attr import make as make
    from modbp.auditing import audit as audit
    from modbp.errors import InputError as InputError
    from modbp.errors import UnsupportedModelError as UnsupportedModelError

_MODULES = (
    *(
        "attr",
        "auditing",
        "backward",
        "claims",
        "composite",
        "images",
        "layers",
        "lrp_rules",
        "metrics",
        "patterns",
        "plot",
        "rules",
    ),
    *("walkthrough", "zoo"),
)
_NAMES = {
    "METHODS": "modbp.attr",
    "audit": "modbp.auditing",
    "make": "modbp.attr",
    "InputError": "modbp.errors",
    "UnsupportedModelError": "modbp.errors",
}
__all__ = [*_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    # Lazily, so that a command that only checks its arguments does not wait for PyTorch.
    if name in _MODULES:
        return importlib.import_module(f"modbp.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'modbp' has no attribute {name!r}")
