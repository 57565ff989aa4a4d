"""One forward pass for many methods: their maps are those of each method alone, bit for bit."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import modbp
from modbp import composite as presets
from modbp.attr import attribute_methods
from modbp.attr.base import traces
from modbp.backward import Trace
from modbp.composite import Composite, families
from modbp.errors import InputError, UnsupportedModelError
from modbp.metrics import alignment, csc
from modbp.metrics.sender import name_of, senders_of
from modbp.parallel import in_parallel
from modbp.rules import Epsilon, Flat, GuidedBackprop, Linear, Pass, RectGrad, Rescale, ZPlus
from modbp.rules.pattern import Transposed

METHODS = [name for name in modbp.METHODS if not name.startswith("pattern")]
RECTIFIERS = ["gradient", "input_x_gradient", "deconvolution", "guided_backprop", "rectgrad"]
DIFFERENCES = [name for name in METHODS if name.startswith("deeplift")]
RELEVANCE = [name for name in METHODS if name not in RECTIFIERS + DIFFERENCES]

RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": F.relu,
    "in place": lambda z: F.relu(z, inplace=True),
    "in place, result ignored": lambda z: (z.relu_(), z)[1],
    "one in-place module": nn.ReLU(inplace=True),
    "clamp": lambda z: z.clamp(min=0),
    "clamp in place": lambda z: z.clamp_(min=0),
    "threshold": lambda z: F.threshold(z, 0.0, 0.0),
    "relu6": F.relu6,
    "relu6 in place": nn.ReLU6(inplace=True),
    "hardtanh": lambda z: F.hardtanh(z, 0.0, 2.0),
    "clamp to [0, 2]": lambda z: z.clamp(0, 2),
}


class Awkward(nn.Module):
    """Batch norms that merge and that do not, a residual sum, a concatenation, both pools, and no named ReLU."""

    def __init__(self, relu: str = "functional") -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.norm, self.late = nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.pool, self.mean, self.drop = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)
        self.rectify, self.calls = RELUS[relu], 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        a = self.pool(self.rectify(self.norm(self.one(x))))
        b = self.rectify(self.two(a)) + F.avg_pool2d(a, 3, 1, 1)
        c = self.rectify(self.late(torch.cat([b, self.three(b)], 1)))
        return self.head(self.drop(self.mean(c).flatten(1)))  # type: ignore[no-any-return]


def awkward(relu: str = "functional") -> Awkward:
    torch.manual_seed(0)
    net = Awkward(relu).eval()
    for norm in (net.norm, net.late):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()  # type: ignore[union-attr, operator]
    return net


def images(n: int = 2) -> Tensor:
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x[:, :, :3, :3] = 0  # so that some entries meet a bound exactly
    return x


def senders(names: Sequence[str], net: Callable[..., Any]) -> dict[str, modbp.attr.ModifiedBackprop]:
    return {name: modbp.make(name, net) for name in names}


# The same maps


@pytest.mark.parametrize("relu", RELUS)
def test_maps_from_shared_forward_passes_are_those_of_each_method_alone(relu: str) -> None:
    net, x, classes = awkward(relu), images(), torch.tensor([[0, 3], [4, 1]])
    shared = attribute_methods(net, METHODS, x, classes)
    assert list(shared) == METHODS
    for name, maps in shared.items():
        alone = modbp.make(name, net).attribute_classes(x, classes)
        assert maps.shape == (2, *x.shape)
        assert torch.equal(maps, alone), name
        assert alone.any()


@pytest.mark.parametrize("relu", ["in place", "relu6 in place", "clamp in place"])
@pytest.mark.parametrize("recorded", [False, True])
def test_relevance_at_layers_and_from_layers_is_that_of_each_method_alone(relu: str, recorded: bool) -> None:
    net, x = awkward(relu), images()
    layers = ["norm", "pool", "late", "head"] if recorded else []  # without any, ReLUs may write in place
    for family in traces(senders(METHODS, net), x, layers):
        for name, trace in family.items():
            alone = modbp.make(name, net).trace(x, layers)
            assert torch.equal(trace.output, alone.output)
            for at, source in itertools.product([["input", *layers[:2]]], ["output", *layers[2:]]):
                shape = alone.output.shape if source == "output" else alone.activation(source).shape
                starts = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
                for start, multiply in itertools.product((starts, starts[0]), (None, True)):
                    options: dict[str, Any] = {"start": start, "start_at": source, "multiply": multiply}
                    found, expected = trace.relevance(at, **options), alone.relevance(at, **options)
                    assert all(torch.equal(found[layer], expected[layer]) for layer in at), (name, source)


@pytest.mark.parametrize(
    ("rectify", "bounds"),
    [
        (lambda z: z.clamp(min=0), (0,)),
        (lambda z: torch.clamp_min(z, 0), (0,)),
        (lambda z: z.clone().clamp_(0, 6), (0, 6)),
        (lambda z: (z + 0).clamp_(min=0), (0,)),  # in place behind an addition, where a ReLU may write
        (lambda z: F.hardtanh(z, 0.0, 6.0), (0, 6)),
        (F.relu6, (0, 6)),
        (F.relu, (0,)),
        (lambda z: F.threshold(z, 0.0, 0.0), (0,)),
    ],
)
def test_at_a_bound_the_gradient_is_the_one_that_autograd_gives(
    rectify: Callable[[Tensor], Tensor], bounds: tuple[float, ...]
) -> None:
    """What the derivative of a clamp is on its bound depends on how it was written."""
    x = torch.tensor([[-1.0, 0.0, 2.0, 6.0, 7.0]])
    assert all(b in x for b in bounds)
    (expected,) = torch.autograd.grad(rectify(leaf := x.clone().requires_grad_()).sum(), leaf)
    for names in (["gradient", "guided_backprop"], ["deconvolution", "rectgrad", "gradient"]):
        (family,) = traces(senders(names, rectify), x)
        found = {name: trace.relevance()["input"] for name, trace in family.items()}
        assert torch.equal(found["gradient"], expected)
        for name in names:
            assert torch.equal(found[name], modbp.make(name, rectify).trace(x).relevance()["input"]), name


def test_each_of_several_rectifiers_of_a_mixture_has_its_rule() -> None:
    """A network in which some rectifiers fork and others do not, against the chain by hand in float64."""
    torch.manual_seed(3)
    U, V, W = (torch.randn(6, 6, dtype=torch.float64) for _ in range(3))
    x = torch.randn(4, 6, dtype=torch.float64)

    def net(x: Tensor) -> Tensor:
        return F.relu6(F.relu(x @ U.T) @ V.T) @ W.T

    z1 = x @ U.T
    z2 = z1.clamp(min=0) @ V.T
    masks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "gradient": lambda R, z: R * (z > 0),
        "deconvolution": lambda R, z: R.clamp(min=0),
        "guided_backprop": lambda R, z: R.clamp(min=0) * (z > 0),
    }
    (family,) = traces(senders(list(masks), net), x)
    R = torch.randn(4, 6, dtype=torch.float64)
    for name, mask in masks.items():
        expected = mask(mask((R @ W) * (z2 < 6), z2) @ V, z1) @ U
        torch.testing.assert_close(family[name].relevance(start=R)["input"], expected, rtol=1e-12, atol=1e-12)


@given(
    names=st.lists(st.sampled_from(METHODS), min_size=1, max_size=8, unique=True),
    asked=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=15)
def test_in_whatever_order_and_however_often_asked_a_method_gives_its_map(
    names: list[str], asked: list[int], seed: int
) -> None:
    net, x = awkward("one in-place module"), torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    held = {name: trace for family in traces(senders(names, net), x) for name, trace in family.items()}
    start = torch.randn(1, 5, generator=torch.Generator().manual_seed(seed))
    expected = {name: modbp.make(name, net).trace(x).relevance(start=start)["input"] for name in names}
    for number in asked:
        name = names[number % len(names)]
        assert torch.equal(held[name].relevance(start=start)["input"], expected[name]), name


def test_own_composites_with_rules_by_layer_and_position_share_a_forward_pass() -> None:
    net, x = awkward("in place"), images()
    mine = [
        Composite("a", {"affine": Epsilon(0.1)}, layers={"two": Flat()}, first=ZPlus()),
        Composite("b", {"affine": Flat()}, last=Epsilon(), batch_norm="merge"),  # most rules need no output
        Composite("c", {"affine": ZPlus()}, layers={"t*": Epsilon(1.0)}),
    ]
    for several in (mine, mine[::-1]):
        trace = Trace(net, x, several[0], ["late"], beside=several[1:])
        for view, one in zip([trace, *trace.beside], several, strict=True):
            alone = Trace(net, x, one, ["late"])
            found, expected = (t.relevance(["input", "late"], start=torch.eye(5)[[1, 2]]) for t in (view, alone))
            assert all(torch.equal(found[layer], expected[layer]) for layer in found), one.name


def test_relevance_that_a_relu_masks_by_different_rules_shares_a_forward_pass() -> None:
    """Affine rules that do not pass ReLUs: the ordinary backward pass, Guided Backprop's and RectGrad's beside it."""
    net, x = awkward("relu6"), images()
    mine = [
        Composite("plain", {"affine": Transposed()}),
        Composite("guided", {"affine": Transposed(), "relu": GuidedBackprop()}),
        Composite("rect", {"affine": Flat(), "relu": RectGrad(50)}),
    ]
    assert families([*mine, Composite("passing", {"affine": Flat()})]) == [[0, 1, 2], [3]]
    trace = Trace(net, x, mine[0], beside=mine[1:])
    for view, one in zip([trace, *trace.beside], mine, strict=True):
        assert torch.equal(view.relevance()["input"], Trace(net, x, one).relevance()["input"]), one.name


def test_patterns_share_a_forward_pass() -> None:
    norm, relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.Linear(64, 3)).eval()
    x = images(8)
    patterns = modbp.patterns.fit(net, [x])
    mine = [presets.pattern_net(patterns), presets.pattern_attribution(patterns)]
    assert len(families(mine)) == 1
    trace = Trace(net, x, mine[0], beside=mine[1:])
    for view, one in zip([trace, *trace.beside], mine, strict=True):
        assert torch.equal(view.relevance()["input"], Trace(net, x, one).relevance()["input"])


# How often the model runs


def test_the_model_runs_once_for_each_family() -> None:
    net, x = awkward(), images(1)
    classes = torch.tensor([[2]])
    for names, runs in (
        (RECTIFIERS, 1),
        (RELEVANCE, 1),
        (["deeplift_ablation_text", "deeplift_ablation_code"], 1),
        (["deeplift_rescale", "deeplift_reveal_cancel"], 2),
        (METHODS, 5),
    ):
        net.calls = 0
        attribute_methods(net, names, x, classes)
        assert net.calls == runs, names
    net.calls = 0
    attribute_methods(net, METHODS, images(5), torch.zeros(5, 1, dtype=torch.int64), batch=2)
    assert net.calls == 3 * 5


@pytest.mark.parametrize(("measure", "names"), [(csc, RECTIFIERS), (alignment, RELEVANCE[:4])])
def test_measures_of_several_methods_run_the_model_once_for_each_image_and_family(
    measure: Callable[..., pd.DataFrame], names: list[str]
) -> None:
    net, seen = awkward(), []
    handle = net.register_forward_hook(lambda module, arguments, output: seen.append(len(output)))
    options = {"n_vectors": 2} if measure is csc else {"layers": ["norm", "late"]}
    measure(net, images(3), [names[0], "deeplift_rescale"], **options)
    apart = len(seen)
    seen.clear()
    measure(net, images(3), [*names, "deeplift_rescale"], **options)
    handle.remove()
    assert len(seen) == apart
    assert apart - 3 * 2 in (0, 1)  # csc looks once where the activations are


@dataclass(frozen=True)
class Unhashable:
    """A rule of DeepLIFT for nonlinearities that a set cannot hold."""

    factor: list[float]
    chains: ClassVar[int] = 1
    __hash__ = None  # type: ignore[assignment]

    def factors(self, unit: Any) -> tuple[Tensor, Tensor]:
        return Rescale().factors(unit)


def test_families() -> None:
    grouped = families([modbp.make(name, nn.Identity()).composite for name in METHODS])
    assert [[METHODS[i] for i in family] for family in grouped[:2]] == [RECTIFIERS, RELEVANCE]
    assert presets.lrp_z().family == presets.lrp_gamma(bias="excluded").family
    assert presets.lrp_z().family != presets.lrp_z(batch_norm="affine").family
    assert presets.sixt_alpha_beta(5).family == presets.sixt_composite(2).family
    assert presets.pattern_net({"0": torch.ones(1)}).family != presets.lrp_z().family
    assert presets.deeplift_rescale().family == presets.deeplift_rescale().family
    assert presets.deeplift_ablation_text().family == presets.deeplift_ablation_code().family
    own = [presets.deeplift(name, Linear(), Unhashable([1.0])) for name in "ab"]
    assert own[0].family == own[0].family != own[1].family
    for name in METHODS:
        hash(modbp.make(name, nn.Identity()).composite.family)


def test_a_composite_beside_one_of_another_family_is_refused() -> None:
    net, x = awkward(), images(1)
    for beside in (presets.lrp_z(), presets.deeplift_rescale()):
        with pytest.raises(InputError, match=f"beside holds {beside.name}, whose family is .*that of gradient"):
            Trace(net, x, presets.gradient(), beside=[presets.rectgrad(), beside])
    assert net.calls == 0


# What is refused, and for whom


class Refused(nn.Module):
    """Something on which some rules have no meaning."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "no_grad":
            with torch.no_grad():
                rectified = F.relu(h)
            return self.last(h + rectified)  # type: ignore[no-any-return]
        if self.how == "gelu":
            return self.last(F.gelu(F.relu(h)))  # type: ignore[no-any-return]
        if self.how == "no relu":
            return self.last(torch.tanh(h))  # type: ignore[no-any-return]
        if self.how == "softmax":
            return self.last(F.relu(h)).softmax(1)  # type: ignore[no-any-return]
        if self.how == "shared memory":
            h.view(-1).relu_()
            return self.last(h)  # type: ignore[no-any-return]
        return (self.last(F.relu(h)), x)  # type: ignore[return-value]


