"""The GPU implementation: how the kernels of `cuda_kernels` are divided and launched.

Up to `MOST_UNROLLED` steps, the backward kernel is unrolled and keeps a neuron's potentials in
registers. For more steps, it works in segments of `SEGMENT` steps and runs each forward once more
from a saved state (README.md in this folder). `LAUNCH` forbids fused multiply-adds.

With ``TRITON_INTERPRET=1`` set before this module is imported, the kernels run on CPU tensors.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
import triton
from torch import Tensor

from ..kernels import not_traced
from ..rules import NA, Rule
from . import reference
from .cuda_kernels import LayerConstants, backward_kernel, forward_kernel, psc_kernel
from .cuda_rules import STEPS as BACKWARD
from .reference import Shared, output_scale
from .settings import NeuronLayer

LAUNCH = {"enable_fp_fusion": False}  # a spike must not depend on how the kernel was compiled
MOST_UNROLLED = 30  # steps; potentials are in registers, warm-up is in the bits of one word
SEGMENT = 16  # unrolled steps if T is larger
CHUNK = 8  # rows that the forward kernels load at once if T is larger
LARGE = 1 << 17  # neurons from which on four warps per program keep all multiprocessors busy
L2_SHARE = 0.5  # fraction of the second-level cache for the segmented kernel's input
PROGRAMS = 4, 32  # least and most programs per multiprocessor, for the segmented kernel


class Extent(NamedTuple):
    """The number of neurons, and the layout of their images in memory."""

    steps: int
    neurons: int
    row: int = 1  # outputs in a row of the pooled image, times `inner`
    inner: int = 1  # channels, if they are last in memory

    @property
    def values(self) -> int:
        """The number of neurons times steps."""
        return self.steps * self.neurons


def _tile(size: int, most: int, warps: int) -> int:
    """Return the neurons of a tile: per thread at most 16 bytes, and `most` values of `size`."""
    return 32 * warps * max(min(16 // size, most), 1)


def _warps(neurons: int) -> int:
    """Return the number of warps; small layers are divided into more programs."""
    return 4 if neurons >= LARGE else 1


def _forward_settings(size: int, extent: Extent, k: LayerConstants) -> dict[str, Any]:
    """Return the settings of the forward kernel, for values of `size` bytes."""
    warps = _warps(extent.neurons)
    chunk = max(min(CHUNK, 32 // k.pool**2), 1)
    return {
        "STEPS": min(extent.steps, chunk),
        "EXACT": extent.steps <= chunk,
        "TILE": _tile(size, 8 // k.pool**2, warps),
        "num_warps": warps,
    }


def _backward_settings(size: int, extent: Extent) -> dict[str, Any]:
    """Return the settings of the backward kernel: about 32 registers per thread for potentials."""
    exact = extent.steps <= MOST_UNROLLED
    warps = _warps(extent.neurons) if exact else 1
    steps = extent.steps if exact else SEGMENT
    most = 4 if steps <= 8 else 2 if steps <= 16 else 1  # values a thread
    return {
        "STEPS": steps,
        "EXACT": exact,
        "TILE": _tile(max(size, 4), most, warps),
        "num_warps": warps,
    }


MOST_STEPS = {NA: MOST_UNROLLED}  # that a rule supports; other rules support any number


def _rule_settings(rule: Rule) -> dict[str, Any]:
    warm_up = getattr(rule, "warm_up", "never")
    return {"rule": rule, "STEP": BACKWARD[type(rule)], "WARM_UP": warm_up}


def _resident(x: Tensor, history: int) -> int:
    """Return how many programs, of `history` bytes of input, share the cache at once."""
    if not x.is_cuda:
        return 2  # interpreted
    device = torch.cuda.get_device_properties(x.device)
    least, most = (bound * device.multi_processor_count for bound in PROGRAMS)
    return min(max(int(L2_SHARE * device.L2_cache_size) // history, least), most)


def _channels_last(x: Tensor) -> bool:
    """Whether images are stored with channels last, as convolutions prefer."""
    return x.ndim > 3 and not x.is_contiguous() and x.movedim(-3, -1).is_contiguous()


# Autograd


class _Psc(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, tau_s: float, reverse: bool) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        neurons = x[0].numel()
        warps = _warps(neurons)
        tile = _tile(x.element_size(), 8, warps)
        settings = {"REVERSE": reverse, "STEPS": CHUNK, "TILE": tile, "num_warps": warps}
        if neurons:
            with torch.cuda.device_of(x):
                psc_kernel[triton.cdiv(neurons, tile),](
                    x, out, len(x), neurons, tau_s=tau_s, **settings, **LAUNCH
                )
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.tau_s, ctx.reverse = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Psc.apply(grad, ctx.tau_s, not ctx.reverse)), None, None


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, extent: Extent, rule: Rule, k: LayerConstants, shared: Shared | None
    ) -> Any:
        counts, windows = rule.reads_rate, extent.neurons // k.pool**2
        out = torch.empty(extent.steps * windows, dtype=x.dtype, device=x.device)
        count = torch.zeros(int(counts), dtype=torch.int64, device=x.device)
        settings = _forward_settings(x.element_size(), extent, k) | LAUNCH
        sizes = extent.steps, windows, extent.row, extent.inner
        if windows:
            with torch.cuda.device_of(x):
                forward_kernel[triton.cdiv(windows, settings["TILE"]),](
                    x, out, count, *sizes, k=k, COUNT=counts, **settings
                )
        mean = shared and rule.reads_rate and shared.mean
        return out, mean(count, extent.values) if mean else count

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, *ctx.settings = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: None) -> tuple[Tensor | None, ...]:
        x, count = ctx.saved_tensors
        grad_x = _Gradient.apply(x, grad_out.contiguous(), count, *ctx.settings)
        return grad_x, None, None, None, None


class _Gradient(torch.autograd.Function):
    """The backward kernel; a separate function, so that `torch.func` can unwrap its tensors."""

    @staticmethod
    def forward(
        x: Tensor,
        grad_out: Tensor,
        count: Tensor,
        extent: Extent,
        rule: Rule,
        k: LayerConstants,
        shared: Shared | None,
    ) -> Tensor:
        grad_x = torch.empty_like(x)
        settings = _backward_settings(x.element_size(), extent)
        tile = settings["TILE"]
        programs, size = triton.cdiv(extent.neurons, tile), 0
        if not settings["EXACT"]:
            programs = min(programs, _resident(x, extent.steps * tile * x.element_size()))
            size = programs * triton.cdiv(extent.steps, SEGMENT) * 3 * tile
        real = torch.promote_types(x.dtype, torch.float32)
        saved = torch.empty(size, dtype=real, device=x.device)
        sums = torch.empty(programs * rule.is_normalised, dtype=torch.float64, device=x.device)
        arrays = x, grad_out, grad_x, count, saved, sums
        told = shared and shared.mean  # the rate itself instead of a count
        values = 1 if told else extent.values
        settings |= _rule_settings(rule) | LAUNCH
        if programs:
            with torch.cuda.device_of(x):
                backward_kernel[programs,](*arrays, *extent, values, k=k, **settings)
        if rule.is_normalised:
            magnitude = sums.sum() / max(extent.values, 1)
            grad_x *= output_scale(magnitude, shared, k.output_psc)
        return grad_x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError("a learning rule has no second derivative")


# The functions of `reference`, with its arguments. torch.compile cannot trace the kernels, so a
# compiled module calls them unchanged.


@not_traced
def psc(x: Tensor, tau_s: float) -> Tensor:
    if _channels_last(x):
        return cast(Tensor, _Psc.apply(x.movedim(-3, -1), tau_s, False)).movedim(-1, -3)
    return cast(Tensor, _Psc.apply(x, tau_s, False))


@not_traced
def layer(
    x: Tensor, neurons: NeuronLayer, time_steps: int = 0, shared: Shared | None = None
) -> Tensor:
    pool, output_psc = neurons.pool, neurons.output_psc
    fused = pool == 1 or (x.shape[-2] % pool == 0 and x.shape[-1] % pool == 0)
    k = LayerConstants(
        neurons.neuron,
        static=time_steps > 0,
        filter_input=neurons.filter_input,
        output_psc=output_psc and fused,
        pool=pool if fused else 1,
        pool_scale=float(neurons.pool_scale) if fused and pool > 1 else 1.0,
    )
    output = _run(x, time_steps or len(x), neurons.rule, k, shared)
    if fused:
        return output
    pooled = reference.sum_pool(output, pool, neurons.pool_scale)
    return psc(pooled, neurons.neuron.tau_s) if output_psc else pooled


def _run(x: Tensor, steps: int, rule: Rule, k: LayerConstants, shared: Shared | None) -> Tensor:
    """Run a layer on values in memory order, with channels last or a single channel."""
    channels_last = _channels_last(x)
    x = x.movedim(-3, -1) if channels_last else x[..., None]
    shape = [steps, *(x.shape if k.static else x.shape[1:])]
    neurons = math.prod(shape[1:])
    if k.pool > 1:
        shape[-3:-1] = shape[-3] // k.pool, shape[-2] // k.pool
    row = math.prod(shape[-2:]) if k.pool > 1 else 1
    extent = Extent(steps, neurons, row, x.shape[-1])
    output, _ = _Layer.apply(x.contiguous(), extent, rule, k, shared)
    output = cast(Tensor, output).view(shape)
    return output.movedim(-1, -3) if channels_last else output[..., 0]
