"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modbp.errors import InputError


def expand(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder; where nobody has that name, the path as it is.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Path

    Examples
    --------
    >>> expand("a/b").name
    'b'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_checked(path: Path, sha256: str, package: str) -> bytes:
    """Return the content of a file in an installed package, if it is the one that was checked.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the content, in hexadecimal.
    package : str
        Its name and version, for the message.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        If it is another file, or there is none.

    Examples
    --------
    >>> read_checked(Path("no-such-file"), "ab" * 32, "weights 1.0")
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: the weights file 'no-such-file' has SHA-256 e3b0c44298fc…; allowed is abababababab…, so ...
    """
    content = path.read_bytes() if path.exists() else b""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(
            f"the weights file '{path}' has SHA-256 {found[:12]}…; allowed is {sha256[:12]}…, so reinstall {package}."
        )
    return content


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and rename it to `path` if all goes well.

    Parameters
    ----------
    path : Path
        In an existing folder.

    Yields
    ------
    Path
        An empty file with the same suffix. It is gone afterwards, whatever happens.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a.txt")) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [p.name for p in Path(folder).iterdir()]
    ['a.txt']
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode & 0o777  # as the umask has it, which cannot be read without being changed
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors puts a private file of its own in this one's place
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[Path]:
    """Make a folder, and keep other grids out of it until the end; it is gone again if nothing came into it.

    Parameters
    ----------
    folder : Path
        In an existing one.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    InputError
        If it cannot be made or written to, or another process has it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with owned(Path(parent, "results")) as folder:
    ...         _ = (folder / "a.txt").write_text("kept")
    ...     [path.name for path in Path(parent).iterdir()]
    ['results']
    """
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # what permissions promise, some file systems refuse
            pass
    except OSError as error:
        raise InputError(
            f"the output is '{folder}', which cannot be a folder to write to ({error.strerror}); allowed is a new or"
            " an existing folder in an existing one."
        ) from None
    try:
        with _lock(folder):
            yield folder
    finally:
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)  # a lock on the folder leaves no file, and ends with the process
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"another grid is running in '{folder}'; allowed is another folder, or to wait for it."
        ) from None
    except OSError:
        pass  # not every network's file system has locks
    try:
        yield
    finally:
        os.close(descriptor)
