"""The rendered book: built once, then read by a parser and by a browser.

Every test looks at all pages and reports all that is wrong with them, so that a page is covered as soon as it is in
`_toc.yml`. Everything that needs the built book is in this file: `--dist loadfile` then builds it once.
"""

from __future__ import annotations

import functools
import pkgutil
import posixpath
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import axe_playwright_python
import pytest
import yaml
from PIL import Image
from sphinx.util.inventory import InventoryFile

import modbp
from modbp import METHODS, records
from modbp.claims import PAPERS, Row, scorecard

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import api_reference
from from_records import MARKS, RULES, anchor

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

MAX_PAGE_BYTES = 2_000_000
MAX_PREVIEW_BYTES = 300_000
SCHEMES = ("light", "dark")
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

# Attributes through which a tag makes the browser fetch something, as opposed to a link that a reader may follow.
LOADING = {
    "audio": ("src",), "embed": ("src",), "iframe": ("src",), "img": ("src", "srcset"), "input": ("src",),
    "object": ("data",), "script": ("src",), "source": ("src", "srcset"), "track": ("src",), "video": ("src", "poster"),
}  # fmt: skip
LOADING_RELATIONS = {
    "dns-prefetch", "icon", "manifest", "modulepreload", "preconnect", "prefetch", "preload", "stylesheet",
}  # fmt: skip
CSS_ADDRESS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


@dataclass
class Document:
    """What the tests want to know of one HTML page."""

    path: Path
    name: str
    ids: set[str] = field(default_factory=set)
    references: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    images: list[dict[str, str | None]] = field(default_factory=list)
    title: str = ""
    headings: list[str] = field(default_factory=list)
    language: str = ""
    redirect: str = ""
    has_icon: bool = False
    meta: dict[str, str] = field(default_factory=dict)


class Reader(HTMLParser):
    """Fill a `Document` from HTML."""

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document
        self.open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found, document = dict(attrs), self.document
        document.ids.update(value for key in ("id", "name") if (value := found.get(key)))
        document.references += [value for key in ("href", "src", "poster") if (value := found.get(key)) is not None]
        relations = set((found.get("rel") or "").lower().split())
        document.has_icon |= tag == "link" and "icon" in relations
        keys = ("href",) if tag == "link" and relations & LOADING_RELATIONS else LOADING.get(tag, ())
        for key in keys:
            # A srcset lists addresses, each followed by a size.
            parts = (found.get(key) or "").split(",") if key == "srcset" else [found.get(key) or ""]
            document.loads += [part.split()[0] for part in parts if part.strip()]
        document.loads += _css_addresses(found.get("style") or "")
        if tag == "img":
            document.images.append(found)
        elif tag == "html":
            document.language = found.get("lang") or ""
        elif tag == "meta" and (found.get("http-equiv") or "").lower() == "refresh":
            document.redirect = (found.get("content") or "").partition("url=")[2]
            document.references.append(document.redirect)
        elif tag == "meta" and (key := found.get("name") or found.get("property")):
            document.meta[key] = found.get("content") or ""
        elif tag in ("title", "h1", "style"):
            self.open = tag
            if tag == "h1":
                document.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.open:
            self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open == "title":
            self.document.title += data
        elif self.open == "h1":
            self.document.headings[-1] += data
        elif self.open == "style":
            self.document.loads += _css_addresses(data)


def _css_addresses(css: str) -> list[str]:
    return [url or imported for url, imported in CSS_ADDRESS.findall(css)]


def _is_external(address: str) -> bool:
    split = urlsplit(address)
    return bool(split.netloc) or split.scheme in ("http", "https", "ftp", "ws", "wss")


def _report(problems: list[str]) -> None:
    """Fail with every problem, one a line."""
    if problems:
        pytest.fail(f"{len(problems)} problem(s):\n" + "\n".join(f"  {p}" for p in problems), pytrace=False)


@pytest.fixture(scope="module")
def documents(built_book: Path) -> list[Document]:
    """Every HTML page of the book, parsed."""
    found = []
    for path in sorted(built_book.rglob("*.html")):
        if "_static" in path.relative_to(built_book).parts:
            continue
        document = Document(path, path.relative_to(built_book).as_posix())
        Reader(document).feed(path.read_text(encoding="utf-8"))
        found.append(document)
    assert found, "the build left no page"
    return found


@pytest.fixture(scope="module")
def pages(documents: list[Document]) -> list[Document]:
    """Every page that a reader sees; index.html only forwards to the first."""
    return [d for d in documents if not d.redirect]


