from __future__ import annotations

import numpy as np
import pytest

from cell2sen.app.frames import DTYPES, pack, plain, unpack


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_each_type_come_back(dtype: str) -> None:
    given = {"odd": np.arange(5).astype(dtype), "none": np.zeros(0, dtype=dtype), "one": np.ones(1, dtype=dtype)}
    data = pack({"gene": "HLA-DRA µ", "n": 3}, given)
    values, arrays = unpack(data)
    assert values == {"gene": "HLA-DRA µ", "n": 3}
    assert list(arrays) == list(given)
    for name, array in given.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_layout_that_javascript_reads() -> None:
    data = pack({"a": 1}, {"x": np.array([1.5, 2.5], dtype=np.float32), "y": np.array([7], dtype=np.uint8)})
    size = int.from_bytes(data[:4], "little")
    assert (4 + size) % 8 == 0
    assert np.frombuffer(data[4 + size : 4 + size + 8], dtype="<f4").tolist() == [1.5, 2.5]
    assert data[4 + size + 8] == 7
    assert len(data) % 8 == 0


def test_missing_numbers_are_null() -> None:
    found = {"a": np.float64("nan"), "b": [np.int64(3), float("inf")], "c": np.array([1.0, np.nan]), "d": (True, None)}
    assert plain(found) == {"a": None, "b": [3, None], "c": [1.0, None], "d": [True, None]}


def test_what_is_no_frame_is_refused() -> None:
    data = pack({"a": 1}, {"x": np.arange(4, dtype=np.float32)})
    wrong = data.replace(b"float32", b"complex")
    bodies = [
        b"",
        b"\0\0",
        data[:10],
        data[:-8],
        b"\x08\0\0\0notjson!",
        pack({}).replace(b'"values": {}', b'"values": []'),
    ]
    for body in (*bodies, wrong):
        with pytest.raises(ValueError, match=r"frame|cut off|available"):
            unpack(body)
    with pytest.raises(TypeError, match="one dimension"):
        pack({}, {"x": np.zeros((2, 2), dtype=np.float32)})
    with pytest.raises(TypeError, match="int64"):
        pack({}, {"x": np.zeros(2, dtype=np.int64)})
