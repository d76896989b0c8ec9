"""Losses on the output layer's PSC ``[T, N, classes]``, and the prediction read from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from numbers import Real
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from .checked import SHARE, check_number, check_whole
from .errors import InvalidInput
from .neuron.settings import check_dense
from .neuron.tracing import can_look_at

Loss = Callable[[Tensor, Tensor], Tensor]  # takes the output PSC and the labels
MEANS = ("softmax", "tet")  # losses that average over the batch; the others sum over it


def predict(psc: Tensor) -> Tensor:
    """Return the class with the largest PSC summed over time, ``[N]`` int64.

    If several classes have the largest sum, the lowest of them is returned.

    Args:
        psc: ``[T, N, classes]``, a network's output.

    Raises:
        InvalidInput: `psc` is not a tensor of three dimensions.
    """
    if not isinstance(psc, Tensor) or psc.ndim != 3:
        got = f"shape {list(psc.shape)}" if isinstance(psc, Tensor) else type(psc).__name__
        what = "images" if isinstance(psc, Tensor) and psc.ndim >= 4 else ""
        hint = f", which seem to be {what}: predict(net(images))" if what else ""
        raise InvalidInput(f"predict takes a network's output [T, N, classes], got {got}{hint}")
    return psc.sum(0).argmax(1)


def van_rossum(
    psc: Tensor,
    labels: Tensor,
    *,
    tau_s: float = 3.0,
    target_filters: int = 2,
    pattern: Sequence[int] | None = None,
) -> Tensor:
    """Van Rossum distance ``1/2 sum (psc - target)^2`` over steps, batch and classes.

    The target of the true class is the desired spike train, passed through the synaptic filter. The
    target of all other classes is 0.

    Args:
        psc: ``[T, N, classes]``.
        labels: ``[N]``, integers.
        tau_s: synaptic time constant of the target's filter, in time steps.
        target_filters: how many times the desired train is filtered: once as in the paper, or twice
            as in the revised code, whose target no spike train can match exactly.
        pattern: the desired train, a sequence of 0 and 1, repeated and cut to T steps. The default
            is ``0, 1, 1, 1, 1`` for T < 10 and ``0, 1`` for longer trains.

    Returns:
        A scalar: a sum over the batch, not a mean.

    Raises:
        InvalidInput: a label is out of range, `tau_s` is below 1 or is not a number, or the desired
            train has no spike.

    Source: Zhang & Li (2020), the loss; docs/reproduction.md on the filters.
    """
    labels = _checked(psc, labels)
    if not isinstance(tau_s, Real):
        raise InvalidInput(
            f"tau_s must be a number, got {type(tau_s).__name__}: the target cannot be trained"
        )
    if pattern is None:
        pattern = (0, 1, 1, 1, 1) if len(psc) < 10 else (0, 1)
    classes = torch.arange(psc.shape[2], device=psc.device)
    true_class = labels[:, None] == classes
    filters = check_whole("target_filters", target_filters)
    settings = len(psc), tuple(pattern), check_number("tau_s", tau_s), filters
    target = _desired(*settings, psc.dtype, psc.device)[:, None, None] * true_class
    return 0.5 * functional.mse_loss(psc, target, reduction="sum")


@functools.cache  # never cleared: a captured CUDA graph may still read a target
def _desired(
    steps: int,
    pattern: tuple[int, ...],
    tau_s: float,
    target_filters: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return the true class's target; cached, since a CUDA graph cannot copy it from the host."""
    if not pattern or any(spike not in (0, 1) for spike in pattern):
        raise InvalidInput(f"the desired train must consist of 0 and 1, got {list(pattern)}")
    if tau_s < 1:
        raise InvalidInput(f"tau_s must be at least 1, got {tau_s}")
    target = [float(pattern[t % len(pattern)]) for t in range(steps)]
    if not any(target):
        raise InvalidInput(
            f"the desired train {list(pattern)} has no spike within T = {steps} steps, so there is "
            "nothing to learn; choose another pattern, more time steps or the softmax loss"
        )
    for _ in range(target_filters):
        state = 0.0
        for t in range(steps):
            target[t] = state = (1 - 1 / tau_s) * state + target[t] / tau_s
    return torch.tensor(target, dtype=dtype, device=device)


def count(psc: Tensor, labels: Tensor, *, desired: float, undesired: float) -> Tensor:
    """Squared error of the PSC summed over time; errors in the harmless direction count as 0.

    ``delta = (sum_t psc - target) / T`` is set to 0 where the true class exceeds its target or
    another class stays below its target. The loss is ``T/2 sum delta^2``. It compares sums of the
    PSC, which are not spike counts.

    Args:
        psc: ``[T, N, classes]``.
        labels: ``[N]``, integers.
        desired, undesired: targets of the true class and of the others, in units of summed PSC.

    Returns:
        A scalar: a sum over the batch, not a mean.

    Raises:
        InvalidInput: a label is out of range.
    """
    labels = _checked(psc, labels)
    true_class = functional.one_hot(labels, psc.shape[2]).bool()
    high, low = check_number("desired", desired), check_number("undesired", undesired)
    target = torch.full_like(psc[0], low).masked_fill(true_class, high)
    delta = (psc.sum(0) - target) / len(psc)
    harmless = torch.where(true_class, delta > 0, delta < 0)
    return 0.5 * len(psc) * delta.masked_fill(harmless, 0).square().sum()


