"""Runs side by side give what they give one after the other."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import modbp
from modbp.metrics import csc
from modbp.networks import random_mlp
from modbp.parallel import in_parallel


def test_methods_side_by_side_are_what_they_are_alone() -> None:
    net, x = random_mlp(60, 5), torch.rand(2, 60)
    methods = [m for m in modbp.METHODS if not m.startswith("pattern")] * 2
    together = in_parallel(lambda m: csc(net, x, m, n_vectors=2)["median"], methods)
    for method, found in zip(methods, together, strict=True):
        np.testing.assert_array_equal(found, csc(net, x, method, n_vectors=2)["median"], err_msg=method)


def test_deeplift_with_pools_side_by_side() -> None:
    """Its max-pools use forward-mode differentiation, of which PyTorch has one level for all threads."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Flatten(), torch.nn.Linear(8 * 16 * 16, 4)),
    )
    x = torch.rand(1, 3, 64, 64)
    expected = csc(net, x, "deeplift_reveal_cancel", n_vectors=2)["median"]
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for found in in_parallel(lambda _: csc(net, x, "deeplift_reveal_cancel", n_vectors=2)["median"], range(40)):
            np.testing.assert_allclose(found, expected, rtol=1e-3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_as_many_at_once_as_there_are_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    barrier = threading.Barrier(threads, timeout=20)
    try:
        # All of them must be running at the same time, or the barrier breaks; each has one thread for itself.
        assert in_parallel(lambda _: (barrier.wait(), torch.get_num_threads())[1], range(threads)) == [1] * threads
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_an_error_comes_through_and_the_threads_come_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda n: 1 / n, [1, 0, 2])
    assert torch.get_num_threads() == before


def test_nothing_to_do() -> None:
    assert in_parallel(abs, []) == []
