"""Sweeps that end well: the same numbers wherever they are measured, each once, and with as little work as possible."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from processes import at_most, wait_for
from sweep_networks import LOG, notes, pictures

from modbp import cli, images, records
from modbp.attr import make
from modbp.errors import InputError
from modbp.metrics import alignment, csc, flipping_area, parameter_randomization, pixel_flipping, random_logit
from modbp.sweep import clusters, costs, plan, read, run, store, worker
from modbp.sweep.measures import MEASUREMENTS, Method, Sample
from modbp.sweep.plan import Grid

TESTS = str(Path(__file__).parent)
GRID: dict[str, Any] = {
    "measure": list(MEASUREMENTS),
    "methods": ["gradient", {"method": "rectgrad", "percentile": 80}],
    "networks": ["sweep_networks:tiny", "sweep_networks:residual"],
    "layers": None,
    "seeds": [0, 3],
}


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    with at_most(300):
        yield


def in_this_process(grid: dict[str, Any], folder: Path) -> pd.DataFrame:
    """What a sweep must come to, measured task by task without any cluster."""
    folder.mkdir()
    kept = store.Store(folder)
    for task in plan.plan(Grid.of(grid)).tasks():
        answer = worker.measure(task.order(1, "cpu"))
        assert answer.failed == []
        assert kept.add(answer.rows) == task.rows
    kept.flush()
    return read(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with two pictures, for this module."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        pictures(folder / "pics", 2)
        yield folder


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    return GRID | {"images": str(place / "pics")}


@pytest.fixture(scope="module")
def expected(place: Path, whole: dict[str, Any]) -> pd.DataFrame:
    return in_this_process(whole, place / "expected")


@pytest.fixture(scope="module")
def by_two(place: Path, whole: dict[str, Any]) -> pd.DataFrame:
    """The same by two workers, which note when they load a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOG, str(place / "log"))
        said: list[str] = []
        end = run.run(Grid.of(whole), place / "two", workers=2, every=0, say=said.append)
    assert end.failures == ()
    assert said[0] == "2 pictures × 2 networks × 5 measurements × 2 methods × 2 seeds"
    assert said[1] == f"4 tasks, {end.rows:,} rows: 0 done before, {end.rows:,} to do"
    assert "on 2 workers" in said[2]
    assert said[3].startswith(f"{place / 'two'} holds {end.rows:,} rows, {end.added:,} of them new in ")
    assert (end.rows, end.estimated is not None) == (end.added, True)
    return read(place / "two")


# The numbers


