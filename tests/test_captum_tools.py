"""Every method under everything of Captum that takes a method, and on the models on which Captum's own have limits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import captum.attr
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

import modbp
from modbp.attr import ModifiedBackprop
from modbp.metrics import relative_difference

BATCH, CLASSES = 3, 4
METHODS = list(modbp.METHODS)
DEEPLIFT = [name for name in METHODS if name.startswith("deeplift")]
PATTERNS = [name for name in METHODS if name.startswith("pattern")]
ON_RELUS = ["deconvolution", "guided_backprop", "rectgrad"]

pytestmark = pytest.mark.filterwarnings("ignore:Setting (backward hooks|forward, backward hooks)")


class Net(nn.Module):
    """A small image classifier with a second input and an extra argument; one logit per class, or per position too."""

    def __init__(self, classes: int = CLASSES, positions: int = 1) -> None:
        super().__init__()
        self.classes, self.positions = classes, positions
        self.conv1, self.relu1, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(4, 5, 3), nn.ReLU()
        self.side, self.out = nn.Linear(2, 20), nn.Linear(20, classes * positions)

    def forward(self, x: Tensor, y: Tensor | None = None, scale: float = 1.0) -> Tensor:
        h = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x))))).flatten(1)
        h = h if y is None else h + F.relu(scale * self.side(y))
        out = self.out(h)
        return out if self.positions == 1 else out.reshape(-1, self.classes, self.positions)


def net(seed: int = 0, **options: Any) -> Net:
    torch.manual_seed(seed)
    return Net(**options).double().eval()


def image(seed: int = 1, batch: int = BATCH) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, 3, 8, 8).double()


def make(name: str, model: Any, data: Any) -> ModifiedBackprop:
    """Return a method; those that need patterns fit them to some data, and RectGrad leaves a small net some units."""
    options = {"data": [data]} if name in PATTERNS else {"percentile": 50} if name == "rectgrad" else {}
    return modbp.make(name, model, **options)


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def x() -> Tensor:
    return image()


@pytest.fixture
def without_a_screen() -> Iterator[None]:
    with mpl.rc_context():
        backend = mpl.get_backend()
        mpl.use("Agg")
        yield
        plt.close("all")
        mpl.use(backend)


# Captum's tools.


@pytest.mark.parametrize("kind", ["smoothgrad", "vargrad"])
def test_noise_tunnel(name: str, kind: str, x: Tensor) -> None:
    method = make(name, net(), image(9, 8))
    torch.manual_seed(0)
    found = NoiseTunnel(method).attribute(x, nt_type=kind, nt_samples=3, stdevs=0.2, target=[0, 3, 1])
    torch.manual_seed(0)
    repeated = x.repeat_interleave(3, 0)
    noisy = repeated + torch.normal(0, torch.full_like(repeated, 0.2).float())
    maps = method.attribute(noisy, target=[0] * 3 + [3] * 3 + [1] * 3).reshape(3, 3, 3, 8, 8)  # type: ignore[union-attr]
    squares, mean = maps.square().mean(1), maps.mean(1)
    expected = {"smoothgrad": mean, "vargrad": squares - mean**2}[kind]
    assert relative_difference(found, expected) < 1e-10


def test_noise_tunnel_without_noise_is_the_method(name: str, x: Tensor) -> None:
    method = make(name, net(), image(9, 8))
    found = NoiseTunnel(method).attribute(x, nt_samples=3, nt_samples_batch_size=1, stdevs=0.0, target=2)
    assert relative_difference(found, method.attribute(x, target=2)) < 1e-10


@pytest.mark.parametrize("name", DEEPLIFT)
def test_noise_tunnel_hands_on_a_reference(name: str, x: Tensor) -> None:
    method = modbp.make(name, net())
    for baselines in (0.5, image(5, 1), image(5)):
        found = NoiseTunnel(method).attribute(x, nt_samples=2, stdevs=0.0, target=2, baselines=baselines)
        assert relative_difference(found, method.attribute(x, baselines, 2)) < 1e-10  # type: ignore[call-arg, arg-type]


def test_noise_tunnel_on_several_inputs(name: str, x: Tensor) -> None:
    y, model = torch.randn(BATCH, 2).double(), net()
    method = make(name, model, (image(9, 8), torch.randn(8, 2).double()))
    found = NoiseTunnel(method).attribute(
        (x, y), nt_samples=3, stdevs=(0.1, 0.2), target=1, additional_forward_args=0.5
    )
    assert [t.shape for t in found] == [x.shape, y.shape]
    assert all(torch.isfinite(t).all() for t in found)


def test_infidelity_and_sensitivity(name: str, x: Tensor) -> None:
    model = net()
    method = make(name, model, image(9, 8))

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.01 * torch.randn_like(inputs)
        return noise, inputs - noise

    torch.manual_seed(0)
    score = infidelity(model, perturb, x, method.attribute(x, target=1), target=1, n_perturb_samples=3)
    worst = sensitivity_max(method.attribute, x, target=1, n_perturb_samples=2)
    for values in (score, worst):
        assert values.shape == (BATCH,)
        assert torch.isfinite(values).all()
        assert (values >= 0).all()


def test_the_gradient_is_the_most_faithful_map_to_small_steps(x: Tensor) -> None:
    """Infidelity compares a map with how the logit moves, so it tells methods apart; the gradient must win."""
    model = net()

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 1e-4 * torch.randn_like(inputs)
        return noise, inputs - noise

    scores = {}
    for name in METHODS:
        torch.manual_seed(0)
        attributions = make(name, model, image(9, 8)).attribute(x, target=1)
        scores[name] = float(infidelity(model, perturb, x, attributions, target=1).mean())
    assert min(scores, key=lambda n: scores[n]) == "gradient"


@pytest.mark.usefixtures("without_a_screen")
def test_visualization(name: str, x: Tensor) -> None:
    found = make(name, net(), image(9, 8)).attribute(x, target=1)
    assert isinstance(found, Tensor)
    attributions, picture = (t[0].permute(1, 2, 0).numpy() for t in (found, x.sigmoid()))
    for method, sign in (("heat_map", "all"), ("blended_heat_map", "absolute_value")):
        figure, axis = viz.visualize_image_attr(attributions, picture, method=method, sign=sign, use_pyplot=False)
        assert figure.axes[0] is axis
        assert len(axis.images) >= 1
    figure, axes = viz.visualize_image_attr_multiple(
        attributions, picture, ["original_image", "heat_map"], ["all", "all"], use_pyplot=False
    )
    assert np.asarray(axes).size == 2


# Captum's forms of inputs and targets.


TARGETS: list[tuple[Any, list[int]]] = [
    (2, [2, 2, 2]),
    ([1, 0, 3], [1, 0, 3]),
    (torch.tensor([3, 3, 0]), [3, 3, 0]),
    (torch.tensor(1), [1, 1, 1]),
    (torch.tensor([2]), [2, 2, 2]),
    ((1,), [1, 1, 1]),
    ([(0,), (1,), (2,)], [0, 1, 2]),
]


def test_every_form_of_target_names_one_class_per_sample(name: str, x: Tensor) -> None:
    method = make(name, net(), image(9, 8))
    alone = functools.cache(lambda n, c: method.attribute(x[n : n + 1], target=c))
    for target, classes in TARGETS:
        found = method.attribute(x, target=target)
        assert isinstance(found, Tensor)
        for n, c in enumerate(classes):  # a sample's map does not depend on the others of its batch
            assert relative_difference(found[n : n + 1], alone(n, c)) < 1e-12, target


@pytest.mark.parametrize("target", [(1, 2), [(0, 0), (3, 1), (2, 2)]], ids=str)
def test_targets_of_outputs_of_more_dimensions(name: str, target: Any, x: Tensor) -> None:
    model = net(positions=3)
    found = make(name, model, image(9, 8)).attribute(x, target=target)
    assert isinstance(found, Tensor)
    flat = net(classes=CLASSES * 3)  # the same weights, with one row of logits
    flat.load_state_dict(model.state_dict())
    rows = [target] * BATCH if isinstance(target, tuple) else target
    expected = make(name, flat, image(9, 8)).attribute(x, target=[c * 3 + p for c, p in rows])
    assert relative_difference(found, expected) < 1e-12


def test_no_target_where_there_is_one_output(name: str, x: Tensor) -> None:
    model = net(classes=1)
    method = make(name, model, image(9, 8))
    assert torch.equal(method.attribute(x), method.attribute(x, target=0))
    if name not in PATTERNS:  # which need a module
        without_classes = make(name, lambda v: model(v)[:, 0], None)
        assert relative_difference(without_classes.attribute(x), method.attribute(x)) < 1e-12


def test_several_inputs_and_additional_arguments(name: str, x: Tensor) -> None:
    y, model = torch.randn(BATCH, 2).double(), net()
    method = make(name, model, (image(9, 8), torch.randn(8, 2).double()))
    both = method.attribute((x, y), target=1, additional_forward_args=0.5)
    assert isinstance(both, tuple)
    assert [t.shape for t in both] == [x.shape, y.shape]
    assert not any(t.requires_grad for t in both)
    one = method.attribute((x,), target=1, additional_forward_args=(y, 0.5))
    assert isinstance(one, tuple)
    assert len(one) == 1
    alone = method.attribute(x, target=1, additional_forward_args=(y, 0.5))
    assert isinstance(alone, Tensor)
    assert torch.equal(one[0], alone)
    other = method.attribute((x, y), target=1, additional_forward_args=2.0)
    assert relative_difference(other[1], both[1]) > 1e-3 or name == "rectgrad"


def test_float32_is_float64_in_fewer_digits(name: str, x: Tensor) -> None:
    exact = make(name, net(), image(9, 8)).attribute(x, target=1)
    found = make(name, net().float(), image(9, 8).float()).attribute(x.float(), target=1)
    assert isinstance(found, Tensor)
    assert found.dtype == torch.float32
    assert isinstance(exact, Tensor)
    assert exact.dtype == torch.float64
    tolerance = 0.05 if name in PATTERNS else 1e-3  # a quotient of covariances of few samples
    assert relative_difference(found.double(), exact) < tolerance


def test_the_map_belongs_to_the_caller(name: str, x: Tensor) -> None:
    model, before = net(), x.clone()
    method = make(name, model, image(9, 8))
    leaf = x.clone().requires_grad_()
    found = method.attribute(leaf, target=1)
    assert isinstance(found, Tensor)
    assert not found.requires_grad
    assert leaf.grad is None
    assert leaf.requires_grad
    with torch.no_grad():
        assert torch.equal(method.attribute(x, target=1), found)
    assert torch.equal(x, before)
    assert all(p.grad is None for p in model.parameters())


# Relevance at layers, from any start.


def test_relevance_at_layers(name: str, x: Tensor) -> None:
    method = make(name, net(), image(9, 8))
    layers = ["input", "conv1", "pool", "relu2", "out"]
    maps = method.relevance(x, layers, target=1)
    assert [tuple(maps[n].shape[1:]) for n in layers] == [(3, 8, 8), (4, 8, 8), (4, 4, 4), (5, 2, 2), (CLASSES,)]
    assert torch.equal(maps["input"], method.attribute(x, target=1))
    assert torch.equal(maps["out"].count_nonzero(1), torch.ones(BATCH, dtype=torch.long))


@pytest.mark.parametrize("layer", ["relu2", "conv2", "pool", "relu1"])
def test_relevance_goes_on_from_where_it_has_arrived(name: str, layer: str, x: Tensor) -> None:
    method = make(name, net(), image(9, 8))
    if method.multiplies_by_inputs:  # what arrives is a gradient or a multiplier, and is returned times a value
        found = method.relevance(
            x, start=torch.ones_like(method.relevance(x, [layer], target=1)[layer]), start_at=layer
        )
        assert torch.isfinite(found["input"]).all()
        return
    through = method.relevance(x, [layer, "input"], target=1)
    again = method.relevance(x, start=through[layer], start_at=layer)["input"]
    assert relative_difference(again, through["input"]) < 1e-12
    starts = torch.stack([through[layer], torch.randn_like(through[layer])])
    together = method.relevance(x, start=starts, start_at=layer)["input"]
    assert relative_difference(together[0], through["input"]) < 1e-12
    alone = method.relevance(x, start=starts[1], start_at=layer)["input"]
    assert relative_difference(together[1], alone) < 1e-12


# Limits of Captum's own methods that ours do not have.


class Inception(nn.Module):
    """A GoogLeNet in small: ReLUs by function or by module, in place or not, and branches that are joined."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.relu = relu
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.a, self.b, self.b2 = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.c, self.out = nn.Conv2d(4, 2, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.relu(self.norm(self.stem(x))), 2, 2, 0, ceil_mode=True)
        a, b = self.relu(self.a(h)), self.relu(self.b2(self.relu(self.b(h))))
        c = self.relu(self.c(F.max_pool2d(h, 3, 1, 1)))
        return self.out(F.adaptive_avg_pool2d(torch.cat([a, b, c], 1), 1).flatten(1))


