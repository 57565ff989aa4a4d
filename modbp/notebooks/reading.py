"""What a walkthrough says of itself, and the checks of parameters before it runs; no kernel is started here."""

from __future__ import annotations

import ast
import json
import logging
import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from modbp import walkthrough
from modbp.errors import InputError, first_line, nearest
from modbp.walkthrough import Allowed, check_parameters

_HERE = Path(__file__).resolve()
_INSTALLED, _REPOSITORY = _HERE.parents[1] / "walkthroughs", _HERE.parents[2] / "notebooks"

FOLDER = _INSTALLED if _INSTALLED.is_dir() else _REPOSITORY
"""Where the walkthroughs are: in the installed package, or in a clone of the repository."""


def find(name: str) -> Path:
    """Return the path of a walkthrough.

    Parameters
    ----------
    name : str
        The name of one of modbp's, as `modbp list` prints it, or the path of any notebook.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> find("image-recovery-vgg16").name
    'image-recovery-vgg16.ipynb'
    """
    for path in (Path(name), FOLDER / f"{name}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    known = [path.stem for path in known_walkthroughs()]
    allowed = "are the names that 'modbp list' prints, and the path" if known else "is the path"
    raise InputError(
        f"the walkthrough {name!r} does not exist{nearest(Path(name).stem, known)}; allowed {allowed} of a notebook."
    )


def known_walkthroughs() -> list[Path]:
    """Return the paths of all of modbp's walkthroughs, by name.

    Returns
    -------
    list of Path

    Examples
    --------
    >>> known_walkthroughs()[0].stem
    'adversarial'
    """
    return sorted(FOLDER.glob("*.ipynb"))


def parameters(path: Path) -> dict[str, Any]:
    """Return a notebook's parameters with their defaults.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict from str to any
        In the order of the cell tagged `parameters`.

    Raises
    ------
    InputError
        If the file is no notebook.

    Examples
    --------
    >>> parameters(find("image-recovery-vgg16"))["weights"]
    'embedded'
    """
    try:
        inspected = _inspected(path, path.read_bytes())
    except ModuleNotFoundError:  # of papermill, which is no fault of the notebook's
        raise
    except Exception as error:
        raise InputError(
            f"'{path}' cannot be read as a notebook ({first_line(error)}); allowed is a Jupyter notebook."
        ) from None
    try:
        return {name: ast.literal_eval(row["default"]) for name, row in inspected.items()}
    except (ValueError, SyntaxError):
        raise InputError(f"a parameter of '{path}' is computed; allowed are plain numbers, text and lists.") from None


@lru_cache(maxsize=8)
def _inspected(path: Path, content: bytes) -> dict[str, Any]:
    """Return what papermill finds out about a notebook's parameters; for a grid it is asked many times."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    found: dict[str, Any] = papermill.inspect_notebook(literal(path))
    return found


def literal(path: Path) -> str:
    """Return a path as text that papermill, which fills parameters into {braces}, leaves as it is.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str

    Examples
    --------
    >>> literal(Path("a{b}.ipynb"))
    'a{{b}}.ipynb'
    """
    return str(path).replace("{", "{{").replace("}", "}}")


def parse(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Return parameters that were typed as text as what the notebook's defaults are.

    Parameters
    ----------
    path : Path
        A notebook.
    given : mapping from str to str
        Names and values as typed on a command line.

    Returns
    -------
    dict from str to any

    Raises
    ------
    InputError
        If a name is unknown, or a value cannot be of its default's type.

    Examples
    --------
    >>> parse(find("image-recovery-vgg16"), {"n_images": "2", "weights": "random"})
    {'n_images': 2, 'weights': 'random'}
    """
    defaults = parameters(path)
    _check_names(path, given, defaults)
    return {name: _as_type_of(defaults[name], name, text) for name, text in given.items()}


def _check_names(path: Path, given: Collection[str], defaults: Collection[str]) -> None:
    for name in given:
        if name not in defaults:
            raise InputError(
                f"{path.stem} has no parameter {name!r}{nearest(name, defaults)};"
                f" allowed are {', '.join(defaults) or 'none'}."
            )


def _as_type_of(default: Any, name: str, text: str) -> Any:
    if isinstance(default, list | tuple):
        if not text.strip():
            raise InputError(f"the parameter {name} is {text!r}; allowed are one or more values, with commas.")
        return [_as_type_of(default[0] if default else "", name, part.strip()) for part in text.split(",")]
    if isinstance(default, str) or default is None:
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"the parameter {name} is {text!r}; allowed is true or false.")
        return text.lower() == "true"
    kind, words = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"the parameter {name} is {text!r}; allowed is {words}, such as {default}.")
    return value


