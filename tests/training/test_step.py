"""Tests of one step on the host: clipping, update, clamping, and memory that is freed."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tsslbp.data
from tsslbp import layers, losses, training
from tsslbp.errors import Diverged
from tsslbp.network import CustomNetwork
from tsslbp.training.step import clamp_weights, clip_gradient

from .toy import EXPERIMENT


@pytest.mark.parametrize(("rate", "limit"), [(1.0, 4.0), (1e5, 0.7)])
def test_clip_and_clamp(rate: float, limit: float) -> None:
    """A plain gradient step has the clipped norm times the learning rate; weights are clamped."""
    net = tsslbp.Network("8", (1, 2, 2), 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    images, labels = torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 0])
    before = [weight.detach().clone() for weight in net.parameters()]
    result = training.train_step(
        net, optimizer, _van_rossum, images, labels, gradient_clip=1e-3, weight_limit=limit
    )
    assert result.gradient_norm > 1e-3
    largest = max(weight.abs().max().item() for weight in net.parameters())
    if limit < 1:
        assert largest == pytest.approx(limit)
    else:
        moved = zip(net.parameters(), before, strict=True)
        length = math.sqrt(sum(float((new - old).detach().square().sum()) for new, old in moved))
        assert length == pytest.approx(1e-3, rel=1e-2)


def test_only_connections_are_clamped() -> None:
    """Norms, biases and constants of neurons may exceed the limit, which is for connections."""
    module = nn.Sequential(
        *(nn.Flatten(-3), layers.Linear(4, 3, bias=True), layers.BatchNorm(3)),
        *(layers.LIF(8.0, learnable=("tau_m",), time_steps=2), layers.Linear(3, 2)),
    )
    net = CustomNetwork(module, (1, 2, 2), 2, 2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(5.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    images, labels = torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 0])
    training.train_step(net, optimizer, losses.softmax, images, labels, weight_limit=0.5)
    limits = {name: weight.abs().max().item() for name, weight in module.named_parameters()}
    kept = {"1.bias", "2.weight", "2.bias", "3.raw_tau_m"}
    assert {name for name, one in limits.items() if one > 4.9} == kept
    assert {one for name, one in limits.items() if name not in kept} == {0.5}
    assert set(net.weights) == limits.keys() - kept
    clamp_weights([torch.ones(3)], 0.5)  # without a connection, nothing is clamped


def _van_rossum(psc: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return tsslbp.losses.van_rossum(psc, labels)


def test_clipping_is_pytorchs() -> None:
    weights = [torch.zeros(3, 4, requires_grad=True), torch.zeros(5, requires_grad=True)]
    assert clip_gradient(weights, 1.0) == 0
    for scale in (0.01, 3.0):
        gradients = [scale * torch.randn(weight.shape) for weight in weights]
        found = []
        for clip in (clip_gradient, torch.nn.utils.clip_grad_norm_):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()
            found.append((clip(weights, 1.0), [weight.grad for weight in weights]))
        torch.testing.assert_close(*found)


def test_loss_that_becomes_infinite_stops_before_the_update() -> None:
    net = tsslbp.Network("4", (1, 2, 2), 2)
    optimizer = training.build_optimizer(EXPERIMENT, net)
    before = [weight.detach().clone() for weight in net.parameters()]
    images, labels = torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 0])
    with pytest.raises(Diverged, match="the loss is inf"):
        training.train_step(
            net, optimizer, lambda psc, labels: psc.sum() + math.inf, images, labels
        )
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), before, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_kept() -> None:
    """A step reuses the memory that earlier steps have freed, so it causes few page faults."""
    program = """
import resource, torch
from tsslbp.training import keep_freed_memory
keep_freed_memory()
for step in range(42):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**21), torch.ones(2**21)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(training.__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert int(result.stdout) < 32768  # in forty steps; 163,840 if nothing is kept
