"""Files are whole or absent, JSON is valid, and the fault of a disk is the one that is told."""

import errno
import json
import math
import os
import resource
import signal

import numpy as np
import pytest
import torch

from crnas_d2.files import (
    clean_temporaries,
    open_atomically,
    read_json,
    write_atomically,
    write_json,
    write_signed,
)


def refuse_constants(name):
    raise ValueError(f"{name} is no JSON")


def test_json_has_no_numbers_that_are_not_finite(tmp_path):
    path = str(tmp_path / "file.json")
    content = {
        "AP": math.nan,
        "rows": [(1, math.inf), [-math.inf, 0.1]],
        "of NumPy": np.float64("nan"),
        "text": "NaN",
    }
    write_json(path, content)
    with open(path) as file:
        read = json.load(file, parse_constant=refuse_constants)
    assert read == {"AP": None, "rows": [[1, None], [None, 0.1]], "of NumPy": None, "text": "NaN"}
    finite = {"b": [0.1, 1e300, {"c": None}], "a": "é"}
    write_json(path, finite)
    assert read_json(path) == finite
    with open(path) as file:
        assert file.read() == json.dumps(finite, indent=1) + "\n"


@pytest.mark.parametrize(
    "write, contents",
    [
        (write_atomically, [b"one", b"two"]),
        (write_atomically, [b"one", b"one more"]),
        (write_json, [{"AP": 1.0}, {"AP": 2.0}]),
        (write_signed, ["a: 1\n", "a: 2\n"]),
    ],
)
def test_what_is_there_is_not_written_again(tmp_path, write, contents):
    path = tmp_path / "file"
    write(str(path), contents[0])
    first = path.stat()
    write(str(path), contents[0])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    before = path.read_bytes()
    write(str(path), contents[1])
    assert path.read_bytes() != before and os.listdir(tmp_path) == ["file"]


@pytest.fixture
def full_disk():
    """Files of this process may have 10,000 bytes, as on a disk that is full behind them."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, previous)


def write_tensors(file):
    torch.save({f"layer{i}": torch.zeros(1000) for i in range(9)}, file)


def write_at_once(file):
    file.write(bytes(20_000))


def write_into_the_buffer(file):
    for _ in range(12):
        file.write(bytes(1000))


@pytest.mark.parametrize("write", [write_tensors, write_at_once, write_into_the_buffer])
def test_a_full_disk_is_what_is_told(tmp_path, full_disk, write):
    """Not that torch.save has found another place in the file than it expected."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(OSError) as error, open_atomically(str(path)) as file:
        write(file)
    assert error.value.errno == errno.EFBIG and error.value.filename == str(path)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["file"]


def test_another_error_stays_what_it_is(tmp_path):
    for error in (KeyError("a"), KeyboardInterrupt(), OSError("of the network")):
        with pytest.raises(type(error)) as raised, open_atomically(str(tmp_path / "file")):
            raise error
        assert raised.value is error
    with pytest.raises(FileNotFoundError) as raised:  # and not of its temporary name
        write_atomically(str(tmp_path / "absent" / "file"), b"")
    assert raised.value.filename == str(tmp_path / "absent" / "file")
    assert not os.listdir(tmp_path)


def test_temporaries_of_killed_processes_are_removed(tmp_path):
    pid = os.fork()
    if not pid:
        with open_atomically(str(tmp_path / "page.html")):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    [left] = os.listdir(tmp_path)
    assert left.startswith("page.html.")
    own = {"notes.tmp", "a.0123abcd.tmp", f".{'0' * 32}.tmp", f"page.{'0' * 32}.tmp.html"}
    for name in own:
        (tmp_path / name).touch()
    clean_temporaries(str(tmp_path))
    assert {*os.listdir(tmp_path)} == own
    clean_temporaries(str(tmp_path / "absent"))
