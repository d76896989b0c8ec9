"""Gradients of the neuron's constants, compared with checks that share no code with them."""

import math

import pytest
import torch
from torch import Tensor

import tsslbp
from tsslbp import NA, SLAYER, TSSLBP, EventProp, SpikeBP, Surrogate, neuron
from tsslbp.errors import InvalidInput
from tsslbp.neuron import Neuron, NeuronLayer
from tsslbp.neuron.reference import Shared
from tsslbp.rules import Rule

from .test_neuron import RULES, TOLERANCE
from .test_reference import SMOOTH, WIDTH, SmoothSpike

TAU_M, TAU_S, THRESHOLD = CONSTANTS = (4.0, 2.5, 0.8)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X, GRAD = 0.4 + normal(9, 200, seed=0), normal(9, 200, seed=1)


def gradients(
    rule: Rule,
    x: Tensor = X,
    grad: Tensor = GRAD,
    constants: tuple[float, ...] = CONSTANTS,
    time_steps: int | None = None,
    shared: Shared | None = None,
    **settings,
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to the input and to the constants ``[3]``."""
    neurons = NeuronLayer(Neuron(*constants), rule, **({"impl": "reference"} | settings))
    x = x.clone().requires_grad_()
    learned = torch.tensor(constants, dtype=torch.float64, requires_grad=True)
    out = neuron.layer(x, neurons, time_steps, shared, constants=learned)
    by_x, by_constants = torch.autograd.grad(out, (x, learned), grad)
    return by_x, by_constants


# Against autograd, with the step's derivative replaced


def by_autograd(smooth, left, output_psc: bool = False) -> tuple[Tensor, Tensor]:
    """Let PyTorch differentiate the neuron; `left` returns the potential left after a step."""
    x = X.clone().requires_grad_()
    constants = torch.tensor(CONSTANTS, dtype=torch.float64, requires_grad=True)
    tau_m, tau_s, threshold = constants
    current = rest = psc = torch.zeros_like(x[0])
    total = torch.zeros((), dtype=torch.float64)
    for x_t, grad_t in zip(x, GRAD, strict=True):
        current = current + (x_t - current) / tau_s
        potential = rest - rest / tau_m + current
        spike = SmoothSpike.apply(potential - threshold, smooth)
        rest = left(potential, spike)
        psc = psc + (spike - psc) / tau_s
        total = total + ((psc if output_psc else spike) * grad_t).sum()
    by_x, by_constants = torch.autograd.grad(total, (x, constants))
    return by_x, by_constants


def assert_close(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert expected[1].abs().min() > 0.005  # none of the gradients is trivially zero
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("output_psc", [False, True])
@pytest.mark.parametrize("through_reset", [False, True])
@pytest.mark.parametrize("derivative", SMOOTH)
def test_surrogates_constants_are_autograds(
    derivative, through_reset: bool, output_psc: bool
) -> None:
    smooth, height = SMOOTH[derivative]

    def left(potential: Tensor, spike: Tensor) -> Tensor:
        return potential * (1 - (spike if through_reset else spike.detach()))

    rule = Surrogate(derivative, height, WIDTH, through_reset)
    expected = by_autograd(smooth, left, output_psc)
    assert_close(gradients(rule, output_psc=output_psc), expected)


def test_slayers_constants_are_autograds_with_the_reset_as_a_number() -> None:
    def escape(x: Tensor) -> Tensor:  # its derivative is 0.7 exp(-|x| / 0.4)
        return 0.7 * 0.4 * x.sign() * (1 - (-x.abs() / 0.4).exp())

    def left(potential: Tensor, spike: Tensor) -> Tensor:
        return potential - (potential * spike).detach()

    assert_close(gradients(SLAYER(height=0.7, width=0.4)), by_autograd(escape, left))


def test_the_surrogate_of_tsslbps_warm_up() -> None:
    """In warm-up, no gradient flows through the membrane potential of the step before."""

    def left(potential: Tensor, spike: Tensor) -> Tensor:
        return (potential * (1 - spike)).detach()

    rule = TSSLBP(warm_up="always", surrogate_width=WIDTH, surrogate_clamp=16.0)
    assert_close(gradients(rule), by_autograd(SMOOTH["sigmoid"][0], left))


# Against the exact gradient in continuous time: see test_reference.py


def crossing(
    w: Tensor, start: Tensor, membrane: Tensor, synapse: Tensor, threshold: Tensor
) -> Tensor:
    """Return when the potential reaches the threshold, differentiable by a Newton step."""

    def potential(t: Tensor) -> Tensor:
        rise = torch.exp(-(t - start) / membrane - start / synapse) - torch.exp(-t / synapse)
        return w * membrane / (membrane - synapse) * rise

    with torch.no_grad():
        low, high = start.clone(), start + 1.2
        for _ in range(60):
            middle = (low + high) / 2
            above = potential(middle) > threshold
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    t = high.requires_grad_()
    (speed,) = torch.autograd.grad(potential(t).sum(), t, retain_graph=True)
    return t.detach() - (potential(t.detach()) - threshold) / speed.detach()


MEMBRANE, SYNAPSE = 3.0, 1.5


def exact(w: Tensor, spikes: int) -> Tensor:
    """Return the derivatives ``[3]`` of the sum of cos t over all spikes."""
    constants = torch.tensor([MEMBRANE, SYNAPSE, 1.0], dtype=torch.float64, requires_grad=True)
    t, loss = torch.zeros_like(w), torch.zeros((), dtype=torch.float64)
    for _ in range(spikes):
        t = crossing(w, t, *constants)
        loss = loss + torch.cos(t).sum()
    (gradient,) = torch.autograd.grad(loss, constants)
    return gradient


def discrete(w: Tensor, spikes: int, step: float) -> Tensor:
    steps = round(1.4 / step)
    x = torch.cat([w[None], torch.zeros(steps - 1, len(w), dtype=torch.float64)])
    grad = torch.cos(step * torch.arange(steps, dtype=torch.float64))[:, None].expand_as(x)
    constants = MEMBRANE / step, SYNAPSE / step, 1.0
    train = tsslbp.spikes(tsslbp.psc(x, constants[1]), tau_m=constants[0])
    assert (train.sum(0) == spikes).all()
    _, gradient = gradients(EventProp(1e9), x, grad, constants, impl="cpu")
    return gradient / torch.tensor([step, step, 1.0])


@pytest.mark.parametrize(("spikes", "weights"), [(1, (2.4, 3.0)), (2, (4.5, 5.0))])
def test_eventprops_constants_tend_to_the_exact_gradient(spikes: int, weights) -> None:
    """The gradients of all three constants converge to the exact ones as the time step shrinks."""
    w = torch.linspace(*weights, 200, dtype=torch.float64)
    truth = exact(w, spikes)
    errors = [
        (discrete(w, spikes, step) - truth).abs() / truth.abs() for step in (0.02, 0.01, 0.0025)
    ]
    assert (errors[-1] < 0.01).all()
    assert (errors[-1] < errors[0] / 2).all()


# By hand, and properties of all rules


def test_tsslbp_by_hand() -> None:
    """The potential is 0.8 without a spike, then 0.4 + 0.9 = 1.3 with one.

    Its increment there is du = 0.5, so q = 1 / du = 2, and the inputs' gradients are d = (g, 2 g).
    """
    x, grad = torch.tensor([[0.8], [0.9]]).double(), torch.tensor([[5.0], [0.3]]).double()
    rule = TSSLBP(warm_up="never")
    by_x, by_constants = gradients(rule, x, grad, (2.0, 1.0, 1.0))
    assert by_x.flatten().tolist() == pytest.approx([0.3, 0.6])
    # tau_m: d[1] 0.8 / 4; tau_s: minus the sum of d[t] (I[t] - I[t-1]); threshold: -d[1]
    assert by_constants.tolist() == pytest.approx([0.12, -(0.3 * 0.8 + 0.6 * 0.1), -0.6])


def test_spike_bp_by_hand() -> None:
    """For the same neuron, both inputs have the gradient c g with c = 1 - 1 / tau_m.

    The threshold's gradient comes from the spike alone.
    """
    x, grad = torch.tensor([[0.8], [0.9]]).double(), torch.tensor([[5.0], [0.3]]).double()
    by_x, by_constants = gradients(SpikeBP(), x, grad, (2.0, 1.0, 1.0))
    assert by_x.flatten().tolist() == pytest.approx([0.15, 0.15])
    assert by_constants.tolist() == pytest.approx([0.15 * 0.8 / 4, -0.15 * 0.9, -0.15])


@pytest.mark.parametrize("name", [name for name in RULES if name != "SpikeBP"])
def test_without_memory_a_threshold_is_a_current(name: str) -> None:
    """With tau_m = 1, raising the threshold has the effect of lowering all input currents.

    `SpikeBP` is left out because its gradient ignores the leak.
    """
    by_x, by_constants = gradients(RULES[name], constants=(1.0, 1.0, THRESHOLD))
    assert by_constants[2].item() == pytest.approx(-by_x.sum().item(), rel=1e-10)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("name", RULES)
def test_learning_changes_nothing_else(name: str, impl: str) -> None:
    """The output and the input's gradient are the same whether or not constants are learned."""
    neurons = NeuronLayer(Neuron(*CONSTANTS), RULES[name], impl)
    learned = torch.tensor(CONSTANTS, dtype=torch.float64, requires_grad=True)
    x = X.clone().requires_grad_()
    outs = neuron.layer(x, neurons), neuron.layer(x, neurons, constants=learned)
    assert torch.equal(*outs)
    plain, with_constants = (torch.autograd.grad(out, x, GRAD)[0] for out in outs)
    torch.testing.assert_close(with_constants, plain, rtol=1e-12, atol=1e-12)


LAYERS = [
    {},
    {"output_psc": True},
    {"pool": 2, "pool_scale": 1.1, "output_psc": True},
    {"pool": 3, "pool_scale": 0.5, "output_psc": True},  # 3 does not divide the width
]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_fused_equals_reference(poisoned: None, name: str, dtype: torch.dtype) -> None:
    shape = (3, 5, 6, 8)
    for settings in LAYERS:
        for time_steps in (None, 7):
            x = 1 + 2 * normal(*(shape if time_steps else (7, *shape)), seed=0, dtype=dtype)
            pool = settings.get("pool", 1)
            grad = normal(7, 3, 5, 6 // pool, 8 // pool, seed=1, dtype=dtype)
            given = RULES[name], x, grad, CONSTANTS, time_steps
            results = [gradients(*given, impl=impl, **settings) for impl in ("cpu", "reference")]
            for actual, expected in zip(*results, strict=True):
                # A constant's gradient is a sum over all neurons, in which errors add up.
                limit = 50 * TOLERANCE[dtype] * expected.abs().max().item()
                assert (actual - expected).abs().max().item() <= limit


@pytest.mark.parametrize("steps", [1, 2, 30, 100])
@pytest.mark.parametrize("neurons", [1, 63, 1025])
def test_fused_equals_reference_at_ugly_sizes(poisoned: None, steps: int, neurons: int) -> None:
    x, grad = 0.4 + normal(steps, neurons, seed=2), normal(steps, neurons, seed=3)
    for rule in (TSSLBP(), TSSLBP.published(), Surrogate("arctangent")):
        results = [gradients(rule, x, grad, impl=impl) for impl in ("cpu", "reference")]
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_what_scales_a_gradient_scales_all(impl: str) -> None:
    """`NA` scales the gradients of the constants by the same factor as those of the inputs."""
    plain, scaled = (gradients(NA(normalise=one), impl=impl) for one in (False, True))
    scale = (scaled[0].sum() / plain[0].sum()).item()
    assert abs(math.log(scale)) > 0.01
    torch.testing.assert_close(scaled[1], plain[1] * scale)


# Refused


@pytest.mark.parametrize("name", ["tau_m", "tau_s", "threshold"])
def test_a_tensor_is_no_constant(name: str) -> None:
    """A tensor is refused as a constant because its gradient would be silently lost."""
    value = torch.tensor(2.0, requires_grad=True)
    words = f"{name} must be a number, got Tensor; tsslbp.layers.LIF"
    with pytest.raises(InvalidInput, match=words):
        Neuron(**{name: value})
    for function in (tsslbp.spikes, tsslbp.lif):
        with pytest.raises(InvalidInput, match=words):
            function(X, **{name: value})
    with pytest.raises(InvalidInput, match="tau_s must be a number, got Parameter"):
        tsslbp.psc(X, torch.nn.Parameter(value))
    with pytest.raises(InvalidInput, match="tau_m must be a number, got str"):
        Neuron(tau_m="5")  # type: ignore[arg-type]


def test_constants_are_those_of_neurons_behind_a_filter() -> None:
    with pytest.raises(InvalidInput, match="only if a synaptic filter precedes the neurons"):
        gradients(TSSLBP(), filter_input=False)


def test_the_gpus_kernels_do_not_learn() -> None:
    with pytest.raises(InvalidInput, match="impl='cuda' compiles a neuron's constants"):
        gradients(TSSLBP(), impl="cuda")
