"""Tiny networks for tests of sweeps, named as `sweep_networks:tiny`; some note what happens to them, or misbehave."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

LOG = "SWEEP_TEST_LOG"
"""The environment variable that names the file where networks note what happens."""

SIZE = 16


def note(word: str) -> None:
    """Append a word with the process's id to the file that `LOG` names, if there is one."""
    if path := os.environ.get(LOG):
        with Path(path).open("a") as file:
            file.write(f"{word} {os.getpid()}\n")


def notes(path: Path, word: str) -> list[int]:
    """The ids of the processes that noted a word."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split()[1]) for line in lines if line.split()[0] == word]


def to_tensor(picture: Any) -> Tensor:
    """Pixels as numbers from 0 to 1, shape (3, 16, 16)."""
    pixels = np.asarray(picture.resize((SIZE, SIZE)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


class Tiny(nn.Sequential):
    """Two convolutions and two dense layers, with seeded weights."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(8 * 8 * 8, 12), nn.ReLU(), nn.Linear(12, 4)),
        )
        generator = torch.Generator().manual_seed(1)
        for p in self.parameters():
            fan_in = p[0].numel() if p.dim() > 1 else 1
            p.data = torch.randn(p.shape, generator=generator) * (2 / fan_in) ** 0.5 * (1 if p.dim() > 1 else 0.1)
        self.eval()


class Residual(nn.Module):
    """A batch norm, an addition, a concatenation, a ReLU that is used twice, and one in place."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
            self.second, self.relu = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
            self.last = nn.Linear(12, 4)
            self.norm.running_mean = torch.randn(6) / 5
            self.norm.running_var = torch.rand(6) + 0.5
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.norm(self.first(x)))
        b = F.relu(a + self.second(a), inplace=True)
        pooled = torch.cat([a.amax((2, 3)), b.mean((2, 3))], 1)
        return self.last(self.relu(pooled))


class Watched(Tiny):
    """Notes each forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        note("forward")
        return super().forward(x)


class Slow(Tiny):
    """Notes that it runs, and takes its time for a picture; the pictures of a plan are no pictures of a folder."""

    def forward(self, x: Tensor) -> Tensor:
        if "SWEEP_TEST_SLOW" in os.environ and x.device.type != "meta":
            note("forward")
            time.sleep(float(os.environ["SWEEP_TEST_SLOW"]))
        return super().forward(x)


class Killing(Tiny):
    """Kills its process at the sight of a red picture, as the machine does that runs out of memory."""

    def forward(self, x: Tensor) -> Tensor:
        if is_red(x):
            note("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Raising(Tiny):
    """Fails at the sight of a red picture."""

    def forward(self, x: Tensor) -> Tensor:
        if is_red(x):
            raise RuntimeError("it saw red\nand more")
        return super().forward(x)


def is_red(x: Tensor) -> bool:
    return bool(x.device.type != "meta" and x[:, 0].mean() > 0.9 and x[:, 1].mean() < 0.1)


def tiny() -> Any:
    note("load")
    return Tiny(), to_tensor


def residual() -> Any:
    return Residual(), to_tensor


def watched() -> Any:
    return Watched(), to_tensor


def slow() -> Any:
    return Slow(), to_tensor


def killing() -> Any:
    return Killing(), to_tensor


def raising() -> Any:
    return Raising(), to_tensor


def random_transform() -> Any:
    return Tiny(), lambda picture: to_tensor(picture) + torch.rand(1)


def failing_method(model: Any, inputs: Tensor, target: Any) -> Tensor:
    raise ValueError("this method fails")


def input_method(model: Any, inputs: Tensor, target: Any) -> Tensor:
    return inputs.clone()


def pictures(folder: Path, n: int, red: int | None = None) -> Path:
    """Write `n` small pictures of noise, one of which may be red."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        if i == red:
            pixels[:] = (255, 0, 0)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def keys_of(grid: dict[str, Any]) -> set[str]:
    """The keys of all rows of a grid."""
    from modbp.sweep import plan
    from modbp.sweep.measures import MEASUREMENTS, row_key
    from modbp.sweep.worker import subject_of

    found = set()
    for task in plan.plan(plan.Grid.of(grid)).tasks():
        subject = subject_of(task.subject.identity, task.picture.sha256)
        for w in task.wanted:
            kind = MEASUREMENTS[w.measurement]
            found |= {
                row_key(kind, q, subject, w.method, layer, w.seed)
                for q in kind.quantities
                for layer in w.layers or (None,)
            }
    return found
