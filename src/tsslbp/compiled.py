"""Kernels compiled with Numba, and the threads that they share with PyTorch."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numba
import torch

SMALLEST_SHARE = 1 << 14  # values; less work than this is not worth another thread


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile with Numba, kept on disk where some folder can be written."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        settings = {"nogil": True, "error_model": "numpy"} | options
        try:
            return cast("Callable[..., Any]", numba.njit(cache=True, **settings)(function))
        except RuntimeError:  # Numba found no folder for its cache
            _warn_no_cache()
            return cast("Callable[..., Any]", numba.njit(**settings)(function))

    return decorate


@functools.cache
def _warn_no_cache() -> None:
    warnings.warn(
        "tsslbp: no writable folder for compiled kernels, so each process compiles them again "
        "(some seconds); set NUMBA_CACHE_DIR to a writable folder",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _openmp() -> bool:
    """Whether Numba can use OpenMP, whose threads share the cores well with PyTorch's own."""
    try:
        from numba.np.ufunc import omppool  # noqa: F401
    except ImportError:
        warnings.warn(
            "tsslbp: no OpenMP library found (libgomp.so.1 on Linux), so the compiled kernels run "
            "on one thread",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    if numba.config.THREADING_LAYER == "default":
        numba.config.THREADING_LAYER = "omp"
    return True


def workers_for(values: int) -> int:
    """Threads for a kernel over so many values: PyTorch's number, fewer for little work."""
    most = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    wanted = min(most, 1 + values // SMALLEST_SHARE)
    return wanted if wanted > 1 and _openmp() else 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run parallel kernels on so many threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


class Function(torch.autograd.Function):
    """An autograd function that PyTorch need not inspect again at every call (20 us each)."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]
