"""What the repository holds: finished notebooks, documented code, nothing of the machine that it was made on."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

import modbp

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "modbp").rglob("*.py"))
LARGEST_NOTEBOOK, LARGEST_FILE = 2.5e6, 8e6

# Put together here, so that this file does not hold what it looks for.
MACHINE = re.compile("|".join(f"(?<![\\w.:/-])/{name}/" for name in ("home", "root", "work", "Users", "tmp")))
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("conda", "anaconda", "org"),
        ("download", "pytorch", "org"),
    )
]

WITHOUT_EXAMPLES = {
    "modbp.errors": {"InputError", "UnsupportedModelError"},
    "modbp.notebooks.running": {"NotebookError", "run", "notes"},  # both need a kernel, or a notebook that had one
    "modbp.zoo": {"Network"},  # a protocol
    "modbp.rules.relu": {"ReLURule"},  # a protocol
    "modbp.rules.relevance": {"RelevanceRule"},  # a protocol
    "modbp.metrics.summary": {"Summary"},  # made by `summarize`
    "modbp.plot.style": {"Picture"},  # made by whatever draws
    "modbp.walkthrough": {"Walkthrough"},  # shown at `begin`, which makes it
    "modbp.images": {"Photograph", "UnusableError"},  # made by `load`, shown at `decode`
    "modbp.claims.predictions": {"Verdict", "Claim", "Check"},  # plain records, shown at `check` and `find`
    "modbp.claims.scorecard": {"Row"},  # a plain record, shown at `scorecard`
    "modbp.claims.guidance": {"Answer", "Conclusion", "Guidance"},  # shown at `answer`, `conclude` and `guide`
    # They start processes or wait for them; the page on sweeps shows them at work.
    "modbp.sweep.clusters": {"IgnoreInterrupts", "at", "make", "of_jobs", "on_this_machine"},
    "modbp.sweep.run": {"Job", "Measuring", "Running"},  # made by `run`, which has an example
    "modbp.sweep.runs": {"execute", "rows"},  # they run a whole notebook; `modbp.notebooks.run` has none either
}
"""What has no example of its own, and why that is enough."""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=nbformat.NO_CONVERT)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


def test_every_cell_was_run_from_top_to_bottom(notebook: Any) -> None:
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))


def test_no_output_is_an_error_or_a_warning(notebook: Any) -> None:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


def test_any_python_3_kernel_runs_it_and_papermill_can_change_it(notebook: Any) -> None:
    assert notebook.metadata.kernelspec.name == "python3"
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0] is code_cells(notebook)[0], "a cell before the parameters would not see them"


def test_it_holds_no_trace_of_a_run(notebook: Any) -> None:
    """Times, and papermill's notes: they would differ after every run."""
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}, "the version would differ between machines"
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "mystnb"}, cell.id
        assert not {"injected-parameters", "skip-execution"} & set(cell.metadata.get("tags", [])), cell.id


def texts(notebook: Any) -> Iterator[str]:
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            # Pictures are base64, in which any short word can occur.
            yield from (json.dumps(d) for kind, d in output.get("data", {}).items() if not kind.startswith("image/"))


def test_it_names_no_folder_of_a_machine(notebook: Any) -> None:
    assert [found.group() for text in texts(notebook) for found in MACHINE.finditer(text)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("saved to /home/me/x", True),
        ('"/tmp/x"', True),
        ("/work/main/modbp", True),
        ("https://example.org/home/index", False),
        ("book/work/x", False),
        ("~/tmp", False),
    ],
)
def test_folders_of_a_machine_are_told_from_addresses(text: str, found: bool) -> None:
    assert bool(MACHINE.search(text)) == found


def test_every_figure_has_a_caption_and_a_text_in_its_place(notebook: Any) -> None:
    names = []
    for cell in code_cells(notebook):
        if not any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})):
            assert "mystnb" not in cell.metadata, f"{cell.id} has a caption and no figure"
            continue
        described = cell.metadata.mystnb
        assert len(described.figure.caption) > 20, cell.id
        assert len(described.image.alt) > 20, cell.id
        names.append(described.figure.name)
    assert len(names) == len(set(names))
    assert names, "a walkthrough shows something"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < LARGEST_NOTEBOOK


# Tracked files


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    assert paths
    return [path for path in paths if path.is_file()]


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    assert [path.name for path in tracked if path.stat().st_size > LARGEST_FILE] == []


def test_no_tracked_file_names_a_package_registry(tracked: list[Path]) -> None:
    """An installation uses whatever index the reader's pip is set to."""
    found = []
    for path in tracked:
        if "mathjax" in path.parts:  # as its authors publish it
            continue
        content = path.read_bytes()
        if b"\0" in content:
            continue
        text = content.decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in REGISTRIES if host in text]
    assert found == []


def test_nothing_that_is_built_is_tracked(tracked: list[Path]) -> None:
    built = re.compile(
        r"(^|/)(_build|__pycache__|\.ipynb_checkpoints|\.venv|[^/]*\.egg-info)(/|$)|\.pyc$|\.run\.ipynb$"
    )
    assert [name for path in tracked if built.search(name := path.relative_to(ROOT).as_posix())] == []


# Documentation of the code


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_public_name_is_documented_with_an_example(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module says nothing of itself"
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    without = {node.name for node in public if ">>>" not in (ast.get_docstring(node) or "")}
    assert without <= WITHOUT_EXAMPLES.get(module_name(path), set())


def test_the_exceptions_exist() -> None:
    for module, names in WITHOUT_EXAMPLES.items():
        found = importlib.import_module(module)
        for name in names:
            assert ">>>" not in (inspect.getdoc(getattr(found, name)) or ""), f"{module}.{name} has an example now"


def test_what_the_package_offers_exists() -> None:
    assert len(modbp.__all__) == len(set(modbp.__all__))
    for name in modbp.__all__:
        assert getattr(modbp, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'rule'"):
        _ = modbp.rule


def test_every_module_imports() -> None:
    for module in pkgutil.walk_packages(modbp.__path__, "modbp."):
        importlib.import_module(module.name)


# What may know of what


def imports_of(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, anywhere in it but for type checkers alone."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def modbp_parts(folder: str) -> set[str]:
    """Return the parts of modbp, such as `zoo`, that the modules in one of its folders import."""
    paths = sorted((ROOT / "modbp" / folder).rglob("*.py"))
    assert paths
    names = set().union(*map(imports_of, paths))
    return {name.split(".")[1] for name in names if name.startswith("modbp.")}


def test_rules_know_nothing_of_the_rest() -> None:
    assert modbp_parts("rules") <= {"rules"}


def test_theory_does_not_use_what_it_is_to_predict() -> None:
    assert modbp_parts("theory") & {"zoo", "attr", "backward", "composite", "rules"} == set()
