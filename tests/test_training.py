"""The small network and its training: counts, closed forms of one step, and that nothing else is touched."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from modbp import _torchvision, training, zoo
from modbp.errors import InputError
from modbp.training import Split, accuracy, cifar10, digits, small_cnn, train

LAYERS = (
    *("conv1", "relu1", "conv2", "relu2", "pool1", "conv3", "relu3", "conv4", "relu4", "pool2"),
    *("flatten", "dropout1", "fc5", "relu5", "dropout2", "fc6"),
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_split(pictures: int = 12, side: int = 4, channels: int = 1, classes: int = 3, seed: int = 0) -> Split:
    drawn = generator(seed)
    inputs = torch.rand(pictures, channels, side, side, generator=drawn)
    targets = torch.randint(classes, (pictures,), generator=drawn)
    half = pictures // 2
    names = [f"class {i}" for i in range(classes)]
    return Split(inputs[:half], targets[:half], inputs[half:], targets[half:], names, "random")


def linear(inputs: int, classes: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)).eval()


# The network


def test_the_paper_network_has_its_number_of_parameters() -> None:
    network = small_cnn(channels=3, side=32, classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_640_714
    assert tuple(name for name, _ in network.named_children()) == LAYERS
    assert not any(module.training for module in network.modules())
    assert (network.dropout1.p, network.dropout2.p) == (0.5, 0.5)


@given(
    channels=st.integers(1, 4), quarter=st.integers(1, 5), classes=st.integers(1, 12), seed=st.integers(0, 2**63 - 1)
)
@settings(max_examples=10)
def test_it_is_the_loop_over_its_layers(channels: int, quarter: int, classes: int, seed: int) -> None:
    side = 4 * quarter
    network = small_cnn(channels, side, classes, seed)
    sizes = [(channels, 32), (32, 64), (64, 128), (128, 128)]
    expected = sum(9 * n_in * n_out + n_out for n_in, n_out in sizes)
    expected += (128 * quarter**2 + 1) * 1024 + 1025 * classes
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    x = torch.rand(2, channels, side, side, generator=generator(1))
    h = x
    for number in (1, 2, 3, 4):
        layer = getattr(network, f"conv{number}")
        h = F.conv2d(h, layer.weight, layer.bias, padding=1).clamp(min=0)
        if number % 2 == 0:  # the largest of each 2 × 2 square
            h = h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    h = (h.flatten(1) @ network.fc5.weight.T + network.fc5.bias).clamp(min=0)
    torch.testing.assert_close(network(x), h @ network.fc6.weight.T + network.fc6.bias)
    assert network(x).shape == (2, classes)


def test_weights_are_uniform_in_glorots_range_and_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    network, other = small_cnn(3, 16, 10, seed=1), small_cnn(3, 16, 10, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert zoo.fingerprint(network) == zoo.fingerprint(small_cnn(3, 16, 10, seed=1)) != zoo.fingerprint(other)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
            continue
        fan_out, fan_in = (n * parameter[0, 0].numel() for n in parameter.shape[:2])
        limit = math.sqrt(6 / (fan_in + fan_out))
        assert limit * (1 - 40 / parameter.numel()) < float(parameter.detach().abs().max()) <= limit * (1 + 1e-6), name
        # The mean square of a uniform draw is a third of the square of its range; its fourth moment gives the error.
        ratio = 3 * float(parameter.detach().square().mean()) / limit**2
        assert abs(ratio - 1) < 6 * math.sqrt(4 / 5 / parameter.numel()), name


# Pictures


def test_digits_are_those_of_scikit_learn_each_once() -> None:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    split = digits(side=8, test_share=0.25, seed=4)
    assert (len(split.train_inputs), len(split.test_inputs)) == (1797 - 449, 449)
    assert split.categories == [str(i) for i in range(10)]
    inputs = torch.cat([split.train_inputs, split.test_inputs])
    targets = torch.cat([split.train_targets, split.test_targets])
    assert inputs.shape == (1797, 1, 8, 8)
    found = sorted(zip(map(bytes, (inputs * 16).round().byte().numpy()), targets.tolist(), strict=True))
    theirs = sorted(zip(map(bytes, loaded.images.astype(np.uint8)), loaded.target.tolist(), strict=True))
    assert found == theirs
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)


def test_digits_are_interpolated_between_the_centers_of_pixels() -> None:
    small, large = digits(side=8, seed=3), digits(side=16, seed=3)
    assert torch.equal(small.test_targets, large.test_targets)
    x, y = small.test_inputs[5, 0].double(), large.test_inputs[5, 0].double()
    for i in range(16):
        for j in range(16):
            # The center of pixel i of 16 lies at (i + 1/2) / 2 - 1/2 on the grid of 8, held inside it.
            (a, u), (b, v) = (divmod(min(max((k + 0.5) / 2 - 0.5, 0), 7), 1) for k in (i, j))
            p, q = int(a), int(b)
            corners = x[p : p + 2, q : q + 2]
            weights = torch.outer(torch.tensor([1 - u, u]), torch.tensor([1 - v, v])).double()
            expected = (corners * weights[: corners.shape[0], : corners.shape[1]]).sum()
            assert float(y[i, j]) == pytest.approx(float(expected), abs=1e-6)


def test_the_seed_sets_the_order_and_nothing_else_does() -> None:
    before = torch.get_rng_state()
    a, b, c = digits(side=8, seed=1), digits(side=8, seed=1), digits(side=8, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.test_inputs, b.test_inputs)
    assert not torch.equal(a.test_inputs, c.test_inputs)
    assert a.source == "the digits of scikit-learn at 8 × 8 pixels (seed 1)"
    assert len(digits(side=8, test_share=0.999).train_inputs) == 2


def test_without_scikit_learn_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"^digits needs scikit-learn; install it with: pip install 'modbp\[notebooks"):
        digits()


@pytest.fixture
def cifar_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """A folder as CIFAR-10 is unpacked, with two pictures in each file, and what is in it."""
    _torchvision.torchvision()
    from torchvision.datasets import CIFAR10

    drawn = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    content: dict[str, Any] = {
        name: {"data": drawn.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [2 * i % 10, (3 * i + 1) % 10]}
        for i, name in enumerate(names)
    }
    content["batches.meta"] = {"label_names": [f"name {i}" for i in range(10)]}
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for name, values in content.items():
        (folder / name).write_bytes(pickle.dumps(values))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return tmp_path, content


def refuse_to_download(*args: Any, **options: Any) -> None:
    raise URLError("Name or service not known")


def test_cifar10_is_read_from_its_files(
    cifar_files: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, content = cifar_files
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse_to_download)
    split = cifar10(folder)
    assert split.categories == content["batches.meta"]["label_names"]
    assert split.source == "CIFAR-10"
    assert split.train_inputs.shape == (10, 3, 32, 32)
    assert split.train_inputs.dtype == torch.float32
    parts = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    for part, files in parts.items():
        inputs, targets = getattr(split, f"{part}_inputs"), getattr(split, f"{part}_targets")
        rows = np.concatenate([content[file]["data"] for file in files])
        assert targets.tolist() == [label for file in files for label in content[file]["labels"]]
        for picture, row in zip(inputs, rows, strict=True):  # each row is a red, a green and a blue plane
            np.testing.assert_allclose(picture.flatten().numpy(), row / 255, atol=1e-7)
    assert torch.equal(cifar10(str(folder)).train_inputs, split.train_inputs)


def test_cifar10_that_can_neither_be_found_nor_downloaded(
    cifar_files: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = cifar_files
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse_to_download)
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(b"noise")
    for place in (folder, tmp_path / "nothing"):
        with pytest.raises(InputError) as refused:
            cifar10(place)
        assert str(refused.value) == (
            f"CIFAR-10 is not in '{place}' and cannot be downloaded (Name or service not known); allowed are a network"
            " connection, a folder that holds cifar-10-batches-py, or modbp.training.digits(), which needs no download."
        )
    assert not (tmp_path / "nothing").exists()


# Training


def test_the_network_learns_the_digits() -> None:
    split, network = digits(side=8, seed=2), small_cnn(channels=1, side=8, classes=10, seed=2)
    assert accuracy(network, split.test_inputs, split.test_targets) < 0.3
    shares = train(network, split, epochs=5, seed=2)
    assert len(shares) == 5
    assert shares[-1] > 0.95
    assert shares[-1] == accuracy(network, split.test_inputs, split.test_targets)
    assert accuracy(network, split.train_inputs, split.train_targets) > 0.95


def test_one_step_is_adams() -> None:
    """The first step moves each weight by the rate, against the sign of the gradient: Adam's two means are equal."""
    split, rate = random_split(), 0.01
    network = linear(16, 3).double()
    weight, bias = (p.detach().clone() for p in network[1].parameters())
    train(network, split, epochs=1, batch=6, learning_rate=rate)
    x = split.train_inputs.flatten(1).double()
    error = (x @ weight.T + bias).softmax(1) - F.one_hot(split.train_targets, 3)
    for found, before, gradient in (
        (network[1].weight, weight, error.T @ x / 6),
        (network[1].bias, bias, error.mean(0)),
    ):
        torch.testing.assert_close(found.detach(), before - rate * gradient / (gradient.abs() + 1e-8))


