"""The edge detector: scipy's Sobel filter, its symmetries, and what it says of bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import sobel
from torch import Tensor

from modbp import metrics
from modbp.errors import InputError


def pictures(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9))
def test_it_is_scipys_sobel_filter_of_each_channel(seed: int, height: int, width: int) -> None:
    x = pictures(seed, 2, 3, height, width)
    found = metrics.edge_magnitude(x)
    assert found.shape == x.shape
    for picture, edges in zip(x.flatten(0, 1).numpy(), found.flatten(0, 1).numpy(), strict=True):
        along, across = (sobel(picture, axis=axis, mode="nearest") / 8 for axis in (0, 1))
        np.testing.assert_allclose(edges, np.hypot(along, across), atol=1e-12)


@given(seed=st.integers(0, 10**6), scale=st.floats(-100, 100), shift=st.floats(-100, 100))
def test_it_ignores_brightness_and_follows_contrast_turns_and_mirrors(seed: int, scale: float, shift: float) -> None:
    x = pictures(seed, 1, 2, 6, 7)
    edges = metrics.edge_magnitude(x)
    torch.testing.assert_close(metrics.edge_magnitude(scale * x + shift), abs(scale) * edges, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(metrics.edge_magnitude(x.flip(3)), edges.flip(3))
    torch.testing.assert_close(metrics.edge_magnitude(x.transpose(2, 3)), edges.transpose(2, 3))


def test_a_ramp_has_its_own_slope_in_any_direction() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    edges = metrics.edge_magnitude((3 * rows - 4 * columns)[None, None])
    assert edges.dtype == torch.float64
    torch.testing.assert_close(edges[..., 1:-1, 1:-1], torch.full((1, 1, 6, 7), 5.0, dtype=torch.float64))


def test_a_step_has_an_edge_and_flat_color_none() -> None:
    step = torch.zeros(1, 1, 6, 6)
    step[..., 3:] = 10.0
    assert metrics.edge_magnitude(step)[0, 0, 2].tolist() == [0, 0, 5, 5, 0, 0]
    assert metrics.edge_magnitude(torch.full((1, 3, 5, 5), 0.1)).abs().max() < 1e-15


def test_a_pixel_that_is_no_number_spoils_its_neighborhood_alone() -> None:
    x = pictures(0, 1, 1, 7, 7)
    x[0, 0, 3, 3] = math.nan
    spoiled = metrics.edge_magnitude(x).isnan()[0, 0]
    assert spoiled[2:5, 2:5].all()
    assert int(spoiled.sum()) == 9


def test_the_edges_of_a_picture_rank_like_its_own_and_not_like_anothers() -> None:
    x = pictures(1, 1, 3, 32, 32)
    other = pictures(2, 1, 3, 32, 32)
    own = metrics.rank_correlation(metrics.edge_magnitude(-2 * x), metrics.edge_magnitude(x))[0]
    assert own == pytest.approx(1)
    assert abs(metrics.rank_correlation(metrics.edge_magnitude(other), metrics.edge_magnitude(x))[0]) < 0.15


def test_another_shape_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"a map has shape \(3, 8, 8\); allowed is \(batch, channels, height, width\)"):
        metrics.edge_magnitude(torch.zeros(3, 8, 8))