def check(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters after a look at their names, and at their values as far as the notebook's text says them.

    Parameters
    ----------
    path : Path
        A notebook.
    given : mapping from str to any
        Parameters of the types that the notebook wants.

    Returns
    -------
    dict from str to any
        The same.

    Raises
    ------
    InputError
        If a name is unknown, or a value is none that the notebook's `walkthrough.begin` allows. What it computes, such
        as the names of all methods, is left to the run itself.

    Examples
    --------
    >>> check(find("image-recovery-vgg16"), {"n_images": 0})
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: the parameter n_images is 0; allowed is a whole number from 1 to 10000.
    """
    _check_names(path, given, parameters(path))
    ranges = _ranges(path)
    for name, value in given.items():
        if name in ranges:
            check_parameters({name: value}, {name: ranges[name]})
    return dict(given)


def claims(path: Path) -> list[str]:
    """Return the ids of the claims that a walkthrough judges, as its text says.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of str

    Examples
    --------
    >>> claims(find("image-recovery-vgg16"))
    ['N1', 'N9']
    """
    call = _begin(path)
    given = [k.value for k in call.keywords if k.arg == "claims"] + call.args[2:3] if call else []
    try:
        return [str(claim) for claim in ast.literal_eval(given[0])] if given else []
    except ValueError:  # it computes them
        return []


def heading(path: Path) -> str:
    """Return the first heading of a notebook: the question of a walkthrough.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
        Empty if it has none.

    Examples
    --------
    >>> heading(find("csc-vgg16"))
    'Which rules forget where they started?'
    """
    lines = [line for kind, source in cells(path) if kind == "markdown" for line in source.splitlines()]
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), "")


def cells(path: Path) -> list[tuple[str, str]]:
    """Return the kind and the source of each cell of a notebook.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of (str, str)
        Such as `("markdown", "# A question")`.

    Examples
    --------
    >>> cells(find("image-recovery-vgg16"))[1][0]
    'code'
    """
    return _cells_of(path.read_bytes())


@lru_cache(maxsize=8)
def _cells_of(content: bytes) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(content).get("cells", [])]


def _begin(path: Path) -> ast.Call | None:
    """Return the call of `walkthrough.begin` in a notebook."""
    for kind, source in cells(path):
        if kind == "code" and "begin" in source:
            try:
                nodes = list(ast.walk(ast.parse(source)))
            except SyntaxError:  # such as a line of shell
                continue
            for node in nodes:
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "walkthrough.begin":
                    return node
    return None


def _ranges(path: Path) -> dict[str, Allowed]:
    """Return what a notebook's `walkthrough.begin` allows, where that can be read off without running anything."""
    call = _begin(path)
    words: dict[str, Any] = {"range": range, "str": str, "bool": bool, "int": int, "float": float}
    kinds = SimpleNamespace(Several=walkthrough.Several, One=walkthrough.One)
    words |= {"walkthrough": kinds, "__builtins__": {}}
    ranges: dict[str, Allowed] = {}
    for keyword in call.keywords if call else []:
        if keyword.arg not in (None, "claims", "name", "given"):
            try:
                ranges[str(keyword.arg)] = eval(ast.unparse(keyword.value), words)
            except Exception:  # it computes with what only a run imports, or is wrong, which the run will say
                continue
    return ranges