# ── The sources ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_table_of_contents_lists_every_page(root: Path) -> None:
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    sections = [section for chapter in chapters for section in chapter.get("sections", [])]
    listed = [toc["root"], *(page["file"] for page in chapters + sections)]
    written = [
        path.relative_to(root).with_suffix("").as_posix()
        for path in (*root.glob("book/**/*.md"), *root.glob("notebooks/*.ipynb"))
        if "_static" not in path.parts
    ]
    problems = [f"{p} is not in _toc.yml" for p in sorted(set(written) - set(listed))]
    problems += [f"_toc.yml lists {p}, which is no file" for p in sorted(set(listed) - set(written))]
    problems += [f"_toc.yml lists {p} twice" for p in sorted({p for p in listed if listed.count(p) > 1})]
    problems += [f"{p}: page names have hyphens, not underscores" for p in listed if "_" in p]
    _report(problems)


def _bibliography(root: Path) -> dict[str, dict[str, str]]:
    """The fields of each entry of the bibliography."""
    entries = re.split(r"(?m)^@", (root / "book/references.bib").read_text(encoding="utf-8"))[1:]
    keys = [entry.partition("{")[2].partition(",")[0].strip() for entry in entries]
    assert len(keys) == len(set(keys)), f"twice: {sorted({k for k in keys if keys.count(k) > 1})}"
    return {k: dict(re.findall(r"(?m)^\s*(\w+)\s*=\s*\{(.*)\}", e)) for k, e in zip(keys, entries, strict=True)}


def test_every_reference_says_where_to_find_it(root: Path) -> None:
    entries = _bibliography(root)
    _report(
        [
            f"{key} has neither doi nor eprint nor url"
            for key, e in entries.items()
            if not {"doi", "eprint", "url"} & set(e)
        ]
    )


def test_every_doi_is_a_link(root: Path, documents: list[Document]) -> None:
    (page,) = [document for document in documents if document.name == "book/references.html"]
    dois = {key: entry["doi"] for key, entry in _bibliography(root).items() if "doi" in entry}
    assert dois
    _report(
        [f"{key} has no link to {doi}" for key, doi in dois.items() if f"https://doi.org/{doi}" not in page.references]
    )


def test_citation_file_is_valid(root: Path) -> None:
    """Against what CFF 1.2.0 requires: its keys, and the kinds of values that are used here."""
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["version"] == modbp.__version__
    assert "BSD-3-Clause" in cited["license"]
    papers = {paper.lower().replace(" ", "") for paper in PAPERS}
    eprints = {e["eprint"] for key, e in _bibliography(root).items() if key in papers}
    assert {entry["identifiers"][0]["value"] for entry in cited["references"]} == {
        f"10.48550/arXiv.{e}" for e in eprints
    }
    for entry in cited["references"]:
        assert {"type", "title", "authors", "year", "url", "identifiers"} <= set(entry)
        assert all({"family-names", "given-names"} <= set(author) for author in entry["authors"])
        for identifier in entry["identifiers"]:
            assert identifier["type"] == "doi"
            assert re.fullmatch(r"10\.\d{4,9}/\S+", identifier["value"])
        assert entry["url"].endswith(entry["identifiers"][0]["value"].partition("arXiv.")[2])


# ── The build and what it wrote ──────────────────────────────────────────────────────────────────────────────────


