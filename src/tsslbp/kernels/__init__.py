"""The parts of the fused CPU code: compilation, vectors, tiles, event-driven products.

Here is only what kernels for the CPU and for the GPU share.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


_functions: list[Callable[..., Any]] = []


def not_traced(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let modules that `torch.compile` compiles call this function of a module unchanged.

    Like `torch.compiler.disable`, but it imports PyTorch's compiler only if something is compiled:
    that import takes as long as PyTorch's own. When the compiler meets the first of these
    functions, all of them are replaced by what `torch.compiler.disable` returns.
    """
    if "torch._dynamo" in sys.modules:
        return cast("Callable[_P, _R]", torch.compiler.disable(function))
    _functions.append(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():
            _replace_all()
            return cast(_R, torch.compiler.disable(function)(*args, **kwargs))
        return function(*args, **kwargs)

    return call


def _replace_all() -> None:
    for function in _functions:
        module = sys.modules[function.__module__]
        setattr(module, function.__name__, torch.compiler.disable(function))
    _functions.clear()
