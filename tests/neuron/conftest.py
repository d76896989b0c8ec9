"""The implementations of the neuron that the tests of this folder compare.

Tests that take an `impl` or `fused` run with the CPU kernels and with the GPU kernels: on a GPU
where there is one, otherwise on the CPU in Triton's interpreter. The interpreter shows neither
speed nor races, rounds bfloat16 in its own way and is slow, so it is given fewer cases.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from .compiling import prepare

INTERPRETED = not torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON and INTERPRETED:  # Triton reads it when a kernel is decorated
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import tsslbp.neuron.cuda

SIZES = [(steps, neurons) for steps in (1, 2, 5, 30, 100, 300) for neurons in (1, 63, 500, 1025)]
SOME_SIZES = [(1, 1), (2, 63), (5, 1), (5, 500), (1, 1025), (30, 63), (30, 1025), (100, 500)]
SOME_RULES = ["revised", "published, by neuron", "arctangent", "SLAYER", "EventProp", "NA"]


def _release(name: str) -> tuple[int, ...]:
    """Return the major and minor version of a distribution, or () if it is not installed."""
    try:
        return tuple(map(int, metadata.version(name).split(".")[:2]))
    except metadata.PackageNotFoundError:
        return ()


CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed"),
        pytest.mark.skipif(
            INTERPRETED and _release("triton") < (3, 7) and _release("numpy") >= (2, 4),
            reason="the interpreter of Triton before 3.7 cannot loop with NumPy 2.4 or newer",
        ),
        # NumPy warns where a GPU divides by zero in silence; the value is not used.
        pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
    ],
)


@pytest.fixture(params=["reference", "cpu", CUDA])
def impl(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield each implementation in turn."""
    with _prepared(request):
        yield request.param


@pytest.fixture(params=["cpu", CUDA])
def fused(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield each fused implementation in turn, to be compared with the reference."""
    with _prepared(request):
        yield request.param


@contextmanager
def _prepared(request: pytest.FixtureRequest) -> Iterator[None]:
    """Place inputs for the GPU kernels on the GPU, or prepare Triton's interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cuda" and INTERPRETED:
            patch.setenv("TRITON_INTERPRET", "1")
            # Interpreted, a large tile takes as long as a small one.
            tests_own = request.getfixturevalue("monkeypatch")
            tests_own.setattr(tsslbp.neuron.cuda, "_tile", lambda *_: 4096)
            with _language_patched(patch):
                yield
        else:
            if request.param == "cuda":
                patch.setattr(request.module, "DEVICE", "cuda")
            yield


@contextmanager
def _language_patched(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Patch Triton's language once; doing so at every call in a kernel takes half of the time."""
    from triton import language
    from triton.runtime import interpreter

    whole = SimpleNamespace(__globals__={"tl": language, "core": language.core})
    scope = interpreter._patch_lang(whole)
    patch.setattr(interpreter, "_patch_lang", lambda _: interpreter._LangPatchScope())
    yield
    scope.restore()


@pytest.fixture(params=SIZES, ids=str)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Return a number of steps and one of neurons that are awkward for the kernels."""
    return request.param


@pytest.fixture
def many(fused: str) -> int:
    """Return a number of neurons that leaves little to chance."""
    return 2000 if fused == "cuda" and INTERPRETED else 1_000_000


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [item for item in items if _belongs(getattr(item, "callspec", None))]
    left_out = [item for item in items if not _belongs(getattr(item, "callspec", None))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def _belongs(case: Any) -> bool:
    """Return whether a test is to be run; of those with the GPU kernels, only some are."""
    if case is None or "cuda" not in (case.params.get("impl"), case.params.get("fused")):
        return True
    if "SpikeBP" in (case.params.get("rule"), case.params.get("name")):
        return False  # the GPU has no kernel for it
    if not INTERPRETED:
        return True
    rule, size = case.params.get("rule"), case.params.get("size")
    skipped = isinstance(rule, str) and rule not in SOME_RULES
    return not skipped and (size is None or size in SOME_SIZES)


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """Yield a process in which Triton compiles kernels; in this one it interprets them."""
    cache = str(tmp_path_factory.mktemp("triton"))
    with ProcessPoolExecutor(1, get_context("spawn"), prepare, (cache,)) as process:
        yield process
