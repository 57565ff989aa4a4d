"""The errors that a user can mend."""

from __future__ import annotations


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
