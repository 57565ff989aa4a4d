"""The remaining time of units of different kinds, by a clock that the tests turn."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modbp import progress
from modbp.errors import InputError
from modbp.progress import Bar, Progress, State, stop_asked


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def work(units: Sequence[tuple[str, float]], seconds: dict[str, float]) -> list[float | None]:
    """Do all units, each kind in its time; return the remaining time before the first one and after each."""
    clock = Clock()
    watched = Progress(units, clock=clock)
    found = [watched.remaining()]
    for kind, _ in units:
        with watched.unit():
            clock.now += seconds[kind]
        found.append(watched.remaining())
    return found


def fail(watched: Progress, clock: Clock, seconds: float) -> None:
    """Let the next unit fail after some seconds; what it raised comes through."""

    def unit() -> None:
        with watched.unit():
            clock.now += seconds
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        unit()


def test_it_is_exact_where_each_kind_costs_the_same_every_time() -> None:
    units = [("map", 1.0), ("flipping", 5.0), ("map", 1.0), ("flipping", 5.0), ("flipping", 5.0)]
    # The priors are right: all is known after the first unit.
    assert work(units, {"map": 2.0, "flipping": 10.0}) == [None, 32.0, 22.0, 20.0, 10.0, 0.0]


def test_priors_that_are_wrong_by_ten_are_forgotten_once_each_kind_was_seen() -> None:
    units = [("map", 10.0), ("flipping", 1.0), ("map", 10.0), ("flipping", 1.0), ("flipping", 1.0)]
    # After the first unit only the prior says what a flipping costs: a tenth of a map, 0.2 s.
    found = work(units, {"map": 2.0, "flipping": 20.0})
    assert found == [None, pytest.approx(0.2 * 3 + 2), 42.0, 40.0, 20.0, 0.0]


def test_a_kind_that_was_not_seen_goes_by_the_speed_of_all_that_were() -> None:
    clock = Clock()
    watched = Progress([("a", 1.0), ("b", 3.0), ("c", 2.0)], clock=clock)
    for seconds in (3.0, 1.0):
        with watched.unit():
            clock.now += seconds
    assert watched.remaining() == 2.0 * (3.0 + 1.0) / (1.0 + 3.0)


def test_a_mean_is_taken_over_the_units_of_a_kind() -> None:
    clock = Clock()
    watched = Progress([("a", 1.0)] * 5, clock=clock)
    for seconds in (1.0, 3.0):
        with watched.unit():
            clock.now += seconds
    assert watched.remaining() == 3 * 2.0


def test_a_unit_that_runs_counts_down_and_never_below_nothing() -> None:
    clock = Clock()
    watched = Progress([("a", 1.0)] * 3, clock=clock)
    with watched.unit():
        clock.now += 4.0
        assert watched.remaining() is None
    with watched.unit():
        clock.now += 1.0
        assert watched.remaining() == 3.0 + 4.0
        clock.now += 100.0
        assert watched.remaining() == 0.0 + 4.0


def test_a_failed_unit_is_done_and_says_nothing_of_the_speed() -> None:
    clock = Clock()
    watched = Progress([("a", 1.0), ("a", 1.0), ("b", 4.0)], clock=clock)
    fail(watched, clock, 0.5)
    assert watched.remaining() is None  # of b nothing is known
    with watched.unit():
        clock.now += 2.5
    assert watched.remaining() == 4.0 * 2.5


def test_skipped_units_are_done_without_a_measurement() -> None:
    clock = Clock()
    watched = Progress([("a", 1.0), ("b", 1.0), ("a", 1.0), ("b", 2.0)], clock=clock)
    watched.skip()
    assert watched.remaining() is None
    with watched.unit():
        clock.now += 3.0
    assert watched.remaining() == 3.0 + 3.0
    watched.skip(2)
    assert watched.remaining() == 0.0
    watched.skip(0)


def test_no_more_units_than_were_planned() -> None:
    watched = Progress([("a", 1.0)])
    with pytest.raises(InputError, match=r"n is 2 units; allowed are the 1 that are left of 1\."):
        watched.skip(2)
    with watched.unit():
        pass
    with pytest.raises(InputError, match=r"allowed are the 0 that are left of 1\."), watched.unit():
        pytest.fail("it ran")


@pytest.mark.parametrize("cost", [0, -1.0, math.nan, math.inf])
def test_a_cost_that_is_none(cost: float) -> None:
    with pytest.raises(InputError, match=r"the cost of 'a' is .*; allowed are finite numbers above 0"):
        Progress([("b", 1.0), ("a", cost)])


def test_without_units_nothing_remains() -> None:
    assert Progress([]).remaining() == 0.0


positive = st.floats(1e-3, 1e3)
kinds = st.sampled_from("abcd")


@given(st.lists(st.tuples(kinds, positive), max_size=12), st.data())
def test_it_is_never_negative_and_nothing_at_the_end(units: list[tuple[str, float]], data: st.DataObject) -> None:
    clock = Clock()
    watched = Progress(units, clock=clock)
    measured = False
    left = len(units)
    while left:
        what = data.draw(st.sampled_from(["work", "fail", "skip"]))
        if what == "skip":
            n = data.draw(st.integers(1, left))
            watched.skip(n)
            left -= n
        else:
            try:
                with watched.unit():
                    clock.now += data.draw(st.floats(0, 1e3))
                    if what == "fail":
                        raise ValueError
                measured = True
            except ValueError:
                pass
            left -= 1
        remaining = watched.remaining()
        assert remaining is None or 0 <= remaining < math.inf
        assert remaining is not None or not measured
    assert watched.remaining() == 0


@given(st.lists(kinds, min_size=1, max_size=15), st.fixed_dictionaries(dict.fromkeys("abcd", positive)), positive)
def test_where_all_is_constant_it_falls_by_what_a_unit_took(
    units: list[str], seconds: dict[str, float], speed: float
) -> None:
    found = work([(kind, seconds[kind] / speed) for kind in units], seconds)
    assert found[0] is None
    for i, kind in enumerate(units[1:], 1):
        before, after = found[i], found[i + 1]
        assert before is not None
        assert after is not None
        assert before - after == pytest.approx(seconds[kind], rel=1e-6, abs=1e-6)
    assert found[-1] == 0


# ── What a waiting command sees ──────────────────────────────────────────────────────────────────────────────────


def test_the_state_is_written_after_each_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.PROGRESS, str(path))
    clock = Clock()
    watched = Progress([("map", 1.0), ("flipping", 4.0)], clock=clock)
    nothing = {"done": 0, "total": 2, "elapsed": 0.0, "remaining": None, "description": "map"}
    assert json.loads(path.read_text()) == nothing
    with watched.unit():
        clock.now += 2.0
    half = {"done": 1, "total": 2, "elapsed": 2.0, "remaining": 8.0, "description": "flipping"}
    assert json.loads(path.read_text()) == half
    assert State.read(path) == State(**half)
    fail(watched, clock, 1.0)
    assert State.read(path) == State(2, 2, 3.0, 0.0, "")
    assert [p.name for p in tmp_path.iterdir()] == ["progress.json"]


def test_a_folder_that_is_gone_does_not_stop_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.PROGRESS, str(tmp_path / "gone" / "progress.json"))
    watched = Progress([("map", 1.0)])
    with watched.unit():
        pass
    assert watched.remaining() == 0


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"done": 1}'])
def test_what_is_no_state_is_none(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    if content is not None:
        path.write_text(content)
    assert State.read(path) is None


def test_a_stop_is_asked_for_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.STOP, raising=False)
    assert not stop_asked()
    path = tmp_path / "stop"
    monkeypatch.setenv(progress.STOP, str(path))
    assert not stop_asked()
    path.touch()
    assert stop_asked()
    monkeypatch.setenv(progress.STOP, "")
    assert not stop_asked()


def test_the_bar_says_what_the_state_says(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("audit {x}", disable=False)
    bar.show(State(3, 40, elapsed=30.0, remaining=89.2, description="flipping of {gradient}"))
    bar.show(State(0, 40, elapsed=31.0, remaining=None, description="map"))
    bar.show(State(3, 40, elapsed=32.0, remaining=89.2, description="map"), note="stopping")
    bar.close()
    shown = capsys.readouterr().err
    assert "audit {x}:  25%|" in shown
    assert "3 of 40, 00:30, 01:30 left, flipping of {gradient}" in shown
    assert "0 of 40, 00:31, an unknown time left, map" in shown
    assert re.search(r"3 of 40, 00:32, stopping\s*\r", shown)


def test_nobody_who_watches_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Progress([("map", 1.0)], "maps")
    with watched.unit():
        pass
    watched.close()
    assert capsys.readouterr().err == ""
