"""Measure one contender in a process of its own, and print what was found as one line of JSON; `run.py` calls this."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import warnings
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, FORMULAS, RELU_FORMULAS, AbsentError, Call, Contender, Starts, network, plain
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modbp.errors import first_line
from modbp.progress import seconds_of

WARM_UP = 2
"""Rounds that are run and not counted."""

TOLERANCE = 0.01
"""How far from 1 the sum of a map may be, as a share of what it must add up to."""

# For each operation that applies a layer's weights, the argument whose first dimension is the batch.
PRODUCTS = {
    "aten::convolution": 0,
    "aten::convolution_backward": 0,
    "aten::addmm": 1,
    "aten::mm": 0,
}


class Counting(TorchDispatchMode):
    """Counts the operations that apply a layer's weights: calls by name, and products of one sample.

    An operation on twice the batch is one call and counts twice as a product, and one on some rows of a dense layer's
    weights counts as that share of a product.
    """

    def __init__(self, batch: int, model: nn.Module) -> None:
        super().__init__()
        self.batch = batch
        dense = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self.layers = Counter(m.in_features for m in dense)
        self.rows: Counter[int] = Counter()
        for m in dense:
            self.rows[m.in_features] += m.out_features
        self.calls: Counter[str] = Counter()
        self.products = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in PRODUCTS:
            self.calls[name.removeprefix("aten::")] += 1
            sides = sum(args[10][:2]) if name == "aten::convolution_backward" else 1  # input, weight
            share = self._share(args[-1].shape) if name.endswith("mm") else 1.0
            self.products += sides * share * args[PRODUCTS[name]].shape[0] / self.batch
        return func(*args, **(kwargs or {}))

    def _share(self, shape: torch.Size) -> float:
        """Return which part of a dense layer's weights a matrix holds, on average over the layers of equal width."""
        for width, rows in (shape, shape[::-1]):
            if width in self.layers and rows <= self.rows[width]:
                return self.layers[width] * rows / self.rows[width]
        return 1.0


def import_everything() -> None:
    """Import all libraries in every process, so that their code weighs the same in each."""
    import contextlib

    import captum.attr  # noqa: F401

    import modbp.attr  # noqa: F401
    from modbp._torchvision import torchvision

    torchvision()
    with contextlib.suppress(ImportError):  # its rows then say so
        import zennit.attribution
        import zennit.composites
        import zennit.torchvision  # noqa: F401


def peak_memory(device: str) -> int:
    """Return the largest memory so far, in bytes: the process's on the CPU, that of all tensors on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss may begin with that of the parent process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine(device: str) -> dict[str, Any]:
    """Return what of the machine matters to the numbers."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("torch", "torchvision", "captum", "zennit")
    installed = {d.metadata["Name"].lower() for d in metadata.distributions() if d.metadata["Name"]}
    facts: dict[str, Any] = {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in packages if name in installed},
    }
    if device == "cuda":
        facts["accelerator"] = torch.cuda.get_device_name()
        facts["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
    return facts


def compare(call: Call, reference: Call, rounds: int, device: str) -> dict[str, Any]:
    """Time two calls in turn, and return the ratio of their medians with the quartiles of the rounds' own ratios."""
    pairs = [(seconds_of(reference, device), seconds_of(call, device)) for _ in range(WARM_UP + rounds)][WARM_UP:]
    references, calls = zip(*pairs, strict=True)
    ratios = [mine / other for other, mine in pairs]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
    unit = statistics.median(references)
    return {"ratio": statistics.median(calls) / unit, "quartiles": [low, high], "unit_seconds": unit}


def fault(contender: Contender, found: Any, start: Tensor, gradient: Call) -> str | None:
    """Return what is wrong with a map, or None.

    The networks have no biases, so relevance must add up to what it started from.
    """
    if not torch.isfinite(found).all():
        return "the map holds values that are not finite"
    if contender.formula in RELU_FORMULAS and torch.equal(found, gradient()):
        return "the map is the plain gradient"
    sums_to = FORMULAS[contender.formula].sums_to
    if sums_to is None:
        return None
    sums = found.detach().double().flatten(1).sum(1)
    shares = (sums / (start.double() if sums_to == "logit" else 1)).tolist()
    worst = max(shares, key=lambda share: abs(share - 1))
    if abs(worst - 1) <= TOLERANCE:
        return None
    return f"the map adds up to {worst:.2g} times {'the logit' if sums_to == 'logit' else 'its start'}"


def starts_fault(starts: Starts) -> str | None:
    """Return what is wrong with several starts at once, or None where they agree with separate runs."""
    together, separately = starts(), starts.separately()
    for layer, maps in together.items():
        expected = torch.stack([run[layer] for run in separately])
        if not torch.isfinite(maps).all():
            return f"the relevance at {layer} is not finite"
        if not (maps - expected).abs().max() <= 1e-3 * expected.abs().max():
            return f"the relevance at {layer} differs from that of separate runs"
    return None


def measure(options: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of one contender, or why there are none.

    Parameters
    ----------
    options : dict
        `contender`, `network`, `batch`, `size`, `rounds`, `threads` and `device`.

    Returns
    -------
    dict
        `absent`, or `refusal`, or `fault`, or the numbers; and the `machine`.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(options["threads"])
    device, batch, size = options["device"], options["batch"], options["size"]
    import_everything()
    contender = CONTENDERS[options["contender"]]
    model = network(options["network"]).to(device)
    x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        logits = model(x)
    start, target = logits.max(1)
    result: dict[str, Any] = {"machine": machine(device)}
    try:
        call = contender.build(model, x, target)
        call()
        found = call()  # what the first call leaves behind weighs in the second
    except AbsentError:
        return result | {"absent": True}
    except Exception as error:  # libraries refuse with many types
        return result | {"refusal": first_line(error)}
    result["peak_bytes"] = peak_memory(device)

    reference = plain(network(options["network"]).to(device) if contender.alters else model, x, target)
    if isinstance(call, Starts):
        wrong, reference = starts_fault(call), call.separately
    elif contender.kind == "csc":
        wrong = None if found["median"].between(0, 1).all() else "a median is no cosine"
    else:
        wrong = fault(contender, found, start, reference)
    del found
    with Counting(batch, model) as counting:
        call()
    result |= {"calls": dict(sorted(counting.calls.items())), "products": round(counting.products, 2)}
    if wrong is not None:
        return result | {"fault": wrong}
    times = compare(call, reference, options["rounds"], device)
    assert math.isfinite(times["ratio"])
    return result | times


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
