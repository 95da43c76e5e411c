"""The ledger: what is recorded stays, whatever happens to the process, the file or the disk."""

import multiprocessing
import os
import resource
import signal
import sqlite3
from itertools import product
from random import Random

import numpy as np
import pytest

from crnas_d2.architecture import format_code, parse_code
from crnas_d2.files import write_atomically
from crnas_d2.search.ledger import Ledger
from crnas_d2.search.ledger_file import LedgerError
from crnas_d2.search.trial import Resampled, Trial

SETTINGS = {"step": "stage", "weights": "ab12", "SEARCH.SEED": 0, "SEARCH.BN": [1, 0.1, None]}
CODES = [(10, 1), (2, 3), (2, 1), (1, 17), (1, 2, 3)]
LARGE = Trial((5, 5), "failed", reason="why not " * 10_000)  # over several pages
RESAMPLED = Resampled.of("bbox/AP", np.array([0.1, 100 / 3, np.nan]))
FORK = multiprocessing.get_context("fork")


def done(code, ap=30.0, seconds=1.5, **metrics):
    return Trial(code, "done", {"bbox/AP": ap, **metrics}, 500, seconds=seconds)


def fill(path, codes=CODES):
    with Ledger(path, SETTINGS) as ledger:
        for code in codes:
            ledger.record(done(code, float(sum(code))))


def in_a_process(function, *args):
    """Run a function in a forked process, which has to end by itself without an error."""
    process = FORK.Process(target=function, args=args)
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "ledger.sqlite")


def test_round_trip_of_every_kind_of_trial(path):
    rng = Random(0)
    metrics = {f"bbox/AP-{i}": rng.random() * 10.0 ** rng.randint(-300, 300) for i in range(200)}
    metrics |= {"zero": -0.0, "tiny": 5e-324, "sum": 0.1 + 0.2, "large": 1.7976931348623157e308}
    third = {"bbox/AP": np.float64(1) / 3, "segm/AP": np.float32(0.1)}
    trials = [
        Trial((3, 1), "done", metrics, 500, "", 0.1 + 0.2, RESAMPLED),
        Trial((2, 10), "failed", {}, 0, "bbox/AP is nan\n'; DROP TABLE trials; --ü", 0.0),
        Trial((2, 9), "dropped", third, 5, seconds=1e-9),
        Trial((), "done", {"bbox/AP": 0}, 1, seconds=1e9),
    ]
    with Ledger(path, SETTINGS) as ledger:
        assert ledger.trials == {}
        for trial in trials:
            ledger.record(trial)
        before = ledger.trials
    expected = {trial.code: trial for trial in reversed(trials)}
    assert list(expected) == sorted(expected)
    with Ledger(path, SETTINGS) as ledger:
        records = Ledger.read(path)
        for found in (before, ledger.trials, records.trials):
            assert list(found.items()) == list(expected.items())
            for trial in found.values():
                exact = {k: float(v).hex() for k, v in expected[trial.code].metrics.items()}
                assert {k: v.hex() for k, v in trial.metrics.items()} == exact
                assert trial.seconds == expected[trial.code].seconds
    assert records.settings == SETTINGS


def test_order_is_that_of_the_codes_and_not_of_their_text(path):
    fill(path)
    assert list(Ledger.read(path).trials) == sorted(CODES) != sorted(CODES, key=format_code)


def test_nothing_is_recorded_twice(path):
    fill(path)
    for _ in range(2):
        with Ledger(path, SETTINGS) as ledger:
            with pytest.raises(LedgerError, match="ledger.sqlite: 2-3 has a trial already"):
                ledger.record(done((2, 3), 99.0))
            assert ledger.trials[2, 3] == done((2, 3), 5.0)


@pytest.mark.parametrize(
    "trial, message",
    [
        (done((1, 2), float("nan")), "trial of 1-2: bbox/AP is nan"),
        (done((1, 2), AP50=float("-inf")), "AP50 is -inf; expected a finite number"),
        (done((1, 2), np.float64("inf")), "bbox/AP is inf"),
        (Trial((1, 2), "done"), "expected metrics and no reason"),
        (Trial((1, 2), "done", {"AP": 1.0}, 5, "why"), "expected metrics and no reason"),
        (Trial((1, 2), "dropped"), "expected metrics and no reason"),
        (Trial((1, 2), "failed"), "expected a reason and no metrics"),
        (
            Trial((1, 2), "failed", {"AP": 1.0}, 5, "why"),
            "expected a reason and no metrics",
        ),
        (Trial((1, 2), "ok", {"AP": 1.0}), "status is 'ok'"),
        (done((1, -2)), r"code is \(1, -2\)"),
        (done((1, True)), r"code is \(1, True\)"),
        (done([1, 2]), r"code is \[1, 2\]"),
        (done((1, 2), seconds=float("nan")), "nan seconds"),
        (done((1, 2), seconds=-1), "-1 seconds"),
    ],
)
def test_what_is_no_trial_does_not_get_in(path, trial, message):
    with Ledger(path, SETTINGS) as ledger:
        with pytest.raises(ValueError, match=message):
            ledger.record(trial)
        assert ledger.trials == {}
        ledger.record(done((1, 2)))
    assert list(Ledger.read(path).trials) == [(1, 2)]


