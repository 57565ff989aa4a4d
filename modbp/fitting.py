"""Fit a small classifier on top of VGG16's convolutions, which stay as they are.

From random crops, flips and color changes of a few photographs. Label smoothing keeps the margins at a few nats: a
saturated softmax has no gradient, so that an attack on it finds nothing and its probabilities mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from modbp import zoo
from modbp._torchvision import torchvision
from modbp.checks import at_least_one
from modbp.errors import InputError
from modbp.images import Photograph

HIDDEN = 128
SMOOTHING = 0.1
EPOCHS = 40


def draw_inputs(photographs: Sequence[Photograph], draws: int, seed: int = 0, size: int = 224) -> tuple[Tensor, Tensor]:
    """Return random crops, flips and color changes of photographs, and which photograph each was drawn from.

    Parameters
    ----------
    photographs : sequence of Photograph
    draws : int
        For each photograph.
    seed : int, default 0
    size : int, default 224
        Their side, in pixels.

    Returns
    -------
    inputs : Tensor, shape (photographs × draws, 3, size, size), uint8
    index : Tensor, shape (photographs × draws,)

    Raises
    ------
    InputError
        If there is no photograph, or a number is below 1.

    Examples
    --------
    >>> from modbp import images
    >>> pixels, index = draw_inputs(images.load(n=2), draws=3, size=64)
    >>> tuple(pixels.shape), index.tolist()
    ((6, 3, 64, 64), [0, 0, 0, 1, 1, 1])
    """
    at_least_one(draws=draws, size=size)
    if not photographs:
        raise InputError("photographs is empty; allowed are one or more.")
    torchvision()
    import torchvision.transforms as T

    draw = T.Compose(
        [
            T.RandomResizedCrop(size, scale=(0.4, 1.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05),
            T.PILToTensor(),
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = torch.stack([draw(p.image) for p in photographs for _ in range(draws)])
    return inputs, torch.arange(len(photographs)).repeat_interleave(draws)


def extract(
    trunk: Callable[[Tensor], Tensor],
    pixels: Tensor,
    batch: int = 20,
    preprocess: Callable[[Tensor], Tensor] = zoo.subtract_mean,
) -> Tensor:
    """Return the features of pictures.

    Parameters
    ----------
    trunk : callable
        From inputs to features, shape (batch, features).
    pixels : Tensor, shape (pictures, 3, height, width), uint8
    batch : int, default 20
        Pictures at a time.
    preprocess : callable, default `modbp.zoo.subtract_mean`
        From pixels to inputs.

    Returns
    -------
    Tensor, shape (pictures, features)

    Examples
    --------
    >>> extract(lambda x: x.mean((2, 3)), torch.zeros(3, 3, 8, 8, dtype=torch.uint8)).shape
    torch.Size([3, 3])
    """
    chunks = tqdm(pixels.split(batch), desc="features", disable=None if len(pixels) > batch else True)
    with torch.no_grad():
        return torch.cat([trunk(preprocess(chunk)) for chunk in chunks])


def fit(features: Tensor, targets: Tensor, classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the state dict of a classifier fitted to features, by torchvision's names, in float16.

    Parameters
    ----------
    features : Tensor, shape (pictures, features)
    targets : Tensor of integers, shape (pictures,)
    classes : int
        How many logits there are.
    seed : int, default 0

    Returns
    -------
    dict from str to Tensor
        `classifier.0.weight`, shape (128, features), to `classifier.6.bias`, shape (classes,).

    Raises
    ------
    InputError
        If there is not one target per picture, or one lies outside the classes.

    Examples
    --------
    >>> state = fit(torch.eye(4), torch.tensor([0, 1, 0, 1]), classes=2)
    >>> tuple(state["classifier.0.weight"].shape), tuple(state["classifier.6.bias"].shape)
    ((128, 4), (2,))
    """
    if targets.shape != features.shape[:1] or not bool(((targets >= 0) & (targets < classes)).all()):
        raise InputError(
            f"targets has shape {tuple(targets.shape)}; allowed are {len(features)} classes from 0 to {classes - 1}."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(features.shape[1], HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, classes)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        first, second, last = layers
        # Identity where torchvision has Dropout, so that the names are its own.
        classifier = nn.Sequential(first, nn.ReLU(), nn.Identity(), second, nn.ReLU(), nn.Identity(), last)
        scale = features.square().mean().sqrt()  # features of this network are far from unit size
        loss = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-4, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in tqdm(range(EPOCHS), desc="fit", disable=None):
            for rows in torch.randperm(len(features)).split(60):
                optimizer.zero_grad()
                # Half of the features are dropped: the classes must not hang on a few of them.
                kept = nn.functional.dropout(features[rows] / scale)
                loss(classifier(kept), targets[rows]).backward()
                optimizer.step()
            schedule.step()
    with torch.no_grad():
        first.weight /= scale
    return {f"classifier.{name}": tensor.half() for name, tensor in classifier.state_dict().items()}
