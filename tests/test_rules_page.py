"""The pages on rules: every block of code on them runs, and the walkthrough shows every method."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
import torch

import modbp
from modbp import cli, notebooks
from modbp._torchvision import torchvision
from modbp.errors import InputError

NAME = "rules-vgg16"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[str]:
    return BLOCK.findall(path.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:'has_.*is deprecated")  # PyTorch's own, as torch.compile lists its functions
@pytest.mark.parametrize("page", ["rules", "captum-limits"])
def test_every_block_of_a_page_runs(page: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom in one namespace, as a reader would; what a page states it asserts."""
    torchvision()  # the pages import it, and it may need the shim
    # Their filters and seeds are a reader's, not those of the tests that follow.
    monkeypatch.setattr("warnings.filterwarnings", lambda *args, **kwargs: None)
    found = blocks(root / "book" / f"{page}.md")
    assert found
    namespace: dict[str, object] = {}
    with torch.random.fork_rng():
        for number, block in enumerate(found, start=1):
            exec(compile(block, f"{page}.md, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", ["rules", "captum-limits"])
def test_lines_of_code_fit_the_page(page: str, root: Path) -> None:
    wide = [line for block in blocks(root / "book" / f"{page}.md") for line in block.splitlines() if len(line) > 84]
    assert wide == []


def test_the_page_of_limits_names_its_threads(root: Path) -> None:
    text = (root / "book" / "captum-limits.md").read_text(encoding="utf-8")
    links = re.findall(r"\[#(\d+)\]\(https://github\.com/([\w-]+/\w+)/issues/(\d+)\)", text)
    assert all(shown == number and repository == "meta-pytorch/captum" for shown, repository, number in links)
    assert {"485", "657", "1234", "359", "1059", "1104"} <= {number for _, _, number in links}
    assert len(links) == text.count("[#")


# The walkthrough


@pytest.fixture(scope="module")
def walkthrough() -> nbformat.NotebookNode:
    return nbformat.read(notebooks.find(NAME), as_version=4)


def test_every_method_has_its_map(walkthrough: nbformat.NotebookNode) -> None:
    shown = [m for cell in walkthrough.cells for m in re.findall(r'^show\("(\w+)"', cell.source, re.MULTILINE)]
    assert sorted(shown) == sorted(modbp.METHODS)
    assert set(modbp.METHODS) <= set(modbp.plot.NAMES)
    figures = [cell for cell in walkthrough.cells if "mystnb" in cell.metadata]
    assert len(figures) == len(modbp.METHODS)


def test_every_line_to_try_is_one_that_runs(walkthrough: nbformat.NotebookNode) -> None:
    """Built, not run: a method that has no such option says so."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    text = " ".join(cell.source for cell in walkthrough.cells if cell.cell_type == "markdown")
    lines = re.findall(r"`(modbp\.make\([^`]*?\))[.`]", text)
    assert len(lines) > 25
    given = {"modbp": modbp, "model": net, "low": 0.0, "high": 1.0, "fitted": {}, "batches": [torch.rand(9, 4)]}
    for line in lines:
        call = re.split(r"\)\s*\.", line)[0].rstrip(")") + ")"
        assert isinstance(eval(call, dict(given)), modbp.attr.ModifiedBackprop), line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"photograph": 0}, "the parameter photograph is 0; allowed is a whole number from 1 to 10000."),
        ({"n_images": "x"}, "the parameter n_images is 'x'; allowed is a whole number"),
        ({"seed": -1}, "the parameter seed is -1"),
        ({"results": "missing/record.json"}, "which does not exist; allowed is an existing folder."),
        ({"methods": "gradient"}, "the parameter 'methods' is unknown"),
    ],
)
def test_bad_values_stop_at_the_first_cell(
    given: dict[str, object],
    said: str,
    walkthrough: nbformat.NotebookNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modbp.walkthrough, "_show_plain_messages", lambda: None)
    parameters = notebooks.parameters(notebooks.find(NAME)) | given
    first = next(c for c in walkthrough.cells if c.cell_type == "code" and "walkthrough.begin" in c.source)
    with pytest.raises(InputError, match=re.escape(said)):
        exec(compile(first.source, NAME, "exec"), dict(parameters))


def test_a_photograph_that_is_not_there_stops_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cli.main(["run", NAME, "-p", "photograph", "21"]) == 2
    assert "photograph is 21; allowed is a whole number from 1 to 20." in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_random_weights_and_the_record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = {"weights": "random", "photograph": "2", "n_images": "1", "results": "record.json"}
    assert cli.main(["run", NAME, *(w for name, value in given.items() for w in ("-p", name, value))]) == 0
    assert capfd.readouterr().err == ""
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert record["walkthrough"] == NAME
    assert record["images"] == ["imagenet_01_559.jpg"]
    assert record["weights"]["source"] == "random (seed 0)"
    found = record["properties"]
    assert set(found) == set(modbp.METHODS)
    # Random weights come without biases, so that every promise of conservation is exact.
    for method in ("input_x_gradient", "lrp_z", "lrp_zplus", "deep_taylor", "excitation_bp", "deeplift_rescale"):
        assert found[method]["sum"] == pytest.approx(1, abs=1e-3), method
    assert found["contrastive_excitation_bp"]["sum"] == pytest.approx(0, abs=1e-3)
    assert abs(found["guided_backprop"]["cosine"]) > 0.9