def message(call: Callable[[], Any]) -> str:
    try:
        call()
    except (UnsupportedModelError, InputError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("how", ["no_grad", "gelu", "no relu", "softmax", "shared memory", "tuple"])
@pytest.mark.parametrize(
    "names",
    [
        ["gradient", "guided_backprop", "deconvolution"],
        ["rectgrad", "input_x_gradient"],
        ["gradient", "input_x_gradient"],
        ["lrp_zplus", "lrp_z"],
        ["deeplift_ablation_code", "deeplift_ablation_text"],
    ],
)
def test_the_error_is_that_of_the_first_method_that_has_one_alone(how: str, names: list[str]) -> None:
    torch.manual_seed(0)
    net, x, classes = Refused(how), torch.randn(2, 5), torch.tensor([[0], [1]])
    alone = [message(lambda name=name: modbp.make(name, net).attribute_classes(x, classes)) for name in names]  # type: ignore[misc]
    expected = next((words for words in alone if words), "")
    assert message(lambda: attribute_methods(net, names, x, classes)) == expected
    if names == ["gradient", "input_x_gradient"]:
        assert bool(expected) == (how == "tuple")


def test_a_layer_without_a_rule_is_named_with_the_composite_that_lacks_it() -> None:
    net, x = awkward(), images(1)
    whole = Composite("whole", {"affine": Flat()})
    lacking = Composite("lacking", {"affine": Flat(), "relu": Pass()}, layers={"head": None})
    alone = message(lambda: Trace(net, x, lacking))
    assert "lacking has no rule for the linear in layer 'head'" in alone
    assert message(lambda: Trace(net, x, whole, beside=[lacking])) == alone
    assert message(lambda: Trace(net, x, whole, beside=[whole])) == ""


def test_a_rule_that_is_none_is_refused_beside_one_that_acts() -> None:
    net, x = awkward(), images(1)
    nothing = Composite("nothing", {"relu": None})
    alone = message(lambda: Trace(net, x, nothing))
    assert "nothing acts on ReLUs and none was seen" in alone
    assert message(lambda: Trace(net, x, presets.guided_backprop(), beside=[nothing])) == alone


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_torchscript_is_refused_for_the_method_that_acts_on_it() -> None:
    x = torch.randn(2, 5)
    scripted = torch.jit.trace(nn.Sequential(nn.Linear(5, 3), nn.ReLU()), x)
    alone = message(lambda: Trace(scripted, x, presets.deconvolution()))
    assert "deconvolution cannot act on it" in alone
    assert message(lambda: Trace(scripted, x, presets.gradient(), beside=[presets.deconvolution()])) == alone
    assert message(lambda: Trace(scripted, x, presets.gradient(), beside=[presets.input_x_gradient()])) == ""


def test_a_graph_that_one_has_given_up_is_gone_for_all() -> None:
    trace = Trace(awkward(), images(1), presets.gradient(), beside=[presets.guided_backprop()])
    trace.beside[0].relevance(keep=False)
    with pytest.raises(InputError, match="the graph was given up by an earlier call with keep=False"):
        trace.relevance()


@pytest.mark.parametrize(
    ("said", "methods"),
    [
        ("the method 'gradeint' is unknown; allowed are gradient", ["gradient", "gradeint"]),
        ("method is 'pattern_net', which needs patterns", {"a": "gradient", "b": "pattern_net"}),
        ("is empty; allowed are one or more", []),
        ("has 'gradient' twice; allowed is a mapping", ["gradient", modbp.attr.Gradient]),
        ("method is of type int", ["gradient", 3]),
    ],
)
def test_bad_methods_are_refused_before_the_model_runs(said: str, methods: Any) -> None:
    net, x = awkward(), images(1)
    calls: list[Callable[[], Any]] = [
        lambda: csc(net, x, methods),
        lambda: alignment(net, x, methods, layers=["norm"]),
        lambda: attribute_methods(net, methods, x, torch.tensor([[0]])),
    ]
    for call in calls:
        with pytest.raises(InputError, match=said):
            call()
    assert net.calls == 0


def test_other_bad_arguments_are_those_of_one_method() -> None:
    net, x = awkward(), images(2)
    one = modbp.make("gradient", net)
    cases: list[tuple[Any, dict[str, Any]]] = [
        (torch.tensor([0, 1]), {}),
        (torch.tensor([[0]]), {}),
        (torch.tensor([[0], [7]]), {}),
        (torch.tensor([[0], [1]]), {"batch": 0}),
        (torch.tensor([[0], [1]]), {"baselines": torch.zeros(7)}),
        (torch.tensor([[0], [1]]), {"baselines": 0.5}),
    ]
    for classes, options in cases:
        alone = message(lambda c=classes, o=options: one.attribute_classes(x, c, **o))  # type: ignore[misc]
        assert "allowed" in alone
        assert message(lambda c=classes, o=options: attribute_methods(net, "gradient", x, c, **o)) == alone  # type: ignore[misc]
    with pytest.raises(InputError, match="baselines is given, and none of gradient, lrp_z compares with a reference"):
        attribute_methods(net, ["gradient", "lrp_z"], x, torch.tensor([[0], [1]]), baselines=0.5)


def test_baselines_reach_the_methods_that_compare() -> None:
    net, x, classes = awkward(), images(3), torch.tensor([[0], [1], [2]])
    reference = torch.randn(3, 8, 8)
    shared = attribute_methods(net, ["gradient", *DIFFERENCES], x, classes, baselines=reference, batch=2)
    assert torch.equal(shared["gradient"], modbp.make("gradient", net).attribute_classes(x, classes, batch=2))
    for name in DIFFERENCES:
        alone = modbp.make(name, net).attribute_classes(x, classes, batch=2, baselines=reference)
        assert torch.equal(shared[name], alone), name


# Threads and memory


def test_threads_that_walk_one_graph_by_different_rules_take_turns() -> None:
    net, x = awkward("relu6"), images(1)
    for names in (RECTIFIERS, RELEVANCE):
        (family,) = traces(senders(names, net), x)
        starts = torch.eye(5)[:, None]
        expected = {name: trace.relevance(start=starts)["input"] for name, trace in family.items()}
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda name: (name, family[name].relevance(start=starts)["input"]), names * 10)  # noqa: B023
            for name, maps in found:
                assert torch.equal(maps, expected[name]), name


