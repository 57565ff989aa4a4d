"""Run a walkthrough with other parameters: papermill, with the checks that it leaves to its caller.

papermill passes a misspelled parameter over, passes "abc" where a number is meant, and leaves a half-run notebook
behind when a cell fails. Here all of these stop with one sentence.
"""

from modbp.notebooks.reading import FOLDER, check, claims, find, heading, known_walkthroughs, parameters, parse
from modbp.notebooks.report import write_html
from modbp.notebooks.running import (
    MARK,
    QUIET_KERNEL,
    Kernels,
    NotebookError,
    interactive,
    is_finished,
    notes,
    run,
    side_by_side,
)

__all__ = [
    "FOLDER",
    "MARK",
    "QUIET_KERNEL",
    "Kernels",
    "NotebookError",
    "check",
    "claims",
    "find",
    "heading",
    "interactive",
    "is_finished",
    "known_walkthroughs",
    "notes",
    "parameters",
    "parse",
    "run",
    "side_by_side",
    "write_html",
]
