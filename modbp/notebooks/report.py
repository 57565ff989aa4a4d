"""An executed notebook as one HTML file that needs nothing beside it: no other file, no other host, no script."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modbp.files import replacing
from modbp.walkthrough import check_writable

_DATA = Path(__file__).parents[1] / "data"

_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/svg+xml")

_KINDS = {
    **{"thm": "theorem", "def": "definition", "lem": "lemma", "prop": "proposition", "cor": "corollary"},
    **{"rem": "remark", "law": "law", "ex": "example", "alg": "algorithm", "sec": "section", "fig": "figure"},
    **{"tab": "table", "eq": "equation"},
}
"""What the first part of a label says of its target."""

_SYMBOLS = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "theta": "θ"},
    **{"lambda": "λ", "mu": "μ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ", "omega": "ω"},
    **{"Delta": "Δ", "Sigma": "Σ", "Omega": "Ω", "sum": "Σ", "prod": "Π", "times": "×", "cdot": "·", "pm": "±"},
    **{"le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "sim": "~"},
    **{"infty": "∞", "in": "∈", "to": "→", "rightarrow": "→", "sqrt": "√", "partial": "∂", "nabla": "∇"},
    **{
        "ldots": "…",
        "dots": "…",
        "cdots": "…",
        "quad": " ",
        "top": "⊤",
        "ell": "ℓ",
        "odot": "⊙",
        "mid": "|",
        "langle": "⟨",
        "rangle": "⟩",
    },
}
"""How a formula's commands are written in plain text."""

_INLINE = re.compile(
    r"""
      \{(?P<role>[A-Za-z][\w:+.-]*)\}(?P<ticks>`+)(?P<content>.+?)(?<!`)(?P=ticks)(?!`)
    | (?P<code>(?P<fence>`+)(?!`).+?(?<!`)(?P=fence)(?!`))
    | (?P<escaped>\\[$\\`\[\]{}])
    | \$\$(?P<display>.+?)\$\$
    | \$(?=\S)(?P<formula>[^$]*?[^$\s\\])\$(?!\d)
    | (?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]
      \((?P<target>[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)(?:\{[^{}\n]*\})?
    | \[(?P<span>[^\[\]]*)\]\{[.\#][^{}\n]*\}
    | (?<=[\w)*`\ ])(?P<attributes>\{[.\#][^{}\n]*\})
    """,
    re.VERBOSE | re.DOTALL,
)

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>.*)")


ABOUT_DEFAULTS = "about-defaults"
"""The tag of cells that speak of a notebook's run at its defaults."""


def write_html(notebook: Path, output: Path, *, title: str, description: str = "", at_defaults: bool = True) -> None:
    r"""Write an executed notebook as one HTML file, whole or not at all.

    The file asks no other file or host for anything, and holds no script. Pictures are in it, with the alternative
    text and the caption that the cell's metadata give (`mystnb.image.alt`, `mystnb.figure.caption`). Code is folded.
    What only the book can show becomes plain text: directives, roles, citations and links to its other pages. So do
    formulas: `$\alpha \ge 0$` is α ≥ 0.

    Parameters
    ----------
    notebook : Path
    output : Path
    title : str
        Of the window; the heading, too, where the notebook has none of the first level.
    description : str, default ""
        One sentence, which search engines and previews show.
    at_defaults : bool, default True
        Whether the notebook ran at its defaults. If not, what it says of that run is left out: cells tagged
        `about-defaults`, and alternative texts, in whose place each picture is described by what it shows and by its
        caption.

    Raises
    ------
    InputError
        If the output cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from modbp.notebooks import find
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_html(find("csc-vgg16"), Path(folder, "report.html"), title="Convergence")
    ...     "<title>Convergence</title>" in Path(folder, "report.html").read_text(encoding="utf-8")
    True
    """
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    output = check_writable(output, "the report")
    found = nbformat.read(notebook, as_version=4)
    if not at_defaults:
        found.cells = [cell for cell in found.cells if ABOUT_DEFAULTS not in cell.metadata.get("tags", [])]
    hidden = {"remove_cell_tags": {"remove-cell"}, "remove_all_outputs_tags": {"remove-output"}}
    exporter = HTMLExporter(
        template_file=str(_DATA / "report.html.j2"),
        exclude_anchor_links=True,
        config=Config({"TagRemovePreprocessor": hidden | {"remove_input_tags": {"remove-input"}}}),
    )
    exporter.register_filter("plain", plain)
    exporter.register_filter("picture", lambda bundle: bundle.get("picture"))
    said: set[str] = set()
    for cell in found.cells:
        if cell.cell_type == "code":
            _describe_pictures(cell, at_defaults)
            _leave_out_said(cell, said)
    report = {
        "title": title,
        "description": description,
        "style": (_DATA / "report.css").read_text(encoding="utf-8"),
    }
    html, _ = exporter.from_notebook_node(found, {"report": report})
    with replacing(output) as temporary:
        temporary.write_text(_finish(html, title), encoding="utf-8")


