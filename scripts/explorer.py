"""Draw the pictures of the page "rule explorer", and write the numbers beside them.

For each photograph and each rule one WebP sheet: a row for each stage at which layers are random, a column for each
class. `data.js` says what the sheets hold, and assigns it to a global variable, since a page that is opened from a
folder may load scripts and pictures but no JSON.

    python scripts/explorer.py                       # rewrites book/_static/explorer/maps, in about half an hour
    python scripts/explorer.py --photographs 6 --output my-maps

The maps are kept under `--work` as they are made, so that an interrupted run goes on where it stopped, and another
`--quality` takes seconds. The output is replaced at the end, as a whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

import modbp
from modbp import images, networks, patterns, plot, zoo
from modbp.checks import seeded
from modbp.errors import InputError
from modbp.files import replacing
from modbp.metrics import predicted_and_others
from modbp.metrics.sanity import EDGES, NOISE, SPEARMAN, STRICT
from modbp.metrics.sanity.conventions import Prepared
from modbp.metrics.sanity.explaining import Explainer, explainers_of, shuffled

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "book" / "_static" / "explorer" / "maps"
WORK = ROOT / "_build" / "explorer"
MOST_BYTES = 15_000_000
"""The pictures and the numbers may have no more than this: a book is downloaded."""

GLOBAL = "modbpExplorer"
"""The variable that `data.js` assigns."""

RANDOM_DOWN_TO = ("fc3", "fc1", "conv4_1", "conv3_1", "conv2_1", "conv1_1")
"""Stages of the walkthrough on random parameters: that layer and all above it are random."""

OTHER_CLASSES = 1
N_FITTED = 8
"""How many photographs the patterns are fitted to, again in each network."""

PATTERNED = ("pattern_net", "pattern_attribution")
FAMILIES: Mapping[str, tuple[str, ...]] = {**plot.FAMILIES, "controls": (NOISE, EDGES)}
RULES = tuple(rule for members in FAMILIES.values() for rule in members)


@dataclass(frozen=True)
class Settings:
    """What decides how the map of a photograph comes out.

    Attributes
    ----------
    size, side : int
        Of the network's input and of a picture, in pixels.
    seed : int
    """

    size: int
    side: int
    seed: int


class Study:
    """The network, the first photographs, and the same network with more and more random layers."""

    def __init__(self, photographs: int, settings: Settings) -> None:
        self.settings = settings
        self.network = zoo.load(seed=settings.seed)
        loaded = images.load(n=max(photographs, N_FITTED))
        self.photographs = loaded[:photographs]
        prepared = torch.stack([self.network.transform(p.image) for p in loaded])
        if settings.size != prepared.shape[-1]:
            # In float64, as in the walkthrough: another processor then rounds to the same pixels.
            smaller = interpolate(prepared.double(), settings.size, mode="bilinear", antialias=True)
            prepared = smaller.to(prepared.dtype)
        self.inputs, self.fitted = prepared[:photographs], prepared[:N_FITTED]
        layers = list(networks.weighted_layers(self.network))
        # The papers' names, from the input up; the logits are fc3, as in the walkthrough.
        names = [name if name != "logits" else "fc3" for name in zoo.vgg16_activations()]
        self.count = len(layers)
        above = {name: layers[names.index(name) :] for name in RANDOM_DOWN_TO}
        self.stages = [{"id": "trained", "layers": 0, "lowest": None}]
        self.stages += [{"id": name, "layers": len(at), "lowest": name} for name, at in above.items()]
        cascade = networks.randomized_cascade(self.network, above.values(), settings.seed)
        self.networks = [self.network, *cascade]
        with torch.no_grad():
            # Shape (stages, photographs, classes), one photograph at a time: batches round differently.
            self.logits = torch.stack([torch.cat([net(x) for x in self.inputs.split(1)]) for net in self.networks])
        self.classes = predicted_and_others(self.logits[0], OTHER_CLASSES, settings.seed)

    @cached_property
    def weights(self) -> dict[str, str]:
        """Which weights the trained network has."""
        return zoo.describe(self.network)

    @property
    def key(self) -> str:
        """A name for the folder of maps that were made with these settings, weights and stages, by this version."""
        made = {**asdict(self.settings), **self.weights, "modbp": modbp.__version__}
        made |= {"stages": self.stages, "fitted": N_FITTED, "clip": plot.CLIP}
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]

    def explainers(self, rule: str) -> list[Explainer]:
        """Return what makes a rule's maps, one for each network: patterns are fitted again in each."""
        if rule in PATTERNED:
            pairs = zip(self.networks, self.patterns, strict=True)
            return [explainers_of({rule: modbp.make(rule, n, patterns=found)}, n)[0] for n, found in pairs]
        return explainers_of([rule], self.network) * len(self.networks)

    @cached_property
    def patterns(self) -> list[dict[str, Tensor]]:
        """The patterns of each network."""
        return [patterns.fit(net, self.fitted.split(1)) for net in tqdm(self.networks, "patterns", disable=None)]

    def maps(self, rule: str, photograph: int, stages: Sequence[int] | None = None) -> Tensor:
        """Return a rule's maps of a photograph, shape (stages, classes, 3, size, size)."""
        x, classes = self.inputs[photograph, None], self.classes[photograph, None]
        explainers = self.explainers(rule)
        wanted = range(len(self.networks)) if stages is None else stages
        return torch.stack([explainers[s].maps(self.networks[s], x, classes, None)[:, 0] for s in wanted])

    def picture(self, attribution: Tensor) -> np.ndarray[Any, Any]:
        """Return a map, shape (3, size, size), as the book draws it, in bytes."""
        values = attribution[None].double()
        if self.settings.side != self.settings.size:
            values = interpolate(values, self.settings.side, mode="bilinear", antialias=True)
        return as_bytes(plot.as_picture(values[0]))

    def numbers(self, rule: str, photograph: int, maps: Tensor) -> dict[str, Any]:
        """Return how alike maps, shape (stages, classes, ...), and the first of them are, with their floor."""
        drawn = self.explainers(rule)[0].drawn

        def prepared(single: Tensor) -> Prepared:
            return Prepared.of(single, [STRICT], drawn)

        reference = prepared(maps[:1, 0])
        floor = reference.ssim(prepared(shuffled(reference.maps, self.settings.seed, photograph)), STRICT)
        alike = [[reference.similarities(prepared(m[None]), [STRICT]) for m in row] for row in maps]
        return {
            "floor": rounded(floor[0]),
            "ssim": [[rounded(found[STRICT][0]) for found in row] for row in alike],
            "rank": [[rounded(found[SPEARMAN][0]) for found in row] for row in alike],
        }