def test_two_epochs_equal_a_plain_loop() -> None:
    """Adam as its paper has it (Kingma and Ba, 2015, algorithm 1), on the batches that the network was given."""
    split, network = random_split(pictures=14), linear(16, 3).double()
    parameters = [p.detach().clone() for p in network.parameters()]
    seen: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()) if m.training else None)
    train(network, split, epochs=2, batch=3, seed=5)
    hook.remove()
    assert [len(batch) for batch in seen] == [3, 3, 1] * 2
    means, squares = [0.0, 0.0], [0.0, 0.0]
    for step, batch in enumerate(seen, start=1):
        x = batch.flatten(1)
        which = [int((split.train_inputs.double().flatten(1) - row).abs().sum(1).argmin()) for row in x]
        error = (x @ parameters[0].T + parameters[1]).softmax(1) - F.one_hot(split.train_targets[which], 3)
        for i, g in enumerate((error.T @ x / len(x), error.mean(0))):
            means[i] = 0.9 * means[i] + 0.1 * g
            squares[i] = 0.999 * squares[i] + 0.001 * g**2
            moved = means[i] / (1 - 0.9**step) / ((squares[i] / (1 - 0.999**step)).sqrt() + 1e-8)
            parameters[i] = parameters[i] - 1e-3 * moved
    for found, expected in zip(network.parameters(), parameters, strict=True):
        torch.testing.assert_close(found.detach(), expected)


