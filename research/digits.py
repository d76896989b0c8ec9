"""HM2-BP and ST-RSBP on the digits: ``python research/digits.py [--json FILE]``.

The conditions are those of the papers, with a quarter of their time steps: T = 100 instead of 400,
tau_m = 16 and tau_s = 2 steps. At each step a pixel spikes with a probability proportional to its
value, so that the total number of its spikes is the same as in the papers. The desired counts are
35 and 5, with a margin of 5, and the optimiser is Adam. Other conditions differ from the papers:
batches of 50 instead of single images, a network 64-100-10, no lateral inhibition and no weight
regularisation. Each rule uses the learning rate that is the best of three on validation images
after five epochs. It then trains on all training images, and is tested once, after the last epoch.
This takes two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spike_train_rules import (
    RULES,
    STRSBP,
    CountLoss,
    SpikeTrainNetwork,
    papers_neuron,
    train_step,
)
from tsslbp import Neuron, stats
from tsslbp.data import DataSet, Images, batches, load, split_validation
from tsslbp.experiment import seeding
from tsslbp.run.environment import describe_environment

LARGEST_RATE = 400 / 5.5  # spikes of a white pixel in a whole presentation, as in HM2-BP's code
LEARNING_RATES = (0.003, 0.01, 0.03)
VALIDATION_IMAGES = 200

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """The settings that both rules share."""

    time_steps: int = 100
    hidden: int = 100
    batch_size: int = 50
    epochs: int = 10
    search_epochs: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def neuron(self) -> Neuron:
        return papers_neuron(self.time_steps)


@dataclass(frozen=True)
class Case:
    """A training with one rule, learning rate and seed."""

    rule: str
    learning_rate: float
    seed: int
    epochs: int


def main() -> None:
    """Search the learning rates, train, print the table, and write the record if requested."""
    parser = argparse.ArgumentParser(description="HM2-BP and ST-RSBP on the digits.")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, one epoch, few steps and images"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    arguments = parser.parse_args()
    setting = Setting(50, 20, 20, 1, 1, (0,)) if arguments.quick else Setting()
    data = load("digits")
    result: dict[str, Any] = {
        "environment": describe_environment(),
        "quick": arguments.quick,
        "setting": asdict(setting)
        | {"loss": asdict(CountLoss()), "neuron": asdict(setting.neuron)},
    }
    result["search"] = search(setting, data, arguments.quick)
    rates = best_rates(result["search"])
    cases = [
        Case(rule, rates[rule], seed, setting.epochs) for rule in RULES for seed in setting.seeds
    ]
    kept = torch.arange(100 if arguments.quick else len(data.train_labels))
    result["runs"] = [train(case, setting, data, kept) for case in cases]
    result["cpu seconds"] = time.process_time()
    print(table(result["runs"], rates))
    if len(setting.seeds) > 1:
        found = difference(result["runs"])
        result["difference"] = asdict(found)
        low, high = found.interval
        print(f"\nST-RSBP minus HM2-BP: {found.mean:.2f} % (95 % interval {low:.2f} to {high:.2f})")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def search(setting: Setting, data: DataSet, quick: bool) -> list[Row]:
    """Return each rule's accuracy on validation images at each learning rate, with seed 0."""
    kept, held_out = split_validation(len(data.train_labels), VALIDATION_IMAGES)
    rows = []
    for rule in RULES:
        for rate in LEARNING_RATES:
            case = Case(rule, rate, 0, setting.search_epochs)
            net = fit(case, setting, data, kept[:100] if quick else kept)
            measured = evaluate(net, setting, data.train_images[held_out])
            accuracy = _accuracy(measured["counts"], data.train_labels[held_out])
            rows.append({"rule": rule, "learning rate": rate, "validation accuracy": accuracy})
    return rows


