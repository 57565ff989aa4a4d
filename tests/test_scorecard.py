"""The ledger, the records and the pages say the same; and what follows from them follows."""

from __future__ import annotations

import copy
import html
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

import modbp
from modbp import notebooks, records
from modbp.claims import (
    LEDGER,
    Check,
    Prediction,
    Row,
    Verdict,
    about,
    at_least,
    check,
    count,
    find,
    quantities,
    scorecard,
)
from modbp.claims.guidance import CHANGED, DECISIVE, QUESTIONS, SAME, Answer, Conclusion, answer, conclude, guide
from modbp.errors import InputError
from modbp.formatting import decimals

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import from_records as book

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RECORDS = records.read_folder(ROOT / "records")
ROWS = scorecard(RECORDS)

NUMBER = re.compile(r"(?<![\w.,/^{}−-])[−-]?\d+\.\d+(?![\w.]*\d)")
"""A number with decimals."""

NO_PROSE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)|sections? \d\.\d", re.DOTALL)
"""Code, formulas, targets of links, and sections of papers."""

FROM_ELSEWHERE = {
    "alignment-vgg16": {"2.8": "a ratio of two numbers in the table"},
    "class-distance": {"0.38": "the law of the theory page, for 256 filters"},
    "csc-vgg16": {
        "0.81": "runs outside the page, which says so",
        "0.995": "a run outside the page, which says so",
        "0.0001": "a bound",
    },
    "deeplift-exception": {
        **dict.fromkeys(("0.57", "0.77", "0.51", "0.69"), "an earlier measurement, which the page names"),
        **dict.fromkeys(("0.76", "0.87"), "a run outside the page, which says so"),
    },
    "depth-and-class": {
        "0.834": "the law of the theory page",
        **dict.fromkeys(("0.29", "0.64", "0.67"), "a run outside the page, which says so"),
    },
    "image-recovery-theory": {"3.4": "the size of an array, in GB", "1.96": "a quantile of the normal distribution"},
    "image-recovery-vgg16": {"0.20": "an earlier measurement, second hand", "0.25": "a bound"},
    "parameter-randomization": {"0.57": "measured on another page, to which it links"},
    "random-logit": {
        "99.5": "a percentile in the preparation",
        **dict.fromkeys(("0.85", "0.91"), "runs outside the page, which says so"),
    },
    "residual-clipping": {
        "0.22": "the chance level of ten directions",
        **dict.fromkeys(("0.318", "0.494", "0.605"), "the law of the theory page"),
    },
    "rules-vgg16": {"99.5": "a percentile of the drawing"},
}
"""Numbers in the prose of a walkthrough that its run does not print, each with the reason."""


def test_every_claim_has_a_verdict_and_every_verdict_a_claim() -> None:
    assert [row.claim.id for row in ROWS] == list(LEDGER)
    judged = [claim_id for record in RECORDS.values() for claim_id in record["verdicts"]]
    assert sorted(judged) == sorted(LEDGER)


