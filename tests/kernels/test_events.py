"""Event-driven connections compared with PyTorch's dense ones."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tsslbp
from tsslbp.kernels import compiled, events, simd
from tsslbp.layers import Conv, Linear

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest magnitude
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

pytestmark = pytest.mark.usefixtures("poisoned")


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def spikes(*shape: int, dtype: torch.dtype = torch.float64, share: float = 0.2) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (drawn < share).to(dtype)


def pooled(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return sums of up to four spikes, times 1.1, like the output of a pooling layer."""
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (1.1 * (5 * drawn**3).floor()).to(dtype)


def dense_conv2d(x: Tensor, weight: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
    return functional.conv2d(x, weight, padding=padding, stride=stride)


def run(operation, x: Tensor, weight: Tensor, *rest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and the gradients of input and weight for a random output gradient."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    out = operation(x, weight, *rest)
    grad_out = normal(*out.shape, seed=2).to(out)
    return out.detach(), *torch.autograd.grad(out, (x, weight), grad_out)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype and actual.shape == expected.shape
    if expected.numel() == 0:
        return
    assert torch.isfinite(actual).all()
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= TOLERANCE[dtype] * expected.abs().max().item()


def assert_same_as_dense(events_one, dense_one, x: Tensor, weight: Tensor, *rest: int) -> None:
    """Compare the value and both gradients, the dense ones in float64."""
    actual = run(events_one, x, weight, *rest)
    expected = run(dense_one, x.double(), weight.double(), *rest)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, x.dtype)


def assert_conv(x: Tensor, weight: Tensor, padding: int = 0, stride: int = 1) -> None:
    assert_same_as_dense(events.conv2d, dense_conv2d, x, weight, padding, stride)


def assert_linear(x: Tensor, weight: Tensor) -> None:
    assert_same_as_dense(events.linear, functional.linear, x, weight)


# Sizes and values


@DTYPES
@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 33])
def test_channels(channels: int, dtype: torch.dtype) -> None:
    """Channels may fill less than a vector, whole vectors with a rest, or several blocks."""
    for out_channels in (1, 7, 8, 16, 17, 40, 64, 65, 130, 300):
        x, weight = spikes(3, channels, 5, 6, dtype=dtype), normal(out_channels, channels, 3, 3)
        assert_conv(x, weight.to(dtype), padding=1)


SIZES = [(1, 1), (1, 9), (9, 1), (7, 11), (12, 5)]
WINDOWS = [
    (kernel, padding, size)
    for kernel in (1, 2, 3, 4, 5, 7)
    for padding in (0, 1, 2, 9)
    for size in SIZES
    if min(size) + 2 * padding >= kernel
]


@DTYPES
@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_kernels_images_and_strides(stride: int, dtype: torch.dtype) -> None:
    """Convolutions equal dense ones, also if pixels lie between the windows or behind the last."""
    for kernel, padding, size in WINDOWS:
        weight = normal(20, 3, kernel, kernel, dtype=dtype)
        assert_conv(spikes(2, 3, *size, dtype=dtype, share=0.4), weight, padding, stride)


@DTYPES
@pytest.mark.parametrize("frames", [0, 1, 7])
def test_frames(frames: int, dtype: torch.dtype) -> None:
    x, weight = pooled(frames, 5, 6, 4, dtype=dtype), normal(24, 5, 3, 3, dtype=dtype)
    assert_conv(x, weight, padding=1)
    assert_linear(x.flatten(1), normal(24, 120, dtype=dtype))


@DTYPES
@pytest.mark.parametrize("shape", [(2, 1, 3, 700), (40, 2, 30, 2), (300, 3, 1, 1)], ids=str)
def test_lines_longer_and_groups_larger_than_usual(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weight = normal(33, shape[1], 3, 3, dtype=dtype)
    assert_conv(pooled(*shape, dtype=dtype), weight, padding=1)


VALUES = {
    "spikes": spikes(4, 6, 7, 5),
    "a single spike": torch.zeros(4, 6, 7, 5).index_put(
        torch.tensor([[3], [5], [6], [4]]).unbind(), torch.tensor(1.0)
    ),
    "sums times 1.1": pooled(4, 6, 7, 5),
    "negative": spikes(4, 6, 7, 5) * normal(4, 6, 7, 5),
    "all zero": torch.zeros(4, 6, 7, 5),
    "negative zero": -torch.zeros(4, 6, 7, 5),
    "none zero": 1 + normal(4, 6, 7, 5).abs(),
    "tiny": 1e-30 * spikes(4, 6, 7, 5),
}


@DTYPES
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_values(values: Tensor, dtype: torch.dtype) -> None:
    x = values.to(dtype)
    assert_conv(x, normal(20, 6, 3, 3, dtype=dtype), padding=1)
    assert_linear(x.flatten(2), normal(20, 35, dtype=dtype))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_shows(value: float) -> None:
    """NaN and infinity count as events, so that a diverged layer does not go unnoticed."""
    x, weight = spikes(2, 3, 5, 5), normal(16, 3, 3, 3)
    x[1, 2, 2, 2] = value
    assert torch.equal(events.conv2d(x, weight).isfinite(), dense_conv2d(x, weight).isfinite())


@DTYPES
@pytest.mark.parametrize("out_features", [1, 16, 17, 65, 300])
@pytest.mark.parametrize("features", [1, 15, 16, 33, 500])
@pytest.mark.parametrize("shape", [(), (1,), (5, 7)], ids=str)
def test_linear(
    shape: tuple[int, ...], features: int, out_features: int, dtype: torch.dtype
) -> None:
    x = pooled(*shape, features, dtype=dtype)
    assert_linear(x, normal(out_features, features, dtype=dtype))


# Strides and flags


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice": lambda x: torch.stack([x, x + 1]).movedim(0, -1)[..., 0],
    "part": lambda x: functional.pad(x, (2, 1, 1, 2))[..., 1:-2, 2:-1],
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "negative": lambda x: torch._neg_view(-x),
}


