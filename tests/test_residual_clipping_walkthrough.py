"""The walkthrough on the clip at residual sums, re-run small through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from modbp import cli, networks, notebooks, walkthrough, zoo

NAME = "residual-clipping"


def test_one_small_network_of_each_kind(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"n_seeds": 1, "n_inputs": 1, "n_networks": 1, "size": 33, "seed": 3}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    defaults = notebooks.parameters(notebooks.find(NAME))
    assert record["parameters"] == defaults | given | {"weights": ["random"], "results": "record.json"}
    assert record["versions"] == walkthrough.versions()
    assert [d["source"] for d in record["weights"]] == ["random (seed 3)"]
    # The convolutions are those of the seed; the batch norms depend on the photographs.
    assert record["weights"][0]["sha256"] != zoo.fingerprint(networks.resnet50(seed=3))

    bottom = {clip: {n: runs[0][-1] for n, runs in by.items()} for clip, by in record["residual_mlp"].items()}
    plain, clipped, signed = (bottom[clip] for clip in ("no clip", "clip [0, 1000]", "clip [−1000, 1000]"))
    for rule in ("α5β4", "α10β9"):
        assert clipped[rule] > 0.85 > plain[rule], rule
        assert clipped[rule] > 0.85 > signed[rule], rule
    assert set(plain) - set(clipped) == {"gradient", "lrp_z"}
    growth = {name: torch.tensor(runs) for name, runs in record["growth_by_blocks"].items()}
    assert {runs.shape for runs in growth.values()} == {(1, 8)}
    assert growth["the same, clipped"][0, -1] > 0.6 > growth["gradient, other weights"][0, -1]

    checks = {c["quantity"]: c["verdict"] for c in record["verdicts"]["S9"]["checks"]}
    assert len(checks) == 6
    assert "not testable here" not in checks.values()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_seeds": 0}, "the parameter n_seeds is 0; allowed is a whole number from 1 to 100."),
        ({"branch_scale": -1.0}, "the parameter branch_scale is -1.0; allowed is a number from 0 to 10."),
        (
            {"weights": "embedded"},
            "the parameter weights is 'embedded'; allowed is one or more, with commas, of random,",
        ),
        ({"size": 32}, "the parameter size is 32; allowed is a whole number from 33 to 1024."),
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)
