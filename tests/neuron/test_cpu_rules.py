"""Tests of the series that replace exponentials in the CPU's rules, and of custom rules.

What the shipped rules compute is tested by test_neuron.py and test_cpu.py.
"""

from dataclasses import dataclass

import numba
import numpy as np
import pytest
import torch

import tsslbp
from tsslbp import rules
from tsslbp.errors import InvalidInput
from tsslbp.kernels import compiled, simd, tiles
from tsslbp.kernels.tiles import kept, where
from tsslbp.neuron import cpu, cpu_rules

# Relative: a few dozen rounding errors, which the end of a series doubles three or six times.
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
    """The series is accurate at 0, too, where its terms vanish, and constant beyond the clamp."""
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


@dataclass(frozen=True)
class Triangle(rules.Rule):
    """The `Surrogate` with the triangular derivative, written as a custom rule."""

    height: float = 0.3
    resets: bool = True
    kind: float | str = 1


def triangle_step(r, t, grad, state, history, k):
    potential = kept(history.potentials, t)
    distance = where(potential < k.threshold, k.threshold - potential, potential - k.threshold)
    near = (distance < 1) | (distance < 0)
    slope = where(near, r.height * (1 - distance), 0)
    passed_on = where((potential > k.threshold) & (potential > 0), 1 - r.resets, 1 + 0 * potential)
    gradient = slope * grad + k.decay * passed_on * state[1]
    return gradient, (grad, gradient)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = dict(cpu_rules.CONSTANTS)
    monkeypatch.setattr(cpu_rules, "CONSTANTS", constants)
    monkeypatch.setattr(cpu, "BACKWARD", constants)
    cpu_rules.add(Triangle, triangle_step, states=2)


def gradient(rule: rules.Rule, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    tsslbp.lif(x, rule=rule, impl="cpu").square().sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rule_of_ones_own(added, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A custom rule matches the built-in one, and its compiled code is not kept on disk."""
    kept_on_disk, cache = [], compiled._cache
    monkeypatch.setattr(compiled, "_cache", lambda one: (kept_on_disk.append(one), cache(one))[1])
    x = torch.randn(7, 3, 45, dtype=dtype)
    expected = gradient(rules.Surrogate(derivative="triangle"), x)
    monkeypatch.setattr(cpu._backward_kernel, "compiled", {})
    kept_on_disk.clear()
    torch.testing.assert_close(gradient(Triangle(), x), expected)
    assert not any(function is cpu._backward_kernel.__wrapped__ for function in kept_on_disk)
    torch.testing.assert_close(gradient(Triangle(height=0.6), x), 2 * expected)
    assert not torch.allclose(gradient(Triangle(resets=False), x), expected)


def test_another_step_for_the_same_rule(added) -> None:
    def nothing(r, t, grad, state, history, k):
        return 0 * grad, state

    x = torch.randn(5, 45)
    assert gradient(Triangle(), x).any()
    cpu_rules.add(Triangle, nothing)
    assert not gradient(Triangle(), x).any()


class Scaled(Triangle):
    is_normalised = True


def test_learned_constants_need_to_know_what_a_spike_carries(added) -> None:
    neurons = tsslbp.layers.LIF(rule=Triangle(), learnable=("tau_m",), impl="cpu")
    with pytest.raises(InvalidInput, match=r"with the rule Triangle: pass through_spike to .*add"):
        neurons(torch.randn(5, 2, 45))

    def through_spike(r, t, gradient, later, history, k):
        return 2 * gradient

    cpu_rules.add(Triangle, triangle_step, 2, through_spike)
    outputs = neurons(torch.randn(5, 2, 45))
    outputs.sum().backward()
    assert neurons.raw_tau_m.grad is not None and neurons.raw_tau_m.grad.isfinite()


def test_steps_that_cannot_be_used(added) -> None:
    cpu_rules.add(Scaled, triangle_step, states=2)
    with pytest.raises(InvalidInput, match=r"gradient of a layer, as Scaled does: use impl="):
        tsslbp.lif(torch.randn(5, 45), rule=Scaled(), impl="cpu")
    with pytest.raises(InvalidInput, match=r"through_spike of Triangle must take r, t, gradient"):
        cpu_rules.add(Triangle, triangle_step, 2, triangle_step)
    with pytest.raises(InvalidInput, match=r"step of Triangle must take r, t, grad.*, got r, k$"):
        cpu_rules.add(Triangle, lambda r, k: None)
    with pytest.raises(InvalidInput, match="states must be 1, 2 or 3, got 4"):
        cpu_rules.add(Triangle, triangle_step, states=4)
    with pytest.raises(InvalidInput, match=r"need numbers, but Triangle\.kind is 'x': use impl="):
        gradient(Triangle(kind="x"), torch.randn(5, 45))

    def mistaken(r, t, grad, state, history, k):
        return r.width * grad, state

    cpu_rules.add(Triangle, mistaken)
    with pytest.raises(
        InvalidInput,
        match=r"^Numba cannot compile the step of Triangle: Unknown attribute 'width'.*$",
    ):
        gradient(Triangle(), torch.randn(5, 45))
