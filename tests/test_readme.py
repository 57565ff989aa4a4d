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
    of = {verdict: sum(row.verdict is verdict for row in rows) for verdict in Verdict}
    stated = (
        f"{len(rows)} statements with {sum(len(row.checks) for row in rows)} predicted numbers:"
        f" {of[Verdict.CONFIRMED]} are confirmed, {of[Verdict.IN_PART]} in part, {of[Verdict.NOT_CONFIRMED]} not"
    )
    assert stated in " ".join(TEXT.split())
    assert of[Verdict.NOT_TESTABLE] == 0


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
