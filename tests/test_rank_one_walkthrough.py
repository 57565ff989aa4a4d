"""The walkthrough on random matrices, re-run with other parameters through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from modbp import cli, plot, walkthrough, zoo
from modbp.errors import InputError
from modbp.theory import rank_one

NAME = "rank-one-theory"


def test_small_chains_and_an_untrained_network(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"repetitions": 1, "vectors": 8, "widths": "64,128", "relu_widths": "64", "n_images": 1, "azimuth": 80}
    arguments = [f"{k}={v}" for k, v in {**given, "weights": "random", "seed": 3, "results": "record.json"}.items()]
    status = cli.main(["run", NAME, *(word for argument in arguments for word in ("-p", *argument.split("=")))])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert captured.out == f"wrote {folder / f'{NAME}.run.ipynb'}\n"

    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert record["walkthrough"] == NAME
    assert record["versions"] == walkthrough.versions()
    assert record["parameters"]["widths"] == ["64", "128"]
    assert record["parameters"]["azimuth"] == 80
    assert record["weights"]["source"] == "random (seed 3)"
    assert record["weights"]["sha256"] == zoo.fingerprint(zoo.load(weights="random", seed=3))

    # The theorems hold whatever the seed; what only the default widths measure is not judged.
    verdicts = {claim: row["verdict"] for claim, row in record["verdicts"].items()}
    assert (verdicts["S1"], verdicts["S2"], verdicts["S3"]) == ("confirmed", "confirmed", "confirmed")
    untested = {c["quantity"] for c in record["verdicts"]["S8"]["checks"] if c["verdict"] == "not testable here"}
    assert untested == {c["quantity"] for c in record["verdicts"]["S8"]["checks"]}
    (medians,) = record["median_disagreement"]["positive"]
    assert len(medians) == len(rank_one.VGG16_WIDTHS) - 1
    exact, layerwise = record["coefficients"], record["bounds"]["bound, layer by layer"]
    assert all(0 <= true <= bound <= 1 for true, bound in zip(exact, layerwise, strict=True))
    for name, energy in record["energies"].items():
        assert len(record["rates"][name]) == 1
        if energy is not None and energy < 0.1:
            assert record["rates"][name][0] < 0.4, name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repetitions": 0}, "the parameter repetitions is 0; allowed is a whole number from 1 to 1000."),
        ({"vectors": 1}, "the parameter vectors is 1; allowed is a whole number from 2 to 256."),
        ({"widths": "100"}, "the parameter widths is '100'; allowed is one or more, with commas, of 16, 32,"),
        ({"relu_widths": ""}, "the parameter relu_widths is ''; allowed is one or more"),
        ({"elevation": 91}, "the parameter elevation is 91; allowed is a number from -90 to 90."),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"weights": "none.pt"}, "weights is 'none.pt', and there is no such file; allowed are"),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_a_classifier_too_wide_for_all_pairs_is_refused(
    monkeypatch: pytest.MonkeyPatch, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    wide = torch.nn.Module()
    wide.classifier = torch.nn.Sequential(torch.nn.Linear(2, 4096))
    monkeypatch.setattr(zoo, "load", lambda **options: wide)
    said = "the classifier of weights='imagenet' is 4096 units wide; allowed are up to 1024, since all pairs of"
    refuses(NAME, {"weights": "imagenet"}, said)


def test_figures_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(InputError, match=r"the matrix has shape \(2, 3\); allowed is \(3, columns\)"):
        plot.cones({"": torch.zeros(2, 3)})
    with pytest.raises(InputError, match=r"the matrix has shape \(3,\); allowed is \(3, columns\)"):
        plot.triangles({"": {"": torch.zeros(3)}})
    with pytest.raises(InputError, match="the panel 'a' has no boundary or no label; allowed are panels with both"):
        plot.phases({"a": {(2, 2): 0.5}}, {}, "width", {"a": "α"})
