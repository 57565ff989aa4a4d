"""What the book takes from the records while it is built: the scorecard, each walkthrough's rows, numbers in prose.

A page writes where a part of the scorecard goes, and this module puts it there, as MyST Markdown, before the page is
parsed. So no verdict and no number of these is typed by hand, and after `make reproduce` all of them are the new run's:

* a fenced block with one of the names in `PARTS`, such as ``{scorecard}``, becomes that part;
* ``{measured}`S13: SSIM of the maps of two classes, gradient``` becomes the measured number with its spread, and
  ``{verdict}`S13``` the verdict, linked to its row;
* a claim's id in a statement's provenance, or alone in a cell of a table, is linked to its row;
* a walkthrough gets its own rows after its first paragraph, and an anchor before each cell that judges a claim;
* the reference of rules gets, under each picture, the claims that concern the method.

This is the Sphinx extension that does so; the records are those in the folder `records` beside the book's sources.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modbp import records
from modbp.attr import METHODS
from modbp.claims import PAPERS, Check, Row, Verdict, count, overall, scorecard
from modbp.claims.guidance import QUESTIONS, Conclusion, Guidance, guide
from modbp.errors import InputError
from modbp.metrics.sanity import EDGES, NOISE
from modbp.plot.style import NAMES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARKS: Mapping[Verdict, str] = {
    Verdict.CONFIRMED: "✓",
    Verdict.IN_PART: "◐",
    Verdict.NOT_CONFIRMED: "✗",
    Verdict.NOT_TESTABLE: "–",
}
"""A sign before each verdict, so that none is told by its color alone."""

RULES = "rules-vgg16"
"""The walkthrough that is the reference of all rules."""

BLOCK = re.compile(r"^```\{([a-z-]+)\}\n```$", re.MULTILINE)
ROLE = re.compile(r"\{(measured|verdict)\}`([^`]+)`")
MENTION = re.compile(r"(\[Claims? |\| )((?:[SNZ]\d+(?:, )?)+)(?=\.|\s+\|)")
SHOWN = re.compile(r'^show\("(\w+)"', re.MULTILINE)


def fill(text: str, rows: Sequence[Row]) -> str:
    """Put the parts of the scorecard where a page asks for them.

    Parameters
    ----------
    text : str
        MyST Markdown.
    rows : sequence of Row
        The scorecard.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If the page asks for a claim or a quantity that is not in the scorecard.
    """
    by_id = {row.claim.id: row for row in rows}

    def block(found: re.Match[str]) -> str:
        return PARTS[found[1]](rows) if found[1] in PARTS else found[0]

    def role(found: re.Match[str]) -> str:
        claim_id, _, quantity = found[2].partition(":")
        row = by_id.get(claim_id.strip())
        if row is None:
            raise InputError(f"{found[0]} names a claim that the scorecard does not have.")
        if found[1] == "verdict":
            return _verdict(row.verdict, f"#{anchor(row)}")
        numbers = {check.quantity: check for check in row.checks}
        if quantity.strip() not in numbers:
            raise InputError(f"{found[0]} names a quantity that claim {row.claim.id} does not predict.")
        return numbers[quantity.strip()].printed()[2]

    def mention(found: re.Match[str]) -> str:
        return found[1] + re.sub(r"\w+", lambda name: _link(by_id[name[0]]) if name[0] in by_id else name[0], found[2])

    return ROLE.sub(role, BLOCK.sub(block, MENTION.sub(mention, text)))


def fill_notebook(source: str, name: str, rows: Sequence[Row]) -> str:
    """Put a walkthrough's rows at its beginning and an anchor before each cell that judges a claim.

    Parameters
    ----------
    source : str
        The notebook, as JSON.
    name : str
        The walkthrough's name.
    rows : sequence of Row
        The scorecard.

    Returns
    -------
    str
        The notebook, as JSON.

    Raises
    ------
    InputError
        If no cell judges one of its claims.
    """
    notebook = json.loads(source)
    own = [row for row in rows if row.walkthrough == name]
    unseen = {row.claim.id for row in own}
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(notebook["cells"]):
        text = "".join(cell["source"])
        after = ""
        if cell["cell_type"] == "markdown":
            text = fill(text, rows)
            if number == 0 and own:
                text = _after_first_paragraph(text, _opening(own))
            cell = {**cell, "source": text}
        else:
            judged = [claim_id for claim_id in claims_judged(text) if claim_id in unseen]
            unseen -= set(judged)
            cells += [_markdown(f"{name}-{claim_id}", f"(claim-{claim_id.lower()})=") for claim_id in judged]
            if name == RULES:
                after = "\n\n".join(concerning(rows, method) for method in SHOWN.findall(text))
        cells += [cell, *([_markdown(f"{name}-after-{number}", after)] if after else [])]
    if unseen:
        raise InputError(f"no cell of {name} judges claim {min(unseen)}, for which its record has a verdict.")
    return json.dumps({**notebook, "cells": cells})


def claims_judged(code: str) -> list[str]:
    """Return the claims that a cell judges, by its calls of `judge`.

    Parameters
    ----------
    code : str

    Returns
    -------
    list of str
    """
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "judge"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    ]


def anchor(row: Row) -> str:
    """Return the label of a claim's row on the page of the scorecard.

    Parameters
    ----------
    row : Row

    Returns
    -------
    str
    """
    return f"scorecard-{row.claim.id.lower()}"


def _opening(rows: Iterable[Row]) -> str:
    """Return a walkthrough's own rows of the scorecard."""
    return _table(
        ("Claim", "Verdict at the defaults", "Numbers behind it"),
        [
            (
                f"{_link(row)} {row.claim.statement}",
                _verdict(row.verdict),
                _shown(row, count(check.verdict for check in row.checks)),
            )
            for row in rows
        ],
    )


