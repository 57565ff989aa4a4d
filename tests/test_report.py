"""A notebook as one HTML file: what is in it, what is asked for, and how it looks in a browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from test_book import ALL_ELSE, AXE, COLORS, DESKTOP, PHONE, Document, Reader, _barriers, browser  # noqa: F401

from modbp import notebooks
from modbp.errors import InputError
from modbp.notebooks import report
from modbp.notebooks.report import plain

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Make = Callable[..., BeautifulSoup]


def png(width: int = 900, height: int = 60) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "png")
    return base64.encodebytes(buffer.getvalue()).decode()  # in lines, as a kernel sends it


def result(**data: str) -> Any:
    names = {"html": "text/html", "text": "text/plain", "png": "image/png", "svg": "image/svg+xml"}
    found = {names.get(name, f"text/{name}"): value for name, value in data.items()}
    return nbformat.v4.new_output("execute_result", found, execution_count=1)


def code(source: str, *outputs: Any, **metadata: Any) -> Any:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata=metadata, execution_count=1)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a notebook of some cells as HTML, and return the page; a text is a cell of Markdown."""

    def make(*cells: Any, title: str = "Report", description: str = "", **options: Any) -> BeautifulSoup:
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell(c) if isinstance(c, str) else c for c in cells]
        )
        source, output = tmp_path / "demo.ipynb", tmp_path / "report.html"
        nbformat.write(notebook, source)
        notebooks.write_html(source, output, title=title, description=description, **options)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["demo.ipynb", "report.html"]
        return BeautifulSoup(output.read_text(encoding="utf-8"), "html.parser")

    return make


def test_the_head_of_the_page(make: Make) -> None:
    page = make("text", title="Maps of <b> & c", description='which "maps" can be trusted')
    assert page.html["lang"] == "en"
    assert page.title.string == "Maps of <b> & c"
    assert page.find("meta", {"name": "viewport"})["content"] == "width=device-width, initial-scale=1"
    assert page.find("meta", {"name": "description"})["content"] == 'which "maps" can be trusted'
    assert page.h1.string == "Maps of <b> & c"


def test_a_heading_of_the_notebook_is_the_only_one(make: Make) -> None:
    page = make("# Of its own\n\ntext", "## Second")
    assert [h.string for h in page.find_all(["h1", "h2"])] == ["Of its own", "Second"]
    assert page.find("meta", {"name": "description"}) is None


def test_of_a_run_with_other_parameters_nothing_is_said_that_holds_for_the_defaults(make: Make) -> None:
    about = nbformat.v4.new_markdown_cell("Ten photographs.", metadata={"tags": ["about-defaults"]})
    metadata = {"mystnb": {"image": {"alt": "Two dogs."}, "figure": {"caption": "Maps of the pictures."}}}
    picture = code("draw()", result(png=png(), text="<plot of cosine: gradient>"), **metadata)
    at_defaults, other = make(about, picture, "The rest."), make(about, picture, "The rest.", at_defaults=False)
    assert "Ten photographs." in at_defaults.text
    assert at_defaults.img["alt"] == "Two dogs."
    assert "Ten photographs." not in other.text
    assert "The rest." in other.text
    assert other.img["alt"] == "plot of cosine: gradient. Maps of the pictures."


def test_a_line_of_code_is_no_heading(make: Make) -> None:
    assert make("```python\n# a comment\n```").h1.string == "Report"


def test_code_is_folded_and_what_it_printed_is_not(make: Make) -> None:
    printed = nbformat.v4.new_output("stream", name="stdout", text="\x1b[31ma < b\x1b[0m\n")
    page = make(code("if a < b:\n    print()", printed), code("", result(text="7")), code("no", tags=["remove-input"]))
    (folded,) = page.find_all("details")
    assert not folded.has_attr("open")
    assert folded.summary.get_text() == "Code of cell 1"
    assert folded.code.get_text() == "if a < b:\n    print()"
    assert [pre.get_text() for pre in page.find_all("pre") if not pre.find_parent("details")] == ["a < b\n", "7"]


def test_notes_are_shown_as_notes(make: Make) -> None:
    said = nbformat.v4.new_output("stream", name="stderr", text="Note: left out <x>.jpg\n\nNote: b\n")
    failed = nbformat.v4.new_output("error", ename="ValueError", evalue="no <y>", traceback=["long"])
    again = nbformat.v4.new_output("stream", name="stderr", text="Note: b\nNote: c\nNote: c\n")
    page = make(code("x", said, failed), code("y", again))
    notes = page.find_all(attrs={"role": "note"})
    assert [n.get_text() for n in notes] == ["Note: left out <x>.jpg", "Note: b", "ValueError: no <y>", "Note: c"]