@pytest.mark.parametrize("weights", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [0, 1])
def test_layouts(padding: int, layout: str, weights: str) -> None:
    x, weight = pooled(4, 6, 5, 8), normal(20, 6, 3, 3)
    expected = run(events.conv2d, x, weight, padding)
    strided, strided_weight = LAYOUTS[layout](x), LAYOUTS[weights](weight)
    assert torch.equal(strided, x) and torch.equal(strided_weight, weight)
    out, grad_x, grad_weight = run(events.conv2d, strided, strided_weight, padding)
    assert torch.equal(out, expected[0]) and torch.equal(grad_weight, expected[2])
    assert_close(grad_x, expected[1], x.dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_output_gradient(layout: str) -> None:
    x, weight = pooled(4, 6, 5, 8).requires_grad_(), normal(20, 6, 3, 3).requires_grad_()
    grad = normal(4, 20, 5, 8)
    out, dense = events.conv2d(x, weight, 1), dense_conv2d(x, weight, 1)
    actual = torch.autograd.grad(out, (x, weight), LAYOUTS[layout](grad))
    for ours, theirs in zip(actual, torch.autograd.grad(dense, (x, weight), grad), strict=True):
        assert_close(ours, theirs, x.dtype)


def test_expanded_tensors() -> None:
    """Expanded tensors work as the input (a static image) and as the gradient (of a sum)."""
    x, weight = pooled(1, 6, 5, 8).expand(4, 6, 5, 8), normal(20, 6, 3, 3).requires_grad_()
    events.conv2d(x, weight, 1).sum().backward()
    assert weight.grad is not None
    (expected,) = torch.autograd.grad(dense_conv2d(x, weight, 1).sum(), weight)
    assert_close(weight.grad, expected, x.dtype)


def every_second(x: Tensor) -> Tensor:
    """Return the same values with gaps between neighbours in memory, which hold NaN."""
    gaps = torch.full_like(x, math.nan)
    return torch.stack([x, gaps], dim=-1)[..., 0]


def test_values_with_gaps_between_them() -> None:
    """Tensors with one stride throughout, which PyTorch flattens without a copy, are accepted."""
    image = every_second(pooled(4, 5, 8, 6)).permute(0, 3, 1, 2)
    assert_conv(image, normal(20, 6, 3, 3), padding=1)
    assert_linear(every_second(pooled(5, 7, 40)), every_second(normal(33, 40)))
    assert_linear(every_second(pooled(1, 1, 40)), normal(33, 40))


def test_linear_with_strides() -> None:
    assert_linear(pooled(40, 5, 7).permute(2, 1, 0), normal(40, 33).t())
    assert_linear(pooled(7, 1, 40).expand(7, 5, 40), normal(66, 40)[::2])
    weight = normal(33, 40).requires_grad_()
    events.linear(pooled(5, 7, 40), weight).sum().backward()
    assert weight.grad is not None
    assert_close(weight.grad, pooled(5, 7, 40).sum((0, 1)).expand(33, 40), weight.dtype)


def test_input_and_weights_stay_as_they_are() -> None:
    x, weight = pooled(4, 6, 5, 8), normal(20, 6, 3, 3)
    before = x.clone(), weight.clone()
    run(events.conv2d, x, weight, 1)
    assert torch.equal(x, before[0]) and torch.equal(weight, before[1])


@pytest.mark.parametrize("needed", [(True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("linear", [False, True], ids=["conv2d", "linear"])
def test_gradients_one_at_a_time(linear: bool, needed: tuple[bool, bool]) -> None:
    operation = events.linear if linear else events.conv2d
    x = pooled(6, 5, 30) if linear else pooled(4, 6, 5, 8)
    weight = normal(20, 30) if linear else normal(20, 6, 3, 3)
    expected = run(operation, x, weight)
    x.requires_grad_(needed[0])
    weight.requires_grad_(needed[1])
    out = operation(x, weight)
    assert torch.equal(out, expected[0])
    assert out.requires_grad == any(needed)
    if any(needed):
        out.backward(normal(*out.shape, seed=2))
    for tensor, wanted, gradient in zip((x, weight), needed, expected[1:], strict=True):
        assert (tensor.grad is not None) == wanted
        assert tensor.grad is None or torch.equal(tensor.grad, gradient)


@pytest.mark.parametrize("padding", [0, 2])
def test_gradients_are_derivatives(padding: int) -> None:
    x, weight = 1 + pooled(2, 2, 4, 5), normal(9, 2, 3, 3)  # none zero, so that all may vary
    inputs = x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: events.conv2d(x, w, padding), inputs)


def test_shape_in_memory() -> None:
    """Convolutions return channels-last outputs, which the next layer's kernels prefer."""
    out = events.conv2d(spikes(2, 3, 5, 6), normal(16, 3, 3, 3), 1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert events.linear(spikes(2, 3, 5), normal(16, 5)).is_contiguous()


# Results that are equal bit for bit


def on_threads(count: int, operation, *arguments) -> tuple[Tensor, ...]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return run(operation, *arguments)
    finally:
        torch.set_num_threads(before)


THREADED = {
    "convolution": (events.conv2d, (9, 15, 20, 21), (40, 15, 5, 5), 2),
    "fewer channels than threads": (events.conv2d, (90, 1, 28, 28), (16, 1, 5, 5), 0),
    "linear": (events.linear, (5, 50, 900), (300, 900)),
}


@DTYPES
@pytest.mark.parametrize("case", THREADED.values(), ids=THREADED.keys())
def test_bits_do_not_depend_on_the_number_of_threads(case: tuple, dtype: torch.dtype) -> None:
    operation, shape, weight_shape, *rest = case
    x, weight = pooled(*shape, dtype=dtype), normal(*weight_shape, dtype=dtype)
    assert compiled.workers_for(x.numel()) == torch.get_num_threads()
    first = on_threads(1, operation, x, weight, *rest)
    for threads in (2, 3, 1):
        out, _, grad_weight = on_threads(threads, operation, x, weight, *rest)
        assert torch.equal(out, first[0])
        assert torch.equal(grad_weight, first[2])


def test_order_of_the_frames_does_not_matter() -> None:
    x, weight = pooled(50, 6, 9, 9), normal(40, 6, 3, 3)
    order = torch.randperm(50)
    straight, shuffled = events.conv2d(x, weight, 1), events.conv2d(x[order], weight, 1)
    assert torch.equal(straight[order], shuffled)


# When the event-driven kernels are used


def test_is_faster_up_to_a_share_of_events() -> None:
    weight, x = normal(16, 8, 1, 1), torch.zeros(1, 8, 8, 8, dtype=torch.float64)
    events_in = int(events.crossover(weight) * x.numel())
    x.view(-1)[:events_in] = 1
    assert events.is_faster(x, weight)
    x.view(-1)[events_in] = math.nan  # NaN is nonzero, too
    assert not events.is_faster(x, weight)
    assert not events.is_faster(x.contiguous(memory_format=torch.channels_last), weight)


@pytest.mark.parametrize(
    ("shape", "weight"),
    [((40, 16, 13, 11), normal(16, 16, 3, 3)), ((7, 50, 1000), normal(1000, 1000))],
    ids=["image", "linear"],
)
@DTYPES
def test_is_faster_by_a_sample_of_many_values(
    shape: tuple[int, ...], weight: Tensor, dtype: torch.dtype
) -> None:
    weight = weight.to(dtype)
    share = events.crossover(weight)
    assert events.is_faster(spikes(*shape, dtype=dtype, share=0.5 * share), weight)
    assert not events.is_faster(spikes(*shape, dtype=dtype, share=1.5 * share), weight)


def test_small_linear_layers_are_dense() -> None:
    """Layers of fewer than 2^28 products do not use the kernels, whatever their input."""
    weight, silent = normal(64, 1 << 10), torch.zeros(1 << 12, 1 << 10)
    assert events.is_faster(silent, weight.float())
    assert not events.is_faster(silent[1:], weight.float())


def test_crossovers_of_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, known in (("AVX512", "AVX512"), ("AVX2", "AVX2"), ("DEFAULT", "AVX2")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=name: name)
        shares = [events.crossover(normal(16, 8, *window)) for window in ((3, 3), ())]
        assert shares == [events.CROSSOVERS[known][4], events.CROSSOVERS[known][2]]


@DTYPES
def test_is_faster_from_a_vector_of_outputs(dtype: torch.dtype) -> None:
    lanes = simd.lanes(dtype.itemsize)
    x = spikes(2, 3, 5, 5, dtype=dtype)
    assert lanes * dtype.itemsize == 64
    assert events.is_faster(x, normal(lanes, 3, 3, 3, dtype=dtype))
    assert not events.is_faster(x, normal(lanes - 1, 3, 3, 3, dtype=dtype))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64], ids=str
)
def test_is_faster_no_other_dtype(dtype: torch.dtype) -> None:
    assert not events.is_faster(
        torch.zeros(2, 3, 5, 5, dtype=dtype), torch.zeros(64, 3, 3, 3, dtype=dtype)
    )


def test_is_faster_no_other_device() -> None:
    assert not events.is_faster(
        torch.zeros(2, 3, 5, device="meta"), torch.zeros(64, 5, device="meta")
    )


def test_is_faster_and_empty_input() -> None:
    """For an empty input either answer will do, as long as there is one."""
    assert isinstance(events.is_faster(torch.zeros(0, 3, 5, 5), torch.zeros(64, 3, 3, 3)), bool)
    assert isinstance(events.is_faster(torch.zeros(0, 2, 5), torch.zeros(64, 5)), bool)


def test_is_faster_needs_no_gradient_and_leaves_none() -> None:
    x = spikes(2, 3, 5, 5).requires_grad_()
    assert events.is_faster(x, normal(16, 3, 3, 3).requires_grad_())
    assert events.is_faster(2 * x, normal(16, 3, 3, 3).requires_grad_())


# Transforms, higher derivatives and the default device


def test_torch_func() -> None:
    """`torch.func.grad` equals ordinary autograd through several connections."""
    model = nn.Sequential(Conv(2, 16, 3), nn.ReLU(), nn.Flatten(2), Linear(16 * 3 * 4, 16)).double()
    parameters = {name: one.detach() for name, one in model.named_parameters()}
    x = pooled(3, 2, 2, 5, 6)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return (torch.func.functional_call(model, parameters, (x,)) ** 2).sum()

    gradients, grad_x = torch.func.grad(loss, argnums=(0, 1))(parameters, x)
    x.requires_grad_()
    total = (model(x) ** 2).sum()
    expected = torch.autograd.grad(total, [x, *model.parameters()])
    for actual, plain in zip([grad_x, *gradients.values()], expected, strict=True):
        assert_close(actual, plain, x.dtype)


def test_no_second_derivative() -> None:
    x, weight = spikes(2, 3, 5, 5), normal(16, 3, 3, 3).requires_grad_()
    loss = (events.conv2d(x, weight) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_default_device_does_not_matter() -> None:
    x, weight = spikes(2, 3, 5, 5), normal(16, 3, 3, 3)
    expected = events.conv2d(x, weight, 1)
    with torch.device("meta"):
        assert torch.equal(events.conv2d(x, weight, 1), expected)


# Other processors


OTHER = """
import torch
from torch.nn import functional
from tsslbp.kernels import compiled, events

def gradients(operation, x, weight):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = operation(x, weight)
    return out.detach(), *torch.autograd.grad((out ** 2).sum(), (x, weight))

cases = [
    (lambda x, w: events.conv2d(x, w, 2), lambda x, w: functional.conv2d(x, w, padding=2),
     torch.rand(20, 2, 31, 29), torch.randn(75, 2, 5, 5) / 7),
    (events.linear, functional.linear, torch.rand(80, 500), torch.randn(33, 500) / 22),
]
for ours, dense, x, weight in cases:
    x = x.mul(1.3).floor()
    expected = gradients(dense, x.double(), weight.double())
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert compiled.workers_for(x.numel()) == min(threads, 3)
        results.append(gradients(ours, x, weight))
    for one in results:
        assert torch.equal(one[0], results[0][0]) and torch.equal(one[2], results[0][2])
        for actual, exact in zip(one, expected, strict=True):
            assert (actual - exact).abs().max() <= 1e-5 * exact.abs().max()
"""


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
def test_processor_with_shorter_vectors(processor: str, tmp_path: Path) -> None:
    """Results are right with AVX2 alone, and with neither AVX2 nor fused multiply-adds.

    Fresh memory is filled with garbage, and there are more threads than input channels.
    """
    settings = {
        "PYTHONPATH": str(Path(tsslbp.__file__).parents[1]),
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": "",  # otherwise Numba takes those of this processor
        "NUMBA_CACHE_DIR": str(tmp_path),
        "MALLOC_PERTURB_": "128",  # read by the GNU C library
    }
    result = subprocess.run(
        [sys.executable, "-c", OTHER],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
