"""What a command line or a file names: a network, and the methods that explain it.

A network is `vgg16` or `efficientnet_lite0`, which come with trained weights; `torchvision:resnet18`, any classifier of
torchvision; `package.module:factory`, a function of one's own that returns the network; or the path of a state dict of
a VGG16. A method is a name of `modbp.METHODS`; `captum:Saliency`, a class of `captum.attr`; or
`package.module:function`, anything of one's own that takes a model, inputs and a target.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modbp import efficientnet, zoo
from modbp._captum import Attribution
from modbp._torchvision import torchvision
from modbp.attr import METHODS
from modbp.checks import seeded
from modbp.errors import InputError, first_line, nearest
from modbp.files import expand

TORCHVISION, CAPTUM = "torchvision", "captum"
"""The prefixes of names that are neither ours nor a module's of one's own."""

STATE_DICTS = (".pt", ".pth", ".safetensors")
"""The suffixes of files with a state dict."""

EFFICIENTNET = "efficientnet_lite0"

NETWORKS = (*zoo.NETWORKS, EFFICIENTNET)
"""Names of networks whose trained weights need no download."""

_NETWORKS = (
    f"{', '.join(NETWORKS)}, torchvision:NAME, package.module:factory, and the path of a state dict of a VGG16"
    f" ({', '.join(STATE_DICTS)})"
)
_METHODS = "names of modbp.METHODS, captum:CLASS, and package.module:function"


def network(spec: str, weights: str | Path | None = None, *, seed: int = 0) -> Any:
    """Return a network that was named, in eval mode.

    Parameters
    ----------
    spec : str
        One of `NETWORKS`; `torchvision:` and the name of one of its classifiers; `package.module:factory`, where
        the factory takes no argument and returns an `nn.Module`, or one with its transform; or the path of a state
        dict of a VGG16. Modules are looked for in the working folder, too, and their code runs.
    weights : str or Path, optional
        `"embedded"`, the default of `NETWORKS`; `"imagenet"`, the default of torchvision's, which may have to be
        downloaded, and also of VGG16; `"random"`; or the path of a state dict that fits, which is loaded with
        `weights_only=True`. A network of your own is taken as it comes, or gets a state dict.
    seed : int, default 0
        For `"random"`.

    Returns
    -------
    nn.Module
        With the attributes `transform` (PIL image to input tensor; for a network of your own without one, torchvision's
        for ImageNet), `categories` (names of the classes, or None) and `source` (which network and weights these are).

    Raises
    ------
    InputError
        If there is no such network, it is no `nn.Module`, or the weights do not fit.

    Examples
    --------
    >>> found = network("torchvision:resnet18", "random", seed=1)
    >>> found.source, len(found.categories), found.training
    ('torchvision:resnet18, random (seed 1)', 1000, False)
    """
    check_network(spec, weights)
    seeded(seed)
    kind, _, name = spec.rpartition(":")
    if kind == TORCHVISION:
        found = _of_torchvision(spec, name, weights, seed)
    elif kind and not _is_file(spec):
        found = _of_factory(spec, weights)
    elif _is_file(spec):
        found = zoo.load(weights=spec)
        found.source = f"vgg16, {spec}"
    else:
        found = _of_ours(spec, weights, seed)
    return found.eval()


def check_network(spec: str, weights: str | Path | None = None) -> None:
    """Refuse a network that cannot be had, as far as can be told without building it.

    Parameters
    ----------
    spec, weights
        As for `network`.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_network("torchvision:resnet81")
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: the network 'torchvision:resnet81' is unknown (did you mean resnet18 or ...
    """
    if not isinstance(spec, str) or not spec:
        raise InputError(f"the network is {spec!r}; allowed are {_NETWORKS}.")
    kind, _, name = spec.rpartition(":")
    named = {None, zoo.EMBEDDED, zoo.IMAGENET, zoo.RANDOM}
    if _is_file(spec):
        if not expand(spec).is_file():
            raise InputError(f"the network is the state dict '{spec}', and there is no such file; allowed is a file.")
        allowed: set[str | None] = {None}
    elif kind == TORCHVISION:
        known = _classifiers()
        if name not in known:
            raise InputError(
                f"the network {spec!r} is unknown{nearest(name, known)}; allowed are the names of"
                f" torchvision.models.list_models(torchvision.models), such as resnet18."
            )
        allowed = named - {zoo.EMBEDDED}
    elif kind:
        _check_module(spec, kind, "network")
        allowed = {None}
    else:
        if spec not in NETWORKS:
            raise InputError(f"the network {spec!r} is unknown{nearest(spec, NETWORKS)}; allowed are {_NETWORKS}.")
        allowed = named - ({zoo.IMAGENET} if spec == EFFICIENTNET else set())
    if weights in allowed or (weights is not None and not _is_file(spec) and expand(weights).is_file()):
        return
    words = ", ".join(sorted(word for word in allowed if word))
    path = "no weights beside it" if _is_file(spec) else "the path of a state dict"
    raise InputError(f"weights is '{weights}' for {spec}; allowed {f'are {words}, and' if words else 'is'} {path}.")


def method(name: str) -> Any:
    """Return a method that was named, as `modbp.audit` and the sanity checks take it.

    Parameters
    ----------
    name : str
        A key of `modbp.METHODS`; `captum:` and the name of a class of `captum.attr` that needs nothing but a model,
        inputs and a target; or `package.module:name` of a function `(model, inputs, target) -> attributions`, of such
        a class, or of a composite. Modules are looked for in the working folder, too, and their code runs.

    Returns
    -------
    str, class, Composite or callable

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> method("guided_backprop"), method("captum:Saliency").__name__
    ('guided_backprop', 'Saliency')
    """
    check_method(name)
    kind, _, last = name.rpartition(":")
    if not kind:
        return name
    if kind == CAPTUM:
        return captum_classes()[last]
    return _attribute_of(name, kind, last, "method")


def check_method(name: str) -> None:
    """Refuse a method that cannot be had, as far as can be told without the code of one's own.

    Parameters
    ----------
    name : str
        As for `method`.

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_method("gradeint")
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: the method 'gradeint' is unknown (did you mean gradient?); allowed are names of ...
    """
    kind, _, last = name.rpartition(":")
    known = captum_classes() if kind == CAPTUM else METHODS
    if kind in ("", CAPTUM):
        if last in known:
            return
        allowed = f"captum:CLASS for {', '.join(known)}" if kind else _METHODS
        raise InputError(f"the method {name!r} is unknown{nearest(last, known)}; allowed are {allowed}.")
    _check_module(name, kind, "method")


def methods(names: str) -> dict[str, Any]:
    """Return methods that were named, by what tables call them.

    Parameters
    ----------
    names : str
        Names as for `method`, with commas between them.

    Returns
    -------
    dict from str to method

    Raises
    ------
    InputError
        If there is no name, one is unknown, or two methods would be called the same.

    Examples
    --------
    >>> list(methods("gradient, captum:InputXGradient"))
    ['gradient', 'InputXGradient (Captum)']
    """
    given = list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))
    if not given:
        raise InputError(f"methods is {names!r}; allowed are one or more, with commas, of {_METHODS}.")
    for name in given:
        check_method(name)
    found = {}
    for name in given:
        kind, _, last = name.rpartition(":")
        shown = f"{last} (Captum)" if kind == CAPTUM else last
        if shown in found:
            shown = name
        found[shown] = method(name)
    return found


def targets(text: str, pictures: int | None = None) -> int | Tensor | None:
    """Return the classes that a text asks for.

    Parameters
    ----------
    text : str
        Empty for the predicted ones; or one class, or one for each picture, with commas.
    pictures : int, optional
        How many there are, where that is known.

    Returns
    -------
    int, Tensor of integers, shape (pictures,), or None

    Raises
    ------
    InputError
        If it holds anything else than whole numbers from 0 upwards, or not as many as pictures.

    Examples
    --------
    >>> targets(""), targets("7"), targets("7, 3")
    (None, 7, tensor([7, 3]))
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if any(not part.isdecimal() for part in parts):
        raise InputError(f"targets is {text!r}; allowed are classes as whole numbers from 0 upwards, with commas.")
    if len(parts) > 1 and pictures is not None and len(parts) != pictures:
        raise InputError(f"targets has {len(parts)} classes for {pictures} pictures; allowed are one, or one for each.")
    classes = [int(part) for part in parts]
    return None if not classes else classes[0] if len(classes) == 1 else torch.tensor(classes)


def captum_classes() -> dict[str, type]:
    """Return the classes of `captum.attr` that explain an input, and need no more than a model, inputs and a target.

    Returns
    -------
    dict from str to class

    Examples
    --------
    >>> "IntegratedGradients" in captum_classes(), "LayerGradCam" in captum_classes()
    (True, False)
    """
    import captum.attr

    found = {}
    for name, value in vars(captum.attr).items():
        if not isinstance(value, type) or not issubclass(value, Attribution) or not hasattr(value, "attribute"):
            continue
        of_model, of_inputs = _required(value), _required(value.attribute)
        if of_model in (["forward_func"], ["model"]) and of_inputs == ["inputs"]:
            found[name] = value
    return found


def _required(function: Callable[..., Any]) -> list[str]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    asked = [p for p in inspect.signature(function).parameters.values() if p.kind in positional and p.name != "self"]
    return [p.name for p in asked if p.default is p.empty]


def _is_file(spec: str) -> bool:
    return Path(spec).suffix.lower() in STATE_DICTS


def _classifiers() -> list[str]:
    models = torchvision().models
    return list(models.list_models(module=models))


def _of_ours(spec: str, weights: str | Path | None, seed: int) -> Any:
    if spec != EFFICIENTNET:
        found = zoo.load(spec, weights or zoo.EMBEDDED, seed=seed)
    elif weights in (None, *efficientnet.WEIGHTS):
        found = efficientnet.efficientnet_lite0(str(weights or zoo.EMBEDDED), seed)
    else:
        found = efficientnet.efficientnet_lite0(zoo.RANDOM)
        _load_state(found, weights, spec)
        return found
    found.source = f"{spec}, {found.source}"
    return found


def _of_torchvision(spec: str, name: str, weights: str | Path | None, seed: int) -> Any:
    models = torchvision().models
    trained = models.get_model_weights(name).DEFAULT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = models.get_model(name, weights=None)
    if weights == zoo.RANDOM:
        found.source = f"{spec}, random (seed {seed})"
    elif weights in (None, zoo.IMAGENET):
        found.load_state_dict(zoo.download(trained, zoo.RANDOM))
        found.source = f"{spec}, {trained}"
    else:
        _load_state(found, weights, spec)
    return zoo.labeled(found, transform=trained.transforms(), categories=list(trained.meta["categories"]))


def _of_factory(spec: str, weights: str | Path | None) -> Any:
    module, _, name = spec.rpartition(":")
    factory = _attribute_of(spec, module, name, "network")
    if isinstance(factory, nn.Module):
        made = factory
    elif callable(factory):
        try:
            made = factory()
        except Exception as error:  # the code is not ours, and may raise anything
            raise InputError(
                f"the network {spec!r} cannot be made ({type(error).__name__}: {first_line(error)}); allowed is a"
                " function without arguments that returns a network."
            ) from error
    else:
        raise InputError(f"{spec} is of type {type(factory).__name__}; allowed is a function that returns a network.")
    module_made, transform = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module_made, nn.Module):
        raise InputError(f"{spec} returned a {type(made).__name__}; allowed is an nn.Module, or one with a transform.")
    transform = transform or getattr(module_made, "transform", None)
    if not callable(transform):
        transform = torchvision().models.VGG16_Weights.IMAGENET1K_V1.transforms()
    categories = getattr(module_made, "categories", None)
    found = zoo.labeled(module_made, transform=transform, categories=categories, source=spec)
    if weights is not None:
        _load_state(found, weights, spec)
    return found


