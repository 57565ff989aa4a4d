"""What the README says is so: its numbers, its links, its code."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from modbp import records
from modbp.claims import Verdict, scorecard

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_counts_are_those_of_the_scorecard() -> None:
    rows = scorecard(records.read_folder(ROOT / "records"))
    checks = [check for row in rows for check in row.checks]
    claims, numbers = ({v: [x.verdict for x in of].count(v) for v in Verdict} for of in (rows, checks))
    stated = (
        f"{len(rows)} statements with {len(checks)} predicted numbers. Of the numbers {numbers[Verdict.CONFIRMED]} are"
        f" confirmed, {numbers[Verdict.IN_PART]} in part, {numbers[Verdict.NOT_CONFIRMED]} not, and"
        f" {numbers[Verdict.NOT_TESTABLE]} cannot be tested here; of the statements {claims[Verdict.CONFIRMED]} are"
        f" confirmed as a whole and {claims[Verdict.IN_PART]} in part"
    )
    assert stated in " ".join(TEXT.split())
    assert sum(claims.values()) == claims[Verdict.CONFIRMED] + claims[Verdict.IN_PART]


def test_its_links_lead_to_files_and_it_leads_to_every_walkthrough() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert [link for link in links if not (ROOT / link).is_file()] == []
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pages <= set(links)


def test_its_code_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    attributions, inputs = namespace["attributions"], namespace["inputs"]
    assert isinstance(attributions, torch.Tensor)
    assert isinstance(inputs, torch.Tensor)
    assert attributions.shape == inputs.shape
