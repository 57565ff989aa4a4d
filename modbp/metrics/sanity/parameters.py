"""Randomized parameters: whether a map changes when what the network has learned is taken away.

Three cautions, which the table's controls and columns answer. A test of insensitivity is passed by noise. A cascade
from the top leaves the early layers as they are, so that a map that follows them changes little, whatever the method
does with the layers above (Binder et al., 2023); so there are other orders. And a method whose map is noisy changes for
that reason alone; so maps can be averaged over noisy copies of the input first, or judged without any comparison by
how much their histogram's entropy rises (Hedström et al., 2024).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from modbp.backward import check_inputs
from modbp.checks import at_least_one, in_eval_mode, not_negative, seeded
from modbp.errors import InputError
from modbp.layers import running_order
from modbp.metrics.classes import checked_targets
from modbp.metrics.sanity.conventions import CONVENTIONS, ENTROPY_RISE, Convention, Prepared, histogram_entropy
from modbp.metrics.sanity.explaining import Explainer, controls_for, explainers_of, of_all
from modbp.metrics.sanity.logits import references_of
from modbp.metrics.sanity.tables import finished, rows_of, rows_of_controls, rows_of_floor
from modbp.networks import randomized_cascade, weighted_layers

if TYPE_CHECKING:
    import pandas as pd

ORDERS = ("from_top", "from_bottom", "single", "all")
TRAINED = "trained"
"""The stage at which nothing is random; rows of controls have it."""

TRAINED_NETWORK = "the trained network"
"""What a map is compared with: the same method's map of the network before anything was random."""


