"""The rendered book: built once, then read by a parser and by a browser.

Every test looks at all pages and reports all that is wrong with them, so that a page is covered as soon as it is in
`_toc.yml`. Everything that needs the built book is in this file: `--dist loadfile` then builds it once.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

MAX_PAGE_BYTES = 2_000_000
SCHEMES = ("light", "dark")
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
    listed = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
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


def test_every_reference_says_where_to_find_it(root: Path) -> None:
    entries = re.split(r"(?m)^@", (root / "book/references.bib").read_text(encoding="utf-8"))[1:]
    keys = [entry.partition("{")[2].partition(",")[0].strip() for entry in entries]
    problems = [f"{key} occurs twice" for key in sorted({k for k in keys if keys.count(k) > 1})]
    for key, entry in zip(keys, entries, strict=True):
        if not re.search(r"(?m)^\s*(doi|eprint|url)\s*=", entry):
            problems.append(f"{key} has neither doi nor eprint nor url")
    _report(problems)


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
