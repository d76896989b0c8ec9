# %% [markdown]
# # Comparing rules fairly
#
# A single run says little: the difference between two seeds can be larger than the difference between two learning rules. A fair comparison gives every rule equal conditions, several seeds, and a learning rate that is chosen for this rule.
#
# ## The command
#
# ```sh
# tsslbp compare digits --rules "TSSLBP, Surrogate" --seeds 3
# ```
#
# This trains each rule at several learning rates, chooses the best one on validation images, trains the other seeds at that rate, and writes a report with differences, intervals and verdicts. No choice depends on test images. On the digits this takes some minutes, so this page does a smaller version of it in Python.
#
# ## The same runs in Python
#
# All runs start from one recipe, and differ only in the rule and in the seed. A seed determines the initial weights and the order of the images, so the runs with one seed form a pair.

# %%
from dataclasses import replace

import tsslbp
from tsslbp import data, experiment, training

digits = data.load("digits")
base = replace(experiment.load_recipe("digits"), epochs=2)


def accuracy(rule, seed):
    """Return the test accuracy in percent at the epoch chosen on validation images."""
    net = training.loop.Training(replace(base, rule=rule, seed=seed), digits).fit(run=None)
    images = data.normalise(digits.test_images, base.mean, base.std)
    return 100 * (tsslbp.predict(net(images)) == digits.test_labels).double().mean().item()


rules = {"TSSL-BP": tsslbp.TSSLBP(), "SLAYER": tsslbp.SLAYER()}
found = {name: [accuracy(rule, seed) for seed in range(3)] for name, rule in rules.items()}
for name, values in found.items():
    print(f"{name:8}", "  ".join(f"{value:.2f} %" for value in values))

# %% [markdown]
# ## The difference
#
# `stats.paired` compares the pairs: it returns the mean difference, its 95 % confidence interval and the p-value of a paired t test. If the interval contains zero, the verdict is "undecided", and more seeds are needed.

# %%
from tsslbp import stats

difference = stats.paired(found["TSSL-BP"], found["SLAYER"])
low, high = difference.interval
print(
    f"TSSL-BP minus SLAYER: {difference.mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
)
print(f"p = {difference.p:.3f}, TSSL-BP is: {difference.verdict}")

# %% [markdown]
# Both rules trained for only two epochs, at the learning rate of the recipe, which was chosen for TSSL-BP. These numbers therefore say nothing about the rules, and this is why the command searches for a rate for each rule. The page [Findings](../findings.md) has the results of longer comparisons.
#
# With more than two rules, correct the p-values for multiple comparisons with `stats.holm`, as the command does.
