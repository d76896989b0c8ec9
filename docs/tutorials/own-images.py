# %% [markdown]
# # Your own images
#
# You can train on any labelled images of the same size. This tutorial generates noisy images of stripes in four directions, and trains a network to classify the direction.
#
# ## The data
#
# A `DataSet` holds all images in memory. `DataSet.from_torch` makes one from any PyTorch data set whose items are an image and a label, including those of torchvision.

# %%
import torch
from torch.utils.data import TensorDataset

from tsslbp import data

torch.manual_seed(0)


def stripes(count):
    """Return images [count, 1, 12, 12] from 0 to 1, and labels [count]."""
    labels = torch.arange(count) % 4
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    along = torch.stack([row, row - column, column, row + column])[labels]
    images = 0.5 + 0.5 * torch.sin(1.5 * along + 6.28 * torch.rand(count, 1, 1))
    return (images + 0.3 * torch.randn(count, 12, 12)).clamp(0, 1)[:, None], labels


names = ["horizontal", "falling", "vertical", "rising"]
mine = data.DataSet.from_torch(
    "stripes", TensorDataset(*stripes(400)), TensorDataset(*stripes(200)), class_names=names
)
print(mine.input_shape, mine.classes, len(mine.train_labels), len(mine.test_labels))

# %%
from tsslbp.figures import sample

sample.image_figure(mine.train_images[3].numpy(), names[mine.train_labels[3]])

# %% [markdown]
# ## The training
#
# An `Experiment` has the same keys as a recipe, and almost every key has a default. `validation_images` are held out from the training images. The epoch is chosen on them, so no choice depends on the test images.

# %%
from tsslbp import experiment, training

settings = experiment.Experiment(
    data="stripes",
    mean=(0.5,),
    std=(0.35,),
    network="8C3-P2-32",  # a convolution with 8 channels, sum pooling, 32 neurons
    epochs=5,
    batch_size=20,
    learning_rate=0.002,
    validation_images=50,
)
net = training.loop.Training(settings, mine).fit(run=None)

# %% [markdown]
# With `run=None`, no records are written. Pass `run.Run.create(Path("runs/stripes"), settings)` instead, and the training writes a run folder, as `tsslbp train` does.
#
# ## The errors

# %%
import numpy as np

import tsslbp
from tsslbp.figures import run

images = data.normalise(mine.test_images, settings.mean, settings.std)
predicted = tsslbp.predict(net(images))
confusions = np.zeros((4, 4), dtype=int)
np.add.at(confusions, (mine.test_labels.numpy(), predicted.numpy()), 1)
run.confusion(confusions, names)

# %% [markdown]
# ## Without Python
#
# - Save two arrays, `images` and `labels`, with `np.savez("mine.npz", images=..., labels=...)` and write `data = "mine.npz"` into a recipe of your own.
# - Or name a folder of image files, such as `data = "flowers/"`, that contains one folder per class.
#
# The [guide](../guide/own-data.md#your-own-images) describes both.
