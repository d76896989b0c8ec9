"""Neurons under `torch.func.vmap`, whose axis is folded into the batch, and in a graph.

Neurons do not know of each other, so samples or networks that are mapped are just more of them. A
rule that reads the whole layer, its firing rate or mean gradient, is none of one sample's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..rules import Rule


def is_traced() -> bool:
    """Whether a graph is being made of what is called, in which no value can be looked at."""
    return torch.compiler.is_compiling() or _is_traced_by_jit()


def is_exported() -> bool:
    """Whether the graph is for other programs, by `torch.export` or `torch.jit.trace`."""
    is_compiled = torch.compiler.is_compiling()
    return torch.compiler.is_exporting() if is_compiled else _is_traced_by_jit()


def _is_traced_by_jit() -> bool:
    jit: Any = torch.jit  # PyTorch leaves it untyped
    return bool(jit.is_tracing())


def is_mapped(*tensors: Tensor | None) -> bool:
    """Whether `torch.func.vmap` maps an axis of any of them, at any level."""
    if torch.compiler.is_compiling():  # which maps nothing itself
        return False
    functorch: Any = torch._C._functorch
    for tensor in tensors:
        while tensor is not None and functorch.is_functorch_wrapped_tensor(tensor):
            if functorch.is_batchedtensor(tensor):
                return True
            tensor = functorch.get_unwrapped(tensor)
    return False


def can_look_at(*tensors: Tensor) -> bool:
    """Whether a function may branch on the tensors' values, and need not wait for them."""
    is_here = all(one.device.type == "cpu" for one in tensors)
    return is_here and not is_traced() and not is_mapped(*tensors)


def check_rule(rule: Rule, x: Tensor) -> None:
    """Raise `InvalidInput` where a rule's backward pass is mapped that reads the whole layer."""
    if (rule.reads_rate or rule.is_normalised) and is_mapped(x):
        what = "firing rate" if rule.reads_rate else "mean gradient"
        hint = "; warm_up='neuron', 'never' or 'always' do not" if rule.reads_rate else ""
        raise InvalidInput(
            f"torch.func.vmap cannot map the gradient of {type(rule).__name__}, which reads the "
            f"{what} of the layer over the whole batch{hint}"
        )


def fold(x: Tensor, dim: int | None, size: int, axis: int) -> Tensor:
    """A tensor whose mapped axis is part of its axis `axis`, or stands there if that is none.

    Args:
        x: as a function's ``vmap`` is given it.
        dim: the mapped axis; None: `x` is the same for all.
        size: of the mapped axis.
        axis: counted without the mapped one.
    """
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    x = x.movedim(0, axis)
    return x.flatten(axis, axis + 1) if x.ndim > axis + 1 else x


def unfold(x: Tensor, size: int, axis: int) -> Tensor:
    """A result of what was given as `fold` returned it, with the mapped axis at `axis`."""
    return torch.unflatten(x, axis, (size, x.shape[axis] // size))
