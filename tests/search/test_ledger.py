"""The ledger: what is recorded stays, whatever happens to the process, the file or the disk."""

import multiprocessing
import os
import resource
import signal
from itertools import product
from random import Random

import numpy as np
import pytest
from hanging import HANGS_S
from made_ledgers import CODES, LARGE, RESAMPLED, SETTINGS, done, fill

from crnas_d2.architecture import format_code, parse_code
from crnas_d2.files import write_atomically
from crnas_d2.search.ledger import Ledger
from crnas_d2.search.ledger_file import LedgerError
from crnas_d2.search.trial import Trial

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "ledger.sqlite")


def in_a_process(function, *args):
    """Run a function in a forked process, which has to end by itself without an error."""
    process = FORK.Process(target=function, args=args)
    process.start()
    process.join(HANGS_S)
    assert process.exitcode == 0


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


def test_a_trial_with_more_metrics_takes_the_place_of_one_without(path):
    fill(path)
    with Ledger(path, SETTINGS) as ledger:
        ledger.record(done((2, 3), 5.0, seconds=1.0, **{"segm/AP": 4.0}))
        ledger.record(Trial((2, 3), "dropped", {"bbox/AP": 9.0}, 50))
        assert ledger.trials[2, 3].metrics == {"bbox/AP": 5.0, "segm/AP": 4.0}
    trials = Ledger.read(path).trials
    assert trials[2, 3] == done((2, 3), 5.0, **{"segm/AP": 4.0})
    assert trials[2, 3].seconds == 1.0 and len(trials) == len(CODES)


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
    reader.join(HANGS_S)
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
    process.join(HANGS_S)
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
        process.join(HANGS_S)
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
