"""Import torchvision beside a PyTorch build that its compiled operators were not made for.

The torchvision wheel of most platforms is a CUDA build. Beside a CPU build of PyTorch its compiled library does not
load, and its import then fails, because it registers fake versions of two operators that nobody has declared.
Declaring the two is enough for everything that is not detection.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from modbp.errors import InputError

_declared: list[torch.library.Library] = []  # a Library takes its operators along when it is collected
_NEEDED_BY_IMPORT = ("nms", "qnms")


def torchvision() -> ModuleType:
    """Return the torchvision module; beside a working pair of builds this is an ordinary import.

    Returns
    -------
    module

    Raises
    ------
    InputError
        If torchvision is not installed.

    Examples
    --------
    >>> torchvision().models.vgg.VGG.__name__
    'VGG'
    """
    if "torchvision" not in sys.modules:
        _declare_missing_operators()
    module = importlib.import_module("torchvision")
    importlib.import_module("torchvision.models")
    return module


def _declare_missing_operators() -> bool:
    """Declare what the import needs where the compiled operators do not load; return whether they do."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("torchvision is not installed; install it with: pip install 'modbp[embedded]'.")
    root = Path(next(iter(spec.submodule_search_locations)))
    compiled = next(iter([*sorted(root.glob("_C*.so")), *sorted(root.glob("_C*.pyd"))]), None)
    try:
        if compiled is None:
            raise OSError("no compiled operators")
        torch.ops.load_library(str(compiled))
    except OSError:
        if not _declared:
            library = torch.library.Library("torchvision", "DEF")
            for name in _NEEDED_BY_IMPORT:
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)
        return False
    return True
