"""Compare two learning rules fairly: equal conditions, several seeds, an interval at the end.

Run it with ``python examples/compare.py``. It takes about half a minute and downloads nothing.
``tsslbp compare`` does more: it also searches each rule's learning rate, and writes a report.
"""

from dataclasses import replace

import numpy as np

import tsslbp
from tsslbp import data, experiment, stats, training


def accuracy(settings: experiment.Experiment, digits: data.DataSet) -> float:
    """Train one run, and return its test accuracy in percent."""
    net = training.loop.Training(settings, digits).fit(run=None)
    images = data.normalise(digits.test_images, settings.mean, settings.std)
    return 100 * (tsslbp.predict(net(images)) == digits.test_labels).double().mean().item()


def main(seeds: int = 3, epochs: int = 4) -> stats.Difference:
    """Return TSSL-BP's test accuracy minus the surrogate gradient's, in percentage points."""
    digits = data.load("digits")
    base = replace(experiment.load_recipe("digits"), epochs=epochs)
    found = {}
    for rule in (tsslbp.TSSLBP(), tsslbp.Surrogate()):
        runs = [replace(base, rule=rule, seed=seed) for seed in range(seeds)]
        found[type(rule).__name__] = np.array([accuracy(one, digits) for one in runs])
        print(type(rule).__name__, found[type(rule).__name__].round(2), "%")
    difference = stats.paired(found["TSSLBP"], found["Surrogate"])
    low, high = difference.interval
    print(f"difference {difference.mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}")
    print(f"p = {difference.p:.3f}, verdict on TSSL-BP: {difference.verdict}")
    return difference


if __name__ == "__main__":
    main()
