"""The parts of the fused CPU code: compilation, vectors, tiles, event-driven products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def not_traced(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a module that `torch.compile` compiles call this function unchanged.

    Like `torch.compiler.disable`, but it imports PyTorch's compiler only if something is compiled:
    that import takes as long as PyTorch's own.
    """
    disabled: dict[str, Callable[_P, _R]] = {}

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if "function" not in disabled:
            disabled["function"] = torch.compiler.disable(function)
        return disabled["function"](*args, **kwargs)

    return call