def test_build_has_no_warning(book_build: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = book_build
    lines = (done.stdout + "\n" + done.stderr).splitlines()
    problems = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b|Exception occurred", line)]
    if done.returncode:
        problems += [f"jupyter-book build ended with exit status {done.returncode}", *lines[-15:]]
    _report(problems)


def test_every_local_link_resolves(built_book: Path, documents: list[Document]) -> None:
    ids = {d.path: d.ids for d in documents}
    problems = []
    for document in documents:
        for address in dict.fromkeys([*document.references, *document.loads]):
            split = urlsplit(address)
            if split.scheme or split.netloc or address in ("", "#"):
                continue
            if split.path.startswith("/"):
                problems.append(f"{document.name}: {address} starts at the host's root, where the book need not be")
                continue
            target = (document.path.parent / unquote(split.path)).resolve() if split.path else document.path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or built_book not in target.parents:
                problems.append(f"{document.name}: {address} is missing")
            elif split.fragment and target in ids and unquote(split.fragment) not in ids[target]:
                problems.append(f"{document.name}: {address} has no such anchor")
    _report(problems)


def test_every_document_names_its_icon(documents: list[Document]) -> None:
    """The forwarding one too: a browser asks the server for /favicon.ico otherwise, and notes that it is missing."""
    _report([document.name for document in documents if not document.has_icon])


def test_pages_load_nothing_from_elsewhere(built_book: Path, documents: list[Document]) -> None:
    problems = [f"{d.name} loads {a}" for d in documents for a in dict.fromkeys(d.loads) if _is_external(a)]
    for sheet in sorted(built_book.rglob("*.css")):
        for address in _css_addresses(sheet.read_text(encoding="utf-8")):
            name = sheet.relative_to(built_book)
            if _is_external(address):
                problems.append(f"{name} loads {address}")
            elif not address.startswith(("data:", "#")):
                target = sheet.parent / unquote(urlsplit(address).path)
                if not target.is_file():
                    problems.append(f"{name}: {address} is missing")
    _report(problems)


def test_every_image_has_an_alternative_text(pages: list[Document]) -> None:
    problems = []
    for page in pages:
        for image in page.images:
            text, source = (image.get("alt") or "").strip(), (image.get("src") or "")[:90]
            # Where no text is given, Sphinx puts the address there, which says nothing to a listener.
            if not text or Path(text).name == Path(source).name or re.fullmatch(r"\S+\.(png|svg|jpe?g)", text):
                problems.append(f"{page.name}: {source} has the alternative text {text!r}")
    _report(problems)


def test_every_page_has_language_title_and_heading(pages: list[Document]) -> None:
    problems = []
    for page in pages:
        # The theme repeats the heading for print, and has an empty one on generated pages.
        headings = {text for h in page.headings if (text := h.strip(" #\n"))}
        if not page.title.strip():
            problems.append(f"{page.name} has no title")
        if len(headings) != 1:
            problems.append(f"{page.name} has {len(headings)} top headings, not one: {sorted(headings)}")
        if page.language != "en":
            problems.append(f"{page.name} has the language {page.language!r}, not 'en'")
    _report(problems)


def test_pages_are_small(pages: list[Document]) -> None:
    sizes = {p.name: p.path.stat().st_size for p in pages}
    _report([f"{name} has {size / 1e6:.1f} MB" for name, size in sizes.items() if size > MAX_PAGE_BYTES])


DEBRIS = re.compile(r"[\\$`{}<>\[\]|*]|\s\s|::|https?:")
"""What a description has if it was taken from the source and not from the text."""


def test_every_page_has_a_title_and_a_description_of_its_own(pages: list[Document]) -> None:
    problems = [f"{page.name} and another have the title {page.title!r}" for page, _ in _alike(pages, "title")]
    problems += [f"{page.name} and another are described as {said!r}" for page, said in _alike(pages, "description")]
    for page in pages:
        said = page.meta.get("description", "")
        if not 50 <= len(said) <= 200 or DEBRIS.search(said):
            problems.append(f"{page.name} is described as {said!r}")
        if len(page.title) > 110:
            problems.append(
                f"{page.name} has the title {page.title!r}, which no tab and no list of results shows whole"
            )
    _report(problems)


def _alike(pages: list[Document], what: str) -> list[tuple[Document, str]]:
    said = {p.name: p.title if what == "title" else p.meta.get(what, "") for p in pages}
    return [(page, said[page.name]) for page in pages if list(said.values()).count(said[page.name]) > 1]


def test_every_page_has_a_preview_for_messengers(root: Path, built_book: Path, documents: list[Document]) -> None:
    """The forwarding page too: it has the address that people share."""
    address = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]["html_baseurl"]
    problems = []
    for document in documents:
        meta = {key.removeprefix("og:"): value for key, value in document.meta.items()}
        for key in ("title", "type", "url", "site_name", "description", "image", "image:alt", "twitter:card"):
            if not meta.get(key):
                problems.append(f"{document.name} has no {key}")
        if meta.get("url") not in (address + document.name, address if document.redirect else None):
            problems.append(f"{document.name} says that its address is {meta.get('url')}")
        picture = built_book / meta.get("image", "").removeprefix(address)
        if not picture.is_file():
            problems.append(f"{document.name} has the picture {meta.get('image')}, which is missing")
        elif picture.stat().st_size > MAX_PREVIEW_BYTES:
            problems.append(f"{picture.name} has {picture.stat().st_size} bytes")
        else:
            with Image.open(picture) as opened:
                if [str(side) for side in opened.size] != [meta.get("image:width"), meta.get("image:height")]:
                    problems.append(f"{picture.name} is of {opened.size} pixels, and {document.name} says otherwise")
    _report(problems)


