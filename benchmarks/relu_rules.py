"""Time our methods and Captum's side by side on VGG16, as ratios to a plain forward and backward pass.

    python benchmarks/relu_rules.py [--rounds 7] [--batch 1] [--classes 4]

Each round runs everything once, in turn, so that a busy machine slows all alike; the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from captum.attr import Deconvolution, GuidedBackprop, Saliency

import modbp


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=4, help="classes explained together")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = modbp.zoo.load("vgg16")
    x = torch.stack([model.transform(p.image) for p in modbp.images.load(n=options.batch)])
    columns = torch.arange(options.classes).repeat(len(x), 1)

    def plain() -> object:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)

    def captum_classes(peer: object) -> Callable[[], object]:
        return lambda: [peer.attribute(x.clone(), target=k) for k in range(options.classes)]  # type: ignore[attr-defined]

    tasks: dict[str, Callable[[], object]] = {"plain forward and backward": plain}
    for name, peer in (("gradient", Saliency), ("guided_backprop", GuidedBackprop), ("deconvolution", Deconvolution)):
        theirs, ours = peer(model), modbp.make(name, model)
        tasks[f"{name}: captum"] = lambda theirs=theirs: theirs.attribute(x.clone(), target=3)  # type: ignore[misc]
        tasks[f"{name}: modbp"] = lambda ours=ours: ours.attribute(x, target=3)  # type: ignore[misc]
        tasks[f"{name}, {options.classes} classes: captum"] = captum_classes(theirs)
        tasks[f"{name}, {options.classes} classes: modbp"] = lambda ours=ours: ours.attribute_classes(x, columns)  # type: ignore[misc]
    rectgrad = modbp.make("rectgrad", model)
    tasks["rectgrad: modbp"] = lambda: rectgrad.attribute(x, target=3)

    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(options.rounds + 1):  # the first round only warms up
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    unit = medians["plain forward and backward"]
    print(f"VGG16, batch {len(x)}, {torch.get_num_threads()} threads, torch {torch.__version__}; unit {unit:.3f} s")
    for name, median in medians.items():
        print(f"{name:45s} {median / unit:5.2f}")


if __name__ == "__main__":
    main()
