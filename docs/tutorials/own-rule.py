# %% [markdown]
# # Your own learning rule
#
# The output of a spiking neuron is a step function, so its derivative is zero or infinite. A learning rule replaces it: the rule maps dL/ds, the gradient of the loss with respect to a layer's spikes, to dL/dI, the gradient with respect to the layer's input current. Everything else stays the same, so a rule is one small class and one function.
#
# ## The rule
#
# This rule, a straight-through estimator, passes the gradient on if the membrane potential is inside a window.

# %%
from dataclasses import dataclass

import torch

import tsslbp
from tsslbp.neuron import reference
from tsslbp.rules import Rule


@dataclass(frozen=True)
class StraightThrough(Rule):
    """dL/dI[t] = dL/ds[t] where low < u[t] < high, else 0."""

    low: float = 0.0
    high: float = 2.0


def backward(rule, trace, rate, grad_spikes, neuron):
    inside = (trace.potential > rule.low) & (trace.potential < rule.high)
    return grad_spikes * inside


reference.BACKWARD[StraightThrough] = backward

# %% [markdown]
# `trace` contains the activity of the neurons (`potential`, `spikes` and more, each `[T, ...]`), `rate` is the mean firing rate of the layer, and `neuron` its constants. The function processes all time steps at once, in plain PyTorch.
#
# ## Check it manually
#
# With `tau_m = 1` the neuron has no memory, so the potential equals the input current, and the expected gradient is obvious: it passes at 0.5 and 1.2, and is blocked at -0.5 and 1.7.

# %%
current = torch.tensor([[-0.5], [0.5], [1.2], [1.7]], requires_grad=True)
spikes = tsslbp.spikes(current, tau_m=1.0, rule=StraightThrough(high=1.5))
spikes.backward(torch.full((4, 1), 3.0))
print(spikes.flatten().tolist(), current.grad.flatten().tolist())

# %% [markdown]
# ## Train with it
#
# The rule is an argument of `Network`, of `tsslbp.layers.LIF` and of `tsslbp.spikes`.

# %%
torch.manual_seed(0)
digits = tsslbp.data.load("digits")
images = tsslbp.data.normalise(digits.train_images, [0.305], [0.376])
net = tsslbp.Network("64", input_shape=(1, 8, 8), time_steps=4, rule=StraightThrough(high=1.5))
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
for step in range(60):
    batch = torch.randperm(len(images))[:100]
    loss = tsslbp.losses.softmax(net(images[batch]), digits.train_labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
tests = tsslbp.data.normalise(digits.test_images, [0.305], [0.376])
correct = tsslbp.predict(net(tests)) == digits.test_labels
print(f"test accuracy {correct.double().mean():.1%}")

# %% [markdown]
# ## Make it fast
#
# This rule runs in plain PyTorch. A second function of about five lines defines the same rule for one time step; the fused CPU kernels then run it as fast as the built-in rules. [Learning rules](../rules.md#add-a-rule) shows this function, and how to add a rule to the package so that the program's commands can use it.
