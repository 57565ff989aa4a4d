r"""Faithfulness by pixel flipping: remove the pixels that a map ranks first, and watch the score of the class.

If a map is right about what the network uses, the score falls quickly when the pixels it ranks highest go first, and
slowly when they go last. Two orders without any network stand beside the maps: chance, and the edges of the picture.

Sources: Bach, Binder, Montavon, Klauschen, Müller and Samek (2015), the experiments with pixel-flipping; Samek, Binder,
Montavon, Lapuschkin and Müller (2017), for the two orders and the area over the perturbation curve.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from modbp.backward import check_inputs
from modbp.checks import in_eval_mode, one_or_more, seeded, whole
from modbp.errors import InputError
from modbp.metrics.edges import edge_magnitude
from modbp.metrics.similarity import CHANNELS, FINE, single_channel, states

if TYPE_CHECKING:
    import pandas as pd

RANDOM_ORDER, EDGES = CONTROLS = ("random order", "edges")
"""Orders that know nothing of the network: one drawn by the seed, and the magnitude of the picture's edges."""

ORDERS = ("most", "least")
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
VALUES = ("probability", "logit")

BLUR = 10 / 224
"""Standard deviation of the blur, as a share of the shorter side."""


def pixel_flipping(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    maps: Mapping[str, Tensor],
    targets: Tensor | None = None,
    *,
    order: str | Sequence[str] = "most",
    shares: Sequence[float] = SHARES,
    patch: int = 1,
    fill: float | Tensor | str = 0.0,
    channels: str | Mapping[str, str] = "sum",
    batch: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Return the score of the explained class while the pixels of a picture are replaced in the order of a map.

    The picture is tiled by squares :math:`r` of `patch` × `patch` pixels. A map :math:`R` ranks each by the mean over
    its pixels (a sum would put the smaller squares at the border behind the others),

    .. math:: \bar R_r=\frac1{|r|}\sum_{p\in r}R_p .

    Most relevant first replaces the squares with the largest mean first, least relevant first runs the same sequence
    :math:`r_1,\dots,r_n` from its end:

    .. math::
        x^{(0)}=x,\qquad x^{(k)}_p=\begin{cases}b_p&p\in r_k\\x^{(k-1)}_p&\text{otherwise}\end{cases},\qquad
        \bar R_{r_1}\ge\dots\ge\bar R_{r_n}

    with `fill` as :math:`b`. The table holds the score at chosen shares of the picture's pixels. A square counts as
    replaced where at least half of it lies within the share; with single pixels, the number is rounded to the nearest.

    Equal squares follow one another at random, by the seed. The order of memory would be an order in space: a map that
    is zero nearly everywhere would be judged by the picture's upper border. All maps of a picture share this random
    sequence, and it is the control `"random order"`; so a map without any ranks is the same as chance.

    Parameters
    ----------
    model : nn.Module or callable
        Returns logits, shape (images, classes). A module must be in eval mode; it is not changed.
    inputs : Tensor, shape (images, channels, height, width)
    maps : mapping from name to Tensor, shape (images, height, width) or (images, channels, height, width)
        The attributions of each method, for the same classes.
    targets : Tensor of integers, shape (images,), optional
        The classes that are explained; by default the predicted class of the whole picture.
    order : {"most", "least"} or sequence of both, default "most"
        Most relevant first, least relevant first.
    shares : sequence of float
        Which shares of the pixels have been replaced, increasing from 0 to 1.
    patch : int, default 1
        Side of the squares, in pixels, at most the shorter side of a picture.
    fill : number, Tensor or "blur", default 0
        What replaces a pixel: a number, a tensor that broadcasts with `inputs`, or the same pixel of a copy that is
        blurred by a Gaussian with a standard deviation of 10/224 of the shorter side.
    channels : {"sum", "absolute_sum", "max_absolute"} or mapping from name to one of them, default "sum"
        How the channels of a map become one number per pixel. `"sum"` keeps the sign: evidence against the class ranks
        last. The other two, the sum and the largest of the absolute values, are for maps whose sign says nothing about
        the class. A map without channels counts as one of a single channel. Methods that a mapping leaves out get
        `"sum"`.
    batch : int, default 32
        How many pictures go through the network together.
    seed : int, default 0
        Of the random sequence.

    Returns
    -------
    pandas.DataFrame
        A row for each image, method, order and share; the controls `"random order"` and `"edges"`, the sum of
        `edge_magnitude` over the channels, come last. Columns: `method`; `image`, from 0; `target`; `order`; `share`;
        `logit` and `probability` (softmax) of the target; `kept`, whether the network still decides for the target
        (False where its logits are not finite); `state`: `"fine"`, or `"not finite"` or `"constant"` for a map that
        ranks nothing. Such a map is not flipped: it has NaN, and NA as `kept`, and a warning counts it.

    Raises
    ------
    InputError
        If an argument is not usable, or the model does not return logits.

    Examples
    --------
    >>> x = torch.tensor([[[[4.0, 1.0], [3.0, 2.0]]]])
    >>> total = lambda pictures: torch.stack([pictures.sum((1, 2, 3)), torch.zeros(len(pictures))], dim=1)
    >>> table = pixel_flipping(total, x, {"picture": x}, order=["most", "least"], shares=[0, 0.25, 0.5, 1])
    >>> table[table.method == "picture"].pivot(index="order", columns="share", values="logit").round(1)
    share  0.00  0.25  0.50  1.00
    order
    least  10.0   9.0   7.0   0.0
    most   10.0   6.0   3.0   0.0
    """
    import pandas as pd  # here, so that its absence is noticed before any work

    samples = _checked_pictures(model, inputs)
    orders = one_or_more("order", order, ORDERS)
    whole("batch", batch)
    generator = seeded(seed)
    grid = _checked_shares(shares)
    count, _, height, width = samples.shape
    _check_targets(targets, count)
    whole("patch", patch)
    if patch > min(height, width):
        raise InputError(
            f"patch is {patch}; allowed for pictures of {height} by {width} pixels are 1 to {min(height, width)}."
        )
    reduced = _checked_maps(maps, samples, channels) | {EDGES: edge_magnitude(samples).sum(1)}
    background = _fill(fill, samples)
    untouched = _logits(model, samples.split(batch))
    explained = untouched.argmax(1) if targets is None else _checked_classes(targets.cpu(), untouched.shape[1])
    ends = {0.0: untouched}
    if 1.0 in grid:
        ends[1.0] = _logits(model, background.split(batch))  # the same picture for every method and order
    inner = [share for share in grid if 0 < share < 1]

    methods = [*(name for name in reduced if name != EDGES), *CONTROLS]
    squares = {name: _squares(values, patch) for name, values in reduced.items()}
    kinds = {name: states(values, _precision(maps.get(name, samples))) for name, values in squares.items()}
    kinds[RANDOM_ORDER] = [FINE] * count
    areas = _squares(torch.ones_like(samples[:1, 0]), patch, sums=True)[0]
    squares[RANDOM_ORDER] = areas.new_zeros(count, len(areas))  # all equal, so that chance alone decides

    shape = (count, len(methods), len(orders), len(grid))
    score, probability = (untouched.new_full(shape, torch.nan) for _ in range(2))
    kept = torch.zeros(shape, dtype=torch.bool)
    for i in tqdm(range(count), desc="pixel flipping", disable=None):
        ties = torch.randperm(len(areas), generator=generator).to(areas.device)
        usable = [m for m, name in enumerate(methods) if kinds[name][i] == FINE]
        logits = untouched.new_full((len(methods), len(orders), len(grid), untouched.shape[1]), torch.nan)
        for share, found in ends.items():
            if share in grid:
                logits[usable, :, grid.index(share)] = found[i]
        if inner:
            most = _depths(torch.stack([squares[methods[m]][i] for m in usable]), areas, ties)
            depths = torch.stack([most if way == "most" else height * width - most for way in orders], dim=1)
            flipped = _flipped(samples[i], background[i], depths.flatten(0, 1), inner, patch, batch)
            columns = torch.tensor([grid.index(share) for share in inner])
            found = _logits(model, flipped).unflatten(0, (len(usable), len(orders), len(inner)))
            logits[torch.tensor(usable)[:, None], :, columns] = found.transpose(1, 2)
        k = int(explained[i])
        score[i], probability[i] = logits[..., k], logits.softmax(-1)[..., k]
        kept[i] = (logits.argmax(-1) == k) & logits.isfinite().all(-1)
    _warn_of_unusable(kinds)

    rows = pd.MultiIndex.from_product(
        [range(count), methods, orders, grid], names=["image", "method", "order", "share"]
    )
    table = rows.to_frame(index=False)
    table["target"] = explained.numpy()[table["image"]]
    table["logit"], table["probability"] = score.flatten().numpy(), probability.flatten().numpy()
    table["kept"] = pd.array(kept.flatten().tolist(), dtype="boolean")
    of_maps = [kinds[name][i] for i in range(count) for name in methods]
    table["state"] = [state for state in of_maps for _ in range(len(orders) * len(grid))]
    table.loc[table["state"] != FINE, "kept"] = pd.NA
    return table[["method", "image", "target", "order", "share", "logit", "probability", "kept", "state"]]


def flipping_area(table: pd.DataFrame, value: str = "probability") -> pd.DataFrame:
    r"""Return the area over each curve of pixel flipping, and the area between the two orders.

    With the score :math:`f(s)` where a share :math:`s` of the pixels is replaced, up to the largest share :math:`S`,

    .. math::
        A_\text{most}=\frac1S\int_0^S\big(f(0)-f_\text{most}(s)\big)\,ds,\qquad
        A_\text{least}=\frac1S\int_0^S\big(f(0)-f_\text{least}(s)\big)\,ds

    by the trapezoid rule: how far the score lies below that of the whole picture, on average over the shares. Samek et
    al. (2017) take the mean over equal steps of the same differences. The separation

    .. math::
        A_\text{most}-A_\text{least}=\frac1S\int_0^S\big(f_\text{least}(s)-f_\text{most}(s)\big)\,ds

    is positive for a map that finds what the network uses, and 0 in expectation for a random order, whatever the
    network and the fill.

    Parameters
    ----------
    table : pandas.DataFrame
        From `pixel_flipping`, with share 0 and at least one other.
    value : {"probability", "logit"}, default "probability"

    Returns
    -------
    pandas.DataFrame
        A row for each method and image, in the table's order. Columns: `method`, `image`, `area_most`, `area_least`,
        `separation`; NaN where an order is missing or the map was not usable.

    Raises
    ------
    InputError
        If columns or shares are missing, a share occurs twice, or the value is unknown.

    Examples
    --------
    >>> x = torch.tensor([[[[4.0, 1.0], [3.0, 2.0]]]])
    >>> total = lambda pictures: torch.stack([pictures.sum((1, 2, 3)), torch.zeros(len(pictures))], dim=1)
    >>> table = pixel_flipping(total, x, {"picture": x}, order=["most", "least"], shares=[0, 0.5, 1])
    >>> flipping_area(table, "logit").query("method == 'picture'").round(2)
        method  image  area_most  area_least  separation
    0  picture      0        6.0         4.0         2.0
    """
    import pandas as pd

    if value not in VALUES:
        raise InputError(f"value is {value!r}; allowed are {', '.join(VALUES)}.")
    rows, curve = ["method", "image"], ["method", "image", "order", "share"]
    missing = [column for column in [*curve, value] if column not in table.columns]
    if missing:
        raise InputError(f"table lacks {', '.join(missing)}; allowed is what pixel_flipping returns.")
    if table.duplicated(curve).any():
        raise InputError("table holds a share of a curve twice; allowed is one row for each of them.")
    scores = table.pivot(index=["order", *rows], columns="share", values=value)
    shares = torch.tensor(scores.columns.to_numpy(dtype="float64"))
    if len(shares) < 2 or shares[0] != 0:
        raise InputError(f"table holds the shares {shares.tolist()}; allowed are 0 and at least one other.")
    f = torch.tensor(scores.to_numpy(dtype="float64"))
    areas = pd.Series((torch.trapezoid(f[:, :1] - f, shares) / shares[-1]).numpy(), index=scores.index)
    of_orders = areas.unstack("order").reindex(columns=list(ORDERS)).add_prefix("area_")
    found = table[rows].drop_duplicates().reset_index(drop=True).join(of_orders, on=rows)
    found["separation"] = found["area_most"] - found["area_least"]
    return found


def _squares(values: Tensor, patch: int, sums: bool = False) -> Tensor:
    """Return the mean or the sum of each square, shape (images, squares); the last of a row or column may be smaller.

    Where a square reaches over the border, `avg_pool2d` divides by the number of pixels inside.
    """
    pooled = F.avg_pool2d(values.double()[:, None], patch, ceil_mode=True, divisor_override=1 if sums else None)
    return pooled.flatten(1)


def _precision(values: Tensor) -> float:
    return torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0


def _depths(squares: Tensor, areas: Tensor, ties: Tensor) -> Tensor:
    """Return how many pixels have been replaced when half of a square has, most relevant first.

    `squares` has shape (maps, squares). A stable sort of what was shuffled by `ties` breaks ties by it. Of two opposite
    orders, the depths add up to the number of pixels.
    """
    ranked = ties[squares[:, ties].argsort(dim=1, descending=True, stable=True)]
    taken = areas[ranked]
    return torch.empty_like(squares).scatter_(1, ranked, taken.cumsum(1) - taken / 2)


def _flipped(
    x: Tensor, background: Tensor, depths: Tensor, shares: Sequence[float], patch: int, batch: int
) -> Iterable[Tensor]:
    """Yield the pictures of all curves and shares, share by share within a curve, in batches."""
    _, height, width = x.shape
    in_pixels = depths.unflatten(1, (-(-height // patch), -(-width // patch)))
    in_pixels = in_pixels.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, :height, :width]
    limits = depths.new_tensor(shares) * (height * width)
    for jobs in torch.arange(len(depths) * len(shares), device=x.device).split(batch):
        replaced = in_pixels[jobs // len(shares)] <= limits[jobs % len(shares), None, None]
        yield torch.where(replaced[:, None], background, x)


@torch.no_grad()
def _logits(model: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Tensor:
    """Return the logits in float64 on the CPU, after a look at their shape."""
    found = []
    for pictures in batches:
        logits = model(pictures)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(pictures):
            given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"model returned {given}; allowed are logits of shape ({len(pictures)}, classes).")
        found.append(logits.double().cpu())
    return torch.cat(found)


def _warn_of_unusable(kinds: Mapping[str, Sequence[str]]) -> None:
    counts = {name: Counter(state for state in found if state != FINE) for name, found in kinds.items()}
    parts = [f"{n} of {name!r} ({state})" for name, found in counts.items() for state, n in sorted(found.items())]
    if parts:
        warnings.warn(f"Maps that rank no pixels were not flipped: {', '.join(parts)}.", UserWarning, stacklevel=3)


def _fill(fill: float | Tensor | str, samples: Tensor) -> Tensor:
    """Return what replaces the pixels, in the shape of the samples."""
    allowed = f"a finite number, a finite tensor that broadcasts with {tuple(samples.shape)}, or 'blur'"
    if isinstance(fill, str) and fill == "blur":
        from scipy.ndimage import gaussian_filter

        deviation = BLUR * min(samples.shape[2:])
        pictures = samples.detach().double().cpu().numpy()
        return torch.from_numpy(gaussian_filter(pictures, (0, 0, deviation, deviation), mode="nearest")).to(samples)
    if isinstance(fill, bool) or not isinstance(fill, int | float | Tensor):
        raise InputError(f"fill is {fill!r}; allowed are {allowed}.")
    values = torch.as_tensor(fill).detach().to(samples)
    if not values.isfinite().all():
        given = "a tensor with NaN or infinite entries" if isinstance(fill, Tensor) else repr(fill)
        raise InputError(f"fill is {given}; allowed are {allowed}.")
    try:
        return values.expand(samples.shape)
    except RuntimeError:
        raise InputError(f"fill has shape {tuple(values.shape)}; allowed are {allowed}.") from None


def _checked_pictures(model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    if not callable(model):
        raise InputError(f"model is of type {type(model).__name__}; allowed is an nn.Module or a function.")
    in_eval_mode("model", model)
    if not isinstance(inputs, Tensor):
        raise InputError(f"inputs is of type {type(inputs).__name__}; allowed is a torch.Tensor.")
    (samples,) = check_inputs(inputs)
    if samples.dim() != 4:
        raise InputError(f"inputs has shape {tuple(samples.shape)}; allowed is (images, channels, height, width).")
    return samples.detach()


def _checked_shares(shares: Sequence[float]) -> list[float]:
    found = list(shares) if isinstance(shares, Iterable) else []
    numbers = all(isinstance(s, int | float) and not isinstance(s, bool) and 0 <= s <= 1 for s in found)
    if not found or not numbers or any(a >= b for a, b in itertools.pairwise(found)):
        raise InputError(f"shares is {shares!r}; allowed are one or more numbers that increase within 0 to 1.")
    return [float(share) for share in found]


def _check_targets(targets: Tensor | None, images: int) -> None:
    if targets is None:
        return
    allowed = f"allowed is an integer tensor of shape ({images},)"
    if not isinstance(targets, Tensor):
        raise InputError(f"targets is of type {type(targets).__name__}; {allowed}.")
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.shape != (images,):
        raise InputError(f"targets is {targets.dtype} of shape {tuple(targets.shape)}; {allowed}.")


def _checked_classes(targets: Tensor, classes: int) -> Tensor:
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise InputError(f"targets holds {low} to {high}; allowed are classes from 0 to {classes - 1}.")
    return targets


def _checked_maps(maps: Mapping[str, Tensor], samples: Tensor, channels: str | Mapping[str, str]) -> dict[str, Tensor]:
    """Return each map with its channels reduced, shape (images, height, width), in float64."""
    if not isinstance(maps, Mapping) or not maps:
        given = "empty" if isinstance(maps, Mapping) else f"of type {type(maps).__name__}"
        raise InputError(f"maps is {given}; allowed is a mapping from at least one name to a tensor.")
    reserved = [name for name in maps if name in CONTROLS]
    if reserved:
        raise InputError(f"maps holds {reserved[0]!r}, which is a control; allowed are other names.")
    ways = (
        dict.fromkeys(maps, "sum") | dict(channels) if isinstance(channels, Mapping) else dict.fromkeys(maps, channels)
    )
    unknown = [name for name in ways if name not in maps]
    if unknown:
        raise InputError(f"channels names {unknown[0]!r}; allowed are the names of maps: {', '.join(maps)}.")
    images, depth, *size = samples.shape
    found = {}
    for name, values in maps.items():
        if ways[name] not in CHANNELS:
            raise InputError(f"channels is {ways[name]!r} for {name!r}; allowed are {', '.join(CHANNELS)}.")
        allowed = f"allowed is a real tensor of shape {(images, *size)} or {(images, depth, *size)}"
        if not isinstance(values, Tensor) or values.is_complex():
            given = f"is {values.dtype}" if isinstance(values, Tensor) else f"is of type {type(values).__name__}"
            raise InputError(f"the map {name!r} {given}; {allowed}.")
        if list(values.shape) not in ([images, *size], [images, 1, *size], [images, depth, *size]):
            raise InputError(f"the map {name!r} has shape {tuple(values.shape)}; {allowed}.")
        R = values.detach().to(samples.device)
        found[name] = single_channel(R if R.dim() == 4 else R[:, None], ways[name])
    return found
