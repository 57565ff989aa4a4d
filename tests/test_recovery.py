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