def parameter_randomization(
    model: nn.Module,
    inputs: Tensor,
    methods: Any,
    targets: int | Tensor | None = None,
    *,
    order: str = "from_top",
    layers: Sequence[str] | Mapping[str, str] | None = None,
    samples: int = 1,
    noise: float = 0.1,
    norms: str = "reset",
    conventions: Sequence[Convention] = CONVENTIONS,
    controls: bool = True,
    batch: int = 8,
    baselines: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Compare each method's maps of a network with those of the network with more and more random layers.

    The same class is explained throughout. All methods see the same random networks: a layer's draw depends on the seed
    and its name alone. For methods of `modbp.attr` the rule meets the new weights, also where it has patterns beside
    them; to fit those again, give a function `(model, inputs, target)` that does.

    Sources: Adebayo et al. (2018) for the test; Sixt et al. (2020), read in their code, for Glorot uniform weights
    without biases; Hedström et al. (2024) for averaging over noise and the rise of the entropy,

    .. math:: \frac{H(\text{random})-H(\text{trained})}{H(\text{trained})}

    with the entropy H of a map's histogram; with `order="all"` that is the efficient test (eMPRT), and with `samples`
    above 1 the smooth one (sMPRT).

    Parameters
    ----------
    model : nn.Module
        Returns logits, shape (batch, classes). A module must be in eval mode; it is left as it is.
    inputs : Tensor, shape (images, ...)
        Pictures, shape (images, channels, height, width); of other inputs there is no SSIM.
    methods : str, composite, method, class, function; or several
        As for `random_logit`.
    targets : int or Tensor of integers, shape (images,), optional
        The explained classes. By default those that the model predicts.
    order : {"from_top", "from_bottom", "single", "all"}, default "from_top"
        At each stage: all layers from the output down to one are random; all from the input up to it; that one alone;
        or, in a single stage, everything.
    layers : sequence of str, or mapping from str to str, optional
        The stages: names of linear layers and convolutions, or names for the table with these. By default all of them.
        In a cascade the layers between two stages become random, too.
    samples : int, default 1
        A map is the mean over so many noisy copies of the input; with 1 the input itself is explained.
    noise : float, default 0.1
        Standard deviation of the noise on those copies, as a share of the difference between the largest and the
        smallest value of an input. Every network gets the same copies.
    norms : {"reset", "keep"}, default "reset"
        What becomes of a batch norm behind a random layer; see `modbp.networks.randomized_layers`.
    conventions, controls, batch, baselines
        As for `random_logit`.
    seed : int, default 0
        Of the weights, the noise and the controls.

    Returns
    -------
    pandas.DataFrame
        As from `random_logit`, in rows for each stage, with the columns `order`; `stage`, in the order of the cascade,
        `"trained"` for controls; `random_layers`, how many layers are random there; and the measure "rise of entropy"
        besides.

    Raises
    ------
    InputError
        If an argument is not usable.
    UnsupportedModelError
        If a method's rules have no meaning for something that the model computes.

    Examples
    --------
    >>> from modbp.networks import random_mlp
    >>> network, x = random_mlp(width=50, depth=6), torch.rand(2, 50, generator=torch.manual_seed(0))
    >>> table = parameter_randomization(network, x, ["gradient", "lrp_zplus"], layers=["8"], controls=False)
    >>> cosines = table[table["measure"] == "cosine"].groupby("method")["value"].median()
    >>> bool(cosines["lrp_zplus"] > 0.9), bool(cosines["gradient"] < 0.7)
    (True, True)
    """
    import pandas as pd  # noqa: F401  # here, so that its absence is noticed before any work

    (pictures,) = check_inputs((inputs,))
    whole: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile was given
    if not isinstance(whole, nn.Module):
        raise InputError(f"model is of type {type(model).__name__}; allowed is an nn.Module, whose layers have names.")
    if order not in ORDERS:
        raise InputError(f"order is {order!r}; allowed are {', '.join(ORDERS)}.")
    in_eval_mode("model", whole)
    at_least_one(samples=samples, batch=batch)
    not_negative("noise", noise)
    seeded(seed)
    explainers = explainers_of(methods, whole, controls_for(pictures) if controls else ())
    stages = _stages(whole, pictures, order, layers)
    networks = dict(zip(stages, randomized_cascade(whole, stages.values(), seed, norms=norms), strict=True))
    weighted = weighted_layers(whole)
    counts = {stage: sum(name in weighted for name in names) for stage, names in stages.items()}
    explained = _targets(whole, pictures, targets, batch)
    references = references_of(baselines, pictures, batch)
    size = len(explainers) * (len(stages) + 1)
    with tqdm(total=len(references) * size, desc="random parameters", disable=None) as bar:

        def of_batch(number: int, x: Tensor, asked: Tensor, reference: Any) -> list[dict[str, Any]]:
            image = [*range(number, number + len(x))]
            known: dict[str, Any] = {"image": image, "target": asked.tolist(), "other": -1, "order": order}
            copies = _noisy(x, samples, noise, seed, number)

            def of(explainer: Explainer, network: nn.Module) -> Prepared:
                total: Any = 0
                for copy in copies:
                    total = total + explainer.maps(network, copy, asked[:, None], reference)[0]
                bar.update()
                return Prepared.of(total / len(copies), conventions, explainer.drawn)

            def at(explainer: Explainer, stage: str) -> list[dict[str, Any]]:
                before, maps = trained[explainer.name], of(explainer, networks[stage])
                rise = (histogram_entropy(maps.single()) / entropies[explainer.name] - 1).tolist()
                where = {"method": explainer.name, "against": TRAINED_NETWORK, **known}
                where |= {"stage": stage, "random_layers": counts[stage]}
                return rows_of(before, maps, conventions, {ENTROPY_RISE: rise}, **where)

            names = [e.name for e in explainers]
            trained = dict(zip(names, of_all(of, [(e, whole) for e in explainers]), strict=True))
            entropies = {name: histogram_entropy(maps.single()) for name, maps in trained.items()}
            found = of_all(at, [(e, stage) for e in explainers for stage in stages])
            rows = [row for of_one in found for row in of_one]
            if controls:
                where = {**known, "stage": TRAINED, "random_layers": 0}
                for e in explainers:
                    rows += rows_of_controls(e, trained[e.name], conventions, seed, number, **where)
                rows += rows_of_floor(x, conventions, seed, number, **{**where, "target": -1})
            return rows

        starts = range(0, len(pictures), batch)
        chunks = zip(starts, pictures.split(batch), explained.split(batch), references, strict=True)
        return finished([row for chunk in chunks for row in of_batch(*chunk)])


def _stages(
    model: nn.Module, inputs: Tensor, order: str, layers: Sequence[str] | Mapping[str, str] | None
) -> dict[str, list[str]]:
    """Return the names of the random layers of each stage, in the order of the cascade."""
    groups = running_order(model, inputs[:1])
    if not groups:
        raise InputError("model has no linear layer and no convolution; allowed is one with layers to randomize.")
    known = {name for names in groups.values() for name in names} | set(groups)
    owners = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    kept = [name for name in owners if name not in known]
    if kept:
        warnings.warn(
            f"the parameters of {', '.join(map(repr, sorted(kept)))} belong to no linear layer, convolution or batch"
            " norm that runs; they stay as they are at all stages.",
            UserWarning,
            stacklevel=3,
        )
    running = list(groups)
    if isinstance(layers, str) or (layers is not None and not layers):
        raise InputError(f"layers is {layers!r}; allowed are several names out of {', '.join(running)}.")
    shown = dict(layers) if isinstance(layers, Mapping) else {name: name for name in layers or running}
    if TRAINED in shown:
        raise InputError(f"layers has the name {TRAINED!r}, which rows of controls have; allowed is any other.")
    unknown = [name for name in shown.values() if name not in groups]
    if unknown:
        raise InputError(f"layers holds {unknown[0]!r}; allowed are {', '.join(running)}.")

    def with_norms(names: Sequence[str]) -> list[str]:
        return [n for name in names for n in (name, *groups[name])]

    if order == "all":
        return {"all": with_norms(running)}
    ways = {
        "from_top": lambda at: running[at:],
        "from_bottom": lambda at: running[: at + 1],
        "single": lambda at: [running[at]],
    }
    found = sorted(shown.items(), key=lambda item: running.index(item[1]), reverse=order != "from_bottom")
    return {name: with_norms(ways[order](running.index(layer))) for name, layer in found}


def _targets(model: nn.Module, inputs: Tensor, targets: int | Tensor | None, batch: int) -> Tensor:
    with torch.no_grad():
        if targets is None:
            return torch.cat([model(x) for x in inputs.split(batch)]).argmax(1).cpu()
        return checked_targets(targets, inputs, model(inputs[:1]).shape[1])


def _noisy(x: Tensor, samples: int, noise: float, seed: int, number: int) -> list[Tensor]:
    """Return copies of inputs with noise, the same for an input alone and among others; one copy is the input."""
    if samples == 1:
        return [x]
    flat = x.flatten(1)
    deviation = noise * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.dim() - 1))
    draws = [
        torch.randn(samples, *x.shape[1:], generator=seeded((seed + 7919 * (number + i)) % 2**63), dtype=x.dtype)
        for i in range(len(x))
    ]
    drawn = torch.stack(draws, 1).to(x.device)
    return [x + deviation * one for one in drawn]