def inception(relu: Any) -> Inception:
    torch.manual_seed(4)
    model = Inception(relu).double()
    model.norm.weight.data.uniform_(0.5, 1.5)
    model.norm.bias.data.normal_(std=0.3)
    return model.eval()


def test_functional_relus_are_seen(name: str, x: Tensor) -> None:
    expected = make(name, inception(nn.ReLU()), image(9, 8)).attribute(x, target=1)
    for relu in (F.relu, lambda h: F.relu(h, inplace=True), torch.relu, Tensor.relu_):
        assert torch.equal(make(name, inception(relu), image(9, 8)).attribute(x, target=1), expected)
    if name in ON_RELUS:
        gradient = modbp.make("gradient", inception(F.relu)).attribute(x, target=1)
        assert relative_difference(expected, gradient) > 0.1


def test_captum_does_not_see_functional_relus(x: Tensor) -> None:
    model = inception(F.relu)
    theirs = captum.attr.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=1)
    assert torch.allclose(theirs, modbp.make("gradient", model).attribute(x, target=1), rtol=1e-12)  # type: ignore[arg-type]
    assert relative_difference(modbp.make("guided_backprop", model).attribute(x, target=1), theirs) > 0.1


def test_relu6_is_a_relu_below_six(name: str, x: Tensor) -> None:
    maps = [
        make(name, inception(relu), image(9, 8)).attribute(x, target=1) for relu in (nn.ReLU(), nn.ReLU6(), F.relu6)
    ]
    assert relative_difference(maps[1], maps[0]) < 1e-12
    assert relative_difference(maps[2], maps[0]) < 1e-12


