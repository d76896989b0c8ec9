# %% [markdown]
# # To NIR and back, and energy
#
# The [Neuromorphic Intermediate Representation](https://neuroir.org) (NIR) is a graph of layers that other simulators and the compilers of neuromorphic chips can read. In this tutorial you write a trained network to NIR, read it back, and count its operations and energy per image. It needs `pip install 'tsslbp[exchange]'`.

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
# `to_nir` returns a graph, `nir.write` saves it to a file, and `from_nir` makes a network from a file. The weights in the file are exact, so the new network gives bit-identical outputs.

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
# Our neuron is NIR's `CubaLIF`. The output of the graph is the spike trains of the last layer. The predicted class is the one with the largest sum over time of the PSC, not the one with the most spikes. The [guide](../guide/export.md) shows how Norse, snnTorch and SpikingJelly read such a file, and lists the networks that NIR cannot represent. For a run folder, the command is `tsslbp export runs/first --to nir -o net.nir`.
#
# ## Operations
#
# `cost` counts the operations of the network per image. A spike needs one addition for each weight that it meets. A network with ReLU needs a multiply-add for each connection (each weight at each position), whatever the input.

# %%
cost = tsslbp.analysis.cost(net, images[:100])
print(f"{'layer':8} {'neurons':>8} {'spikes':>8} {'additions':>10} {'with ReLU':>10}")
for layer in (*cost.layers, cost.total):
    additions, dense = layer.spiking.additions, layer.dense_multiplications
    print(f"{layer.name:8} {layer.neurons:8} {layer.spikes:8.1f} {additions:10,.0f} {dense:10,}")

# %% [markdown]
# ## Energy
#
# The energies of single operations are those of Horowitz (2014) at 45 nm. The result is an estimate from counts, not a measurement, and depends strongly on the number format:

# %%
for name, table in tsslbp.analysis.energy.TABLES.items():
    spiking, relu = (one.energy(table).total for one in (cost.total.spiking, cost.total.relu))
    print(f"{name:8} {spiking / 1000:8.1f} nJ spiking, {relu / 1000:8.1f} nJ with ReLU")

# %% [markdown]
# Memory traffic is not included; `tsslbp cost runs/first --memory 32KB` adds it.
