"""Make a finished run a pretrained network: ``tsslbp.load(NAME)``.

    python research/ship.py runs/digits-seed0 digits

The folder contains the run's configuration, its environment, the record of the chosen epoch, and
the weights in float16. The accuracies in the record are those of the stored weights. The epoch is
the one chosen on validation images. If the run held out no images, it is the last epoch, since the
best test epoch is chosen on test images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from tsslbp import data, training
from tsslbp.errors import Error, InvalidInput
from tsslbp.experiment import network_file, recipe_names, save
from tsslbp.experiment.weights import FACTS, SHIPPED
from tsslbp.run import Run, read_epochs, results, to_json, write_json

LIMIT = 3_000_000  # bytes that all pretrained networks together may take
CHOICES = {
    "best-validation": "the epoch with the best accuracy on validation images",
    "last": "the last epoch; no images were held out, and no choice used test images",
}
LICENCE = "MIT"
WHY = "the lowest seed that was run"


def ship(
    folder: Path,
    name: str,
    why: str = WHY,
    data_dir: Path | None = None,
    place: Path = SHIPPED,
) -> Path:
    """Write the folder of the network `name` into `place` and return it.

    Args:
        folder: folder of a finished run.
        name: name of the network.
        why: why this seed was chosen, in words, for the record.
        data_dir: folder of the data sets.
        place: folder of the pretrained networks.

    Raises:
        InvalidInput: the run is not finished, its network is in a user's file, or all networks take
            too much space together.
    """
    run = Run.open(folder)
    if not (epochs := read_epochs(run)) or not results.is_finished(epochs, run.experiment):
        raise InvalidInput(f"{folder} is not finished: train it to its end")
    if network_file(run.experiment.network):
        raise InvalidInput(f"the network of {folder} is in a user's file, which cannot be shipped")
    checkpoint = training.default_checkpoint(run)
    tensors, state = run.load_checkpoint(checkpoint)
    (record,) = (one for one in epochs if one["epoch"] == state["epoch"])
    target = place / name
    shutil.rmtree(target, ignore_errors=True)
    (target / "checkpoints").mkdir(parents=True)
    save(run.experiment, target / "config.toml")
    write_json(target / "environment.json", run.environment)
    kept = Run(target, run.experiment)
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in tensors.items()
        if key.startswith("weights.")
    }
    kept.save_checkpoint(checkpoint, half, {key: state[key] for key in state if key != "progress"})
    by_step = _accuracies(run, checkpoint, data_dir)
    measured = {f"{name}_accuracy": values[-1] for name, values in by_step.items()}
    kept.append_epoch(record | measured | {"test_accuracy_by_step": by_step["test"]})
    facts = _facts(run, why, checkpoint, record, measured)
    (target / FACTS).write_text(to_json(facts, indent=1) + "\n", encoding="utf-8")
    if (size := sum(one.stat().st_size for one in place.rglob("*") if one.is_file())) > LIMIT:
        raise InvalidInput(f"the pretrained networks take {size:,} bytes, more than {LIMIT:,}")
    return target


def _accuracies(run: Run, checkpoint: str, data_dir: Path | None) -> dict[str, list[float]]:
    """Return the accuracies of the stored weights after each time step, by the split's name."""
    wanted, net = run.experiment, training.load(run.folder, checkpoint)
    net.load_state_dict(
        {
            key: value.half().to(value.dtype) if value.is_floating_point() else value
            for key, value in net.state_dict().items()
        }
    )
    _, validation, test = training.splits(wanted, training.load_data(wanted, data_dir))
    splits = {"validation": validation, "test": test}
    return {
        name: training.evaluate(net, split, wanted.mean, wanted.std)
        for name, split in splits.items()
        if split is not None
    }


def _facts(
    run: Run, why: str, checkpoint: str, record: dict[str, Any], measured: dict[str, float]
) -> dict[str, Any]:
    """Return the contents of ``trained.json``; see `tsslbp.experiment.trained_record`."""
    wanted, environment = run.experiment, run.environment
    entry = data.catalogue.find(wanted.data)
    nearest = results.label(wanted)
    return {
        "recipe": nearest if nearest in recipe_names() else f"{nearest} (see config.toml)",
        "seed": wanted.seed,
        "seed_chosen": why,
        "checkpoint": f"{checkpoint}: {CHOICES[checkpoint]}",
        "epoch": record["epoch"],
        "command": environment.get("command", ""),
        "commit": environment.get("commit", ""),
        "stored": str(torch.float16).removeprefix("torch."),
        **measured,
        "trained_accuracy": record["test_accuracy"],
        "licence": LICENCE,
        "data": f"{entry.name}: {entry.title}. {entry.citation}. {entry.homepage}",
        "data_licence": entry.licence,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="of the network, that of its recipe")
    parser.add_argument("--why", default=WHY, help="this seed; default: %(default)s")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets")
    given = parser.parse_args()
    try:
        target = ship(given.run, given.name, given.why, given.data_dir)
    except Error as error:
        sys.exit(f"error: {error}")
    print(target, json.dumps(json.loads((target / "trained.json").read_text()), indent=1))


if __name__ == "__main__":
    main()