def short(category: str) -> str:
    """Return the first of the names that a category has."""
    return category.split(",")[0]


def as_bytes(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a picture with values in [0, 1] as one with values of 0 to 255."""
    return (picture * 255).round().astype(np.uint8)


def rounded(value: float) -> float | None:
    """Return a number with two decimals and no negative zero; None for one that is undefined."""
    return round(value, 2) + 0.0 if math.isfinite(value) else None


def make(study: Study, rule: str, photograph: int, path: Path) -> None:
    """Compute the maps of one sheet and keep their pictures and numbers in a file."""
    maps = study.maps(rule, photograph)
    pictures = np.stack([np.stack([study.picture(m) for m in row]) for row in maps])
    with replacing(path) as temporary:
        np.savez_compressed(temporary, pictures=pictures, numbers=json.dumps(study.numbers(rule, photograph, maps)))


def write(study: Study, rules: Sequence[str], work: Path, folder: Path, quality: int) -> None:
    """Write the sheets, the photographs and `data.js` into an empty folder."""
    shown, categories = [], zoo.imagenet_categories()
    for i, photograph in enumerate(study.photographs):
        stem = Path(photograph.name).stem
        picture = Image.fromarray(as_bytes(plot.photograph(study.inputs[i]))).resize(
            [study.settings.side] * 2, Image.Resampling.LANCZOS
        )
        save(picture, folder / f"{stem}.webp", max(quality, 80))
        found = {}
        for rule in rules:
            kept = np.load(work / f"{stem}-{rule}.npz")
            rows, columns, side = kept["pictures"].shape[:3]
            sheet = kept["pictures"].swapaxes(1, 2).reshape(rows * side, columns * side, 3)
            name = f"{stem}-{rule}.webp"
            save(Image.fromarray(sheet), folder / name, quality)
            found[rule] = {"sheet": name, **json.loads(str(kept["numbers"]))}
        asked = study.classes[i]
        shown.append(
            {
                "id": stem,
                "picture": f"{stem}.webp",
                "name": short(categories[photograph.label]) if photograph.label is not None else stem,
                "classes": asked.tolist(),
                "logits": [[rounded(v) for v in logits[i, asked].tolist()] for logits in study.logits],
                "top": study.logits[:, i].argmax(1).tolist(),
                "top_logit": [rounded(v) for v in study.logits[:, i].amax(1).tolist()],
                "rules": found,
            }
        )
    data = {
        "modbp": modbp.__version__,
        "settings": {**asdict(study.settings), "quality": quality},
        "weights": study.weights,
        "photographs_from": "ImageNet samples that are distributed with Foolbox",
        "patterns_fitted_to": N_FITTED,
        "measure": STRICT.label,
        "layers": study.count,
        "categories": [short(name) for name in study.network.categories],
        "families": {name: [r for r in members if r in rules] for name, members in FAMILIES.items()},
        "names": {rule: plot.NAMES.get(rule, rule) for rule in rules},
        "stages": study.stages,
        "photographs": shown,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (folder / "data.js").write_text(f"window.{GLOBAL} = {text};\n", encoding="utf-8")


def save(picture: Image.Image, path: Path, quality: int) -> None:
    """Write a WebP file, with the most thorough of its searches."""
    picture.save(path, "webp", quality=quality, method=6)


def read(path: Path) -> dict[str, Any]:
    """Return what a `data.js` says."""
    text = path.read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text.partition("=")[2].strip().removesuffix(";"))
    return data


def replace_folder(new: Path, output: Path) -> None:
    """Put one folder in the place of another."""
    old = new.with_name(f"{new.name}.old")
    if output.exists():
        output.rename(old)
    new.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute what is missing, write the folder, report its size; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=3, help="how many, from the first on")
    parser.add_argument("--rules", nargs="+", default=[*RULES], help="which; by default all, and two controls")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--side", type=int, default=192, help="side of a picture in pixels, at most --size")
    parser.add_argument("--quality", type=int, default=80, help="of the WebP sheets")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and the other classes")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the folder to replace")
    parser.add_argument("--work", type=Path, default=WORK, help="where maps are kept until they are drawn")
    options = parser.parse_args(arguments)
    for name, low, high in (("photographs", 1, 20), ("size", 32, 512), ("side", 16, options.size), ("quality", 1, 100)):
        value = getattr(options, name)
        if not low <= value <= high:
            parser.error(f"--{name} is {value}; allowed are whole numbers from {low} to {high}.")
    rules = [rule for rule in RULES if rule in options.rules]
    unknown = [rule for rule in options.rules if rule not in RULES]
    if unknown:
        parser.error(f"--rules holds {unknown[0]!r}; allowed are {', '.join(RULES)}.")
    output = options.output.absolute()
    if not output.parent.is_dir():
        parser.error(f"--output is in '{options.output.parent}', which is no folder; allowed is an existing one.")
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / "data.js").is_file()):
        parser.error(f"--output is '{options.output}', which holds other things; allowed is an empty or a new folder.")
    # One thread: sums are then added up in one order, so that another run draws the same pixels.
    torch.set_num_threads(1)
    try:
        seeded(options.seed)
        study = Study(options.photographs, Settings(options.size, options.side, options.seed))
    except InputError as error:
        parser.error(str(error))
    work = options.work / study.key
    work.mkdir(parents=True, exist_ok=True)
    jobs = [
        (rule, i, path)
        for i, photograph in enumerate(study.photographs)
        for rule in rules
        if not (path := work / f"{Path(photograph.name).stem}-{rule}.npz").is_file()
    ]
    for rule, i, path in tqdm(jobs, desc="sheets of maps", disable=None):
        make(study, rule, i, path)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        new = Path(temporary) / output.name
        new.mkdir()
        write(study, rules, work, new, options.quality)
        size = sum(path.stat().st_size for path in new.iterdir())
        if size > MOST_BYTES:
            print(
                f"error: the pictures have {size / 1e6:.1f} MB, and {MOST_BYTES / 1e6:.0f} MB are allowed; take a"
                " smaller --side, a lower --quality or fewer --photographs.",
                file=sys.stderr,
            )
            return 1
        replace_folder(new, output)
    print(f"wrote {len(study.photographs) * len(rules)} sheets to {options.output} ({size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
