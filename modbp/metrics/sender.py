"""What sends relevance back: a method by name, as a composite, or as an object of `modbp.attr`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modbp.attr import METHODS, ModifiedBackprop, make
from modbp.attr.methods import Preset
from modbp.composite import Composite
from modbp.errors import InputError


def sender_of(method: Any, model: Callable[..., Any]) -> ModifiedBackprop:
    """Return what sends relevance back through a model.

    Parameters
    ----------
    method : str, Composite, ModifiedBackprop or class of one
        A key of `modbp.METHODS`, or what sends relevance back. Of an object only its composite is used.
    model : callable

    Returns
    -------
    ModifiedBackprop

    Raises
    ------
    InputError
        If the method is unknown, needs patterns, or sends nothing back.

    Examples
    --------
    >>> sender_of("guided_backprop", lambda x: x).composite.name
    'guided_backprop'
    """
    if isinstance(method, str):
        if method in METHODS and not issubclass(METHODS[method], Preset):
            raise InputError(
                f"method is {method!r}, which needs patterns; allowed is modbp.make({method!r}, model, patterns=...)."
            )
        return make(method, model)
    if isinstance(method, Composite):
        return ModifiedBackprop(model, method)
    if isinstance(method, ModifiedBackprop):
        return ModifiedBackprop(model, method.composite)
    if isinstance(method, type) and issubclass(method, Preset):
        return method(model)
    given = method.__name__ if isinstance(method, type) else type(method).__name__
    raise InputError(
        f"method is of type {given}, which has no relevance between the layers that a random vector could replace;"
        " allowed are names of modbp.METHODS, composites, and methods of modbp.attr."
    )