def test_they_are_the_same_in_this_process_and_on_two_workers(expected: pd.DataFrame, by_two: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(by_two, expected, check_exact=True)
    assert not expected["key"].duplicated().any()
    columns = ["measurement", "quantity", "network", "image", "method", "layer", "seed"]
    assert not expected.duplicated(columns).any()
    assert set(expected["measurement"]) == set(MEASUREMENTS)


def test_they_are_the_same_on_one_worker_for_a_part_of_the_grid_and_a_restart_adds_the_rest(
    place: Path, whole: dict[str, Any], expected: pd.DataFrame
) -> None:
    of_tiny = whole | {"networks": whole["networks"][:1], "measure": ["csc", "flipping"]}
    part = of_tiny | {"methods": ["gradient"], "seeds": [3]}
    folder = place / "one"
    first = run.run(Grid.of(part), folder, workers=1)
    kept = read(folder)
    same = expected[expected["key"].isin(kept["key"])].reset_index(drop=True)
    assert 0 < len(kept) == first.rows < len(expected)
    pd.testing.assert_frame_equal(kept, same, check_exact=True)
    files = {path.name: path.read_bytes() for path in (folder / store.ROWS).iterdir()}
    more = of_tiny | {"methods": of_tiny["methods"][::-1]}
    second = run.run(Grid.of(more), folder, workers=1)
    assert second.rows == first.rows + second.added
    rows = read(folder)
    pd.testing.assert_frame_equal(
        rows, expected[expected["key"].isin(rows["key"])].reset_index(drop=True), check_exact=True
    )
    assert {name: (folder / store.ROWS / name).read_bytes() for name in files} == files
    # A third call finds nothing to do, and starts nothing.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "on_this_machine", lambda workers: pytest.fail("workers were to start"))
        said: list[str] = []
        third = run.run(Grid.of(more), folder, workers=1, say=said.append)
    assert (third.added, third.rows) == (0, second.rows)
    assert f"0 tasks, {second.rows:,} rows: {second.rows:,} done before, 0 to do" in said


def test_they_are_what_the_measures_themselves_return(
    place: Path, whole: dict[str, Any], expected: pd.DataFrame
) -> None:
    picture = plan.pictures(whole["images"], 1)[0]
    model, _ = worker.load(worker.Network("sweep_networks:residual"))
    x = model.transform(images.decode("a.png", picture.path))[None]
    sample = Sample.of(model, x, picture.sha256)
    of = expected[(expected["network"] == "sweep_networks:residual") & (expected["image"] == "000.png")]
    of = of.fillna({"layer": "", "seed": -1}).set_index(["measurement", "method", "seed", "layer", "quantity"])
    of = of["value"].sort_index()

    table = csc(model, x, "gradient", n_vectors=5, seed=sample.drawn(3)).set_index("layer")
    for layer in table.index:
        assert of["csc", "gradient", 3, layer, "median"] == table["median"][layer]
        assert of["csc", "gradient", 3, layer, "p90"] == table["p90"][layer]
    table = alignment(model, x, make("rectgrad", model, percentile=80), sample.target).set_index("layer")
    found = expected[(expected["measurement"] == "alignment") & (expected["image"] == "000.png")]
    found = found[(found["network"] == "sweep_networks:residual") & (found["method"] == "rectgrad(percentile=80)")]
    assert set(found["layer"]) == set(table.index)
    for row in found[found["state"] == "fine"].itertuples():
        assert row.value == table[row.quantity][row.layer]
    table = random_logit(model, x, "gradient", controls=False, seed=sample.drawn(0)).set_index("measure")
    for measure in table.index:
        assert of["classes", "gradient", 0, "", measure] == table["value"][measure]
    table = parameter_randomization(model, x, ["gradient", "edges"], sample.target, seed=3, controls=False)
    for row in table.to_dict("records"):
        assert of["randomization", row["method"], 3, row["stage"], row["measure"]] == row["value"]
    target = torch.tensor([sample.target])
    maps = {"gradient": make("gradient", model).attribute(x, target=target)}
    curves = pixel_flipping(
        model, x, maps, target, order=["most", "least"], channels="max_absolute", seed=sample.drawn(3)
    )
    area = flipping_area(curves).set_index("method")
    for name in ("gradient", "random order", "edges"):
        assert of["flipping", name, 3, "", "separation"] == pytest.approx(area["separation"][name], abs=1e-7)


def test_what_is_drawn_depends_on_the_picture_and_the_seed_and_not_on_the_place_in_the_grid(place: Path) -> None:
    model, _ = worker.load(worker.Network("sweep_networks:tiny"))
    x = torch.zeros(1, 3, 16, 16)
    samples = [Sample.of(model, x, sha) for sha in ("aa", "bb")]
    drawn = [sample.drawn(seed) for sample in samples for seed in range(50)]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= number < 2**32 for number in drawn)
    assert Sample.of(model, x, "aa").drawn(7) == samples[0].drawn(7)


def test_a_network_is_loaded_once_in_each_process(place: Path, by_two: pd.DataFrame) -> None:
    loads = notes(place / "log", "load")
    assert os.getpid() not in loads or loads.count(os.getpid()) == 1  # for the plan
    assert loads
    assert len(loads) == len(set(loads))


