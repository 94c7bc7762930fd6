"""Pickled arrays, read without running any code that the file may hold.

A pickle is a program: it names functions and what they are called with. This reader knows the names that arrays are
pickled with, has plain stand-ins for them, and refuses every other name; no function that a file chooses is called.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from resdet.errors import UserError, reason


def read_pickle(path: Path) -> Any:
    """What the pickle `path` holds, as `unpickle` reads it. Raises UserError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): copy it again, or pass another.") from error
    return unpickle(io.BytesIO(content), str(path))


def unpickle(file: BinaryIO, path: str) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, strings, numbers and numpy arrays of numbers.

    Raises UserError, which names `path`, for a pickle that asks for anything else, and for a file that is none.
    """
    try:
        return _unwrap(_Reader(file, encoding="latin1").load())  # the encoding of arrays that Python 2 wrote
    except _OtherGlobalError as error:
        raise UserError(
            f"{path} asks for {error}, which plain weights do not need and which may run code: "
            "do not trust it, and pass a file of arrays."
        ) from error
    except Exception as error:  # what a broken file makes pickle raise has no end
        raise UserError(
            f"{path} cannot be read as a pickle of arrays ({reason(error)}): copy it again, or pass another."
        ) from error


class _OtherGlobalError(Exception):
    """The name that the file asked for."""


class _Dtype:
    """Stands for numpy.dtype: the name of a number's type and, later, its byte order."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r"[biuf][1248]", name):
            raise ValueError(f"an array of {name!r} does not hold numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, parts, names, fields, *_ = state
        if (parts, names, fields) != (None, None, None):
            raise ValueError("an array of records does not hold numbers")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for numpy.ndarray, whose content comes after its making."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, content = state
        self.array = _from_buffer(content, dtype, shape, "F" if by_columns else "C").array


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> _Array:
    return _Array()


def _from_buffer(content: bytes | str, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> _Array:
    array = _Array()
    buffer = content.encode("latin1") if isinstance(content, str) else content
    numbers = np.frombuffer(buffer, dtype.dtype).reshape(shape, order=order)
    array.array = numbers.astype(dtype.dtype.newbyteorder("="))
    return array


def _scalar(dtype: _Dtype, content: bytes | str) -> _Array:
    return _from_buffer(content, dtype, (), "C")


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 can read."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """And how it writes none of them."""
    return b""


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    STAND_INS[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in; nothing is ever imported."""
        if (module, name) not in STAND_INS:
            raise _OtherGlobalError(f"{module}.{name}")
        return STAND_INS[module, name]


def _unwrap(value: Any) -> Any:
    """`value` with the arrays in the place of their stand-ins."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _unwrap(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unwrap(item) for item in value)
    return value
