"""The frame of every walkthrough: parameters, claims, verdicts, records."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import modbp
from modbp import claims, files, walkthrough
from modbp.claims import Prediction, Verdict, about, at_least, at_most, check, overall, quantities
from modbp.claims.nie import NIE
from modbp.claims.sixt import SIXT
from modbp.claims.zheng import ZHENG
from modbp.errors import InputError
from modbp.formatting import decimals, number
from modbp.walkthrough import begin, check_parameters

N1 = "largest relative difference"
METHODS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def kept_format() -> Iterator[None]:
    """Take back what `begin` does to warnings."""
    before = warnings.formatwarning
    yield
    warnings.formatwarning = before


def refusal(given: dict[str, Any], allowed: dict[str, Any]) -> str:
    """Return the message with which parameters are refused, and see that it is one sentence."""
    with pytest.raises(InputError) as caught:
        check_parameters(given, allowed)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "allowed" in message
    return message


# Parameters


@given(value=st.integers(), low=st.integers(-100, 100), size=st.integers(1, 1000))
def test_whole_numbers_lie_in_their_range(value: int, low: int, size: int) -> None:
    allowed = {"n": range(low, low + size)}
    if low <= value < low + size:
        assert check_parameters({"n": value}, allowed).n == value
    else:
        message = refusal({"n": value}, allowed)
        assert f"n is {value}; allowed is a whole number from {low} to {low + size - 1}" in message


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1], math.nan])
def test_what_is_no_whole_number(value: Any) -> None:
    assert f"the parameter n is {value!r}" in refusal({"n": value}, {"n": range(10)})


@given(value=st.floats(allow_nan=False))
def test_numbers_lie_between_two_ends(value: float) -> None:
    allowed = {"x": (-1.5, 2.0)}
    if -1.5 <= value <= 2.0:
        assert check_parameters({"x": value}, allowed).x == value
    else:
        assert "a number from -1.5 to 2" in refusal({"x": value}, allowed)


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf])
def test_what_is_no_number_between_the_ends(value: Any) -> None:
    refusal({"x": value}, {"x": (0.0, 1.0)})


def test_a_whole_number_is_a_number() -> None:
    found = check_parameters({"x": 1}, {"x": (0.0, 2.0)}).x
    assert isinstance(found, float)
    assert found == 1.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ["a"]),
        ("c, a", ["c", "a"]),
        (" a ,a,b", ["a", "b"]),
        (["b", "a"], ["b", "a"]),
    ],
)
def test_names_become_a_list_without_repetitions(value: Any, expected: list[str]) -> None:
    assert check_parameters({"m": value}, {"m": METHODS}).m == expected


@pytest.mark.parametrize("value", ["", "a,", "a;b", "d", "A", [], ["d"], None, 1, True, ("a",), [["a"]], [1]])
@pytest.mark.parametrize("allowed", [METHODS, list(METHODS), dict.fromkeys(METHODS), ("a", "b")])
def test_names_must_be_known(value: Any, allowed: Any) -> None:
    assert "one or more, with commas, of a, b" in refusal({"m": value}, {"m": allowed})


def test_text_and_truth_values() -> None:
    allowed = {"t": str, "b": bool, "i": int}
    found = check_parameters({"t": "x", "b": True, "i": 3}, allowed)
    assert (found.t, found.b, found.i) == ("x", True, 3)
    assert "allowed is text" in refusal({"t": 1, "b": True, "i": 3}, allowed)
    assert "allowed is True or False" in refusal({"t": "x", "b": 1, "i": 3}, allowed)
    assert "i is True" in refusal({"t": "x", "b": True, "i": True}, allowed)


@pytest.mark.parametrize("value", [1, 1.0, "x", True, None, [1], (1,), {1}, {"a": 1}, b"x"])
def test_a_misspelled_parameter_is_found_among_the_globals(value: Any) -> None:
    """papermill puts a parameter that the notebook does not know beside the others."""
    message = refusal({"seed": 1, "n_image": value}, {"seed": range(10), "n_images": range(10)})
    assert message == "the parameter 'n_image' is unknown; allowed are seed, n_images."


def test_what_else_a_notebook_holds_is_no_parameter() -> None:
    given = {"n": 1, "_private": 1, "__name__": "x", "In": [""], "Out": {}, "math": math, "check": check, "P": Path()}
    assert vars(check_parameters(given, {"n": range(10)})) == {"n": 1}


def test_a_missing_parameter() -> None:
    message = refusal({"n": 1}, {"n": range(10), "seed": range(3)})
    assert message == "the parameter 'seed' is missing; allowed is a whole number from 0 to 2."


# From begin to close


def page(results: str = "", ids: tuple[str, ...] = ("N1",)) -> walkthrough.Walkthrough:
    return begin("demo", {"seed": 3, "results": results}, list(ids), seed=range(10), results=str)


def test_begin_seeds_and_says_warnings_plainly() -> None:
    import torch

    with torch.random.fork_rng():
        begun = page()
        assert torch.initial_seed() == begun.parameters.seed == 3
    assert warnings.formatwarning("left out a.jpg", UserWarning, "/a/b.py", 3) == "Note: left out a.jpg\n"


def test_begin_refuses_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the parameter seed is 10"):
        begin("demo", {"seed": 10}, ["N1"], seed=range(10))
    with pytest.raises(InputError, match="the claim 'N99' is unknown"):
        page(ids=("N99",))
    for results, said in [
        (tmp_path, "is the folder"),
        (tmp_path / "missing" / "record.json", "does not exist"),
        ("/dev/null", "is no plain file"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            page(str(results))
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_begin_refuses_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match="cannot be written to; allowed is a folder that can"):
        page(str(tmp_path / "record.json"))


def test_the_opening_shows_the_predictions_before_the_measurement() -> None:
    table = page(ids=("N1", "N9")).opening()
    assert list(table.index) == ["N1", "N9"]
    assert list(table.columns) == ["statement", "provenance", "predicted"]
    assert table.loc["N1", "provenance"] == "Nie 2018: notes, code"
    assert table.loc["N9", "predicted"] == claims.find("N9").expected


def test_judge_shows_each_number_beside_its_prediction() -> None:
    table = page().judge("N1", {N1: (2e-7, 0.0)})
    assert table.loc["N1", ["predicted", "measured", "verdict"]].tolist() == ["≤ 1e-05", "≤ 1e-05", "confirmed"]
    table = page(ids=("N9",)).judge("N9", {quantities.HIGH_PASS.format("guided_backprop"): (0.5, 0.04)})
    assert len(table) == len(claims.find("N9").predictions)
    assert table.iloc[0][["measured", "verdict"]].tolist() == ["0.50\u00a0±\u00a00.04", "in part"]
    assert table.iloc[1][["measured", "verdict"]].tolist() == ["–", "not testable here"]
    table = page().judge("N1", {N1: (2e-7, 0.0)}, testable=False)
    assert table.loc["N1", "verdict"] == "not testable here"


def test_judge_refuses_what_was_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = page()
    with pytest.raises(InputError, match="'N9' is not judged here; allowed are N1"):
        begun.judge("N9", {})
    with pytest.raises(InputError, match="does not predict 'x'"):
        begun.judge("N1", {"x": (1.0, 0.0)})
    with pytest.raises(InputError, match=r"spread is -0\.1"):
        begun.judge("N1", {N1: (0.0, -0.1)})
    monkeypatch.setattr("modbp.claims.judging.find", lambda _: claims.Claim("N1", "Nie 2018", "ours", "…", "…"))
    with pytest.raises(InputError, match="predicts no number yet"):
        begun.judge("N1", {})


def test_close_wants_a_verdict_on_every_claim(tmp_path: Path) -> None:
    results = tmp_path / "record.json"
    begun = page(str(results), ("N1", "N9"))
    begun.judge("N1", {N1: (0.0, 0.0)})
    with pytest.raises(InputError, match="claim N9 was not judged"):
        begun.close()
    assert list(tmp_path.iterdir()) == []
    begun.judge("N9", {}, testable=False)
    table = begun.close()
    assert table["verdict"].tolist() == ["confirmed", "not testable here"]
    assert table.loc["N9", "numbers behind it"] == f"{len(claims.find('N9').predictions)} not testable here"


def test_the_record_holds_what_the_run_rests_on(tmp_path: Path) -> None:
    results = tmp_path / "record.json"
    begun = page(str(results))
    begun.note(images=["a.jpg"], numbers={"x": (1.0, math.nan), "y": [math.inf]}, n=1)
    begun.judge("N1", {N1: (math.nan, math.nan)})
    begun.close()
    record = json.loads(results.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert record == json.loads(json.dumps(begun.record()))
    assert record["walkthrough"] == "demo"
    assert record["parameters"] == {"seed": 3, "results": str(results)}
    assert record["versions"]["modbp"] == modbp.__version__
    assert set(record["versions"]) == {"python", *walkthrough.PACKAGES}
    assert record["numbers"] == {"x": [1.0, None], "y": [None]}
    assert record["images"] == ["a.jpg"]
    assert record["verdicts"]["N1"] == {
        "verdict": "not testable here",
        "checks": [
            {
                "quantity": N1,
                "predicted": [None, 1e-5],
                "measured": None,
                "spread": 0.0,
                "verdict": "not testable here",
            }
        ],
    }


def test_an_infinite_parameter_does_not_cost_the_record(tmp_path: Path) -> None:
    results = str(tmp_path / "record.json")
    begun = begin("demo", {"x": math.inf, "results": results}, [], x=(0.0, math.inf), results=str)
    begun.close()
    assert json.loads(Path(results).read_text())["parameters"]["x"] is None


def test_a_note_that_is_no_json_fails_where_it_is_made() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        page().note(model=object())


def test_no_results_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun = page()
    begun.judge("N1", {N1: (0.0, 0.0)})
    begun.close()
    assert list(tmp_path.iterdir()) == []


# Files, whole or not at all


def test_a_record_replaces_an_older_one(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    target.write_text("old and longer than the new one")
    walkthrough.write_record(target, {"b": "é", "a": 1})
    assert target.read_text(encoding="utf-8") == '{\n  "a": 1,\n  "b": "é"\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_what_is_no_json_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    for value in (math.nan, object()):
        with pytest.raises((ValueError, TypeError)):
            walkthrough.write_record(target, {"a": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["write_text", "chmod", "replace"])
def test_a_failure_at_any_step_leaves_the_older_file(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "record.json"
    target.write_bytes(b"old")

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(OSError, match="no space"):
        walkthrough.write_record(target, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_is_any_new_files(umask: int, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(umask)
    set_umask = os.umask
    try:
        # Between changing the mask and changing it back another thread's files would be open to everyone.
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the process's umask was changed"))
        with files.replacing(tmp_path / "a.bin") as temporary:
            temporary.unlink()  # as safetensors does: a private file in the place of ours
            temporary.touch(0o600)
        assert (tmp_path / "a.bin").stat().st_mode & 0o777 == mode
    finally:
        set_umask(before)


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def write() -> None:
        with files.replacing(tmp_path / "a.txt") as temporary:
            assert (temporary.parent, temporary.suffix) == (tmp_path, ".txt")
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


# The ledger


@pytest.mark.parametrize(
    ("value", "each", "expected"),
    [
        ("16, 64,256", range(1, 1000), [16, 64, 256]),
        ([4, 4, 2], range(1, 1000), [4, 2]),
        (7, range(1, 1000), [7]),
        ("0.5, 2", (0.1, 10.0), [0.5, 2.0]),
        (0.5, (0.1, 10.0), [0.5]),
    ],
)
def test_several_numbers(value: object, each: Any, expected: list[float]) -> None:
    found = walkthrough.check_parameters({"n": value}, {"n": walkthrough.Several(each)}).n
    assert found == expected
    assert [type(n) for n in found] == [type(n) for n in expected]


@pytest.mark.parametrize("value", ["", "a", "1,", "0", "1000", "1.5", [], [True], None, True, {}, "1;2", [[1]], "nan"])
def test_several_numbers_are_refused_in_one_sentence(value: object) -> None:
    allowed = {"filters": walkthrough.Several(range(1, 1000))}
    with pytest.raises(InputError) as caught:
        walkthrough.check_parameters({"filters": value}, allowed)
    said = "allowed is one or more, with commas, of whole numbers from 1 to 999."
    assert str(caught.value) == f"the parameter filters is {value!r}; {said}"
    with pytest.raises(InputError, match=r"of numbers from 2 to 10\."):
        walkthrough.check_parameters({"budgets": value}, {"budgets": walkthrough.Several((2.0, 10.0))})


def test_the_ledger_is_complete_and_in_order() -> None:
    expected = [f"{letter}{n}" for letter, last in (("S", 16), ("N", 12), ("Z", 13)) for n in range(1, last + 1)]
    assert list(claims.LEDGER) == expected
    assert [claim.id for claim in claims.LEDGER.values()] == expected
    # A second claim of the same id would vanish in the mapping.
    assert len(SIXT) + len(NIE) + len(ZHENG) == len(expected)


@pytest.mark.parametrize("claim", claims.LEDGER.values(), ids=lambda claim: claim.id)
def test_every_claim_says_whose_it_is_and_how_we_know(claim: claims.Claim) -> None:
    paper = {"S": "Sixt 2020", "N": "Nie 2018", "Z": "Zheng 2025"}[claim.id[0]]
    assert claim.paper == paper
    assert paper in claims.PAPERS
    words = [part.split(" (")[0] for part in claim.provenance.split(", ")]
    assert set(words) <= {"abstract", "code", "notes", "ours"}
    assert len(words) == len(set(words)) > 0
    assert claim.statement.endswith(".")
    assert claim.expected
    assert all(isinstance(p, Prediction) for p in claim.predictions.values())


def test_an_unknown_claim() -> None:
    with pytest.raises(InputError, match=r"the claim 'N13' is unknown; allowed are S1, .*Z13\."):
        claims.find("N13")
    with pytest.raises(InputError, match="is unknown"):
        claims.judge("", {})


# Verdicts

finite = st.floats(-1e6, 1e6)
ends = st.one_of(finite, st.sampled_from([-math.inf, math.inf]))


@given(low=ends, high=ends, measured=finite, spread=st.floats(0, 1e6))
def test_a_verdict_follows_from_the_two_intervals(low: float, high: float, measured: float, spread: float) -> None:
    low, high = min(low, high), max(low, high)
    verdict = check("x", Prediction(low, high), measured, spread).verdict
    inside = low <= measured - spread and measured + spread <= high
    apart = measured + spread < low or measured - spread > high
    assert (verdict is Verdict.CONFIRMED) == inside
    assert (verdict is Verdict.NOT_CONFIRMED) == apart
    assert (verdict is Verdict.IN_PART) == (not inside and not apart)


@given(low=finite, width=st.floats(0, 10), spread=st.one_of(st.floats(0, 1e6), st.just(math.nan)))
def test_what_was_not_measured_is_not_testable(low: float, width: float, spread: float) -> None:
    assert check("x", Prediction(low, low + width), math.nan, spread).verdict is Verdict.NOT_TESTABLE


def test_the_ends_belong_to_the_prediction() -> None:
    assert check("x", at_least(0.5), 0.5).verdict is Verdict.CONFIRMED
    assert check("x", at_most(0.5), 0.5).verdict is Verdict.CONFIRMED
    assert check("x", at_most(0.5), math.nextafter(0.5, 1)).verdict is Verdict.NOT_CONFIRMED
    assert check("x", about(1.0, 0.25), 1.5, 0.25).verdict is Verdict.IN_PART


def test_a_spread_that_is_unknown_counts_as_none() -> None:
    assert check("x", about(0.0, 1.0), 0.5, math.nan) == check("x", about(0.0, 1.0), 0.5)


def test_a_negative_spread_and_an_empty_prediction_are_mistakes() -> None:
    with pytest.raises(InputError, match=r"spread is -0\.1; allowed are numbers from 0 upwards"):
        check("x", about(0.0, 1.0), 0.5, -0.1)
    for low, high in ((1.0, 0.0), (math.nan, 1.0), (0.0, math.nan)):
        with pytest.raises(InputError, match="is empty"):
            Prediction(low, high)


@given(st.lists(st.sampled_from(Verdict)))
def test_a_claims_verdict_follows_from_those_on_its_numbers(verdicts: list[Verdict]) -> None:
    found = overall(verdicts)
    tested = [v for v in verdicts if v is not Verdict.NOT_TESTABLE]
    assert (found is Verdict.NOT_TESTABLE) == (not tested)
    assert (found is Verdict.CONFIRMED) == (bool(tested) and all(v is Verdict.CONFIRMED for v in tested))
    assert (found is Verdict.NOT_CONFIRMED) == (bool(tested) and all(v is Verdict.NOT_CONFIRMED for v in tested))


# How numbers are written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (0.657, "0.66"),
        (-0.657, "−0.66"),
        (-0.004, "0.00"),
        (-0.006, "−0.01"),
        (123.456, "123.46"),
        (math.nan, "undefined"),
        (math.inf, "inf"),
    ],
)
def test_two_decimals_without_a_sign_before_zero(value: float, text: str) -> None:
    assert decimals(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (3e-7, "3e-07"),
        (-3e-7, "-3e-07"),
        (1e-3, "1e-03"),
        (0.004, "4e-03"),
        (0.005, "0.01"),
        (0.5, "0.50"),
    ],
)
def test_powers_of_ten_where_decimals_would_hide_the_number(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(-10, 10))
def test_no_predicted_number_is_written_as_zero_but_zero(value: float) -> None:
    assert (number(value) == "0.00") == (value == 0)


def test_predictions_are_written_as_intervals() -> None:
    assert str(about(-0.01, 0.05)) == "−0.01 ± 0.05"
    assert str(at_least(0.9)) == "≥ 0.90"
    assert str(at_most(0.0)) == "≤ 0.00"


def test_a_fact_cannot_hide_what_the_record_says_itself() -> None:
    page = walkthrough.begin("demo", {"results": ""}, ["N1"], results=str)
    with pytest.raises(modbp.InputError, match="'verdicts' would hide"):
        page.note(verdicts={})
