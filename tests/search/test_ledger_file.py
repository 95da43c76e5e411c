"""Damage to the file of a ledger is noticed, byte by byte; ledgers of other versions."""

import os
import sqlite3
from random import Random

import pytest
from made_ledgers import CODES, LARGE, RESAMPLED, SETTINGS, done, fill

from crnas_d2.files import write_atomically
from crnas_d2.search.ledger import Ledger
from crnas_d2.search.ledger_file import LedgerError
from crnas_d2.search.trial import Trial


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "ledger.sqlite")


def test_a_file_cut_off_anywhere_is_refused_and_left_as_it_is(path):
    fill(path)
    with Ledger(path, SETTINGS) as ledger:
        ledger.record(LARGE)
    with open(path, "rb") as f:
        content = f.read()
    rng = Random(0)
    lengths = {1, 15, 16, 99, 100, 101, 511, 512, 1024, len(content) - 1}
    lengths |= set(range(4096, len(content), 4096)) | {
        rng.randrange(1, len(content)) for _ in range(60)
    }
    for length in sorted(lengths):
        with open(path, "wb") as f:
            f.write(content[:length])
        for use in (lambda: Ledger(path, SETTINGS), lambda: Ledger.read(path)):
            with pytest.raises(LedgerError, match=f"{path} is damaged.*move it away to start over"):
                use()
        with open(path, "rb") as f:
            assert f.read() == content[:length], length
    with open(path, "wb") as f:
        f.write(content)
    assert len(Ledger.read(path).trials) == len(CODES) + 1


