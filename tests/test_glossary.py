"""The first mention of a glossary term on a page is a link to the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

SKIPPED = {
    # Words of everyday English, which a page uses in that sense too before it needs the term.
    "Clip", "Control", "Floor", "Pattern", "Reference", "Rule", "Target", "Trigger", "Verdict",
    # Words that every page of this book uses from its first line on; the introduction links them.
    "Gradient", "Relevance", "Provenance", "Attribution", "Logit", "Alignment",
}  # fmt: skip

# Names that are also ordinary words: only the capital tells them apart.
NAMED = {"Deconvolution", "Rescale"}

# What is no prose: code, fenced blocks of directives without text, math, links and roles, headings, comments, HTML.
_HIDDEN = re.compile(
    r"""
    ^(?P<fence>`{3,}|~{3,}|:{3,})\{(?:code-block|code-cell|glossary|bibliography|math|eval-rst|mermaid|raw|tableofcontents)[^\n]*\n.*?^(?P=fence)\s*$
    | ^```[^{\n]*\n.*?^```\s*$             # code without a directive
    | ^\s*[`:]{3,}\{[^\n]*$               # the first line of any other directive, with its title
    | ^\s*:[\w-]+:[^\n]*$                  # and its options
    | ^\#+\s[^\n]*$
    | ^%[^\n]*$ | <!--.*?--> | ^\s*<[^\n]*$  # comments and HTML
    | \$\$.*?\$\$ | \$[^$\n]*\$ | \$[^$]{1,200}\$
    | \\begin\{(?P<env>[a-z*]+)\}.*?\\end\{(?P=env)\}
    | \{[\w:-]+\}`[^`]*`                   # roles, {term} among them
    | ``.*?`` | `[^`]*`
    | !?\[[^\]]*\]\([^)]*\)
    | \{[.\#][^}]*\}
    | ^\|[^\n]*\|\s*$                      # tables, where a link would be in every cell
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_ROLE = re.compile(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`")


def terms(glossary: str) -> list[str]:
    """Return the terms of the glossary's source."""
    (body,) = re.findall(r"^```\{glossary\}\n(.*?)^```", glossary, re.MULTILINE | re.DOTALL)
    return [line for line in body.splitlines() if line and not line.startswith(" ")]


def pattern(term: str) -> re.Pattern[str]:
    """Match a term or its plural as whole words, its blanks as any white space; names keep their capitals."""
    words = [re.escape(word) for word in term.split(" ")]
    plural = "" if term.isupper() or (term[-1] in "sk" and " " not in term) else "s?"
    last = words[-1][:-1] + "(?:y|ies)" if term.endswith("y") else words[-1] + plural
    text = r"\s+".join([*words[:-1], last])
    named = term in NAMED or any(letter.isupper() for letter in term[1:])
    return re.compile(rf"(?<![\w-]){text}(?![\w-])", 0 if named else re.IGNORECASE)


def prose_of(path: Path) -> str:
    """Return the Markdown of a page, or of all Markdown cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")


def unlinked(text: str, names: list[str]) -> list[tuple[str, int, int]]:
    """Return the term, the beginning and the end of each first mention that is no link."""
    prose = _HIDDEN.sub(lambda found: re.sub(r"[^\n]", "\0", found[0]), text)
    links = {}
    for found in _ROLE.finditer(text):
        links.setdefault(" ".join(found[1].split()).lower(), found.start())
    problems, taken = [], []
    for name in sorted((n for n in names if n not in SKIPPED), key=len, reverse=True):
        mentions = [
            m for m in pattern(name).finditer(prose) if not any(a < m.end() and m.start() < b for a, b in taken)
        ]
        taken += [m.span() for m in mentions]  # "Guided Backprop" is no mention of a shorter term inside it
        if mentions and links.get(name.lower(), len(text)) > mentions[0].start():
            problems.append((name, *mentions[0].span()))
    return sorted(problems, key=lambda found: found[1])


@pytest.fixture(scope="module")
def names(root: Path) -> list[str]:
    """The terms of the glossary."""
    return terms((root / "book/glossary.md").read_text(encoding="utf-8"))


def _problems(paths: list[Path], names: list[str]) -> list[str]:
    problems = []
    for path in sorted(paths):
        text = prose_of(path)
        for name, begin, end in unlinked(text, names):
            around = " ".join(text[max(0, begin - 30) : end + 30].split())
            problems.append(f"{path.name}: {name!r} is no link in: {around}")
    return problems


def test_pages_link_each_term_where_they_first_use_it(root: Path, names: list[str]) -> None:
    pages = [path for path in (root / "book").glob("*.md") if path.stem not in ("glossary", "references")]
    problems = _problems(pages, names)
    assert not problems, "\n".join(problems)


def test_walkthroughs_link_each_term_where_they_first_use_it(root: Path, names: list[str]) -> None:
    problems = _problems(list((root / "notebooks").glob("*.ipynb")), names)
    assert not problems, "\n".join(problems)


def test_every_skipped_word_is_a_term(names: list[str]) -> None:
    assert set(names) >= SKIPPED | NAMED


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A saliency map.", ["Saliency map"]),
        ("Two saliency\nmaps.", ["Saliency map"]),
        ("Guided Backprop", ["Guided Backprop"]),
        ("A {term}`saliency map` is a saliency map.", []),
        ("{term}`Maps <saliency map>` are saliency maps.", []),
        ("A saliency map is a {term}`saliency map`.", ["Saliency map"]),
        ("# Saliency map\n\n`saliency map`, $saliency map$, [saliency map](x.md)", []),
        ("```python\nsaliency map\n```", []),
        ("```{figure} x.svg\n:alt: saliency map\n\nA saliency map.\n```", ["Saliency map"]),
        ("To rescale and to deconvolve; a saliency mapping.", []),
        ("Guided Backprop and the rule", ["Guided Backprop"]),
    ],
)
def test_a_mention_without_a_link_is_noticed(text: str, found: list[str], names: list[str]) -> None:
    assert [name for name, _, _ in unlinked(text, names)] == found