def test_every_walkthrough_has_a_record_and_every_record_a_walkthrough() -> None:
    assert list(RECORDS) == [path.stem for path in NOTEBOOKS]
    assert [record["walkthrough"] for record in RECORDS.values()] == list(RECORDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_record_is_of_the_defaults(path: Path) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return plain([part.strip() for part in value.split(",")])
        if isinstance(value, list):
            return {part if isinstance(part, str) and part.strip("0123456789.") else float(part or 0) for part in value}
        return float(value)

    kept = RECORDS[path.stem]["parameters"]
    assert {name: plain(value) for name, value in kept.items()} == {
        name: plain(value) for name, value in notebooks.parameters(path).items()
    }


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_says_which_weights_and_images_it_rests_on(record: dict[str, Any]) -> None:
    assert {"weights", "images"} <= set(record)
    assert all(isinstance(name, str) for name in record["images"])


# The ledger against the records


def altered(name: str, claim_id: str, **check: Any) -> dict[str, Any]:
    changed = copy.deepcopy(RECORDS)
    changed[name]["verdicts"][claim_id]["checks"][0] |= check
    return changed


def test_a_claim_without_a_verdict_is_noticed() -> None:
    fewer = {name: record for name, record in RECORDS.items() if name != "random-logit"}
    with pytest.raises(InputError, match="claim S13 has no verdict in these records"):
        scorecard(fewer)
    assert len(scorecard(fewer, whole=False)) == len(LEDGER) - 1


def test_a_verdict_without_a_claim_is_noticed() -> None:
    changed = copy.deepcopy(RECORDS)
    changed["random-logit"]["verdicts"]["S99"] = changed["random-logit"]["verdicts"].pop("S13")
    with pytest.raises(InputError, match="the claim 'S99' is unknown"):
        scorecard(changed)


def test_a_claim_with_two_verdicts_is_noticed() -> None:
    with pytest.raises(InputError, match="claim S13 has a verdict by random-logit and by random-logit; allowed is one"):
        scorecard({**RECORDS, "again": RECORDS["random-logit"]})


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"quantity": "another"}, "holds other quantities for claim S13 than the ledger"),
        ({"measured": 0.1}, "another prediction or verdict"),
        ({"predicted": [0.0, None]}, "another prediction or verdict"),
        ({"verdict": "in part"}, "another prediction or verdict"),
        ({"spread": None}, "another prediction or verdict"),
        ({"measured": None}, "another prediction or verdict"),
    ],
)
def test_an_edited_record_is_noticed(check: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scorecard(altered("random-logit", "S13", **check))


@given(st.floats(-2, 2) | st.just(math.nan), st.floats(0, 2) | st.just(math.inf), st.sampled_from([-math.inf, 0, 1]))
def test_a_check_comes_back_from_its_record(measured: float, spread: float, low: float) -> None:
    made = check("x", Prediction(low, math.inf if low == 0 else 1), measured, spread)
    again = Check.from_json(json.loads(json.dumps(made.as_json(), allow_nan=False)))
    assert repr(again) == repr(made)  # a NaN is not equal to itself


# The pages against the records


def cells(path: Path) -> list[Any]:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT).cells


def printed(cell: Any) -> str:
    """What a cell shows as text: tables as HTML, and what was printed."""
    outputs = cell.get("outputs", [])
    return "\n".join(o.get("text", "") + o.get("data", {}).get("text/html", "") for o in outputs)


def as_cells(*texts: str) -> str:
    return r"\s*".join(f"<td>{re.escape(html.escape(text, quote=False))}</td>" for text in texts)


def not_printed(row: Row, shown: str) -> list[str]:
    return [c.quantity for c in row.checks if not re.search(as_cells(*c.printed()), shown)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.claim.id)
def test_a_page_prints_what_its_record_holds(row: Row) -> None:
    found = cells(ROOT / "notebooks" / f"{row.walkthrough}.ipynb")
    for cell in found:
        if cell.cell_type == "code" and row.claim.id in book.claims_judged(cell.source):
            shown = printed(cell)
            break
    assert not_printed(row, shown) == []
    assert shown.count(f"<th>{row.claim.id}</th>") == len(row.checks), "the page prints a number more"
    counted = count(check.verdict for check in row.checks)
    end = "\n".join(map(printed, found[-4:]))
    assert re.search(as_cells(row.claim.statement, row.verdict, counted), end)


def test_a_number_that_the_record_does_not_hold_is_noticed() -> None:
    row = next(row for row in ROWS if row.claim.id == "N9")
    shown = "\n".join(map(printed, cells(ROOT / "notebooks" / f"{row.walkthrough}.ipynb")))
    quantity, predicted, measured, _ = row.checks[0].printed()
    edited = re.sub(
        as_cells(quantity, predicted, measured), f"<td>{quantity}</td><td>{predicted}</td><td>7</td>", shown
    )
    assert not_printed(row, shown) == []
    assert not_printed(row, edited) == [quantity]
    other = Row(row.claim, row.walkthrough, (Check(quantity, about(0, 1), 0.123, 0, Verdict.CONFIRMED),), (), ())
    assert not_printed(other, shown) == [quantity]


def unsupported(prose: str, shown: str, numbers: list[float]) -> Iterator[str]:
    """Return the numbers of a text that neither a page's outputs nor its record's verdicts show, whatever the sign."""
    for found in NUMBER.findall(NO_PROSE.sub("", prose)):
        text = found.lstrip("−-")
        places = len(text.partition(".")[2])
        near = any(abs(abs(number) - float(text)) <= 0.5001 * 10**-places for number in numbers)
        if not near and not re.search(rf"(?<![\d.]){re.escape(text)}", shown):
            yield text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_in_prose_are_printed_or_recorded(path: Path) -> None:
    found = cells(path)
    prose = "\n\n".join(cell.source for cell in found if cell.cell_type == "markdown")
    shown = "\n".join(map(printed, found))
    verdicts = RECORDS[path.stem]["verdicts"].values()
    numbers = [
        number
        for judged in verdicts
        for check in judged["checks"]
        for number in (check["measured"], check["spread"], *check["predicted"])
        if number is not None
    ]
    assert set(unsupported(prose, shown, numbers)) <= set(FROM_ELSEWHERE.get(path.stem, {}))


