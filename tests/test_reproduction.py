"""Tests of the identities of the derivation, and of each difference between paper and code.

docs/reproduction.md names these tests. They compute its formulas independently, in NumPy, and
compare the library with the results.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import tsslbp
from tsslbp import TSSLBP, Neuron, losses, neuron
from tsslbp.data import Binning, DataSet, normalise
from tsslbp.data.images import augment
from tsslbp.experiment import Experiment, load_recipe, recipe_names
from tsslbp.layers import Conv, InitialWeights, Linear, RowDropout, SumPool
from tsslbp.network import Network
from tsslbp.training import build_network, build_optimizer, splits, train_step

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "docs/reproduction.md", ROOT / "src/tsslbp/neuron/README.md"]

both = pytest.mark.parametrize("impl", ["reference", "cpu"])


def currents(*shape: int, seed: int = 0) -> Tensor:
    """Return input currents that make about a fifth of the neurons fire."""
    generator = torch.Generator().manual_seed(seed)
    return 0.35 + 0.6 * torch.randn(shape, generator=generator, dtype=torch.float64)


def column(values: Sequence[float]) -> Tensor:
    """Return one neuron's values over time as ``[T, 1]``."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor | None = None) -> Tensor:
    x = x.detach().requires_grad_()
    output = function(x)
    (result,) = torch.autograd.grad(output, x, torch.ones_like(output) if grad is None else grad)
    return result


