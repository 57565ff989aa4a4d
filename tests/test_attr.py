"""The methods as Captum's users know them: its interface, its targets, its wrappers; and one sentence for bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import GradientAttribution, GuidedBackprop, NoiseTunnel, Saliency
from captum.metrics import infidelity, sensitivity_max
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import modbp
from modbp.attr import one_hot
from modbp.metrics import relative_difference

BATCH, CLASSES = 3, 4
# PatternNet and PatternAttribution need patterns, which are fitted to data.
METHODS = [name for name in modbp.METHODS if not name.startswith("pattern")]


class Net(nn.Module):
    """Two inputs and an extra argument; one logit per class, or per class and position."""

    def __init__(self, positions: int = 1) -> None:
        super().__init__()
        self.positions = positions
        self.a, self.b = nn.Linear(5, 6), nn.Linear(2, 6)
        self.relu, self.out = nn.ReLU(), nn.Linear(6, CLASSES * positions)

    def forward(self, x: Tensor, y: Tensor | None = None, scale: float = 1.0) -> Tensor:
        h = self.a(x) if y is None else self.a(x) + scale * self.b(y)
        out = self.out(self.relu(h))
        return out if self.positions == 1 else out.reshape(-1, CLASSES, self.positions)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, 5)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_captum_gradient_attributions(name: str, net: Net, x: Tensor) -> None:
    method = modbp.make(name, net)
    assert isinstance(method, GradientAttribution)
    assert type(method) is modbp.METHODS[name]
    assert method.multiplies_by_inputs is (name == "input_x_gradient" or name.startswith("deeplift"))
    found = method.attribute(x, target=2)
    assert isinstance(found, Tensor)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found.requires_grad


@pytest.mark.parametrize(
    "target",
    [
        2,
        [1, 0, 3],
        torch.tensor([3, 3, 0]),
        torch.tensor(1),
        torch.tensor([2]),
        np.int64(2),
        (1,),
        [(0,), (1,), (2,)],
    ],
    ids=str,
)
def test_every_form_of_target_means_what_it_means_in_captum(target: Any, net: Net, x: Tensor) -> None:
    captum_target = int(target) if isinstance(target, np.integer) else target
    expected = Saliency(net).attribute(x.clone().requires_grad_(), target=captum_target, abs=False)
    assert torch.allclose(modbp.make("gradient", net).attribute(x, target=target), expected, atol=1e-7)


@pytest.mark.parametrize("target", [(1, 2), [(0, 0), (3, 1), (2, 2)]], ids=str)
def test_targets_of_outputs_with_positions(target: Any, x: Tensor) -> None:
    torch.manual_seed(0)
    net = Net(positions=3)
    expected = Saliency(net).attribute(x.clone().requires_grad_(), target=target, abs=False)
    assert torch.allclose(modbp.make("gradient", net).attribute(x, target=target), expected, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_tuples_of_inputs_and_additional_arguments(net: Net, x: Tensor) -> None:
    y = torch.randn(BATCH, 2)
    ours = modbp.make("guided_backprop", net).attribute((x, y), target=1, additional_forward_args=0.5)
    leaves = (x.clone().requires_grad_(), y.clone().requires_grad_())
    theirs = GuidedBackprop(net).attribute(leaves, target=1, additional_forward_args=0.5)
    assert isinstance(ours, tuple)
    assert [relative_difference(a, b) < 1e-6 for a, b in zip(ours, theirs, strict=True)] == [True, True]
    relevance = modbp.make("guided_backprop", net).relevance((x, y), ["relu", "input"], target=1)
    assert [t.shape for t in relevance["input"]] == [x.shape, y.shape]


def test_captums_wrappers_and_metrics_take_ours(net: Net, x: Tensor) -> None:
    method = modbp.make("guided_backprop", net)
    torch.manual_seed(0)
    smoothed = NoiseTunnel(method).attribute(x, nt_type="smoothgrad", nt_samples=4, stdevs=0.1, target=1)
    assert smoothed.shape == x.shape
    assert torch.isfinite(sensitivity_max(method.attribute, x, target=1, n_perturb_samples=2)).all()

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.01 * torch.randn_like(inputs)
        return noise, inputs - noise

    assert infidelity(net, perturb, x, method.attribute(x, target=1), target=1).shape == (BATCH,)


def test_a_function_of_tensors_is_a_model(net: Net, x: Tensor) -> None:
    method = modbp.make("guided_backprop", lambda v: net(v).exp())
    assert method.attribute(x, target=1).shape == x.shape
    with pytest.raises(modbp.InputError, match="no layer 'relu'"):
        method.relevance(x, ["relu"], target=1)


@given(rows=st.integers(1, 4), maps=st.integers(1, 4), batch=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_maps_of_many_classes_are_those_of_one_class_at_a_time(rows: int, maps: int, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    net, x = Net().double(), torch.randn(rows, 5, dtype=torch.float64)
    classes = torch.randint(CLASSES, (rows, maps))
    for name in METHODS:
        method = modbp.make(name, net)
        together = method.attribute_classes(x, classes, batch=batch)
        assert together.shape == (maps, rows, 5)
        for m in range(maps):
            alone = method.attribute(x, target=classes[:, m])
            assert torch.allclose(together[m], alone, rtol=1e-12, atol=1e-15)


@given(batch=st.integers(1, 5), classes=st.integers(1, 6), data=st.data())
def test_one_hot_picks_one_logit_per_sample(batch: int, classes: int, data: st.DataObject) -> None:
    target = data.draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch))
    start = one_hot(torch.zeros(batch, classes), target)
    assert start.sum() == batch
    assert start.argmax(1).tolist() == target


def test_no_target_where_there_is_one_number_per_sample(x: Tensor) -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1))
    for model in (net, lambda v: net(v)[:, 0]):
        expected = Saliency(model).attribute(x.clone().requires_grad_(), abs=False)
        assert torch.allclose(modbp.make("gradient", model).attribute(x), expected, atol=1e-7)


NAN, INF = float("nan"), float("inf")

BAD: list[tuple[str, Callable[[Net, Tensor], object]]] = [
    (r"inputs holds 15 values that are NaN", lambda n, x: modbp.make("gradient", n).attribute(x * NAN, 1)),
    (r"inputs holds 15 values that are NaN", lambda n, x: modbp.make("gradient", n).attribute(x * INF, 1)),
    (
        r"inputs\[1\] holds 1 val",
        lambda n, x: modbp.make("gradient", n).attribute((x, x[:, :2].where(x[:, :2] != x[0, 0], NAN)), 1),
    ),
    (r"inputs has dtype torch.int64", lambda n, x: modbp.make("gradient", n).attribute(x.long(), 1)),
    (r"inputs is of type list", lambda n, x: modbp.make("gradient", n).attribute(x.tolist(), 1)),  # type: ignore[arg-type]
    (r"inputs is an empty tuple", lambda n, x: modbp.make("gradient", n).attribute((), 1)),
    (r"inputs has shape \(0, 5\)", lambda n, x: modbp.make("gradient", n).attribute(x[:0], 1)),
    (r"target is 4; allowed are the classes 0 to 3", lambda n, x: modbp.make("gradient", n).attribute(x, 4)),
    (r"target is -1; allowed are the classes 0 to 3", lambda n, x: modbp.make("gradient", n).attribute(x, -1)),
    (r"target is 9; ", lambda n, x: modbp.make("gradient", n).attribute(x, [0, 9, 1])),
    (r"target is None", lambda n, x: modbp.make("gradient", n).attribute(x)),
    (r"target is 'cat'", lambda n, x: modbp.make("gradient", n).attribute(x, "cat")),
    (r"target is True", lambda n, x: modbp.make("gradient", n).attribute(x, True)),
    (r"target is 1.5", lambda n, x: modbp.make("gradient", n).attribute(x, 1.5)),
    (r"target is \(1, 2\)", lambda n, x: modbp.make("gradient", n).attribute(x, (1, 2))),
    (r"target has dtype torch.float32", lambda n, x: modbp.make("gradient", n).attribute(x, torch.ones(3))),
    (
        r"target has 2 entries; allowed are one number, or one per",
        lambda n, x: modbp.make("gradient", n).attribute(x, [0, 1]),
    ),
    (r"both target and start", lambda n, x: modbp.make("gradient", n).relevance(x, target=1, start=torch.ones(3, 4))),
    (r"classes is list", lambda n, x: modbp.make("gradient", n).attribute_classes(x, [[1]])),  # type: ignore[arg-type]
    (r"classes is \(3,\)", lambda n, x: modbp.make("gradient", n).attribute_classes(x, torch.tensor([1, 2, 3]))),
    (r"classes has 1 rows for 3", lambda n, x: modbp.make("gradient", n).attribute_classes(x, torch.tensor([[1, 2]]))),
    (r"batch is 0", lambda n, x: modbp.make("gradient", n).attribute_classes(x, torch.ones(3, 1).long(), batch=0)),
    (r"method 'lime' is unknown; allowed are gradient, input_x_gradient, deconv", lambda n, x: modbp.make("lime", n)),
    (r"percentile is 101", lambda n, x: modbp.make("rectgrad", n, percentile=101)),
    (r"percentile is 'high'", lambda n, x: modbp.make("rectgrad", n, percentile="high")),
    (r"guided_backprop does not take", lambda n, x: modbp.make("guided_backprop", n, percentile=50)),
    (r"model is of type str", lambda n, x: modbp.make("gradient", "vgg16")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("message", "call"), BAD, ids=[message for message, _ in BAD])
def test_bad_input_gets_one_sentence(message: str, call: Callable[[Net, Tensor], object], net: Net, x: Tensor) -> None:
    with pytest.raises(modbp.InputError, match=message) as caught:
        call(net, x)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
