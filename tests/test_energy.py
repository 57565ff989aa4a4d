"""The energy of LRP-αβ's columns in a network: against the rule's own matrix, and against the law."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import modbp
from modbp.errors import InputError
from modbp.metrics import column_energies
from modbp.networks import random_mlp


def test_a_dense_layers_columns_are_those_of_the_rule() -> None:
    """Formed here by sending unit vectors back through the engine."""
    net = random_mlp(40, 3, inputs=12, seed=1).double()
    x = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)).double()
    rule = modbp.make("lrp_alpha_beta", net, alpha=3, bias="excluded")
    trace = rule.trace(x, ["1", "2"])
    columns = trace.relevance(["1"], start=torch.eye(40).double()[:, None], start_at="2")["1"][:, 0]
    live = columns.sum(1).sub(1).abs() < 1e-6
    table = column_energies(net, x, alphas=[3]).set_index("layer")
    np.testing.assert_allclose(table.loc["2", "energy"], columns[live].var(0).sum(), rtol=1e-6)


def test_a_convolutions_columns_are_those_of_the_rule() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.ReLU(), nn.Conv2d(4, 30, 3, stride=2, padding=1, dilation=1, bias=False), nn.Flatten(), nn.Linear(30 * 9, 2)
    ).double()
    x = torch.rand(1, 4, 5, 5).double()
    rule = modbp.make("lrp_alpha_beta", net, alpha=2, bias="excluded")
    energies = []
    for row in range(3):
        for column in range(3):
            starts = torch.zeros(30, 1, 30, 3, 3).double()
            starts[torch.arange(30), 0, torch.arange(30), row, column] = 1
            columns = rule.relevance(x, ["0"], start=starts, start_at="1")["0"].flatten(1)
            live = columns.sum(1).sub(1).abs() < 1e-6
            energies.append(float(columns[live].var(0).sum()))
    found = column_energies(net, x, alphas=[2], positions=200).set_index("layer").loc["1", "energy"]
    # The median over 200 drawn positions is one of the nine, near the middle one.
    assert min(abs(found - e) / e for e in energies) < 1e-5
    assert sorted(energies)[2] <= found * (1 + 1e-5)
    assert found <= sorted(energies)[6] * (1 + 1e-5)


def test_random_networks_obey_the_law() -> None:
    """Within the tenth that the law was seen to be off in networks of this width."""
    net = random_mlp(1024, 5, seed=0)
    table = column_energies(net, torch.rand(3, 1024), alphas=[1, 2, 5])
    deep = table[table["layer"] != "0"]
    np.testing.assert_allclose(deep["energy"], deep["law"], rtol=0.15)


def test_layers_with_negative_inputs_are_left_out() -> None:
    net = random_mlp(20, 3)
    assert set(column_energies(net, -torch.rand(1, 20))["layer"]) == {"2", "4"}
    with pytest.raises(InputError, match="no layer of the model receives activations that are not negative"):
        column_energies(nn.Sequential(nn.Linear(4, 4)), -torch.rand(1, 4))


def test_nothing_is_left_behind() -> None:
    net = random_mlp(20, 3)
    column_energies(net, torch.rand(1, 20))
    assert not any(m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positions": 0}, "positions is 0; allowed are whole numbers from 1 upwards."),
        ({"alphas": [0.5]}, "alphas is [0.5]; allowed are one or more numbers from 1 upwards."),
        ({"alphas": []}, "alphas is []; allowed are"),
    ],
)
def test_bad_input_gets_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        column_energies(random_mlp(4, 2), torch.rand(1, 4), **options)
