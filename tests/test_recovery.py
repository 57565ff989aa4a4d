"""The template of the theory page is the engine, and the masks are the papers' (claim N1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import modbp
from modbp.metrics import relative_difference
from modbp.theory import recovery


@pytest.mark.parametrize("name", recovery.MASKS)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 2), nn.Identity()])
def test_one_template_with_three_masks_gives_the_three_maps(name: str, pool: nn.Module) -> None:
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(3, 6, 5, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), pool),
        *(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)),
    ]
    net = nn.Sequential(*layers).eval()
    x = torch.randn(2, 3, 21, 21, dtype=torch.float64)
    net.double()(x)  # gives the lazy layer its shape
    start = torch.eye(4, dtype=torch.float64)[[1, 3]]
    kept = x.clone()
    by_hand = recovery.masked_backward(net, x, start, recovery.MASKS[name])
    assert relative_difference(modbp.make(name, net).attribute(x, [1, 3]), by_hand) < 1e-12
    assert torch.equal(x, kept), "the template wrote to its input"


def test_the_masks_differ_and_multiply() -> None:
    R, z = torch.randn(1000), torch.randn(1000)
    step, positive = (z > 0).float(), (R > 0).float()
    np.testing.assert_array_equal(recovery.MASKS["gradient"](R, z), R * step)
    np.testing.assert_array_equal(recovery.MASKS["deconvolution"](R, z), R * positive)
    np.testing.assert_array_equal(recovery.MASKS["guided_backprop"](R, z), R * step * positive)


def test_deconvolution_without_pooling_does_not_see_the_image() -> None:
    """Two images, the same map to the last bit: the backward pass uses weights alone."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    a, b = torch.randn(2, 1, 3, 16, 16)
    net(a)
    first, second = (modbp.make("deconvolution", net).attribute(x, 2) for x in (a, b))
    assert first.abs().max() > 0
    assert torch.equal(first, second)
    guided = [modbp.make("guided_backprop", net).attribute(x, 2) for x in (a, b)]
    assert not torch.equal(*guided)


# Statements of the theory page that no walkthrough measures


def test_fixed_filters_draw_one_picture_for_all_classes() -> None:
    """Proposition on fixed filters: any filters and biases, random top weights."""
    generator = torch.Generator().manual_seed(0)
    patches = recovery.Patches(3, border="periodic")
    x, filters = (torch.randn(n, 2, s, s, dtype=torch.float64, generator=generator) for n, s in ((1, 6), (5, 3)))
    filters = filters.exp() - 1.2  # neither symmetric nor of mean zero
    biases = torch.randn(5, 1, 1, dtype=torch.float64, generator=generator)
    gates = (patches.convolve(x, filters) + biases > 0).double()
    assert 0 < gates.mean() < 1
    F = patches.transpose(gates, filters, x)
    H = (gates * filters.square().sum((1, 2, 3))[:, None, None]).sum()

    draws = 4000
    tops = torch.randn(draws, 2, *gates.shape[1:], dtype=torch.float64, generator=generator).clamp(min=0)
    s, other = (patches.transpose(tops[:, k] * gates, filters, x) for k in (0, 1))
    assert ((s.mean(0) - F[0] / np.sqrt(2 * np.pi)).abs() < 5 * s.std(0) / np.sqrt(draws)).all()
    measured = (s * other).flatten(1).sum(1).mean() / s.flatten(1).square().sum(1).mean()
    power = F.square().sum()
    assert float(measured) == pytest.approx(float(power / (power + (np.pi - 1) * H)), rel=0.01)


def test_the_gradient_of_another_image_turns_by_the_angle_of_its_patches() -> None:
    """Proposition on two images: without a change of class the gradient's cosine is the mean of 1 - angle / π."""
    generator = torch.Generator().manual_seed(1)
    patches = recovery.Patches(3, border="periodic")
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=generator)
    change = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    for size in (0.2, 1.0):
        both = torch.cat([x, x + size * change])
        products = patches.convolve(both[:1] * both[1:], torch.ones(1, 2, 3, 3, dtype=torch.float64))
        norms = patches.norms(both)
        angles = (products / (norms[:1] * norms[1:])).clamp(-1, 1).acos()
        beta = float((1 - angles / np.pi).mean())
        maps = [recovery.three_layer_maps(both, 8, patches, seed=s) for s in range(1500)]
        for name in recovery.MASKS:
            s, other = torch.stack([m[name][8][0] for m in maps]).flatten(2).unbind(1)
            powers = s.square().sum(1).mean() * other.square().sum(1).mean()
            cosine = float((s * other).sum(1).mean() / powers.sqrt())
            expected = {"gradient": pytest.approx(beta, abs=0.02), "deconvolution": pytest.approx(1)}
            if name in expected:
                assert cosine == expected[name], name
            elif size < 1:  # for a small change only
                assert cosine > beta + 0.01, "Guided Backprop moves less than the gradient"