def _load_state(network: Any, weights: str | Path | None, spec: str) -> None:
    assert weights is not None
    state = zoo.read_state(expand(weights))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise InputError(
            f"the weights '{weights}' do not fit {spec}: {first_line(lines[1].strip() if lines[1:] else error)};"
            " allowed is a state dict with its parameter names."
        ) from None
    network.source = f"{spec}, {weights}"


def _check_module(spec: str, module: str, what: str) -> None:
    _look_in_working_folder()
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise InputError(
            f"the {what} {spec!r} names a module {module!r} that does not exist;"
            f" allowed are {_NETWORKS if what == 'network' else _METHODS}."
        )


def _attribute_of(spec: str, module: str, name: str, what: str) -> Any:
    _look_in_working_folder()
    if importlib.util.find_spec("torchvision") is not None:
        torchvision()  # first, so that the code may import it beside whatever build of PyTorch there is
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the code is not ours, and may raise anything
        raise InputError(
            f"the {what} {spec!r} cannot be imported ({type(error).__name__}: {first_line(error)}); allowed is a module"
            " that can."
        ) from error
    if not hasattr(found, name):
        known = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
        raise InputError(
            f"the {what} {spec!r} does not exist{nearest(name, known)}; {module} has {', '.join(known[:20]) or 'none'}."
        )
    return getattr(found, name)


def _look_in_working_folder() -> None:
    """Look for modules in the working folder, too: the command, unlike `python -m`, does not by itself.

    It stays on the path, for what the module imports later; as the last one, so that it hides no other.
    """
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
