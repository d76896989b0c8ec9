"""Shares of work: their arguments, their workers and their errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch
from numba.core.caching import NullCache

import tsslbp
from tsslbp.errors import InvalidInput
from tsslbp.kernels import compiled, simd
from tsslbp.kernels.compiled import DONE, Function, ParallelKernel, kernel


class Numbers(NamedTuple):
    factor: float
    offset: int
    negate: bool


@ParallelKernel
def _affine(arguments, worker, workers):
    x, out, scale, skip, k = arguments[0]
    first, last = worker * x.size // workers, (worker + 1) * x.size // workers
    for i in range(first + skip, last):
        value = x[i] * scale * k.factor + k.offset
        out[i] = -value if k.negate else value
    return DONE


@ParallelKernel
def _fails(arguments, worker, workers):
    if worker == workers - 1:
        raise MemoryError
    return DONE


@kernel()
def _address(array):
    return simd.scratch(100, array).ctypes.data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("workers", [1, 2])
def test_arguments_of_every_kind(dtype: torch.dtype, workers: int) -> None:
    x, out = torch.arange(10, dtype=dtype), torch.zeros(10, dtype=dtype)
    for k, expected in ((Numbers(2.0, 3, False), 6 * x + 3), (Numbers(1.0, 0, True), -3 * x)):
        _affine(x, out, 3.0, 0, k, workers=workers)
        assert torch.equal(out, expected)
    assert len(_affine.compiled) <= 3  # one for each dtype


def test_whole_numbers_serve_as_floats() -> None:
    x, out = torch.ones(4), torch.zeros(4)
    _affine(x, out, 1.0, 0, Numbers(5, 1, False), workers=1)  # an int where a float is expected
    assert out.tolist() == [6.0] * 4


@pytest.mark.parametrize(
    "broken", [torch.ones(4, 4).t(), torch._neg_view(torch.ones(4)), torch._efficientzerotensor(4)]
)
def test_tensors_that_a_pointer_does_not_describe(broken: torch.Tensor) -> None:
    with pytest.raises(InvalidInput, match="lie in memory as they are"):
        _affine(broken, torch.zeros(4), 1.0, 0, Numbers(1.0, 0, False), workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_inside_is_not_lost(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(error.exc_type))
    with pytest.raises(MemoryError, match="_fails"):
        _fails(torch.zeros(1), workers=workers)
    assert printed == [MemoryError]


def test_compiling_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_cache", lambda _: NullCache())
    compiled._tell.cache_clear()
    caplog.set_level("INFO", "tsslbp")
    again = ParallelKernel(_affine.__wrapped__)
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, dtype=dtype)
        again(x, x, 1.0, 0, Numbers(1.0, 0, False), workers=1)
    assert caplog.messages == ["compiling kernels, once; this takes some seconds"]


def test_scratch_memory_begins_where_a_vector_may() -> None:
    for dtype in (np.float32, np.float64):
        assert {_address(np.zeros(1, dtype)) % simd.VECTOR_BYTES for _ in range(20)} == {0}


def test_a_tensor_that_left_a_transform() -> None:
    class Double(Function):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            pass

    escaped = []
    torch.func.grad(lambda x: (escaped.append(x), x.sum())[1])(torch.ones(3))
    assert Double.apply(escaped[0]).tolist() == [2.0] * 3


THREADS = """
import torch, tsslbp
torch.set_num_threads(3)
x = torch.rand(5, 200_000)
tsslbp.spikes(x, impl="cpu")
print(torch.get_num_threads())
"""


def test_pytorchs_number_of_threads_stays() -> None:
    """Also when Numba starts its threads; PyTorch's sums depend on it."""
    environment = os.environ | {"NUMBA_NUM_THREADS": "5"}
    command = [sys.executable, "-c", THREADS]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["3"]


def test_functions_of_one_name_have_files_of_their_own() -> None:
    """Or else two processes that compile at once could take one's code for the other's."""

    def adding(number: int):
        @kernel()
        def add(x):
            return x + number

        return add

    files = {adding(number)._cache._cache_file._index_name for number in (1, 2, 2)}
    assert len(files) == 2


CACHED = """
import torch, tsslbp
from tsslbp.neuron import cpu
x = torch.full((1, 1), 4.0, requires_grad=True)
tsslbp.spikes(x, rule=tsslbp.TSSLBP(warm_up="never"), impl="cpu").backward(torch.ones(1, 1))
((backward, _),) = cpu._backward_kernel.compiled.values()
print(x.grad.item(), backward.cache_hits)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # five processes, of which three compile
def test_a_changed_source_compiles_anew_and_an_unchanged_one_does_not(tmp_path: Path) -> None:
    """Of the file of a function that the kernel calls, and nothing is ever deleted."""
    package = tmp_path / "site" / "tsslbp"
    shutil.copytree(
        Path(tsslbp.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    environment = os.environ | {
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run() -> tuple[float, int]:
        result = subprocess.run(
            [sys.executable, "-c", CACHED],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        gradient, hits = result.stdout.split()
        return float(gradient), int(hits)

    assert (run(), run()) == ((0.25, 0), (0.25, 1))
    for name, old, new in (
        ("neuron/cpu_rules.py", "_clamp(1 / change,", "_clamp(2 / change,"),
        (
            "kernels/tiles.py",
            "operator.truediv, lambda vector: vector, ir.IRBuilder.fdiv",
            "operator.truediv, lambda vector: vector, ir.IRBuilder.fmul",
        ),
    ):
        source = package / name
        before = source.read_text()
        assert before.count(old) == 1
        source.write_text(before.replace(old, new))
        assert run() == ({"neuron/cpu_rules.py": 0.5, "kernels/tiles.py": 4.0}[name], 0)
        source.write_text(before)
    assert run() == (0.25, 1)  # what was compiled for the first sources is still there


def test_code_of_another_signature_is_not_taken(tmp_path: Path, monkeypatch) -> None:
    """Two processes that compile at once may write to one file of Numba's cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def double(x):
        return 2 * x

    first = kernel()(double)
    assert (first(2), first(2.5)) == (4, 5.0)
    files = sorted(tmp_path.rglob("*.nbc"))
    assert len(files) == 2
    files[0].write_bytes(files[1].read_bytes())
    second = kernel()(double)
    assert (second(2), second(2.5)) == (4, 5.0)
    assert sum(second.stats.cache_hits.values()) == 1