def test_pictures_are_inside_with_their_text(make: Make) -> None:
    metadata = {"image": {"alt": 'A "teal" bar'}, "figure": {"caption": "Teal, {term}`as ever` with $\\beta=0$."}}
    page = make(
        code("one", result(png=png(), text="<a figure>"), mystnb=metadata),
        code("two", result(png=png(), text="<a figure of two panels>")),
        code("three", result(png=png(), text="<a>"), result(png=png(), text="<b>")),
        code("four", result(svg='<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), mystnb=metadata),
    )
    pictures = page.find_all("img")
    assert [p["alt"] for p in pictures] == [
        'A "teal" bar',
        "a figure of two panels",
        "a (1 of 2)",
        "b (2 of 2)",
        'A "teal" bar',
    ]
    assert [c.get_text().strip() for c in page.find_all("figcaption")] == ["Teal, as ever with β=0."] * 2
    for picture in pictures[:4]:
        kind, _, data = picture["src"].partition(";base64,")
        assert kind == "data:image/png"
        assert Image.open(io.BytesIO(base64.b64decode(data, validate=True))).size == (900, 60)
    assert base64.b64decode(pictures[4]["src"].partition(",")[2]).startswith(b"<svg")


def test_tables_scroll_by_themselves(make: Make) -> None:
    table = "<table border='1'><tr><th></th><th>a</th></tr></table>"
    html = f"<div><style scoped>.dataframe {{ color: red }}</style>{table}</div>"
    page = make("| a | b |\n|---|---|\n| 1 | 2 |", code("x", result(html=html, text="a")))
    frames = [table.parent for table in page.find_all("table")]
    assert [f["aria-label"] for f in frames] == ["Table 1", "Table 2"]
    assert all(f["tabindex"] == "0" and f["role"] == "group" for f in frames)
    assert page.main.find("style") is None
    assert [th.get_text() for th in frames[1].find_all("th")] == ["a"]  # an empty corner is no heading


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{term}`map`, {term}`Maps\n<saliency map>`", "map, Maps"),
        ("{cite:t}`sixt2020` and {cite:p}`a2021b, bach2015`", "Sixt (2020) and (A 2021; Bach 2015)"),
        ("{cite}`unpublished`", "(unpublished)"),
        ("{prf:ref}`thm-rank-one`, {ref}`some-place`", "theorem “rank one”, some place"),
        ("{func}`~modbp.metrics.csc`, {mod}`modbp.metrics`", "`csc`, `modbp.metrics`"),
        ("{doc}`../book/rank-one`, {math}`\\alpha`", "rank one, `α`"),
        ("[pages](../book/rules.md#a-b), [n](b.ipynb), [here](#x)", "pages, n, here"),
        ("[site](https://a.org/b_(c)), [`f[0]`](r.md), [{term}`x`](r.md)", "[site](https://a.org/b_(c)), `f[0]`, x"),
        ("![a picture](a.png) ![b](data:image/png;base64,AA)", "a picture ![b](data:image/png;base64,AA)"),
        ("$\\frac{a}{b} \\ge x_{ij}^2$ and $5 or $6, \\$7", "`(a)/(b) ≥ x_(ij)^2` and $5 or $6, \\$7"),
        ("`$a$ {term}`", "`$a$ {term}`"),
        ("``{term}`x` ``", "``{term}`x` ``"),
        ("(label)=\n## Heading {#id}", "## Heading "),
        ("% a comment\n100 % of it", "100 % of it"),
        ("[words]{.class} and [w](https://a.org){.external}", "words and [w](https://a.org)"),
        ("```python\n{term}`x` $a$\n```", "```python\n{term}`x` $a$\n```"),
        ("```{math}\n\\sum x\n```", "```\nΣ x\n```"),
        ("```{bibliography}\n```\ntext", "\ntext"),
        ("```{figure} a.png\n:alt: what is seen\n```", "what is seen"),
        ("```{code-block} python\n:linenos:\nx = 1\n```", "```\nx = 1\n```"),
    ],
)
def test_what_only_the_book_can_show_is_plain_text(text: str, said: str) -> None:
    assert plain(text) == said


@pytest.mark.parametrize(("opening", "closing"), [("```", "```"), (":::", ":::"), ("````", "````")])
def test_a_directive_is_a_quotation_with_its_name(opening: str, closing: str, make: Make) -> None:
    page = make(f"{opening}{{note}}\n:class: x\nA {{term}}`map`.\n\n- one\n{closing}\n\nafter")
    quoted = page.blockquote
    assert quoted.get_text(" ", strip=True) == "Note. A map . one".replace(" .", ".")
    assert quoted.li.get_text() == "one"
    assert page.find_all("p")[-1].get_text() == "after"


def test_a_titled_directive_with_code_inside(make: Make) -> None:
    page = make("````{admonition} On $\\alpha$\n```python\nx = '$a$'\n```\n````")
    assert page.blockquote.strong.get_text() == "On α."
    assert page.blockquote.pre.get_text().strip() == "x = '$a$'"


def test_a_directive_that_is_never_closed_loses_nothing() -> None:
    assert "the end" in plain("```{note}\ntext\nthe end")


