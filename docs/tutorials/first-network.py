# %% [markdown]
# # The first network in ten minutes
#
# In this tutorial you train a spiking network on handwritten digits of 8 × 8 pixels, measure its accuracy and look at its spikes. The digits come with the package, so nothing is downloaded. In a clone, install the package with `pip install '.[figures]'`.
#
# ## Train
#
# One command trains a network and saves everything about the training in a *run folder*. `digits` is the name of a recipe, a file that completely describes a training. The recipe sets 30 epochs; six are enough here.

# %%
# !tsslbp train digits --epochs 6 --out runs/first

# %% [markdown]
# `tsslbp recipes` lists all recipes, and `--set KEY=VALUE` changes any key of a recipe. If a training is interrupted, the same command with `--resume` continues it.
#
# ## Use the network
#
# `tsslbp.load` returns the trained network, an ordinary `torch.nn.Module`. Its input must be normalised as in training, with the recipe's mean and standard deviation.

# %%
import tsslbp

net = tsslbp.load("runs/first")
digits = tsslbp.data.load("digits")
images = tsslbp.data.normalise(digits.test_images, mean=[0.305], std=[0.376])
print(net)

# %% [markdown]
# The network returns the postsynaptic currents (PSCs) of its ten output neurons at each of the five time steps, `[T, N, classes]`. The predicted class is the one whose PSC has the largest sum over time, which is what `tsslbp.predict` computes.

# %%
psc = net(images)
predicted = tsslbp.predict(psc)
correct = predicted == digits.test_labels
print(tuple(psc.shape), f"{correct.double().mean():.1%} of {len(correct)} test images are correct")

# %% [markdown]
# ## Look at the spikes
#
# `net.trace` returns the potentials, spikes and PSCs of every layer. The picture shows them for one test image: each dot is a spike, and the lower panels show the membrane potentials of the most active neurons.

# %%
from tsslbp.figures import run

image = 3
layers = net.trace(images[image : image + 1])
run.image_trace(
    digits.test_images[image].numpy(),
    int(digits.test_labels[image]),
    int(predicted[image]),
    {name: layer.spikes[:, 0].numpy() for name, layer in layers.items()},
    {name: layer.potential[:, 0].numpy() for name, layer in layers.items()},
    dict.fromkeys(layers, 1.0),
)

# %% [markdown]
# A layer's *firing rate* is its mean number of spikes per neuron and time step. Low rates mean few operations:

# %%
for name, layer in layers.items():
    print(f"{name:8} {layer.rate:.3f} spikes per neuron and time step")

# %% [markdown]
# ## What next
#
# - `tsslbp draw runs/first` writes figures of the training, of the errors and of the weights into the run folder.
# - `tsslbp cost runs/first` counts the operations per image, and compares them with the same network with ReLU.
# - `tsslbp trials digits --seeds 5` trains five networks with different seeds, because a single run says little.
# - The next tutorials train on [your own images](own-images.md) and build [your own network](own-network.md).