def test_traces_of_one_model_side_by_side_do_not_touch_each_other() -> None:
    """One thread is stopped inside a rule, while another walks a graph of its own by the rule of another composite."""
    inside, done = threading.Event(), threading.Event()

    @dataclass(frozen=True)
    class Waiting:
        def __call__(self, relevance: Tensor, activation: Tensor) -> Tensor:
            inside.set()
            assert done.wait(60)
            return GuidedBackprop()(relevance, activation)

    net, x = awkward(), images(1)
    waiting = Composite("waiting", {"relu": Waiting()})
    mine, theirs = (Trace(net, x, presets.gradient(), beside=[waiting]) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(lambda: theirs.beside[0].relevance()["input"])
        assert inside.wait(60)
        assert torch.equal(mine.relevance()["input"], Trace(net, x, presets.gradient()).relevance()["input"])
        done.set()
        assert torch.equal(slow.result(), Trace(net, x, presets.guided_backprop()).relevance()["input"])


def test_in_parallel() -> None:
    net, classes = awkward("in place"), torch.tensor([[0], [3]])
    chosen = [*RECTIFIERS, *RELEVANCE[:3]]
    several = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    together = in_parallel(lambda x: attribute_methods(net, chosen, x, classes), several)
    for x, found in zip(several, together, strict=True):
        for name, maps in attribute_methods(net, chosen, x, classes).items():
            assert torch.equal(maps, found[name]), name


@pytest.mark.parametrize("names", [RECTIFIERS, RELEVANCE, DIFFERENCES])
def test_shared_traces_leave_nothing_in_memory_when_they_go(names: list[str]) -> None:
    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    net, x, methods = awkward("relu6 in place"), images(1), senders(names, awkward("relu6 in place"))
    gc.collect()
    gc.disable()  # nothing may hang on to itself
    try:
        before = tensors()
        for _ in range(2):
            for family in traces(methods, x, ["norm", "late"]):
                for trace in family.values():
                    trace.relevance(["norm", "input"], start=torch.eye(5)[:2, None])
                del trace, family
        assert tensors() == before
    finally:
        gc.enable()
    assert net.calls == 0


def test_one_family_is_held_at_a_time() -> None:
    net, x = awkward(), images(1)
    alive: list[weakref.ref[Trace]] = []
    for family in traces(senders(METHODS, net), x):
        assert all(ref() is None for ref in alive)
        alive += [weakref.ref(trace) for trace in family.values()]
        del family
    assert len(alive) == len(METHODS)


def test_an_in_place_relu_still_writes_where_a_gradient_shares_the_pass() -> None:
    addresses = []

    def net(x: Tensor) -> Tensor:
        z = x + 1
        with torch._C.DisableTorchFunction():  # to look without being seen by the engine
            before = z.data_ptr()
        y = F.relu(z, inplace=True)
        addresses.append((before, y.data_ptr()))
        return y * y

    Trace(net, torch.randn(2, 3), presets.guided_backprop(), beside=[presets.gradient()])
    Trace(net, torch.randn(2, 3), presets.gradient(), beside=[presets.input_x_gradient()])
    assert [before == after for before, after in addresses] == [True, False]


# Measures of several methods


def parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    assert table.columns[0] == "method"
    found = {}
    for name, part in table.groupby("method", sort=False):
        found[str(name)] = part.drop(columns="method").reset_index(drop=True)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": ["output", "late", "two"], "over": ["map", "position"]},
        {"vectors": "one_hot", "n_vectors": 3},
        {"vectors": "active", "start": ["late", "norm"], "layers": ["input", "norm"], "seed": 5},
        {"per_image": True, "baselines": 0.5, "multiply": False},
    ],
)
def test_convergence_of_several_methods_is_that_of_each(options: dict[str, Any]) -> None:
    net, x = awkward("relu6"), images(2)
    names = ["deeplift_rescale", "lrp_zplus", "gradient", "lrp_epsilon", "rectgrad", "input_x_gradient"]
    given = {"n_vectors": 2, **options}
    found = parts(csc(net, x, names, **given))
    assert list(found) == names
    for name, table in found.items():
        own = given if name.startswith("deeplift") else {k: v for k, v in given.items() if k != "baselines"}
        pd.testing.assert_frame_equal(table, csc(net, x, name, **own), check_exact=True)


