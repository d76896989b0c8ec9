"""The verb that compares gradients: microscope."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from torch import Tensor

from .. import data, experiment, training
from ..analysis.microscope import (
    CONTROL_WIDTH,
    ROUNDS,
    WIDTHS,
    Batch,
    Cosine,
    LayerCosines,
    Noise,
    examine,
)
from ..data import DataSet
from ..errors import InvalidInput, RunError, require
from ..experiment import Experiment
from ..figures import microscope as figures
from ..figures import svg
from ..figures.style import Array
from ..network import Network
from ..rules import Rule, from_config, split_rules
from ..run import Run
from ..run.environment import describe_environment
from . import printing
from .options import DataDir, Settings, experiment_of, load_checked, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Checkpoint = Mapping[str, Tensor]


def microscope(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A shipped recipe's name, a .toml file, or a run's folder."
        ),
    ],
    rules: Annotated[
        str, typer.Option(metavar="A, B, ...", help="Learning rules, with commas between them.")
    ],
    settings: Settings = None,
    widths: Annotated[
        str,
        typer.Option(metavar="X, ...", help="Noise widths, relative to a layer's weights."),
    ] = ", ".join(map(str, WIDTHS)),
    rounds: Annotated[
        int, typer.Option(metavar="N", help="Number of independent estimates, even.")
    ] = ROUNDS,
    directions: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Measure along this many random directions in each layer, not for all weights.",
        ),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.svg", help="The figure; JSON beside it.")
    ] = Path("microscope.svg"),
) -> None:
    """Compare learning rules' gradients with the true effect of moving the weights.

    \b
    Examples:
      tsslbp microscope digits --rules "TSSLBP, TSSLBP.published" --set network=16 --set padding=0
      tsslbp microscope runs/first --rules "TSSLBP, TSSLBP.published" --directions 16

    The weights are the initial ones, or a run's. The truth is the gradient of the loss smoothed
    with noise on the weights, on the first training images, as many as a batch holds. The whole
    gradient takes a network of at most 2,000 weights.
    """  # noqa: D301
    named = _named(rules)
    noise_widths = numbers("--widths", widths, float)
    _check_output(out)
    wanted, checkpoint, source = _opened(recipe, settings or [])
    noise = Noise(noise_widths, rounds, directions, wanted.seed)
    data_set = load_checked(wanted, data_dir)
    batch = _batch(wanted, data_set)
    shape = data_set.input_shape, data_set.classes
    nets = {
        name: _network(replace(wanted, rule=rule), *shape, checkpoint, source)
        for name, rule in named.items()
    }
    with printing.console.status("measuring"):
        layers = examine(nets, batch, noise)
    printing.say(f"{recipe}, {source}, {len(batch.labels)} images of {data_set.name}")
    printing.print_note(data_set.note)
    printing.print_microscope(layers, noise.widths)
    figure = _figure(layers, noise.widths)
    svg.annotate(figure, f"{recipe}, {source}\n{data_set.note}".strip())
    record = {
        "recipe": recipe,
        "weights": source,
        "experiment": wanted.to_table(),
        "note": data_set.note,
        "images": len(batch.labels),
        "widths": list(noise.widths),
        "rounds": rounds,
        "directions": directions,
        "control_width": CONTROL_WIDTH,
        "rules": list(named),
        "layers": [layer.to_table() for layer in layers],
        "environment": describe_environment(),
    }
    _write(out, figure, record)


def _batch(wanted: Experiment, data_set: DataSet) -> Batch:
    """The first training images, as many as a batch holds."""
    train, _, _ = training.splits(wanted, data_set)
    first = slice(wanted.batch_size)
    images = data.normalise(train.images[first], wanted.mean, wanted.std).double()
    return Batch(training.build_loss(wanted), images, train.labels[first])


def _named(text: str) -> dict[str, Rule]:
    """Rules by their names as given."""
    names = split_rules(text)
    if not names or len(set(names)) < len(names):
        raise InvalidInput(f"--rules expects different learning rules, got {text!r}")
    return {name: from_config(name) for name in names}


def _check_output(out: Path) -> None:
    """Raise `InvalidInput` for what would fail after the measurement."""
    if out.suffix != ".svg":
        raise InvalidInput(f"--out must end in .svg, got {out}")
    require("the microscope needs", "study", "matplotlib", "scipy")


def _opened(recipe: str, settings: Sequence[str]) -> tuple[Experiment, Checkpoint | None, str]:
    """The experiment of a recipe or a run, a run's checkpoint, and what the weights are."""
    folder = Path(recipe)
    is_run = (folder / "config.toml").is_file()
    if not is_run and (recipe in experiment.recipe_names() or not folder.is_dir()):
        return experiment_of(recipe, settings, {}), None, "initial weights"
    run = Run.open(folder)
    name = training.default_checkpoint(run)
    tensors, _ = run.load_checkpoint(name)
    return experiment.with_settings(run.experiment, settings), tensors, f"checkpoint {name}"


def _network(
    wanted: Experiment,
    shape: tuple[int, ...],
    classes: int,
    checkpoint: Checkpoint | None,
    source: str,
) -> Network:
    net = training.build_network(wanted, shape, classes, impl="reference")
    if checkpoint is not None:
        training.load_weights(net, dict(checkpoint), source)
    return net.double().eval()


def _figure(layers: Sequence[LayerCosines], widths: Sequence[float]) -> Figure:
    def rows(cosines: Sequence[Cosine]) -> Array:
        nothing = [np.nan] * 3
        return np.array([[x.value, *x.interval] if x.interval else nothing for x in cosines])

    return figures.microscope(
        widths,
        {one.name: {rule: rows(row) for rule, row in one.truth.items()} for one in layers},
        {one.name: one.between for one in layers},
        {one.name: np.nan if one.control.value is None else one.control.value for one in layers},
    )


def _write(out: Path, figure: Figure, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        svg.save_svg(figure, out, "gradient microscope")
        out.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    printing.say(f"\nfigure in {out}, numbers in {out.with_suffix('.json')}")
