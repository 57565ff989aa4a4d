"""The how-to pages: their code runs, their command lines are ones that the command takes, what they state is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

import modbp
from modbp import __version__, cli, notebooks, records, zoo
from modbp._torchvision import torchvision
from modbp.errors import InputError

PAGES = ("how-to-run", "how-to-extend")
BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<language>\w+)\n(?P<code>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)


def blocks(page: str, root: Path, *languages: str) -> list[str]:
    text = (root / "book" / f"{page}.md").read_text(encoding="utf-8")
    return [match["code"] for match in BLOCK.finditer(text) if match["language"] in languages]


def lines(page: str, root: Path) -> list[list[str]]:
    """The command lines of a page, each in words."""
    text = "\n".join(blocks(page, root, "bash")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page: str, root: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From top to bottom in one namespace, as a reader would; what a page states it asserts."""
    torchvision()  # it may need its shim
    found = blocks(page, root, "python")
    assert found
    namespace: dict[str, Any] = {"__name__": page}
    with torch.random.fork_rng():
        for number, block in enumerate(found, start=1):
            exec(compile(block, f"{page}.md, block {number}", "exec", dont_inherit=True), namespace)
    printed = capfd.readouterr().out
    if page == "how-to-run":
        assert printed.count("not testable here") == 2 * 3 + 1  # two seeds, three quantities; one claim
        assert "image-recovery-vgg16 0 " in printed
        assert sorted(path.suffix for path in (folder / "seeds").iterdir()) == [".csv", *[".ipynb"] * 2, *[".json"] * 2]
        return
    assert printed.splitlines()[-3:] == ["confirmed", "in part", "not confirmed"]
    # The walkthrough that the page writes is one: it is listed, refuses, runs, and leaves the record that is promised.
    source = notebooks.find("my-question.ipynb")
    assert notebooks.heading(source) == "Does Deconvolution see the photograph?"
    assert notebooks.claims(source) == ["N4"]
    (measure,) = (cell for cell in nbformat.read(source, 4).cells if "mystnb" in cell.metadata)
    assert measure.metadata.mystnb.image.alt
    assert cli.main(["run", "my-question.ipynb", "-p", "filters", "0"]) == 2
    assert cli.main(["run", "my-question.ipynb", "-p", "results", "record.json"]) == 0
    checks = records.read("record.json")["verdicts"]["N4"]["checks"]
    assert [check["verdict"] for check in checks] == ["confirmed", "not testable here", "not testable here"]
    executed = nbformat.read("my-question.run.ipynb", 4)
    assert any(
        "image/" in kind for cell in executed.cells for o in cell.get("outputs", []) for kind in o.get("data", {})
    )


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_code_fit_the_page(page: str, root: Path) -> None:
    every = blocks(page, root, "python", "bash", "bibtex")
    assert [line for block in every for line in block.splitlines() if len(line) > 84] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_one_that_the_command_takes(page: str, root: Path, folder: Path) -> None:
    found = [words for words in lines(page, root) if words[0] == "modbp"]
    assert len(found) >= 3
    if page == "how-to-extend":  # the page writes this notebook
        namespace: dict[str, Any] = {}
        exec(next(block for block in blocks(page, root, "python") if "new_notebook" in block), namespace)
    for _, *arguments in found:
        options = cli.parser().parse_args(arguments)
        if options.command == "run":
            source = notebooks.find(options.walkthrough)
            notebooks.check(source, notebooks.parse(source, dict(options.parameter)))
            for name, *values in options.grid:
                assert values
                for value in values:
                    notebooks.check(source, notebooks.parse(source, {name: value}))


def test_other_command_lines_name_what_there_is(root: Path) -> None:
    others = [words for page in PAGES for words in lines(page, root) if words[0] != "modbp"]
    assert {words[0] for words in others} == {"make", "papermill", "python"}
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for words in others:
        if words[0] == "make":
            assert f"\n{words[1]}:" in makefile
            continue
        if words[0] == "papermill":
            given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
            notebooks.parse(root / words[1], given)
        for word in words:
            if "/" in word and word != "notebooks/my-question.ipynb":
                assert (root / word).is_file(), word


