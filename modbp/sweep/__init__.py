"""Sweeps: measurements or notebook runs over a grid, on many processes or machines, with results that survive a crash.

`modbp sweep grid.yaml --out results` is the command, `read` returns its results as a table. It needs the extra
`modbp[sweep]`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modbp.sweep.measures import MEASUREMENTS as MEASUREMENTS
    from modbp.sweep.plan import Grid as Grid
    from modbp.sweep.plan import Runs as Runs
    from modbp.sweep.store import read as read

_NAMES = {"Grid": "plan", "Runs": "plan", "MEASUREMENTS": "measures", "read": "store"}
__all__ = ["MEASUREMENTS", "Grid", "Runs", "read"]


def __getattr__(name: str) -> Any:
    # Lazily, so that the command line knows its options without dask and PyTorch.
    if name in _NAMES:
        return getattr(importlib.import_module(f"modbp.sweep.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'modbp.sweep' has no attribute {name!r}")
