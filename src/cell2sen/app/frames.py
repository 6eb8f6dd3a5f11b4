"""Frames: a result as JSON and arrays in one block of bytes, both ways between the page and Python."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Result of a verb: plain values, and arrays by name.
Answer = tuple[dict[str, Any], dict[str, NDArray[Any]]]

#: Types of arrays, each with a typed array in JavaScript.
DTYPES = ("uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")

#: Arrays begin at multiples of this number of bytes, as typed arrays of JavaScript must.
ALIGNMENT = 8


def pack(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> bytes:
    """Bytes of a frame: length of the JSON as uint32, JSON, arrays; all little-endian, padded to 8 bytes.

    Parameters
    ----------
    values
        Plain values; NaN and infinite numbers become null.
    arrays
        Of the types :data:`DTYPES`, of one dimension.
    """
    listed, parts = [], []
    for name, array in (arrays or {}).items():
        array = np.ascontiguousarray(array)
        if array.dtype.name not in DTYPES or array.ndim != 1:
            raise TypeError(
                f"array {name!r} must be one of {DTYPES} in one dimension, found {array.dtype}{array.shape}"
            )
        listed.append({"name": name, "dtype": array.dtype.name, "length": len(array)})
        parts.append(_padded(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()))
    head = json.dumps({"values": plain(values), "arrays": listed}, ensure_ascii=False, allow_nan=False).encode()
    head += b" " * (-(4 + len(head)) % ALIGNMENT)
    return b"".join([len(head).to_bytes(4, "little"), head, *parts])


def unpack(data: bytes | memoryview) -> Answer:
    """Values and arrays of a frame. Arrays are copies.

    Raises
    ------
    ValueError
        The bytes are no frame: cut off, no JSON, or an array of another type.
    """
    view = memoryview(data)
    size = int.from_bytes(view[:4], "little")
    if len(view) < 4 or len(view) < 4 + size:
        raise ValueError(f"a frame of {len(view)} bytes is cut off")
    try:
        head = json.loads(bytes(view[4 : 4 + size]))
        values, listed = head["values"], [(str(a["name"]), str(a["dtype"]), int(a["length"])) for a in head["arrays"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"a frame without its JSON ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise ValueError("a frame without values")
    arrays: dict[str, NDArray[Any]] = {}
    at = 4 + size
    for name, dtype, length in listed:
        if dtype not in DTYPES or length < 0:
            raise ValueError(f"array {name!r} of type {dtype!r} and length {length}; available: {DTYPES}")
        kind = np.dtype(dtype).newbyteorder("<")
        if at + length * kind.itemsize > len(view):
            raise ValueError(f"array {name!r} is cut off")
        found = np.frombuffer(view, dtype=kind, count=length, offset=at)
        arrays[name] = found.astype(kind.newbyteorder("="))
        at += length * kind.itemsize
        at += -at % ALIGNMENT
    return values, arrays


def plain(value: Any) -> Any:
    """The value with numbers of numpy as numbers, arrays as lists, and NaN as ``None``, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)
