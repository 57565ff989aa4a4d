"""Sphinx extension of the API reference: what is public, and what a name in a docstring means.

Autodoc needs help with four things:

* the docstring of a constant is in the module that defines it, and it is a package whose `__all__` offers it;
* names that are imported for type checkers alone are missing when it reads annotations;
* napoleon takes what stands before a colon in a constant's docstring for its type;
* docstrings put all code into single backticks. The default role is `py:obj`: a name of ours becomes a link, a name
  that begins with `modbp.` and does not exist is a warning, and anything else is code.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains import Domain
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc import DataDocumenter
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

PACKAGE = "modbp"
LONGEST_VALUE = 100


class ShortData(DataDocumenter):
    """A constant with its value, if that is short and no folder of the machine that built the book."""

    def should_suppress_value_header(self) -> bool:
        """Whether to leave the value out."""
        hidden = isinstance(self.object, Path) or len(repr(self.object)) > LONGEST_VALUE
        return hidden or super().should_suppress_value_header()


def modules(name: str = PACKAGE) -> Iterator[str]:
    """Yield the public modules: those without an underscore, except where a package's `__all__` speaks for them."""
    module = importlib.import_module(name)
    yield name
    for child in pkgutil.iter_modules(getattr(module, "__path__", ())):
        spoken_for = name != PACKAGE and hasattr(module, "__all__") and not child.ispkg
        offered = child.name in getattr(module, "__all__", ()) and inspect.ismodule(getattr(module, child.name))
        if not child.name.startswith("_") and (offered or not spoken_for):
            yield from modules(f"{name}.{child.name}")


def names(module: str) -> list[str]:
    """Return the public names of a module: its `__all__`, or else the classes and functions that it defines."""
    namespace = vars(importlib.import_module(module))
    own = [
        name
        for name, value in namespace.items()
        if getattr(value, "__module__", None) == module and not name.startswith("_") and callable(value)
    ]
    return list(namespace.get("__all__", own))


def _prepare(app: Sphinx) -> None:
    """Give modules the names that only type checkers see, and packages the docstrings of constants that they offer."""
    for info in pkgutil.walk_packages(importlib.import_module(PACKAGE).__path__, PACKAGE + "."):
        module = importlib.import_module(info.name)
        for statement in ast.parse(inspect.getsource(module)).body:
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                exec(compile(ast.Module(statement.body, []), info.name, "exec"), vars(module))
        docstrings = ModuleAnalyzer.for_module(info.name).find_attr_docs()
        for package in (p for p in modules() if info.name.startswith(f"{p}.")):
            offered, offers = ModuleAnalyzer.for_module(package).find_attr_docs(), importlib.import_module(package)
            for (scope, name), text in docstrings.items():
                if not scope and name in names(package) and getattr(offers, name) is getattr(module, name):
                    offered.setdefault((scope, name), text)


def _begin_with_a_comment(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking the beginning of a sentence for a type: it looks at the first line alone."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def _link(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement) -> Element | None:
    """Link a name that is documented under another module, and a capitalized one without its module if it is unique."""
    target = node.get("reftarget", "").removesuffix("()")
    module, _, name = target.rpartition(".")
    if node.get("refdomain") != "py" or not (module.startswith(PACKAGE) or (not module and name[:1].isupper())):
        return None
    same = {id(_object(entry[0])): entry for entry in _python(env).find_obj(env, "", "", name, None, 1)}
    entry = same.get(id(_object(target))) if module else next(iter(same.values())) if len(same) == 1 else None
    return entry and make_refnode(app.builder, node["refdoc"], entry[1].docname, entry[1].node_id, content, target)


def _python(env: BuildEnvironment) -> PythonDomain:
    return cast(PythonDomain, env.get_domain("py"))


def _object(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except (AttributeError, ImportError, ValueError):
        return None


def _is_code(app: Sphinx, domain: Domain, node: pending_xref) -> bool | None:
    """Whether a target that was not found is no name of ours but a piece of code."""
    return (node["reftype"] == "obj" and not re.fullmatch(rf"{PACKAGE}(\.\w+)+(\(\))?", node["reftarget"])) or None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect all of it."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(ShortData, override=True)
    app.connect("builder-inited", _prepare)
    app.connect("autodoc-process-docstring", _begin_with_a_comment, priority=400)  # before napoleon's 500
    app.connect("missing-reference", _link)
    app.connect("warn-missing-reference", _is_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
