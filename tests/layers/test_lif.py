"""Tests of the module LIF: the neuron's function, learned constants, and module properties."""

import copy
import io
import math
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import NA, TSSLBP, Neuron, Surrogate, neuron
from tsslbp.errors import InvalidInput
from tsslbp.layers import LIF, BatchNorm, Conv, Linear
from tsslbp.layers.lif import CONSTANTS, sharing
from tsslbp.neuron import NeuronLayer, Shared, reference
from tsslbp.rules import RULES, Rule

ALL = {name: RULES[name]() for name in ("TSSLBP", "TSSLBP.published", "Surrogate", "SLAYER")}
ALL |= {name: RULES[name]() for name in ("EventProp", "NA", "SpikeBP")}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def currents(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 1 + 2 * normal(*shape, dtype=dtype)


IMAGES = 5, 3, 4, 6, 8  # T, N, C, H, W


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tau_m": 2.0, "tau_s": 1.0, "threshold": 0.7, "rule": Surrogate("arctangent")},
        {"pool": 2, "pool_scale": 1.1},
        {"output_psc": True},
        {"impl": "reference"},
    ],
    ids=str,
)
@pytest.mark.parametrize("learnable", [(), CONSTANTS])
def test_it_is_the_layer_of_a_network(settings: dict, learnable: tuple[str, ...]) -> None:
    """`LIF` equals `tsslbp.neuron.layer` in outputs and gradients, also with learned constants."""
    if settings.get("tau_s") == 1 and learnable:
        learnable = ("tau_m", "threshold")
    lif = LIF(learnable=learnable, **settings).double()
    constants = [settings.get(name, getattr(Neuron(), name)) for name in CONSTANTS]
    others = {key: value for key, value in settings.items() if key not in CONSTANTS}
    neurons = NeuronLayer(Neuron(*constants), **others)
    x = currents(*IMAGES, dtype=torch.float64).requires_grad_()
    outs = lif(x), neuron.layer(x, neurons)
    torch.testing.assert_close(*outs, rtol=1e-6, atol=1e-6)  # raw constants start rounded
    grad = normal(*outs[0].shape, dtype=torch.float64)
    by_x = [torch.autograd.grad(out, x, grad)[0] for out in outs]
    torch.testing.assert_close(*by_x, rtol=1e-5, atol=1e-6)
    assert outs[0].any()


@pytest.mark.parametrize("learnable", [(), CONSTANTS])
@pytest.mark.parametrize("shape", [(3, 4, 6, 8), (3, 50)], ids=str)
def test_a_static_input_is_its_repetition(
    shape: tuple[int, ...], learnable: tuple[str, ...]
) -> None:
    lif, x = LIF(learnable=learnable, time_steps=5), currents(*shape)
    grad = normal(5, *shape)
    results = []
    for one in (x, x.expand(5, *shape)):  # it takes a signal with time as well
        leaf = one.clone().requires_grad_()
        out = lif(leaf)
        by = torch.autograd.grad(out, [leaf, *lif.parameters()], grad)
        results.append([out.detach(), by[0] if one is x else by[0].sum(0), *by[1:]])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert 0 < results[0][0].mean() < 1


def test_the_connection_before_static_neurons_is_computed_once() -> None:
    seen: list[int] = []
    net = nn.Sequential(Conv(1, 4, 3), BatchNorm(4), LIF(time_steps=6), Conv(4, 4, 3))
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(output.ndim))
    assert net(normal(2, 1, 8, 8)).shape == (6, 2, 4, 4, 4) and seen == [4]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_constants_get_gradients_under_every_rule(name: str, impl: str) -> None:
    """A raw number's gradient is its constant's times d tau / d raw = tau - 1, or the threshold."""
    lif = LIF(4.0, 2.5, 0.8, ALL[name], CONSTANTS, impl)
    x, grad = currents(6, 3, 40), normal(6, 3, 40)
    lif(x).backward(grad)
    learned = torch.tensor([4.0, 2.5, 0.8], dtype=torch.float64, requires_grad=True)
    out = neuron.layer(x, lif.neurons, constants=learned)
    (own,) = torch.autograd.grad(out, learned, grad)
    raw = [getattr(lif, f"raw_{one}").grad.item() for one in CONSTANTS]
    expected = [a * b for a, b in zip(own.tolist(), (3.0, 1.5, 0.8), strict=True)]
    assert raw == pytest.approx(expected, rel=1e-5) and all(raw)