# ── The API reference ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def documented(built_book: Path) -> set[str]:
    """Every name of ours that the built reference describes, by its list for other books."""
    with (built_book / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", posixpath.join)
    return {name for kind, entries in inventory.items() if kind.startswith("py:") for name in entries}


def _object(name: str) -> object:
    try:
        return pkgutil.resolve_name(name)
    except (AttributeError, ImportError):
        owner, _, attribute = name.rpartition(".")
        return getattr(pkgutil.resolve_name(owner), "__annotations__", {}).get(attribute)


def _undocumented(documented: set[str]) -> list[str]:
    """Public names that the reference does not have; a name that two modules offer may be under either."""
    found = []
    for module in api_reference.modules():
        if (names := api_reference.names(module)) and module not in documented:
            found.append(module)
        for name in names:
            thing = _object(f"{module}.{name}")
            same = [d for d in documented if d.rpartition(".")[2] == name and _object(d) is thing]
            if not same and not (isinstance(thing, ModuleType) and thing.__name__ in documented):
                found.append(f"{module}.{name}")
    return found


def test_reference_has_every_public_name(documented: set[str]) -> None:
    _report(_undocumented(documented))


def test_reference_has_no_name_that_does_not_exist(documented: set[str]) -> None:
    _report([name for name in sorted(documented) if _object(name) is None])


def test_a_name_that_the_reference_lacks_is_noticed(documented: set[str]) -> None:
    without = {name for name in documented if name.rpartition(".")[2] not in ("make", "STRICT")}
    assert _undocumented(without) == ["modbp.make", "modbp.attr.make", "modbp.metrics.sanity.STRICT"]


def test_overview_lists_every_module_with_names(root: Path) -> None:
    overview = (root / "book/api/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^   (modbp[\w.]+)$", overview)
    # Beside the two packages that only hold others.
    assert sorted([*listed, "modbp", "modbp.theory"]) == sorted(api_reference.modules())


# ── What the book takes from the records ─────────────────────────────────────────────────────────────────────────


def _text(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


@pytest.fixture(scope="module")
def rows(root: Path) -> list[Row]:
    """The scorecard that the committed records give."""
    return scorecard(records.read_folder(root / "records"))


def test_the_scorecard_leads_to_the_cell_that_shows_each_verdict(built_book: Path, rows: list[Row]) -> None:
    page = (built_book / "book/scorecard.html").read_text(encoding="utf-8")
    problems = []
    for row in rows:
        label, claim_id = f"claim-{row.claim.id.lower()}", row.claim.id
        if page.count(f'href="../notebooks/{row.walkthrough}.html#{label}"') < 2:
            problems.append(f"the scorecard does not lead to the cell of {claim_id}")
        walkthrough = (built_book / f"notebooks/{row.walkthrough}.html").read_text(encoding="utf-8")
        _, found, behind = walkthrough.partition(f'id="{label}"')
        if not found or f'"{claim_id}"' not in (cell := _text(behind.partition("</pre>")[0])) or "judge(" not in cell:
            problems.append(f"{row.walkthrough}: behind #{label} is no cell that judges {claim_id}")
    _report(problems)


def test_the_scorecard_shows_every_number(built_book: Path, rows: list[Row]) -> None:
    page = _text((built_book / "book/scorecard.html").read_text(encoding="utf-8"))
    lines = " ".join(page.split()).replace("’", "'")  # an apostrophe is set as one
    problems = []
    for row in rows:
        for check in row.checks:
            quantity, predicted, measured, verdict = (" ".join(part.split()) for part in check.printed())
            if f"{quantity} {predicted} {measured} {MARKS[check.verdict]} {verdict}" not in lines:
                problems.append(f"{row.claim.id}: {quantity} {predicted} {measured} {verdict}")
    _report(problems)


def test_a_walkthrough_opens_with_its_own_rows(built_book: Path, rows: list[Row]) -> None:
    problems = []
    for row in rows:
        page = (built_book / f"notebooks/{row.walkthrough}.html").read_text(encoding="utf-8")
        before_code = page.partition('class="cell docutils container"')[0]
        link = f'href="../book/scorecard.html#{anchor(row)}"'
        if link not in before_code or f"{MARKS[row.verdict]} {row.verdict}" not in _text(before_code):
            problems.append(f"{row.walkthrough} does not open with {row.claim.id}")
    _report(problems)


def test_the_reference_of_rules_names_the_claims_of_every_method(built_book: Path) -> None:
    page = _text((built_book / f"notebooks/{RULES}.html").read_text(encoding="utf-8"))
    assert page.count("Claims that concern it") == len(METHODS)


def test_nothing_is_left_to_fill(built_book: Path, pages: list[Document]) -> None:
    left = re.compile(r"\{(measured|verdict|scorecard|which-map)[a-z-]*\}")
    _report([p.name for p in pages if p.name.startswith("book/") and left.search(_text(p.path.read_text("utf-8")))])


# ── In a browser ─────────────────────────────────────────────────────────────────────────────────────────────────

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

# Resolves once fonts, images and formulas are there. An unfinished MathJax has an object without `startup`.
SETTLE = """async () => {
  for (const image of document.images) image.loading = 'eager';
  await Promise.all([...document.images].map(i => i.decode().catch(() => null)));
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
  await document.fonts.ready;
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""

INSPECT = r"""() => {
  const main = document.querySelector('main') ?? document.body;
  const math = [...document.querySelectorAll('.math')];
  const prose = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
  const raw = [];
  while (prose.nextNode()) {
    const text = prose.currentNode;
    if (text.parentElement.closest('pre, code, script, style, mjx-container')) continue;
    if (/\\[(\[]|\\begin\{/.test(text.data)) raw.push(text.data.trim().slice(0, 80));
  }
  return {
    // Some pages show no icon of one kind or the other, so that not every face is loaded.
    icons: [...document.fonts].some(f => f.family.includes('Font Awesome') && f.status === 'loaded'),
    theme: document.documentElement.dataset.theme,
    broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.getAttribute('src')),
    untypeset: math.filter(e => !e.querySelector('mjx-container')).map(e => e.textContent.trim().slice(0, 80)),
    raw,
    errors: [...window.MathJax?.startup?.document?.math ?? []].filter(
      // A command that MathJax does not know is printed in red, and is no error to it.
      m => m.typesetRoot?.querySelector('mjx-merror, [data-mjx-error], [style*="color: red"]')).map(m => m.math),
  };
}"""

# What sticks out of the page: too wide, and in no box that scrolls or cuts by itself.
OVERFLOW = """() => {
  const page = document.scrollingElement, width = page.clientWidth;
  const contained = e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== 'visible') return true;
    return false;
  };
  const main = document.querySelector('main') ?? document.body;
  const visible = e => getComputedStyle(e).overflowX === 'visible' && e.clientWidth > 0;
  const right = e => Math.max(  // of the box, and of text that sticks out of it
    e.getBoundingClientRect().right, visible(e) ? e.getBoundingClientRect().left + e.scrollWidth : 0);
  const wide = [...main.querySelectorAll('*')].filter(
    e => right(e) > width + 1 && getComputedStyle(e).position !== 'fixed' && !contained(e));
  // What a box hides because it does not fit, and what nobody can therefore read.
  const hidden = [...main.querySelectorAll('mjx-container, img')].filter(e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) {
      const overflow = getComputedStyle(p).overflowX;
      if (overflow === 'auto' || overflow === 'scroll') return false;
      if (overflow !== 'visible' && e.getBoundingClientRect().right > p.getBoundingClientRect().right + 1) return true;
    }
    return false;
  }).map(e => e.getAttribute('alt') ?? 'a formula in: ' + (e.closest('p, li, td, dd')?.textContent ?? '').slice(0, 60));
  const names = wide.slice(-2).map(e => '<' + e.tagName.toLowerCase() + ' class="' + (e.getAttribute('class') ?? '')
    + '"> ' + (e.textContent ?? '').trim().replace(/\\s+/g, ' ').slice(0, 40));
  return {excess: page.scrollWidth - width, names, hidden};
}"""


# The theme asks for its icon fonts ahead of time, and from a folder browsers refuse such a request and note an error.
# That is no fault of a page: the style sheet asks again and gets them, which INSPECT checks.
FONT_HINT = re.compile(r"^file:.*/_static/vendor/fontawesome/[^ ]*[.]woff2$")


def _subject(message: ConsoleMessage) -> str:
    """Return the address that an error on the console is about, or the page's."""
    refused = re.match(r"Access to font at '([^']+)'", message.text)
    return refused.group(1) if refused else message.location.get("url", "")