def test_inline_names_of_files_are_those_of_the_repository(root: Path) -> None:
    text = "".join((root / "book" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`((?:modbp|tests|notebooks|scripts)/[\w./-]*)`", text))
    assert {"modbp/rules/relevance.py", "tests/test_rules_page.py", "modbp/claims/"} <= named
    assert [name for name in named if not (root / name).exists()] == []


def test_the_walkthroughs_that_refuse_imagenet_are_those_on_the_page(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their first cells, up to the parameters' checks, on a network of ImageNet's shapes that holds no memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modbp.walkthrough, "_show_plain_messages", lambda: None)
    load = zoo.load

    def pretend(name: str = "vgg16", weights: Any = zoo.EMBEDDED, **options: Any) -> Any:
        if weights != zoo.IMAGENET:
            return load(name, weights, **options)
        with torch.device("meta"):
            network = torchvision().models.vgg16(weights=None)
        network.categories, network.source = [f"class {i}" for i in range(1000)], weights
        return network

    monkeypatch.setattr(zoo, "load", pretend)
    refusing, allowing = [], []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        parameters = notebooks.parameters(path)
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        first = next(source for source in cells if "walkthrough.begin" in source)
        # Where the network is a parameter, its weights are no longer VGG16's.
        if "weights" not in parameters or "weights=str" not in first or "model" in parameters:
            continue
        with torch.random.fork_rng():
            try:
                exec(compile(first, path.stem, "exec"), parameters | {"weights": zoo.IMAGENET})
                allowing.append(path.stem)
            except InputError as error:
                refusing.append((path.stem, "imagenet" in str(error)))
    text = (root / "book" / "how-to-run.md").read_text(encoding="utf-8")
    assert refusing == [(name, True) for name in sorted(re.findall(r"^\| \[([\w-]+)\]", text, re.MULTILINE))]
    assert "image-recovery-vgg16" in allowing
    assert "Four walkthroughs refuse it" in text
    assert len(refusing) == 4


def test_the_citations_are_the_books(root: Path) -> None:
    (given,) = blocks("how-to-extend", root, "bibtex")
    entries = {e.partition("{")[2].partition(",")[0]: " ".join(e.split()) for e in re.split(r"(?m)^@", given)[1:]}
    assert set(entries) == {"modbp", "sixt2020", "nie2018", "zheng2025"}
    own = re.split(r"(?m)^@", (root / "book" / "references.bib").read_text(encoding="utf-8"))
    for key, entry in entries.items():
        if key == "modbp":
            continue
        (source,) = (e for e in own if e.partition("{")[2].startswith(f"{key},"))
        for name in ("author", "title", "booktitle", "volume", "pages", "year"):
            values = [re.search(rf"\b{name}\s*=\s*\{{(.*?)\}}[,\s]", " ".join(e.split())) for e in (source, entry)]
            assert [v and v[1] for v in values] == [values[0] and values[0][1]] * 2, (key, name)
    cff = (root / "CITATION.cff").read_text(encoding="utf-8")
    title = re.search(r'^title: "(.*)"$', cff, re.MULTILINE)
    assert title is not None
    assert f"title = {{{title[1]}}}" in entries["modbp"]
    assert f"version = {{{__version__}}}" in entries["modbp"]


def test_the_pages_have_their_part_in_the_book(root: Path) -> None:
    toc = (root / "_toc.yml").read_text(encoding="utf-8")
    captions = re.findall(r"caption: (\S.*)", toc)
    assert captions.index("How-to") == captions.index("Walkthroughs") + 1
    part = toc.partition("caption: How-to")[2].partition("caption:")[0]
    assert [page for page in PAGES if f"book/{page}" in part] == list(PAGES)
