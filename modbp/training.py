"""The small convolutional network of Sixt, Granz and Landgraf (2020), and what it is trained on.

In their paper it is the CIFAR-10 network. CIFAR-10 has to be downloaded; the digits that come with scikit-learn do
not, and train it in seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from modbp._torchvision import torchvision
from modbp.checks import above_zero, at_least_one, seeded
from modbp.errors import InputError, first_line
from modbp.files import expand


@dataclass(frozen=True, eq=False)
class Split:
    """Labeled pictures, in a part to train on and a part to test with.

    Parameters
    ----------
    train_inputs, test_inputs : Tensor, shape (pictures, channels, height, width)
        Of floating-point numbers.
    train_targets, test_targets : Tensor of int64, shape (pictures,)
        Positions in `categories`.
    categories : list of str
        The names of the classes.
    source : str
        Which pictures these are.

    Raises
    ------
    InputError
        If a part is empty, the shapes do not fit each other, or a target is no position in `categories`.

    Examples
    --------
    >>> pictures, targets = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])
    >>> Split(pictures[:2], targets[:2], pictures[2:], targets[2:], ["cat", "dog"], "three random pictures").source
    'three random pictures'
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    categories: list[str]
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            inputs, targets = getattr(self, f"{part}_inputs"), getattr(self, f"{part}_targets")
            _check_pictures(f"{part}_inputs", inputs, f"{part}_targets", targets)
            if not bool(((targets >= 0) & (targets < len(self.categories))).all()):
                raise InputError(
                    f"{part}_targets are from {int(targets.min())} to {int(targets.max())}; allowed are positions in"
                    f" categories, from 0 to {len(self.categories) - 1}."
                )
        if self.test_inputs.shape[1:] != self.train_inputs.shape[1:]:
            raise InputError(
                f"test_inputs are pictures of shape {tuple(self.test_inputs.shape[1:])}; allowed is that of"
                f" train_inputs, {tuple(self.train_inputs.shape[1:])}."
            )


def small_cnn(channels: int, side: int, classes: int, seed: int = 0) -> nn.Sequential:
    """Return the small convolutional network of Sixt, Granz and Landgraf (2020), not yet trained, in eval mode.

    Two 3 × 3 convolutions of 32 and 64 channels, a max-pooling, two convolutions of 128 channels, a max-pooling, a
    linear layer of 1024 units and one of as many as there are classes; a ReLU behind each but the last, and dropout of
    one half before both linear layers. There is no batch norm, and no softmax at the end. Source: the architecture is
    that of their CIFAR-10 network, read in their public code. As in its library, Keras, weights are uniform in
    ±√(6 / (fan in + fan out)) (Glorot and Bengio, 2010, equation 16) and biases zero.

    Parameters
    ----------
    channels : int
        Of a picture.
    side : int
        Of a square picture, in pixels: a multiple of 4.
    classes : int
    seed : int, default 0

    Returns
    -------
    nn.Sequential
        From inputs of shape (batch, channels, side, side) to logits of shape (batch, classes). Its modules are `conv1`,
        `relu1`, `conv2`, `relu2`, `pool1`, `conv3`, `relu3`, `conv4`, `relu4`, `pool2`, `flatten`, `dropout1`, `fc5`,
        `relu5`, `dropout2` and `fc6`.

    Raises
    ------
    InputError
        If a size is below 1, or the side is no multiple of 4.

    Examples
    --------
    >>> network = small_cnn(channels=3, side=32, classes=10)
    >>> sum(parameter.numel() for parameter in network.parameters())
    8640714
    """
    at_least_one(channels=channels, side=side, classes=classes)
    if side % 4:
        raise InputError(f"side is {side}; allowed are multiples of 4, which two poolings halve.")
    generator = seeded(seed)
    with torch.device("meta"):  # draws nothing, so that nobody's random numbers change
        network = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 3, padding=1),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 64, 3, padding=1),
                relu2=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(64, 128, 3, padding=1),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(128, 128, 3, padding=1),
                relu4=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                dropout1=nn.Dropout(0.5),
                fc5=nn.Linear(128 * (side // 4) ** 2, 1024),
                relu5=nn.ReLU(),
                dropout2=nn.Dropout(0.5),
                fc6=nn.Linear(1024, classes),
            )
        )
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return network.eval()