def _executable(playwright: Any) -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    candidates = [*(shutil.which(n) for n in names), *(f"/usr/bin/{n}" for n in names)]
    candidates.append(playwright.chromium.executable_path)
    return next((c for c in candidates if c and Path(c).is_file()), None)


@pytest.fixture(scope="module")  # not longer: Playwright's event loop would be in the way of the notebooks' kernels
def browser(on_ci: bool) -> Iterator[Browser]:
    give_up = pytest.fail if on_ci else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("the browser tests need playwright; install it with: pip install 'modbp[test]'")
    with sync_playwright() as playwright:
        executable = _executable(playwright)
        if executable is None:
            give_up("the browser tests need chromium or google-chrome; on Debian: apt install chromium")
        opened = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        opened.close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing: the tests look at the browser's side."""


@pytest.fixture(scope="module")
def served(built_book: Path) -> Iterator[str]:
    """The book over HTTP, on a port that was free."""
    handler = functools.partial(_QuietHandler, directory=str(built_book))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def _watched(browser: Browser, base: str, scheme: str, problems: list[str]) -> Iterator[Page]:
    """Open a window that writes down everything that goes wrong in it, under the address of the page."""
    context = browser.new_context(viewport=DESKTOP, color_scheme=scheme)
    context.set_default_timeout(20_000)
    page = context.new_page()

    def note(what: str) -> None:
        problems.append(f"{scheme} {page.url.removeprefix(base)}: {what}")

    def asked(url: str) -> None:
        if not url.startswith((base, "data:", "blob:")):
            note(f"asks for {url}")

    def failed(url: str, what: str) -> None:
        if not FONT_HINT.search(url):
            note(what)

    context.on("request", lambda request: asked(request.url))
    context.on("requestfailed", lambda r: failed(r.url, f"could not load {r.url} ({r.failure})"))
    context.on("response", lambda r: note(f"got HTTP {r.status} for {r.url}") if r.status >= 400 else None)
    page.on("console", lambda m: failed(_subject(m), f"console: {m.text[:200]}") if m.type == "error" else None)
    page.on("pageerror", lambda error: note(f"script error: {str(error)[:200]}"))
    yield page
    context.close()


