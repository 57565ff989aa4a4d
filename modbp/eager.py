"""Running what torch.compile has compiled as the Python that it was made from."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_inside = 0  # contexts that are open, in all threads
_undo = contextlib.ExitStack()


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run what torch.compile has compiled as plain Python: compiled code shows no operations, and runs no hooks.

    The setting is one of the whole process. The first of several threads makes it, and the last one takes it back, so
    that none runs compiled code and none leaves the setting behind.

    Examples
    --------
    >>> compiled = torch.compile(torch.nn.Identity(), backend="eager")
    >>> with uncompiled():
    ...     compiled(torch.ones(2))
    tensor([1., 1.])
    """
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled, and the import takes a second
        yield
        return
    global _inside
    with _lock:
        if _inside == 0:
            _undo.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Using `torch.compile")  # our hooks may fire twice
            _undo.enter_context(torch.compiler.set_stance("force_eager"))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _undo.close()
