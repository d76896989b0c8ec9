"""Each learning rule compared with a separate check that shares no code with it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import Function

import tsslbp
from tsslbp import NA, SLAYER, TSSLBP, EventProp, SpikeBP, Surrogate
from tsslbp.rules import DERIVATIVES, Rule

TAU_M, TAU_S, THRESHOLD = 4.0, 2.5, 0.8
DECAY = 1 - 1 / TAU_M


DEVICE = "cpu"  # of the inputs; conftest.py changes it to that of the implementation


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)


CURRENT = 0.3 + 0.6 * normal(9, 200, seed=0)
GRAD = normal(9, 200, seed=1)


def by_rule(rule: Rule, current: Tensor = CURRENT, grad: Tensor = GRAD) -> Tensor:
    x = current.clone().requires_grad_()
    settings = {"tau_m": TAU_M, "tau_s": TAU_S, "threshold": THRESHOLD}
    tsslbp.spikes(x, rule=rule, impl="reference", **settings).backward(grad)
    assert x.grad is not None
    return x.grad


class SmoothSpike(Function):
    """A step whose derivative is that of a smooth function, for ordinary autograd."""

    @staticmethod
    def forward(ctx, distance: Tensor, smooth) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.smooth = smooth
        return (distance > 0).double()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (distance,) = ctx.saved_tensors
        with torch.enable_grad():
            x = distance.detach().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.smooth(x).sum(), x)
        return grad * slope, None


def by_autograd(smooth, through_reset: bool) -> Tensor:
    """Backpropagate through time with PyTorch, with the step's derivative replaced."""
    x = CURRENT.clone().requires_grad_()
    rest, total = torch.zeros_like(x[0]), torch.zeros((), dtype=torch.float64)
    for x_t, grad_t in zip(x, GRAD, strict=True):
        potential = DECAY * rest + x_t
        spike = SmoothSpike.apply(potential - THRESHOLD, smooth)
        rest = potential * (1 - (spike if through_reset else spike.detach()))
        total = total + (spike * grad_t).sum()
    (gradient,) = torch.autograd.grad(total, x)
    return gradient


WIDTH = 0.3


def _unit(x: Tensor) -> Tensor:
    return (x / WIDTH).clamp(-1, 1)


SMOOTH = {  # functions that rise from 0 to 1, and the height of their derivative at 0
    "rectangle": (lambda x: (x / WIDTH + 0.5).clamp(0, 1), 1 / WIDTH),
    "fast-sigmoid": (lambda x: (1 + (x / WIDTH) / (1 + (x / WIDTH).abs())) / 2, 1 / (2 * WIDTH)),
    "sigmoid": (lambda x: torch.sigmoid(x / WIDTH), 1 / (4 * WIDTH)),
    "arctangent": (lambda x: torch.atan(x / WIDTH) / math.pi + 0.5, 1 / (math.pi * WIDTH)),
    "triangle": (lambda x: 0.5 + _unit(x) - _unit(x) * _unit(x).abs() / 2, 1 / WIDTH),
}