@pytest.mark.parametrize(
    ("prose", "found"),
    [
        ("0.58 here", []),
        ("−0.58 here", []),
        ("0.57 here", ["0.57"]),
        ("$0.57$, `0.57`, [x](0.57.html), section 0.5", []),
        ("version 1.2.3 and 0.125", []),
        ("now 0.13 and 0.126", ["0.126"]),
    ],
)
def test_numbers_in_prose_are_told_from_others(prose: str, found: list[str]) -> None:
    assert list(unsupported(prose, "<td>0.58</td> 10.57", [-0.125])) == found


# What the book takes from the records


def row_of(claim_id: str = "N1", measured: float = 0.52, name: str = "demo", quantity: str = "x |cos|, lrp_z") -> Row:
    checks = (Check(quantity, about(0.5, 0.1), measured, 0.01, Verdict.CONFIRMED),)
    return Row(find(claim_id), name, checks, ("embedded",), ("a.jpg",))


@pytest.mark.parametrize("text", ["{measured}`N2: x`", "{verdict}`N2`", "{measured}`N1: y`", "{measured}`N1`"])
def test_a_page_cannot_ask_for_what_is_not_there(text: str) -> None:
    with pytest.raises(InputError, match="names a "):
        book.fill(text, [row_of()])


def test_other_blocks_and_roles_stay_as_they_are() -> None:
    text = "```{note}\n```\n\n```{scorecard} x\n```\n\n{term}`N1`"
    assert book.fill(text, [row_of()]) == text


def test_claims_in_provenance_and_in_tables_are_linked() -> None:
    text = "[Claims N1, N2. Provenance: ours.] | x | N1 | N1: a number | and N1."
    linked = "[N1](#scorecard-n1)"
    expected = f"[Claims {linked}, N2. Provenance: ours.] | x | {linked} | N1: a number | and N1."
    assert book.fill(text, [row_of()]) == expected


def test_the_whole_scorecard_has_everything_of_every_claim() -> None:
    text = book.fill("```{scorecard}\n```", ROWS)
    for row in ROWS:
        for part in (f"({book.anchor(row)})=", row.claim.statement, row.claim.provenance, row.claim.expected):
            assert part in text
        for one in row.checks:
            quantity, predicted, measured, _ = one.printed()
            line = f"| {quantity.replace('|', chr(92) + '|')} | {predicted} | {measured} | "
            assert line in text
        assert f"(#claim-{row.claim.id.lower()})" in text
    widths = {line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("| ")}
    assert widths == {5}


def test_counts_add_up_to_the_ledger() -> None:
    text = book.fill("```{scorecard-counts}\n```", ROWS)
    for kind, expected in (("claims", len(ROWS)), ("numbers", sum(len(row.checks) for row in ROWS))):
        lines = [line for line in text.splitlines() if f", {kind} |" in line]
        assert sum(int(n) for line in lines for n in re.findall(r"\| (\d+)(?= \|)", line)) == expected


def notebook(*sources: str) -> str:
    made = nbformat.v4.new_notebook()
    made.cells = [
        nbformat.v4.new_markdown_cell(s) if s.startswith("#") else nbformat.v4.new_code_cell(s) for s in sources
    ]
    return nbformat.writes(made)


def test_a_walkthrough_opens_with_its_own_rows_and_anchors_its_verdicts() -> None:
    source = notebook("# Title\n\nFirst.\n\nSecond.", 'x = "judge"', 'page.judge("N1", x)', 'page.judge("N1", x)')
    rows = [row_of("N1"), row_of("N2", name="other")]
    filled = nbformat.reads(book.fill_notebook(source, "demo", rows), 4)
    nbformat.validate(filled)
    first, *rest = [cell.source for cell in filled.cells]
    title, paragraph, table, second = first.split("\n\n")
    assert (title, paragraph, second) == ("# Title", "First.", "Second.")
    assert "[N1](#scorecard-n1)" in table
    assert "N2" not in table
    assert rest == ['x = "judge"', "(claim-n1)=", 'page.judge("N1", x)', 'page.judge("N1", x)']