def test_each_epoch_sees_each_picture_once_in_another_order() -> None:
    split, network = random_split(pictures=40), linear(16, 3)
    seen: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()) if m.training else None)
    train(network, split, epochs=2, batch=8)
    hook.remove()
    orders = [
        [int((split.train_inputs == picture).flatten(1).all(1).nonzero()) for picture in torch.cat(epoch)]
        for epoch in (seen[:3], seen[3:])
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert orders[0] != orders[1] != list(range(20))


def test_weights_depend_on_the_seed_and_global_random_numbers_do_not_change() -> None:
    split = random_split(side=8)
    found = []
    for seed, noise in ((1, 10), (1, 20), (2, 10)):
        torch.manual_seed(noise)  # what the caller has drawn before must not count
        before = torch.get_rng_state()
        network = small_cnn(1, 8, 3)
        shares = train(network, split, epochs=2, batch=3, seed=seed, augment=True)
        assert torch.equal(torch.get_rng_state(), before)
        found.append((zoo.fingerprint(network), shares))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_only_weights_change() -> None:
    split, network = random_split(side=8), small_cnn(1, 8, 3)
    copies = [t.clone() for t in (split.train_inputs, split.train_targets, split.test_inputs, split.test_targets)]
    parameters = dict(network.named_parameters())
    frozen = network.conv1.weight.requires_grad_(False).clone()
    network.fc6.bias.grad = torch.ones(3)  # somebody's
    with torch.no_grad():  # the caller's mode does not count
        train(network, split, epochs=1)
    assert dict(network.named_parameters()) == parameters  # the same objects
    assert all(p.grad is None for p in parameters.values())
    assert not any(module.training for module in network.modules())
    assert torch.equal(network.conv1.weight, frozen)
    assert not torch.equal(network.conv2.weight, small_cnn(1, 8, 3).conv2.weight)
    after = (split.train_inputs, split.train_targets, split.test_inputs, split.test_targets)
    assert all(torch.equal(a, b) for a, b in zip(copies, after, strict=True))


def test_dropout_works_in_training_and_not_in_testing() -> None:
    split, network = random_split(side=8), small_cnn(1, 8, 3)
    modes: list[tuple[bool, int]] = []
    hook = network.dropout2.register_forward_hook(lambda m, a, out: modes.append((m.training, len(out))))
    train(network, split, epochs=2, batch=4)
    hook.remove()
    assert modes == [(False, 1), *[(True, 4), (True, 2), (False, 6)] * 2]  # first a look at whether it fits


def test_a_loss_that_is_not_finite_stops_in_one_sentence() -> None:
    split, network = random_split(side=8), small_cnn(1, 8, 3)
    split.train_inputs[2, 0, 3, 3] = math.nan
    before, weights = torch.get_rng_state(), zoo.fingerprint(network)
    with pytest.raises(InputError) as refused:
        train(network, split, epochs=3, batch=6)
    assert str(refused.value) == (
        "the loss is nan in epoch 1 with learning_rate 0.001; allowed is a finite one, so lower learning_rate or look"
        " for inputs that are not finite."
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert zoo.fingerprint(network) == weights  # the step with it was not made


def test_a_rate_that_is_far_too_large_stops() -> None:
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch \d+ with learning_rate 1e\+30; allowed is a"):
        train(small_cnn(1, 8, 3), random_split(side=8), epochs=3, learning_rate=1e30)


def test_augmented_pictures_are_flips_and_shifts_of_a_tenth() -> None:
    number, side = 600, (20, 31)  # shifts up to 2 and 3
    picture = torch.rand(2, *side, generator=generator(0))
    allowed: dict[bytes, tuple[bool, int, int]] = {}
    for flip in (False, True):
        source = picture.flip(2) if flip else picture
        padded = F.pad(source[None], (3, 3, 2, 2), mode="replicate")[0]
        for down in range(-2, 3):
            for right in range(-3, 4):
                moved = padded[:, 2 - down : 2 - down + side[0], 3 - right : 3 - right + side[1]]
                allowed[moved.contiguous().numpy().tobytes()] = (flip, down, right)
    assert len(allowed) == 2 * 5 * 7
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = training._augmented(picture.expand(number, -1, -1, -1))
    drawn = [allowed[moved.contiguous().numpy().tobytes()] for moved in found]
    # Seventy equally likely ones, 600 times: one of them is missing with a probability of one in 80.
    assert len(set(drawn)) >= 68
    assert abs(sum(flip for flip, _, _ in drawn) / number - 0.5) < 5 * 0.5 / math.sqrt(number)


def test_augmentation_is_for_training_alone_and_only_where_asked_for() -> None:
    split = random_split(side=20, channels=3)
    for augment in (False, True):
        network = linear(1200, 3)
        seen: list[tuple[bool, Tensor]] = []
        hook = network.register_forward_pre_hook(lambda m, a, seen=seen: seen.append((m.training, a[0].clone())))
        train(network, split, epochs=1, batch=6, augment=augment)
        hook.remove()
        (_, trained), (_, tested) = seen[-2:]
        assert torch.equal(tested, split.test_inputs)
        same = [any(torch.equal(picture, known) for known in split.train_inputs) for picture in trained]
        assert all(same) is not augment


# Accuracy


@given(pictures=st.integers(1, 30), batch=st.integers(1, 40), classes=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_accuracy_is_the_share_of_a_plain_loop(pictures: int, batch: int, classes: int, seed: int) -> None:
    drawn = generator(seed)
    logits = torch.randn(pictures, classes, 1, 1, generator=drawn)
    targets = torch.randint(classes, (pictures,), generator=drawn)
    right = 0
    for row, target in zip(logits.flatten(1).tolist(), targets.tolist(), strict=True):
        right += row.index(max(row)) == target
    assert accuracy(nn.Flatten(), logits, targets, batch) == right / pictures


def test_accuracy_puts_every_module_back_in_its_mode() -> None:
    split, network = random_split(side=8), small_cnn(1, 8, 3)
    network.train()
    network.dropout1.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    before = torch.get_rng_state()
    found = {accuracy(network, split.test_inputs, split.test_targets, batch) for batch in (1, 4, 500)}
    assert len(found) == 1
    assert torch.equal(torch.get_rng_state(), before)  # dropout drew nothing
    assert {name: module.training for name, module in network.named_modules()} == modes
    with pytest.raises(RuntimeError):
        accuracy(network, torch.rand(2, 1, 12, 12), torch.tensor([0, 1]))
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_pictures_go_to_the_data_type_of_the_network() -> None:
    split, network = random_split(side=8), small_cnn(1, 8, 3).double()
    train(network, split, epochs=1)
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    accuracy(copy.deepcopy(network).float(), split.test_inputs.double(), split.test_targets)


# What is refused

INPUTS, TARGETS = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])


def made(**changes: Any) -> Split:
    fields: dict[str, Any] = {
        **{"train_inputs": INPUTS, "train_targets": TARGETS, "test_inputs": INPUTS, "test_targets": TARGETS},
        **{"categories": ["a", "b"], "source": "here"},
    }
    return Split(**fields | changes)


def trained(**changes: Any) -> list[float]:
    arguments: dict[str, Any] = {"network": linear(64, 2), "split": made(), "epochs": 1}
    return train(**arguments | changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_cnn(0, 8, 2), "channels is 0; allowed are whole numbers from 1 upwards."),
        (lambda: small_cnn(1, 0, 2), "side is 0; allowed are whole numbers from 1 upwards."),
        (lambda: small_cnn(1, 10, 2), "side is 10; allowed are multiples of 4, which two poolings halve."),
        (lambda: small_cnn(1, 8, True), "classes is True; allowed are whole numbers"),
        (lambda: small_cnn(1, 8, 2, seed=-1), "seed is -1; allowed are whole numbers from 0"),
        (lambda: digits(side=0), "side is 0; allowed are whole numbers from 1 upwards."),
        (lambda: digits(test_share=0), "test_share is 0; allowed are numbers above 0 and below 1."),
        (lambda: digits(test_share=1.0), "test_share is 1.0; allowed are numbers above 0 and below 1."),
        (lambda: digits(test_share=math.nan), "test_share is nan; allowed are"),
        (lambda: digits(test_share=True), "test_share is True; allowed are"),
        (lambda: digits(test_share=1e-4), "test_share is 0.0001, which is 0 of 1797 pictures; allowed are shares"),
        (lambda: digits(test_share=0.9999), "test_share is 0.9999, which is 1797 of 1797 pictures; allowed are"),
        (lambda: digits(seed=0.5), "seed is 0.5; allowed are whole numbers"),  # type: ignore[arg-type]
        (lambda: cifar10(3), "folder is 3; allowed is the path of a folder"),  # type: ignore[arg-type]
        (lambda: cifar10(""), "folder is ''; allowed is the path of a folder"),
        (lambda: cifar10(__file__), "folder is the file '"),
        (lambda: made(train_inputs=INPUTS[0]), "train_inputs is torch.float32 of shape (1, 8, 8); allowed are"),
        (lambda: made(train_inputs=INPUTS.byte()), "train_inputs is torch.uint8 of shape (2, 1, 8, 8); allowed are"),
        (lambda: made(test_inputs=[1.0]), "test_inputs is list; allowed are floating-point tensors of shape"),
        (
            lambda: made(test_inputs=INPUTS[:0], test_targets=TARGETS[:0]),
            "test_inputs is torch.float32 of shape (0, 1, 8, 8); allowed are",
        ),
        (lambda: made(train_targets=TARGETS[:1]), "train_targets is torch.int64 of shape (1,); allowed is torch.int64"),
        (lambda: made(test_targets=TARGETS.float()), "test_targets is torch.float32 of shape (2,); allowed is"),
        (lambda: made(test_targets=[0, 1]), "test_targets is list; allowed is torch.int64 of shape (2,)"),
        (lambda: made(train_targets=TARGETS + 1), "train_targets are from 1 to 2; allowed are positions in categories"),
        (lambda: made(test_targets=TARGETS - 1), "test_targets are from -1 to 0; allowed are positions in categories"),
        (lambda: made(categories=["a"]), "train_targets are from 0 to 1; allowed are positions in categories, from"),
        (lambda: made(test_inputs=INPUTS[..., :4]), "test_inputs are pictures of shape (1, 8, 4); allowed is that of"),
        (lambda: trained(network="net"), "network is str; allowed is an nn.Module."),
        (lambda: trained(network=nn.Flatten()), "network has no parameter that needs a gradient; allowed are"),
        (lambda: trained(network=linear(64, 2).requires_grad_(False)), "network has no parameter that needs a"),
        (lambda: trained(network=linear(63, 2)), "network cannot take pictures of shape (1, 8, 8) ("),
        (lambda: trained(network=linear(64, 3)), "network returns shape (1, 3) for one picture; allowed is (1, 2)"),
        (lambda: trained(split=INPUTS), "split is Tensor; allowed is a modbp.training.Split."),
        (lambda: trained(epochs=0), "epochs is 0; allowed are whole numbers from 1 upwards."),
        (lambda: trained(batch=1.5), "batch is 1.5; allowed are whole numbers from 1 upwards."),
        (lambda: trained(seed=-1), "seed is -1; allowed are whole numbers from 0"),
        (lambda: trained(learning_rate=0), "learning_rate is 0; allowed are finite numbers above 0."),
        (lambda: trained(learning_rate=math.inf), "learning_rate is inf; allowed are finite numbers above 0."),
        (lambda: trained(augment="yes"), "augment is 'yes'; allowed are True and False."),
        (lambda: accuracy(nn.Flatten(), INPUTS[0], TARGETS), "inputs is torch.float32 of shape (1, 8, 8); allowed"),
        (lambda: accuracy(nn.Flatten(), INPUTS, TARGETS[:1]), "targets is torch.int64 of shape (1,); allowed is"),
        (lambda: accuracy(nn.Flatten(), INPUTS, TARGETS, 0), "batch is 0; allowed are whole numbers from 1 upwards."),
        (lambda: accuracy(None, INPUTS, TARGETS), "network is NoneType; allowed is an nn.Module."),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named_in_one_sentence(
    make: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "tqdm", None)  # so that training would fail in another way
    monkeypatch.setattr(nn.init, "xavier_uniform_", None)
    with pytest.raises(InputError) as refused:
        make()
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")
