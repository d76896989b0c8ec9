"""Tests of the kernels without a cache folder, without OpenMP and in spawned workers."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tsslbp
from tsslbp.kernels import compiled
from tsslbp.kernels.compiled import DONE, THREAD_NUM, ParallelKernel

PACKAGE = Path(tsslbp.__file__).parent
PROGRAM = """
import sys, warnings
{before}
import torch, tsslbp
torch.set_num_threads(2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from tsslbp.kernels import events
    for _ in range(2):
        x = (torch.arange(200_000.).reshape(5, -1) % 7 / 3).requires_grad_()
        y = tsslbp.spikes(x, impl="cpu")
        y.sum().backward()
        weight = torch.ones(16, 40_000, requires_grad=True)
        output = events.linear(y.detach(), weight)
        output.sum().backward()
ours = [str(one.message) for one in caught if "tsslbp" in str(one.message)]
print(len(ours), *ours, int(y.sum()), float(x.grad.double().sum()), sep="|", end="|")
print(int(output.sum()), int(weight.grad.sum()), sep="|")
"""


def run(before: str, path: Path, **environment: str) -> list[str]:
    variables = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        env=variables | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().split("|")


def expected() -> list[str]:
    x = (torch.arange(200_000.0).reshape(5, -1) % 7 / 3).requires_grad_()
    y = tsslbp.spikes(x, impl="cpu")
    y.sum().backward()
    assert x.grad is not None
    spikes, by_16_outputs = str(int(y.sum())), str(int(16 * y.sum()))
    return [spikes, str(float(x.grad.double().sum())), by_16_outputs, by_16_outputs]


@pytest.mark.slow
def test_no_writable_cache(tmp_path: Path) -> None:
    """Without a writable cache folder the kernels warn once and compute the same.

    Files stand where the folders should be, so that not even root can write a cache there.
    """
    copy = tmp_path / "site" / "tsslbp"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (copy, copy / "kernels", copy / "neuron"):
        (folder / "__pycache__").touch()
    home = tmp_path / "home"
    home.touch()
    nowhere = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "NUMBA_CACHE_DIR": ""}
    count, message, *numbers = run("", copy.parent, **nowhere)
    assert count == "1"
    assert "no writable folder for compiled kernels" in message
    assert numbers == expected()


@pytest.mark.slow
def test_no_openmp() -> None:
    before = "import ctypes, numba, torch; ctypes.CDLL = lambda path: object()"
    count, message, *numbers = run(before, PACKAGE.parent)
    assert count == "1"
    assert "run on one thread" in message
    assert numbers == expected()


@pytest.mark.slow
def test_openmp_and_cache_give_no_warning() -> None:
    assert run("", PACKAGE.parent) == ["0", *expected()]


@pytest.mark.slow
def test_kernels_are_compiled_once(tmp_path: Path) -> None:
    """A second process takes the compiled kernels from the cache on disk."""
    report = (
        "import atexit; atexit.register(lambda: print(*(function.cache_hits"
        " for kernel in (tsslbp.neuron.cpu._forward_kernel, tsslbp.neuron.cpu._backward_kernel,"
        " tsslbp.kernels.events._weight_gradient_kernel(1, 1))"
        " for function, _ in kernel.compiled.values())))"
    )
    before = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = run(report, PACKAGE.parent, **before)[-1].splitlines()[1]
    second = run(report, PACKAGE.parent, **before)[-1].splitlines()[1]
    assert (first, second) == ("0 0 0", "1 1 1")


def _in_worker(seed: int) -> float:
    x = torch.randn(5, 50_000, generator=torch.Generator().manual_seed(seed))
    return tsslbp.spikes(x, impl="cpu").sum().item()


@pytest.mark.slow
def test_spawned_workers_after_the_kernels_ran() -> None:
    ours = [_in_worker(0), _in_worker(1)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_in_worker, [0, 1]) == ours


def test_kernels_follow_pytorchs_threads(monkeypatch) -> None:
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # noqa: B023
        assert compiled.workers_for(10**7) == threads
    assert compiled.workers_for(10) == 1


@ParallelKernel
def _note_threads(arguments, worker, workers):
    (threads,) = arguments[0]
    threads[worker] = THREAD_NUM()
    return DONE


def test_kernels_run_on_as_many_threads_as_pytorch() -> None:
    """Worker i is on thread i of PyTorch's pool; with fewer threads, each serves some workers."""
    before = torch.get_num_threads()
    compiled._openmp()  # where `_note_threads` finds its thread's number
    try:
        for threads, expected in ((1, [0] * 5), (2, [0, 1, 0, 1, 0]), (7, [0, 1, 2, 3, 4])):
            torch.set_num_threads(threads)
            found = torch.full((5,), -1)
            _note_threads(found, workers=5)
            assert found.tolist() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numba_name", "pytorch", "onednn"),
    [("haswell", "avx2", "AVX2"), ("x86-64", "default", "SSE41")],
    ids=["AVX2", "x86-64"],
)
def test_rules_on_older_processors(
    numba_name: str, pytorch: str, onednn: str, tmp_path: Path
) -> None:
    """Golden tensors and all rules, with AVX2 alone and with LLVM's generic target.

    The generic target has vectors of 16 bytes and no fused multiply-adds.
    """
    settings = {
        "NUMBA_CPU_NAME": numba_name,
        "NUMBA_CPU_FEATURES": "",  # otherwise Numba takes those of this processor
        "NUMBA_CACHE_DIR": str(tmp_path),
        "ATEN_CPU_CAPABILITY": pytorch,
        "ONEDNN_MAX_CPU_ISA": onednn,
    }
    tests = ["test_golden.py", "test_neuron.py::test_all_rules_fused_equal_reference"]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not cuda", *tests]
    result = subprocess.run(
        [sys.executable, *command],
        cwd=Path(__file__).parent,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "passed" in result.stdout
