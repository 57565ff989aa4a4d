"""Sphinx extension: what search engines, messengers and screen readers are told of a page.

The description is the beginning of the page's own prose. The picture is made of the book's cover while the book is
built, so that it is never older than the cover.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image, ImageDraw, ImageFont
from sphinx.application import Sphinx

SHORTEST, LONGEST = 50, 200
WIDTH, HEIGHT, MARGIN = 1200, 630, 40
PREVIEW = "_static/social-preview.jpg"
GENERATED = {"genindex": "Index", "prf-prf": "Index of statements", "py-modindex": "Modules", "search": "Search"}
CITATION = re.compile(r"\s?\[[^\[\]]*\b\d{4}[a-z]?\]")
FUNCTION = re.compile(r"\\(max|min|cos|log|exp)\b")
SENTENCE = re.compile(r"(?<=[.?!])\s+(?=\w)(?=[^a-z])")


def description(document: nodes.document) -> str:
    """Return the first sentences of a page's prose as plain text; without citations, and without TeX."""
    said = ""
    for paragraph in document.findall(nodes.paragraph):
        if not isinstance(paragraph.parent, (nodes.section, nodes.document)):
            continue
        for sentence in SENTENCE.split(" ".join(CITATION.sub("", paragraph.astext()).split())):
            plain = FUNCTION.sub(r"\1", sentence)
            if "\\" not in plain and len(said) + len(plain) < LONGEST:
                said = f"{said} {plain}".strip()
            elif len(said) < SHORTEST:
                return f"{said} {plain}".strip()[:LONGEST].rpartition(" ")[0] + "…"
            else:
                return said
        if len(said) >= SHORTEST:
            break
    return said


def preview(cover: Image.Image, title: str) -> Image.Image:
    """Return a picture of the size that messengers show, with the title above the cover."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    width = WIDTH - 2 * MARGIN
    height = round(cover.height * width / cover.width)
    picture.paste(cover.resize((width, height), Image.Resampling.LANCZOS), (MARGIN, HEIGHT - MARGIN // 2 - height))
    size = 10.0
    while ImageFont.load_default(size + 1).getlength(title) < width:
        size += 1
    middle = (HEIGHT - MARGIN // 2 - height) / 2
    ImageDraw.Draw(picture).text((WIDTH / 2, middle), title, "#14213d", ImageFont.load_default(size), anchor="mm")
    return picture


def _draw(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        with Image.open(Path(app.srcdir) / app.config.preview_of) as cover:
            preview(cover.convert("RGB"), app.config.project).save(
                Path(app.outdir) / PREVIEW, quality=88, optimize=True
            )


def _add(app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None) -> None:
    title = re.sub("<[^>]*>", "", context.get("title") or GENERATED[page])  # escaped already
    said = escape(description(document)) if document else f"{title} of the book “{escape(app.config.project)}”"
    tags = {
        "og:title": title,
        "og:type": "website",
        "og:url": f"{app.config.html_baseurl}{page}.html",
        "og:site_name": escape(app.config.html_title),
        "og:description": said,
        "og:image": app.config.html_baseurl + PREVIEW,
        "og:image:width": str(WIDTH),
        "og:image:height": str(HEIGHT),
        "og:image:alt": escape(app.config.preview_text),
    }
    lines = [f'<meta name="description" content="{said}">', '<meta name="twitter:card" content="summary_large_image">']
    lines += [f'<meta property="{key}" content="{value}">' for key, value in tags.items()]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def _name_toggles(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Give the sidebar's toggles, which are pictures alone, a name for those who do not see them."""
    if "generate_toctree_html" not in context:
        return
    generate = context["generate_toctree_html"]
    named = '<summary aria-label="Pages below">'
    context["generate_toctree_html"] = lambda *given, **named_given: str(generate(*given, **named_given)).replace(
        "<summary>", named
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect all. `preview_of` is the path of the cover, and `preview_text` says what it shows."""
    app.add_config_value("preview_of", "", "html", str)
    app.add_config_value("preview_text", "", "html", str)
    app.connect("html-page-context", _add)
    app.connect("html-page-context", _name_toggles, priority=900)  # after the theme's
    app.connect("build-finished", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