@pytest.mark.parametrize("options", [{"target": 1}, {}, {"of": "relevance", "baselines": 0.5}])
def test_alignment_of_several_methods_is_that_of_each(options: dict[str, Any]) -> None:
    net, x = awkward("clamp in place"), images(3)
    names = ["lrp_zplus", "gradient", "deeplift_rescale", "guided_backprop", "lrp_z", "input_x_gradient"]
    given = {"layers": ["norm", "late"], **options}
    found = parts(alignment(net, x, names, **given))
    assert list(found) == names
    for name, table in found.items():
        own = given if name.startswith("deeplift") else {k: v for k, v in given.items() if k != "baselines"}
        pd.testing.assert_frame_equal(table, alignment(net, x, name, **own), check_exact=True)


def test_a_mapping_names_the_methods_and_a_sequence_of_one_has_the_column_too() -> None:
    net, x = awkward(), images(1)
    mapping = {"strong": presets.lrp_gamma(4), "weak": presets.lrp_gamma(0.1), "class": modbp.attr.LRPZPlus}
    table = csc(net, x, mapping, n_vectors=2)
    assert table["method"].unique().tolist() == list(mapping)
    pd.testing.assert_frame_equal(parts(table)["weak"], csc(net, x, presets.lrp_gamma(0.1), n_vectors=2))
    assert csc(net, x, ["gradient"], n_vectors=2).columns[0] == "method"
    assert "method" not in csc(net, x, "gradient", n_vectors=2)
    assert alignment(net, x, ("gradient",), layers=["norm"]).columns.tolist()[:3] == ["method", "image", "layer"]
    assert list(attribute_methods(net, mapping, x, torch.tensor([[0]]))) == list(mapping)
    assert list(attribute_methods(net, modbp.attr.LRPZPlus, x, torch.tensor([[0]]))) == ["lrp_zplus"]


def test_names() -> None:
    assert [name_of(m) for m in (presets.sixt_alpha_beta(), len, modbp.attr.LRPZ, 3)] == [
        *("sixt_alpha1_beta0", "len", "lrp_z", "int")
    ]
    assert senders_of((n for n in ("gradient", "lrp_z")), nn.Identity())[1]
    assert not senders_of(presets.gradient(), nn.Identity())[1]
