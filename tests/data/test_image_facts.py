import logging
import multiprocessing
import os
import signal
import sqlite3
import time

import pytest
from hanging import HANGS_S

from crnas_d2.data.image_facts import FileState, ImageFacts, ImageStore

FACTS = ImageFacts(640, 480, "RGB", 6, "JPEG")


def make_files(folder, count=3):
    states = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        path.write_bytes(b"x" * i)
        states.append(FileState.of(str(path)))
    return states


def test_facts_and_hashes_are_there_for_the_next_one(tmp_path):
    files = make_files(tmp_path, 1200)
    with ImageStore(str(tmp_path / "cache")) as store:
        assert store.facts(files) == {}
        store.add_facts(dict.fromkeys(files[:1100], FACTS))
        store.add_facts({files[0]: ImageFacts(1, 2, "L", 1, "PNG", True)})
        store.add_hashes({files[1]: b"\0\xff"}, "phash 1")
    with ImageStore(str(tmp_path / "cache")) as store:
        known = store.facts(files)
        assert len(known) == 1100
        assert known[files[0].path] == ImageFacts(1, 2, "L", 1, "PNG", True)
        assert known[files[1].path] == FACTS
        assert store.hashes(files, "phash 1") == {files[1].path: b"\0\xff"}
        assert store.hashes(files, "phash 2") == {}


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_has_changed_is_not_known(tmp_path, change):
    (file,) = make_files(tmp_path, 1)
    with ImageStore(str(tmp_path)) as store:
        store.add_facts({file: FACTS})
        store.add_hashes({file: b"1"}, "phash")
        if change == "size":
            with open(file.path, "ab") as f:
                f.write(b"more")
            os.utime(file.path, ns=(file.mtime_ns, file.mtime_ns))
        else:
            os.utime(file.path, ns=(file.mtime_ns, file.mtime_ns + 1))
        changed = FileState.of(file.path)
        assert store.facts([changed]) == store.hashes([changed], "phash") == {}
        store.add_facts({changed: FACTS})
        assert store.facts([changed]) == {file.path: FACTS}
        assert store.facts([file]) == {}


def test_names_that_are_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff'%.jpg"
    with open(path, "wb"):
        pass
    file = FileState.of(os.fsdecode(path))
    with ImageStore(str(tmp_path)) as store:
        store.add_facts({file: FACTS})
        assert store.facts([file]) == {file.path: FACTS}


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path, caplog):
    (file,) = make_files(tmp_path, 1)
    (tmp_path / "file").touch()
    with caplog.at_level(logging.DEBUG), ImageStore(str(tmp_path / "file" / "cache")) as store:
        with store.lock():
            store.add_facts({file: FACTS})
        assert store.facts([file]) == {file.path: FACTS}
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


@pytest.mark.parametrize("damage", ["head", "middle"])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    files = make_files(tmp_path, 600)
    with ImageStore(str(tmp_path)) as store:
        store.add_facts(dict.fromkeys(files, FACTS))
        path = store.path
    with open(path, "r+b") as f:
        f.seek(0 if damage == "head" else 4096)
        f.write(b"no database" * 1000)
    for known in ({}, {}, {files[0].path: FACTS}):
        with ImageStore(str(tmp_path)) as store:
            assert store.facts(files[:1]) == known
            store.add_facts({files[0]: FACTS})


def _add_until_killed(folder, files, added):
    with ImageStore(folder) as store, store.lock():
        for file in files:
            store.add_facts({file: FACTS})
            added.set()
        store._db.execute("BEGIN IMMEDIATE")
        store._db.execute("DELETE FROM facts")
        time.sleep(HANGS_S)


def test_what_a_killed_process_had_added_is_kept_and_its_lock_is_free(tmp_path):
    files = make_files(tmp_path)
    fork = multiprocessing.get_context("fork")
    added = fork.Event()
    process = fork.Process(target=_add_until_killed, args=(str(tmp_path), files, added))
    process.start()
    assert added.wait(HANGS_S)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with ImageStore(str(tmp_path)) as store, store.lock():
        assert files[0].path in store.facts(files)
        store.add_facts(dict.fromkeys(files, FACTS))
        assert len(store.facts(files)) == len(files)
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
