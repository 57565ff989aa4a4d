"""The audit: what it tells of networks whose answer is known, and that it tells nothing where it cannot."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor, nn

import modbp
from modbp import InputError, auditing, metrics, notebooks
from modbp.auditing import ALL, CEILING, CLASS, FLOOR, IMAGE, LATER, QUESTIONS, Answer, Finding, Verdict
from modbp.auditing.battery import stages_of
from modbp.layers import running_order
from modbp.metrics.sanity import STRICT, ssim
from modbp.metrics.sanity.explaining import explainers_of
from modbp.networks import random_mlp

SIDE, PICTURES = 16, 6


class Small(nn.Module):
    """A trained network in small: one residual sum, a functional ReLU, a reused one, a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(8 * (SIDE // 2) ** 2, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = x + torch.relu(self.second(x))
        x = self.relu(self.third(x)).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    found = Small()
    assert found.norm.running_var is not None
    found.norm.running_var.mul_(torch.linspace(0.2, 5, 8))  # as training leaves it: to reset it makes a difference
    return found.eval()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randn(PICTURES, 3, SIDE, SIDE, generator=torch.manual_seed(1))


def follows_all(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    """Noise drawn by the class, the last layer, the first layer and the picture."""
    return drawn(inputs, target, model.head.weight, model.first.weight)  # type: ignore[union-attr]


def follows_layers(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    return drawn(inputs, torch.zeros(len(inputs)), model.head.weight, model.first.weight)  # type: ignore[union-attr]


def follows_class(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    return drawn(inputs, target)


def follows_early(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    return drawn(inputs, torch.zeros(len(inputs)), model.first.weight)  # type: ignore[union-attr]


def follows_input(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    return inputs**3


def one_picture(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).expand_as(inputs)


def constant(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    return torch.zeros_like(inputs)


def dice(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    """Another map at every call, whatever it is asked."""
    return torch.randn_like(inputs)


def nearly_empty(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    """A small square, at a place drawn by the class and the picture: maps that are alike wherever they are empty."""
    found = torch.zeros_like(inputs)
    for i, place in enumerate(drawn(inputs, target).abs().flatten(1)[:, :2]):
        row, column = (int(1000 * v) % (inputs.shape[-1] - 8) for v in place)
        found[i, :, row : row + 8, column : column + 8] = 1.0
    return found


def drawn(inputs: Tensor, target: Any, *weights: Tensor) -> Tensor:
    classes = torch.as_tensor(target).expand(len(inputs))
    seen = sum(int(w.detach().double().sum() * 1e6) for w in weights)
    return torch.stack(
        [
            torch.randn(x.shape, generator=torch.Generator().manual_seed(abs(seen + int(x.sum() * 1e4) + 999 * int(k))))
            for x, k in zip(inputs, classes, strict=True)
        ]
    )


KNOWN: dict[Callable[..., Tensor], Verdict] = {
    follows_all: Verdict.DECISION,
    follows_layers: Verdict.LAYERS,
    follows_class: Verdict.CLASS,
    follows_early: Verdict.EARLY,
    follows_input: Verdict.INPUT,
    one_picture: Verdict.NOTHING,
    constant: Verdict.NOTHING,
    dice: Verdict.CANNOT_TELL,
}


@pytest.fixture(scope="module")
def known(network: nn.Module, pictures: Tensor) -> auditing.Audit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant maps
        return modbp.audit(network, pictures, methods=[*KNOWN], batch=4)


@pytest.mark.parametrize("method", KNOWN)
def test_what_a_function_depends_on_is_found(known: auditing.Audit, method: Any) -> None:
    found = known.judge(method.__name__)
    assert found.verdict is KNOWN[method], found
    assert not found.reason
    assert known.complete


def test_the_controls_come_out_as_they_must(known: auditing.Audit) -> None:
    assert known.blind == ()
    assert known.controls == ("noise", "edges")
    assert known.judge("noise").verdict is Verdict.DECISION, "no test of insensitivity tells noise from an explanation"
    assert known.judge("edges").verdict is Verdict.INPUT


def test_a_method_that_never_returns_the_same_map_is_not_said_to_depend_on_anything(known: auditing.Audit) -> None:
    found = known.judge("dice")
    assert found.evidence[CLASS].high < auditing.CHANGED, "by the threshold alone it would"
    assert set(found.answers.values()) == {Answer.CANNOT_TELL}


def test_maps_that_are_alike_because_they_are_empty_are_not_called_the_same() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()
    found = modbp.audit(net, torch.randn(8, 3, 96, 96), methods=nearly_empty).judge("nearly_empty")
    assert found.evidence[CLASS].low > auditing.SAME, "by the threshold alone they would"
    assert found.evidence[CLASS].low > found.evidence[FLOOR].high, "and by the floor, whose pixels are scattered"
    assert found.ranks[CLASS].high < auditing.CHANGED, "the ranks tell"
    assert found.answers[CLASS] is Answer.CANNOT_TELL
    assert found.verdict is Verdict.NOT_LAYERS, "which is true: it never looks at the network"


@pytest.mark.parametrize(("control", "value"), [("noise", 0.99), ("edges", 0.1)])
def test_where_a_control_misses_nobody_gets_an_answer(known: auditing.Audit, control: str, value: float) -> None:
    numbers = known.numbers.copy()
    numbers.loc[(numbers["method"] == control) & (numbers["quantity"] == CLASS), "value"] = value
    missed = dataclasses.replace(known, numbers=numbers)
    assert missed.blind == (CLASS,)
    for method in ("follows_all", "follows_input"):
        assert known.judge(method).answers[CLASS] is not Answer.CANNOT_TELL
        assert missed.judge(method).answers[CLASS] is Answer.CANNOT_TELL
        assert missed.judge(method).answers[LATER] is known.judge(method).answers[LATER]
        assert missed.judge(method).reason == "the controls do not come out as they must for: another class"


def test_noise_finds_no_pixels_that_matter(known: auditing.Audit) -> None:
    assert known.judge("follows_all").flipped is Finding.CANNOT_TELL
    assert "not shown" in known.judge("follows_all").meaning


@pytest.fixture(scope="module")
def real(network: nn.Module, pictures: Tensor) -> auditing.Audit:
    methods = ["gradient", "lrp_zplus", "pattern_net", captum.attr.Saliency]
    return modbp.audit(network, pictures, methods=methods, batch=4, seed=3)


def test_every_number_is_that_of_the_public_measure(real: auditing.Audit, network: nn.Module, pictures: Tensor) -> None:
    assert real.measure == STRICT.label
    for method in ("gradient", "lrp_zplus"):
        maps = modbp.make(method, network).attribute_classes(pictures, real.classes)
        table = metrics.random_logit(network, pictures, method, real.classes, controls=False)
        expected = table[table["measure"] == STRICT.label]["value"]
        assert real.values(method, CLASS) == pytest.approx(list(expected), abs=1e-6)
        assert real.values(method, auditing.DISTANCE) == pytest.approx(
            metrics.class_distance(maps, up_to_sign=True).tolist(), abs=1e-6
        )
        assert real.values(method, auditing.ALIGNED) == pytest.approx(
            metrics.high_pass_correlation(maps[0], pictures).abs().tolist(), abs=1e-6
        )
        (explainer,) = explainers_of(method, network)
        ring = [*range(-1, len(pictures) - 1)]
        around = ssim(maps[0], maps[0][ring], STRICT, explainer.drawn)
        # The pair that closes the ring is compared the other way round, and SSIM is not quite symmetric.
        assert real.values(method, IMAGE) == pytest.approx(around, abs=0.05)
        assert real.values(method, IMAGE)[1:] == pytest.approx(around[1:], abs=1e-6)
        for i in (0, 5):
            stages = real.stages
            one = metrics.parameter_randomization(
                network, pictures[i : i + 1], method, layers=stages, controls=False, seed=3 + i
            )
            one = one[one["measure"] == STRICT.label].set_index("stage")["value"]
            for stage in (LATER, ALL):
                assert real.values(method, stage)[i] == pytest.approx(one[stage], abs=1e-6)
            if i < 2:
                cosines = metrics.csc(network, pictures[i : i + 1], method, n_vectors=2, seed=3 + i)
                assert real.converged(method)[i] == pytest.approx(cosines["median"][0], abs=2e-3)
        assert real.values(method, CEILING) == pytest.approx([1.0] * PICTURES, abs=1e-5)


def test_pixel_flipping_is_that_of_the_public_measure(
    real: auditing.Audit, network: nn.Module, pictures: Tensor
) -> None:
    maps = modbp.make("lrp_zplus", network).attribute(pictures, real.classes[:, 0])
    for i in (0, 5):
        table = metrics.pixel_flipping(
            network,
            pictures[i : i + 1],
            {"lrp_zplus": maps[i : i + 1]},
            real.classes[i : i + 1, 0],
            order=["most", "least"],
            shares=auditing.BUDGETS["quick"].shares,
            seed=3 + i,
        )
        (expected,) = metrics.flipping_area(table).query("method == 'lrp_zplus'")["separation"]
        assert real.values("lrp_zplus", auditing.SEPARATION)[i] == pytest.approx(expected, abs=1e-6)
    assert set(real.curves["method"]) == {*real.methods, "random order", "edges"}
    assert sorted(set(real.curves["image"])) == list(range(PICTURES))


def test_convergence_of_a_function_is_that_of_its_maps_of_classes(real: auditing.Audit) -> None:
    rows = real.convergence.set_index("method")
    assert set(rows.loc["Saliency", "start"]) == {auditing.OTHER_CLASSES}
    assert set(rows.loc["gradient", "start"]) == {auditing.RANDOM_VECTORS}
    assert set(rows.loc["noise", "start"]) == {auditing.OTHER_CLASSES}
    assert real.converged("edges") == pytest.approx([1.0] * PICTURES)
    assert real.converged("noise") == pytest.approx([0.5] * PICTURES, abs=0.1), "chance for three channels"


def test_the_result_does_not_depend_on_the_batch_or_on_the_other_methods(
    real: auditing.Audit, network: nn.Module, pictures: Tensor
) -> None:
    alone = modbp.audit(network, pictures, methods="gradient", batch=1, seed=3)
    assert torch.equal(alone.classes, real.classes)
    for quantity in (*QUESTIONS, CEILING, FLOOR, auditing.DISTANCE, auditing.ALIGNED, auditing.SEPARATION):
        assert alone.values("gradient", quantity) == pytest.approx(real.values("gradient", quantity), abs=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_no_more_pictures_than_the_batch_are_in_the_network_at_once(
    network: nn.Module, pictures: Tensor, batch: int
) -> None:
    seen: list[int] = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: seen.append(len(args[0])) if type(module) is Small else None
    )
    try:
        modbp.audit(network, pictures, methods=["gradient", "lrp_zplus", captum.attr.Saliency], batch=batch)
    finally:
        handle.remove()
    assert max(seen) == batch


def test_the_model_is_left_as_it_was(network: nn.Module, pictures: Tensor) -> None:
    before = modbp.zoo.fingerprint(network)
    modbp.audit(network, pictures[:2], methods="guided_backprop")
    assert modbp.zoo.fingerprint(network) == before
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())


@pytest.mark.parametrize("images", [1, 2, 5])
def test_fewer_than_six_pictures_tell_nothing(network: nn.Module, pictures: Tensor, images: int) -> None:
    found = modbp.audit(network, pictures[:images], methods=["gradient", follows_input])
    assert {one.verdict for one in found.judgments()} == {Verdict.CANNOT_TELL}
    assert len(found.values("gradient", IMAGE)) == {1: 0, 2: 1, 5: 5}[images]
    assert "no interval" in str(found.judge("gradient").evidence[CLASS])


def test_a_method_that_fails_is_named_and_the_others_go_on(network: nn.Module, pictures: Tensor) -> None:
    calls = itertools.count()

    def breaks_at_once(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        raise RuntimeError("out of luck.\nmore")

    def breaks_later(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        if next(calls) > 4:
            raise RuntimeError("tired")
        return inputs

    def of_another_size(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        return inputs[..., :4, :4]

    def of_all_at_once(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        return inputs.sum()

    methods = [breaks_at_once, breaks_later, of_another_size, of_all_at_once, "gradient", captum.attr.DeepLift]
    found = modbp.audit(network, pictures, methods=methods)
    assert found.failures["breaks_at_once"] == "RuntimeError: out of luck"
    assert found.failures["breaks_later"] == "RuntimeError: tired"
    assert found.failures["of_another_size"].startswith("it returned maps of shape (1, 3, 4, 4)")
    assert found.failures["of_all_at_once"].startswith("of_all_at_once returned () for 1 inputs; allowed is a tensor")
    # Captum's DeepLift cannot follow a module that is used twice.
    assert "DeepLift" in found.failures
    for name in found.failures:
        # What was measured before the failure still counts.
        told = Verdict.NOT_CLASS if name == "breaks_later" else Verdict.CANNOT_TELL
        assert found.judge(name).verdict is told
        assert found.judge(name).reason == found.failures[name]
    assert found.judge("gradient").verdict is Verdict.DECISION
    assert len(found.values("gradient", LATER)) == PICTURES


@pytest.mark.parametrize("interrupted", ["by the keyboard", "by a question"])
def test_what_was_measured_survives_an_interruption(network: nn.Module, pictures: Tensor, interrupted: str) -> None:
    calls = itertools.count()

    def counts(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        if interrupted == "by the keyboard" and next(calls) == 9:
            raise KeyboardInterrupt
        return inputs

    asked = itertools.count()
    stop = (lambda: next(asked) > 9) if interrupted == "by a question" else (lambda: False)
    found = modbp.audit(network, pictures, methods=[counts, "gradient"], batch=2, stop=stop)
    assert not found.complete
    measured = len(found.values("gradient", CLASS))
    assert 0 < measured < PICTURES
    assert found.judge("gradient").evidence[CLASS].defined == measured
    assert found.as_json()["complete"] is False


def test_a_stop_is_asked_for_between_methods_too(network: nn.Module, pictures: Tensor) -> None:
    calls: list[str] = []

    def first(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        calls.append("first")
        return inputs

    def second(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        calls.append("second")
        return inputs

    found = modbp.audit(network, pictures, methods=[first, second], stop=lambda: calls.count("first") > 1)
    assert calls.count("second") == 1, "in the trial"
    assert found.values("first", CLASS)
    assert not found.values("second", CLASS)
    assert not found.complete


def test_stopped_before_anything_was_measured(network: nn.Module, pictures: Tensor) -> None:
    with pytest.raises(InputError, match="stopped before anything was measured"):
        modbp.audit(network, pictures, methods="gradient", stop=lambda: True)


def test_inputs_that_are_no_pictures(network: nn.Module) -> None:
    net = random_mlp(width=100, depth=8)
    found = modbp.audit(net, torch.randn(8, 100, generator=torch.manual_seed(0)), methods=["gradient", "lrp_zplus"])
    assert found.measure == "cosine"
    assert found.controls == ("noise",)
    assert found.judge("gradient").answers[CLASS] is Answer.CHANGED
    assert found.judge("lrp_zplus").answers[CLASS] is Answer.SAME
    assert min(found.values("gradient", CLASS) + found.values("gradient", ALL)) >= 0, "up to the sign"
    assert found.curves.empty
    assert found.judge("gradient").flipped is Finding.CANNOT_TELL


def test_a_full_budget_measures_more_of_the_same(network: nn.Module, pictures: Tensor) -> None:
    found = modbp.audit(network, pictures, methods=["gradient"], budget="full")
    assert found.classes.shape == (PICTURES, 4), "all other classes, of which there are three"
    assert list(found.stages) == [LATER, "2 of 5 layers random", "4 of 5 layers random", ALL]
    assert len(found.curves["share"].unique()) > 4
    assert all(len(row.unique()) == 4 for row in found.classes)


def test_targets(network: nn.Module, pictures: Tensor) -> None:
    found = modbp.audit(network, pictures[:2], targets=torch.tensor([3, 0]), methods="gradient")
    assert found.classes[:, 0].tolist() == [3, 0]
    assert all(len(set(row)) == len(row) for row in found.classes.tolist())
    assert modbp.audit(network, pictures[:2], targets=1, methods="gradient").classes[:, 0].tolist() == [1, 1]


def of_infinite_logits() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 4)).eval()
    nn.init.constant_(net[1].bias, math.inf)
    return net


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": lambda x: x}, "model is of type function"),
        ({"model": Small().train()}, "training mode"),
        ({"budget": "huge"}, "budget is 'huge'; allowed are quick, full"),
        ({"methods": "gradeint"}, "gradeint"),
        ({"methods": []}, "methods is empty"),
        ({"methods": {"noise": "gradient"}}, "which a control has"),
        ({"methods": ["gradient", "gradient"]}, "twice"),
        ({"methods": [5]}, "of type int"),
        ({"targets": 4}, "targets holds 4; allowed are classes from 0 to 3"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, "one per image"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"inputs": torch.full((6, 3, 8, 8), math.nan)}, "NaN"),
        ({"model": nn.Sequential(nn.Conv2d(3, 4, 3)).eval()}, "allowed are logits"),
        ({"model": nn.Sequential(nn.Flatten()).eval()}, "no linear layer"),
        (
            {"model": nn.Sequential(nn.Linear(3, 4)).eval()},
            r"cannot be called with inputs of shape \(6, 3, 16, 16\) \(Run",
        ),
        ({"model": nn.Sequential(nn.Flatten(), nn.LSTM(768, 4)).eval()}, "model returned a tuple"),
        ({"model": of_infinite_logits()}, "not finite"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_sentence(
    network: nn.Module, pictures: Tensor, changed: dict[str, Any], said: str
) -> None:
    given = {"model": network, "inputs": pictures, "methods": "gradient"} | changed
    with pytest.raises(InputError, match=said) as caught:
        modbp.audit(**given)
    assert "\n" not in str(caught.value)


def test_the_table_and_the_record_hold_every_verdict(real: auditing.Audit) -> None:
    table = real.table()
    assert list(table.index) == [*real.methods, *real.controls]
    assert list(table["verdict"]) == [str(real.judge(m).verdict) for m in table.index]
    kept = real.as_json()
    assert list(kept["methods"]) == list(table.index)
    assert kept["methods"]["gradient"]["evidence"][CLASS]["median"] == table.loc["gradient", CLASS]
    with pytest.raises(InputError, match="method is 'z'"):
        real.judge("z")


# The logic of verdicts.


@given(st.dictionaries(st.sampled_from(list(QUESTIONS)), st.sampled_from(list(Answer))))
def test_a_verdict_says_no_more_than_its_answers(answers: dict[str, Answer]) -> None:
    found = str(auditing.verdict(answers))
    said = {"the class": answers.get(CLASS), "the later layers": answers.get(LATER)}
    for what, answer in said.items():
        if answer in (None, Answer.CANNOT_TELL):
            assert found == "cannot tell" or f"cannot tell for {what}" in found
        else:
            assert f"cannot tell for {what}" not in found
            assert (answer is Answer.CHANGED) == (f"depends on {what}" in found or f"and on {what}" in found)
    if "alone" in found or "nothing" in found or "neither" in found:
        assert set(said.values()) == {Answer.SAME}
    assert ("nothing" in found) == (set(answers.values()) == {Answer.SAME} and len(answers) == len(QUESTIONS))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_an_interval_holds_its_median_and_no_more_than_its_values(values: list[float]) -> None:
    found = auditing.interval([*values, math.nan])
    assert found.median == np.median(values)
    assert (found.defined, found.undefined) == (len(values), 1)
    assert math.isnan(found.low) == math.isnan(found.high) == (len(values) < 6)
    if len(values) >= 6:
        assert found.low in values
        assert found.high in values
        assert found.low <= found.median <= found.high


@pytest.mark.parametrize("n", [6, 8, 13, 30])
def test_an_interval_covers_as_often_as_it_says(n: int) -> None:
    """The coverage of order statistics in closed form: P(l ≤ B < u) with B ~ Binomial(n, 1/2)."""
    found = auditing.interval(range(n))
    low, high = int(found.low), int(found.high)
    covered = binom.cdf(high, n, 0.5) - binom.cdf(low, n, 0.5)
    narrower = binom.cdf(high - 1, n, 0.5) - binom.cdf(low + 1, n, 0.5)
    assert covered >= auditing.CONFIDENCE > narrower - 1e-12


intervals = st.lists(st.floats(-1, 1), min_size=6, max_size=12).map(auditing.interval)


@given(intervals, intervals, intervals, intervals)
@settings(max_examples=300)
def test_an_answer_needs_the_whole_interval_beyond_the_threshold_and_beyond_the_control(
    similarity: auditing.Interval, floor: auditing.Interval, ceiling: auditing.Interval, second: auditing.Interval
) -> None:
    found = auditing.answer(similarity, floor, ceiling, second)
    same = similarity.low >= auditing.SAME and similarity.low > floor.high and second.high > auditing.CHANGED
    changed = similarity.high <= auditing.CHANGED and similarity.high < ceiling.low and second.low < auditing.SAME
    assert (found is Answer.SAME) == same
    assert (found is Answer.CHANGED) == changed


@given(st.integers(1, 200), st.lists(st.floats(0, 1), max_size=4))
def test_stages_go_up_from_the_output_and_later_layers_are_a_quarter(n: int, shares: list[float]) -> None:
    layers = [str(i) for i in range(n)]
    found = stages_of(layers, tuple(shares))
    starts = [int(start) for start in found.values()]
    assert starts == sorted(set(starts), reverse=True) or n < 3, "in the order of the cascade"
    assert n - int(found[LATER]) == max(1, round(n / 4))
    assert found[ALL] == "0"


def test_later_layers_of_vgg16_are_its_dense_ones_and_one_more(vgg16_layers: list[str]) -> None:
    stages = stages_of(vgg16_layers, ())
    later = vgg16_layers[vgg16_layers.index(stages[LATER]) :]
    assert later == ["features.28", "classifier.0", "classifier.3", "classifier.6"]


@pytest.fixture
def vgg16_layers() -> list[str]:
    return list(running_order(modbp.zoo.load(weights="random"), torch.zeros(1, 3, 224, 224)))


def test_the_page_allows_every_budget() -> None:
    page = notebooks.find("audit")
    for budget in auditing.BUDGETS:
        notebooks.check(page, {"budget": budget})
    with pytest.raises(InputError, match=f"allowed is one of {', '.join(auditing.BUDGETS)}"):
        notebooks.check(page, {"budget": "huge"})


def test_every_verdict_has_a_meaning() -> None:
    for found in Verdict:
        for flipped in Finding:
            assert auditing.meaning(found, flipped).endswith(".")
