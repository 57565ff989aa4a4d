"""Random logits: whether the map of a class changes when another class is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from modbp.backward import check_baselines, check_inputs
from modbp.checks import at_least_one, in_eval_mode, seeded
from modbp.metrics.classes import checked_classes, predicted_and_others
from modbp.metrics.sanity.conventions import CONVENTIONS, Convention, Prepared
from modbp.metrics.sanity.explaining import Explainer, controls_for, explainers_of, of_all
from modbp.metrics.sanity.tables import finished, rows_of, rows_of_controls, rows_of_floor

if TYPE_CHECKING:
    import pandas as pd

ANOTHER_CLASS = "another class"
"""What a map is compared with: the same method's map of another class."""


def random_logit(
    model: Callable[..., Any],
    inputs: Tensor,
    methods: Any,
    classes: Tensor | None = None,
    *,
    others: int = 1,
    conventions: Sequence[Convention] = CONVENTIONS,
    controls: bool = True,
    batch: int = 8,
    baselines: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each method's map of a class with its maps of other classes, drawn at random.

    A map that is the same for every class says nothing about the decision. For methods of `modbp.attr` all classes of
    a batch share one forward pass and go back together. Source: Sixt et al. (2020); the conventions and the controls
    are in the table.

    Parameters
    ----------
    model : callable
        Returns logits, shape (batch, classes). A module must be in eval mode; it is left as it is.
    inputs : Tensor, shape (images, ...)
        Pictures, shape (images, channels, height, width); of other inputs there is no SSIM.
    methods : str, composite, method, class, function; or several
        Names of `modbp.METHODS`; composites and methods of `modbp.attr`; classes of `captum.attr`; functions
        `(model, inputs, target) -> attributions`. Several as a sequence, or as a mapping from names.
    classes : Tensor of integers, shape (images, 1 + others), optional
        For each image the class that is explained, and those that it is compared with. By default the predicted one,
        and others drawn at random without repetition.
    others : int, default 1
        How many are drawn.
    conventions : sequence of Convention, optional
        Of the SSIM. By default a data range of 1 with the better sign, the same with a range of 2, and with the sign
        as it is.
    controls : bool, default True
        Add the method `"noise"`, which depends on the class and explains nothing, `"edges"`, which does not depend on
        it; for each method rows of its maps against their own negatives and against their own pixels shuffled; and
        rows `"unrelated noise"` with the floor.
    batch : int, default 8
        Images at a time.
    baselines : number or Tensor, optional
        For DeepLIFT, the reference input; by default zero.
    seed : int, default 0
        Of the classes and the controls.

    Returns
    -------
    pandas.DataFrame
        A row for each method, image, other class and measure. Columns: `method`; `against`, what the map is compared
        with; `image`; `target` and `other`, the classes (-1 in controls); `measure`, with how it was made, in
        `channels`, `normalization`, `data_range` and `sign`; `value`; `state`, `"fine"` where there is a value, or
        `"constant"` or `"not finite"` for a map without one. `medians` sums it up.

    Raises
    ------
    InputError
        If an argument is not usable.
    UnsupportedModelError
        If a method's rules have no meaning for something that the model computes.

    Examples
    --------
    >>> from modbp.networks import random_mlp
    >>> x = torch.rand(3, 50, generator=torch.manual_seed(0))
    >>> table = random_logit(random_mlp(width=50, depth=4), x, ["gradient", "lrp_zplus"], controls=False)
    >>> table["value"] = table["value"].abs()  # z⁺ starts with the logit: the map of a negative one is negative
    >>> cosines = table[table["measure"] == "cosine"].groupby("method")["value"].median()
    >>> bool(cosines["lrp_zplus"] > 0.99), bool(cosines["gradient"] < 0.7)
    (True, True)
    """
    import pandas as pd  # noqa: F401  # here, so that its absence is noticed before any work

    (samples,) = check_inputs((inputs,))
    in_eval_mode("model", model)
    at_least_one(others=others, batch=batch)
    seeded(seed)
    explainers = explainers_of(methods, model, controls_for(samples) if controls else ())
    if classes is None:
        with torch.no_grad():
            logits = torch.cat([model(x) for x in samples.split(batch)])
        classes = predicted_and_others(logits, others, seed)
    classes = checked_classes(classes, samples, least=2)
    references = references_of(baselines, samples, batch)

    def of_batch(number: int, x: Tensor, asked: Tensor, reference: Any) -> list[dict[str, Any]]:
        image = [*range(number, number + len(x))]
        known: dict[str, Any] = {"image": image, "target": asked[:, 0].tolist()}

        def of(explainer: Explainer) -> list[dict[str, Any]]:
            first, *rest = (
                Prepared.of(m, conventions, explainer.drawn) for m in explainer.maps(model, x, asked, reference)
            )
            found = []
            for other, maps in zip(asked.T[1:].tolist(), rest, strict=True):
                where: dict[str, Any] = {"method": explainer.name, "against": ANOTHER_CLASS, **known, "other": other}
                found += rows_of(first, maps, conventions, **where)
            if controls:
                found += rows_of_controls(explainer, first, conventions, seed, number, **known, other=-1)
            return found

        rows = [row for found in of_all(of, [(e,) for e in explainers]) for row in found]
        if controls:
            rows += rows_of_floor(x, conventions, seed, number, image=image, target=-1, other=-1)
        return rows

    starts = range(0, len(samples), batch)
    chunks = [*zip(starts, samples.split(batch), classes.split(batch), references, strict=True)]
    bar = tqdm(chunks, desc="random logits", disable=None if len(chunks) > 1 else True)
    return finished([row for chunk in bar for row in of_batch(*chunk)])


def references_of(baselines: Any, samples: Tensor, batch: int) -> Sequence[Any]:
    """Return the reference inputs of each batch of samples.

    Parameters
    ----------
    baselines : number, Tensor or None
    samples : Tensor, shape (images, ...)
    batch : int

    Returns
    -------
    sequence of Tensor or None

    Examples
    --------
    >>> len(references_of(None, torch.zeros(5, 3), 2))
    3
    """
    if baselines is None:
        return [None] * -(-len(samples) // batch)
    return check_baselines(baselines, samples)[0].split(batch)
