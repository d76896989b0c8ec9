"""Properties of the GPU kernels only, on a GPU or in Triton's interpreter.

The tests of test_neuron.py and test_golden.py that take an implementation compare these kernels
with the reference and with recordings.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tsslbp
from tsslbp import NA, TSSLBP, neuron
from tsslbp.errors import InvalidInput

from .conftest import CUDA, INTERPRETED

DEVICE = "cpu"  # of the inputs; conftest.py changes it to that of the implementation
gpu = pytest.mark.skipif(INTERPRETED, reason="needs a GPU: the interpreter cannot show it")
cuda_alone = pytest.mark.parametrize("fused", [CUDA], indirect=True)


def layer(x: Tensor, time_steps: int | None = None, shared=None, **settings) -> Tensor:
    return neuron.layer(x, neuron.NeuronLayer(**settings), time_steps, shared)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def output_and_gradient(x: Tensor, grad: Tensor, impl: str, **settings) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    output = layer(x, impl=impl, **settings)
    (gradient,) = torch.autograd.grad(output, x, grad.to(output.dtype))
    return output.detach(), gradient


@cuda_alone
@pytest.mark.parametrize("steps", [5, 33])
@pytest.mark.parametrize("settings", [{}, {"pool": 2, "pool_scale": 1.1}, {"output_psc": True}])
def test_bfloat16_is_storage_only(settings: dict, steps: int, fused: str) -> None:
    """The results are those of float32 for the stored input, rounded once to bfloat16."""
    x = (1 + 2 * normal(steps, 2, 3, 4, 6)).bfloat16()
    shape = layer(x, impl=fused, **settings).shape
    grad = normal(*shape, seed=1).bfloat16()
    output, gradient = output_and_gradient(x, grad, fused, **settings)
    expected, expected_gradient = output_and_gradient(x.float(), grad, fused, **settings)
    for one, other in ((output, expected), (gradient, expected_gradient)):
        assert one.dtype == torch.bfloat16
        if INTERPRETED:  # the interpreter truncates where a GPU rounds
            assert ((one.float() - other).abs() <= 2**-7 * other.abs()).all()
        else:
            assert torch.equal(one, other.bfloat16())
    reference, _ = output_and_gradient(x.float(), grad, "reference", **settings)
    assert (expected - reference).abs().max() <= 1e-6 * reference.abs().max()
    spikes = tsslbp.spikes(x, impl=fused)
    assert torch.equal(spikes.float(), tsslbp.spikes(x.float(), impl="reference"))


@cuda_alone
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("steps", [None, 4])
def test_channels_last_in_and_out(pool: int, steps: int | None, fused: str) -> None:
    shape = (2, 3, 5, 6, 12) if steps is None else (2, 5, 6, 12)
    x = 1 + 2 * normal(*shape)
    last = x.movedim(-3, -1).contiguous().movedim(-1, -3)
    settings = {"time_steps": steps, "pool": pool, "impl": fused}
    grad = normal(*layer(x, **settings).shape, seed=1)
    expected = output_and_gradient(x, grad, **settings)
    actual = output_and_gradient(last, grad, **settings)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)
        assert one.movedim(-3, -1).is_contiguous()
        assert not other.movedim(-3, -1).is_contiguous()
    psc = tsslbp.psc(last, impl=fused)
    assert torch.equal(psc, tsslbp.psc(x, impl=fused))
    assert psc.movedim(-3, -1).is_contiguous()


@cuda_alone
@pytest.mark.parametrize("settings", [{}, {"pool": 2}, {"output_psc": True}])
@pytest.mark.parametrize("steps", [3, 35])
def test_tiles_as_on_a_gpu(
    settings: dict, steps: int, fused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several programs, some of several blocks and not all full, agree with the reference."""
    monkeypatch.undo()  # use a GPU's tiles, not the interpreter's
    x = 1 + 2 * normal(steps, 1, 2, 10, 7 * settings.get("pool", 1))
    grad = normal(*layer(x, impl=fused, **settings).shape, seed=1)
    actual = output_and_gradient(x, grad, fused, **settings)
    expected = output_and_gradient(x, grad, "reference", **settings)
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@cuda_alone
def test_many_steps(poisoned: None, fused: str) -> None:
    """Many steps agree with the reference where segments, chunks and tiles are not full."""
    steps = 75 if INTERPRETED else 300
    x, grad = 1 + 2 * normal(steps, 63), normal(steps, 63, seed=1)
    actual = output_and_gradient(x, grad, fused, output_psc=True)
    expected = output_and_gradient(x, grad, "reference", output_psc=True)
    for one, other in zip(actual, expected, strict=True):
        assert torch.isfinite(one).all()
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@cuda_alone
@pytest.mark.parametrize("rate", [0.25, 0.2499])
def test_the_layers_rate_is_exact(rate: float, fused: str) -> None:
    """A layer warms up at a firing rate equal to the threshold, and not just above it."""
    rule = TSSLBP.published(rate_threshold=rate)
    x = torch.zeros(4, 1000, device=DEVICE)
    x[1] = 1.5
    settings = {"tau_m": 1.0, "rule": rule}
    gradients = []
    for impl in (fused, "reference"):
        one = x.double().requires_grad_()
        tsslbp.spikes(one, impl=impl, **settings).sum().backward()
        gradients.append(one.grad)
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12
    assert bool(gradients[0][0, 0] > 0) == (rate == 0.25)  # warm-up needs no spikes


