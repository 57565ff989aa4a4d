"""Run a walkthrough with other parameters: papermill, with the checks that it leaves to its caller.

papermill passes a misspelled parameter over, passes "abc" where a number is meant, and leaves a half-run notebook
behind when a cell fails. Here all of these stop with one sentence.
"""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modbp.errors import InputError, UnsupportedModelError, first_line
from modbp.files import replacing
from modbp.walkthrough import check_writable

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
"""Where the walkthroughs are in a clone of the repository."""

QUIET_KERNEL = ("--IPKernelApp.log_level=CRITICAL",)
"""Options of a kernel that does not write into the user's terminal of its transport and of how it was stopped."""


class NotebookError(RuntimeError):
    """A cell of a walkthrough failed; the message names the notebook, the cell and what went wrong."""


def find(name: str) -> Path:
    """Return the path of a walkthrough.

    Parameters
    ----------
    name : str
        The name of one in the repository's `notebooks/`, or the path of any notebook.

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
    known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.ipynb"))) or "none here, but the path of a notebook"
    raise InputError(f"the walkthrough {name!r} does not exist; allowed are {known}.")


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
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        inspected = papermill.inspect_notebook(_literal(path))
    except Exception as error:
        raise InputError(
            f"'{path}' cannot be read as a notebook ({first_line(error)}); allowed is a Jupyter notebook."
        ) from None
    try:
        return {name: ast.literal_eval(row["default"]) for name, row in inspected.items()}
    except (ValueError, SyntaxError):
        raise InputError(f"a parameter of '{path}' is computed; allowed are plain numbers, text and lists.") from None


def _literal(path: Path) -> str:
    """Write a path so that papermill, which fills parameters into {braces}, leaves it as it is."""
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
    for name in given:
        if name not in defaults:
            raise InputError(f"{path.stem} has no parameter {name!r}; allowed are {', '.join(defaults) or 'none'}.")
    return {name: _as_type_of(defaults[name], name, text) for name, text in given.items()}


def _as_type_of(default: Any, name: str, text: str) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"the parameter {name} is {text!r}; allowed is true or false.")
        return text.lower() == "true"
    kind, words = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"the parameter {name} is {text!r}; allowed is {words}, such as {default}.") from None


def run(
    path: Path,
    output: Path,
    given: Mapping[str, Any] | None = None,
    *,
    cwd: Path | None = None,
    progress: bool | dict[str, Any] = False,
) -> None:
    """Execute a notebook and write the executed copy, whole or not at all.

    Parameters
    ----------
    path : Path
        The notebook.
    output : Path
        Where the executed copy goes; its folder must exist.
    given : mapping from str to any, optional
        Parameters in place of the defaults.
    cwd : Path, optional
        The working folder of the notebook; by default the caller's.
    progress : bool or dict, default False
        Show papermill's progress bar over the cells; a dict holds options for tqdm.

    Raises
    ------
    InputError
        If the output cannot be written, or a cell refuses a parameter; a note then says which cell.
    NotebookError
        If a cell fails.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    output = check_writable(output, "the output")
    if output.resolve() == path.resolve():
        raise InputError(f"the output '{output}' is the notebook itself; allowed is another file.")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    try:
        with replacing(output) as temporary:
            papermill.execute_notebook(
                _literal(path),
                _literal(temporary),
                parameters=dict(given or {}),
                kernel_name="python3",
                # papermill's own `cwd` would move this whole process, and with it what runs in other threads.
                resources={"metadata": {"path": str((cwd or Path()).absolute())}},
                extra_arguments=list(QUIET_KERNEL),
                progress_bar=progress,
            )
    except PapermillExecutionError as error:
        if error.ename in {InputError.__name__, UnsupportedModelError.__name__}:
            mistake = InputError(error.evalue)
            mistake.add_note(f"cell [{error.exec_count}]")
            raise mistake from None
        raise NotebookError(_explain(path, error)) from None
    except DeadKernelError:
        raise NotebookError(f"{path.stem} failed: its kernel died, perhaps for want of memory.") from None


def notes(path: Path) -> list[str]:
    """Return what an executed notebook wrote to its standard error: the names of pictures that it left out, say.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of str
        The lines.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return [line for o in outputs if o.get("name") == "stderr" for line in o["text"].splitlines() if line.strip()]


def _explain(path: Path, error: Any) -> str:
    lines = [line for line in str(error.source).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    first = lines[0].strip() if lines else ""
    return f"{path.stem} failed in cell [{error.exec_count}], which begins “{first}”: {error.ename}: {error.evalue}"


def interactive() -> bool:
    """Return whether someone watches standard error.

    Examples
    --------
    >>> interactive() in (True, False)
    True
    """
    return sys.stderr.isatty()
