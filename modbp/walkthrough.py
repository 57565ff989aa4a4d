"""The frame of every walkthrough: its parameters, its claims, its verdicts and its record.

A walkthrough is a notebook that papermill can re-run with other parameters. Its first cell after the parameters is::

    page = walkthrough.begin("image-recovery-vgg16", globals(), claims=["N9"], n_images=range(1, 1001), results=str)

and its last one `page.close()`. Between the two it measures, and calls `page.judge` once for each claim.
"""

from __future__ import annotations

import json
import math
import os
import platform
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeGuard

from modbp import claims
from modbp.errors import InputError
from modbp.files import expand, replacing

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("modbp", "torch", "torchvision", "captum", "numpy", "pillow")
"""The packages whose versions a record holds."""

RECORDS = "MODBP_RECORDS"
"""The environment variable that names a folder for the record of every walkthrough that runs, beside `results`: the
book's records leave the parameters, and so its pages, as they are."""

OWN_KEYS = ("walkthrough", "parameters", "versions", "verdicts")
"""What a record always holds; facts have other names."""


@dataclass(frozen=True)
class Several:
    """One or more numbers, as a list or as text with commas.

    Parameters
    ----------
    each : range or (float, float)
        What each of them may be.

    Examples
    --------
    >>> check_parameters({"filters": "16, 64"}, {"filters": Several(range(1, 100))})
    namespace(filters=[16, 64])
    """

    each: range | tuple[float, float]


@dataclass(frozen=True)
class One:
    """Exactly one of several names.

    Parameters
    ----------
    names : tuple of str

    Examples
    --------
    >>> check_parameters({"budget": "quick"}, {"budget": One(("quick", "full"))})
    namespace(budget='quick')
    """

    names: tuple[str, ...]


Allowed = type | range | tuple[float, float] | Collection[str] | Several | One
"""What a parameter may be: `str`, whole numbers in a range, numbers from low to high, names out of a collection,
several numbers, or one name."""


def check_parameters(given: Mapping[str, Any], allowed: Mapping[str, Allowed]) -> SimpleNamespace:
    """Check the parameters of a walkthrough, before any long work.

    Parameters
    ----------
    given : mapping from str to any
        A notebook's globals. Besides what `allowed` names they may hold modules, functions and names with an
        underscore, but no other plain value: that is how a misspelled parameter, which papermill would pass over,
        is found.
    allowed : mapping from str to type, range, tuple or collection of str
        `str` for text; a `range` for whole numbers; `(low, high)` for numbers; a collection of names for one or more
        of them, as a list or as text with commas; `Several` for numbers in the same way; `One` for a single name.

    Returns
    -------
    types.SimpleNamespace
        The parameters by name; several names or numbers always as a list, each of them once.

    Raises
    ------
    InputError
        If a parameter is unknown, missing, of another type or out of range.

    Examples
    --------
    >>> check_parameters({"n": 3, "methods": "a, b"}, {"n": range(1, 10), "methods": ["a", "b", "c"]})
    namespace(n=3, methods=['a', 'b'])
    """
    plain = (bool, int, float, str, bytes, list, tuple, set, dict, type(None))
    shell = {"In", "Out", "exit", "quit"}
    for name, value in given.items():
        if name not in allowed and not name.startswith("_") and name not in shell and isinstance(value, plain):
            raise InputError(f"the parameter {name!r} is unknown; allowed are {', '.join(allowed)}.")
    missing = [name for name in allowed if name not in given]
    if missing:
        raise InputError(f"the parameter {missing[0]!r} is missing; allowed is {_describe(allowed[missing[0]])}.")
    return SimpleNamespace(**{name: _checked(name, given[name], allowed[name]) for name in allowed})


def _checked(name: str, value: Any, allowed: Allowed) -> Any:
    wrong = InputError(f"the parameter {name} is {value!r}; allowed is {_describe(allowed)}.")
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(allowed, range):
        if not whole or value not in allowed:
            raise wrong
        return value
    if isinstance(allowed, type):
        if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool):
            raise wrong
        return value
    if isinstance(allowed, One):
        if value not in allowed.names:
            raise wrong
        return value
    if isinstance(allowed, Several):
        numbers = [_number(part) for part in value.split(",")] if isinstance(value, str) else value
        numbers = [numbers] if whole or isinstance(value, float) else numbers
        try:
            return list(dict.fromkeys(_checked(name, number, allowed.each) for number in numbers or [None]))
        except (InputError, TypeError):
            raise wrong from None
    if _is_interval(allowed):
        low, high = allowed
        if not (whole or isinstance(value, float)) or not low <= value <= high:
            raise wrong
        return float(value)
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or any(not isinstance(n, str) or n not in allowed for n in names):
        raise wrong
    return list(dict.fromkeys(names))