def assert_close(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-12 * max(np.abs(expected).max(), 1)


# The textbook form of the derivation


def kernel_matrix(steps: int, tau_s: float) -> np.ndarray:
    """Return the synaptic kernel ``epsilon[k - t]`` at [t, k], which is 0 before the spike."""
    lag = np.arange(steps)[None] - np.arange(steps)[:, None]
    return np.where(lag >= 0, (1 - 1 / tau_s) ** np.maximum(lag, 0) / tau_s, 0.0)


def simulated(current: np.ndarray, tau_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return potential before the reset, increment and spikes of one neuron at threshold 1."""
    rest, rows = 0.0, []
    for x in current:
        u = (1 - 1 / tau_m) * rest + x
        rows.append((u, x - rest / tau_m, float(u > 1)))
        rest = 0.0 if u > 1 else u
    potential, increment, spikes = np.array(rows).T
    return potential, increment, spikes


def next_spike(spikes: np.ndarray, t: int) -> int | None:
    later = np.flatnonzero(spikes[t + 1 :])
    return t + 1 + int(later[0]) if len(later) else None


def revised(current: np.ndarray, grad: np.ndarray, tau_m: float, tau_s: float) -> np.ndarray:
    """The revised rule without warm-up, as a double sum with an explicit search for next spikes."""
    u, du, s = simulated(current, tau_m)
    q = np.clip(1 / du, 0, 8) * s
    result = q * (kernel_matrix(len(u), tau_s) @ grad)
    for t in reversed(range(len(u))):
        p = next_spike(s, t)
        if p is not None:
            factor = u[t] * q[t] / tau_m if s[t] else 1 - 1 / tau_m
            result[t] += (1 - 1 / tau_m) ** (p - t - 1) * factor * result[p]
    return result


def published(current: np.ndarray, grad: np.ndarray, tau_m: float, tau_s: float) -> np.ndarray:
    """The published rule above its rate threshold, with a matrix of reset effects."""
    u, du, s = simulated(current, tau_m)
    reset = np.zeros((len(u), len(u)))
    for t in np.flatnonzero(s):
        p = next_spike(s, int(t))
        if p is not None:
            reset[t, p] = (1 - 1 / tau_m) ** (p - t - 1) * u[t] / tau_m
    kernel = kernel_matrix(len(u), tau_s)
    return np.clip(1 / du, -10, 10) * s * ((kernel + kernel @ reset) @ grad)


@both
@pytest.mark.parametrize("steps", [1, 2, 5, 30])
@pytest.mark.parametrize(
    ("textbook", "rule"),
    [
        (revised, TSSLBP(warm_up="never")),
        (published, TSSLBP.published(warm_up="never")),
    ],
)
def test_recursions_equal_the_double_sums(textbook, rule: TSSLBP, steps: int, impl: str) -> None:
    x, grad = currents(steps, 60), currents(steps, 60, seed=1)
    settings = {"tau_m": 4.0, "tau_s": 2.5, "rule": rule, "impl": impl}
    actual = gradient(lambda x: tsslbp.lif(x, **settings), x, grad)
    expected = np.stack(
        [textbook(x[:, n].numpy(), grad[:, n].numpy(), 4.0, 2.5) for n in range(60)], axis=1
    )
    assert_close(actual, expected)


@both
def test_the_adjoint_of_the_filter_runs_backwards(impl: str) -> None:
    grad = currents(9, 4)
    through = gradient(lambda x: tsslbp.psc(x, 3.0, impl=impl), torch.zeros_like(grad), grad)
    assert_close(through, kernel_matrix(9, 3.0) @ grad.numpy())
    assert_close(through, tsslbp.psc(grad.flip(0), 3.0, impl=impl).flip(0))


@pytest.mark.parametrize("tau_s", [1.0, 2.0, 3.0])
def test_inverse_filter(tau_s: float) -> None:
    grad = currents(9, 4)
    through = gradient(lambda x: tsslbp.psc(x, tau_s), torch.zeros_like(grad), grad)
    later = torch.cat([through[1:], torch.zeros_like(through[:1])])
    assert_close(tau_s * (through - (1 - 1 / tau_s) * later), grad)


def test_only_the_input_is_stored() -> None:
    def stored(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()), lambda _: None
        ):
            function(x.requires_grad_())
        return sum(sizes)

    spikes_total = 1
    x, images = torch.zeros(30, 100), torch.zeros(2, 3, 4, 4)
    assert stored(lambda x: tsslbp.spikes(x, impl="reference"), x) == x.numel()
    assert stored(lambda x: tsslbp.lif(x, impl="cpu"), x) == x.numel() + spikes_total
    static = stored(lambda x: neuron.layer(x, neuron.NeuronLayer(pool=2, impl="cpu"), 30), images)
    assert static == images.numel() + spikes_total


# The filter commutes


def linear_parts() -> list[Callable[[Tensor], Tensor]]:
    dropout = RowDropout(0.5)

    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return dropout(x)

    return [Conv(3, 4, 3, padding=1).double(), SumPool(2, 1.1), Linear(6, 5).double(), seeded]


@pytest.mark.parametrize("part", range(4), ids=["conv", "sum pooling", "linear", "dropout mask"])
def test_filter_commutes_with_all_that_is_linear(part: int) -> None:
    function = linear_parts()[part]
    x = currents(7, 2, 3, 6, 6)
    before = gradient(lambda x: function(tsslbp.psc(x, 3.0)), x)
    after = gradient(lambda x: tsslbp.psc(function(x), 3.0), x)
    assert_close(function(tsslbp.psc(x, 3.0)).detach(), tsslbp.psc(function(x), 3.0).detach())
    assert_close(before, after)


def test_a_static_image_is_one_image_times_a_gain() -> None:
    image = currents(2, 3, 6, 6)
    psc = tsslbp.psc(image.expand(8, *image.shape), 3.0)
    gain = 1 - (1 - 1 / 3.0) ** torch.arange(1, 9, dtype=torch.float64)
    assert_close(psc, gain.view(8, 1, 1, 1, 1) * image)
    connection = Conv(3, 4, 3).double()
    assert_close(connection(psc).detach(), (gain.view(8, 1, 1, 1, 1) * connection(image)).detach())


@both
def test_images_and_their_repetition_in_time_train_alike(impl: str) -> None:
    """A static image and its repetition in time give the same output and the same gradients."""
    net = Network("4C3-P2-6", (2, 8, 8), classes=3, weight_scale=4.0, impl=impl).double()
    images = 2 * currents(5, 2, 8, 8)
    results = []
    for x in (images, images.expand(5, *images.shape)):
        psc = net(x)
        results.append((psc.detach(), torch.autograd.grad(psc.square().sum(), net.parameters())))
    assert results[0][0].any()
    assert_close(results[0][0], results[1][0])
    for static, repeated in zip(results[0][1], results[1][1], strict=True):
        assert static.any()
        assert_close(static, repeated)


# The surrogate


def cosh_form(u: np.ndarray, width: float, clamp: float) -> np.ndarray:
    """The surrogate at threshold 1, by the series of ``cosh(y) - 1`` and three doublings."""
    y = np.clip((1 - u) / width, -clamp, clamp) / 8
    m, term = np.zeros_like(y), np.ones_like(y)
    for k in range(1, 10):
        term = term * y * y / ((2 * k - 1) * (2 * k))
        m = m + term
    for _ in range(3):
        m = 2 * m * (m + 2)
    return 1 / (width * (4 + 2 * m))


@pytest.mark.parametrize(("clamp", "relative"), [(8.0, 1e-14), (16.0, 1e-12)])
def test_cosh_form_equals_logistic_form(clamp: float, relative: float) -> None:
    u = 1 + np.linspace(-1.1, 1.1, 20001) * 0.2 * clamp
    f = np.exp(np.clip((1 - u) / 0.2, -clamp, clamp))
    expected = f / (0.2 * (1 + f) ** 2)
    actual = {"formula": cosh_form(u, 0.2, clamp)}
    for impl in ("reference", "cpu"):
        rule = TSSLBP(warm_up="always", surrogate_width=0.2, surrogate_clamp=clamp)
        current = torch.tensor(u)[None]  # with one step, the potential is the current
        actual[impl] = gradient(
            lambda x: tsslbp.spikes(x, rule=rule, impl=impl),  # noqa: B023
            current,
        )[0].numpy()
    for values in actual.values():
        assert np.abs(values / expected - 1).max() < relative
        assert np.abs(values - expected).max() < 1e-14


@both
def test_surrogate_width_and_clamp(impl: str) -> None:
    """The peak is 1 / (4 width); beyond `surrogate_clamp` widths the slope falls no further."""

    def slope(u: float, **settings: float) -> float:
        rule = TSSLBP(warm_up="always", **settings)
        return gradient(lambda x: tsslbp.spikes(x, rule=rule, impl=impl), column([u])).item()

    assert slope(1.0) == pytest.approx(1.25)
    assert slope(1.0, surrogate_width=0.5) == pytest.approx(0.5)
    floor = 1 / (0.2 * (2 + 2 * np.cosh(8)))
    assert slope(-100.0) == pytest.approx(floor) == pytest.approx(slope(1 - 8 * 0.2))
    assert floor == pytest.approx(0.00168, abs=5e-6)
    assert slope(-100.0, surrogate_clamp=16.0) < 1e-6


# Differences in the neuron


@both
def test_the_reset_is_hard(impl: str) -> None:
    """After a spike the potential is 0, however far it was above the threshold."""
    after_spike = []
    for current in (1.1, 1.9):
        second = column([current, 0.95])
        after_spike.append(tsslbp.spikes(second, impl=impl).flatten().tolist())
    assert after_spike == [[1.0, 0.0], [1.0, 0.0]]
    subtracted = (1 - 1 / 5) * (1.9 - 1) + 0.95  # the potential after a reset by subtraction
    assert subtracted > 1


def test_the_dropped_gain_is_a_scale_of_the_weights() -> None:
    tau_m, resistance = 5.0, 2.0
    current = 5 * currents(20, 50)
    u, spikes = torch.zeros(50, dtype=torch.float64), []
    for x in current:  # tau_m du/dt = -u + R I, by Euler's method with a step of 1
        u = u + (-u + resistance * x) / tau_m
        fires = u > 1
        spikes.append(fires.double())
        u = torch.where(fires, 0.0, u)
    expected = torch.stack(spikes)
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(tsslbp.spikes(resistance / tau_m * current, tau_m=tau_m), expected)

    def weights(scale: float | dict[str, float]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        net = Network("4C3-6", (1, 5, 5), weight_scale=scale, generator=generator)
        return [weight.detach() for weight in net.parameters()]

    one, other = weights(1.0), weights({"conv": 5.0, "linear": 0.5})
    for plain, scaled, scale in zip(one, other, (5.0, 0.5, 0.5), strict=True):
        assert torch.allclose(scale * plain, scaled)


@both
def test_the_threshold_is_strict(impl: str) -> None:
    at, above = column([1.0]), column([np.nextafter(1.0, 2.0)])
    assert tsslbp.spikes(at, impl=impl).item() == 0
    assert tsslbp.spikes(above, impl=impl).item() == 1
    low = Network("4", (1, 1, 1), neuron=Neuron(threshold=0.25), impl=impl)
    assert low.spiking_layers[0].neurons.neuron.threshold == 0.25


# Differences in the rule


@both
def test_a_higher_potential_counts_as_more_psc(impl: str) -> None:
    """The timing part has the opposite sign of the derivative through the firing time."""
    tau_s, grad = 3.0, column([0.0, 0.0, 0.0, 1.0])  # a gradient at the fourth step only
    rule = TSSLBP(warm_up="never")
    actual = gradient(
        lambda x: tsslbp.lif(x, tau_s=tau_s, rule=rule, impl=impl),
        column([0.5, 0.9, -1.0, -1.0]),
        grad,
    )
    increment = 0.9 - 0.5 / 5  # the only spike, at the second step
    lag = 2
    assert actual[1].item() == pytest.approx((1 - 1 / tau_s) ** lag / tau_s / increment)

    def psc(firing_time: float) -> float:
        return float(np.exp(-(3 - firing_time) / tau_s) / tau_s)

    by_firing_time = (psc(1 + 1e-6) - psc(1 - 1e-6)) / 2e-6
    assert by_firing_time == pytest.approx(psc(1) / tau_s, rel=1e-6)
    chain = by_firing_time * -1 / increment  # raising the potential makes the spike earlier
    assert chain < 0 < actual[1].item()
    assert -tau_s * chain == pytest.approx(psc(1) / increment, rel=1e-6)


@both
def test_timing_bounds(impl: str) -> None:
    """1/du is positive at every spike, so only the upper bound matters, and only where du < 1/8."""
    x, grad = currents(30, 200), currents(30, 200, seed=1)
    trace = neuron.reference.simulate(x, Neuron(5.0, 3.0, 1.0))
    assert (trace.increment[trace.spikes == 1] > 0).all()
    assert (trace.increment < 0).any()

    def timing(**settings: float) -> Tensor:
        rule = TSSLBP(warm_up="never", intra_neuron="none", **settings)
        return gradient(lambda x: tsslbp.spikes(x, rule=rule, impl=impl), x, grad)

    assert torch.equal(timing(), timing(timing_min=-10.0))
    slow = (trace.spikes == 1) & (trace.increment < 1 / 8)
    assert slow.any()
    bounded, free = timing(), timing(timing_max=1e9)
    assert_close(bounded[slow], 8 * grad[slow])
    assert_close(free[slow], grad[slow] / trace.increment[slow])
    assert torch.equal(bounded[~slow], free[~slow])


@both
def test_forms_of_the_intra_neuron_part(impl: str) -> None:
    """The three forms differ in the gradient that steps 0 to 2 receive from the spike at step 3."""
    current, grad = column([1.2, 0.1, 0.1, 1.1]), column([0.0, 0.0, 0.0, 1.0])
    assert tsslbp.spikes(current).flatten().tolist() == [1, 0, 0, 1]

    def backward(form: str) -> np.ndarray:
        rule = TSSLBP(warm_up="never", intra_neuron=form)
        result = gradient(lambda x: tsslbp.lif(x, rule=rule, impl=impl), current, grad)
        return result.flatten().numpy()

    u, du, _ = simulated(current.flatten().numpy(), 5.0)
    last = 1 / du[3] / 3  # the second spike's own part
    alone = 1 / du[0] * (1 - 1 / 3) ** 3 / 3  # the first spike's, through its PSC at the last step
    reset = 0.8**2 * u[0] / du[0] / 5  # a later first spike leaves more of its reset at step 3
    np.testing.assert_allclose(backward("none"), [alone, 0, 0, last])
    np.testing.assert_allclose(
        backward("recursive"), [alone + reset * last, 0.8**2 * last, 0.8 * last, last]
    )
    np.testing.assert_allclose(backward("next-spike"), [alone + reset / 3, 0, 0, last])


@both
@pytest.mark.parametrize(("tau_s", "steps"), [(2.0, 3), (3.0, 4), (4.0, 5)])
def test_warm_up_of_a_neuron(tau_s: float, steps: int, impl: str) -> None:
    """An isolated spike keeps its neuron out of warm-up for `steps` steps, including its own."""
    current = torch.cat([column([0.0, 2.0]), torch.zeros(8, 1, dtype=torch.float64)])

    def in_warm_up(**settings) -> list[bool]:
        """Return at which steps the gradient is above 0, which here only the surrogate is."""
        rule = TSSLBP(intra_neuron="none", timing_max=0.0, **settings)
        result = gradient(lambda x: tsslbp.spikes(x, tau_s=tau_s, rule=rule, impl=impl), current)
        return (result.flatten() > 0).tolist()

    assert in_warm_up() == [True] + steps * [False] + (9 - steps) * [True]
    assert in_warm_up(warm_up_psc=0.0) == 10 * [False]
    assert in_warm_up(warm_up_psc=1.5) == 10 * [True]
    assert in_warm_up(warm_up="never") == 10 * [False]
    assert in_warm_up(warm_up="always") == 10 * [True]


@both
def test_warm_up_of_a_layer(impl: str) -> None:
    """The mean rate of the batch decides for a whole layer, so samples affect each other."""

    def of_the_quiet(other: float, threshold: float = 0.1) -> Tensor:
        current = torch.tensor([[0.2, other]] * 5, dtype=torch.float64)
        rule = TSSLBP.published(rate_threshold=threshold)
        return gradient(lambda x: tsslbp.spikes(x, rule=rule, impl=impl), current)[:, 0]

    quiet = of_the_quiet(0.0)
    assert (quiet > 0).all()
    assert not of_the_quiet(2.0).any()  # the quiet neuron has no spike, so no timing part
    assert torch.equal(of_the_quiet(2.0, threshold=0.5), quiet)  # the rate 0.5 is not above 0.5


@both
def test_warm_up_of_the_published_rule_sees_the_reset(impl: str) -> None:
    """The surrogate multiplies G, and in the published rule G plus the effect of the reset."""
    current, grad = column([1.2, 1.2]), column([0.0, 1.0])

    def surrogate_part(form: str) -> float:
        rule = TSSLBP(warm_up="always", intra_neuron=form)
        result = gradient(lambda x: tsslbp.lif(x, tau_s=2.0, rule=rule, impl=impl), current, grad)
        return result[0].item()

    slope = 1 / (0.2 * (2 + 2 * np.cosh(1.0)))
    assert surrogate_part("recursive") == pytest.approx(slope * 0.25)
    assert surrogate_part("next-spike") == pytest.approx(slope * (0.25 + 0.5 * 1.2 / 5))


@both
def test_warm_up_replaces_and_leaves_the_rest(impl: str) -> None:
    """Warm-up changes the gradient of its own step only: the state carried back ignores it."""
    x, grad = currents(20, 100), currents(20, 100, seed=1)
    with_it, without = (
        gradient(lambda x: tsslbp.spikes(x, rule=rule, impl=impl), x, grad)  # noqa: B023
        for rule in (TSSLBP(), TSSLBP(warm_up="never"))
    )
    surrogate = gradient(
        lambda x: tsslbp.spikes(x, rule=TSSLBP(warm_up="always"), impl=impl), x, grad
    )
    quiet = tsslbp.lif(x, impl=impl) < 1 / 12
    assert 0.1 < quiet.double().mean() < 0.9
    assert torch.equal(with_it, torch.where(quiet, surrogate, without))


# Differences in the loss


def target(steps: int, tau_s: float, **settings) -> np.ndarray:
    """Return the true class's target, which is minus the gradient of the loss at a PSC of 0."""
    psc = torch.zeros(steps, 1, 3, dtype=torch.float64)
    label = torch.tensor([1])
    grad = gradient(lambda psc: losses.van_rossum(psc, label, tau_s=tau_s, **settings), psc)
    assert not grad[:, 0, [0, 2]].any()
    return -grad[:, 0, 1].numpy()


def residuals(tau_s: float, **settings) -> dict[tuple[int, ...], float]:
    """Return the kernel loss of each of the 32 spike trains of 5 steps."""
    wanted = torch.tensor([0])
    return {
        train: losses.van_rossum(
            tsslbp.psc(column(train), tau_s)[:, None], wanted, tau_s=tau_s, **settings
        ).item()
        for train in itertools.product((0, 1), repeat=5)
    }


def test_twice_filtered_target_is_out_of_reach() -> None:
    np.testing.assert_allclose(target(5, 3.0), [0, 0.111, 0.259, 0.407, 0.539], atol=5e-4)
    found = residuals(3.0)
    best = min(found, key=lambda train: found[train])
    assert best == (0, 0, 1, 0, 1)
    assert found[best] == pytest.approx(0.0277, abs=5e-5)
    assert found[0, 1, 1, 1, 1] == pytest.approx(0.1472, abs=5e-5)


def test_once_filtered_target_is_the_desired_train() -> None:
    found = residuals(2.0, target_filters=1, pattern=(0, 1, 0, 1, 1))
    assert min(found, key=lambda train: found[train]) == (0, 1, 0, 1, 1)
    assert found[0, 1, 0, 1, 1] == pytest.approx(0, abs=1e-15)
    assert sorted(found.values())[1] > 0.1


@pytest.mark.parametrize("steps", [2, 5, 7, 10, 13, 20])
def test_desired_trains(steps: int) -> None:
    """Patterns are repeated and cut to any T; the original took only 5 and multiples of 10."""
    train = target(steps, 1.0)  # at tau_s = 1 the filter does nothing
    period = [0, 1, 1, 1, 1] if steps < 10 else [0, 1]
    assert train.tolist() == (period * steps)[:steps]
    assert target(steps, 1.0, pattern=(1, 0, 0)).tolist() == ([1, 0, 0] * steps)[:steps]


def test_the_kernel_loss_is_a_sum() -> None:
    """The loss is a sum over the batch: four copies of a batch have four times the loss."""
    psc, labels = currents(5, 3, 4).abs(), torch.tensor([0, 1, 2])
    assert losses.van_rossum(psc.repeat(1, 4, 1), labels.repeat(4)).item() == pytest.approx(
        4 * losses.van_rossum(psc, labels).item()
    )


def test_a_spike_count_is_a_psc_sum() -> None:
    """A spike counts less than 1, and early ones count more: two of them beat three late ones."""
    early, late = column([1, 1, 0, 0, 0]), column([0, 0, 1, 1, 1])
    psc = tsslbp.psc(torch.stack([late, early], dim=2), 3.0)
    assert tsslbp.predict(psc).tolist() == [1]
    alone = [tsslbp.psc(column(np.eye(5)[t]), 2.0).sum().item() for t in range(5)]
    np.testing.assert_allclose(alone, [31 / 32, 15 / 16, 7 / 8, 3 / 4, 1 / 2])
    desired = 4.0  # of the published Fashion-MNIST recipe, at T = 5 and tau_s = 2
    assert sum(alone) - min(alone) < desired < sum(alone)  # only spikes at all five steps reach it
    assert tsslbp.predict(torch.ones(5, 1, 3)).tolist() == [0]  # the lower class wins a tie


def test_count_loss() -> None:
    """Errors on the harmless side are set to 0, and the gradient is that of the loss itself."""
    steps, desired, undesired = 5, 4.0, 1.0
    sums = torch.tensor([[3.0, 0.5, 2.0], [1.5, 4.5, 0.0]], dtype=torch.float64)
    psc, labels = (sums / steps).expand(steps, 2, 3), torch.tensor([0, 1])
    delta = np.array([[3 - 4, 0, 2 - 1], [1.5 - 1, 0, 0]]) / steps

    def loss(psc: Tensor) -> Tensor:
        return losses.count(psc, labels, desired=desired, undesired=undesired)

    assert loss(psc).item() == pytest.approx(steps / 2 * (delta**2).sum())
    assert_close(gradient(loss, psc), np.broadcast_to(delta, (steps, 2, 3)))


def test_a_second_log_softmax_changes_nothing() -> None:
    psc, labels = currents(5, 4, 3), torch.tensor([0, 2, 1, 1])
    twice = torch.nn.functional.cross_entropy(psc.sum(0).log_softmax(1), labels)
    assert losses.softmax(psc, labels).item() == pytest.approx(twice.item())


# Differences in the network


@both
def test_pooling_is_a_sum_times_a_factor(impl: str) -> None:
    """Four spikes in a window give 4.4 with the factor 1.1, where their mean would be 1."""

    def pooled(scale: float) -> Tensor:
        net = Network("1C1-P2", (1, 4, 4), pool_scale=scale, impl=impl)
        with torch.no_grad():
            net.spiking_layers[0].connection.weight.fill_(3.0)
        image = torch.ones(1, 1, 4, 4)
        image[..., :2, :2] = 0
        return net.spiking_layers[0](image, 5)[-1].flatten()

    assert torch.allclose(pooled(1.1), torch.tensor([0, 4.4, 4.4, 4.4]))
    assert torch.equal(pooled(0.25), torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert torch.allclose(SumPool(2, 1.1)(torch.ones(3, 1, 1, 2, 2)), torch.tensor(4.4))


def test_convolution_initialisation() -> None:
    """Kaiming initialisation is wider than PyTorch's default by a factor of sqrt(6)."""
    generator = torch.Generator().manual_seed(0)
    uniform = Conv(
        20, 100, 5, initial=InitialWeights("uniform", generator=generator)
    ).weight.detach()
    kaiming = Conv(
        20, 100, 5, initial=InitialWeights("kaiming", generator=generator)
    ).weight.detach()
    assert uniform.abs().max().item() <= 1 / np.sqrt(500)
    assert kaiming.std().item() / uniform.std().item() == pytest.approx(np.sqrt(6), rel=0.01)


def test_dropout_drops_rows_for_all_time() -> None:
    dropout = RowDropout(0.2)
    images = dropout(torch.ones(4, 50, 8, 6, 7))
    assert sorted(images.unique().tolist()) == [0, 1.25]
    assert torch.equal(images, images[:1, ..., :1].expand_as(images))  # for all steps and columns
    rows = images[0, ..., 0]
    assert 0.15 < (rows == 0).float().mean() < 0.25
    assert (rows[:, 0].amin(1) < rows[:, 0].amax(1)).any()  # rows of one channel differ
    features = dropout(torch.ones(4, 50, 40))
    assert torch.equal(features, features[:1].expand_as(features))
    assert (features[0].amin(1) < features[0].amax(1)).all()  # no sample is dropped as a whole
    assert torch.equal(dropout.eval()(images), images)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cifar10-cnn1", 5 * (1 / 3) ** 0.5), ("cifar10-cnn1-published", 5 * 2**0.5)],
)
def test_initial_weights_of_cifar10(name: str, expected: float) -> None:
    """The initial weights of convolutions are scaled by five, those of linear layers are not."""
    experiment = replace(load_recipe(name), network="96C3-P2-64", padding=1)
    conv, linear, _ = build_network(experiment, (3, 32, 32), 10).parameters()
    assert conv.std().item() * 27**0.5 == pytest.approx(expected, rel=0.05)
    assert linear.std().item() * (96 * 16 * 16) ** 0.5 == pytest.approx(2**0.5, rel=0.01)


def test_black_padding_is_normalised() -> None:
    """Images are padded with black before they are normalised, so the border of a crop is not 0."""
    experiment = load_recipe("cifar10-cnn1")
    corner = augment.Placement(torch.tensor([0]), torch.tensor([0]), torch.tensor([False]))
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    crop = augment.apply(white, corner, experiment.crop_padding)
    pixels = normalise(crop, experiment.mean, experiment.std)[0]
    assert pixels[:, :4].flatten(1).unique(dim=1).flatten().tolist() == pytest.approx(
        [-0.4914 / 0.2023, -0.4822 / 0.1994, -0.4465 / 0.2010]
    )
    assert torch.equal(pixels[:, :4, :], pixels[:, :, :4].transpose(1, 2))
    assert (pixels[:, 4:, 4:] > 2).all()


# Differences in the training


def tiny(**settings) -> tuple[Network, torch.optim.Optimizer, Experiment]:
    experiment = Experiment(data="digits", network="6", **settings)
    net = build_network(experiment, (1, 4, 4), 3)
    return net, build_optimizer(experiment, net), experiment


def batch() -> tuple[Tensor, Tensor]:
    return 2 * currents(30, 1, 4, 4).float(), torch.arange(30) % 3


@pytest.mark.parametrize("bound", [None, 0.25])
def test_the_gradient_is_clipped(bound: float | None) -> None:
    """The gradient is clipped by its norm over all weights together, so its direction is kept."""
    net, optimizer, experiment = tiny(**({"gradient_clip": bound} if bound else {}))
    images, labels = batch()
    loss = losses.van_rossum(net(images), labels)
    whole = torch.cat([part.flatten() for part in torch.autograd.grad(loss, net.parameters())])
    clip = experiment.gradient_clip
    train_step(net, optimizer, losses.van_rossum, images, labels, gradient_clip=clip)
    clipped = torch.cat([weight.grad.flatten() for weight in net.parameters()])
    assert clip == (bound or 1.0) < whole.norm()
    assert torch.allclose(clipped, whole * clip / whole.norm(), rtol=1e-4, atol=1e-6)


def test_weights_are_bounded() -> None:
    net, optimizer, experiment = tiny()
    first = next(net.parameters())
    with torch.no_grad():
        first[0, 0], first[0, 1] = 7.0, -7.0
    train_step(net, optimizer, losses.softmax, *batch(), weight_limit=experiment.weight_limit)
    assert (first[0, 0].item(), first[0, 1].item()) == (4.0, -4.0)
    train_step(net, optimizer, losses.softmax, *batch(), weight_limit=0.125)
    assert max(weight.abs().max().item() for weight in net.parameters()) == 0.125


@pytest.mark.parametrize("decay", [0.01, 0.0])
def test_weights_decay(decay: float) -> None:
    """AdamW shrinks the weights even where the gradient is 0."""
    net, optimizer, _ = tiny(weight_decay=decay, learning_rate=0.5)
    before = [weight.detach().clone() for weight in net.parameters()]
    train_step(net, optimizer, lambda psc, labels: 0 * psc.sum(), *batch())
    assert Experiment(data="digits", network="6").weight_decay == 0.01
    for old, new in zip(before, net.parameters(), strict=True):
        assert torch.allclose(new.detach(), (1 - 0.5 * decay) * old)


def test_the_published_protocol_holds_nothing_out() -> None:
    images, labels = torch.zeros(40, 1, 4, 4), torch.arange(40) % 3
    data = DataSet("mine", images, labels, images[:10], labels[:10], 3)

    def sizes(protocol: str) -> list[int | None]:
        settings = {"protocol": protocol, "validation_images": 8}
        experiment = Experiment(data="digits", network="6", **settings)
        return [part and len(part.labels) for part in splits(experiment, data)]

    assert sizes("published") == [40, None, 10]
    assert sizes("validated") == [32, 8, 10]


def test_the_seed_seeds_the_initial_weights() -> None:
    def weights(**settings) -> list[Tensor]:
        torch.seed()  # PyTorch's own state must not matter
        return list(tiny(**settings)[0].parameters())

    one, same = weights(seed=3), weights(seed=3, rule=TSSLBP.published(), time_steps=8)
    other = weights(seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", [name for name in recipe_names() if "published" in name])
def test_published_and_revised_recipes_differ(name: str) -> None:
    first, second = load_recipe(name), load_recipe(name.removesuffix("-published"))
    assert first.network == second.network
    expected = {"tau_s", "rule", "target_filters", "desired_train", "patience"}
    different = {
        field.name
        for field in fields(Experiment)
        if getattr(first, field.name) != getattr(second, field.name)
    }
    assert expected <= different


# The documents


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", document.read_text(encoding="utf-8"))
    assert len(named) > 5
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"{document.name} names {file}::{test}"


def test_every_test_of_this_file_is_named() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    tests = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    about_documents = tests[tests.index("test_every_test_that_a_document_names_exists") :]
    for test in set(tests) - set(about_documents):
        assert f"tests/test_reproduction.py::{test}" in text, test


def test_every_difference_says_what_it_must() -> None:
    """The differences are numbered from 1; each has its five parts and names existing options."""
    parts = re.split(r"^### (\d+)\. ", DOCUMENTS[0].read_text(encoding="utf-8"), flags=re.M)[1:]
    numbers, texts = parts[::2], parts[1::2]
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 20
    known = {field.name for field in fields(Experiment)}
    known |= {f"rule.{field.name}" for field in fields(TSSLBP)}
    known |= {f"binning.{field.name}" for field in fields(Binning)}
    for number, text in zip(numbers, texts, strict=True):
        lines = dict(re.findall(r"^- \*\*(\w+)\.\*\* (.+(?:\n  .+)*)", text, flags=re.M))
        assert list(lines) == ["Paper", "Code", "Effect", "Option", "Test"], number
        options = re.findall(r"`([\w.]+)`", lines["Option"])
        assert options or lines["Option"].startswith("None"), number
        assert set(options) <= known, number
        assert "::test_" in lines["Test"], number
