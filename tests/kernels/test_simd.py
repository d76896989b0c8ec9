"""Vector operations compared with their definitions, written with NumPy."""

import itertools

import numba
import numpy as np
import pytest

from tsslbp.kernels import simd

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}  # a sum of about ten products, contracted or not


def normal(size: int, dtype, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    tolerance = TOLERANCE[actual.dtype.type]
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@DTYPES
def test_a_vector_is_64_bytes(dtype) -> None:
    assert (
        simd.lanes(np.dtype(dtype).itemsize) * np.dtype(dtype).itemsize == 64 == simd.VECTOR_BYTES
    )


@numba.njit
def _scratch(size, array):
    room = simd.scratch(size, array.dtype)
    return room.size, room.itemsize, room.ctypes.data


@DTYPES
@pytest.mark.parametrize("size", [0, 1, 17, 1000])
def test_scratch_is_as_large_as_asked_for_and_aligned(size: int, dtype) -> None:
    found, itemsize, address = _scratch(size, np.zeros(1, dtype))
    assert (found, itemsize, address % 64) == (size, np.dtype(dtype).itemsize, 0)


def _gather(taps: int, vectors: int):
    @numba.njit
    def gather(matrix, base, rows, values, first, last, out, to, count):
        simd.gather(taps, vectors, matrix, base, rows, values, first, last, out, to, count)

    return gather


@DTYPES
@pytest.mark.parametrize(("taps", "vectors"), [(1, 1), (1, 4), (3, 2), (5, 3)])
def test_gather_adds_up_rows(taps: int, vectors: int, dtype) -> None:
    """Any number of events is added up, and values beyond the count stay as they are."""
    lanes = simd.lanes(np.dtype(dtype).itemsize)
    width, gather = vectors * lanes, _gather(taps, vectors)
    matrix, values = normal(40 * width, dtype, 0), normal(12, dtype, 1)
    rows = np.random.default_rng(2).integers(taps, 30, 12).astype(np.int32)
    base, to = 3 * width, 5
    counts = (0, width, 1, width - 1, width // 2)
    for (first, last), count in itertools.product([(2, 2), (0, 1), (3, 12), (0, 12)], counts):
        before = normal(to + taps * width + 3, dtype, 3)
        out, expected = before.copy(), before.astype(np.float64)
        written, more, size = np.zeros(len(out), bool), count == 0, count or width
        gather(matrix, base, rows, values, first, last, out, to, count)
        for k in range(taps):
            total = np.zeros(width)
            for i in range(first, last):
                row = base + (rows[i] - k) * width
                total += values[i].astype(np.float64) * matrix[row : row + width]
            place = slice(to + k * width, to + k * width + size)
            expected[place] = total[:size] + more * expected[place]
            written[place] = True
        assert_close(out, expected)
        assert (out[~written] == before[~written]).all()


def _spread(taps: int, pixels: int):
    @numba.njit
    def spread(matrix, base, pitch, source, at, count, out, to):
        simd.spread(taps, pixels, matrix, base, pitch, source, at, count, out, to)

    return spread


@DTYPES
@pytest.mark.parametrize(("taps", "pixels"), [(1, 1), (1, 4), (3, 4), (5, 2)])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_spread_adds_to_the_pixels_around(taps: int, pixels: int, count: int, dtype) -> None:
    lanes = simd.lanes(np.dtype(dtype).itemsize)
    base, at, to, pitch = 2, 3, 4, taps * lanes + 1
    matrix = normal(base + 8 * pitch + taps * lanes, dtype, 0)
    source = normal(at + pixels * 7, dtype, 1)
    out = normal(to + (taps + pixels) * lanes, dtype, 2)
    expected = out.astype(np.float64)
    for i in range(pixels):
        for k in range(taps):
            for j in range(count):
                row = base + j * pitch + k * lanes
                start = to + (i + k) * lanes
                value = source[at + i * count + j].astype(np.float64)
                expected[start : start + lanes] += value * matrix[row : row + lanes]
    _spread(taps, pixels)(matrix, base, pitch, source, at, count, out, to)
    assert_close(out, expected)


@numba.njit
def _compress(x, at, count, row, rows, values, to):
    return simd.compress(x, at, count, row, rows, values, to)


ENDS = pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends there"])


@DTYPES
@ENDS
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_compress_lists_what_is_not_zero(share: float, ends: bool, dtype) -> None:
    """Events follow those already there, in order; NaN is an event, and minus zero is not."""
    lanes = simd.lanes(np.dtype(dtype).itemsize)
    x = normal(3 * lanes, dtype, 0) * (np.random.default_rng(1).random(3 * lanes) < share)
    x = x.astype(dtype)
    x[lanes], x[lanes + 1] = np.nan, -0.0
    for count in range(lanes + 1):
        rows, values = np.full(4 * lanes, -1, np.int32), np.full(4 * lanes, -1, dtype)
        known = x[: lanes + count] if ends else x
        end = _compress(known, lanes, count, 100, rows, values, 5)
        (events,) = np.nonzero(x[lanes : lanes + count])
        assert end == 5 + len(events)
        assert (rows[5:end] == 100 + events).all()
        np.testing.assert_array_equal(values[5:end], x[lanes + events])
        assert (rows[:5] == -1).all() and (values[:5] == -1).all()
        assert (rows[5 + lanes :] == -1).all() and (values[5 + lanes :] == -1).all()


@numba.njit
def _move(source, at, count, target, to, room):
    simd.move(source, at, count, target, to, room)


@DTYPES
@ENDS
def test_move_copies_so_many_values_and_no_more(ends: bool, dtype) -> None:
    """Zeros follow the values if there is room for a whole vector, and otherwise nothing."""
    lanes = simd.lanes(np.dtype(dtype).itemsize)
    source = normal(2 * lanes, dtype, 0)
    for count in range(lanes + 1):
        for room in {count, max(count, lanes - 1), lanes}:
            target = np.full(3 * lanes, -1, dtype)
            _move(source[: 3 + count] if ends else source, 3, count, target, 2, room)
            assert (target[2 : 2 + count] == source[3 : 3 + count]).all()
            assert (target[2 + count : 2 + room] == (0 if room == lanes else -1)).all()
            assert (target[:2] == -1).all() and (target[2 + room :] == -1).all()
