"""The walkthrough on random logits, re-run with other parameters through the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import pytest

from modbp import cli, notebooks, walkthrough
from modbp.claims import find, quantities
from modbp.metrics import sanity

NAME = "random-logit"


def test_two_rules_on_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = {
        "weights": "random",
        "methods": "gradient,lrp_zplus",
        "n_images": 1,
        "n_images_patterns": 1,
        "others": 2,
        "results": "record.json",
    }
    status = cli.main(["run", NAME, *(word for name, value in given.items() for word in ("-p", name, str(value)))])
    captured = capfd.readouterr()
    assert (status, captured.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{NAME}.run.ipynb", "record.json"]

    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    defaults = notebooks.parameters(notebooks.find(NAME))
    assert record["parameters"] == defaults | given | {"methods": ["gradient", "lrp_zplus"]}
    assert record["versions"] == walkthrough.versions()
    ((predicted, *wrong),), (logits,) = record["classes"], record["logits"]
    assert len({predicted, *wrong}) == 3
    assert logits[0] == max(logits)

    values = record["values"]
    assert set(values) == {"gradient", "lrp_zplus", sanity.NOISE, sanity.EDGES}
    strict, range_2, signed = (c.label for c in (sanity.STRICT, sanity.PAPER, sanity.SIGNED))
    for by_measure in values.values():
        assert all(len(numbers) == 2 and all(-1 <= v <= 1 + 1e-9 for v in numbers) for numbers in by_measure.values())
        # Larger constants bring both factors of SSIM nearer to 1, and the better sign is no worse than the given one.
        assert all(a <= b + 1e-9 for a, b in zip(by_measure[strict], by_measure[range_2], strict=True))
        assert all(a <= b for a, b in zip(by_measure[signed], by_measure[strict], strict=True))
    # Relevance starts as the logit itself: one map, with the sign of its logit.
    signs = [1 if logit * logits[0] > 0 else -1 for logit in logits[1:]]
    for measure in (sanity.COSINE, sanity.SPEARMAN):
        assert values["lrp_zplus"][measure] == pytest.approx(signs, abs=1e-3)
    assert values["lrp_zplus"][strict] == pytest.approx([1, 1], abs=1e-2)
    assert max(map(abs, values["gradient"][sanity.COSINE])) < 0.9

    assert all(value == pytest.approx(1, abs=1e-9) for v in values[sanity.EDGES].values() for value in v)
    floors = record["floors"]["Gaussian"]
    assert values[sanity.NOISE][strict] == pytest.approx([floors["range 1, better sign"]] * 2, abs=0.01)
    assert values[sanity.NOISE][range_2] == pytest.approx([floors["range 2, better sign"]] * 2, abs=0.02)
    assert max(map(abs, values[sanity.NOISE][sanity.COSINE])) < 0.02
    negated = record["controls"][f"lrp_zplus, {sanity.ITSELF_NEGATED}"]
    assert [negated[m] for m in (strict, sanity.SPEARMAN, sanity.COSINE)] == pytest.approx([1, -1, -1], abs=1e-6)
    assert record["own_floor"]["gradient"] < 0.2
    # Neither Guided Backprop nor a pattern method was asked for.
    assert record["started_with_the_logit"] == record["patterns"] == {}

    predicted_floors = {n: find("S13").predictions[quantities.NOISE_FLOOR.format(n)] for n in (1, 2)}
    assert all(p.low <= floors[f"range {n}"] <= p.high for n, p in predicted_floors.items())
    # Without trained weights the claim is not tested.
    assert record["verdicts"]["S13"]["verdict"] == "not testable here"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_images": 0}, "the parameter n_images is 0; allowed is a whole number from 1 to 10000."),
        ({"others": 0}, "the parameter others is 0; allowed is a whole number from 1 to 999."),
        ({"methods": "lrp"}, "the parameter methods is 'lrp'; allowed is one or more, with commas, of all, gradient,"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
    ],
)
def test_bad_values_stop_at_the_walkthroughs_first_cell(
    given: dict[str, object], said: str, refuses: Callable[[str, Mapping[str, object], str], None]
) -> None:
    refuses(NAME, given, said)


def test_the_papers_protocol_says_its_cost_before_it_starts() -> None:
    """The cell that prints the minutes stands before the one that measures, and times one photograph for it."""
    cells = [c.source for c in nbformat.read(notebooks.find(NAME), 4).cells if c.cell_type == "code"]
    cost = next(k for k, source in enumerate(cells) if "minutes here" in source)
    work = next(k for k, source in enumerate(cells) if "table = compare()" in source)
    assert cost < work
    assert "compare(1)" in cells[cost]
    assert "if chosen.paper_protocol:" in "".join(cells[:cost])