def other_database(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE trials (code TEXT)")
    db.close()


def zeroed_page(path):
    fill(path)
    with open(path, "r+b") as f:
        f.seek(2 * 4096)
        f.write(bytes(4096))


def zeroed_page_of_a_reason(path):
    fill(path)
    with Ledger(path, SETTINGS) as ledger:
        ledger.record(LARGE)
    with open(path, "r+b") as f:
        f.seek(12 * 4096)
        f.write(bytes(4096))


def lost_table(path):
    fill(path)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE settings")
    db.close()


def text(path):
    with open(path, "w") as f:
        f.write("1-1-2-4,33.5\n" * 5000)


def noise(path):
    with open(path, "wb") as f:
        f.write(Random(0).randbytes(3 * 4096))


def appended(path):
    fill(path)
    with open(path, "ab") as f:
        f.write(bytes(4096))


DAMAGES = [
    other_database,
    zeroed_page,
    zeroed_page_of_a_reason,
    lost_table,
    text,
    noise,
    appended,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_whole_ledger_is_refused_and_left_as_it_is(path, damage):
    damage(path)
    with open(path, "rb") as f:
        content = f.read()
    for use in (lambda: Ledger(path, SETTINGS), lambda: Ledger.read(path)):
        with pytest.raises(LedgerError, match=f"{path} is damaged.*move it away to start over"):
            use()
    with open(path, "rb") as f:
        assert f.read() == content
    os.rename(path, f"{path}.old")
    fill(path)


def change(path, statement, *values):
    with sqlite3.connect(path) as db:
        db.execute(statement, values)
    db.close()


CHANGES = [
    ("metrics", '{"bbox/AP": 99.9}'),
    ("metrics", '{"bbox/AP": "high"}'),
    ("metrics", '{"bbox/AP": 3'),
    ("metrics", "{}"),
    ("metrics", None),
    ("code", "9-9"),
    ("code", "2-"),
    ("status", "failed"),
    ("images", 499),
    ("images", "many"),
    ("seconds", -1),
    ("reason", b"\xff\xfe"),
    ("digest", "0" * 64),
]


@pytest.mark.parametrize("column, value", CHANGES)
def test_a_changed_row_is_evaluated_again(path, caplog, column, value):
    fill(path)
    change(path, f"UPDATE trials SET {column} = ? WHERE code = '2-3'", value)
    with pytest.raises(LedgerError, match=f"{path} is damaged: 1 of 5 rows were changed after"):
        Ledger.read(path)
    with Ledger(path, SETTINGS) as ledger:
        assert f"{path}: 1 of 5 rows were changed after" in caplog.text
        assert list(ledger.trials) == sorted(set(CODES) - {(2, 3)})
        ledger.record(done((2, 3), 5.0))
    assert Ledger.read(path).trials == {code: done(code, float(sum(code))) for code in CODES}


def test_a_row_that_was_written_by_hand_or_for_another_search_is_none(path, tmp_path):
    fill(path)
    change(path, "INSERT INTO trials SELECT '7-7', status, metrics, images, reason, seconds, digest, "
           "resampled_metric, resampled FROM trials WHERE code = '2-3'")  # fmt: skip
    other = str(tmp_path / "other.sqlite")
    with Ledger(other, SETTINGS | {"weights": "cd34"}) as ledger:
        ledger.record(done((8, 8), 99.0))
    with sqlite3.connect(path) as db:
        db.execute("ATTACH ? AS other", (other,))
        db.execute("INSERT INTO trials SELECT * FROM other.trials")
    db.close()
    with Ledger(path, SETTINGS) as ledger:
        assert list(ledger.trials) == sorted(CODES)
    assert list(Ledger.read(path).trials) == sorted(CODES)


def test_no_flipped_bit_changes_a_trial(path):
    """Each is refused, or costs the rows that it was in."""
    fill(path)
    expected = Ledger.read(path)
    with open(path, "rb") as f:
        content = f.read()
    rng, kept = Random(0), 0
    for place in [rng.randrange(len(content)) for _ in range(300)] + [
        *range(3 * 4096 - 700, 3 * 4096)
    ]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        with open(path, "wb") as f:
            f.write(flipped)
        try:
            with Ledger(path, SETTINGS) as ledger:
                found = ledger.trials
        except (LedgerError, OSError):
            continue
        assert found.items() <= expected.trials.items(), place
        assert Ledger.read(path) == expected._replace(trials=found)
        kept += len(found) < len(CODES)
    assert kept > 50


def test_an_empty_file_is_a_ledger_that_was_not_begun(path):
    write_atomically(path, b"")
    with pytest.raises(LedgerError, match="is empty"):
        Ledger.read(path)
    fill(path)
    assert len(Ledger.read(path).trials) == len(CODES)


def test_ledger_of_another_version(path):
    fill(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(LedgerError, match="a ledger of version 7; expected 3"):
        Ledger(path, SETTINGS)


VERSION_2 = """
    CREATE TABLE settings (key TEXT, value TEXT);
    INSERT INTO settings VALUES ('step', '"stage"'), ('SEARCH.SEED', '0');
    CREATE TABLE trials (code TEXT, status TEXT, metrics TEXT, images INTEGER, reason TEXT,
        seconds REAL, digest TEXT);
    INSERT INTO trials VALUES ('1-2', 'done', '{"bbox/AP": 30.5}', 500, '', 1.5,
        'a00fbc071c0266efa480c29cd97727f7dc2996e04c59c76e3f6fe98cc9e90660');
    INSERT INTO trials VALUES ('2-1', 'failed', '{}', 500, 'a feature is Inf or NaN', 2.0,
        'b497e477e5907540f58d7ff8f8477a12d17c0f3277173d94f4f185db91717e45');
    PRAGMA application_id = 1129467475;
    PRAGMA user_version = 2;
"""


def test_a_ledger_without_resamples_goes_on(path):
    """One that version 2 wrote: it is read as it is, and a search adds its own to it."""
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_2)
    db.close()
    settings = {"step": "stage", "SEARCH.SEED": 0}
    before = {
        (1, 2): Trial((1, 2), "done", {"bbox/AP": 30.5}, 500),
        (2, 1): Trial((2, 1), "failed", {}, 500, "a feature is Inf or NaN"),
    }
    records = Ledger.read(path)
    assert (records.trials, records.settings) == (before, settings)
    with pytest.raises(LedgerError, match="other settings"):
        Ledger(path, {**settings, "SEARCH.SEED": 1})
    new = Trial((3, 3), "done", {"bbox/AP": 31.0}, 500, resampled=RESAMPLED)
    for trials in (before, before | {(3, 3): new}):
        with Ledger(path, settings) as ledger:
            assert ledger.trials == trials
            if (3, 3) not in trials:
                ledger.record(new)
    assert Ledger.read(path).trials == before | {(3, 3): new}


@pytest.mark.parametrize("change", ["NULL", "x'00000000'", "'text'"])
def test_resamples_that_were_changed_are_not_taken(path, change):
    with Ledger(path, SETTINGS) as ledger:
        ledger.record(Trial((2, 3), "done", {"bbox/AP": 5.0}, 500, resampled=RESAMPLED))
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE trials SET resampled = {change}")
    db.close()
    with Ledger(path, SETTINGS) as ledger:
        assert ledger.trials == {}
