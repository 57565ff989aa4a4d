r"""Random three-layer networks of any width, a few filters at a time.

A map is a sum over filters, so filters are drawn, used and forgotten block by block: 70,000 units that see 12,288
inputs would be 3.4 GB of weights. A block's weights depend on the seed and on the block's number alone. So the first N
filters are the same for every width asked for, and one run of the widest network gives all narrower ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from modbp.checks import whole
from modbp.errors import InputError
from modbp.theory.recovery.patches import Patches
from modbp.theory.recovery.template import MASKS, Mask

FILTERS = 64
"""How many filters a block has."""

ENTRIES = 2**22
"""About how many weights a block of `one_patch_maps` has: 16 MB in float32."""

Maps = dict[str, dict[int, Tensor]]


@torch.no_grad()
def three_layer_maps(
    x: Tensor,
    n_filters: int | Sequence[int],
    patches: Patches,
    pool: Callable[[Tensor], Tensor] | None = None,
    logits: int = 1,
    seed: int = 0,
    methods: Collection[str] | Mapping[str, Mask] = tuple(MASKS),
) -> Maps:
    r"""Return the maps of logits of a random three-layer network: convolution, ReLU, pooling, linear layer.

    .. math:: s=\sum_{ij}h_{ij}D_j^\top w_i

    with all weights from N(0, 1) and the masks of `MASKS`. Source: Nie et al. (2018), the architecture of the public
    code; the notation is that of `book/image-recovery.md`.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
        Floating point. All images see the same network.
    n_filters : int or sequence of int
        For which numbers of filters the maps are wanted.
    patches : Patches
        Their kernel is the filters', in pixels.
    pool : callable, optional
        Such as `nn.MaxPool2d(9, 1, padding=4)`, behind the ReLU; by default nothing.
    logits : int, default 1
        How many logits to explain. They share the filters.
    seed : int, default 0
    methods : collection of str or mapping from str to callable, optional
        Which of the three maps are wanted; one costs about a third of all. Or masks of one's own by any name, such as
        `lambda R, z: z.clamp(min=0)` for activations as coefficients. The weights do not depend on it.

    Returns
    -------
    dict from str to dict from int to Tensor, shape (logits, batch, channels, height, width)
        By method and number of filters, in float64.

    Raises
    ------
    InputError
        If `x` has another shape, holds NaN or infinite values, a number is not a whole one from 1 upwards, or a method
        is unknown.

    Examples
    --------
    >>> from modbp.metrics import cosine
    >>> _ = torch.manual_seed(0)
    >>> x, patches = torch.randn(1, 3, 32, 32), Patches(kernel=3)
    >>> maps = three_layer_maps(x, [16, 256], patches)["guided_backprop"]
    >>> [float(cosine(m[0], patches.normalized(x))) > 0.9 for m in maps.values()]
    [False, True]
    """
    _check(x, 4, "(batch, channels, height, width)")
    whole("logits", logits)
    masks = _masks(methods)
    held = _zeros(masks, x, logits, *x.shape)
    found: Maps = {method: {} for method in held}
    response = patches.convolve(x[:1], x.new_zeros(1, x.shape[1], patches.kernel, patches.kernel))
    units = (response if pool is None else pool(response)).shape[2:]
    for rng, pieces in _blocks(n_filters, FILTERS, seed):
        all_filters = _normal(rng, (FILTERS, x.shape[1], patches.kernel, patches.kernel), x)
        all_tops = _normal(rng, (logits, FILTERS, *units), x)
        for part, complete in pieces:
            filters = all_filters[part]
            z = patches.convolve(x, filters)
            pull = None if pool is None else torch.func.vjp(pool, z.clamp(min=0))[1]
            for logit, v in enumerate(all_tops[:, part]):
                top = v.expand(len(x), *v.shape)
                R = top if pull is None else pull(top.contiguous())[0]
                for method, maps in held.items():
                    maps[logit] += patches.transpose(masks[method](R, z), filters, x)
            _keep(found, held, complete)
    return found


@torch.no_grad()
def one_patch_maps(
    x: Tensor,
    n_filters: int | Sequence[int],
    draws: int = 1,
    seed: int = 0,
    methods: Collection[str] | Mapping[str, Mask] = tuple(MASKS),
) -> Maps:
    r"""Return the maps of a random network whose filters all see the same one patch.

    With the whole image as the patch that is a fully connected network, and filters are hidden units.

    Parameters
    ----------
    x : Tensor, shape (entries,)
        The patch; floating point.
    n_filters : int or sequence of int
        For which numbers of filters the maps are wanted.
    draws : int, default 1
        How many independent networks.
    seed : int, default 0
    methods : collection of str or mapping from str to callable, optional
        Which of the three maps are wanted, or masks of one's own by any name.

    Returns
    -------
    dict from str to dict from int to Tensor, shape (draws, entries)
        By method and number of filters, in float64.

    Raises
    ------
    InputError
        If `x` is no vector, holds NaN or infinite values, a number is not a whole one from 1 upwards, or a method is
        unknown.

    Examples
    --------
    >>> maps = one_patch_maps(torch.ones(27), [256, 1024], draws=50)["guided_backprop"]
    >>> {n: tuple(m.shape) for n, m in maps.items()}
    {256: (50, 27), 1024: (50, 27)}
    """
    _check(x, 1, "(entries,)")
    whole("draws", draws)
    masks = _masks(methods)
    held = _zeros(masks, x, draws, len(x))
    found: Maps = {method: {} for method in held}
    block = max(1, ENTRIES // (draws * len(x)))
    for rng, pieces in _blocks(n_filters, block, seed):
        all_filters = _normal(rng, (draws, block, len(x)), x)
        all_tops = _normal(rng, (draws, block), x)
        for part, complete in pieces:
            filters, R = all_filters[:, part], all_tops[:, part]
            z = filters @ x
            for method, maps in held.items():
                maps += (masks[method](R, z)[:, None] @ filters)[:, 0]
            _keep(found, held, complete)
    return found


Pieces = list[tuple[slice, int | None]]


def _blocks(n_filters: int | Sequence[int], block: int, seed: int) -> Iterator[tuple[np.random.Generator, Pieces]]:
    """Yield for each block its random numbers, and its parts: which filters, and which wanted number they complete."""
    wanted = sorted({n_filters} if isinstance(n_filters, int) else set(n_filters))
    if not wanted:
        raise InputError("n_filters is empty; allowed are one or more whole numbers from 1 upwards.")
    for n in wanted:
        whole("n_filters", n)
    whole("seed", seed, least=0)
    starts = range(0, wanted[-1], block)
    for number, first in enumerate(tqdm(starts, desc="filters", disable=None if len(starts) > 8 else True)):
        inside = [n for n in wanted if first < n <= first + block]
        ends = [*(n - first for n in inside), *([block] if first + block < wanted[-1] else [])]
        bounds = [0, *dict.fromkeys(ends)]
        pieces = [(slice(a, b), first + b if first + b in wanted else None) for a, b in pairwise(bounds)]
        yield np.random.default_rng([seed, number]), pieces


def _keep(found: Maps, held: Mapping[str, Tensor], complete: int | None) -> None:
    if complete is not None:
        for method, maps in held.items():
            found[method][complete] = maps.clone()


def _masks(methods: Collection[str] | Mapping[str, Mask]) -> Mapping[str, Mask]:
    if isinstance(methods, Mapping) and methods:
        return methods
    if not methods or any(method not in MASKS for method in methods):
        raise InputError(f"methods is {methods!r}; allowed are one or more of {', '.join(MASKS)}, or masks by name.")
    return {method: MASKS[method] for method in methods}


def _zeros(masks: Mapping[str, Mask], x: Tensor, *shape: int) -> dict[str, Tensor]:
    return {method: torch.zeros(shape, dtype=torch.float64, device=x.device) for method in masks}


def _normal(rng: np.random.Generator, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draw in the precision of `like`; NumPy's numbers do not depend on how many cores there are."""
    precise = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(rng.standard_normal(shape, dtype=precise)).to(like)


def _check(x: Tensor, dimensions: int, allowed: str) -> None:
    if x.dim() != dimensions or not x.is_floating_point():
        raise InputError(f"x is {x.dtype} of shape {tuple(x.shape)}; allowed is floating point, {allowed}.")
    if not x.isfinite().all():
        raise InputError("x holds NaN or infinite values; allowed are finite numbers.")
