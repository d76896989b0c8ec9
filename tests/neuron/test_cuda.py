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
from tsslbp import neuron
from tsslbp.errors import InvalidInput


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
