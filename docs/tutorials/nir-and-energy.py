# %% [markdown]
# # To NIR and back, and energy
#
# The [Neuromorphic Intermediate Representation](https://neuroir.org) (NIR) is a graph of layers that other simulators and the compilers of neuromorphic chips read. This tutorial writes a trained network to NIR, reads it back, and counts the operations and the energy that an image takes. It needs `pip install 'tsslbp[exchange]'`.

# %%
from dataclasses import replace

import tsslbp
from tsslbp import data, experiment, training

digits = data.load("digits")
settings = replace(experiment.load_recipe("digits"), epochs=3)
net = training.loop.Training(settings, digits).fit(run=None)
images = data.normalise(digits.test_images, settings.mean, settings.std)
correct = tsslbp.predict(net(images)) == digits.test_labels
print(f"test accuracy {correct.double().mean():.1%}")

# %% [markdown]
# ## To NIR and back
#
# `to_nir` returns a graph, `nir.write` stores it, and `from_nir` makes a network of a file. The weights in the file are exact, so the network that comes back computes the same bits.

# %%
import nir
import torch

nir.write("net.nir", tsslbp.export.to_nir(net))
again = tsslbp.export.from_nir("net.nir")
print(torch.equal(again(images), net(images)))

# %%
graph = nir.read("net.nir")
for name, node in graph.nodes.items():
    print(f"{name:10} {type(node).__name__}")

# %% [markdown]
# Our neuron is NIR's `CubaLIF`. The output of the graph are the spikes of the last layer; the predicted class is the one with the largest sum over time of their PSC, and not the one with the most spikes. The [guide](../guide.md#take-a-network-elsewhere) says how Norse, snnTorch and SpikingJelly read such a file, and which networks have no place in NIR. For a run folder the command is `tsslbp export runs/first --to nir -o net.nir`.
#
# ## Operations
#
# `cost` counts what the network does with an image. A spike takes one addition for each weight that it meets; a network with ReLU takes a multiply-add for each weight, whatever the input.

# %%
cost = tsslbp.analysis.cost(net, images[:100])
print(f"{'layer':8} {'neurons':>8} {'spikes':>8} {'additions':>10} {'with ReLU':>10}")
for layer in (*cost.layers, cost.total):
    additions, dense = layer.spiking.additions, layer.dense_multiplications
    print(f"{layer.name:8} {layer.neurons:8} {layer.spikes:8.1f} {additions:10,.0f} {dense:10,}")

# %% [markdown]
# ## Energy
#
# The energies of single operations are those of Horowitz (2014) at 45 nm. They are an estimate from counts, not a measurement, and the number format decides much:

# %%
for name, table in tsslbp.analysis.energy.TABLES.items():
    spiking, relu = (one.energy(table).total for one in (cost.total.spiking, cost.total.relu))
    print(f"{name:8} {spiking / 1000:8.1f} nJ spiking, {relu / 1000:8.1f} nJ with ReLU")

# %% [markdown]
# Memory traffic is not included; `tsslbp cost runs/first --memory 32KB` adds it.
