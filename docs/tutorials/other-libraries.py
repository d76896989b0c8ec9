# %% [markdown]
# # Coming from snnTorch or SpikingJelly
#
# This page lists the equivalents in snnTorch 1.0 and SpikingJelly 2.0, and checks them by running both. SpikingJelly's modules are those of `spikingjelly.activation_based`.
#
# | | tsslbp | snnTorch | SpikingJelly |
# |---|---|---|---|
# | LIF neuron with hard reset | `tsslbp.spikes(current, tau_m=tau)`, or the module `LIF(tau, 1.0)` | `Leaky(beta=1 - 1/tau, reset_mechanism="zero", reset_delay=False)` | `neuron.LIFNode(tau, decay_input=False)` |
# | LIF neuron with a synaptic filter | `LIF(tau_m, tau_s)` | `Synaptic(alpha=1 - 1/tau_s, beta=1 - 1/tau_m, reset_mechanism="zero", reset_delay=False)` with the input divided by `tau_s` | `layer.SynapseFilter(tau_s)` with the input divided by `tau_s`, then `LIFNode` |
# | trained time constant | `LIF(..., learnable=("tau_m",))` | `Leaky(..., learn_beta=True)` | `neuron.ParametricLIFNode(init_tau, decay_input=False)` |
# | surrogate gradient | `Surrogate("arctangent")` | `surrogate.atan(alpha=2.0)` | `surrogate.ATan(alpha=2.0)` |
# | | `Surrogate("fast-sigmoid", width=1 / slope)` | `surrogate.fast_sigmoid(slope)` | |
# | | `Surrogate("sigmoid", height=slope / 4, width=1 / slope)` | `surrogate.sigmoid(slope)` | `surrogate.Sigmoid(alpha=slope)` |
# | gradient through the reset | no; yes with `Surrogate(..., through_reset=True)` | yes with `reset_delay=False` | yes; no with `detach_reset=True` |
# | spike at exactly the threshold | no, `u > threshold` | no, `mem > threshold` | yes, `v >= v_threshold` |
# | time | first axis, `[T, N, ...]` | a loop in the user's code | first axis, with `functional.set_step_mode(net, "m")` |
# | state between calls | none | `init_hidden=True` keeps it, `utils.reset(net)` clears it | kept; `functional.reset_net(net)` clears it |
# | static images | the first `LIF(..., time_steps=T)` repeats them | the loop gives the same image at every step | a repeated input `[T, N, ...]` |
# | batch normalisation (tdBN) | `layers.BatchNorm` | | `layer.ThresholdDependentBatchNorm2d` |
# | cross-entropy at every time step | `losses.tet`, which adds TET's regularisation | `functional.ce_rate_loss()` | `functional.temporal_efficient_training_cross_entropy` |
# | to and from NIR | `export.to_nir`, `export.from_nir` | `export_to_nir`, `import_from_nir` | `nir_exchange.export_to_nir`, `nir_exchange.import_from_nir` |
#
# An empty cell means that we know of no direct equivalent. Both libraries have recurrent layers, which tsslbp does not have.
#
# ## The neuron
#
# All three get the same random currents. The spikes are equal.

# %%
import snntorch
import torch
from spikingjelly.activation_based import functional, neuron, surrogate

import tsslbp

torch.manual_seed(0)
tau = 2.0
current = torch.randn(10, 20, 50)  # [T, N, neurons]


def through_snntorch(current, **settings):
    leaky = snntorch.Leaky(beta=1 - 1 / tau, reset_mechanism="zero", reset_delay=False, **settings)
    potential, spikes = leaky.reset_mem(), []
    for step in current:
        spike, potential = leaky(step, potential)
        spikes.append(spike)
    return torch.stack(spikes)


def through_spikingjelly(current, **settings):
    node = neuron.LIFNode(tau, decay_input=False, step_mode="m", **settings)
    functional.reset_net(node)
    return node(current)


ours = tsslbp.spikes(current, tau_m=tau)
same = [torch.equal(ours, other(current)) for other in (through_snntorch, through_spikingjelly)]
print(same, f"{ours.mean():.3f} spikes per neuron and step")
assert all(same)

# %% [markdown]
# ## The surrogate gradient
#
# With the same surrogate, the gradients also agree up to rounding, although tsslbp computes its backward pass in a kernel and not with autograd. In both libraries the gradient flows through the reset here, so our rule uses `through_reset=True`.

# %%
weights = torch.randn(10, 20, 50)  # of the spikes in a loss


def gradient(spikes, **settings):
    x = current.double().requires_grad_()
    (spikes(x, **settings) * weights).sum().backward()
    return x.grad


rules = {
    "arctangent": (
        tsslbp.Surrogate("arctangent", through_reset=True),
        snntorch.surrogate.atan(alpha=2.0),
        surrogate.ATan(alpha=2.0),
    ),
    "fast sigmoid": (
        tsslbp.Surrogate("fast-sigmoid", width=1 / 25, through_reset=True),
        snntorch.surrogate.fast_sigmoid(slope=25),
        None,
    ),
    "sigmoid": (
        tsslbp.Surrogate("sigmoid", height=1.0, width=1 / 4, through_reset=True),
        snntorch.surrogate.sigmoid(slope=4),
        surrogate.Sigmoid(alpha=4.0),
    ),
}
for name, (rule, theirs, jelly) in rules.items():
    expected = gradient(tsslbp.spikes, tau_m=tau, tau_s=1.0, rule=rule)
    others = [gradient(through_snntorch, spike_grad=theirs)]
    if jelly:
        others.append(gradient(through_spikingjelly, surrogate_function=jelly))
    furthest = max((expected - other).abs().max().item() for other in others)
    print(f"{name:12} largest gradient {expected.abs().max():.2f}, difference {furthest:.0e}")
    assert furthest < 1e-5

# %% [markdown]
# ## The synaptic filter
#
# `LIF(tau_m, tau_s)` first filters its input, `a[t] = (1 - 1/tau_s) a[t-1] + x[t] / tau_s`. snnTorch's `Synaptic` does not divide by `tau_s`, so we divide its input.

# %%
tau_s = 3.0
ours = tsslbp.spikes(tsslbp.psc(4 * current, tau_s), tau_m=tau)
synaptic = snntorch.Synaptic(
    alpha=1 - 1 / tau_s, beta=1 - 1 / tau, reset_mechanism="zero", reset_delay=False
)
(synapse, potential), theirs = synaptic.reset_mem(), []
for step in 4 * current / tau_s:
    spike, synapse, potential = synaptic(step, synapse, potential)
    theirs.append(spike)
different = (ours != torch.stack(theirs)).double().mean().item()
print(f"{ours.mean():.3f} spikes per neuron and step, {different:.2%} of them different")
assert different < 0.001

# %% [markdown]
# ## A whole network
#
# You can transfer a network that was trained in one of these libraries through NIR. It gives the same spikes here and can be trained further: see [To NIR and back](nir-and-energy.md) and the [guide](../guide/export.md#nir).