@dataclass(frozen=True)
class _Shown:
    """A picture as the template needs it."""

    address: str
    alternative: str
    caption: str


def _describe_pictures(cell: Any, at_defaults: bool) -> None:
    """Give each output of a code cell that holds a picture its address, its alternative text and its caption."""
    given = cell.metadata.get("mystnb", {})
    caption = str(given.get("figure", {}).get("caption", ""))
    alternative = str(given.get("image", {}).get("alt", "")) if at_defaults else ""
    shown = [o for o in cell.outputs if any(kind in o.get("data", {}) for kind in _PICTURES)]
    for number, output in enumerate(shown, 1):
        kind = next(kind for kind in _PICTURES if kind in output.data)
        data = output.data[kind]
        content = base64.b64encode(data.encode()).decode() if kind == "image/svg+xml" else "".join(data.split())
        said = output.data.get("text/plain", "").strip().strip("<>")
        described = alternative or ". ".join(part for part in (said, caption) if part)
        described = described or "A picture without a description"
        if len(shown) > 1:
            described = f"{described} ({number} of {len(shown)})"
        output["picture"] = _Shown(
            f"data:{kind};base64,{content}", plain(described), caption if number == len(shown) else ""
        )


def _leave_out_said(cell: Any, said: set[str]) -> None:
    """Leave out of a code cell's notes those that were said before; warnings come once for each call."""
    for output in cell.outputs:
        if output.get("name") == "stderr":
            lines = list(dict.fromkeys(output.text.splitlines()))
            output.text = "\n".join(line for line in lines if line not in said)
            said.update(lines)


