"""Run a walkthrough with other parameters: papermill, with the checks that it leaves to its caller.

papermill passes a misspelled parameter over, passes "abc" where a number is meant, and leaves a half-run notebook
behind when a cell fails. Here all of these stop with one sentence.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from modbp import __version__, walkthrough
from modbp.errors import InputError, UnsupportedModelError, first_line
from modbp.files import replacing
from modbp.walkthrough import Allowed, check_parameters, check_writable

Key = TypeVar("Key", bound=Hashable)

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
"""Where the walkthroughs are in a clone of the repository."""

QUIET_KERNEL = ("--IPKernelApp.log_level=CRITICAL",)
"""Options of a kernel that does not write into the user's terminal of its transport and of how it was stopped."""

MARK = "modbp"
"""The key in an executed copy's metadata under which stands which run it finished; see `is_finished`."""


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
    known = [path.stem for path in known_walkthroughs()]
    allowed = "are the names that 'modbp list' prints, and the path" if known else "is the path"
    raise InputError(
        f"the walkthrough {name!r} does not exist{_nearest(Path(name).stem, known)}; allowed {allowed} of a notebook."
    )


def known_walkthroughs() -> list[Path]:
    """Return the paths of all walkthroughs of the repository, by name.

    Returns
    -------
    list of Path

    Examples
    --------
    >>> known_walkthroughs()[0].stem
    'adversarial'
    """
    return sorted(FOLDER.glob("*.ipynb"))


def _nearest(name: str, known: Collection[str]) -> str:
    """Return the question which of the known names was meant, or nothing where none is near."""
    near = get_close_matches(name, known, n=3) or [k for k in known if len(name) > 2 and name in k][:3]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


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
    found: dict[str, Any] = papermill.inspect_notebook(_literal(path))
    return found


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
    _check_names(path, given, defaults)
    return {name: _as_type_of(defaults[name], name, text) for name, text in given.items()}


def _check_names(path: Path, given: Collection[str], defaults: Collection[str]) -> None:
    for name in given:
        if name not in defaults:
            raise InputError(
                f"{path.stem} has no parameter {name!r}{_nearest(name, defaults)};"
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
    lines = [line for kind, source in _cells(path) if kind == "markdown" for line in source.splitlines()]
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), "")


def _cells(path: Path) -> list[tuple[str, str]]:
    """Return the kind and the source of each cell."""
    return _cells_of(path.read_bytes())


@lru_cache(maxsize=8)
def _cells_of(content: bytes) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(content).get("cells", [])]


def _begin(path: Path) -> ast.Call | None:
    """Return the call of `walkthrough.begin` in a notebook."""
    for kind, source in _cells(path):
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
    words |= {"walkthrough": SimpleNamespace(Several=walkthrough.Several), "__builtins__": {}}
    ranges: dict[str, Allowed] = {}
    for keyword in call.keywords if call else []:
        if keyword.arg not in (None, "claims", "name", "given"):
            try:
                ranges[str(keyword.arg)] = eval(ast.unparse(keyword.value), words)
            except Exception:  # it computes with what only a run imports, or is wrong, which the run will say
                continue
    return ranges


