"""The GPU kernels' machine code, compiled for a GPU that need not be there.

What they compute is tested by test_cuda.py.
"""

from __future__ import annotations

import re

import pytest
import torch

from tsslbp import TSSLBP

from .compiling import compiled, constants, needs_compiler

LAYERS = {  # settings of the neuron, steps, neurons, dtype
    "few steps": ({}, 5, 1 << 20, torch.float32),
    "bfloat16": ({}, 5, 1 << 20, torch.bfloat16),
    "pooling": ({"pool": 2, "pool_scale": 1.1}, 5, 1 << 20, torch.float32),
    "image": ({"static": True, "output_psc": True}, 5, 1 << 20, torch.float32),
    "unrolled": ({}, 30, 1 << 20, torch.float32),
    "segments": ({}, 100, 1 << 20, torch.float32),
    "segments, bfloat16": ({}, 500, 1 << 20, torch.bfloat16),
    "one neuron": ({}, 100, 1, torch.float32),
    "64 bits": ({}, 2, 2**32 + 1, torch.float32),
}


@needs_compiler
@pytest.mark.parametrize("name", LAYERS)
def test_machine_code(hopper: None, name: str) -> None:
    """No multiplication is contracted with an addition, and nothing spills out of registers."""
    from tsslbp.neuron import cuda

    settings, steps, neurons, real = LAYERS[name]
    k = constants(**settings)
    for kernel in compiled(cuda.Extent(steps, neurons, 64 if k.pool > 1 else 1), k, real=real):
        code = kernel.asm["ptx"]
        assert "mul.f32" in code or "mul.rn.f32" in code
        assert not re.search(r"(fma|mad)[.\w]*\.f32", code)
        assert not re.search(r"\b(LDL|STL)\b", kernel.asm["sass"])
        if name in ("few steps", "image"):  # contiguous values move 16 bytes at once
            assert re.search(r"ld\.global[.\w:]*\.v4\.b32", code)
            assert re.search(r"st\.global[.\w:]*\.v4\.b32", code)


@needs_compiler
def test_the_rate_of_several_processes_compiles(hopper: None) -> None:
    from tsslbp.neuron import cuda

    k = constants()
    extent = cuda.Extent(5, 1 << 20)
    _, kernel = compiled(extent, k, TSSLBP.published(), rate=torch.float64)
    assert "div.rn.f64" in kernel.asm["ptx"]


@needs_compiler
def test_no_compilation_for_a_new_batch_size(hopper: None) -> None:
    from tsslbp.neuron import cuda
    from tsslbp.neuron.cuda_kernels import backward_kernel, forward_kernel

    k = constants()

    def variants(steps: int, batch: int) -> int:
        compiled(cuda.Extent(steps, batch * 48), k)
        kernels = forward_kernel, backward_kernel
        return sum(len(kernel.device_caches[99][0]) for kernel in kernels)

    for steps in (5, 100):
        before = variants(steps, 10)
        assert [variants(steps, batch) for batch in (1, 7, 64, 300)] == [before] * 4
    assert variants(130, 10) == before  # nor for another large number of steps
