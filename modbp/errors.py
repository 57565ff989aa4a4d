"""The errors that a user can mend."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


class InputError(ValueError):
    """What was asked for cannot be done; the message is one sentence that says what was given and what is allowed.

    Command-line tools and walkthroughs print the sentence alone, without a traceback.
    """


class UnsupportedModelError(InputError):
    """A rule has no meaning for something that the model computes, so its map would be silently wrong."""


def first_line(error: object) -> str:
    r"""Return what another library's error says, short enough to stand inside a sentence of ours.

    Parameters
    ----------
    error : object
        An exception, or its reason.

    Returns
    -------
    str
        Its first line, without a full stop, of at most 120 characters; its type's name where it says nothing.

    Examples
    --------
    >>> first_line(OSError("no route.\nmore")), first_line(EOFError())
    ('no route', 'EOFError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:120]


def nearest(name: str, known: Collection[str]) -> str:
    """Return the question which of the known names was meant, or nothing where none is near.

    Parameters
    ----------
    name : str
        What was given.
    known : collection of str

    Returns
    -------
    str
        To stand behind the name in a sentence.

    Examples
    --------
    >>> nearest("gradeint", ["gradient", "lrp_z"]), nearest("xyz", ["gradient"])
    (' (did you mean gradient?)', '')
    """
    near = get_close_matches(name, known, n=3) or [k for k in known if len(name) > 2 and name in k][:3]
    return f" (did you mean {' or '.join(near)}?)" if near else ""
