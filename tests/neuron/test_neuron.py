"""Properties of the neuron operation, and the fused kernels compared with the reference."""

import pytest
import torch
from torch import Tensor

import tsslbp
from tsslbp import NA, SLAYER, TSSLBP, EventProp, SpikeBP, Surrogate, neuron
from tsslbp.errors import InvalidInput
from tsslbp.rules import Rule

DEVICE = "cpu"  # of the inputs; conftest.py changes it to that of the implementation
RULES: dict[str, Rule] = {
    "revised": TSSLBP(),
    "published": TSSLBP.published(),
    "published, rate above": TSSLBP.published(rate_threshold=0.0),
    "surrogate only": TSSLBP(warm_up="always"),
    "published, surrogate only": TSSLBP.published(warm_up="always"),
    "no warm-up": TSSLBP(warm_up="never"),
    "no intra-neuron part": TSSLBP(intra_neuron="none"),
    "revised, by layer": TSSLBP(warm_up="layer"),
    "published, by neuron": TSSLBP.published(warm_up="neuron"),
    "wide surrogate": TSSLBP(surrogate_width=0.02, surrogate_clamp=16.0),
    "rectangle": Surrogate(),
    "fast sigmoid": Surrogate("fast-sigmoid"),
    "sigmoid": Surrogate("sigmoid"),
    "arctangent": Surrogate("arctangent"),
    "triangle": Surrogate("triangle"),
    "through the reset": Surrogate("triangle", height=0.7, width=0.4, through_reset=True),
    "SLAYER": SLAYER(),
    "narrow SLAYER": SLAYER(height=2.0, width=0.05),
    "EventProp": EventProp(),
    "NA": NA(normalise=False),
    "SpikeBP": SpikeBP(),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest magnitude


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> Rule:
    """Return each rule in turn; in the slow interpreter, only one of each kind (conftest.py)."""
    return RULES[request.param]


def layer(x: Tensor, time_steps: int | None = None, shared=None, **settings) -> Tensor:
    return neuron.layer(x, neuron.NeuronLayer(**settings), time_steps, shared)


def currents(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Input currents that make about a fifth of the neurons fire."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (0.35 + 0.6 * noise).to(DEVICE)


def value_and_gradient(function, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    output = function(x)
    (gradient,) = torch.autograd.grad(output, x, grad)
    return output.detach(), gradient


def assert_same(actual: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().item()
    assert torch.isfinite(actual).all()
    assert (actual - expected).abs().max().item() <= TOLERANCE[actual.dtype] * scale


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("operation", [tsslbp.spikes, tsslbp.lif])
def test_fused_equals_reference(
    poisoned: None, operation, size: tuple[int, int], dtype: torch.dtype, fused: str
) -> None:
    x, grad = currents(*size, dtype=dtype), currents(*size, dtype=dtype, seed=1)
    for rule in (TSSLBP(), TSSLBP.published(rate_threshold=0.0)):
        results = [
            value_and_gradient(lambda x: operation(x, rule=rule, impl=impl), x, grad)  # noqa: B023
            for impl in (fused, "reference")
        ]
        for actual, expected in zip(*results, strict=True):
            assert_same(actual, expected)
        if operation is tsslbp.spikes:
            assert torch.equal(results[0][0], results[1][0])


def test_far_from_the_threshold_the_surrogates_are_the_same(fused: str) -> None:
    """Fused and reference surrogates agree even if all neurons are far below the threshold."""
    x = torch.linspace(-20, -3, 50, dtype=torch.float64, device=DEVICE).expand(3, 50)
    for name in ("fast sigmoid", "sigmoid", "arctangent"):
        gradients = [
            value_and_gradient(
                lambda x: tsslbp.spikes(x, rule=RULES[name], impl=impl),  # noqa: B023
                x,
                torch.ones_like(x),
            )[1]
            for impl in (fused, "reference")
        ]
        assert_same(*gradients)


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("neurons", [1, 63, 5000])
def test_psc_fused_equals_reference(poisoned: None, steps: int, neurons: int, fused: str) -> None:
    x, grad = currents(steps, neurons), currents(steps, neurons, seed=1)
    results = [
        value_and_gradient(lambda x: tsslbp.psc(x, 3.5, impl=impl), x, grad)  # noqa: B023
        for impl in (fused, "reference")
    ]
    for actual, expected in zip(*results, strict=True):
        assert_same(actual, expected)


@pytest.mark.parametrize("name", RULES)
def test_all_rules_fused_equal_reference(poisoned: None, name: str, fused: str) -> None:
    rule = RULES[name]
    x, grad = currents(12, 3, 257), currents(12, 3, 257, seed=1)
    results = [
        value_and_gradient(
            lambda x: tsslbp.spikes(x, tau_m=4.0, tau_s=2.5, threshold=0.8, rule=rule, impl=impl),  # noqa: B023
            x,
            grad,
        )
        for impl in (fused, "reference")
    ]
    assert torch.equal(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])


def test_lif_is_psc_of_spikes(rule: Rule, impl: str) -> None:
    x, grad = currents(9, 40), currents(9, 40, seed=1)
    fused = value_and_gradient(lambda x: tsslbp.lif(x, rule=rule, impl=impl), x, grad)
    composed = value_and_gradient(
        lambda x: tsslbp.psc(tsslbp.spikes(x, rule=rule, impl=impl), 3.0, impl=impl), x, grad
    )
    for actual, expected in zip(fused, composed, strict=True):
        assert_same(actual, expected)


LAYERS = [
    {"pool": 1},
    {"pool": 2, "pool_scale": 1.1},
    {"pool": 3, "pool_scale": 0.5},  # 3 does not divide the width
    {"pool": 2, "output_psc": True},
    {"pool": 1, "output_psc": True},
]


@pytest.mark.parametrize("settings", LAYERS, ids=str)
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_layer_fused_equals_reference(
    poisoned: None, settings: dict, static: bool, dtype: torch.dtype, fused: str
) -> None:
    shape = (3, 4, 6, 8)
    x = 3 * currents(*(shape if static else (5, *shape)), dtype=dtype)
    results = []
    for impl in (fused, "reference"):

        def operation(x: Tensor) -> Tensor:
            steps = 5 if static else None
            return layer(x, time_steps=steps, impl=impl, **settings)  # noqa: B023

        grad = currents(*operation(x).shape, dtype=dtype, seed=1)
        results.append(value_and_gradient(operation, x, grad))
    for actual, expected in zip(*results, strict=True):
        assert_same(actual, expected)


@pytest.mark.parametrize("pool", [2, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 17, 33])
def test_pooling_windows_at_ugly_sizes(pool: int, channels: int, fused: str) -> None:
    """Windows may span several tiles, some cut off, and channels may fill no vector."""
    x = 3 * currents(3, 2, channels, 2 * pool, 3 * pool)
    grad = currents(3, 2, channels, 2, 3, seed=1)
    results = [
        value_and_gradient(lambda x: layer(x, pool=pool, impl=impl), x, grad)  # noqa: B023
        for impl in (fused, "reference")
    ]
    for actual, expected in zip(*results, strict=True):
        assert_same(actual, expected)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_the_scale_of_a_layers_gradient_is_the_mean_over_its_neurons(
    pool: int, static: bool, fused: str
) -> None:
    """Places of a tile without a neuron, as beside a window of 3 x 3, do not count in the mean."""
    shape, settings = (2, 5, 2 * pool, 3 * pool), {"rule": NA(), "pool": pool}
    x = 3 * currents(*(shape if static else (4, *shape)))
    grad = currents(4, 2, 5, 2, 3, seed=1)
    results = []
    for impl in (fused, "reference"):

        def operation(x: Tensor) -> Tensor:
            steps = 4 if static else None
            return layer(x, time_steps=steps, output_psc=True, impl=impl, **settings)  # noqa: B023

        results.append(value_and_gradient(operation, x, grad))
    for actual, expected in zip(*results, strict=True):
        assert_same(actual, expected)


def test_results_can_be_changed_in_place(fused: str) -> None:
    x = currents(5, 2, 3, 4, 6).requires_grad_()
    for pool in (1, 2):
        layer(x, pool=pool, impl=fused).mul_(2).sum().backward()


def test_layer_with_wide_images_and_several_bands(fused: str) -> None:
    x = 3 * currents(2, 1, 2, 4, 1500)
    grad = currents(2, 1, 2, 2, 750, seed=1)
    results = [
        value_and_gradient(lambda x: layer(x, pool=2, impl=impl), x, grad)  # noqa: B023
        for impl in (fused, "reference")
    ]
    for actual, expected in zip(*results, strict=True):
        assert_same(actual, expected)


def test_ten_million_currents_near_the_threshold(fused: str, many: int) -> None:
    """The spikes are those of the reference and those that the backward pass recomputes."""
    gates = TSSLBP(warm_up="never", intra_neuron="none", timing_min=1.0, timing_max=1.0)
    steps, neurons = 10, many
    generator = torch.Generator().manual_seed(0)
    current = torch.empty(steps, neurons)
    potential = torch.zeros(neurons)
    for t in range(steps):  # aim each potential to within a few last places of the threshold
        ulps = torch.randint(-3, 4, (neurons,), generator=generator) * 2.0**-24
        target = torch.where(torch.rand(neurons, generator=generator) < 0.7, 1 + ulps, 0.5 + ulps)
        current[t] = target - (1 - 1 / 5.0) * potential
        potential = (1 - 1 / 5.0) * potential + current[t]
        potential = torch.where(potential > 1, 0.0, potential)
    current = current.to(DEVICE)
    spikes = tsslbp.spikes(current, impl="reference")
    assert 0.1 < spikes.mean() < 0.9
    ours, gradient = value_and_gradient(
        lambda x: tsslbp.spikes(x, rule=gates, impl=fused), current, torch.ones_like(current)
    )
    assert torch.equal(ours, spikes)
    assert torch.equal(gradient, spikes)


@pytest.mark.parametrize("static", [False, True])
def test_layers_spikes_are_those_of_the_backward_pass(static: bool, fused: str, many: int) -> None:
    """The forward and backward passes agree on the spikes behind the input filter, too.

    A spike that differed would change the gradient by a third.
    """
    gates = TSSLBP(warm_up="never", intra_neuron="none", timing_min=1.0, timing_max=1.0)
    x = 2 * currents(1, many, dtype=torch.float32)
    x = x[0] if static else x.expand(5, -1).contiguous() + 0.1
    steps = 5 if static else None

    def run(impl: str) -> tuple[Tensor, Tensor]:
        def operation(x: Tensor) -> Tensor:
            return layer(x, time_steps=steps, rule=gates, impl=impl)

        return value_and_gradient(operation, x, torch.ones(5, many, device=DEVICE))

    (spikes, gradient), (expected, expected_gradient) = run(fused), run("reference")
    assert 0.1 < spikes.mean() < 0.9
    assert torch.equal(spikes, expected)
    assert (gradient - expected_gradient).abs().max() < 1e-5


def test_rule_is_linear_in_the_gradient(rule: Rule, impl: str) -> None:
    x = currents(8, 50)
    first, second = currents(8, 50, seed=1), currents(8, 50, seed=2)

    def gradient(grad: Tensor) -> Tensor:
        return value_and_gradient(lambda x: tsslbp.spikes(x, rule=rule, impl=impl), x, grad)[1]

    assert_same(gradient(2 * first - 3 * second), 2 * gradient(first) - 3 * gradient(second))


def test_time_flows_one_way(impl: str) -> None:
    rule = TSSLBP.published(warm_up="neuron")  # the rate of a layer depends on every step
    for one in (TSSLBP(), rule):
        x, grad = currents(10, 30), currents(10, 30, seed=1)
        later_x, earlier_grad = x.clone(), grad.clone()
        later_x[6:] += 1
        earlier_grad[:4] += 1

        def run(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
            return value_and_gradient(lambda x: tsslbp.lif(x, rule=one, impl=impl), x, grad)  # noqa: B023

        value, gradient = run(x, grad)
        assert torch.equal(run(later_x, grad)[0][:6], value[:6])
        assert torch.equal(run(x, earlier_grad)[1][4:], gradient[4:])
        assert not torch.equal(run(later_x, grad)[0][6:], value[6:])


def test_order_of_the_batch_does_not_matter(rule: Rule, impl: str) -> None:
    x, grad = currents(6, 20, 7), currents(6, 20, 7, seed=1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))

    def run(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_gradient(lambda x: tsslbp.lif(x, rule=rule, impl=impl), x, grad)

    for straight, shuffled in zip(run(x, grad), run(x[:, order], grad[:, order]), strict=True):
        assert torch.equal(straight[:, order], shuffled)


def test_silent_input(impl: str) -> None:
    """Without spikes only the surrogate has a gradient: its slope at potential 0, for width 0.2."""
    x = torch.zeros(5, 4, dtype=torch.float64, device=DEVICE)
    grad = torch.ones_like(x)
    value, gradient = value_and_gradient(lambda x: tsslbp.spikes(x, impl=impl), x, grad)
    assert not value.any()
    f = torch.tensor(5.0, dtype=torch.float64, device=DEVICE).exp()
    assert_same(gradient, (f / (0.2 * (1 + f) ** 2)).expand(5, 4))
    never = value_and_gradient(
        lambda x: tsslbp.spikes(x, rule=TSSLBP(warm_up="never"), impl=impl), x, grad
    )
    assert not never[1].any()


def test_hand_worked_spike() -> None:
    """The gradient of a neuron that spikes at the second step is that worked out by hand."""
    current = torch.tensor([[0.8], [0.8]], dtype=torch.float64, requires_grad=True)
    spikes = tsslbp.spikes(
        current, tau_m=2.0, tau_s=2.0, rule=TSSLBP(warm_up="never"), impl="reference"
    )
    assert spikes.flatten().tolist() == [0.0, 1.0]  # u = 0.8, then 0.4 + 0.8 = 1.2
    spikes.backward(torch.tensor([[1.0], [1.0]], dtype=torch.float64))
    # du = 0.8 - 0.4 = 0.4, so the timing part is 1 / 0.4; the first step receives it through
    # the spike's carry, leaked once: 2.5 * (1 - 1/2).
    assert current.grad is not None
    assert current.grad.flatten().tolist() == pytest.approx([1.25, 2.5])


@pytest.mark.parametrize("tau_s", [1.0, 3.0])
def test_psc_is_differentiable(impl: str, tau_s: float) -> None:
    x = currents(6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tsslbp.psc(x, tau_s, impl=impl), (x,))


def test_non_contiguous_and_broadcast_inputs(impl: str) -> None:
    base = currents(7, 6, 5)
    strided = base.permute(2, 1, 0)  # T = 5
    expanded = base[:1, :, 0].expand(5, 6)
    moved = currents(6, 7, 5).movedim(-1, 0)  # time was the last axis
    for x in (strided, expanded, moved):
        grad = currents(*x.shape, seed=1).transpose(0, 1).contiguous().transpose(0, 1)
        ours = value_and_gradient(lambda x: tsslbp.lif(x, impl=impl), x, grad)
        plain = value_and_gradient(
            lambda x: tsslbp.lif(x, impl=impl), x.contiguous(), grad.contiguous()
        )
        for actual, expected in zip(ours, plain, strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize(("rate", "warm_up"), [(0.1, "always"), (0.1001, "never")])
@pytest.mark.parametrize("operation", [tsslbp.spikes, tsslbp.lif, layer])
def test_the_rate_over_processes_decides(operation, rate: float, warm_up: str, impl: str) -> None:
    """A layer-wise rule uses the shared rate; it passes on the sum and number of its own values."""
    told = []

    def mean(total: Tensor, values: int) -> Tensor:
        told.append((int(total), values))
        return torch.full((), rate, dtype=torch.float64, device=DEVICE)

    def run(**settings) -> tuple[Tensor, Tensor]:
        return value_and_gradient(lambda x: operation(x, impl=impl, **settings), x, grad)

    x, grad = currents(7, 40), currents(7, 40, seed=1)
    told_rate = run(rule=TSSLBP.published(), shared=neuron.Shared(mean))
    assert all(map(torch.equal, told_rate, run(rule=TSSLBP.published(warm_up=warm_up))))
    current = tsslbp.psc(x, impl=impl) if operation is layer else x
    assert told == [(int(tsslbp.spikes(current, impl=impl).sum()), 280)]
    run(rule=TSSLBP(), shared=neuron.Shared(mean))
    assert len(told) == 1  # a rule that does not need the rate does not ask for it


def test_empty_batch(impl: str) -> None:
    x = torch.zeros(5, 0, 3, requires_grad=True, device=DEVICE)
    output = tsslbp.lif(x, impl=impl)
    output.sum().backward()
    assert output.shape == (5, 0, 3)
    assert x.grad is not None and x.grad.shape == (5, 0, 3)


def test_default_device_does_not_matter() -> None:
    x = currents(5, 9)
    expected = tsslbp.lif(x)
    with torch.device("meta"):
        assert torch.equal(tsslbp.lif(x), expected)


def test_auto_takes_any_float_dtype() -> None:
    x = currents(5, 9).to(torch.bfloat16)
    assert tsslbp.lif(x).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler's own
def test_torch_func_and_compile(fused: str) -> None:
    x = currents(5, 9)

    def loss(x: Tensor) -> Tensor:
        return (tsslbp.lif(2 * x, impl=fused) ** 2).sum()

    (expected,) = torch.autograd.grad(loss(x.requires_grad_()), x)
    assert torch.equal(torch.func.grad(loss)(x.detach()), expected)
    (compiled,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(x), x)
    assert torch.equal(compiled, expected)


def test_a_rule_without_a_function_says_where_it_belongs() -> None:
    class Mine(Rule):
        pass

    with pytest.raises(InvalidInput, match="no implementation supports the learning rule Mine"):
        tsslbp.spikes(currents(2, 3), rule=Mine())
    with pytest.raises(
        InvalidInput,
        match="impl='cpu' does not support the learning rule Mine; it supports: TSSLBP",
    ):
        tsslbp.spikes(currents(2, 3), rule=Mine(), impl="cpu")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: tsslbp.spikes(x, tau_m=0.5), "tau_m must be at least 1"),
        (lambda x: tsslbp.psc(x, 0.0), "tau_s must be at least 1"),
        (lambda x: tsslbp.spikes(x, tau_s=float("nan")), "tau_s must be at least 1"),
        (lambda x: tsslbp.lif(x, threshold=0), "threshold must be a positive number"),
        (lambda x: tsslbp.lif(x[:0]), "at least one time step"),
        (lambda x: tsslbp.lif(x.long()), "floating-point tensor"),
        (lambda x: tsslbp.lif([1.0]), "got list"),
        (lambda x: tsslbp.lif(x, impl="gpu"), "known: auto, reference, cpu, cuda"),
        (lambda x: tsslbp.lif(x, impl="refrence"), "did you mean 'reference'"),
        (lambda x: tsslbp.lif(x.half(), impl="cpu"), "use impl='reference'"),
        (lambda x: tsslbp.lif(x.to("meta"), impl="cpu"), "use impl='reference'"),
        (lambda x: tsslbp.lif(x, impl="cuda"), "on device cuda, got .* on cpu; use impl='cpu'"),
        (lambda x: tsslbp.lif(x.half(), impl="cuda"), "or bfloat16 .* use impl='reference'"),
        (
            lambda x: tsslbp.lif(x, rule=tsslbp.rules.Rule()),
            "no implementation supports .* rule Rule",
        ),
        (lambda x: layer(x, pool=2), "window fit into images"),
        (lambda x: layer(x, time_steps=0), "time_steps must be at least 1"),
    ],
)
def test_bad_input(call, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        call(currents(5, 4))