def digits(side: int = 16, test_share: float = 0.2, seed: int = 0) -> Split:
    """Return the 1797 handwritten digits of scikit-learn, which need no download.

    The pictures have 8 × 8 pixels with values from 0 to 16. They are divided by 16, brought to another size by bilinear
    interpolation, and put into a random order, of which the first part is for testing.

    Parameters
    ----------
    side : int, default 16
        In pixels.
    test_share : float, default 0.2
        Of the pictures, above 0 and below 1, rounded to whole pictures.
    seed : int, default 0
        Of the order.

    Returns
    -------
    Split
        Inputs have shape (pictures, 1, side, side), in float32 from 0 to 1.

    Raises
    ------
    InputError
        If the side is below 1, the share leaves a part empty, or scikit-learn is not installed.

    Examples
    --------
    >>> split = digits()
    >>> split.train_inputs.shape, split.test_inputs.shape
    (torch.Size([1438, 1, 16, 16]), torch.Size([359, 1, 16, 16]))
    """
    at_least_one(side=side)
    if isinstance(test_share, bool) or not isinstance(test_share, int | float) or not 0 < test_share < 1:
        raise InputError(f"test_share is {test_share!r}; allowed are numbers above 0 and below 1.")
    generator = seeded(seed)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("digits needs scikit-learn; install it with: pip install 'modbp[notebooks]'.") from None
    loaded = load_digits()
    inputs = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    inputs = F.interpolate(inputs, size=(side, side), mode="bilinear", align_corners=False)
    targets = torch.tensor(loaded.target, dtype=torch.int64)
    tests = round(test_share * len(inputs))
    if not 0 < tests < len(inputs):
        raise InputError(
            f"test_share is {test_share!r}, which is {tests} of {len(inputs)} pictures; allowed are shares that leave"
            " at least one to test with and one to train on."
        )
    order = torch.randperm(len(inputs), generator=generator)
    test, train_on = order[:tests], order[tests:]
    return Split(
        inputs[train_on],
        targets[train_on],
        inputs[test],
        targets[test],
        [str(name) for name in loaded.target_names],
        f"the digits of scikit-learn at {side} × {side} pixels (seed {seed})",
    )


def cifar10(folder: str | Path) -> Split:
    """Return CIFAR-10: 60000 photographs of 32 × 32 pixels in ten classes, downloaded where they are not there.

    Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009, with its own split.

    Parameters
    ----------
    folder : str or Path
        Where `cifar-10-batches-py` is, or will be: 170 MB to download, and as much again when they are unpacked.

    Returns
    -------
    Split
        Inputs have shape (pictures, 3, 32, 32), in float32 from 0 to 1.

    Raises
    ------
    InputError
        If the pictures are not in the folder and cannot be downloaded, or torchvision is not installed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     cifar10(file.name)
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: folder is the file '...'; allowed is a folder, which need not exist.
    """
    if not isinstance(folder, str | Path) or not str(folder):
        raise InputError(f"folder is {folder!r}; allowed is the path of a folder, which need not exist.")
    root = expand(folder)
    if root.exists() and not root.is_dir():
        raise InputError(f"folder is the file '{root}'; allowed is a folder, which need not exist.")
    torchvision()
    from torchvision.datasets import CIFAR10  # behind the shim

    try:
        parts = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except Exception as error:  # a download, and the readers of a damaged file, raise many types
        reason = first_line(getattr(error, "reason", error))
        raise InputError(
            f"CIFAR-10 is not in '{root}' and cannot be downloaded ({reason}); allowed are a network connection, a"
            f" folder that holds {CIFAR10.base_folder}, or modbp.training.digits(), which needs no download."
        ) from None
    (train_inputs, train_targets), (test_inputs, test_targets) = (
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).float() / 255, torch.tensor(part.targets)) for part in parts
    )
    return Split(train_inputs, train_targets, test_inputs, test_targets, list(parts[0].classes), "CIFAR-10")


def train(
    network: nn.Module,
    split: Split,
    epochs: int,
    batch: int = 32,
    seed: int = 0,
    learning_rate: float = 1e-3,
    augment: bool = False,
) -> list[float]:
    """Train a network in place with Adam and the cross-entropy of its logits, and leave it in eval mode.

    The defaults are those of Sixt, Granz and Landgraf (2020) for their small network on CIFAR-10, with `augment=True`
    and 100 epochs, read in their public code. With one thread, equal arguments give equal weights.

    Parameters
    ----------
    network : nn.Module
        From the split's pictures to logits of shape (pictures, categories). Its parameters change, unless they need
        no gradient; no gradients are left in them.
    split : Split
        Its pictures go to the network's device and data type, a batch at a time.
    epochs : int
        How often each picture is seen.
    batch : int, default 32
        Pictures at a time.
    seed : int, default 0
        Of the order of the pictures, of dropout and of the augmentation. The global random numbers do not change.
    learning_rate : float, default 1e-3
    augment : bool, default False
        Flip half of the pictures from left to right, and shift all by whole pixels, up to a tenth of their height and
        width, with the pixel at the border repeated. For photographs; a flipped digit is none.

    Returns
    -------
    list of float
        After each epoch, the share of the test pictures that the network gets right.

    Raises
    ------
    InputError
        If an argument is not allowed, the network does not fit the pictures, or the loss is not finite, where the
        weights stay as they are at that moment.

    Examples
    --------
    >>> split = digits(side=8)
    >>> network = small_cnn(channels=1, side=8, classes=10)
    >>> shares = train(network, split, epochs=1)
    >>> shares[0] > 0.5, network.training
    (True, False)
    """
    _check_network(network)
    if not isinstance(split, Split):
        raise InputError(f"split is {type(split).__name__}; allowed is a modbp.training.Split.")
    at_least_one(epochs=epochs, batch=batch)
    seeded(seed)
    above_zero("learning_rate", learning_rate)
    if not isinstance(augment, bool):
        raise InputError(f"augment is {augment!r}; allowed are True and False.")
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("network has no parameter that needs a gradient; allowed are networks with one or more.")
    _check_fit(network, split)
    inputs, targets = split.train_inputs, split.train_targets
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    bar = tqdm(total=epochs * math.ceil(len(inputs) / batch), desc="training", disable=None)
    shares: list[float] = []
    with torch.random.fork_rng(), bar, torch.enable_grad():
        torch.manual_seed(seed)  # the global generator, because dropout draws from no other
        try:
            for epoch in range(1, epochs + 1):
                network.train()
                for chosen in torch.randperm(len(inputs)).to(inputs.device).split(batch):
                    pictures = _augmented(inputs[chosen]) if augment else inputs[chosen]
                    logits = network(pictures.to(trained[0]))
                    loss = F.cross_entropy(logits, targets[chosen].to(logits.device))
                    if not math.isfinite(loss.item()):
                        raise InputError(
                            f"the loss is {loss.item()} in epoch {epoch} with learning_rate {learning_rate!r}; allowed"
                            " is a finite one, so lower learning_rate or look for inputs that are not finite."
                        )
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    bar.update()
                shares.append(accuracy(network, split.test_inputs, split.test_targets))
                bar.set_postfix(accuracy=f"{shares[-1]:.3f}")
        finally:
            optimizer.zero_grad(set_to_none=True)
            network.eval()
    return shares