@pytest.mark.parametrize("name", METHODS)
def test_relu6_above_six(name: str, x: Tensor) -> None:
    """A capped unit hands on no gradient, and all relevance."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6, bias=False), nn.ReLU6(), nn.Linear(6, 3, bias=False)).double()
    model[1].weight.data *= 1e5
    found = make(name, model, image(9, 8)).attribute(x, target=1)
    assert isinstance(found, Tensor)
    assert torch.isfinite(found).all()
    logit = model(x).detach()[:, 1]
    if name in (
        "lrp_z",
        "lrp_zplus",
        "lrp_alpha2_beta1",
        "lrp_flat",
        "lrp_w_square",
        "deep_taylor",
        "deeplift_rescale",
    ):
        assert torch.allclose(found.sum((1, 2, 3)), logit, rtol=1e-10)
    if name in ("gradient", "input_x_gradient", *ON_RELUS[1:]):
        assert not found.any()


class Residual(nn.Module):
    """Two blocks with a shortcut, in the order of ResNet; biases are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, CLASSES, bias=False)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.stem(x))
        for k in (0, 2):
            branch = self.blocks[k + 1](self.relu(self.blocks[k](h)))
            branch += h
            h = self.relu(branch)
        return self.out(F.adaptive_avg_pool2d(h, 1).flatten(1))


