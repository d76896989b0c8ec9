"""Neurons under `torch.func.vmap`, whose axis is folded into the batch, and in traced graphs.

Neurons are independent of each other, so samples or networks that are mapped are simply more of
them. A rule that depends on the whole layer (its firing rate or mean gradient) has no meaning for
one sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..errors import InvalidInput
from ..rules import Rule


def is_traced() -> bool:
    """Whether a graph is being traced, in which values cannot be read."""
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
    if torch.compiler.is_compiling():  # compiled code does not map
        return False
    functorch: Any = torch._C._functorch
    for tensor in tensors:
        while tensor is not None and functorch.is_functorch_wrapped_tensor(tensor):
            if functorch.is_batchedtensor(tensor):
                return True
            tensor = functorch.get_unwrapped(tensor)
    return False


def can_look_at(*tensors: Tensor) -> bool:
    """Whether a function may branch on the tensors' values without waiting for a device."""
    is_here = all(one.device.type == "cpu" for one in tensors)
    return is_here and not is_traced() and not is_mapped(*tensors)


def check_rule(rule: Rule, x: Tensor) -> None:
    """Raise `InvalidInput` if a rule that depends on the whole layer is mapped backward."""
    if (rule.reads_rate or rule.is_normalised) and is_mapped(x):
        what = "firing rate" if rule.reads_rate else "mean gradient"
        hint = "; use warm_up='neuron', 'never' or 'always'" if rule.reads_rate else ""
        raise InvalidInput(
            f"torch.func.vmap cannot map the gradient of {type(rule).__name__}, which depends on "
            f"the {what} of the layer over the whole batch{hint}"
        )


def fold(x: Tensor, dim: int | None, size: int, axis: int) -> tuple[Tensor, bool]:
    """Fold the mapped axis of a tensor into `axis`; a tensor without this axis gets it.

    Args:
        x: the argument of a function's ``vmap``.
        dim: the mapped axis; None: `x` is the same for all.
        size: size of the mapped axis.
        axis: counted without the mapped axis.

    Returns:
        The tensor, and whether the tensor had `axis`; otherwise the mapped axis is this axis.
    """
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    x, is_joined = x.movedim(0, axis), x.ndim > axis + 1
    return x.flatten(axis, axis + 1) if is_joined else x, is_joined


def unfold(x: Tensor, size: int, axis: int, is_joined: bool) -> Tensor:
    """Return a result for arguments from `fold`, with the mapped axis at `axis`."""
    return torch.unflatten(x, axis, (size, x.shape[axis] // size)) if is_joined else x


class Gradient(Function):
    """The backward pass of a learning rule as a separate function, which `torch.func` can map."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("a learning rule has no second derivative")
