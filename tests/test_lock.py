"""One process at a time writes into a folder."""

import contextlib
import errno
import os
import socket

import pytest

from crnas_d2.lock import check_unlocked, folder_lock


def kill(process):
    process.kill()
    process.join()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, hold):
    folder = tmp_path / "output"
    temporary = folder / f"model_final.pth.{'0' * 32}.tmp"
    check_unlocked(str(folder))
    assert not folder.exists()
    first = hold(folder, child=True)
    temporary.touch()
    expected = f"{folder} is being written by process {first.pid} on {socket.gethostname()}; wait"
    with pytest.raises(BlockingIOError, match=expected), folder_lock(str(folder)):
        pass
    with pytest.raises(BlockingIOError, match=expected):
        check_unlocked(str(folder))
    assert temporary.exists()  # which the first one still writes
    with folder_lock(str(tmp_path)):  # another folder
        pass
    kill(first)
    check_unlocked(str(folder))
    assert temporary.exists()
    with folder_lock(str(folder)):
        assert not temporary.exists()
    assert os.listdir(folder) == [".lock"]


def test_released_at_the_end(tmp_path, hold):
    for error in (contextlib.nullcontext(), pytest.raises(KeyError)):
        with error, folder_lock(str(tmp_path)):
            if not isinstance(error, contextlib.nullcontext):
                raise KeyError
        kill(hold(tmp_path))


def test_no_lock_where_nothing_can_be_written(tmp_path, monkeypatch):
    def fail(path, *_):
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(os, "open", fail)
    check_unlocked(str(tmp_path))
    with folder_lock(str(tmp_path)):
        pass
    with folder_lock("s3://bucket/output"):
        pass
    assert not os.listdir(tmp_path)


def test_several_may_look_at_once(tmp_path, monkeypatch):
    """As the processes of a job do."""
    with folder_lock(str(tmp_path)):
        pass
    close, codes = os.close, []

    def look_too(descriptor):
        monkeypatch.setattr(os, "close", close)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                check_unlocked(str(tmp_path))
                os._exit(0)
            os._exit(1)
        codes.append(os.waitpid(child, 0)[1])
        close(descriptor)

    monkeypatch.setattr(os, "close", look_too)
    check_unlocked(str(tmp_path))
    assert codes == [0]