def test_a_verdict_that_no_cell_shows_is_noticed() -> None:
    with pytest.raises(InputError, match="no cell of demo judges claim N1"):
        book.fill_notebook(notebook("# Title\n\nFirst.", '# page.judge("N1", x)'), "demo", [row_of()])


def test_the_reference_of_rules_names_the_claims_of_each() -> None:
    source = notebook("# Rules\n\nFirst.", 'show("lrp_z")', 'show("lrp_zplus", bias="split")')
    cells = nbformat.reads(book.fill_notebook(source, book.RULES, [row_of()]), 4).cells
    assert "[N1](#scorecard-n1) (confirmed)" in cells[2].source
    assert "none that predicts a number of it" in cells[4].source
    assert len(cells) == 5
    longer = row_of(quantity="x, input_x_gradient")
    assert "none that predicts" in book.concerning([longer], "gradient")
    assert "(confirmed)" in book.concerning([longer], "input_x_gradient")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_walkthrough_can_be_filled(path: Path) -> None:
    filled = nbformat.reads(book.fill_notebook(path.read_text(encoding="utf-8"), path.stem, ROWS), 4)
    nbformat.validate(filled)
    anchors = re.findall(r"^\(claim-(\w+)\)=$", "\n".join(cell.source for cell in filled.cells), re.MULTILINE)
    assert sorted(anchors) == sorted(row.claim.id.lower() for row in ROWS if row.walkthrough == path.stem)


# What follows for someone who has to choose


@given(st.floats(-1, 1), st.floats(0, 1))
def test_an_answer_needs_the_whole_interval(similarity: float, spread: float) -> None:
    said = answer(similarity, spread)
    assert (said is Answer.SAME) == (similarity - spread >= SAME)
    assert (said is Answer.CHANGED) == (similarity + spread <= CHANGED)
    assert answer(similarity, 2) is Answer.CANNOT_TELL


def test_a_number_that_is_not_known_cannot_tell() -> None:
    assert answer(float("nan")) is Answer.CANNOT_TELL


@given(st.dictionaries(st.sampled_from(list(QUESTIONS)), st.sampled_from(list(Answer))))
def test_a_conclusion_needs_both_answers(answers: dict[str, Answer]) -> None:
    decisive = [answers.get(question) for question in DECISIVE]
    expected = {Answer.SAME: Conclusion.IGNORES, Answer.CHANGED: Conclusion.DEPENDS}
    one = decisive[0] if decisive[0] == decisive[1] else None
    assert conclude(answers) is expected.get(one, Conclusion.CANNOT_TELL)  # type: ignore[call-overload]


def test_the_guidance_follows_the_numbers() -> None:
    def concluded(another_class: float, dense: float) -> Conclusion:
        numbers = {quantities.OTHER_CLASS: another_class, quantities.DENSE_RANDOM: dense}
        checks = tuple(
            Check(quantity.format("lrp_z"), at_least(0.9), value, 0.02, Verdict.CONFIRMED)
            for quantity, value in numbers.items()
        )
        (guidance,) = guide([Row(find("S13"), "demo", checks, (), ())], ["lrp_z"])
        return guidance.conclusion

    assert concluded(0.99, 0.95) is Conclusion.IGNORES
    assert concluded(0.3, 0.2) is Conclusion.DEPENDS
    assert concluded(0.99, 0.2) is concluded(0.91, 0.99) is concluded(0.79, 0.2) is Conclusion.CANNOT_TELL


def test_the_page_of_guidance_has_every_method_once_and_the_controls() -> None:
    text = book.fill("```{which-map}\n```", ROWS)
    table, _, silent = text.partition("### No number")
    listed = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    names = [name for name in listed if name not in ("Method", "---")]
    named = silent.partition(":")[2].strip(" .\n")
    assert {"*noise*", "*edges*"} <= set(names)
    for method in modbp.METHODS:
        shown = modbp.plot.NAMES[method]
        assert (shown in names) != (shown in named and shown not in names), method
    assert len(names) == len(set(names))


def test_the_page_of_guidance_states_the_thresholds() -> None:
    text = (ROOT / "book" / "which-map.md").read_text(encoding="utf-8")
    assert f"From {decimals(SAME)} upwards" in text
    assert f"up to {decimals(CHANGED)}" in text
    typed = [n for n in NUMBER.findall(NO_PROSE.sub("", text)) if float(n) not in (SAME, CHANGED)]
    assert typed == [], "what a page of guidance says of a method comes from the scorecard"


def test_the_records_are_json_that_any_reader_takes() -> None:
    for path in (ROOT / "records").iterdir():
        json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
