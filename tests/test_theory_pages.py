"""Every numbered statement of the theory pages has its proof, its provenance, and a link to what checks it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("rank-one", "image-recovery", "alignment", "sanity-checks")
PROVED, HEURISTIC = ("theorem", "lemma", "proposition", "corollary"), "conjecture"
BEGINNING = re.compile(rf"(?m)^(?=:::+\{{prf:(?:{'|'.join((*PROVED, HEURISTIC))})\}})")
CHECKS = "## Where each statement is checked"


def parts(page: str) -> tuple[list[str], str]:
    """Return each statement with what follows it up to the next one, and the table of checks at the page's end."""
    text, _, checks = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8").partition(CHECKS)
    assert checks, f"{page} has no section {CHECKS!r}"
    return BEGINNING.split(text)[1:], checks


def title(statement: str) -> str:
    return statement.partition("\n")[0].partition("} ")[2]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_proved_is_called_second_hand_or_heuristic(page: str) -> None:
    for statement in parts(page)[0]:
        proved = "{prf:proof}" in statement
        if f"{{prf:{HEURISTIC}}}" in statement.partition("\n")[0]:
            assert title(statement).startswith("Law (heuristic"), title(statement)
        else:
            assert proved != title(statement).startswith("Second hand: "), title(statement)


@pytest.mark.parametrize("page", PAGES)
def test_every_statement_says_where_it_is_checked(page: str) -> None:
    statements, checks = parts(page)
    for statement in statements:
        label = re.search(r"^:label: (\S+)$", statement, re.MULTILINE)
        assert label, title(statement)
        beside = re.search(r"(Checked|checked|Measured|measured)[^\]]*?(\]\(\.\./notebooks/|tests)", statement)
        assert beside or f"`{label[1]}`" in checks or title(statement).startswith("Second hand: "), title(statement)


@pytest.mark.parametrize("page", PAGES)
def test_every_statement_is_numbered_and_used_under_one_label(page: str) -> None:
    statements, _ = parts(page)
    labels = [re.findall(r"^:label: (\S+)$", s.partition(":::\n")[0], re.MULTILINE)[0] for s in statements]
    assert len(labels) == len(set(labels))
    assert not any(":nonumber:" in statement for statement in statements)
