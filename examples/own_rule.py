"""Train with a learning rule of your own: the gradient passes where the potential is in a window.

Run it with ``python examples/own_rule.py``. It takes a few seconds and downloads nothing.
"""

from dataclasses import dataclass

import torch

import tsslbp
from tsslbp.neuron import reference
from tsslbp.rules import Rule


@dataclass(frozen=True)
class StraightThrough(Rule):
    """``dL/dI[t] = dL/ds[t]`` where ``low < u[t] < high``, else 0."""

    low: float = 0.0
    high: float = 2.0


def backward(rule, trace, rate, grad_spikes, neuron):
    """Map dL/d(spikes) to dL/d(current), ``[T, ...]``, from the potentials that `trace` holds."""
    return grad_spikes * ((trace.potential > rule.low) & (trace.potential < rule.high))


def main(steps: int = 60) -> float:
    """Return the test accuracy on the digits, from 0 to 1."""
    reference.BACKWARD[StraightThrough] = backward
    torch.manual_seed(0)
    digits = tsslbp.data.load("digits")
    images = tsslbp.data.normalise(digits.train_images, [0.305], [0.376])
    net = tsslbp.Network("64", input_shape=(1, 8, 8), time_steps=4, rule=StraightThrough(high=1.5))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.005)
    for step in range(steps):
        batch = torch.randperm(len(images))[:100]
        loss = tsslbp.losses.softmax(net(images[batch]), digits.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    tests = tsslbp.data.normalise(digits.test_images, [0.305], [0.376])
    accuracy = (tsslbp.predict(net(tests)) == digits.test_labels).double().mean().item()
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