def concerning(rows: Iterable[Row], method: str) -> str:
    """Return a sentence with the claims that predict a number of a method, and what became of these numbers.

    Parameters
    ----------
    rows : iterable of Row
    method : str
        A key of `modbp.METHODS`.

    Returns
    -------
    str
        MyST Markdown.
    """
    about = [(row, checks) for row in rows if (checks := _of_method(row, method))]
    if not about:
        return "*Claims that concern it:* none that predicts a number of it by name."
    each = [f"{_link(row)} ({overall(check.verdict for check in checks)})" for row, checks in about]
    return f"*Claims that concern it*, and how its own numbers came out: {', '.join(each)}."


def _of_method(row: Row, method: str) -> list[Check]:
    """Return the checks of a row that name a method."""
    name = re.compile(rf"(?<!\w){re.escape(method)}(?!\w)")
    return [check for check in row.checks if name.search(check.quantity)]


def _whole(rows: Sequence[Row]) -> str:
    """Every claim in one line, and below every number behind it."""
    parts = []
    for paper, title in PAPERS.items():
        own = [row for row in rows if row.claim.paper == paper]
        parts += [f"## {paper}", f"{title}.", _overview(own)]
    parts.append("## Every number")
    for row in rows:
        parts += [f"({anchor(row)})=", f"### {row.claim.id}: {row.verdict}", _details(row)]
    return "\n\n".join(parts)


def _overview(rows: Iterable[Row]) -> str:
    return _table(
        ("Claim", "Known from", "Verdict", "Shown"),
        [
            (
                f"{_link(row)} {row.claim.statement}",
                row.claim.provenance,
                _verdict(row.verdict),
                _shown(row),
            )
            for row in rows
        ],
    )