def test_methods_share_forward_passes(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def passes(measure: str, methods: list[str]) -> int:
        grid = {
            "measure": measure,
            "methods": methods,
            "networks": "sweep_networks:watched",
            "images": str(place / "pics"),
        }
        task = next(plan.plan(Grid.of(grid)).tasks())
        order = task.order(1, "cpu")
        log = tmp_path / f"{measure}-{len(methods)}"
        monkeypatch.setenv(LOG, str(log))
        assert worker.measure(order).failed == []
        monkeypatch.delenv(LOG)
        return len(notes(log, "forward"))

    one_family = ["gradient", "guided_backprop", "deconvolution"]
    for measure in ("csc", "alignment"):
        assert passes(measure, one_family) == passes(measure, one_family[:1])


def test_a_method_that_fails_alone_leaves_the_others_as_they_are(
    place: Path, whole: dict[str, Any], expected: pd.DataFrame
) -> None:
    grid = whole | {"measure": ["classes"], "networks": whole["networks"][:1], "n_images": 1}
    grid["methods"] = ["gradient", "sweep_networks:failing_method", "sweep_networks:input_method"]
    (task,) = plan.plan(Grid.of(grid)).tasks()
    answer = worker.measure(task.order(1, "cpu"))
    assert {(w.method.name, reason) for w, reason in answer.failed} == {
        ("sweep_networks:failing_method", "ValueError: this method fails")
    }
    rows = pd.DataFrame(answer.rows).set_index("key")["value"]
    both = expected.set_index("key")["value"]
    known = [key for key in rows.index if key in both.index]
    assert len(known) == (1 + 2) * 2 * len(MEASUREMENTS["classes"].quantities)
    pd.testing.assert_series_equal(rows[known], both[known], check_exact=True)
    assert len(rows) == task.rows - sum(w.rows for w, _ in answer.failed)


def test_a_worker_with_another_network_or_version_refuses(place: Path, whole: dict[str, Any]) -> None:
    task = next(plan.plan(Grid.of(whole)).tasks())
    order = task.order(1, "cpu")
    other = dataclasses.replace(order.identity, weights="0" * 64)
    with pytest.raises(InputError, match="sweep_networks:tiny has other weights on the worker"):
        worker.measure(dataclasses.replace(order, identity=other))
    with pytest.raises(InputError, match=r"the worker has modbp .*; allowed is 9\.9"):
        worker.measure(dataclasses.replace(order, version="9.9"))


def test_the_estimate_counts_maps_and_forward_passes(
    place: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A map, which is a partial function, takes 2 seconds, and a forward pass half of one.
    monkeypatch.setattr(costs, "seconds_of", lambda call, device: 2.0 if isinstance(call, partial) else 0.5)
    grid = whole | {"networks": whole["networks"][:1], "methods": ["gradient"], "layers": ["4", "7"], "seeds": [0]}

    def seconds(measure: str, **change: Any) -> float:
        return costs.estimate(plan.plan(Grid.of(grid | {"measure": measure} | change)).tasks(), "cpu")

    assert seconds("csc") == 2 * (2.0 + 4 * 1.5)
    assert seconds("alignment") == 2 * 2.0
    assert seconds("classes") == 2 * (2.0 + 1.5)
    assert seconds("randomization") == 2 * 3 * 2.0
    assert seconds("flipping") == 2 * (2.0 + 3 * 16 * 0.5)
    assert seconds("csc", seeds=[0, 1], methods=["gradient", "lrp_z"]) == 4 * seconds("csc")


# The command, and other clusters


def test_a_dry_run_says_size_and_cost_and_leaves_nothing(
    place: Path, whole: dict[str, Any], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({k: v for k, v in whole.items() if v is not None}))
    assert cli.main(["sweep", str(grid), "--out", str(tmp_path / "out"), "--dry-run", "--workers", "3"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].startswith("4 tasks, ")
    assert lines[2].startswith("about ")
    assert lines[2].endswith(
        "on 3 workers, start aside, from one map of each method; it may be off by a factor of 2, or by more for"
        " networks of milliseconds"
    )
    assert not (tmp_path / "out").exists()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_scheduler_and_workers_of_their_own_that_share_no_pictures(
    place: Path, whole: dict[str, Any], expected: pd.DataFrame, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pictures are gone for the workers, which have another working folder; rows come back to the driver."""
    address = f"tcp://127.0.0.1:{free_port()}"
    python = [sys.executable, "-m"]
    options: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    processes = [subprocess.Popen([*start, "--no-dashboard"], **options)]
    try:
        for _ in range(2):
            more = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
            processes.append(subprocess.Popen([*python, "distributed.cli.dask_worker", address, *more], **options))
        grid = {k: v for k, v in whole.items() if v is not None} | {"images": "pics", "measure": ["csc"]}
        Path("grid.yaml").write_text(yaml.safe_dump(grid))
        wait_for(lambda: reachable(address))
        assert cli.main(["sweep", "grid.yaml", "--out", "remote", "--scheduler", address]) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert "for one worker like this machine" in capfd.readouterr().out
    same = expected[expected["measurement"] == "csc"].reset_index(drop=True)
    pd.testing.assert_frame_equal(read("remote"), same, check_exact=True)


def reachable(address: str) -> bool:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def test_jobs_of_a_batch_system(place: Path, whole: dict[str, Any], expected: pd.DataFrame) -> None:
    """dask-jobqueue's job scripts really run, as processes of this machine."""
    described = {"kind": "local", "jobs": 1, "cores": 1, "memory": "2GB", "local_directory": str(place / "scratch")}
    Path("jobs.yaml").write_text(yaml.safe_dump(described))
    grid = {k: v for k, v in whole.items() if v is not None} | {"measure": ["csc"], "n_images": 1}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    assert cli.main(["sweep", "grid.yaml", "--out", "jobs", "--cluster", "jobs.yaml"]) == 0
    rows = read("jobs")
    same = expected[expected["key"].isin(rows["key"])].reset_index(drop=True)
    assert len(rows) == len(same) > 0
    pd.testing.assert_frame_equal(rows, same, check_exact=True)


NOTEBOOK = """
import os
from modbp import walkthrough
page = walkthrough.begin("demo", globals(), ["N1"], n=range(1, 10), seed=range(10), results=str)
if n == 9:
    raise RuntimeError("nine")
page.judge("N1", {"largest relative difference": (n / 10, 0.0)})
page.close()
"""


def test_runs_of_a_notebook(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    defaults = nbformat.v4.new_code_cell('n = 1\nseed = 0\nresults = ""', metadata={"tags": ["parameters"]})
    notebook.cells = [defaults, nbformat.v4.new_code_cell(NOTEBOOK)]
    nbformat.write(notebook, tmp_path / "demo.ipynb")
    grid = {"notebook": "demo.ipynb", "parameters": {"seed": 2}, "grid": {"n": [1, 9]}}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    assert cli.main(["sweep", "grid.yaml", "--out", "out", "--workers", "1"]) == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines()[:2] == ["2 runs of demo", "2 tasks, 2 runs: 0 done before, 2 to do"]
    assert "demo.n=9.seed=2: demo failed in cell [" in captured.err
    assert "RuntimeError: nine" in captured.err
    assert sorted(p.name for p in Path("out/runs").iterdir()) == ["demo.n=1.seed=2.ipynb", "demo.n=1.seed=2.json"]
    table = read("out")
    assert table[["walkthrough", "run", "claim", "measured"]].values.tolist() == [
        ["demo", "demo.n=1.seed=2", "N1", 0.1]
    ]
    assert json.loads(table["parameters"][0]) == {"n": 1, "seed": 2}
    assert records.read_folder("out/runs")["demo.n=1.seed=2"]["parameters"]["n"] == 1
    # What is finished is not run again; rows that a killed driver did not write come from its record.
    for path in Path("out", store.ROWS).iterdir():
        path.unlink()
    grid["grid"]["n"] = [1]
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "on_this_machine", lambda workers: pytest.fail("workers were to start"))
        assert cli.main(["sweep", "grid.yaml", "--out", "out"]) == 0
    pd.testing.assert_frame_equal(read("out"), table)
    assert not Path("out", run.FAILURES).exists()


def test_a_method_is_made_with_its_options() -> None:
    made = Method("rectgrad", (("percentile", 80),)).made(torch.nn.Identity())
    assert made.composite.rule_for("relu").percentile == 80


def test_every_block_of_the_page_runs(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From top to bottom in one namespace, as a reader would; what the page states it asserts."""
    text = (root / "book" / "how-to-sweep.md").read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 2
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(found, start=1):
        exec(compile(block, f"how-to-sweep.md, block {number}", "exec", dont_inherit=True), namespace)
    assert "lrp_zplus  features.15    1.000" in capfd.readouterr().out
