"""What sends relevance back: methods by name, as composites, or as objects of `modbp.attr`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modbp.attr import METHODS, ModifiedBackprop, make
from modbp.attr.methods import Preset
from modbp.composite import Composite
from modbp.errors import InputError

Sender = str | Composite | ModifiedBackprop | type[Preset]
"""What `sender_of` takes."""


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


def senders_of(
    methods: Any, model: Callable[..., Any], argument: str = "method"
) -> tuple[dict[str, ModifiedBackprop], bool]:
    """Return by name what sends relevance back, of one method or of several.

    Parameters
    ----------
    methods : what `sender_of` takes; or iterable of them, or mapping from names to them
    model : callable
    argument : str, default "method"
        What messages call the methods.

    Returns
    -------
    dict from str to ModifiedBackprop, and bool
        Whether several could have been given: an iterable or a mapping, of whatever length.

    Raises
    ------
    InputError
        As `sender_of`; or if there is no method, or two have one name.

    Examples
    --------
    >>> senders, several = senders_of({"mine": "gradient", "theirs": "lrp_z"}, lambda x: x)
    >>> {name: sender.composite.name for name, sender in senders.items()}, several
    ({'mine': 'gradient', 'theirs': 'lrp_z'}, True)
    """
    several = isinstance(methods, Iterable) and not isinstance(methods, str)
    if isinstance(methods, Mapping):
        given = [(str(name), method) for name, method in methods.items()]
    else:
        given = [(name_of(method), method) for method in (methods if several else [methods])]
    if not given:
        raise InputError(f"{argument} is empty; allowed are one or more methods.")
    names = [name for name, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{argument} has {twice!r} twice; allowed is a mapping that gives each its own name.")
    return {name: sender_of(method, model) for name, method in given}, several


def name_of(method: Any) -> str:
    """Return what a table calls a method: the name that it was given by, or that of its composite, class or function.

    Parameters
    ----------
    method : str, Composite, ModifiedBackprop, class or function

    Returns
    -------
    str

    Examples
    --------
    >>> from modbp.attr import LRPZPlus
    >>> name_of("lrp_z"), name_of(LRPZPlus), name_of(LRPZPlus(lambda x: x)), name_of(len)
    ('lrp_z', 'lrp_zplus', 'lrp_zplus', 'len')
    """
    if isinstance(method, str):
        return method
    if isinstance(method, Composite):
        return method.name
    if isinstance(method, ModifiedBackprop):
        return method.composite.name
    return next((n for n, c in METHODS.items() if c is method), getattr(method, "__name__", type(method).__name__))
