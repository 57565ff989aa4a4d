"""Measure what a sweep costs: each measurement of one picture, the same work on more workers, and tasks without work.

    python benchmarks/sweep.py [--images 8] [--workers 1 2] [--device cpu] [--parts PART ...] [--out FILE]

It writes one JSON file:

- `machine`: the processor, the GPU if it is used, the versions.
- `seconds_per_image`: for each measurement and method the seconds of one picture on one thread, with one seed and the
  layers of `--layers`; `together` is all methods of a measurement at once, which share forward passes.
- `scaling`: the same sweep on each number of workers: the seconds in all, those until the workers answer, and those of
  the work between the first task and the last.
- `overhead`: tasks that do nothing but carry a picture there and rows back, through the driver and onto the disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import machine
from tqdm import tqdm

from modbp.errors import InputError
from modbp.files import replacing
from modbp.progress import seconds_of
from modbp.sweep import clusters
from modbp.sweep.measures import MEASUREMENTS
from modbp.sweep.plan import Grid, Task, plan
from modbp.sweep.run import Failure, _Driver, run
from modbp.sweep.store import Store
from modbp.sweep.worker import Answer, Wanted, measure, pick_device

METHODS = ["gradient", "guided_backprop", "input_x_gradient", "lrp_zplus", "epsilon_plus", "deeplift_rescale"]
LAYERS = ["features.1", "features.15", "features.29", "classifier.1"]
PARTS = ("seconds_per_image", "scaling", "overhead")
OUT = Path(__file__).resolve().parents[1] / "book" / "_static" / "sweep.json"


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="pictures of the scaling, of 20 at most")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement; the median counts")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--scaled", nargs="+", default=["csc", "alignment"], help="the measurements of the scaling")
    parser.add_argument("--empty", type=int, default=200, help="tasks without work")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as the file has them")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


def median_seconds(call: Callable[[], Any], rounds: int, device: str) -> float:
    """Return the median over rounds, behind one that warms up."""
    return statistics.median([seconds_of(call, device) for _ in range(rounds + 1)][1:])


def per_image(options: argparse.Namespace, device: str) -> dict[str, dict[str, float]]:
    """Return the seconds of one picture, by measurement and method."""
    grid = grid_of(options, list(MEASUREMENTS), 1)
    task = next(plan(grid).tasks())
    by_measurement: dict[str, list[Wanted]] = {}
    for each in task.wanted:
        by_measurement.setdefault(each.measurement, []).append(each)
    parts = [(name, w.method.label, (w,)) for name, wanted in by_measurement.items() for w in wanted]
    parts += [(name, "together", tuple(wanted)) for name, wanted in by_measurement.items()]
    found: dict[str, dict[str, float]] = {"preparation": {"forward": 0.0}}
    nothing = dataclasses.replace(task.order(1, device), wanted=())
    # What every task has once: the picture is decoded, and the class is predicted.
    found["preparation"]["forward"] = median_seconds(lambda: measure(nothing), options.rounds, device)
    for name, label, wanted in tqdm(parts, desc="measurements", disable=None):
        order = dataclasses.replace(nothing, wanted=wanted)
        took = median_seconds(lambda order=order: measure(order), options.rounds, device)  # type: ignore[misc]
        found.setdefault(name, {})[label] = took - found["preparation"]["forward"]
    return found


def grid_of(options: argparse.Namespace, measurements: Sequence[str], images: int) -> Grid:
    """Return a grid of the embedded photographs."""
    return Grid.of(
        {
            "measure": list(measurements),
            "methods": options.methods,
            "layers": options.layers,
            "networks": {"network": options.network, "weights": options.weights},
            "n_images": images,
        }
    )


def scaling(options: argparse.Namespace, workers: int, device: str) -> dict[str, float]:
    """Return the seconds of the same sweep on a number of workers."""
    begun = time.perf_counter()
    with clusters.on_this_machine(workers) as client:
        client.wait_for_workers(workers)
        start = time.perf_counter() - begun
    grid = grid_of(options, options.scaled, options.images)
    with tempfile.TemporaryDirectory() as folder:
        end = run(grid, Path(folder, "results"), workers=workers, device=device)
        if end.failures:
            raise InputError(f"the sweep failed: {end.failures[0].reason}.")
        work = working_seconds(grid, workers, device)
    return {"workers": workers, "tasks": options.images, "seconds": end.seconds, "start": start, "work": work}


def working_seconds(grid: Grid, workers: int, device: str) -> float:
    """Return the seconds of the tasks on workers that have their network already."""
    tasks: list[Task] = list(plan(grid).tasks())
    with clusters.on_this_machine(workers) as client:
        client.wait_for_workers(workers)
        addresses = list(client.nthreads())
        first = tasks[0].order(1, device)
        client.gather([client.submit(measure, first, workers=[a], pure=False) for a in addresses])
        begun = time.perf_counter()
        client.gather([client.submit(measure, task.order(1, device), pure=False) for task in tasks])
        return time.perf_counter() - begun


def nothing(order: tuple[bytes, list[dict[str, Any]]]) -> Answer:
    """Return the rows that came along."""
    return Answer(rows=order[1])


@dataclass(frozen=True)
class Empty:
    """A task that carries a picture there and rows back."""

    number: int
    content: bytes
    rows: int = 48

    def call(self) -> tuple[Callable[[Any], Any], Any]:
        """Return what the worker is to do."""
        made = [
            {"key": f"{self.number:016x}{i:016x}", "measurement": "csc", "quantity": "median", "value": 0.5}
            for i in range(self.rows)
        ]
        return nothing, (self.content, made)

    def accept(self, answer: Answer) -> tuple[list[dict[str, Any]], list[Failure]]:
        """Return the rows."""
        return answer.rows, []

    def failures(self, reason: str) -> list[Failure]:
        """Return the failure."""
        return [Failure({"run": str(self.number)}, self.rows, reason)]


def overhead(tasks: int, workers: int) -> dict[str, float]:
    """Return the seconds of a task without work."""
    content = os.urandom(135_000)  # the mean of ImageNet's validation set: 6.7 GB for 50,000 pictures
    with tempfile.TemporaryDirectory() as folder, clusters.on_this_machine(workers) as client:
        client.wait_for_workers(workers)
        store = Store(Path(folder))
        driver = _Driver(client, store, tqdm(disable=True), print)
        driver.all(iter([Empty(10**6 + i, content) for i in range(4 * workers)]))  # the workers import what they need
        begun = time.perf_counter()
        driver.all(iter([Empty(i, content) for i in range(tasks)]))
        store.flush()
        took = time.perf_counter() - begun
        if driver.failed:
            raise InputError(f"a task without work failed: {driver.failed[0].reason}.")
    return {"workers": workers, "tasks": tasks, "seconds": took, "seconds_per_task": took / tasks}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the file."""
    options = read_options(arguments)
    try:
        device = pick_device(options.device)
        torch.set_num_threads(1)
        measures: dict[str, Callable[[], Any]] = {
            "seconds_per_image": lambda: per_image(options, device),
            "scaling": lambda: [scaling(options, workers, device) for workers in options.workers],
            "overhead": lambda: [overhead(options.empty, workers) for workers in options.workers],
        }
        before = {} if set(options.parts) == set(PARTS) else json.loads(options.out.read_text(encoding="utf-8"))
        found = before | {
            "machine": machine(device),
            "device": device,
            "network": options.network,
            "methods": options.methods,
            "layers": options.layers,
            "rounds": options.rounds,
            "scaling_measures": options.scaled,
            **{part: measures[part]() for part in options.parts},
        }
        with replacing(options.out.absolute()) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except InputError as error:
        print(f"sweep.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
