"""Execute walkthroughs, one or several side by side, and tell a finished run from another one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from modbp import __version__
from modbp.errors import InputError, UnsupportedModelError, first_line
from modbp.files import replacing
from modbp.notebooks.reading import cells, literal, parameters
from modbp.walkthrough import check_writable

Key = TypeVar("Key", bound=Hashable)

QUIET_KERNEL = ("--IPKernelApp.log_level=CRITICAL",)
"""Options of a kernel that does not write into the user's terminal of its transport and of how it was stopped."""

MARK = "modbp"
"""The key in an executed copy's metadata under which stands which run it finished; see `is_finished`."""


class NotebookError(RuntimeError):
    """A cell of a walkthrough failed; the message names the notebook, the cell and what went wrong."""


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

    def manager(self, log: IO[bytes]) -> type:
        """Return the class of kernel managers that nbclient is to use.

        Parameters
        ----------
        log : binary file
            Takes what the process of a kernel itself writes, which is no output of a cell: why it could not start, say,
            or what goes wrong between sockets that are closed as it ends (zeromq/libzmq, issue 1307).

        Returns
        -------
        type
        """
        from jupyter_client.manager import AsyncKernelManager

        kernels = self

        class Manager(AsyncKernelManager):
            async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
                if kernels._environment is not None:
                    options["env"] = kernels._environment
                options |= {"stdout": log, "stderr": log}
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
            with _log_of_a_kernel() as log:
                executed = papermill.execute_notebook(
                    literal(path),
                    literal(temporary),
                    parameters=dict(given or {}),
                    kernel_name="python3",
                    # papermill's own `cwd` would move this whole process, and with it what runs in other threads.
                    resources={"metadata": {"path": str((cwd or Path()).absolute())}},
                    extra_arguments=list(QUIET_KERNEL),
                    kernel_manager_class=(kernels or Kernels()).manager(log),
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


@contextmanager
def _log_of_a_kernel() -> Iterator[IO[bytes]]:
    """Yield a file for what the process of a kernel writes, and show it if the kernel dies: it may say why."""
    with tempfile.TemporaryFile() as log:
        try:
            yield log
        except RuntimeError:  # of jupyter_client and nbclient; that of a cell is none
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise


def _version(file: Path | None) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None where there is none."""
    if file is None or not file.is_file():
        return None
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def _mark(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells one run from another: the notebook's text, the parameters and this package's version."""
    chosen = {name: value for name, value in (parameters(path) | dict(given)).items() if name != "results"}
    text = json.dumps(cells(path), ensure_ascii=False)
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
    >>> from modbp.notebooks import find
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