def _finish(html: str, title: str) -> str:
    """Return the page with a heading, and with tables that scroll by themselves and have no empty headings."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup(html, "html.parser")
    (main,) = page.select("main")
    for style in page.select("main style"):  # pandas' own, which knows nothing of a dark page
        style.decompose()
    for script in page.select("script"):
        script.decompose()
    if main.h1 is None:
        heading = page.new_tag("h1")
        heading.string = title
        main.insert(0, heading)
    for number, table in enumerate((t for t in page.select("table") if t.find_parent("table") is None), 1):
        frame = page.new_tag("div", attrs={"class": "scroll", "role": "group", "tabindex": "0"})
        frame["aria-label"] = f"Table {number}"
        table.wrap(frame)
        del table["border"]
    for corner in page.select("th"):
        if not corner.get_text(strip=True):
            corner.name = "td"
    return f"{page}\n"


def plain(text: str) -> str:
    r"""Return Markdown without what only the book can show: directives, roles, formulas, and links to its pages.

    Parameters
    ----------
    text : str
        MyST Markdown.

    Returns
    -------
    str
        Markdown.

    Examples
    --------
    >>> print(plain("{term}`Maps <saliency map>` as {cite:t}`sixt2020` has them, with $\\beta=0$; see [rules](r.md)."))
    Maps as Sixt (2020) has them, with `β=0`; see rules.
    """
    lines = text.splitlines()
    pieces: list[str] = []
    prose: list[str] = []

    def flush() -> None:
        if prose:
            pieces.append(_INLINE.sub(_without_markup, "\n".join(prose)))
            prose.clear()

    at = 0
    while at < len(lines):
        opened = _FENCE.fullmatch(lines[at])
        if not opened:
            if not re.fullmatch(r"\([\w:.-]+\)=\s*|%( .*)?", lines[at]):  # a label; a comment
                prose.append(lines[at])
            at += 1
            continue
        flush()
        end = _closing(lines, at, opened["fence"])
        pieces.append(_block(lines[at : end + 1], opened["info"].strip(), lines[at + 1 : end]))
        at = end + 1
    flush()
    return "\n".join(pieces)


def _closing(lines: Sequence[str], at: int, fence: str) -> int:
    """Return the number of the line that closes a fence; one past the last where none does."""
    closing = re.compile(rf" *{re.escape(fence[0])}{{{len(fence)},}}\s*")
    return next((i for i in range(at + 1, len(lines)) if closing.fullmatch(lines[i])), len(lines))


def _block(whole: Sequence[str], info: str, inner: Sequence[str]) -> str:
    """Return a fenced block as Markdown: code as it is, and a directive as what it says."""
    directive = re.fullmatch(r"\{([\w:.-]+)\}\s*(.*)", info)
    if not directive:
        return plain("\n".join(inner)) if whole[0].lstrip().startswith(":") else "\n".join(whole)
    name, argument = directive[1].rpartition(":")[2], directive[2]
    options = {}
    inner = list(inner)
    while inner and (option := re.fullmatch(r":([\w-]+):\s*(.*)", inner[0].strip())):
        options[option[1]] = option[2]
        inner.pop(0)
    body = "\n".join(inner)
    if name in ("raw", "contents", "toctree", "bibliography", "eval-rst", "index"):
        return ""
    if name in ("math", "code", "code-block", "code-cell"):
        return f"```\n{_formula(body) if name == 'math' else body}\n```"
    if name in ("figure", "image"):
        return plain(body).strip() or options.get("alt", "")
    heading = name.replace("-", " ").capitalize() if name != "admonition" else ""
    heading = ": ".join(part for part in (heading, _INLINE.sub(_without_markup, argument)) if part)
    quoted = f"**{heading}.**\n\n{plain(body)}".strip()
    return "\n" + "\n".join(f"> {line}".rstrip() for line in quoted.splitlines()) + "\n"


def _without_markup(match: re.Match[str]) -> str:
    if match["role"]:
        return _role(match["role"], " ".join(match["content"].split()))
    if match["code"] or match["escaped"]:
        return match[0]
    if match["display"]:
        return f"\n```\n{_formula(match['display'])}\n```\n"
    if match["formula"]:
        return f"`{_formula(match['formula'])}`"
    if match["attributes"]:
        return ""
    if match["span"]:
        return _INLINE.sub(_without_markup, match["span"])
    text = _INLINE.sub(_without_markup, match["text"])
    outside = re.match(r"https?://|mailto:", match["target"]) is not None
    if match["image"]:
        return match[0] if match["target"].startswith(("data:", "attachment:")) else text
    return f"[{text}]({match['target']})" if outside else text


def _role(name: str, content: str) -> str:
    if name.startswith("cite"):
        return _citation(content, in_text=name.endswith(":t"))
    titled = re.fullmatch(r"(.+?)\s*<([^<>]+)>", content)
    if titled:
        return titled[1]
    last = name.rpartition(":")[2]
    if last == "math":
        return f"`{_formula(content)}`"
    if last in ("ref", "numref", "eq"):
        kind, _, rest = content.partition("-")
        return f"{_KINDS[kind]} “{rest.replace('-', ' ')}”" if kind in _KINDS and rest else content.replace("-", " ")
    if last == "doc":
        return content.rpartition("/")[2].replace("-", " ")
    if last in ("func", "class", "meth", "mod", "obj", "attr", "data", "code", "samp", "command"):
        return f"`{content.rpartition('.')[2] if content.startswith('~') else content}`"
    return content


def _citation(keys: str, in_text: bool) -> str:
    r"""Return who is cited and when, as far as the keys say it: `sixt2020` is Sixt (2020)."""
    said = []
    for key in keys.split(","):
        found = re.fullmatch(r"([a-zA-Z-]+?)[-_:]?(\d{4})\w*", key.strip())
        name, year = (found[1].capitalize(), found[2]) if found else (key.strip(), "")
        said.append((f"{name} ({year})" if in_text else f"{name} {year}") if year else name)
    return ", ".join(said) if in_text else f"({'; '.join(said)})"


def _formula(tex: str) -> str:
    """Return a formula as plain text: Greek letters and signs by themselves, without groups and fonts."""
    text = re.sub(r"\\[td]?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", tex.strip())
    text = re.sub(
        r"\\(?:mathrm|mathbf|mathbb|mathcal|text|operatorname|left|right|bigl|bigr|,|;|!)(?![A-Za-z])", "", text
    )
    text = re.sub(r"\\([A-Za-z]+)", lambda m: _SYMBOLS.get(m[1], m[1]), text)
    text = re.sub(r"\{([^{}]*)\}", lambda m: m[1] if len(m[1]) <= 1 else f"({m[1]})", text)
    return re.sub(r"\\(.)", r"\1", text).replace("`", "'")
