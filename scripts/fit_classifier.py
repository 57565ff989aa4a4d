"""Fit the classifier of the embedded VGG16 and write it to a safetensors file.

The convolutions are ImageNet's and stay as they are. On top of them a small classifier, 25088 → 128 → 128 → 19, learns
the 19 classes of the 20 embedded photographs from random crops, flips and color changes of these; see
`modbp.fitting`.

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

from modbp import images, zoo
from modbp._torchvision import torchvision
from modbp.files import replacing
from modbp.fitting import draw_inputs, extract, fit


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
