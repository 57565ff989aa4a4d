"""Records read back, and their table."""

from __future__ import annotations

import copy
import errno
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from modbp import claims, cli, records, walkthrough
from modbp.errors import InputError

Record = dict[str, Any]


def record(seed: int = 0, claim_ids: tuple[str, ...] = ("N1", "N11"), **parameters: Any) -> Record:
    """What a walkthrough leaves behind that measured half of what its claims predict."""
    given = {"seed": seed, "methods": "gradient,rectgrad", "results": f"{seed}.json", **parameters}
    allowed = {name: type(value) for name, value in given.items()} | {"methods": ["gradient", "rectgrad"]}
    page = walkthrough.begin("demo", given, claim_ids, **allowed)
    for claim_id in claim_ids:
        predictions = list(claims.find(claim_id).predictions.items())
        measured = {
            name: (p.low if p.low > -9e9 else p.high, 0.0) for name, p in predictions[: len(predictions) // 2 + 1]
        }
        page.judge(claim_id, measured)
    return page.record()


def save(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_what_was_written_is_read_back(folder: Path) -> None:
    given = record()
    walkthrough.write_record(folder / "demo.json", given)
    assert records.read(folder / "demo.json") == given
    assert records.read(str(folder / "demo.json")) == given


@pytest.mark.parametrize("key", walkthrough.OWN_KEYS)
def test_a_record_without_one_of_its_keys_is_none(key: str, folder: Path) -> None:
    incomplete = record()
    del incomplete[key]
    with pytest.raises(InputError, match=f"is no record of a walkthrough: it lacks '{key}'; allowed is"):
        records.read(save(folder, "demo.json", incomplete))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read (Expecting value"),
        ("{", "cannot be read (Expecting property name"),
        ('{"a": NaN}', "cannot be read (NaN is no number of JSON)"),
        ('{"a": -Infinity}', "cannot be read (-Infinity is no number of JSON)"),
        ("[" * 100_000, "cannot be read (maximum recursion depth"),
        ("[]", "is no record of a walkthrough: it is no mapping"),
        ("3", "is no record of a walkthrough: it is no mapping"),
        ('{"walkthrough": 1, "parameters": {}, "versions": {}, "verdicts": {}}', "are not text and three mappings"),
        ('{"walkthrough": "a", "parameters": [], "versions": {}, "verdicts": {}}', "are not text and three mappings"),
    ],
)
def test_another_file_is_refused_in_one_sentence(content: str, said: str, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        records.read(save(folder, "demo.json", content))
    assert said in str(caught.value)
    assert "demo.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_another_encoding_are_refused(folder: Path) -> None:
    for path, said in ((folder / "missing.json", "No such file"), (folder, "Is a directory")):
        with pytest.raises(InputError, match=said):
            records.read(path)
    (folder / "latin.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read"):
        records.read(folder / "latin.json")


@pytest.mark.parametrize(
    "damage",
    [
        lambda judged: judged.pop("checks"),
        lambda judged: judged.pop("verdict"),
        lambda judged: judged.update(verdict="perhaps"),
        lambda judged: judged["checks"][0].pop("measured"),
        lambda judged: judged["checks"][0].update(measured="much"),
        lambda judged: judged["checks"][0].update(predicted=[1]),
        lambda judged: judged["checks"][0].update(predicted=[2, 1]),
        lambda judged: judged["checks"][0].update(verdict=None),
        lambda judged: judged.update(checks=3),
    ],
)
def test_a_verdict_that_is_not_whole_is_refused(damage: Any, folder: Path) -> None:
    broken = record()
    damage(broken["verdicts"]["N11"])
    with pytest.raises(InputError, match="its verdict on 'N11' is not whole"):
        records.read(save(folder, "demo.json", broken))


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(folder: Path) -> None:
    for name in ("b.json", "a=1.5.json", "a.json"):
        save(folder, name, record())
    save(folder, ".half.json", "{")
    save(folder, "notes.txt", "text")
    assert list(records.read_folder(folder)) == ["a", "a=1.5", "b"]


def test_a_folder_without_records_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no record"):
        records.read_folder(folder)
    with pytest.raises(InputError, match="is no folder"):
        records.read_folder(save(folder, "a.json", record()))
    save(folder, "other.json", "{}")
    with pytest.raises(InputError, match="it lacks 'walkthrough'"):
        records.read_folder(folder)


# The table


def test_a_row_for_each_record_claim_and_quantity(folder: Path) -> None:
    given = {"first": record(1), "second": record(0)}
    table = records.table(given)
    assert list(table) == ["walkthrough", "seed", "claim", "quantity", "predicted", "measured", "spread", "verdict"]
    expected = [
        (seed, claim_id, quantity, str(predicted))
        for seed in (1, 0)
        for claim_id in ("N1", "N11")
        for quantity, predicted in claims.find(claim_id).predictions.items()
    ]
    assert list(zip(*(table[c] for c in ("seed", "claim", "quantity", "predicted")), strict=True)) == expected
    for _, row in table.iterrows():
        check = claims.check(
            row["quantity"], claims.find(row["claim"]).predictions[row["quantity"]], row["measured"], row["spread"]
        )
        assert row["verdict"] == check.verdict
    assert set(table["verdict"]) == {"confirmed", "not testable here"}
    assert table["measured"].isna().equals(table["verdict"] == "not testable here")
    # Through a file and back it is the same table.
    for name, content in given.items():
        walkthrough.write_record(folder / f"{name}.json", content)
    assert records.table(records.read_folder(folder)).equals(table)


def test_the_order_of_claims_is_the_ledgers_whatever_the_files_say() -> None:
    shuffled = record(claim_ids=("N11", "N9", "N1"))
    shuffled["verdicts"]["Z99"] = copy.deepcopy(shuffled["verdicts"]["N1"])
    table = records.table({"a": shuffled}, each="claim")
    assert list(table["claim"]) == ["N1", "N9", "N11", "Z99"]


def test_a_row_for_each_claim() -> None:
    table = records.table({"a": record()}, each="claim")
    assert list(table) == ["walkthrough", "claim", "verdict", "numbers behind it"]
    n = len(claims.find("N11").predictions)
    assert list(table["numbers behind it"]) == [
        "1 confirmed",
        f"{n // 2 + 1} confirmed, {n - n // 2 - 1} not testable here",
    ]


def test_which_parameters_get_a_column() -> None:
    given = {"a": record(0, size=3), "b": record(1, size=3), "c": record(1, size=3)}
    given["c"]["walkthrough"] = "another"
    given["c"]["parameters"] = {"seed": 1, "rate": 0.5}
    own = list(records.table(given))[1:-6]
    assert own == ["seed"]  # of one walkthrough they differ in it, and two walkthroughs always differ
    every = records.table(given, parameters="all")
    assert list(every)[1:-6] == ["seed", "methods", "size", "rate"]
    first, last = every.iloc[0], every.iloc[-1]
    assert (first["methods"], first["size"], last["rate"]) == ("gradient,rectgrad", 3, 0.5)
    assert last["size"] is None
    assert 'gradient,rectgrad",3,,' in every.to_csv()  # a whole number stays one, whatever is missing elsewhere
    assert list(records.table(given, parameters=["size", "results"]))[1:-6] == ["size", "results"]
    assert list(records.table(given, parameters="size"))[1:-6] == ["size"]
    one = {"a": record(0, flag=True), "b": record(0, flag=1)}
    assert list(records.table(one))[1:-6] == ["flag"]


def test_a_parameter_with_the_name_of_a_column_does_not_hide_it() -> None:
    table = records.table({"a": record(0, spread=1), "b": record(0, spread=2)})
    assert list(table)[1:3] == ["parameter spread", "claim"]
    assert table["spread"].max() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parameters": ["sed"]}, "no record has the parameter 'sed'; allowed are differing, all, seed, methods"),
        ({"each": "run"}, "each is 'run'; allowed are quantity, claim"),
    ],
)
def test_bad_options_of_a_table(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        records.table({"a": record()}, **options)


def test_no_records_make_no_table() -> None:
    with pytest.raises(InputError, match="there are no records"):
        records.table({})


def test_a_table_is_written_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = records.table({"a": record()})
    path = records.write_table("table.csv", table)
    assert path == folder / "table.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), table, check_dtype=False)
    assert b"\r" not in path.read_bytes()

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="cannot be written \\(No space left on device\\)"):
        records.write_table(path, table)
    assert path.read_bytes() == before
    assert [p.name for p in folder.iterdir()] == ["table.csv"]
    with pytest.raises(InputError, match="cannot be written"):
        records.write_table("/proc/table.csv", table)
    with pytest.raises(InputError, match="does not exist"):
        records.write_table("missing/table.csv", table)