def _look_at(page: Page, address: str, scheme: str) -> list[str]:
    """Open one page and return what is wrong with how it looks."""
    page.set_viewport_size(DESKTOP)
    page.goto(address, wait_until="load")
    page.evaluate(SETTLE)
    seen = page.evaluate(INSPECT)
    problems = [f"the image {source} is broken" for source in seen["broken"]]
    problems += [f"the formula {text!r} is not typeset" for text in seen["untypeset"]]
    problems += [f"raw TeX: {text!r}" for text in seen["raw"]]
    problems += [f"MathJax could not read {text!r}" for text in seen["errors"]]
    if not seen["icons"]:
        problems.append("the icons have no font")
    if seen["theme"] != scheme:
        problems.append(f"the theme is {seen['theme']!r}")
    for viewport in (DESKTOP, PHONE):
        page.set_viewport_size(viewport)
        page.evaluate(SETTLE)
        overflow = page.evaluate(OVERFLOW)
        if overflow["excess"] > 1 or overflow["names"]:
            found = "; ".join(overflow["names"]) or "an element outside of <main>"
            problems.append(f"at {viewport['width']} px it is {overflow['excess']} px too wide: {found}")
        problems += [f"at {viewport['width']} px this is cut off: {text!r}" for text in overflow["hidden"]]
    return problems


def _look_at_all(browser: Browser, base: str, scheme: str, pages: list[Document]) -> None:
    problems: list[str] = []
    with _watched(browser, base, scheme, problems) as page:
        for document in pages:
            problems += [f"{scheme} {document.name}: {p}" for p in _look_at(page, base + document.name, scheme)]
    _report(problems)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_look_right_from_a_folder(browser: Browser, built_book: Path, pages: list[Document], scheme: str) -> None:
    _look_at_all(browser, built_book.as_uri() + "/", scheme, pages)


def test_pages_look_right_over_http(browser: Browser, served: str, pages: list[Document]) -> None:
    _look_at_all(browser, served, "light", pages)


def test_first_address_leads_to_the_first_page(browser: Browser, served: str, root: Path) -> None:
    first = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))["root"]
    problems: list[str] = []
    with _watched(browser, served, "light", problems) as page:
        page.goto(served)
        page.wait_for_url(f"{served}{first}.html")
    _report(problems)


@pytest.mark.parametrize(
    ("term", "expected"), [("half-space", "book/image-recovery"), ("NoiseTunnel", "book/introduction")]
)
def test_search_finds_a_term(browser: Browser, served: str, term: str, expected: str) -> None:
    problems: list[str] = []
    with _watched(browser, served, "dark", problems) as page:
        page.goto(f"{served}search.html?q={term}")
        page.wait_for_selector(f"#search-results a[href*='{expected}']")
    _report(problems)


