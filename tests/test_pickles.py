"""resdet.pickles: arrays of every pickler are read, and nothing else is ever built or called."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from resdet.pickles import read_pickle

# What Python 2 wrote for numpy.array([1, 2], "float32"): texts are bytes of no encoding.
PYTHON_2 = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\n"
    b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tb."
)


def write(path, value, protocol=pickle.DEFAULT_PROTOCOL):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_come_back(tmp_path, protocol):
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = [
        *(numbers, np.asfortranarray(numbers), numbers[:, ::2], numbers.astype(">f8"), numbers.astype("f2")),
        *(numbers > 2, np.zeros((0, 4)), np.array(7), np.float64(0.1), np.int64(-3)),
    ]
    content = OrderedDict(model={"a": arrays, "b": ("text", 1, 2.5, None, True)}, name="naïve")
    found = read_pickle(write(tmp_path / "a.pkl", content, protocol))
    assert list(found) == ["model", "name"] and found["model"]["b"] == ("text", 1, 2.5, None, True)
    assert protocol < 3 or found["name"] == "naïve"
    for array, expected in zip(found["model"]["a"], arrays, strict=True):
        assert type(array) is np.ndarray and array.flags.writeable and array.dtype.isnative
        assert array.dtype.name == expected.dtype.name and np.array_equal(array, expected)


def test_arrays_of_python_2_and_of_both_numpies_come_back(tmp_path):
    for core in (b"numpy.core", b"numpy._core"):
        (tmp_path / "a.pkl").write_bytes(PYTHON_2.replace(b"numpy.core", core))
        assert read_pickle(tmp_path / "a.pkl").tolist() == [1, 2]


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function, named",
    [(os.system, f"{os.system.__module__}.system"), (eval, "eval"), (getattr, "getattr"), (np.load, "numpy.load")],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_by_what_it_asks_for(tmp_path, function, named, protocol, refuses):
    proof = tmp_path / "ran"
    path = write(tmp_path / "bad.pkl", {"w": np.zeros(2), "x": Call(function, f"touch {proof}")}, protocol)
    with refuses(path, named, "do not trust it"):
        read_pickle(path)
    assert not proof.exists()


def test_that_pickle_would_run_code_in_trusting_hands(tmp_path):
    pickle.loads(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([None, "object"], dtype=object),
        np.zeros(2, dtype=[("x", "f4"), ("y", "i4")]),
        np.array(["text"]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        {1, 2},
        complex(1, 2),
    ],
    ids=["objects", "records", "texts", "dates", "set", "complex"],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, value, refuses):
    path = write(tmp_path / "other.pkl", {"w": value}, 2)
    with refuses(path):
        read_pickle(path)


def test_an_array_with_less_content_than_its_shape_is_refused(tmp_path, refuses):
    (tmp_path / "short.pkl").write_bytes(PYTHON_2.replace(b"K\x01K\x02\x85", b"K\x01K\x03\x85"))
    with refuses(tmp_path / "short.pkl", "cannot be read as a pickle of arrays"):
        read_pickle(tmp_path / "short.pkl")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80", PYTHON_2[:60], PYTHON_2[:-6], b"cos\n", b"]\x94h\x00a."]
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, content, refuses):
    (tmp_path / "broken.pkl").write_bytes(content)
    with refuses(tmp_path / "broken.pkl", "copy it again"):
        read_pickle(tmp_path / "broken.pkl")


def test_a_missing_file_is_named(tmp_path, refuses):
    with refuses(tmp_path / "none.pkl", "No such file"):
        read_pickle(tmp_path / "none.pkl")