class Kernels:
    """The kernels of runs that go on at the same time, so that all can be stopped at once.

    Parameters
    ----------
    environment : mapping from str to str, optional
        Their environment variables; by default this process's.

    Examples
    --------
    >>> Kernels().kill()
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = None if environment is None else dict(environment)
        self._lock = threading.Lock()
        self._managers: list[Any] = []
        self._stopped = False

    def manager(self) -> type:
        """Return the class of kernel managers that nbclient is to use."""
        from jupyter_client.manager import AsyncKernelManager

        kernels = self

        class Manager(AsyncKernelManager):
            async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
                if kernels._environment is not None:
                    options["env"] = kernels._environment
                await super().start_kernel(**options)
                with kernels._lock:
                    kernels._managers.append(self)
                    if kernels._stopped:  # meanwhile
                        kernels._kill_one(self)

        return Manager

    def kill(self) -> None:
        """Kill every kernel, with what it has started, and each that still starts."""
        with self._lock:
            self._stopped = True
            for manager in self._managers:
                self._kill_one(manager)

    @staticmethod
    def _kill_one(manager: Any) -> None:
        process = getattr(manager.provisioner, "process", None)
        if process is None or process.poll() is not None:
            return
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)  # a kernel leads a group of its own


def side_by_side(
    tasks: Mapping[Key, Callable[[], None]],
    kernels: Kernels,
    *,
    jobs: int = 1,
    ended: Callable[[Key, BaseException | None], None],
) -> None:
    """Call functions that run notebooks, several at a time, each in a thread; if interrupted, kill their kernels.

    The main thread only waits: it is the one that signals reach, and an event loop of nbclient's that is interrupted
    midway leaves its kernel behind.

    Parameters
    ----------
    tasks : mapping from key to callable
        Each runs a notebook with `kernels`.
    kernels : Kernels
    jobs : int, default 1
        How many at a time.
    ended : callable
        Called in the main thread with a key and what its function raised, or None.

    Raises
    ------
    KeyboardInterrupt
        After the kernels died and the functions came back.

    Examples
    --------
    >>> side_by_side({"a": lambda: None}, Kernels(), ended=lambda key, error: print(key, error))
    a None
    """
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(task): key for key, task in tasks.items()}
        for future in as_completed(futures):
            ended(futures[future], future.exception())
    except BaseException:
        kernels.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def run(
    path: Path,
    output: Path,
    given: Mapping[str, Any] | None = None,
    *,
    cwd: Path | None = None,
    progress: bool | dict[str, Any] = False,
    record: Path | None = None,
    kernels: Kernels | None = None,
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
    record : Path, optional
        The record that the notebook itself is to write, because a parameter tells it to.
    kernels : Kernels, optional
        Where the kernel is to be known, so that another thread can kill it.

    Raises
    ------
    InputError
        If the output cannot be written, or a cell refuses a parameter; a note then says which cell.
    NotebookError
        If a cell fails, the kernel dies, or the record is not there in the end.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    output = check_writable(output, "the output")
    if output.resolve() == path.resolve():
        raise InputError(f"the output '{output}' is the notebook itself; allowed is another file.")
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    source, older = _mark(path, given or {}), _version(record)
    try:
        with replacing(output) as temporary:
            executed = papermill.execute_notebook(
                _literal(path),
                _literal(temporary),
                parameters=dict(given or {}),
                kernel_name="python3",
                # papermill's own `cwd` would move this whole process, and with it what runs in other threads.
                resources={"metadata": {"path": str((cwd or Path()).absolute())}},
                extra_arguments=list(QUIET_KERNEL),
                kernel_manager_class=(kernels or Kernels()).manager(),
                progress_bar=progress,
            )
            if record is not None and _version(record) in (None, older):
                raise NotebookError(f"{path.stem} failed: it left no record '{record}'.")
            executed.metadata[MARK] = source | _digest_of(record)
            executed.metadata.papermill.output_path = str(output)  # and not the temporary one
            nbformat.write(executed, temporary)
    except PapermillExecutionError as error:
        if error.ename in {InputError.__name__, UnsupportedModelError.__name__}:
            mistake = InputError(error.evalue)
            mistake.add_note(f"cell [{error.exec_count}]")
            raise mistake from None
        raise NotebookError(_explain(path, error)) from None
    except DeadKernelError:
        raise NotebookError(f"{path.stem} failed: its kernel died, perhaps for want of memory.") from None
    except NotebookError:
        raise
    except RuntimeError as error:  # of jupyter_client, where a kernel does not even start
        raise NotebookError(f"{path.stem} failed: {first_line(error)}.") from None
    except OSError as error:
        raise InputError(
            f"the output '{output}' cannot be written ({error.strerror or first_line(error)}); allowed is a path where"
            " it can."
        ) from None
    finally:
        # papermill notes the working folder for the time of a run; of two runs at a time, the later one restores what
        # the earlier one had noted, and the next run would be moved there.
        papermill.iorw.papermill_io.get_handler("local").cwd(None)


def _version(file: Path | None) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None where there is none."""
    if file is None or not file.is_file():
        return None
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def _mark(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells one run from another: the notebook's text, the parameters and this package's version."""
    chosen = {name: value for name, value in (parameters(path) | dict(given)).items() if name != "results"}
    text = json.dumps(_cells(path), ensure_ascii=False)
    return {"source": hashlib.sha256(text.encode()).hexdigest(), "parameters": chosen, "version": __version__}


def _digest_of(record: Path | None) -> dict[str, str]:
    return {} if record is None else {"record": hashlib.sha256(record.read_bytes()).hexdigest()}


def is_finished(path: Path, output: Path, given: Mapping[str, Any] | None = None, record: Path | None = None) -> bool:
    """Return whether an executed copy is that of a finished run of a notebook as it is now, with these parameters.

    Pictures and weights that a parameter names are not looked at: a run on files that have changed since is finished.

    Parameters
    ----------
    path : Path
        The notebook.
    output : Path
        The executed copy.
    given : mapping from str to any, optional
        Parameters in place of the defaults; where the record goes (`results`) makes no difference.
    record : Path, optional
        The record that belongs to the run; it must be as the run left it.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_finished(find("csc-vgg16"), Path("no-such-file.ipynb"))
    False
    """
    try:
        metadata = json.loads(output.read_text(encoding="utf-8"))["metadata"]
        return bool(metadata[MARK] == _mark(path, given or {}) | _digest_of(record))
    except (OSError, ValueError, KeyError, TypeError):
        return False


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
