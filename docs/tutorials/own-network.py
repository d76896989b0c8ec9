# %% [markdown]
# # Your own network
#
# `tsslbp.layers` has modules for `torch.nn.Sequential` or for the `forward` of your own class. Time is the first axis of all signals, `[T, N, ...]`. Nothing keeps state between calls, so there is nothing to reset.
#
# ## The modules
#
# A typical block is a connection followed by neurons. The first `LIF` gets the number of time steps. The modules before it process the image once; all signals after it have a time axis.

# %%
import torch
from torch import nn

import tsslbp
from tsslbp.layers import LIF, BatchNorm, Conv, Linear, MaxPool, Residual

torch.manual_seed(0)


def neurons(**settings):
    return LIF(tau_m=2.0, tau_s=1.0, rule=tsslbp.Surrogate("arctangent"), **settings)


def make():
    return nn.Sequential(
        *(Conv(1, 16, 3, padding=1), BatchNorm(16), neurons(time_steps=4, learnable=("tau_m",))),
        Residual(nn.Sequential(Conv(16, 16, 3, padding=1), BatchNorm(16), neurons())),
        *(MaxPool(2), nn.Flatten(-3)),
        Linear(16 * 4 * 4, 10, bias=True),
    )


module = make()
print(module(torch.randn(20, 1, 8, 8)).shape)  # logits of every time step

# %% [markdown]
# `BatchNorm` is threshold-dependent batch normalisation (tdBN), and `Residual` adds spikes element-wise (SEW). `learnable=("tau_m",)` trains the membrane time constant together with the weights, as in PLIF neurons.
#
# ## The training
#
# `tsslbp.fit` trains a module in the same way as the network of a recipe. Its keyword arguments are the keys of a recipe, and `out` names a run folder.

# %%
net = tsslbp.fit(
    module,
    "digits",
    time_steps=4,
    mean=[0.305],
    std=[0.376],
    loss="tet",
    schedule="cosine",
    learning_rate=0.005,
    epochs=3,
    validation_images=150,
    out="runs/mine",
)

# %%
digits = tsslbp.data.load("digits")
images = tsslbp.data.normalise(digits.test_images, [0.305], [0.376])
correct = tsslbp.predict(net(images)) == digits.test_labels
print(f"test accuracy {correct.double().mean():.1%}")
print(module[2].neurons.neuron)  # the trained constants
for name, layer in net.activity(images).items():
    print(f"layer {name}: {layer.firing_rate:.3f} spikes per neuron and time step")

# %% [markdown]
# ## Load it again
#
# The run folder contains weights, not code. To load them, build the module again and pass it to `tsslbp.load`. Batch normalisation can then be folded into the convolutions:

# %%
again = tsslbp.load("runs/mine", module=make())
print(torch.equal(again(images), net(images)))
folded = tsslbp.layers.fold_batch_norms(again.module)
print(torch.allclose(folded(images), net(images), atol=1e-4))

# %% [markdown]
# To use such a network with all commands of the program (`trials`, `sweep`, `compare`), write a function that builds it into a file and name the file in a recipe: the [guide](../guide/own-network.md#name-it-in-a-recipe) shows how.