def _details(row: Row) -> str:
    claim = row.claim
    images = f"{len(row.images)} images ({', '.join(row.images)})" if row.images else "no image"
    numbers = [(*check.printed()[:3], _verdict(check.verdict)) for check in row.checks]
    return "\n\n".join(
        [
            f"{claim.statement} [{claim.paper}: {claim.provenance}.]{{.provenance}}",
            f"*Predicted:* {claim.expected}.",
            _table(("Quantity", "Predicted", "Measured", "Verdict"), numbers),
            f"*Its page rests on* weights {', '.join(row.weights) or 'none'}; {images}. *Shown in* {_shown(row)}.",
        ]
    )


def _counts(rows: Iterable[Row]) -> str:
    """How many claims of each paper have which verdict, and how many of their numbers."""
    claims = Counter((row.claim.paper, row.verdict) for row in rows)
    numbers = Counter((row.claim.paper, check.verdict) for row in rows for check in row.checks)
    lines = [
        (f"{paper}, {kind}", *(str(counted[paper, verdict]) for verdict in Verdict))
        for kind, counted in (("claims", claims), ("numbers", numbers))
        for paper in PAPERS
    ]
    return _table(("Paper", *(_verdict(verdict) for verdict in Verdict)), lines)


def _which_map(rows: Sequence[Row]) -> str:
    """What the scorecard says of each method, sorted by what follows; the controls go through the same thresholds."""
    found = guide(rows, [*METHODS, NOISE, EDGES])
    claims = {check.quantity: row for row in rows for check in row.checks}

    def cell(guidance: Guidance, question: str) -> str:
        if question not in guidance.evidence:
            return "no number"
        said, check = guidance.evidence[question]
        return f"{said}, {check.printed()[2]} ({_link(claims[check.quantity])})"

    parts = []
    for conclusion in Conclusion:
        rest = [g for g in found if g.conclusion is conclusion and g.evidence]
        lines = [(NAMES.get(g.method, f"*{g.method}*"), *(cell(g, question) for question in QUESTIONS)) for g in rest]
        parts += [
            f"### {str(conclusion).capitalize()}",
            _table(("Method", *QUESTIONS), lines) if lines else "No method.",
        ]
    silent = [NAMES[g.method] for g in found if not g.evidence]
    return "\n\n".join([*parts, "### No number", f"Of these the scorecard has no such number: {', '.join(silent)}."])


def _verdict(verdict: Verdict, link: str = "") -> str:
    shown = f"[{MARKS[verdict]} {verdict}]"
    return f"{shown}{f'({link})' if link else ''}{{.verdict .{verdict.name.lower().replace('_', '-')}}}"


def _link(row: Row) -> str:
    return f"[{row.claim.id}](#{anchor(row)})"


def _shown(row: Row, said: str = "") -> str:
    """A link to the cell that judges a claim."""
    return f"[{said or row.walkthrough}](#claim-{row.claim.id.lower()})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _after_first_paragraph(text: str, inserted: str) -> str:
    heading, first, *rest = text.split("\n\n")
    return "\n\n".join([heading, first, inserted, *rest])


def _markdown(cell_id: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": cell_id.lower()[:64], "metadata": {}, "source": text}


PARTS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "scorecard": _whole,
    "scorecard-counts": _counts,
    "which-map": _which_map,
}
"""What a fenced block of that name is replaced by."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect `fill` and `fill_notebook` to the reading of pages."""
    # sphinx_external_toc asks all that lives in memory for its class, and an old name of torch answers with a warning.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.reduce_op`", FutureWarning)
    folder = Path(app.srcdir) / "records"
    rows: list[Row] = []

    def read(app: Sphinx, document: str, source: list[str]) -> None:
        if not rows:
            rows.extend(scorecard(records.read_folder(folder)))
        for path in folder.glob("*.json"):
            app.env.note_dependency(str(path))
        if Path(app.env.doc2path(document)).suffix == ".ipynb":
            source[0] = fill_notebook(source[0], Path(document).name, rows)
        else:
            source[0] = fill(source[0], rows)

    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