def test_other_settings_are_refused_with_the_difference(path):
    fill(path)
    now = {"step": "stage", "weights": "cd34", "SEARCH.SEED": 0.0, "AMP": True}
    with pytest.raises(LedgerError) as error:
        Ledger(path, now)
    lines = str(error.value).splitlines()
    assert path in lines[0] and "move the file away" in lines[-1]
    assert lines[1:-1] == [
        "  AMP: absent there, true now",
        "  SEARCH.BN: [1, 0.1, null] there, absent now",
        "  SEARCH.SEED: 0 there, 0.0 now",
        '  weights: "ab12" there, "cd34" now',
    ]
    with Ledger(path, dict(reversed(SETTINGS.items())) | {"SEARCH.BN": (1, 0.1, None)}) as ledger:
        assert len(ledger.trials) == len(CODES)


def test_what_only_a_training_reads_does_not_matter(path):
    """Earlier versions have written it."""
    with Ledger(path, SETTINGS | {"MODEL.SUPERNET.SEED": 7}) as ledger:
        ledger.record(done((1, 1)))
    for code in ((1, 2), (1, 3)):
        with Ledger(path, SETTINGS) as ledger:
            ledger.record(done(code))
    assert list(Ledger.read(path).trials) == [(1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_settings_that_are_not_json(path, value):
    with pytest.raises(ValueError, match="setting weights = .* is not JSON"):
        Ledger(path, {"weights": value})
    assert not os.path.exists(path)


def test_paths(tmp_path, monkeypatch):
    for uri in ("s3://bucket/ledger.sqlite", "file://ledger.sqlite"):
        with pytest.raises(ValueError, match=f"{uri}: a ledger is a local file"):
            Ledger(uri, SETTINGS)
        with pytest.raises(ValueError, match=f"{uri}: a ledger is a local file"):
            Ledger.read(uri)
    with pytest.raises(FileNotFoundError, match="there is no folder .*absent"):
        Ledger(tmp_path / "absent" / "ledger.sqlite", SETTINGS)
    with pytest.raises(FileNotFoundError, match="absent.sqlite: there is no such ledger"):
        Ledger.read(tmp_path / "absent.sqlite")
    with pytest.raises(OSError, match=str(tmp_path)):
        Ledger(tmp_path, SETTINGS)
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory", "a b%20#?.sqlite"):
        fill(name)
        assert os.path.getsize(name) > 0
        assert len(Ledger.read(name).trials) == len(CODES)


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


def test_a_trial_with_more_metrics_takes_the_place_of_one_without(path):
    fill(path)
    with Ledger(path, SETTINGS) as ledger:
        ledger.record(done((2, 3), 5.0, seconds=1.0, **{"segm/AP": 4.0}))
        ledger.record(Trial((2, 3), "dropped", {"bbox/AP": 9.0}, 50))
        assert ledger.trials[2, 3].metrics == {"bbox/AP": 5.0, "segm/AP": 4.0}
    trials = Ledger.read(path).trials
    assert trials[2, 3] == done((2, 3), 5.0, **{"segm/AP": 4.0})
    assert trials[2, 3].seconds == 1.0 and len(trials) == len(CODES)


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


def read_often(path, stop):
    seen = 0
    while not stop.is_set():
        records = Ledger.read(path)
        assert records.settings == SETTINGS
        assert all(trial == done(code, float(sum(code))) for code, trial in records.trials.items())
        assert len(records.trials) >= seen
        seen = len(records.trials)
    assert seen > 5


def test_reading_while_a_writer_writes(path):
    fill(path)
    stop = FORK.Event()
    reader = FORK.Process(target=read_often, args=(path, stop))
    reader.start()
    with Ledger(path, SETTINGS) as ledger:
        for code in product(range(20, 25), range(8)):
            ledger.record(done(code, float(sum(code))))
            assert len(Ledger.read(path).trials) == len(ledger.trials)
    stop.set()
    reader.join(60)
    assert reader.exitcode == 0


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def record_until_full(path, limit):
    limit_files(limit)
    with Ledger(path, SETTINGS) as ledger:
        with pytest.raises(OSError, match=f"{path}: .*; what was recorded before is kept"):
            for code in product(range(1, 100), repeat=2):
                ledger.record(done(code, **{f"AP-{i}": float(i) for i in range(80)}))
        recorded = ledger.trials
        assert Ledger.read(path).trials == recorded and len(recorded) > 10
        with pytest.raises(OSError, match=path):
            ledger.record(Trial((200, 1), "failed", reason="x" * 2 * limit))
        assert Ledger.read(path).trials == recorded
        assert os.path.getsize(path) <= limit
        limit_files(resource.RLIM_INFINITY)
        ledger.record(done(code))
        assert Ledger.read(path).trials == recorded | {code: done(code)}


@pytest.mark.parametrize("limit", [50_000, 100_000, 4096 * 30])
def test_full_disk(path, limit):
    in_a_process(record_until_full, path, limit)
    with Ledger(path, SETTINGS) as ledger:
        kept = list(ledger.trials)
        assert kept == list(product(range(1, 100), repeat=2))[: len(kept)]
        ledger.record(done((100, 1)))
        ledger.record(Trial((200, 1), "failed", reason="x" * limit))
    assert list(Ledger.read(path).trials) == [*kept, (100, 1), (200, 1)]


def create_on_a_full_disk(path):
    limit_files(4096)
    with pytest.raises(OSError, match=path):
        Ledger(path, SETTINGS)


def test_disk_that_is_full_from_the_start(path):
    in_a_process(create_on_a_full_disk, path)
    fill(path)
    assert len(Ledger.read(path).trials) == len(CODES)


def killed_in_a_transaction(path):
    with Ledger(path, SETTINGS) as ledger:
        # More than SQLite keeps in memory, so that a part of it is on the disk already
        ledger._db.execute("INSERT INTO trials (reason) VALUES (hex(randomblob(4000000)))")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("reads_first", [False, True])
def test_killed_in_the_middle_of_a_transaction(path, reads_first):
    fill(path)
    with open(path, "rb") as f:
        content = f.read()
    process = FORK.Process(target=killed_in_a_transaction, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert os.path.getsize(path) > 10 * len(content) and os.path.exists(f"{path}-journal")
    if reads_first:
        assert list(Ledger.read(path).trials) == sorted(CODES)
        with open(path, "rb") as f:
            assert f.read() == content
    with Ledger(path, SETTINGS) as ledger:
        assert list(ledger.trials) == sorted(CODES)
        ledger.record(LARGE)
    assert Ledger.read(path).trials[5, 5] == LARGE


SEARCHED = list(product(range(1, 4), range(1, 4), range(1, 6)))


def search(folder, kill_at):
    """A search that logs what it does, writes its result at the end, and kills itself before that
    many of its acts."""
    log = os.open(f"{folder}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    acts = iter(range(kill_at))

    def act(what, code):
        if next(acts, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, f"{what} {format_code(code)}\n".encode())

    with Ledger(f"{folder}/ledger.sqlite", SETTINGS) as ledger:
        for code in Random(1).sample(SEARCHED, len(SEARCHED)):
            if code in ledger.trials:
                continue
            act("begin", code)
            trial = done(code, Random(format_code(code)).random() * 100)
            if sum(code) % 5 == 0:
                trial = Trial(code, "failed", reason="out of memory")
            act("evaluated", code)
            ledger.record(trial)
            act("recorded", code)
        result = repr(ledger.trials)
    write_atomically(f"{folder}/result", result.encode())


def logged(folder, word):
    with open(f"{folder}/log") as f:
        lines = [line.split() for line in f]
    return [parse_code(code) for what, code in lines if what == word]


def test_killed_at_any_act_it_ends_as_if_it_had_not_been(tmp_path):
    whole, torn = str(tmp_path / "whole"), str(tmp_path / "torn")
    os.mkdir(whole)
    os.mkdir(torn)
    in_a_process(search, whole, 1000)
    moments = [0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 14, 18]
    for kill_at in moments:
        process = FORK.Process(target=search, args=(torn, kill_at))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        if kill_at % 2:  # the other half is left to the next writer
            trials = Ledger.read(f"{torn}/ledger.sqlite").trials
            assert set(logged(torn, "recorded")) <= set(trials)
    in_a_process(search, torn, 1000)
    results = []
    for folder in (whole, torn):
        with open(f"{folder}/result", "rb") as f:
            results.append(f.read())
    assert results[0] == results[1]
    begun, recorded = logged(torn, "begin"), logged(torn, "recorded")
    assert set(begun) == set(SEARCHED) and len(recorded) == len(set(recorded))
    assert len(SEARCHED) < len(begun) <= len(SEARCHED) + len(moments)