def test_residual_sums_conserve_relevance(x: Tensor) -> None:
    torch.manual_seed(5)
    model = Residual().double()
    logit = model(x).detach()[:, 1]
    # αβ is not among them: a unit with contributions of one sign alone hands on α or −β of its relevance.
    conserving = ["lrp_z", "lrp_gamma", "lrp_zplus", "lrp_w_square", "lrp_flat", "deep_taylor", "lrp_z_box"]
    conserving += ["input_x_gradient", *DEEPLIFT[:2]]
    for name in conserving:
        found = modbp.make(name, model).attribute(x, target=1)
        assert isinstance(found, Tensor)
        assert torch.allclose(found.sum((1, 2, 3)), logit, rtol=1e-8), name
    for name in set(METHODS) - set(conserving):
        assert torch.isfinite(make(name, model, image(9, 8)).attribute(x, target=1)).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["deeplift_rescale", "deeplift_reveal_cancel"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_max_pool_directly_behind_a_relu(name: str, inplace: bool, x: Tensor) -> None:
    torch.manual_seed(6)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(inplace)]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, CLASSES)).double()
    reference = image(7)
    _, miss = modbp.make(name, model).attribute(x, reference, 1, return_convergence_delta=True)  # type: ignore[call-arg]
    assert miss.abs().max() < 1e-12