@pytest.mark.parametrize("rule", [TSSLBP(), Surrogate("arctangent", through_reset=True)])
def test_learned_constants_find_those_of_other_neurons(rule: Rule) -> None:
    """By learning their constants, neurons come to respond to currents as other neurons do."""
    x = currents(20, 1, 400).clamp(min=0)
    teacher = LIF(8.0, 4.0, 1.3, output_psc=True)
    student = LIF(2.5, 2.0, 0.8, rule, CONSTANTS, output_psc=True)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (student(x) - teacher(x)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_constants_stay_in_their_range() -> None:
    lif = LIF(learnable=CONSTANTS)
    for number in (-12.0, 0.0, 12.0):
        with torch.no_grad():
            for raw in lif.parameters():
                raw.fill_(number)
        now = lif.neurons.neuron
        assert now.tau_m == pytest.approx(1 + math.exp(number)) and now.tau_m > 1
        assert now.tau_s == now.tau_m and now.threshold == pytest.approx(math.exp(number))
        assert torch.isfinite(lif(currents(3, 2, 5))).all()


def test_names_in_the_state() -> None:
    lif = LIF(4.0, 2.5, 0.8, learnable=("threshold", "tau_m"))
    assert list(lif.state_dict()) == ["raw_tau_m", "raw_threshold"]
    assert not list(LIF().state_dict())
    other = LIF(learnable=("tau_m", "threshold"))
    other.load_state_dict(lif.state_dict())
    assert other.neurons.neuron.tau_m == pytest.approx(4.0)
    assert (other.neurons.neuron.tau_s, lif.neurons.neuron.tau_s) == (3.0, 2.5)


def test_copies_and_files() -> None:
    lif = LIF(4.0, 2.5, 0.8, TSSLBP.published(), CONSTANTS, time_steps=4, pool=2)
    x = currents(3, 4, 6, 8)
    with torch.no_grad():
        lif.raw_tau_m.add_(0.5)
    file = io.BytesIO()
    torch.save(lif, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(lif),
        pickle.loads(pickle.dumps(lif)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(twin(x), lif(x)) and repr(twin) == repr(lif)
        with torch.no_grad():
            twin.raw_tau_m.zero_()
        assert twin.neurons != lif.neurons


def test_training_and_evaluation_are_alike_and_nothing_is_kept() -> None:
    lif, x = LIF(learnable=("tau_m",)), currents(5, 3, 40)
    before = lif(x)
    assert torch.equal(lif(x), before) and torch.equal(lif.eval()(x), before)
    with torch.no_grad():
        assert torch.equal(lif(x), before)


@pytest.mark.parametrize("learnable", [(), ("tau_m", "threshold")])
def test_functional_call(learnable: tuple[str, ...]) -> None:
    net = nn.Sequential(Linear(30, 20), LIF(learnable=learnable), Linear(20, 4)).double()
    x = currents(5, 3, 30, dtype=torch.float64)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, weights, (x,)).square().sum()

    gradients = torch.func.grad(loss)({name: one.detach() for name, one in net.named_parameters()})
    loss(dict(net.named_parameters())).backward()
    for name, weight in net.named_parameters():
        assert torch.equal(gradients[name], weight.grad) and weight.grad.any()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler's own
def test_compiled() -> None:
    net = nn.Sequential(Linear(30, 20), LIF(learnable=("tau_m",)), Linear(20, 4)).double()
    x = currents(5, 3, 30, dtype=torch.float64)
    compiled = torch.compile(net, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-12, atol=1e-12)
    weights = list(net.parameters())
    results = [torch.autograd.grad(one(x).square().sum(), weights) for one in (compiled, net)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_what_is_shared_reaches_the_rule() -> None:
    """Under `sharing`, a hidden layer of NA is scaled by the output layer's gradient."""
    hidden, output = LIF(rule=NA()), LIF(rule=NA(), output_psc=True)
    x, grad = currents(6, 3, 40).requires_grad_(), normal(6, 3, 40)
    with sharing(Shared()):
        out = output(hidden(x))
    (shared,) = torch.autograd.grad(out, x, grad)
    (alone,) = torch.autograd.grad(output(hidden(x)), x, grad)
    assert shared.any() and not torch.allclose(shared, alone)


def test_current_and_spikes() -> None:
    """`current` and `spikes`, which records and figures use, agree with the reference."""
    lif, x = LIF(4.0, 2.5, 0.8, time_steps=5, pool=2, output_psc=True), currents(3, 4, 6, 8)
    current = lif.current(x)
    assert torch.equal(current, tsslbp.psc(x.expand(5, *x.shape), 2.5))
    trace = reference.simulate(current, lif.neurons.neuron)
    assert torch.equal(lif.spikes(x), trace.spikes)
    pooled = reference.sum_pool(trace.spikes, 2, 1.0)
    torch.testing.assert_close(lif(x), tsslbp.psc(pooled, 2.5))


def test_printed() -> None:
    assert repr(LIF()) == "LIF(tau_m=5, tau_s=3, threshold=1, rule=TSSLBP)"
    settings = {"time_steps": 4, "pool": 2, "output_psc": True}
    assert repr(LIF(2.0, learnable="tau_m", **settings)) == (
        "LIF(tau_m=2, tau_s=3, threshold=1, rule=TSSLBP, learnable=('tau_m',), time_steps=4, "
        "pool=2, pool_scale=1.0, output_psc=True)"
    )


@dataclass(frozen=True)
class OwnRule(Rule):
    pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LIF(tau_m=0.5), "tau_m must be at least 1 time step"),
        (lambda: LIF(threshold=0.0), r"threshold must be a positive number, got 0\.0"),
        (
            lambda: LIF(torch.tensor(5.0)),
            r"tau_m must be a number, got Tensor; .*\(learnable=...\)",
        ),
        (lambda: LIF(rule=1), "rule must be a learning rule such as tsslbp.TSSLBP"),
        (lambda: LIF(impl="gpu"), r"unknown implementation 'gpu' \(did you mean 'cuda'\?\)"),
        (lambda: LIF(time_steps=0), "time_steps must be a whole number of at least 1, got 0"),
        (lambda: LIF(pool=0), "pool must be a whole number of at least 1, got 0"),
        (lambda: LIF(learnable=("tau",)), r"among tau_m, tau_s, threshold, got 'tau' \(did you me"),
        (
            lambda: LIF(tau_s=1.0, learnable=("tau_s",)),
            r"a learnable tau_s must start above 1",
        ),
        (
            lambda: LIF(rule=OwnRule(), learnable=("threshold",)),
            "OwnRule cannot train the threshold",
        ),
        (lambda: LIF()(currents(3, 4, 6, 8)), r"LIF expects a signal \[T, N, .* images time_steps"),
        (
            lambda: LIF(time_steps=4)(currents(5, 3, 8)),
            r"\[4, N, features\] or \[4, N, C, H, W\], ",
        ),
        (lambda: LIF(pool=2)(currents(5, 3, 8)), "pool must be at least 1 and its window fit into"),
        (lambda: LIF()(currents(5, 3, 8).long()), "must be a floating-point tensor"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(make, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_rule_of_ones_own_trains_time_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(rule, trace, rate, grad_spikes, neuron):
        return grad_spikes * (trace.potential > 0)

    monkeypatch.setattr(reference, "BACKWARD", reference.BACKWARD | {OwnRule: backward})
    lif = LIF(rule=OwnRule(), learnable=("tau_m", "tau_s"))
    lif(currents(5, 3, 40)).backward(normal(5, 3, 40))
    assert lif.raw_tau_m.grad and lif.raw_tau_s.grad
