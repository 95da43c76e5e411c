"""What one process has found is read by all others, and found anew when anything changes."""

import multiprocessing
import os
import time

import pytest
from hanging import HANGS_S
from portalocker import LockException

from crnas_d2.data import cache
from crnas_d2.data.cache import file_state, remembered


@pytest.fixture(autouse=True)
def another_process():
    """Forgets what this process knows, as a new process does."""
    cache._known.cache_clear()
    yield cache._known.cache_clear
    cache._known.cache_clear()


def counted(calls):
    def make():
        calls.append(None)
        return {"count": len(calls)}

    return make


def test_a_result_is_made_once(tmp_path, another_process):
    calls = []
    folder = str(tmp_path / "a" / "cache")
    for _ in range(2):
        assert remembered(folder, "x", {"size": 3}, counted(calls)) == {"count": 1}
        assert remembered(folder, "x", {"size": 3}, counted(calls)) == {"count": 1}
        another_process()
    assert len(calls) == 1


@pytest.mark.parametrize("change", ["key", "kind", "folder", "code"])
def test_another_key_is_another_result(tmp_path, monkeypatch, change):
    folder, kind, key = str(tmp_path / "a"), "x", {"size": 3}
    assert remembered(folder, kind, key, lambda: 1) == 1
    if change == "key":
        key = {"size": 4}
    elif change == "kind":
        kind = "y"
    elif change == "folder":
        folder = str(tmp_path / "b")
    else:
        monkeypatch.setattr(cache, "_code_sha256", lambda: "newer")
    assert remembered(folder, kind, key, lambda: 2) == 2


def test_a_result_may_be_changed(tmp_path):
    remembered(str(tmp_path), "x", 1, lambda: [1]).append(2)
    assert remembered(str(tmp_path), "x", 1, lambda: [3]) == [1]


def test_a_torn_file_is_made_anew(tmp_path, another_process):
    remembered(str(tmp_path), "x", 1, lambda: 1)
    (path,) = tmp_path.glob("x_*.json")
    path.write_text('{"key')
    another_process()
    assert remembered(str(tmp_path), "x", 1, lambda: 2) == 2


def test_what_make_raises_is_not_remembered(tmp_path):
    def fail():
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        remembered(str(tmp_path), "x", 1, fail)
    assert remembered(str(tmp_path), "x", 1, lambda: 2) == 2


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path, another_process):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "cache")
    assert remembered(folder, "x", 1, lambda: 1) == 1
    another_process()
    assert remembered(folder, "x", 1, lambda: 2) == 2
    assert os.listdir(tmp_path) == ["file"]


def make_in_process(folder, made, results):
    def make():
        made.put(os.getpid())
        time.sleep(0.2)
        return os.getpid()

    results.put(remembered(folder, "x", 1, make))


def test_one_of_many_processes_makes_it(tmp_path):
    context = multiprocessing.get_context("fork")
    made, results = context.Queue(), context.Queue()
    processes = [
        context.Process(target=make_in_process, args=(str(tmp_path), made, results))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    found = {results.get(timeout=HANGS_S) for _ in processes}
    for process in processes:
        process.join()
    assert found == {made.get(timeout=HANGS_S)} and made.empty()


def test_the_state_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("1")
    state = file_state(str(path))
    (tmp_path / "link.json").symlink_to(path)
    assert file_state(str(tmp_path / "link.json")) == state
    path.write_text("12")
    assert file_state(str(path)) != state
    with pytest.raises(FileNotFoundError):
        file_state(str(tmp_path / "none.json"))


def test_a_file_system_without_locks_makes_its_own(tmp_path, monkeypatch):
    def no_locks(path):
        raise LockException("No locks available")

    monkeypatch.setattr(cache, "file_lock", no_locks)
    assert remembered(str(tmp_path), "x", {"size": 3}, lambda: 1) == 1
