"""The machine code of the GPU kernels, compiled for a GPU that need not be present.

What they compute is tested by test_cuda.py.
"""

from __future__ import annotations

import re
from concurrent.futures import Executor

import pytest
import torch

from tsslbp import TSSLBP

from .compiling import machine_code, needs_compiler, variants

pytestmark = pytest.mark.slow  # a compilation for a GPU takes a second or more

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
def test_machine_code(name: str, compiler: Executor) -> None:
    """No multiplication is contracted with an addition, and nothing spills out of registers."""
    settings, steps, neurons, real = LAYERS[name]
    work = compiler.submit(machine_code, steps, neurons, settings=settings, real=real)
    for code in work.result():
        ptx = code["ptx"]
        assert "mul.f32" in ptx or "mul.rn.f32" in ptx
        assert not re.search(r"(fma|mad)[.\w]*\.f32", ptx)
        assert not re.search(r"\b(LDL|STL)\b", code["sass"])
        if name in ("few steps", "image"):  # contiguous values move 16 bytes at once
            assert re.search(r"ld\.global[.\w:]*\.v4\.b32", ptx)
            assert re.search(r"st\.global[.\w:]*\.v4\.b32", ptx)


@needs_compiler
def test_the_rate_of_several_processes_compiles(compiler: Executor) -> None:
    rule = TSSLBP.published()
    _, code = compiler.submit(machine_code, 5, 1 << 20, rule, rate=torch.float64).result()
    assert "div.rn.f64" in code["ptx"]


@needs_compiler
def test_no_compilation_for_a_new_batch_size(compiler: Executor) -> None:
    for steps in (5, 100):
        layers = [(steps, batch * 48) for batch in (10, 1, 7, 64, 300)]
        if steps == 100:
            layers.append((130, 480))  # nor for another large number of steps
        assert len(set(compiler.submit(variants, layers).result())) == 1
