"""Sweeps that are disturbed: nothing is lost, nothing is there twice, and what failed is named."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from processes import alive, at_most, start, wait_for
from sweep_networks import LOG, keys_of, notes, pictures

from modbp import cli
from modbp.sweep import clusters, read, run, store
from modbp.sweep.plan import Grid
from modbp.sweep.run import Failure

TESTS = str(Path(__file__).parent)
GRID: dict[str, Any] = {
    "measure": ["csc"],
    "methods": ["gradient"],
    "layers": ["input", "1"],
    "networks": ["sweep_networks:slow"],
    "images": "pics",
}


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    with at_most(300):
        yield


@pytest.fixture
def log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder where tests' networks are found, and the file where they note what happens."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv(LOG, str(folder / "log"))
    return folder / "log"


def write(**change: Any) -> dict[str, Any]:
    grid = GRID | change
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    return grid


def command(*options: str) -> list[str]:
    return ["sweep", "grid.yaml", "--out", "out", "--write-every", "0", *options]


def parts() -> list[Path]:
    return sorted(Path("out", store.ROWS).glob("part-*.parquet"))


def assert_whole(grid: dict[str, Any]) -> None:
    """Every row of the grid is there, once."""
    keys = read("out")["key"]
    assert not keys.duplicated().any()
    assert set(keys) == keys_of(grid)


def children(pid: int) -> list[int]:
    """All processes that a process has started, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def test_a_worker_that_is_killed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(Path("pics"), 6)
    grid = write()
    monkeypatch.setenv("SWEEP_TEST_SLOW", "0.1")
    killed: list[int] = []

    def kill() -> None:
        driver = os.getpid()
        wait_for(lambda: [pid for pid in notes(log, "forward") if pid != driver])
        killed.append(next(pid for pid in notes(log, "forward") if pid != driver))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    end = run.run(Grid.of(grid), "out", workers=2, every=0)
    thread.join()
    assert not alive(killed[0])
    assert end.failures == ()
    assert_whole(grid)


