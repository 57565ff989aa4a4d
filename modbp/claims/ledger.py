"""The ledger: every claim with its provenance and its predictions, by id."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modbp.claims.nie import NIE
from modbp.claims.predictions import Claim
from modbp.claims.sixt import SIXT
from modbp.claims.zheng import ZHENG
from modbp.errors import InputError

PAPERS: Mapping[str, str] = MappingProxyType(
    {
        "Sixt 2020": "Sixt, Granz and Landgraf, When Explanations Lie: Why Many Modified BP Attributions Fail",
        "Nie 2018": "Nie, Zhang and Patel, A Theoretical Explanation for Perplexing Behaviors of"
        " Backpropagation-based Visualizations",
        "Zheng 2025": "Zheng, Sang and Xu, Unifying Perplexing Behaviors in Modified BP Attributions through"
        " Alignment Perspective",
    }
)
"""The three papers, by the key that claims use."""

LEDGER: Mapping[str, Claim] = MappingProxyType({claim.id: claim for claim in (*SIXT, *NIE, *ZHENG)})
"""Every claim, by id."""


def find(claim_id: str) -> Claim:
    """Return a row of the ledger.

    Parameters
    ----------
    claim_id : str

    Returns
    -------
    Claim

    Raises
    ------
    InputError
        If there is no such claim.

    Examples
    --------
    >>> find("N9").paper
    'Nie 2018'
    """
    if claim_id not in LEDGER:
        raise InputError(f"the claim {claim_id!r} is unknown; allowed are {', '.join(LEDGER)}.")
    return LEDGER[claim_id]