def _number(text: str) -> int | float | str:
    """Return what a text says, or the text itself where that is no number."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _is_interval(allowed: Allowed) -> TypeGuard[tuple[float, float]]:
    return isinstance(allowed, tuple) and len(allowed) == 2 and not any(isinstance(end, str) for end in allowed)


def _describe(allowed: Allowed) -> str:
    if isinstance(allowed, range):
        return f"a whole number from {allowed[0]} to {allowed[-1]}"
    if isinstance(allowed, type):
        return {"str": "text", "bool": "True or False"}.get(allowed.__name__, f"of type {allowed.__name__}")
    if isinstance(allowed, One):
        return f"one of {', '.join(allowed.names)}"
    if isinstance(allowed, Several):
        return f"one or more, with commas, of {_describe(allowed.each).removeprefix('a ').replace('number', 'numbers')}"
    if _is_interval(allowed):
        return f"a number from {allowed[0]:g} to {allowed[1]:g}"
    return f"one or more, with commas, of {', '.join(map(str, allowed))}"


def begin(name: str, given: Mapping[str, Any], claims: Sequence[str], **allowed: Allowed) -> Walkthrough:
    """Check a walkthrough's parameters and set up what all of them share: seeds, figure style, tables, messages.

    Parameters
    ----------
    name : str
        The notebook's name.
    given : mapping
        The notebook's `globals()`.
    claims : sequence of str
        The ids of the claims that it judges.
    **allowed
        What each parameter may be; see `check_parameters`. A parameter `results` is the path of the JSON record, or
        empty for none; a parameter `seed` seeds PyTorch.

    Returns
    -------
    Walkthrough

    Raises
    ------
    InputError
        As `check_parameters`; or if the record could not be written where `results` says.

    Examples
    --------
    >>> page = begin("demo", {"seed": 0, "results": ""}, ["N1"], seed=range(10), results=str)
    >>> page.parameters.seed
    0
    """
    _show_plain_messages()
    parameters = check_parameters(given, allowed)
    if getattr(parameters, "results", ""):
        check_writable(parameters.results)
    if hasattr(parameters, "seed"):
        import torch

        torch.manual_seed(parameters.seed)
    return Walkthrough(name, parameters, claims)


class Walkthrough:
    """A running walkthrough; made by `begin`.

    Parameters
    ----------
    name : str
    parameters : types.SimpleNamespace
        Checked.
    claims : sequence of str
        The ids of the claims that it judges.
    """

    def __init__(self, name: str, parameters: SimpleNamespace, claim_ids: Sequence[str]) -> None:
        self.name, self.parameters = name, parameters
        self._claims = {claim_id: claims.find(claim_id) for claim_id in claim_ids}
        self._checks: dict[str, list[claims.Check]] = {}
        self._facts: dict[str, Any] = {}

    def opening(self) -> pd.DataFrame:
        """Return the table of the walkthrough's claims: what is claimed, by whom we know it, what we predict.

        Returns
        -------
        pandas.DataFrame
        """
        rows = [(c.id, c.statement, f"{c.paper}: {c.provenance}", c.expected) for c in self._claims.values()]
        return table(rows, ["claim", "statement", "provenance", "predicted"])

    def note(self, **facts: Any) -> None:
        """Keep facts for the record: which weights and images the numbers rest on, and the numbers themselves.

        Parameters
        ----------
        **facts
            JSON values; a NaN is kept as null.

        Raises
        ------
        InputError
            If a name is one that the record gives itself.
        """
        taken = [name for name in facts if name in OWN_KEYS]
        if taken:
            raise InputError(f"the fact {taken[0]!r} would hide the record's own; allowed are all but {OWN_KEYS}.")
        facts = _as_json(facts)
        json.dumps(facts)  # now, where the mistake is, and not at the end
        self._facts.update(facts)

    def judge(
        self, claim_id: str, measured: Mapping[str, tuple[float, float]], *, testable: bool = True
    ) -> pd.DataFrame:
        """Judge one of the walkthrough's claims, and return its table.

        Parameters
        ----------
        claim_id : str
        measured : mapping from str to (float, float)
            For each predicted quantity the measured number and its spread.
        testable : bool, default True
            False where the claim's conditions do not hold in this run.

        Returns
        -------
        pandas.DataFrame
            A row for each number: predicted, measured, verdict.

        Raises
        ------
        InputError
            As `modbp.claims.judge`, or if the claim is none of this walkthrough's.
        """
        if claim_id not in self._claims:
            raise InputError(f"claim {claim_id!r} is not judged here; allowed are {', '.join(self._claims)}.")
        checks = self._checks[claim_id] = claims.judge(claim_id, measured, testable=testable)
        rows = [(claim_id, *check.printed()) for check in checks]
        return table(rows, ["claim", *claims.CHECK_COLUMNS])

    def close(self) -> pd.DataFrame:
        """Write the record where the parameter `results` and the variable `MODBP_RECORDS` say; return the verdicts.

        Returns
        -------
        pandas.DataFrame
            A row for each claim: its verdict and the number of checks behind it.

        Raises
        ------
        InputError
            If a claim of this walkthrough was not judged.
        """
        forgotten = [claim_id for claim_id in self._claims if claim_id not in self._checks]
        if forgotten:
            raise InputError(f"claim {forgotten[0]} was not judged; every claim of a walkthrough gets a verdict.")
        rows = []
        for claim_id, checks in self._checks.items():
            verdicts = [c.verdict for c in checks]
            overall, counted = str(claims.overall(verdicts)), claims.count(verdicts)
            rows.append((claim_id, self._claims[claim_id].statement, overall, counted))
        record = self.record()
        if getattr(self.parameters, "results", ""):
            write_record(self.parameters.results, record)
        if folder := os.environ.get(RECORDS):
            write_record(Path(folder, f"{self.name}.json"), record)
        return table(rows, ["claim", "statement", "verdict", "numbers behind it"])

    def record(self) -> dict[str, Any]:
        """Return what a run leaves behind, as JSON values.

        Returns
        -------
        dict
            `walkthrough`, `parameters`, `versions`, `verdicts` (for each claim its verdict and every number behind
            it), and what `note` was given.
        """
        verdicts = {
            claim_id: {
                "verdict": str(claims.overall(c.verdict for c in checks)),
                "checks": [c.as_json() for c in checks],
            }
            for claim_id, checks in self._checks.items()
        }
        return {
            "walkthrough": self.name,
            "parameters": _as_json(vars(self.parameters)),
            "versions": versions(),
            "verdicts": verdicts,
            **self._facts,
        }


def means(values: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], corner: str = "method") -> pd.DataFrame:
    r"""Return a table of means: a column for each series, a row for each method.

    Parameters
    ----------
    values : mapping from str to mapping from str to Summary
        By series and method.
    names : mapping from str to str
        How the table writes a method's name.
    corner : str, default "method"
        What the rows are.

    Returns
    -------
    pandas.DataFrame

    Examples
    --------
    >>> from modbp.metrics import summarize
    >>> means({"trained": {"gradient": summarize([0.5, 0.5])}}, {}).loc["gradient", "trained"]
    '0.50\xa0±\xa00.00'
    """
    methods = list(dict.fromkeys(method for series in values.values() for method in series))
    rows = [(names.get(m, m), *(str(series[m]) if m in series else "" for series in values.values())) for m in methods]
    return table(rows, [corner, *values])


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Return the versions of Python and of packages; None for one that is not installed.

    Parameters
    ----------
    packages : iterable of str, optional

    Returns
    -------
    dict from str to str or None

    Examples
    --------
    >>> versions(["no-such-package"])["no-such-package"] is None
    True
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    r"""Write a record as JSON, whole or not at all.

    Parameters
    ----------
    path : str or Path
    record : mapping
        JSON values, without NaN or infinite numbers.

    Raises
    ------
    InputError
        As `check_writable`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_record(f"{folder}/record.json", {"a": 1})
    ...     Path(folder, "record.json").read_text()
    '{\n  "a": 1\n}\n'
    """
    path = check_writable(path)
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: str | Path, name: str = "results") -> Path:
    """Return a path for a record, if it can be written.

    Parameters
    ----------
    path : str or Path
    name : str, default "results"
        What the message calls it.

    Returns
    -------
    Path
        Absolute.

    Raises
    ------
    InputError
        If its folder does not exist or cannot be written to, or the path is a folder or a device.

    Examples
    --------
    >>> check_writable("record.json").name
    'record.json'
    """
    path = expand(path).absolute()
    if path.is_dir():
        raise InputError(f"{name} is the folder '{path}'; allowed is the path of a file.")
    if path.exists() and not path.is_file():  # to put a file in the place of /dev/null would break the machine
        raise InputError(f"{name} is '{path}', which is no plain file; allowed is the path of a file.")
    if not path.parent.is_dir():
        raise InputError(f"{name} is in '{path.parent}', which does not exist; allowed is an existing folder.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{name} is in '{path.parent}', which cannot be written to; allowed is a folder that can.")
    return path


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> pd.DataFrame:
    """Return a table as notebooks show it.

    Parameters
    ----------
    rows : sequence of tuples
    columns : sequence of str
        The first one names the rows.

    Returns
    -------
    pandas.DataFrame

    Examples
    --------
    >>> float(table([("N1", 0.5)], ["claim", "measured"]).loc["N1", "measured"])
    0.5
    """
    import pandas as pd

    pd.set_option("display.max_colwidth", None)
    table = pd.DataFrame(rows, columns=list(columns)).set_index(columns[0])
    # The name of the first column stands in the corner, or it would get a row of its own.
    return table.rename_axis(index=None, columns=columns[0])


def _show_plain_messages() -> None:
    """In a notebook, print a user's mistake as its one sentence, and a warning without the path of a source file."""
    warnings.formatwarning = lambda message, *args, **kwargs: f"Note: {message}\n"
    try:
        from IPython.core.getipython import get_ipython
    except ModuleNotFoundError:
        return
    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((InputError,), _one_sentence)


def _one_sentence(shell: Any, kind: type, error: Exception, traceback: Any, tb_offset: int | None = None) -> list[str]:
    sentence = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, sentence)
    return sentence
