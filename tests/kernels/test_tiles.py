"""Tiles and rows compared with the same operations in NumPy; all values are exactly equal."""

import numba
import numpy as np
import pytest

from tsslbp.kernels import simd, tiles

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def lanes_of(dtype) -> int:
    return simd.lanes(np.dtype(dtype).itemsize)


def normal(size: int, dtype, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


@numba.njit
def _arithmetic(x, y, out):
    a, b = tiles.kept(x, 0), tiles.kept(y, 0)
    tiles.keep(a + b, out, 0)
    tiles.keep(a - b, out, 1)
    tiles.keep(a * b, out, 2)
    tiles.keep(a / b, out, 3)
    tiles.keep(2 * a, out, 4)
    tiles.keep(a - 0.1, out, 5)
    tiles.keep(1 / b, out, 6)


@DTYPES
def test_arithmetic_is_that_of_the_dtype(dtype) -> None:
    """Results equal NumPy's to the last bit, with numbers rounded to the dtype first."""
    size = tiles.VECTORS * lanes_of(dtype)
    x, y, out = normal(size, dtype), normal(size, dtype, 1), np.empty(7 * size, dtype)
    _arithmetic(x, y, out)
    tenth, two, one = dtype(0.1), dtype(2), dtype(1)
    expected = [x + y, x - y, x * y, x / y, two * x, x - tenth, one / y]
    for actual, wanted in zip(out.reshape(7, size), expected, strict=True):
        assert (actual == wanted).all()


@numba.njit
def _compared(x, y, out):
    a, b = tiles.kept(x, 0), tiles.kept(y, 0)
    tiles.keep(tiles.where(a > b, a, b), out, 0)
    tiles.keep(tiles.where(a < b, 1, 0), out, 1)
    tiles.keep(tiles.where(a <= 0.5, a, -1), out, 2)
    return tiles.count(a > b), tiles.count(a <= b)


@DTYPES
def test_comparisons_and_choices(dtype) -> None:
    """NaN is neither above, nor below, nor equal to another value."""
    size = tiles.VECTORS * lanes_of(dtype)
    x, y, out = normal(size, dtype), normal(size, dtype, 1), np.empty(3 * size, dtype)
    x[3], x[5], y[5] = np.nan, 0.25, 0.25
    above, not_above = _compared(x, y, out)
    expected = [np.where(x > y, x, y), (x < y).astype(dtype), np.where(x <= 0.5, x, -1)]
    np.testing.assert_array_equal(out.reshape(3, size), expected)
    assert (above, not_above) == ((x > y).sum(), (x <= y).sum())
    assert above + not_above == size - 1


@numba.njit
def _first_of_rows(x, a, b, c, d):
    return tiles.count(tiles.first_of_rows(x, a, b, c, d))


@numba.njit
def _through(x, at, down, across, limits, out):
    inside = tiles.first_of_rows(x, limits[0], limits[1], limits[2], limits[3])
    tile = tiles.load_tile(x, at, down, across, inside)
    tiles.keep(tile, out, 0)
    tiles.store_tile(tile + 1, x, at, down, across, inside)


@DTYPES
def test_masked_tiles_touch_what_is_inside_alone(dtype) -> None:
    lanes = lanes_of(dtype)
    at, down, across = 3, 5 * lanes, 2 * lanes + 1
    for limits in ((lanes,) * 4, (1, 0, lanes - 1, 2), (-3, 2 * lanes, 0, 1)):
        x = normal(9 * lanes, dtype)
        before, out = x.copy(), np.full(tiles.VECTORS * lanes, np.nan, dtype)
        sizes = [min(max(limit, 0), lanes) for limit in limits]
        assert _first_of_rows(x, *limits) == sum(sizes)
        _through(x, at, down, across, limits, out)
        expected = before.copy()
        starts = at, at + across, at + down, at + down + across
        for row, start, size in zip(out.reshape(4, lanes), starts, sizes, strict=True):
            assert (row[:size] == before[start : start + size]).all()
            assert (row[size:] == 0).all()
            expected[start : start + size] += 1
        assert (x == expected).all()


@numba.njit
def _rows(x, size, out):
    row = tiles.load_row(x, 2, size)
    tiles.store_row(row * 3, out, 1, size)
    lanes = out.size // 8
    tiles.keep(tiles.repeat(row), out, 1)
    return lanes


@DTYPES
def test_rows(dtype) -> None:
    lanes = lanes_of(dtype)
    for size in (0, 1, lanes - 1, lanes, lanes + 4):
        inside = min(size, lanes)
        x, out = normal(2 * lanes, dtype), np.full(8 * lanes, -1, dtype)
        _rows(x, size, out)
        row = np.where(np.arange(lanes) < inside, x[2 : 2 + lanes], 0)
        assert (out[4 * lanes :].reshape(4, lanes) == row).all()
        assert (out[1 : 1 + inside] == 3 * row[:inside]).all()
        assert out[0] == -1 and (out[1 + inside : 4 * lanes] == -1).all()


@numba.njit
def _summed(x, out):
    tiles.store_row(tiles.sum_of_rows(tiles.kept(x, 1)), out, 0, out.size)
    tiles.keep(tiles.zero_tile(x), x, 0)
    tiles.store_row(tiles.zero_row(x), x, 5 * out.size, out.size)


@DTYPES
def test_sum_of_rows_and_zeros(dtype) -> None:
    lanes = lanes_of(dtype)
    x, out = normal(8 * lanes, dtype), np.empty(lanes, dtype)
    rows = x[4 * lanes :].reshape(4, lanes).copy()
    _summed(x, out)
    assert (out == ((rows[0] + rows[1]) + rows[2]) + rows[3]).all()
    zeros, kept = np.delete(x.reshape(8, lanes), [4, 6, 7], 0), x.reshape(8, lanes)[[4, 6, 7]]
    assert (zeros == 0).all() and (kept == rows[[0, 2, 3]]).all()
