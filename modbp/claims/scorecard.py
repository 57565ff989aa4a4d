"""The scorecard: every claim of the ledger with the verdict that a record holds, and what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modbp.claims.judging import overall
from modbp.claims.ledger import LEDGER, find
from modbp.claims.predictions import Check, Claim, Verdict, check
from modbp.errors import InputError


@dataclass(frozen=True)
class Row:
    """One claim, as measured.

    Parameters
    ----------
    claim : Claim
    walkthrough : str
        The name of the page that judges it.
    checks : tuple of Check
        Every predicted number beside the measured one, in the ledger's order.
    weights : tuple of str
        Which weights the numbers rest on.
    images : tuple of str
        The names of the images that they rest on; empty where there are none.
    """

    claim: Claim
    walkthrough: str
    checks: tuple[Check, ...]
    weights: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict on the claim as a whole."""
        return overall(c.verdict for c in self.checks)


def scorecard(records: Mapping[str, Mapping[str, Any]], *, whole: bool = True) -> list[Row]:
    """Return the rows of the scorecard from the records of walkthroughs.

    Verdicts are not copied: each measured number is compared with the ledger's prediction again.

    Parameters
    ----------
    records : mapping from str to record
        By any name; as `modbp.walkthrough.Walkthrough.record` makes them and `modbp.records.read_folder` reads them.
    whole : bool, default True
        Every claim of the ledger must have a verdict.

    Returns
    -------
    list of Row
        In the ledger's order.

    Raises
    ------
    InputError
        If a claim has no verdict or two, a verdict no claim, or a record holds other quantities, predictions or
        verdicts than follow from the ledger: then it was written under another ledger, or edited.

    Examples
    --------
    >>> from modbp.walkthrough import begin
    >>> page = begin("demo", {}, ["N1"])
    >>> _ = page.judge("N1", {"largest relative difference": (2e-7, 0.0)})
    >>> [row] = scorecard({"demo": page.record()}, whole=False)
    >>> row.claim.id, row.walkthrough, row.verdict.value
    ('N1', 'demo', 'confirmed')
    """
    rows: dict[str, Row] = {}
    for record in records.values():
        for claim_id, judged in record["verdicts"].items():
            name = record["walkthrough"]
            if claim_id in rows:
                raise InputError(
                    f"claim {claim_id} has a verdict by {rows[claim_id].walkthrough} and by {name}; allowed is one."
                )
            checks = tuple(_checks(find(claim_id), judged, name))
            rows[claim_id] = Row(find(claim_id), name, checks, _weights(record), tuple(record.get("images", ())))
    missing = [claim_id for claim_id in LEDGER if claim_id not in rows]
    if whole and missing:
        raise InputError(f"claim {missing[0]} has no verdict in these records; each claim of the ledger needs one.")
    return [rows[claim_id] for claim_id in LEDGER if claim_id in rows]


def _checks(claim: Claim, judged: Mapping[str, Any], name: str) -> Iterator[Check]:
    written = {row["quantity"]: row for row in judged["checks"]}
    if list(written) != list(claim.predictions):
        raise InputError(
            f"the record of {name} holds other quantities for claim {claim.id} than the ledger; run {name} again."
        )
    for quantity, predicted in claim.predictions.items():
        kept = Check.from_json(written[quantity])
        found = check(quantity, predicted, kept.measured, kept.spread)
        if (kept.predicted, kept.verdict) != (found.predicted, found.verdict):
            raise InputError(
                f"the record of {name} has another prediction or verdict for {quantity!r} of claim {claim.id} than"
                f" follows from the ledger; run {name} again."
            )
        yield found


def _weights(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sources under the record's `weights`: one description of a network, several, or several by name."""

    def sources(fact: Any) -> Iterator[str]:
        if isinstance(fact, str):
            yield fact
        elif isinstance(fact, Mapping):
            yield from [fact["source"]] if "source" in fact else sources(list(fact.values()))
        else:
            for part in fact or ():
                yield from sources(part)

    return tuple(dict.fromkeys(sources(record.get("weights"))))
