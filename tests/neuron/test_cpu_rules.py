"""The series that stand for exponentials in the CPU's rules, against NumPy in double precision.

What the rules compute is tested by test_neuron.py and test_cpu.py.
"""

import numba
import numpy as np
import pytest

from tsslbp import rules
from tsslbp.kernels import simd, tiles
from tsslbp.neuron import cpu_rules

# Relative. A few dozen roundings, which the last steps of a series double three or six times.
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


@numba.njit(error_model="numpy")
def _logistic(x, clamp, lanes):
    for i in range(x.size // (4 * lanes)):
        tiles.keep(cpu_rules._logistic(tiles.kept(x, i), clamp, lanes), x, i)


@numba.njit(error_model="numpy")
def _exponential(x, lanes):
    for i in range(x.size // (4 * lanes)):
        tiles.keep(cpu_rules._exponential(tiles.kept(x, i), lanes), x, i)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("clamp", [0.5, 8.0, 16.0])
def test_logistic_series(clamp: float, dtype) -> None:
    """Also at 0, where its terms vanish, and beyond the clamp, where it stays as it is."""
    x = np.concatenate([np.linspace(-20, 20, 1279), [0.0]]).astype(dtype)
    f = np.exp(np.clip(x.astype(np.float64), -clamp, clamp))
    _logistic(x, clamp, simd.lanes(x.itemsize))
    np.testing.assert_allclose(x, f / (1 + f) ** 2, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_exponential_series(dtype) -> None:
    x = np.linspace(0, 31, 1280).astype(dtype)
    expected = np.exp(-x.astype(np.float64))
    _exponential(x, simd.lanes(x.itemsize))
    np.testing.assert_allclose(x, expected, rtol=TOLERANCE[dtype])
    far = np.full(64, 1e30, dtype)
    _exponential(far, simd.lanes(far.itemsize))
    assert (far >= 0).all() and (far < 2e-14).all()


def test_every_rule_has_constants_and_a_step() -> None:
    assert {type(make()) for make in rules.RULES.values()} == cpu_rules.CONSTANTS.keys()
    k = type("K", (), {"psc_gain": 1 / 3, "threshold": 1.0})
    for make in rules.RULES.values():
        constants = cpu_rules.CONSTANTS[type(make())](make(), k)
        assert type(constants) in cpu_rules.STEPS


def test_shapes_are_those_of_the_rule() -> None:
    assert cpu_rules.SHAPES.keys() == rules.DERIVATIVES.keys()
    assert len(set(cpu_rules.SHAPES.values()) | {cpu_rules.EXPONENTIAL}) == 6