class _NoNumberLeaves(TorchDispatchMode):
    """A mode that fails when the host reads a tensor's value, as ``.item()`` does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@cuda_alone
@pytest.mark.parametrize("rule", [TSSLBP(), TSSLBP.published()], ids=["revised", "published"])
def test_the_host_does_not_wait(rule: TSSLBP, fused: str) -> None:
    x = normal(5, 40).requires_grad_()
    with _NoNumberLeaves():
        tsslbp.lif(x, rule=rule, impl=fused).sum().backward()


@cuda_alone
def test_only_the_input_is_stored(fused: str) -> None:
    def stored(rule: TSSLBP) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()), lambda _: None
        ):
            tsslbp.lif(normal(7, 90).requires_grad_(), rule=rule, impl=fused)
        return sum(sizes)

    assert stored(TSSLBP()) == 7 * 90
    assert stored(TSSLBP.published()) == 7 * 90 + 1  # and the number of spikes


@cuda_alone
@gpu
@pytest.mark.parametrize("rule", [TSSLBP(), TSSLBP.published()], ids=["revised", "published"])
@pytest.mark.parametrize("steps", [5, 100])
def test_a_step_in_a_cuda_graph(steps: int, rule: TSSLBP, fused: str) -> None:
    x, grad = normal(steps, 3000).requires_grad_(), normal(steps, 3000, seed=1)

    def step() -> tuple[Tensor, Tensor]:
        output = tsslbp.lif(x, rule=rule, impl=fused)
        return output.detach(), torch.autograd.grad(output, x, grad)[0]  # no graph stays alive

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in (2, 3):
        with torch.no_grad():
            x.copy_(normal(steps, 3000, seed=seed))
        graph.replay()
        for one, other in zip(captured, step(), strict=True):
            assert torch.equal(one, other)


@cuda_alone
@gpu
def test_more_values_than_32_bits_count(fused: str) -> None:
    if torch.cuda.get_device_properties(0).total_memory < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    neurons = 2**31 // 5 + 12345
    x = torch.zeros(5, neurons, dtype=torch.bfloat16, device=DEVICE)
    x[:, -1000:] = 1 + normal(5, 1000)
    x.requires_grad_()
    output = tsslbp.spikes(x, impl=fused)
    output.backward(torch.ones_like(output))
    tail = x.detach()[:, -1000:].clone().requires_grad_()
    expected = tsslbp.spikes(tail, impl=fused)
    expected.backward(torch.ones_like(expected))
    assert torch.equal(output[:, -1000:], expected)
    assert torch.equal(x.grad[:, -1000:], tail.grad)
    assert not output[:, :1000].any()


@cuda_alone
def test_network_in_bfloat16(fused: str) -> None:
    """A network in bfloat16 has outputs and gradients in float32, close to exact ones."""
    torch.manual_seed(0)
    net = tsslbp.Network("4C3-P2-12", (1, 8, 8), 3, impl=fused).to(DEVICE)
    images, labels = normal(6, 1, 8, 8).abs(), torch.arange(6, device=DEVICE) % 3
    gradients = {}
    for precision in ("float32", "bf16"):
        net.set_precision(precision)
        net.zero_grad()
        psc = net(images)
        assert psc.dtype == torch.float32
        tsslbp.losses.van_rossum(psc, labels).backward()
        gradients[precision] = [weight.grad.clone() for weight in net.parameters()]
    for exact, rounded in zip(gradients["float32"], gradients["bf16"], strict=True):
        assert rounded.dtype == torch.float32
        assert not torch.equal(exact, rounded)
        cosine = torch.nn.functional.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0)
        assert cosine > 0.9


@cuda_alone
def test_na_in_many_steps_is_the_references(fused: str) -> None:
    """The GPU has no kernel of `NA` beyond 30 steps, so `auto` takes the reference there.

    The rule's history is as long as T and would not fit into registers.
    """
    x = normal(31, 4)
    with pytest.raises(InvalidInput, match="NA for 31 time steps"):
        tsslbp.spikes(x, rule=NA(), impl=fused)
    assert tsslbp.spikes(x[:30], rule=NA(), impl=fused).shape == (30, 4)
    assert neuron._implementation(fused, x, NA(), 30) is not neuron.reference
    if not INTERPRETED:  # interpreted, auto takes the CPU kernels
        assert neuron._implementation("auto", x, NA(), 31) is neuron.reference


def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(dtype: torch.dtype) -> str:
        return neuron._fitting(SimpleNamespace(device=torch.device("cuda"), dtype=dtype))

    monkeypatch.setattr(neuron, "is_mapped", lambda *_: False)  # these are not real tensors
    monkeypatch.setattr(neuron, "_HAS_TRITON", True)
    assert chosen(torch.float32) == chosen(torch.bfloat16) == "cuda"
    assert chosen(torch.float16) == "reference"
    monkeypatch.setattr(neuron, "_HAS_TRITON", False)
    assert chosen(torch.float32) == "reference"


def test_asked_for_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron, "_HAS_TRITON", False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InvalidInput, match=r"needs the package triton.*or use impl='cpu'"):
        tsslbp.spikes(torch.zeros(5, 3), impl="cuda")
