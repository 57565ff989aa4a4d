"""The walkthrough on random three-layer networks, re-run small through the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from modbp import cli, images, metrics, notebooks, walkthrough, zoo
from modbp.theory import recovery
from modbp.theory.recovery import Patches

NAME = "image-recovery-theory"


def shrunk(size: int) -> Tensor:
    """The first two photographs, as the walkthrough shows them to its networks."""
    squares = [ImageOps.fit(p.image, (size, size)) for p in images.load("embedded", 2)]
    return torch.stack([zoo.subtract_mean(torch.from_numpy(np.array(s)).permute(2, 0, 1)) for s in squares])


def test_two_small_networks(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"n_images": 1, "n_seeds": 2, "size": 24, "kernel": 5, "window": 5, "seed": 3}
    lists = {"filters": "64, 8", "units": "40,1000"}
    words = [word for name, value in (given | lists).items() for word in ("-p", name, str(value))]
    status = cli.main(["run", NAME, *words, "-p", "results", "record.json"])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert captured.out == f"wrote {folder / f'{NAME}.run.ipynb'}\n"
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    defaults = notebooks.parameters(notebooks.find(NAME))
    expected = defaults | given | {"filters": [64, 8], "units": [40, 1000], "results": "record.json"}
    assert record["parameters"] == expected
    assert record["versions"] == walkthrough.versions()
    assert record["images"] == [p.name for p in images.load("embedded", 2)]
    assert record["networks"] == [[0, 3], [0, 4]]

    verdicts = {
        claim: {c["quantity"]: c["verdict"] for c in row["checks"]} for claim, row in record["verdicts"].items()
    }
    tested = {
        claim: {quantity for quantity, verdict in checks.items() if verdict != "not testable here"}
        for claim, checks in verdicts.items()
    }
    assert tested["N2"] == {
        f"{what} with the locally normalized image, 64 filters" for what in ("cosine", "correlation")
    }
    assert tested["N3"] == {"largest |correlation| of the gradient with the image"}
    assert tested["N4"] == set(verdicts["N4"])
    assert tested["N5"] == {q for q in verdicts["N5"] if "white image" in q}  # other filters than 7 × 7
    assert tested["N6"] == set()  # other images than 64 × 64
    assert tested["N7"] == set(verdicts["N7"])
    assert {verdicts["N4"][q] for q in verdicts["N4"] if "difference" in q} == {"confirmed"}

    # The first photograph and its two networks, once more.
    x, patches, d = shrunk(24), Patches(5), 3 * 24**2
    B = patches.normalized(x)
    for i, seed in enumerate((3, 4)):
        maps = recovery.three_layer_maps(x[:1], [8, 64], patches, logits=2, seed=seed)
        for method, by_count in maps.items():
            for n, (s, other) in by_count.items():
                again = {
                    "cosine": metrics.cosine(s, B[:1]),
                    "correlation": metrics.correlation(s, B[:1]),
                    "control": metrics.correlation(s, B[1:]),
                    "over its ceiling": metrics.cosine(s, x[:1]) / metrics.cosine(B[:1], x[:1]),
                    "two logits": metrics.cosine(s, other),
                    "variance": (s.square() / (n / 2 * patches.coverage(x[:1]))).mean(),
                }
                for name, value in again.items():
                    assert record["numbers"][f"{name}, {method}, {n}"][i] == pytest.approx(float(value), abs=1e-4)
    found = {key: np.mean(values) for key, values in record["numbers"].items()}
    law = recovery.recovery_cosine(recovery.equal_norm_snr(64))
    assert found["cosine, guided_backprop, 64"] == pytest.approx(law, abs=0.04)
    assert abs(found["cosine, gradient, 64"]) < 3 / math.sqrt(2 * d)
    assert found["variance, gradient, 64"] == pytest.approx(1, abs=0.15)

    differences = record["differences"]
    assert list(differences["Deconvolution"].values()) == [0, 0]
    for control in ("Guided Backprop", "Deconvolution, max-pooling"):
        assert min(differences[control].values()) > 0.2, control
    share, spread = record["constant_share"]
    assert share == pytest.approx(recovery.constant_share(16**2), abs=3 * spread)

    means = {k: {m: np.mean(v) for m, v in by.items()} for k, by in record["high_pass_correlation"].items()}
    assert means["with max-pooling"]["deconvolution"] > 0.3
    for kind in ("without pooling", "with average-pooling"):
        assert abs(means[kind]["deconvolution"]) < 0.2 < means[kind]["guided_backprop"], kind
    for side, cosines in record["white"]["deconvolution"].items():
        law = recovery.max_pooled_cosine("deconvolution", 128, int(side))
        assert np.mean(cosines) == pytest.approx(law, abs=0.03)
    assert record["closed_windows"]["white noise"] < 1e-3

    networks = {"40": 500, "1000": 20}
    assert {n: len(by["guided_backprop"]) for n, by in record["fully_connected"].items()} == networks
    for n, by_method in record["fully_connected"].items():
        drawn = recovery.one_patch_cosines(d, int(n), draws=2000)
        sigma = drawn.std() / math.sqrt(networks[n])
        assert np.mean(by_method["guided_backprop"]) == pytest.approx(drawn.mean(), abs=5 * sigma)
        assert np.abs(by_method["gradient"]).max() < 5 / math.sqrt(d)

    assert set(record["slopes"]) == {"9", "27", "75", "147"}
    errors = {k: torch.tensor(e) for k, e in record["squared_errors_of_overlapping_patches"].items()}
    assert {k: e.shape for k, e in errors.items()} == {"3": (2, 6), "5": (2, 6)}
    for k, e in errors.items():
        wrapped = Patches(int(k), border="periodic")
        exact = (1 + recovery.noise_correction(x[:1], wrapped)) / recovery.signal_to_noise(x[:1], 64, wrapped)
        assert float(e[:, 0].mean()) == pytest.approx(float(exact), rel=0.3)
        over_law = exact * recovery.equal_norm_snr(64)
        assert record["exact_over_law"][k] == pytest.approx(over_law.tolist())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": "no-such-folder"}, "the image folder 'no-such-folder' does not exist; allowed is a folder, or"),
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 100."),
        ({"size": 15}, "the parameter size is 15; allowed is a whole number from 16 to 256."),
        ({"filters": "16,0"}, "the parameter filters is '16,0'; allowed is one or more, with commas, of whole numbers"),
        ({"filters": "16385"}, "of whole numbers from 1 to 16384."),
        ({"filters": "many"}, "the parameter filters is 'many'; allowed is"),
        ({"kernel": 0}, "the parameter kernel is 0; allowed is a whole number from 1 to 15."),
        ({"kernel": 9, "size": 17}, "the parameter kernel is 9, and size is 17; allowed is a kernel of at most half"),
        ({"window": 2}, "the parameter window is 2; allowed is a whole number from 3 to 63."),
        ({"window": 8}, "the parameter window is 8, and size is 64; allowed is an odd window of at most the size."),
        ({"window": 25, "size": 24}, "the parameter window is 25, and size is 24; allowed is an odd window"),
        ({"n_seeds": 0}, "the parameter n_seeds is 0; allowed is a whole number from 1 to 100."),
        ({"units": "200001"}, "the parameter units is '200001'; allowed is one or more, with commas, of whole numbers"),
        ({"units": ""}, "the parameter units is ''; allowed is"),
        ({"seed": -1}, "the parameter seed is -1; allowed is a whole number from 0 to"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_one_picture_is_too_few(
    tmp_path_factory: pytest.TempPathFactory, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    pictures = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (40, 30), "teal").save(pictures / "only.png")
    said = "with one usable picture; allowed are two or more, since maps of different photographs are compared."
    refuses(NAME, {"images": str(pictures)}, said)