# The command


def test_the_command_prints_the_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        walkthrough.write_record(folder / f"{seed}.json", record(seed))
    assert cli.main(["table", "."]) == 0
    header, *rows = capfd.readouterr().out.splitlines()
    assert header.split() == ["walkthrough", "seed", "claim", "quantity", "predicted", "measured", "spread", "verdict"]
    assert len(rows) == 2 * (1 + len(claims.find("N11").predictions))
    assert "1e-05" in rows[0]  # small numbers are not printed as 0
    assert cli.main(["table", ".", "--claims"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1 + 2 * 2


def test_the_command_writes_the_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    walkthrough.write_record(folder / "a.json", record())
    assert cli.main(["table", str(folder), "--out", "table.csv"]) == 0
    assert capfd.readouterr().out == f"wrote {folder / 'table.csv'}\n"
    expected = records.table({"a": record()})
    pd.testing.assert_frame_equal(pd.read_csv("table.csv"), expected, check_dtype=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["missing"], "'missing' is no folder; allowed is one that holds records (*.json)."),
        (["."], "the folder '.' holds no record; allowed is one that holds some (*.json)."),
    ],
)
def test_the_command_refuses_a_folder_without_records(
    given: list[str], said: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["table", *given]) == 2
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", f"modbp: {said}\n")


def test_the_books_own_records_are_read(root: Path) -> None:
    found = records.read_folder(root / "records")
    assert all(stem == content["walkthrough"] for stem, content in found.items())
    table = records.table(found)
    assert len(table) == sum(len(v["checks"]) for content in found.values() for v in content["verdicts"].values())
    assert list(table) == ["walkthrough", "claim", "quantity", "predicted", "measured", "spread", "verdict"]
