"""Train a network of your own: convolution, batch normalisation and neurons that learn `tau_m`.

Run it with ``python examples/own_network.py``. It takes a few seconds and downloads nothing.
"""

from torch import nn

import tsslbp
from tsslbp.layers import LIF, BatchNorm, Conv, Linear, MaxPool


def main(epochs: int = 5) -> float:
    """Return the test accuracy on the digits, from 0 to 1."""
    module = nn.Sequential(
        Conv(1, 16, 3, padding=1),
        BatchNorm(16),
        LIF(tau_m=2.0, tau_s=1.0, time_steps=4, learnable=("tau_m",)),  # [4, N, 16, 8, 8]
        MaxPool(2),
        nn.Flatten(-3),  # [4, N, 256]
        Linear(256, 10, bias=True),  # logits at every time step: [4, N, 10]
    )
    net = tsslbp.fit(
        module,
        "digits",
        time_steps=4,
        mean=[0.305],
        std=[0.376],
        loss="tet",
        epochs=epochs,
        learning_rate=0.005,
        validation_images=150,
    )
    digits = tsslbp.data.load("digits")
    images = tsslbp.data.normalise(digits.test_images, [0.305], [0.376])
    accuracy = (tsslbp.predict(net(images)) == digits.test_labels).double().mean().item()
    neurons = module[2].neurons.neuron
    print(f"test accuracy {accuracy:.1%}, tau_m went from 2.0 to {neurons.tau_m:.2f}")
    return accuracy


if __name__ == "__main__":
    main()
