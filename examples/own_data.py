"""Train on images of your own, here stripes that run in one of four directions.

Run it with ``python examples/own_data.py``. It takes a few seconds and downloads nothing.
"""

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import tsslbp
from tsslbp import data, experiment, training

NAMES = ["horizontal", "falling", "vertical", "rising"]


def stripes(count: int) -> tuple[Tensor, Tensor]:
    """Return noisy images ``[count, 1, 12, 12]`` from 0 to 1, and their labels ``[count]``."""
    labels = torch.arange(count) % 4
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    along = torch.stack([row, row - column, column, row + column])[labels]
    phase = torch.rand(count, 1, 1) * 6.28
    images = 0.5 + 0.5 * torch.sin(1.5 * along + phase) + 0.2 * torch.randn(count, 12, 12)
    return images.clamp(0, 1)[:, None], labels


def main(epochs: int = 5) -> float:
    """Return the test accuracy, from 0 to 1."""
    torch.manual_seed(0)
    train, test = TensorDataset(*stripes(400)), TensorDataset(*stripes(100))
    mine = data.DataSet.from_torch("stripes", train, test, class_names=NAMES)
    settings = experiment.Experiment(
        data="stripes",
        mean=(0.5,),
        std=(0.35,),
        network="8C3-P2-32",
        epochs=epochs,
        batch_size=20,
        learning_rate=0.002,
        validation_images=50,
    )
    net = training.loop.Training(settings, mine).fit(run=None)  # a Run would keep records
    images = data.normalise(mine.test_images, [0.5], [0.35])
    accuracy = (tsslbp.predict(net(images)) == mine.test_labels).double().mean().item()
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
