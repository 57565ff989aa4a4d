"""Audit any method on any network: what its maps depend on, with the numbers behind the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401, for the example
from torch import Tensor, nn

from modbp.auditing.battery import (
    ALIGNED,
    BUDGETS,
    CONVERGED,
    DISTANCE,
    OTHER_CLASSES,
    RANDOM_VECTORS,
    SEPARATION,
    Battery,
    Budget,
    by_name,
)
from modbp.auditing.verdicts import (
    ALL,
    CEILING,
    CLASS,
    CONFIDENCE,
    CONTROLS,
    FLOOR,
    IMAGE,
    LATER,
    QUESTIONS,
    Finding,
    Interval,
    Verdict,
    answer,
    finding,
    interval,
    meaning,
    verdict,
)
from modbp.backward import INPUT, check_inputs
from modbp.checks import at_least_one, in_eval_mode, seeded
from modbp.claims.guidance import CHANGED as CHANGED
from modbp.claims.guidance import SAME as SAME
from modbp.claims.guidance import Answer
from modbp.errors import InputError
from modbp.metrics.sanity import SPEARMAN_ABSOLUTE
from modbp.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ALIGNED",
    "ALL",
    "BUDGETS",
    "CEILING",
    "CLASS",
    "CONFIDENCE",
    "CONTROLS",
    "CONVERGED",
    "DEFAULT",
    "DISTANCE",
    "FLOOR",
    "IMAGE",
    "LATER",
    "OTHER_CLASSES",
    "QUESTIONS",
    "RANDOM_VECTORS",
    "SEPARATION",
    "Answer",
    "Audit",
    "Budget",
    "Finding",
    "Interval",
    "Judgment",
    "Verdict",
    "answer",
    "audit",
    "finding",
    "interval",
    "meaning",
    "verdict",
]

DEFAULT = (
    *("gradient", "input_x_gradient", "guided_backprop", "deconvolution", "deeplift_rescale"),
    *("lrp_epsilon", "lrp_zplus", "epsilon_plus", "excitation_bp"),
)
"""The methods that are audited where none are named."""

EXAMPLES = 3
"""Of how many pictures an audit keeps the maps."""


@dataclass(frozen=True)
class Judgment:
    """What an audit found of one method.

    Parameters
    ----------
    method : str
    verdict : Verdict
    flipped : Finding
        What pixel flipping says.
    meaning : str
        What both mean for someone who uses the map.
    answers : mapping from str to Answer
        By question of `QUESTIONS`.
    evidence : mapping from str to Interval
        By question, and for `CEILING`, `FLOOR`, `DISTANCE`, `ALIGNED`, `SEPARATION` and `CONVERGED`.
    ranks : mapping from str to Interval
        By question, the absolute rank correlation: the second measure, which must not contradict.
    reason : str
        Why nothing more can be told, where the method failed or the measures do not work here; else empty.

    Examples
    --------
    >>> Judgment("mine", Verdict.INPUT, Finding.BETTER, "It shows the picture.", {}, {}, {}).reason
    ''
    """

    method: str
    verdict: Verdict
    flipped: Finding
    meaning: str
    answers: Mapping[str, Answer]
    evidence: Mapping[str, Interval]
    ranks: Mapping[str, Interval]
    reason: str = ""


@dataclass(frozen=True)
class Audit:
    """What an audit measured, and what follows.

    Parameters
    ----------
    methods, controls : tuple of str
    numbers : pandas.DataFrame
        A row for each method, quantity, measure and picture: `method`, `quantity`, `measure`, `image`, `value`.
    convergence : pandas.DataFrame
        A row for each method, picture and layer: `method`, `start`, `image`, `layer`, `median`, `chance`.
    curves : pandas.DataFrame
        Of pixel flipping, as from `modbp.metrics.pixel_flipping`; empty for inputs that are no pictures.
    classes : Tensor of integers, shape (images, 1 + others)
        The explained class of each picture, and those that it was compared with.
    logits : Tensor, shape (images, classes)
    examples : mapping from str to Tensor, shape (1 + others, pictures, ...)
        Maps of the first pictures, by method.
    measure : str
        What answers the questions: the structural similarity, or the cosine where there are no pictures.
    failures : mapping from str to str
        Why a method could not be measured, or not to the end.
    constant : mapping from str to int
        For how many pictures a method's map was constant.
    pictures : int
        How many there were to measure.
    complete : bool
        False where the audit was stopped before its end.
    stages : mapping from str to str
        From which layer upwards layers were random.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    >>> found = audit(net, torch.rand(2, 4, generator=torch.manual_seed(0)), methods="gradient")
    >>> print(found.judge("gradient").verdict)  # of two inputs
    cannot tell
    """

    methods: tuple[str, ...]
    controls: tuple[str, ...]
    numbers: pd.DataFrame
    convergence: pd.DataFrame
    curves: pd.DataFrame
    classes: Tensor
    logits: Tensor
    examples: Mapping[str, Tensor]
    measure: str
    failures: Mapping[str, str]
    constant: Mapping[str, int]
    pictures: int
    complete: bool
    stages: Mapping[str, str]

    def values(self, method: str, quantity: str, measure: str | None = None) -> list[float]:
        """Return the numbers of a method, one for each picture that was measured.

        Parameters
        ----------
        method : str
        quantity : str
            A question of `QUESTIONS`, a stage of the cascade, `CEILING`, `FLOOR`, `DISTANCE`, `ALIGNED` or
            `SEPARATION`.
        measure : str, optional
            For what has several: by default the one that answers.

        Returns
        -------
        list of float
        """
        measured = "" if quantity in (DISTANCE, ALIGNED, SEPARATION) else measure or self.measure
        table = self.numbers
        chosen = (table["method"] == method) & (table["quantity"] == quantity) & (table["measure"] == measured)
        return [float(value) for value in table[chosen].sort_values("image")["value"]]

    def judge(self, method: str) -> Judgment:
        """Return what was found of a method, or of a control.

        Parameters
        ----------
        method : str
            Out of `methods` and `controls`.

        Returns
        -------
        Judgment

        Raises
        ------
        InputError
            If the method was not audited.
        """
        if method not in (*self.methods, *self.controls):
            raise InputError(f"method is {method!r}; allowed are {', '.join((*self.methods, *self.controls))}.")
        evidence = {q: interval(self.values(method, q)) for q in (*QUESTIONS, CEILING, FLOOR)}
        evidence |= {q: interval(self.values(method, q)) for q in (DISTANCE, ALIGNED, SEPARATION)}
        evidence[CONVERGED] = interval(self.converged(method))
        ranks = {q: interval(self.values(method, q, SPEARMAN_ABSOLUTE)) for q in QUESTIONS}
        answers = {q: answer(evidence[q], evidence[FLOOR], evidence[CEILING], ranks[q]) for q in QUESTIONS}
        reason = self.failures.get(method, "")
        if method not in self.controls:
            answers |= dict.fromkeys(self.blind, Answer.CANNOT_TELL)
            if self.blind and not reason:
                reason = f"the controls do not come out as they must for: {', '.join(self.blind)}"
        found = verdict(answers)
        if found is Verdict.CANNOT_TELL and self._is_constant(method):
            found = Verdict.NOTHING
        flipped = finding(evidence[SEPARATION])
        return Judgment(method, found, flipped, meaning(found, flipped), answers, evidence, ranks, reason)

    @cached_property
    def blind(self) -> tuple[str, ...]:
        """The questions for which a control does not come out as it must, so that nobody's answer counts."""
        found = {name: self.judge(name).answers for name in self.controls}
        return tuple(q for q in QUESTIONS if any(found[name][q] != CONTROLS[name][q] for name in self.controls))

    def judgments(self) -> list[Judgment]:
        """Return what was found of each method, in their order.

        Returns
        -------
        list of Judgment
        """
        return [self.judge(method) for method in self.methods]

    def converged(self, method: str, layer: str = INPUT) -> list[float]:
        """Return the median absolute cosine of a method at a layer, one for each picture.

        Parameters
        ----------
        method : str
        layer : str, default "input"

        Returns
        -------
        list of float
        """
        table = self.convergence
        return [float(v) for v in table[(table["method"] == method) & (table["layer"] == layer)]["median"]]

    def path(self, method: str) -> dict[str, float]:
        """Return how far a method converges at each layer: the mean over pictures of the median absolute cosine.

        Parameters
        ----------
        method : str

        Returns
        -------
        dict from str to float
            In the order in which the network runs; the input alone for a method that sends nothing back.
        """
        rows = self.convergence[self.convergence["method"] == method]
        means = rows.groupby("layer", sort=False)["median"].mean()
        return {str(layer): float(value) for layer, value in means.items()}

    def chance(self, layer: str = INPUT) -> float:
        """Return the median absolute cosine that independent vectors have at a layer.

        Parameters
        ----------
        layer : str, default "input"

        Returns
        -------
        float
        """
        return float(self.convergence[self.convergence["layer"] == layer]["chance"].iloc[0])

    def table(self) -> pd.DataFrame:
        """Return a row for each method and control: its verdict, and every number that it rests on.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        rows = []
        for method in (*self.methods, *self.controls):
            found = self.judge(method)
            numbers: dict[str, Any] = {}
            for name, one in found.evidence.items():
                numbers |= {name: one.median, f"{name}, low": one.low, f"{name}, high": one.high}
            rows.append({"method": method, "verdict": str(found.verdict), "flipping": str(found.flipped), **numbers})
        return pd.DataFrame(rows).set_index("method")

    def as_json(self) -> dict[str, Any]:
        """Return all that was found, as JSON values.

        Returns
        -------
        dict
        """
        return {
            "measure": self.measure,
            "confidence": CONFIDENCE,
            "thresholds": {"same": SAME, "changed": CHANGED},
            "complete": self.complete,
            "pictures": self.pictures,
            "classes": self.classes.tolist(),
            "stages": dict(self.stages),
            "failures": dict(self.failures),
            "methods": {
                method: {
                    "verdict": str(found.verdict),
                    "flipping": str(found.flipped),
                    "meaning": found.meaning,
                    "reason": found.reason,
                    "answers": {question: str(said) for question, said in found.answers.items()},
                    "evidence": {name: vars(one) for name, one in found.evidence.items()},
                    "rank correlations": {name: vars(one) for name, one in found.ranks.items()},
                }
                for method in (*self.methods, *self.controls)
                for found in [self.judge(method)]
            },
        }

    def _is_constant(self, method: str) -> bool:
        measured = len(self.values(method, CEILING))
        return measured > 0 and self.constant.get(method, 0) == measured == self.pictures


def audit(
    model: nn.Module,
    inputs: Tensor,
    targets: int | Tensor | None = None,
    methods: Any = DEFAULT,
    budget: str = "quick",
    *,
    batch: int = 8,
    baselines: Any = None,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Audit:
    """Run the battery on a network and methods of your own, to learn what the maps depend on.

    Each method explains the same pictures, classes and random networks. Its map is compared with its maps of other
    classes, of the network with the last quarter of its layers random, of the network with all layers random, and of
    another picture. Beside these stand the same map computed again and the map's own pixels, shuffled; noise and edges
    go through everything as controls. The structural similarity (for other inputs than pictures the cosine) answers
    with its 95 % interval over pictures, by the thresholds `SAME` and `CHANGED`, unless the rank
    correlation contradicts. Convergence, the distance between classes, the alignment with the input and pixel flipping
    are measured too; pixel flipping says what a verdict means.

    It takes six pictures or more to tell anything. An interruption from the keyboard ends the audit with what was
    measured until then.

    Sources: Sixt et al. (2020) for convergence and random logits; Adebayo et al. (2018) for random parameters; Nie et
    al. (2018) for the alignment; Samek et al. (2017) for pixel flipping. What follows from them, and the intervals, are
    ours.

    Parameters
    ----------
    model : nn.Module
        Returns logits, shape (batch, classes), of two classes or more. It must be in eval mode, and is left as it is.
    inputs : Tensor, shape (images, ...)
        As the model sees them, on its device. Pictures have shape (images, channels, height, width).
    targets : int or Tensor of integers, shape (images,), optional
        The explained classes. By default those that the model predicts.
    methods : str, composite, method, class, function; or sequence of them, or mapping from names to them
        Names of `modbp.METHODS`; composites and methods of `modbp.attr`; classes of `captum.attr`; functions `(model,
        inputs, target) -> attributions`. Patterns are fitted on the inputs for methods that need them by name.
    budget : {"quick", "full"}, default "quick"
        How much is measured for each picture; see `BUDGETS`.
    batch : int, default 8
        Pictures at a time, which bounds the memory.
    baselines : number or Tensor, optional
        For DeepLIFT, the reference input; by default zero.
    seed : int, default 0
        Of the other classes, random networks, random vectors and controls.
    stop : callable, optional
        Called between the parts of the work; where it returns True, the audit ends with what was measured.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        If an argument is not usable, or the audit was stopped before anything was measured. A method that fails on
        this network is no error: the others go on, and its verdict is that nothing can be told.

    Examples
    --------
    >>> from modbp.networks import random_mlp
    >>> x = torch.randn(6, 100, generator=torch.manual_seed(0))
    >>> found = audit(random_mlp(width=100, depth=8), x, methods=["gradient", "lrp_zplus"])
    >>> [str(found.judge(method).answers[CLASS]) for method in found.methods]
    ['another map', 'same map']
    """
    import pandas as pd

    (samples,) = check_inputs((inputs,))
    whole: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile was given
    if not isinstance(whole, nn.Module):
        raise InputError(f"model is of type {type(model).__name__}; allowed is an nn.Module, whose layers have names.")
    in_eval_mode("model", whole)
    if budget not in BUDGETS:
        raise InputError(f"budget is {budget!r}; allowed are {', '.join(BUDGETS)}.")
    at_least_one(batch=batch)
    seeded(seed)
    samples = samples.detach()
    named = by_name(methods, whole, samples, batch)
    battery = Battery(whole, samples, named, targets, BUDGETS[budget], batch, baselines, seed, EXAMPLES, stop)
    units = list(battery.units())
    progress = Progress([(kind, cost) for kind, cost, _ in units], description="audit")
    complete = True
    try:
        for _, _, work in units:
            if stop():
                complete = False
                break
            with progress.unit():
                work()
        complete = complete and not stop()
    except KeyboardInterrupt:
        if not battery.measured.numbers:
            raise
        complete = False
    finally:
        progress.close()
    measured = battery.measured
    if not complete and not measured.numbers:
        raise InputError("the audit was stopped before anything was measured; allowed is to let it run.")
    places = {name: place for place, name in enumerate(battery.given)}
    return Audit(
        methods=tuple(named),
        controls=battery.controls,
        numbers=_ordered(measured.numbers, ["method", "quantity", "measure", "image", "value"], places),
        convergence=_ordered(measured.convergence, ["method", "start", "image", "layer", "median", "chance"], places),
        curves=pd.concat(measured.curves, ignore_index=True) if measured.curves else pd.DataFrame(),
        classes=battery.asked,
        logits=battery.logits.cpu(),
        examples={name: measured.examples[name] for name in places if name in measured.examples},
        measure=battery.measure,
        failures=measured.failures,
        constant=measured.constant,
        pictures=len(samples),
        complete=complete,
        stages=battery.stages,
    )


def _ordered(rows: Iterable[Mapping[str, Any]], columns: list[str], places: Mapping[str, int]) -> pd.DataFrame:
    """Return rows as a table in the order of the methods; threads have left them in no order."""
    import pandas as pd

    # Orders without a map, of pixel flipping, come behind the methods.
    return pd.DataFrame(sorted(rows, key=lambda row: places.get(row["method"], len(places))), columns=columns)
