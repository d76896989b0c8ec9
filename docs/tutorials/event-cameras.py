# %% [markdown]
# # Event cameras
#
# An event camera reports changes of brightness, each as an event with position, time and polarity. Events are binned into frames, one for each time step, and the frames are the input of the network. This tutorial simulates the recordings of such a sensor. `tsslbp train moving-digits` trains on simulated recordings with a ready-made recipe.
#
# ## Your own recordings
#
# A function yields the label and the events of each recording. `data.as_events` takes plain columns x, y, t (in microseconds) and polarity, or the structured arrays of tonic. Here a bar moves to the right or to the left.

# %%
import numpy as np

from tsslbp import data


def read(number):
    """Yield the label and the events of one recording."""
    random = np.random.default_rng(number)
    t = np.sort(random.integers(0, 50_000, 400))
    x = (t // 5000 + random.integers(0, 3, 400)) % 16
    x = x if number % 2 else 15 - x
    events = np.stack([x, random.integers(0, 16, 400), t, random.integers(0, 2, 400)], axis=1)
    yield number % 2, data.as_events(events, height=16, width=16)


label, events = next(read(1))
print(label, events.t[:5], events.x[:5])

# %% [markdown]
# ## Frames
#
# `Binning` controls how events are binned into frames: of equal duration or with equal numbers of events, as binary values, counts or a time surface. The frames are computed once and kept in a file in the cache folder.

# %%
from tsslbp.data import frame_cache

bars = data.EventSet("bars", 16, 16, 2, range(80), range(80, 120), read, fingerprint="1")
frames = frame_cache.load(bars, time_steps=10, how=data.Binning(window=5.0))
print(frames.train_images.shape)  # [N, T, C, H, W]

# %%
from tsslbp.figures import sample

right = next(iter(frames.train_images[1:2]))  # [T, C, H, W]
sample.frames_figure(right.numpy(), "a bar that moves to the right, events in each frame")

# %% [markdown]
# Events of increasing brightness are orange, those of decreasing brightness blue.
#
# ## Train
#
# The network needs as many time steps as there are frames. Frames are sparse, so we use larger initial weights (`weight_scale`). The membrane time constant is about half the length of the recording.

# %%
from tsslbp import experiment, training

settings = experiment.Experiment(
    data="bars",
    network="32",
    time_steps=10,
    weight_scale=3.0,
    loss="softmax",
    epochs=6,
    batch_size=10,
    learning_rate=0.005,
    validation_images=20,
)
net = training.loop.Training(settings, frames).fit(run=None)

# %%
import tsslbp

inputs = frames.test_images.trains()  # [T, N, C, H, W]
psc = net(inputs)
correct = tsslbp.predict(psc) == frames.test_labels
print(f"test accuracy {correct.double().mean():.1%}")

# %% [markdown]
# ## When is the answer known?
#
# You can read the output after any number of time steps. The accuracy increases as the network sees more of the recording:

# %%
for steps in range(2, 11, 2):
    share = (tsslbp.predict(psc[:steps]) == frames.test_labels).double().mean()
    print(f"after {steps:2} of 10 steps: {share:.1%}")

# %% [markdown]
# N-MNIST, CIFAR10-DVS and DVS-Gesture are read from their original files and have recipes: see the [guide](../guide/data-sets.md#event-data).