def softmax(psc: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy whose logits are the PSC summed over time.

    With label smoothing s, the target of the true class is ``1 - s + s / classes`` and that of
    every other class is ``s / classes``.

    Args:
        psc: ``[T, N, classes]``.
        labels: ``[N]``, integers.
        label_smoothing: s, from 0 to 1.

    Returns:
        A scalar: the mean over the batch, or 0 for an empty batch.

    Raises:
        InvalidInput: a label is out of range, or `label_smoothing` is below 0 or above 1.

    Source: label smoothing: Szegedy et al., "Rethinking the Inception architecture for computer
    vision" (CVPR 2016), section 7.
    """
    labels = _checked(psc, labels)
    label_smoothing = check_number("label_smoothing", label_smoothing, SHARE)
    return _cross_entropy(psc.sum(0), labels, label_smoothing)


def tet(
    psc: Tensor,
    labels: Tensor,
    *,
    weight: float = 0.001,
    target: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy at every time step (temporal efficient training), plus a regularisation term.

    ``(1 - weight) mean_t CE(psc[t], labels) + weight mean (psc - target)^2``. The first mean is
    over steps and batch, and the logits of a step are its outputs. The second mean is over all
    outputs.

    The paper's outputs are unbounded currents. The PSC of a spike train lies between 0 and 1, so
    with 10 classes the cross-entropy of a step cannot fall below 1.46, even if all images are
    classified correctly.

    Args:
        psc: ``[T, N, classes]``.
        labels: ``[N]``, integers.
        weight: weight of the regularisation term, lambda in the paper, from 0 to 1.
        target: value to which the regularisation term pulls every output, phi in the paper: the
            threshold.
        label_smoothing: as for `softmax`.

    Returns:
        A scalar: the mean over the batch, or 0 for an empty batch.

    Raises:
        InvalidInput: a label is out of range, or `weight` or `label_smoothing` is below 0 or above
            1.

    Source: Deng, Li, Zhang & Gu, "Temporal efficient training of spiking neural network via
    gradient re-weighting" (ICLR 2022), equations of L_TET, L_MSE and L_TOTAL. The defaults of
    `weight` and `target` are those of their public code for CIFAR.
    """
    labels = _checked(psc, labels)
    weight = check_number("weight", weight, SHARE)
    label_smoothing = check_number("label_smoothing", label_smoothing, SHARE)
    every_step = _cross_entropy(psc.flatten(0, 1), labels.repeat(len(psc)), label_smoothing)
    if not weight or not len(labels):
        return (1 - weight) * every_step
    return (1 - weight) * every_step + weight * (psc - target).square().mean()


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    if not len(labels):
        return logits.sum()
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def as_labels(labels: Tensor | Sequence[int], device: torch.device | None = None) -> Tensor:
    """Return class numbers of any integer type as an int64 tensor.

    Args:
        labels: ``[N]``, a tensor, a NumPy array or a list.
        device: device of a tensor made from an array or a list; a tensor stays on its own.

    Raises:
        InvalidInput: the labels are not whole numbers.
    """
    try:
        tensor = labels if isinstance(labels, Tensor) else torch.as_tensor(labels, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"labels must be class numbers [N], got {labels!r:.80}") from error
    check_dense("labels", tensor)
    if tensor.dtype == torch.int64 or tensor.numel() == 0:
        return tensor.long()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidInput(
            f"labels must be class numbers (whole numbers from 0), got {tensor.dtype}"
        )
    return tensor.long()


def _checked(psc: Tensor, labels: Tensor | Sequence[int]) -> Tensor:
    """Return the labels as int64; raise `InvalidInput` if they do not match the PSC."""
    check_dense("the PSC", psc)
    labels = as_labels(labels, psc.device)
    if psc.ndim != 3 or labels.shape != psc.shape[1:2]:
        raise InvalidInput(
            f"expected a PSC [T, N, classes] and labels [N], "
            f"got {tuple(psc.shape)} and {tuple(labels.shape)}"
        )
    if can_look_at(labels) and len(labels):  # on a GPU the check would stall the queue
        low, high = cast("tuple[Tensor, Tensor]", labels.aminmax())
        if low < 0 or high >= psc.shape[2]:
            wrong = int(low if low < 0 else high)
            raise InvalidInput(f"label {wrong} is out of range for {psc.shape[2]} classes")
    return labels
