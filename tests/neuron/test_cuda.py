"""The GPU kernels: their arithmetic in Triton's interpreter, their machine code, and on a GPU.

Triton reads ``TRITON_INTERPRET`` when a kernel is decorated, so the interpreted tests run in a
process of their own: those of test_neuron.py and test_golden.py that take an implementation, and
cuda_cases.py. The interpreter shows neither speed nor races, and rounds bfloat16 in its own way.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tsslbp
from tsslbp import NA, SLAYER, TSSLBP, EventProp, Surrogate, neuron
from tsslbp.errors import InvalidInput
from tsslbp.rules import Rule


def _release(name: str) -> tuple[int, ...]:
    """Major and minor version of a distribution; nothing where it is not installed."""
    try:
        return tuple(map(int, metadata.version(name).split(".")[:2]))
    except metadata.PackageNotFoundError:
        return ()


HERE = Path(__file__).parent
FILES = ["test_neuron.py", "test_golden.py", "cuda_cases.py"]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or sys.platform != "linux",
    reason="no compiler: triton is not installed, or this is not Linux",
)


def passed(**environment: str) -> int:
    """Number of tests of FILES that passed in a process for the GPU kernels; none may fail."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *(str(HERE / name) for name in FILES)],
        env=os.environ | {"TSSLBP_TEST_IMPL": "cuda"} | environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return int(re.findall(r"(\d+) passed", result.stdout)[-1])


@needs_triton
@pytest.mark.skipif(
    _release("triton") < (3, 7) and _release("numpy") >= (2, 4),
    reason="the interpreter of Triton before 3.7 cannot loop with NumPy 2.4 or newer",
)
@pytest.mark.timeout(900)  # a minute alone, several on a busy machine
def test_in_the_interpreter() -> None:
    assert passed(TRITON_INTERPRET="1", OMP_NUM_THREADS="1") > 120


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.timeout(1200)  # every kernel is compiled anew
def test_on_a_gpu() -> None:
    assert passed(TRITON_INTERPRET="0") > 120


class _Hopper:
    """What Triton's compiler asks a driver for, of a GPU of compute capability 9.0."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 99  # kernels compiled here are for no device of this machine

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


@pytest.fixture
def hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile for a GPU that need not be there."""
    from triton.runtime import driver

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", _Hopper())  # `reset_active` would look for a GPU


def constants(**settings):
    """Of a layer behind a connection."""
    from tsslbp.neuron.cuda_kernels import LayerConstants

    return LayerConstants(tsslbp.Neuron(), filter_input=True, **settings)


def compiled(
    extent,
    k,
    rule: Rule = TSSLBP(),  # noqa: B008
    real=torch.float32,
    rate=torch.int64,
) -> list:
    """The forward and the backward kernel as they are launched for a layer of such an extent.

    `rate` is the dtype of what says the layer's: a count, or the rate of several processes.
    """
    from tsslbp.neuron import cuda
    from tsslbp.neuron.cuda_kernels import backward_kernel, forward_kernel

    count, windows = torch.int64, extent.neurons // k.pool**2
    counts = rule.reads_rate
    forward = forward_kernel.warmup(
        *(real, real, count, extent.steps, windows, extent.row, extent.inner),
        **{"k": k, "COUNT": counts, "grid": (1,)},
        **cuda._forward_settings(real.itemsize, extent, k),
        **cuda.LAUNCH,
    )
    saved = torch.promote_types(real, torch.float32)
    backward = backward_kernel.warmup(
        *(real, real, real, rate, saved, torch.float64),
        *(*extent, extent.steps * extent.neurons),
        **{"k": k, "grid": (1,)},
        **cuda._rule_settings(rule),
        **cuda._backward_settings(real.itemsize, extent),
        **cuda.LAUNCH,
    )
    return [forward, backward]


LAYERS = {  # settings of the neuron, steps, neurons, dtype
    "few steps": ({}, 5, 1 << 20, torch.float32),
    "bfloat16": ({}, 5, 1 << 20, torch.bfloat16),
    "pooling": ({"pool": 2, "pool_scale": 1.1}, 5, 1 << 20, torch.float32),
    "image": ({"static": True, "output_psp": True}, 5, 1 << 20, torch.float32),
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
@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        (Surrogate("sigmoid", through_reset=True), 100),
        (SLAYER(), 5),
        (EventProp(), 5),
        (NA(), 5),
    ],
    ids=["surrogate", "SLAYER", "EventProp", "NA"],
)
def test_every_rule_compiles(hopper: None, rule: Rule, steps: int) -> None:
    """With registers enough, but for NA, whose history is as long as T."""
    from tsslbp.neuron import cuda

    k = constants()
    _, backward = compiled(cuda.Extent(steps, 1 << 20), k, rule)
    assert not re.search(r"\b(LDL|STL)\b", backward.asm["sass"])


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


def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(dtype: torch.dtype) -> str:
        return neuron._fitting(SimpleNamespace(device=torch.device("cuda"), dtype=dtype))

    monkeypatch.setattr(neuron, "_HAS_TRITON", True)
    assert chosen(torch.float32) == chosen(torch.bfloat16) == "cuda"
    assert chosen(torch.float16) == "reference"
    monkeypatch.setattr(neuron, "_HAS_TRITON", False)
    assert chosen(torch.float32) == "reference"


def test_asked_for_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron, "_HAS_TRITON", False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InvalidInput, match=r"needs the package triton.*impl='cpu' does without"):
        tsslbp.spikes(torch.zeros(5, 3), impl="cuda")
