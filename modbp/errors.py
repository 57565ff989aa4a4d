"""The errors that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """What was asked for cannot be done; the message is one sentence that says what was given and what is allowed.

    Command-line tools and walkthroughs print the sentence alone, without a traceback.
    """


class UnsupportedModelError(InputError):
    """A rule has no meaning for something that the model computes, so its map would be silently wrong."""