def best_rates(rows: Sequence[Row]) -> dict[str, float]:
    """Return each rule's learning rate with the best validation accuracy.

    Of equally good ones it is the smallest.
    """
    best = {}
    for rule in RULES:
        best[rule] = max(
            (row for row in rows if row["rule"] == rule), key=lambda row: row["validation accuracy"]
        )["learning rate"]
    return best


def train(case: Case, setting: Setting, data: DataSet, kept: Tensor) -> Row:
    """Train on the images `kept`, and measure on the test images."""
    measured = evaluate(fit(case, setting, data, kept), setting, data.test_images)
    accuracy = _accuracy(measured.pop("counts"), data.test_labels)
    return asdict(case) | {"test accuracy": accuracy} | measured


def fit(case: Case, setting: Setting, data: DataSet, kept: Tensor) -> SpikeTrainNetwork:
    sizes = (data.train_images[:1].shape.numel(), setting.hidden, data.classes)
    random = seeding.generator(case.seed, "weights")
    net = SpikeTrainNetwork(sizes, setting.neuron, random)
    optimizer = torch.optim.Adam(net.parameters(), lr=case.learning_rate)
    rule, loss = RULES[case.rule](), CountLoss()
    for epoch in range(case.epochs):
        order = seeding.generator(case.seed, "order", epoch)
        for step, index in enumerate(batches(len(kept), setting.batch_size, order)):
            images, labels = data.train_images[kept[index]], data.train_labels[kept[index]]
            random = seeding.generator(case.seed, "input spikes", epoch, step)
            spikes = encode(images, setting.time_steps, random)
            train_step(net, rule, loss, optimizer, spikes, labels)
    return net


def evaluate(net: SpikeTrainNetwork, setting: Setting, images: Images) -> dict[str, Any]:
    """Return output counts, mean spikes per neuron by layer, and ST-RSBP's smallest feedback S."""
    spikes = encode(images, setting.time_steps, seeding.generator(0, "evaluation"))
    trains = net(spikes)
    feedback = [STRSBP().feedback(synapses) for synapses in net.connections(trains)]
    return {
        "counts": trains[-1].sum(0),
        "spikes": [train.sum(0).mean().item() for train in trains],
        "smallest S": min(layer.min().item() for layer in feedback),
    }


def encode(images: Images, time_steps: int, random: torch.Generator) -> Tensor:
    """Return spikes ``[T, N, pixels]`` of images with pixels from 0 to 1."""
    assert isinstance(images, Tensor)
    rates = images.flatten(1) * LARGEST_RATE / time_steps
    return (torch.rand(time_steps, *rates.shape, generator=random) < rates).float()


def difference(runs: Sequence[Row]) -> stats.Difference:
    """Return the difference in test accuracy in %, ST-RSBP minus HM2-BP, paired by seed."""
    first, second = (
        [100 * run["test accuracy"] for run in runs if run["rule"] == rule]
        for rule in ("STRSBP", "HM2BP")
    )
    return stats.paired(first, second)


def _accuracy(counts: Tensor, labels: Tensor) -> float:
    return (counts.argmax(1) == labels).float().mean().item()


def table(runs: Sequence[Row], rates: Mapping[str, float]) -> str:
    """Return the runs as a Markdown table, one row per rule."""
    lines = [
        "| rule | learning rate | test accuracy % (seeds) | spikes a hidden, output neuron "
        "| smallest S |",
        "|---|---|---|---|---|",
    ]
    for rule in RULES:
        own = [run for run in runs if run["rule"] == rule]
        reached = stats.summary([100 * run["test accuracy"] for run in own])
        spread = "" if reached.sd is None else f" +- {reached.sd:.2f}"
        hidden, output = (sum(run["spikes"][layer] for run in own) / len(own) for layer in (1, 2))
        lines.append(
            f"| {rule} | {rates[rule]} | {reached.mean:.2f}{spread} ({reached.runs}) "
            f"| {hidden:.1f}, {output:.1f} | {min(run['smallest S'] for run in own):.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
