"""Fit the classifier of the embedded VGG16 and write it to a safetensors file.

The convolutions are ImageNet's and stay as they are. On top of them a small classifier, 25088 → 128 → 128 → 19, learns
the 19 classes of the 20 embedded photographs from random crops, flips and color changes of these. Label smoothing
keeps its margins at a few nats: a saturated softmax has no gradient, so that an attack on it finds nothing and its
probabilities mean nothing.

    python scripts/fit_classifier.py                 # rewrites modbp/data/vgg16_classifier.safetensors
    python scripts/fit_classifier.py --output x.safetensors --draws 12 --seed 0
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from modbp import images, zoo
from modbp._torchvision import torchvision
from modbp.files import replacing

HIDDEN = 128
SMOOTHING = 0.1
EPOCHS = 40


class Trunk(nn.Module):
    """VGG16's convolutions: inputs, shape (batch, 3, 224, 224), to features, shape (batch, 25088)."""

    def __init__(self) -> None:
        super().__init__()
        vgg = torchvision().models.vgg
        with torch.device("meta"):
            self.features = vgg.make_layers(vgg.cfgs["D"])
        self.load_state_dict(zoo.trunk(), assign=True)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return self.features(x).flatten(1)


def draw_inputs(photographs: Sequence[images.Photograph], draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return random crops, flips and color changes of photographs, and which photograph each was drawn from.

    Parameters
    ----------
    photographs : sequence of Photograph
    draws : int
        For each photograph.
    seed : int

    Returns
    -------
    inputs : Tensor, shape (photographs × draws, 3, 224, 224), uint8
    index : Tensor, shape (photographs × draws,)
    """
    torchvision()
    import torchvision.transforms as T

    draw = T.Compose(
        [
            T.RandomResizedCrop(224, scale=(0.4, 1.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05),
            T.PILToTensor(),
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = torch.stack([draw(p.image) for p in photographs for _ in range(draws)])
    return inputs, torch.arange(len(photographs)).repeat_interleave(draws)


def extract(trunk: nn.Module, pixels: Tensor, batch: int = 20) -> Tensor:
    """Return the trunk's features of uint8 pictures, shape (pictures, 25088)."""
    chunks = tqdm(pixels.split(batch), desc="features", disable=None)
    with torch.no_grad():
        return torch.cat([trunk(zoo.subtract_mean(chunk)) for chunk in chunks])


def fit(features: Tensor, targets: Tensor, classes: int, seed: int) -> dict[str, Tensor]:
    """Return the state dict of a classifier fitted to features, by torchvision's names, in float16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(zoo.FEATURES, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, classes)]
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


def build(draws: int, seed: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the fitted state dict and the metadata that the file holds beside it."""
    photographs = images.load()
    labels = torch.tensor([p.label for p in photographs])
    classes, targets = labels.unique(return_inverse=True)
    pixels, index = draw_inputs(photographs, draws, seed)
    state = fit(extract(Trunk(), pixels), targets[index], len(classes), seed)
    names = zoo.imagenet_categories()
    metadata = {
        "imagenet_classes": json.dumps(classes.tolist()),
        "categories": json.dumps([names[i] for i in classes.tolist()]),
        "made_by": f"scripts/fit_classifier.py --draws {draws} --seed {seed}",
    }
    return state, metadata


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, report, write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=zoo.CLASSIFIER, help="the file to write")
    parser.add_argument("--draws", type=int, default=12, help="random draws of each photograph")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.draws < 1:
        parser.error(f"--draws is {options.draws}; allowed are whole numbers from 1 upwards.")
    if not options.output.parent.is_dir():
        parser.error(f"--output is in '{options.output.parent}', which is no folder; allowed is an existing one.")
    from safetensors.torch import save_file

    state, metadata = build(options.draws, options.seed)
    with replacing(options.output) as temporary:
        save_file(state, temporary, metadata)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