def test_every_walkthrough_becomes_a_page_that_needs_nothing(root: Path, tmp_path: Path) -> None:
    for path in notebooks.known_walkthroughs():
        output = tmp_path / f"{path.stem}.html"
        notebooks.write_html(path, output, title=path.stem)
        text = output.read_text(encoding="utf-8")
        document = Document(output, output.name)
        Reader(document).feed(text)
        assert [a[:40] for a in document.loads if not a.startswith("data:")] == [], path
        assert all(r.startswith(("http", "data:")) for r in document.references), path
        assert all((i.get("alt") or "").strip() for i in document.images), path
        assert len(document.headings) == 1, path
        page = BeautifulSoup(text, "html.parser")
        assert page.find(["script", "link", "iframe"]) is None, path
        for part in page.find_all(["code", "pre"]):
            part.decompose()
        said = page.main.get_text()
        assert not [mark for mark in ("{term}", "{cite", "{prf", "```", ":::", "$") if mark in said], path


def test_an_older_report_stays_where_a_notebook_cannot_be_written(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("old")
    before = (tmp_path / "report.html").read_bytes()

    def fail(html: str, title: str) -> str:
        raise OSError("no space")

    monkeypatch.setattr(report, "_finish", fail)
    with pytest.raises(OSError, match="no space"):
        make("new")
    assert (tmp_path / "report.html").read_bytes() == before
    with pytest.raises(InputError, match=r"the report is in '.*', which does not exist"):
        notebooks.write_html(tmp_path / "demo.ipynb", tmp_path / "no" / "x.html", title="x")


# ── In a browser ─────────────────────────────────────────────────────────────────────────────────────────────────

LOOK = """() => ({
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  pictures: [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt]),
  ground: getComputedStyle(document.body).backgroundColor,
})"""


def problems_of(browser: Browser, path: Path) -> list[str]:  # noqa: F811
    """Return what is wrong with a report in a browser: what it asks for, its pictures, its width, its barriers."""
    found: list[str] = []
    grounds = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport=DESKTOP, color_scheme=scheme)
        page: Page = context.new_page()
        noted: list[str] = []
        page.on("request", lambda request, noted=noted: noted.append(f"asks for {request.url}"))
        page.on("console", lambda message, noted=noted: noted.append(f"console: {message.text}"))
        page.on("pageerror", lambda error, noted=noted: noted.append(f"script error: {error}"))
        page.goto(path.as_uri(), wait_until="load")
        page.evaluate(AXE)
        page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
        for viewport in (DESKTOP, PHONE):
            page.set_viewport_size(viewport)
            seen = page.evaluate(LOOK)
            if seen["wide"] > 0:
                found.append(f"at {viewport['width']} px it is {seen['wide']} px too wide")
            found += [f"broken: {alternative}" for whole, alternative in seen["pictures"] if not whole]
            found += ["a picture without text" for _, alternative in seen["pictures"] if not alternative.strip()]
            found += _barriers(page, COLORS, []) + (_barriers(page, ALL_ELSE, []) if scheme == "light" else [])
        grounds.add(seen["ground"])
        found += [note for note in noted if not note.startswith((f"asks for {path.as_uri()}", "asks for data:"))]
        context.close()
    if len(grounds) != 2:
        found.append("light and dark are the same")
    return found


def test_a_page_with_all_of_it_looks_right(browser: Browser, make: Make, tmp_path: Path) -> None:  # noqa: F811
    wide = "<table><tr>" + "".join(f"<th>column {i}</th>" for i in range(30)) + "</tr></table>"
    make(
        "# Title\n\nText with a [link](https://a.org), `code` and a " + "very" * 60 + "longword.",
        "```{note}\nQuoted.\n```\n\n    code " + "x" * 200,
        code("y = " + "x" * 300, nbformat.v4.new_output("stream", name="stderr", text="Note: " + "z" * 200)),
        code("x", result(png=png(), text="<a figure>"), mystnb={"figure": {"caption": "A caption"}}),
        code("x", result(html=wide, text="a"), nbformat.v4.new_output("stream", text="x" * 400)),
    )
    assert problems_of(browser, tmp_path / "report.html") == []


def test_every_problem_is_noticed(browser: Browser, make: Make, tmp_path: Path) -> None:  # noqa: F811
    page = make("# Title")
    page.main.append(
        BeautifulSoup(
            '<img src="https://a.org/b.png"><img alt="x" src="data:image/png;base64,AAAA">'
            '<div style="width: 2000px">x</div><p style="color: #888; background: #999">pale</p>',
            "html.parser",
        )
    )
    (tmp_path / "report.html").write_text(str(page), encoding="utf-8")
    said = "\n".join(problems_of(browser, tmp_path / "report.html"))
    for what in ("Content Security Policy", "too wide", "broken: x", "without text", "color-contrast", "image-alt"):
        assert what in said
