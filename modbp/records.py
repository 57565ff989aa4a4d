"""The records that walkthroughs leave behind, read back, and as one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modbp.claims import LEDGER, Check, Verdict, count
from modbp.errors import InputError, first_line
from modbp.files import expand, replacing
from modbp.walkthrough import OWN_KEYS, check_writable

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, Any]
"""What `modbp.walkthrough.Walkthrough.record` returns."""

OWN_COLUMNS = ("walkthrough", "claim", "quantity", "predicted", "measured", "spread", "verdict", "numbers behind it")
"""What the columns of a table are called besides the parameters."""


def read(path: str | Path) -> Record:
    """Read the record of one run.

    Parameters
    ----------
    path : str or Path
        A JSON file, as a walkthrough writes it where its parameter `results` says.

    Returns
    -------
    dict
        `walkthrough`, `parameters`, `versions`, `verdicts`, and what the walkthrough noted besides.

    Raises
    ------
    InputError
        If the file is missing, is no JSON, holds a number that JSON does not have, or is no record.

    Examples
    --------
    >>> import tempfile
    >>> from modbp import walkthrough
    >>> page = walkthrough.begin("demo", {}, ["N1"])
    >>> _ = page.judge("N1", {"largest relative difference": (2e-7, 0.0)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     walkthrough.write_record(f"{folder}/demo.json", page.record())
    ...     read(f"{folder}/demo.json")["verdicts"]["N1"]["verdict"]
    'confirmed'
    """
    path = expand(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"the record '{path}' cannot be read ({reason}); allowed is JSON of a walkthrough.") from None
    if wrong := _fault(content):
        raise InputError(f"'{path}' is no record of a walkthrough: {wrong}; allowed is what one of them wrote.")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _fault(record: Any) -> str:
    """Return what keeps a JSON value from being a record; nothing if it is one."""
    if not isinstance(record, dict):
        return "it is no mapping"
    missing = [key for key in OWN_KEYS if key not in record]
    if missing:
        return f"it lacks {missing[0]!r}"
    name, *mappings = (record[key] for key in OWN_KEYS)
    if not isinstance(name, str) or not all(isinstance(mapping, dict) for mapping in mappings):
        return f"{', '.join(OWN_KEYS)} are not text and three mappings"
    for claim_id, judged in record["verdicts"].items():
        try:
            Verdict(judged["verdict"])
            for check in judged["checks"]:
                Check.from_json(check)
        except (KeyError, TypeError, ValueError):
            return f"its verdict on {claim_id!r} is not whole"
    return ""


def read_folder(folder: str | Path) -> dict[str, Record]:
    """Read every record of a folder.

    Parameters
    ----------
    folder : str or Path
        Its files `*.json` are all records; those whose names begin with a dot are passed over.

    Returns
    -------
    dict from str to dict
        By the file's name without its ending, in the order of these names.

    Raises
    ------
    InputError
        If the folder does not exist or has no record, or as `read`.

    Examples
    --------
    >>> read_folder("no-such-folder")
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: 'no-such-folder' is no folder; allowed is one that holds records (*.json).
    """
    folder = expand(folder)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder; allowed is one that holds records (*.json).")
    paths = sorted((path for path in folder.glob("*.json") if not path.name.startswith(".")), key=lambda p: p.stem)
    if not paths:
        raise InputError(f"the folder '{folder}' holds no record; allowed is one that holds some (*.json).")
    return {path.stem: read(path) for path in paths}


def table(
    records: Mapping[str, Record],
    *,
    parameters: Literal["differing", "all"] | Iterable[str] = "differing",
    each: Literal["quantity", "claim"] = "quantity",
) -> pd.DataFrame:
    """Return records as one table.

    Parameters
    ----------
    records : mapping from str to dict
        As `read_folder` returns them.
    parameters : {"differing", "all"} or iterable of str, default "differing"
        Which parameters get a column: those that are not the same in all records of a walkthrough, all, or those named.
        `results`, the path of the record itself, is among them only where it is named.
    each : {"quantity", "claim"}, default "quantity"
        What a row is: a predicted quantity of a claim, or a claim.

    Returns
    -------
    pandas.DataFrame
        In the order of the records, of the ledger, and of each claim's predictions. The columns are `walkthrough`, the
        parameters, `claim`, then `quantity`, `predicted` (text), `measured` and `spread` (NaN where nothing was
        measured) and `verdict`; for claims `verdict` and `numbers behind it`. A parameter that a walkthrough does
        not have is empty; several values are one text with commas.

    Raises
    ------
    InputError
        If there are no records, no record has a named parameter, or `each` is neither of the two.

    Examples
    --------
    >>> from modbp import walkthrough
    >>> def run(seed):
    ...     page = walkthrough.begin("demo", {"seed": seed}, ["N1"], seed=range(10))
    ...     _ = page.judge("N1", {"largest relative difference": (2e-7, 0.0)})
    ...     return page.record()
    >>> table({"first": run(0), "second": run(1)}, each="claim")[["seed", "claim", "verdict"]]
       seed claim    verdict
    0     0    N1  confirmed
    1     1    N1  confirmed
    """
    import pandas as pd

    if not records:
        raise InputError("there are no records; allowed are one or more.")
    if each not in ("quantity", "claim"):
        raise InputError(f"each is {each!r}; allowed are quantity, claim.")
    names = _parameters(list(records.values()), parameters)
    # A parameter may have the name of a column; two columns of one name would hide each other.
    titles = {name: f"parameter {name}" if name in OWN_COLUMNS else name for name in names}
    rows: list[dict[str, Any]] = []
    for record in records.values():
        own = {titles[name]: _cell(record["parameters"].get(name)) for name in names}
        for claim_id in sorted(record["verdicts"], key=_place):
            judged = record["verdicts"][claim_id]
            head = {"walkthrough": record["walkthrough"], **own, "claim": claim_id}
            if each == "claim":
                counts = count(Verdict(check["verdict"]) for check in judged["checks"])
                rows.append({**head, "verdict": judged["verdict"], "numbers behind it": counts})
            else:
                rows += [{**head, **_row(check)} for check in judged["checks"]]
    ends = OWN_COLUMNS[-2:] if each == "claim" else OWN_COLUMNS[2:-1]
    made = pd.DataFrame(rows, columns=["walkthrough", *titles.values(), "claim", *ends])
    for title in titles.values():
        if made[title].isna().any():  # or whole numbers would get a decimal point, for the sake of the gaps
            made[title] = pd.Series([row[title] for row in rows], dtype=object)
    return made


def _parameters(records: list[Record], wanted: str | Iterable[str]) -> list[str]:
    known = list(dict.fromkeys(name for record in records for name in record["parameters"]))
    own = [name for name in known if name != "results"]
    if wanted == "all":
        return own
    if wanted == "differing":
        found: dict[tuple[str, str], set[str]] = {}
        for record in records:
            for name, value in record["parameters"].items():
                # As text, so that lists can be compared, and 1 is not True.
                found.setdefault((record["walkthrough"], name), set()).add(json.dumps(value))
        varied = {name for (_, name), values in found.items() if len(values) > 1}
        return [name for name in own if name in varied]
    named = [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
    for name in named:
        if name not in known:
            raise InputError(f"no record has the parameter {name!r}; allowed are differing, all, {', '.join(known)}.")
    return named


def _place(claim_id: str) -> tuple[int, str]:
    return (list(LEDGER).index(claim_id) if claim_id in LEDGER else len(LEDGER), claim_id)


def _cell(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _row(kept: Mapping[str, Any]) -> dict[str, Any]:
    check = Check.from_json(kept)
    return {**vars(check), "predicted": str(check.predicted), "verdict": str(check.verdict)}


def write_table(path: str | Path, table: pd.DataFrame) -> Path:
    r"""Write a table as CSV in UTF-8, whole or not at all.

    Parameters
    ----------
    path : str or Path
    table : pandas.DataFrame

    Returns
    -------
    Path
        Where it is, absolute.

    Raises
    ------
    InputError
        If it cannot be written there.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table(f"{folder}/table.csv", pd.DataFrame({"claim": ["N1"]})).read_text()
    'claim\nN1\n'
    """
    path = check_writable(path, "the table")
    try:
        with replacing(path) as temporary:
            temporary.write_text(table.to_csv(index=False, lineterminator="\n"), encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"the table '{path}' cannot be written ({error.strerror}); allowed is where it can.") from None
    return path