def test_theme_button_changes_the_theme(browser: Browser, served: str) -> None:
    problems: list[str] = []
    with _watched(browser, served, "light", problems) as page:
        page.goto(f"{served}book/introduction.html")
        before = page.evaluate("document.documentElement.dataset.mode")
        page.locator("button.theme-switch-button:visible").first.click()
        page.wait_for_function("before => document.documentElement.dataset.mode !== before", arg=before)
    _report(problems)


# What axe-core finds in markup of the theme, of Sphinx and of docutils; the selector says where, and all else is ours.
NOT_OURS = {
    "region": (
        ".sidebar-primary-item *, .sidebar-primary-item",
        "the theme's sidebar has its logo outside of a landmark",
    ),
    "aria-allowed-role": (".citation", "docutils gives entries of the bibliography a role that is no longer in use"),
    "aria-deprecated-role": (".citation", "the same"),
    "aria-required-children": (".citation-list", "the same: no item of the list has the role of one"),
    "definition-list": (".sig dl", "Sphinx lists a long signature's parameters as <dd> without a <dt>"),
}
# Comparing colors takes axe-core a while for each element. Pages of the API reference have the same few kinds of
# elements, and so have listings: one page stands for all of either.
API, ONE_OF_API, LISTINGS = "book/api/", "book/api/attacks.html", "book/captum-limits.html"
COLORS, ALL_ELSE = {"runOnly": ["color-contrast"]}, {"rules": {"color-contrast": {"enabled": False}}}

VIOLATIONS = """([options, without, notOurs]) =>
  axe.run({include: [['html']], exclude: without.map(s => [s])}, {resultTypes: ['violations'], ...options})
    .then(found => found.violations.flatMap(v => v.nodes
      .filter(n => !(v.id in notOurs && document.querySelector(n.target.at(-1))?.matches(notOurs[v.id])))
      .map(n => `${v.id}: ${n.html.slice(0, 90)} ${n.failureSummary.split('\\n').at(-1)}`)))"""


def _barriers(page: Page, options: dict[str, Any], without: list[str]) -> list[str]:
    """Return what keeps somebody from reading the open page, by axe-core's rules."""
    selectors = {rule: selector for rule, (selector, _) in NOT_OURS.items()}
    return page.evaluate(VIOLATIONS, [options, without, selectors])


