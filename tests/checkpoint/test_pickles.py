"""The unpickler of arrays: all that NumPy writes, and nothing else."""

import io
import os
import pickle
import pickletools
from collections import OrderedDict

import numpy as np
import pytest

from crnas_d2.checkpoint import pickles

CONTENT = OrderedDict(
    a=np.arange(6, dtype="f4").reshape(2, 3),
    transposed=np.arange(6, dtype="f8").reshape(2, 3).T,
    half=np.ones(3, dtype="f2"),
    counter=np.array(7),
    scalar=np.float32(2.5),
    text=["é", 1, None, True, b"\xff"],
)


def load(data):
    return pickles.load(io.BytesIO(data))


def assert_same(loaded, expected):
    assert list(loaded) == list(expected)
    assert loaded["text"] == expected["text"]
    for key in expected.keys() - {"text"}:
        assert loaded[key].dtype == expected[key].dtype
        assert np.array_equal(loaded[key], expected[key])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_any_protocol(protocol):
    assert_same(load(pickle.dumps(CONTENT, protocol)), CONTENT)


@pytest.mark.parametrize("module", [b"numpy.core.", b"numpy._core."])
def test_arrays_of_numpy_1_and_2(module):
    data = pickle.dumps(CONTENT, 2)
    assert b"cnumpy._core.multiarray\n_reconstruct\n" in data
    assert_same(load(data.replace(b"numpy._core.", module)), CONTENT)


def test_arrays_of_python_2():
    # There the bytes of an array are a plain string: opcode U, where Python 3 has C.
    array = np.arange(8, dtype="f4")
    data = bytearray(pickle.dumps({"a": array}, 3).replace(b"numpy._core.", b"numpy.core."))
    data[1] = 2
    for opcode, _, position in list(pickletools.genops(bytes(data))):
        if opcode.name == "SHORT_BINBYTES":
            data[position : position + 1] = b"U"
    assert np.array_equal(load(bytes(data))["a"], array)


class Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "function, args, name",
    [
        (os.system, ("touch {trace}",), r"(posix|nt)\.system"),
        (open, ("{trace}", "w"), r"_?io\.open"),
        (exec, ("open('{trace}', 'w')",), r"(builtins|__builtin__)\.exec"),
        (np.save, ("{trace}", 1), r"numpy\.save"),
        (np.ndarray.tofile, (np.ones(2), "{trace}"), r"(numpy\.ndarray\.tofile|.*\.getattr)"),
    ],
)
def test_nothing_else_is_imported_or_called(tmp_path, protocol, function, args, name):
    trace = tmp_path / "trace"
    args = [arg.format(trace=trace) if isinstance(arg, str) else arg for arg in args]
    data = pickle.dumps({"conv1_w": Call(function, *args)}, protocol)
    with pytest.raises(pickle.UnpicklingError, match=f"it asks for {name}, which could run code"):
        load(data)
    assert not trace.exists()
    if function is not np.ndarray.tofile:
        pickle.loads(data)
        assert list(tmp_path.iterdir()), "the pickle does no harm: it proves nothing"


def test_other_codecs_are_refused():
    data = pickle.dumps({"a": b"\xff"}, 2)
    assert b"latin1" in data
    with pytest.raises(pickle.UnpicklingError, match="it asks for the codec 'rot_13'"):
        load(data.replace(b"X\x06\x00\x00\x00latin1", b"X\x06\x00\x00\x00rot_13"))


def test_objects_of_other_classes_are_refused():
    with pytest.raises(pickle.UnpicklingError, match="it asks for .*test_pickles.Call"):
        load(pickle.dumps(Call))


@pytest.mark.parametrize("place", sorted(pickles._of_weights()))
@pytest.mark.parametrize("state", [b"(Vevil\nI1\nd", b"(N(Vevil\nI1\ndt"])
def test_nothing_that_is_called_can_be_changed(place, state):
    """With BUILD a pickle sets attributes, also of a function or class that it asks for."""
    function = pickles._of_weights()[place]
    data = f"c{place[0]}\n{place[1]}\n".encode() + state + b"b."
    pickletools.dis(data, io.StringIO())
    with pytest.raises((AttributeError, TypeError, pickle.UnpicklingError)):
        load(data)
    assert not hasattr(function, "evil")


class Innocent:
    pass


def test_a_class_that_is_asked_for_stays_as_it_is():
    data = f"c{__name__}\nInnocent\n(N(Vevil\nI1\ndtb.".encode()
    pickle.loads(data)
    assert Innocent.evil == 1
    del Innocent.evil
    with pytest.raises(pickle.UnpicklingError, match="Innocent, which could run code"):
        load(data)
    assert not hasattr(Innocent, "evil")