def test_tasks_that_fail_are_named_and_the_others_are_kept(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A task that kills its worker, one that raises, a method that fails, a picture that cannot be read."""
    folder = pictures(Path("pics"), 4, red=1)
    (folder / "damaged.png").write_bytes((folder / "000.png").read_bytes()[:60])
    grid = write(
        measure=["csc", "classes"],
        methods=["gradient", "sweep_networks:failing_method"],
        networks=["sweep_networks:killing", "sweep_networks:raising"],
        images="pics",
    )
    assert cli.main(command("--workers", "2")) == 1
    captured = capfd.readouterr()
    lines = captured.err.splitlines()
    assert all(line.startswith("modbp: ") for line in lines), captured.err
    said = "\n".join(lines)
    died = "the worker died of it each time, perhaps for want of memory (80 rows)"
    assert f"csc and classes, sweep_networks:killing, 001.png, gradient and 3 more: {died}".replace("80", "32") in said
    assert "csc and classes, sweep_networks:raising, 001.png, gradient and 3 more: RuntimeError: it saw red (" in said
    for network in ("killing", "raising"):
        line = next(line for line in lines if f"sweep_networks:{network}, damaged.png" in line)
        assert "it is no picture that Pillow can read" in line
        for picture in ("000", "002", "003"):
            what = f"classes, sweep_networks:{network}, {picture}.png, sweep_networks:failing_method"
            assert f"{what}: ValueError: this method fails (6 rows)" in said
    assert len(lines) == 2 + 2 + 6 + 1
    table = read("out")
    assert set(table["image"]) == {"000.png", "002.png", "003.png"}
    assert set(table["method"]) == {"gradient", "noise", "edges"}
    failures = pd.read_csv(Path("out", run.FAILURES))
    assert int(failures["rows"].sum()) + len(table) == len(keys_of(grid))
    assert lines[-1] == (
        f"modbp: {failures['rows'].sum()} rows failed, all of them in {Path('out').absolute() / run.FAILURES};"
        " the same command tries again."
    )
    deaths = notes(log, "killed")
    assert len(set(deaths)) == len(deaths) >= 2
    # Mended, the same command does what is left, and forgets the failures.
    files = {path: path.read_bytes() for path in parts()}
    pictures(folder, 2)
    (folder / "damaged.png").unlink()
    grid = write(measure=["csc", "classes"], networks=["sweep_networks:killing"])
    assert cli.main(command("--workers", "1")) == 0
    assert {path: path.read_bytes() for path in files} == files
    assert keys_of(grid) <= set(read("out")["key"])
    assert not Path("out", run.FAILURES).exists()


def test_a_driver_that_is_killed_leaves_no_process_and_the_same_command_goes_on(
    log: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures(Path("pics"), 6)
    grid = write()
    monkeypatch.setenv("SWEEP_TEST_SLOW", "0.2")
    process = start(*command("--workers", "2"))
    try:
        wait_for(lambda: len(parts()) >= 2)
        others = children(process.pid)
        assert len([pid for pid in set(notes(log, "forward")) if pid != process.pid and alive(pid)]) >= 1
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not any(map(alive, others)), 20)
    before = {path: path.read_bytes() for path in parts()}
    done = len(read("out"))
    assert 0 < done < len(keys_of(grid))
    left = Path("out", store.ROWS, ".part-000001-ab.0123456789abcdef.parquet")
    left.write_bytes(b"half")  # as if it had been killed while it wrote
    monkeypatch.delenv("SWEEP_TEST_SLOW")
    assert cli.main(command("--workers", "1")) == 0
    assert f": {done} done before, " in capfd.readouterr().out
    assert not left.exists()
    assert {path: path.read_bytes() for path in before} == before
    assert_whole(grid)


def test_control_c_stops_all_processes_keeps_what_came_in_and_says_one_sentence(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(Path("pics"), 30)
    write()
    monkeypatch.setenv("SWEEP_TEST_SLOW", "0.1")
    # In a group of its own: a terminal sends the signal to every process of the command.
    process = subprocess.Popen(
        [sys.executable, "-m", "modbp.cli", *command("--workers", "2")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_for(lambda: len(parts()) >= 2)
        others = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    (line,) = said.splitlines()
    rows = len(read("out"))
    kept = f"{rows} rows are in '{Path('out').absolute()}', and the same command goes on from there"
    assert line == f"modbp: interrupted; {kept}."
    wait_for(lambda: not any(map(alive, others)), 20)


def test_a_full_disk(log: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pictures(Path("pics"), 3)
    grid = write(networks=["sweep_networks:tiny"])
    write_table = pq.write_table

    def until_full(table: Any, file: Any, **options: Any) -> None:
        if parts():
            file.write(b"PAR1half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_table(table, file, **options)

    monkeypatch.setattr(pq, "write_table", until_full)
    assert cli.main(command("--workers", "1")) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"modbp: the results cannot be written to '{Path('out').absolute() / store.ROWS}' (No space left on device);"
        " 8 rows written before, and the same command goes on from there once they can."
    )
    assert len(read("out")) == 8
    assert [path.name for path in Path("out", store.ROWS).iterdir()] == [path.name for path in parts()]
    monkeypatch.setattr(pq, "write_table", write_table)
    assert cli.main(command("--workers", "1")) == 0
    assert_whole(grid)


def test_a_scheduler_that_goes_away_ends_the_sweep_with_a_sentence(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client notices by itself; the driver must not wait for answers that never come."""
    from contextlib import contextmanager

    import distributed

    from modbp.errors import InputError

    pictures(Path("pics"), 4)
    monkeypatch.setenv("SWEEP_TEST_SLOW", "0.5")

    @contextmanager
    def lost(workers: int) -> Any:
        cluster = distributed.LocalCluster(
            n_workers=0, dashboard_address=":0", processes=False, silence_logs=50, threads_per_worker=1
        )
        client = distributed.Client(cluster, set_as_default=False)
        threading.Timer(1, lambda: cluster.close(timeout=2)).start()
        try:
            yield client
        finally:
            client.close(timeout=2)
            time.sleep(0.1)
            cluster.close(timeout=2)

    monkeypatch.setattr(clusters, "on_this_machine", lost)
    with pytest.raises(InputError, match=r"the scheduler is gone; 0 rows are in '.*', and the same command goes on"):
        run.run(Grid.of(GRID), "out", workers=1)


def test_the_first_twenty_failures_are_printed_and_the_rest_counted() -> None:
    what = {"measurement": "csc", "network": "vgg16", "method": "gradient"}
    failures = [Failure(what | {"image": f"{i}.jpg"}, 4, "why") for i in range(30)]
    lines = run.summary(failures)
    assert lines[0] == "csc, vgg16, 0.jpg, gradient: why (4 rows)"
    assert len(lines) == 21
    assert lines[-1] == "… and 10 more"
    assert len(run.summary(failures[:20])) == 20
    assert run.summary([Failure({"run": "a"}, 1, "why")]) == ["a: why"]