@contextmanager
def _without_formulas(browser: Browser, scheme: str, viewport: dict[str, int]) -> Iterator[Page]:
    """Open a window in which TeX stays as it is: thousands of elements of MathJax's would take minutes."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    context.route("**/mathjax/**", lambda route: route.abort())
    yield context.new_page()
    context.close()


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)])
def test_pages_have_no_barriers(
    browser: Browser, built_book: Path, pages: list[Document], scheme: str, viewport: dict[str, int]
) -> None:
    """By every rule of axe-core; in dark mode only colors differ, and on a phone few pages stand for all."""
    few = ("book/introduction.html", "book/rules.html", ONE_OF_API, "notebooks/residual-clipping.html", "search.html")
    problems = []
    with _without_formulas(browser, scheme, viewport) as page:
        for document in (d for d in pages if viewport == DESKTOP or d.name in few):
            colors = not document.name.startswith(API) or document.name == ONE_OF_API
            if not colors and scheme == "dark":
                continue
            page.goto((built_book / document.name).as_uri(), wait_until="load")
            page.evaluate(AXE)
            found = _barriers(page, ALL_ELSE, [".math"]) if scheme == "light" else []
            if colors:
                found += _barriers(page, COLORS, [".math"] if document.name == LISTINGS else [".math", "pre"])
            problems += [f"{document.name}: {barrier}" for barrier in found]
    _report(problems)


def test_every_barrier_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """A page with a fault of each kind must be reported with all of them."""
    (tmp_path / "faulty.html").write_text(
        """<!doctype html><html><head><title>Faults</title></head><body><main><h1>Faults</h1><h4>skipped</h4>
        <img src="x.png"><a href="#"></a><input><button></button><p style="color: #999; background: #fff">pale</p>
        <table><tr><th></th></tr><tr><td>1</td></tr></table><dl><dd>no term</dd></dl>
        <div style="overflow: auto; width: 50px; height: 20px"><p style="width: 300px">wide and wide and wide</p></div>
        </main><p>outside</p></body></html>""",
        encoding="utf-8",
    )
    with _without_formulas(browser, "light", DESKTOP) as page:
        page.goto((tmp_path / "faulty.html").as_uri())
        page.evaluate(AXE)
        found = _barriers(page, ALL_ELSE, [".math"]) + _barriers(page, COLORS, [".math", "pre"])
    rules = {barrier.partition(":")[0] for barrier in found}
    assert rules >= {
        "button-name", "color-contrast", "definition-list", "empty-table-header", "heading-order", "html-has-lang",
        "image-alt", "label", "link-name", "region", "scrollable-region-focusable",
    }, rules  # fmt: skip


# The first screen of a phone: where the heading and the beginning of the text are, and what lies over them.
FIRST_SCREEN = """() => {
  const main = document.querySelector('main');
  const shown = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility === 'visible';
  const heading = [...main.querySelectorAll('h1')].find(shown);
  const text = [...main.querySelectorAll('article p, #search-results p, p')].find(
    e => shown(e) && e.textContent.trim().length > 40 && !e.closest('nav, .admonition, figure, header'));
  const problems = [];
  for (const [name, e] of [['heading', heading], ['text', text]]) {
    if (!e) { problems.push(`it has no ${name}`); continue; }
    const lines = document.createRange();
    lines.selectNodeContents(e);
    const box = lines.getClientRects()[0], width = document.scrollingElement.clientWidth;
    if (box.top < 0 || box.bottom > innerHeight) problems.push(`the ${name} begins at ${Math.round(box.top)} px`);
    if (box.left < 0 || box.right > width + 1) problems.push(`the ${name} reaches from ${box.left} to ${box.right} px`);
    const size = getComputedStyle(e).fontSize;
    if (parseFloat(size) < 15) problems.push(`the ${name} is of ${size}`);
    for (const x of [box.left + 2, (box.left + box.right) / 2, box.right - 2]) {
      const top = document.elementFromPoint(x, (box.top + box.bottom) / 2);
      if (top && !e.contains(top) && !top.contains(e))
        problems.push(`the ${name} is under ${top.cloneNode().outerHTML}`);
    }
  }
  return problems;
}"""


def test_first_screen_of_a_phone_is_readable(browser: Browser, built_book: Path, pages: list[Document]) -> None:
    problems = []
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    for document in (d for d in pages if "/" in d.name):  # what is not a generated list
        page.goto((built_book / document.name).as_uri(), wait_until="load")
        problems += [f"{document.name}: {p}" for p in page.evaluate(FIRST_SCREEN)]
    page.set_content(
        "<main><h1>A heading</h1><p style='font-size: 10px; position: absolute; left: -50px; top: 900px'>Much too"
        " small, and nowhere near the first screen of anybody.</p></main><div style='position: fixed; inset: 0'></div>"
    )
    assert len(page.evaluate(FIRST_SCREEN)) >= 4, "a control that has every fault"
    context.close()
    _report(problems)


WITHOUT_CAPTION = {"minus.png": "the toggle of Sphinx's index of modules"}

UNCAPTIONED = """() => [...document.querySelectorAll('main article img')].filter(
  i => !(i.closest('figure')?.querySelector('figcaption')?.textContent.trim())).map(i => i.getAttribute('src'))"""


def test_every_picture_has_a_caption(browser: Browser, built_book: Path, pages: list[Document]) -> None:
    problems = []
    with _without_formulas(browser, "light", DESKTOP) as page:
        for document in pages:
            page.goto((built_book / document.name).as_uri(), wait_until="load")
            sources = page.evaluate(UNCAPTIONED)
            problems += [f"{document.name}: {s[:80]}" for s in sources if Path(s).name not in WITHOUT_CAPTION]
        page.set_content("<main><article><img src='a.png'><figure><img src='b.png'></figure></article></main>")
        assert page.evaluate(UNCAPTIONED) == ["a.png", "b.png"], "a control without captions"
    _report(problems)


def test_every_fault_of_a_page_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """The watcher itself: a page with every fault must be reported with every fault."""
    (tmp_path / "faulty.html").write_text(
        """<!doctype html><html data-theme="light"><body><main><h1>Faults</h1>
        <script src="https://example.invalid/x.js"></script><script>undefinedName()</script>
        <img src="missing.png" alt="missing"><span class="math">\\(x\\)</span>
        <p style="width: 2000px">wide</p></main></body></html>""",
        encoding="utf-8",
    )
    base = tmp_path.as_uri() + "/"
    problems: list[str] = []
    with _watched(browser, base, "light", problems) as page:
        problems += _look_at(page, base + "faulty.html", "dark")
    text = "\n".join(problems)
    for part in (
        "asks for https://example.invalid/x.js",
        "could not load https://example.invalid/x.js",
        "script error",
        "missing.png is broken",
        "is not typeset",
        "raw TeX",
        "the icons have no font",
        "the theme is 'light'",
        "at 390 px",
    ):
        assert part in text, f"{part!r} was not noticed in:\n{text}"
