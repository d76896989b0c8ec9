"""Which implementation of the neuron the tests of this folder are about, and on which device.

The CPU's, unless ``TSSLBP_TEST_IMPL=cuda`` asks for the GPU's: then only the tests that take an
implementation run, on a GPU, or on the CPU where ``TRITON_INTERPRET=1`` is set as well.
test_cuda.py starts such a process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FUSED = os.environ.get("TSSLBP_TEST_IMPL", "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SIZES = [(steps, neurons) for steps in (1, 2, 5, 30, 100, 300) for neurons in (1, 63, 500, 1025)]
SOME_SIZES = [(1, 1), (2, 63), (5, 1), (5, 500), (1, 1025), (30, 63), (30, 1025), (100, 500)]


@pytest.fixture(params=[FUSED] if FUSED == "cuda" else ["reference", FUSED])
def impl(request: pytest.FixtureRequest) -> str:
    """Every implementation to test, one after the other."""
    return request.param


@pytest.fixture(params=[FUSED])
def fused(request: pytest.FixtureRequest) -> str:
    """The implementation to hold against the reference."""
    return request.param


@pytest.fixture(params=SOME_SIZES if INTERPRETED else SIZES, ids=str)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Ugly numbers of steps and neurons."""
    return request.param


@pytest.fixture
def many() -> int:
    """Number of neurons that leaves little to chance."""
    return 2000 if INTERPRETED else 1_000_000


@pytest.fixture(autouse=INTERPRETED)
def _large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for a large tile as for a small one."""
    from tsslbp.neuron import cuda

    monkeypatch.setattr(cuda, "_tile", lambda *_: 1024)


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if FUSED == "cpu":
        return
    takes = {"impl", "fused"}
    ours = [item for item in items if takes & set(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours
    for item in ours:  # NumPy warns where a GPU divides by zero in silence; the value is not used
        item.add_marker(pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"))