def test_a_second_call_gives_the_same_map(name: str, x: Tensor) -> None:
    model = net()
    method = make(name, model, image(9, 8))
    state, attributes = (
        {k: v.clone() for k, v in model.state_dict().items()},
        {m: set(vars(m)) for m in model.modules()},
    )
    first = method.attribute(x, target=1)
    method.attribute(image(2), target=0)
    assert torch.equal(method.attribute(x, target=1), first)
    assert torch.equal(make(name, model, image(9, 8)).attribute(x, target=1), first)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(set(vars(m)) == attributes[m] for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


class Reused(nn.Module):
    """One convolution and one ReLU, called three times, which Captum's LRP refuses and its DeepLift gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.out = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.relu(self.conv(x))
        return self.out(x.mean((2, 3)))


class Unrolled(nn.Module):
    """The same, with a module for each call."""

    def __init__(self, reused: Reused) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        for conv in self.convs:
            conv.load_state_dict(reused.conv.state_dict())
        self.out = reused.out

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.out(x.mean((2, 3)))


def test_reused_modules(name: str, x: Tensor) -> None:
    torch.manual_seed(7)
    model = Reused().double()
    unrolled = Unrolled(model).double()
    if name in PATTERNS:  # one pattern for all calls, which the unrolled net has to be given
        patterns = modbp.patterns.fit(model, image(9, 8))
        of_all = {f"convs.{k}": patterns["conv"] for k in range(3)} | {"out": patterns["out"]}
        methods = [modbp.make(name, model, patterns=patterns), modbp.make(name, unrolled, patterns=of_all)]
    else:
        methods = [modbp.make(name, model), modbp.make(name, unrolled)]
    found, expected = (m.attribute(x, target=1) for m in methods)
    assert relative_difference(found, expected) < 1e-12
    at = methods[0].relevance(x, ["conv:0", "conv:2", "relu:1"], target=1)
    expected_at = methods[1].relevance(x, ["convs.0", "convs.2"], target=1)
    assert relative_difference(at["conv:2"], expected_at["convs.2"]) < 1e-12
    assert relative_difference(at["conv:0"], expected_at["convs.0"]) < 1e-12


def test_a_model_that_torch_compile_has_run(name: str, x: Tensor) -> None:
    model = inception(F.relu)
    expected = make(name, model, image(9, 8)).attribute(x, target=1)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    assert relative_difference(make(name, compiled, image(9, 8)).attribute(x, target=1), expected) < 1e-12
    assert torch.equal(make(name, model, image(9, 8)).attribute(x, target=1), expected)


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("gradient", "input_x_gradient")])
def test_what_cannot_be_treated_is_refused_by_name(name: str, x: Tensor) -> None:
    hidden: dict[str, nn.Module] = {"torch.jit": torch.jit.script(net())}  # type: ignore[dict-item]
    for model in hidden.values():
        with pytest.raises(modbp.UnsupportedModelError, match="TorchScript module") as caught:
            make(name, model, image(9, 8)).attribute(x, target=1)
        assert "\n" not in str(caught.value)
    softmax = nn.Sequential(net(), nn.Softmax(1))
    if name not in ON_RELUS:  # which change a gradient, and softmax has one
        with pytest.raises(modbp.UnsupportedModelError, match="no rule for softmax, which layer '1' applies"):
            make(name, softmax, image(9, 8)).attribute(x, target=1)