@pytest.mark.parametrize("through_reset", [False, True])
@pytest.mark.parametrize("derivative", SMOOTH)
def test_surrogates_are_autograd_through_a_smooth_step(derivative, through_reset: bool) -> None:
    smooth, height = SMOOTH[derivative]
    gradient = by_rule(Surrogate(derivative, height, WIDTH, through_reset))
    assert torch.allclose(gradient, by_autograd(smooth, through_reset), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", [0.0, 0.2, 0.49, 0.51, 0.9, 1.2])
def test_published_heights_and_widths(distance: float) -> None:
    """Each surrogate has the value that its source's formula gives: peak, sides and ends."""
    steepness = math.exp(-distance / 0.2)
    formulas = {  # of the distance from the threshold, in thresholds
        "rectangle": float(distance < 0.5),  # 1 / a within a / 2, a = 1
        "fast-sigmoid": 1 / (1 + 10 * distance) ** 2,  # 1 / (1 + beta |u - th|)^2, beta th = 10
        "sigmoid": steepness / (0.2 * (1 + steepness) ** 2),
        "arctangent": 1 / (1 + (math.pi * distance) ** 2),  # alpha = 2
        "triangle": 0.3 * max(0.0, 1 - distance),
    }
    assert formulas.keys() == DERIVATIVES.keys()
    for derivative, value in formulas.items():
        for potential in (1 + distance, 1 - distance):
            x = torch.tensor([[potential]], dtype=torch.float64).requires_grad_()  # one step
            spikes = tsslbp.spikes(x, rule=Surrogate(derivative), impl="reference")
            (slope,) = torch.autograd.grad(spikes.sum(), x)
            assert slope.item() == pytest.approx(value, abs=1e-12)


def test_slayer_correlates_with_the_decay_of_the_membrane() -> None:
    """The gradient is the error times the escape rate, correlated with the membrane's kernel."""
    rule = SLAYER(height=0.7, width=0.4)
    rest, potentials = torch.zeros_like(CURRENT[0]), []
    for current in CURRENT:
        potentials.append(DECAY * rest + current)
        rest = potentials[-1] * (potentials[-1] <= THRESHOLD)
    error = GRAD * 0.7 * torch.exp(-(torch.stack(potentials) - THRESHOLD).abs() / 0.4)
    kernel = DECAY ** torch.arange(9.0, dtype=torch.float64)
    expected = torch.stack([torch.einsum("k,kn->n", kernel[: 9 - t], error[t:]) for t in range(9)])
    assert torch.allclose(by_rule(rule), expected, rtol=1e-12)


def test_spike_bp_is_what_the_public_code_makes_of_autograd() -> None:
    """The rule equals autograd with leaks and resets detached and a factor at each spike.

    The code below restates how the public code uses autograd.
    """
    x = CURRENT.clone().requires_grad_()
    membrane, trace, number = (torch.zeros_like(x[0]) for _ in range(3))
    spikes = []
    for x_t in x:
        membrane = membrane + x_t
        above = torch.where(membrane > THRESHOLD, membrane, 0.0)
        spike = (above > 0).double() + (above - above.detach()) / THRESHOLD
        membrane = membrane - above
        membrane = DECAY * membrane.detach() + membrane - membrane.detach()
        trace, number = DECAY * trace + spike.detach(), number + spike.detach()
        spikes.append(spike)
    leak = (number > 0).double() - trace / (TAU_M * number.clamp(min=1))
    total = sum((spike * leak * grad).sum() for spike, grad in zip(spikes, GRAD, strict=True))
    (expected,) = torch.autograd.grad(total, x)
    assert torch.allclose(by_rule(SpikeBP()), expected, rtol=1e-12, atol=1e-14)


# EventProp: a neuron in continuous time, du/dt = -u / tau_m + i(t), i(t) = w / tau_s e^(-t / tau_s)
# after an input at 0; it fires at t1 and, from 0 again, at t2. The loss is cos t1 + cos t2.

MEMBRANE, SYNAPSE = 3.0, 1.5


def _potential(w: Tensor, start: Tensor, t: Tensor) -> Tensor:
    """Return the potential at time t of a neuron that was at 0 at time `start`."""
    factor = w * MEMBRANE / (MEMBRANE - SYNAPSE)
    return factor * (torch.exp(-(t - start) / MEMBRANE - start / SYNAPSE) - torch.exp(-t / SYNAPSE))


def _crossing(w: Tensor, start: Tensor) -> Tensor:
    """Return when the potential reaches 1, by bisection and a Newton step for autograd."""
    low, high = start.detach(), start.detach() + 1.2
    for _ in range(60):
        middle = (low + high) / 2
        above = _potential(w, start, middle) > 1
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    t = high.detach().requires_grad_()
    (speed,) = torch.autograd.grad(_potential(w, start, t).sum(), t, retain_graph=True)
    return t.detach() - (_potential(w, start, t.detach()) - 1) / speed.detach()


def _exact(w: Tensor, spikes: int) -> Tensor:
    w = w.clone().requires_grad_()
    t, loss = torch.zeros_like(w), torch.zeros((), dtype=torch.float64)
    for _ in range(spikes):
        t = _crossing(w, t)
        loss = loss + torch.cos(t).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    return gradient


def _discrete(w: Tensor, spikes: int, step: float) -> Tensor:
    w = w.clone().requires_grad_()
    steps = round(1.4 / step)
    x = torch.zeros(steps, len(w), dtype=torch.float64)
    current = tsslbp.psc(torch.cat([w[None], x[1:]]), SYNAPSE / step)
    train = tsslbp.spikes(
        current, tau_m=MEMBRANE / step, tau_s=SYNAPSE / step, rule=EventProp(1e9), impl="reference"
    )
    assert (train.sum(0) == spikes).all()
    loss = (train * torch.cos(step * torch.arange(steps, dtype=torch.float64))[:, None]).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    return gradient


@pytest.mark.parametrize(("spikes", "weights"), [(1, (2.4, 3.0)), (2, (4.5, 5.0))])
def test_eventprop_tends_to_the_exact_gradient_at_first_order(spikes: int, weights) -> None:
    """Halving the step about halves the mean error over spikes that fall anywhere in a step."""
    w = torch.linspace(*weights, 200, dtype=torch.float64)
    exact = _exact(w, spikes)
    errors = [
        ((_discrete(w, spikes, step) - exact).abs().mean() / exact.abs().mean()).item()
        for step in (0.02, 0.01, 0.005, 0.0025)
    ]
    assert errors[-1] < 0.01
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.4


def test_eventprop_by_hand() -> None:
    """With du = 0.4 at the second step, the spike moves by 2.5 steps per unit of current."""
    current = torch.tensor([[0.8], [0.8], [0.1]], dtype=torch.float64, requires_grad=True)
    settings = {"tau_m": 2.0, "tau_s": 2.0, "impl": "reference"}
    tsslbp.spikes(current, rule=EventProp(), **settings).backward(
        torch.tensor([[5.0], [3.0], [2.0]], dtype=torch.float64)
    )
    # A step later the loss would change by 2 - 3 = -1, so the spike's gradient is 2.5; half of
    # it reaches the step before.
    assert current.grad is not None
    assert current.grad.flatten().tolist() == pytest.approx([1.25, 2.5, 0.0])


# NA: the layers' scales in a network (a single layer is tested in test_golden.py).


def test_na_scales_hidden_layers_by_the_output_layers_gradient(impl: str) -> None:
    """The output layer's mean gradient is its own reference and, scaled, the hidden layer's."""
    images = normal(6, 1, 4, 4, seed=2).abs()
    nets = {}
    for normalise in (False, True):
        generator = torch.Generator().manual_seed(0)
        nets[normalise] = tsslbp.Network(
            "12", (1, 4, 4), classes=3, rule=NA(normalise), impl=impl, generator=generator
        ).to(DEVICE, torch.float64)
        psc = nets[normalise](3 * images)
        psc.backward(normal(*psc.shape, seed=3))
    hidden_raw, raw = _currents_of(nets[False], 3 * images)
    magnitude = raw.abs().mean()
    scale = _scale(magnitude.round(decimals=3), magnitude)
    expected = [_scale((scale * magnitude).round(decimals=3), (scale * hidden_raw).abs().mean())]
    raws, scaled = ([weight.grad for weight in nets[kind].parameters()] for kind in (False, True))
    assert torch.allclose(scaled[1], scale * raws[1], rtol=1e-10)
    assert torch.allclose(scaled[0], scale * expected[0] * raws[0], rtol=1e-10)


def _scale(reference: Tensor, magnitude: Tensor) -> Tensor:
    return 1.2 * torch.log(reference / (magnitude + 1e-5) + 1.02)


def _currents_of(net: tsslbp.Network, images: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient with respect to each layer's input current."""
    hidden, output = net.spiking_layers
    first = hidden.current(images.flatten(1), net.time_steps).detach().requires_grad_()
    spikes = hidden.spikes(first)
    second = output.current(spikes)
    psc = tsslbp.neuron.layer(second, replace(output.neurons, filter_input=False))
    return torch.autograd.grad(psc, (first, second), normal(*psc.shape, seed=3))


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY_RULE: list[Rule] = [
    TSSLBP(),
    TSSLBP.published(),
    TSSLBP(warm_up="never", intra_neuron="none"),
    TSSLBP(warm_up="always", surrogate_clamp=16.0, surrogate_width=0.01),
    *(Surrogate(derivative=shape, through_reset=True) for shape in DERIVATIVES),
    SLAYER(width=1e-3),
    EventProp(),
    EventProp(timing_max=100.0),
    NA(normalise=False),
    SpikeBP(),
]


@st.composite
def edges(draw: st.DrawFn, dtype: torch.dtype) -> Tensor:
    """Draw currents ``[T, 40]`` as near to 0 and to the threshold as the dtype allows."""
    kind = torch.finfo(dtype)
    steps = draw(st.integers(1, 5))
    near = [0.0, kind.tiny, kind.tiny * kind.eps, kind.eps]
    exact = [1.0, 1 + kind.eps, 1 - kind.eps / 2, 0.2, 0.25, 0.5, 0.8, 5.0, 100.0]
    numbers = st.sampled_from([*near, *(-x for x in near), *exact, -1.0, -5.0])
    rows = st.lists(numbers, min_size=40 * steps, max_size=40 * steps)
    return torch.tensor(draw(rows), dtype=dtype).view(steps, 40)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_no_rule_makes_a_number_none(dtype: torch.dtype, data: st.DataObject) -> None:
    """Gradients are finite even if a potential's increment is tiny, 0, minus 0, or rounded so."""
    x = data.draw(edges(dtype))
    tau_m = data.draw(st.sampled_from([1.0, 1.5, 5.0, 1e9]))
    for rule in EVERY_RULE:
        for impl in ("reference", "cpu")[: 1 + (dtype in (torch.float32, torch.float64))]:
            current = x.clone().requires_grad_()
            spikes = tsslbp.spikes(current, tau_m=tau_m, rule=rule, impl=impl)
            spikes.backward(torch.linspace(-1, 1, spikes.numel()).to(dtype).view(spikes.shape))
            assert current.grad is not None
            assert torch.isfinite(current.grad).all(), (rule, impl)


@pytest.mark.parametrize("rule", EVERY_RULE[:-1], ids=str)
def test_what_is_no_number_shows(rule: Rule) -> None:
    """A NaN current makes the gradient NaN, except under `SpikeBP`, which reads spikes alone."""
    x = torch.full((4, 3), 0.4)
    x[1, 1] = math.nan
    current = x.clone().requires_grad_()
    tsslbp.spikes(current, rule=rule, impl="reference").sum().backward()
    assert current.grad is not None
    assert current.grad[:, 1].isnan().any() and current.grad[:, ::2].isfinite().all()