def accuracy(network: nn.Module, inputs: Tensor, targets: Tensor, batch: int = 500) -> float:
    """Return the share of pictures whose largest logit is that of their target, in eval mode.

    Parameters
    ----------
    network : nn.Module
        From pictures to logits of shape (pictures, classes). Afterwards it is in the mode that it was in.
    inputs : Tensor, shape (pictures, channels, height, width)
        They go to the network's device and data type, a batch at a time.
    targets : Tensor of int64, shape (pictures,)
    batch : int, default 500
        Pictures at a time.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    InputError
        If there is no picture, or not one target for each.

    Examples
    --------
    >>> accuracy(nn.Flatten(), torch.eye(3).view(3, 3, 1, 1), torch.tensor([0, 1, 0]))
    0.6666666666666666
    """
    _check_network(network)
    _check_pictures("inputs", inputs, "targets", targets)
    at_least_one(batch=batch)
    right = 0
    with _evaluating(network), torch.no_grad():
        for pictures, expected in zip(inputs.split(batch), targets.split(batch), strict=True):
            predicted = network(pictures.to(next(network.parameters(), inputs))).argmax(1)
            right += int((predicted == expected.to(predicted.device)).sum())
    return right / len(inputs)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and afterwards each of its modules back in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_network(network: nn.Module) -> None:
    if not isinstance(network, nn.Module):
        raise InputError(f"network is {type(network).__name__}; allowed is an nn.Module.")


def _check_pictures(name: str, inputs: Tensor, targets_name: str, targets: Tensor) -> None:
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point() or not inputs.numel():
        given = (
            f"{inputs.dtype} of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        )
        raise InputError(
            f"{name} is {given}; allowed are floating-point tensors of shape (pictures, channels, height, width) with"
            " at least one entry."
        )
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != inputs.shape[:1]:
        given = (
            f"{targets.dtype} of shape {tuple(targets.shape)}"
            if isinstance(targets, Tensor)
            else type(targets).__name__
        )
        raise InputError(f"{targets_name} is {given}; allowed is torch.int64 of shape ({len(inputs)},), as {name} has.")


def _check_fit(network: nn.Module, split: Split) -> None:
    """Refuse a network that does not map the split's pictures to one logit for each category."""
    picture = split.train_inputs[:1]
    try:
        with _evaluating(network), torch.no_grad():
            found = tuple(network(picture.to(next(network.parameters()))).shape)
    except RuntimeError as error:  # what layers raise for another shape
        raise InputError(
            f"network cannot take pictures of shape {tuple(picture.shape[1:])} ({first_line(error)}); allowed is one"
            " that is made for them."
        ) from None
    if found != (1, len(split.categories)):
        raise InputError(
            f"network returns shape {found} for one picture; allowed is {(1, len(split.categories))}, a logit for each"
            " category."
        )


def _augmented(pictures: Tensor) -> Tensor:
    """Return pictures that are flipped, half of them, and shifted, by global random numbers."""
    number, channels, height, width = pictures.shape
    flipped = torch.rand(number, 1) < 0.5
    shift_down, shift_right = (torch.randint(-(size // 10), size // 10 + 1, (number, 1)) for size in (height, width))
    rows = (torch.arange(height) - shift_down).clamp(0, height - 1)
    columns = (torch.arange(width) - shift_right).clamp(0, width - 1)
    columns = torch.where(flipped, width - 1 - columns, columns)
    each, channel = torch.arange(number).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1)
    # Drawn on the CPU whatever the pictures' device, so that the same seed draws the same.
    indices = (each, channel, rows[:, None, :, None], columns[:, None, None, :])
    return pictures[tuple(index.to(pictures.device) for index in indices)]
