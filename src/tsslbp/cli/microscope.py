"""The command that compares gradients: microscope."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from .. import analysis, experiment, figures, training
from .. import run as run_folder
from ..errors import InvalidInput, require
from ..storage import write_file, writing
from . import options, printing
from .options import DataDir, Settings, TrustCode, argument, complete_recipe, option, with_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..analysis.microscope import Cosine, LayerCosines
    from ..experiment import Experiment
    from ..figures.style import Array


@dataclass(frozen=True)
class NoiseOptions:
    """How the true gradient is estimated."""

    widths: Annotated[str, option("X, ...", "Noise widths, relative to a layer's weights.")] = (
        "0.01, 0.03, 0.1, 0.3"
    )
    rounds: Annotated[int, option("N", "Number of independent estimates: even, at least 4.")] = 10
    directions: Annotated[
        int | None,
        option("K", "Use K random directions in each layer instead of the full gradient."),
    ] = None


@with_options
def microscope(
    *,
    recipe: Annotated[
        str,
        argument(
            "RECIPE",
            "Name of a shipped recipe, a .toml file, or a run folder.",
            autocompletion=complete_recipe,
        ),
    ],
    rules: Annotated[str, option("A, B, ...", "Learning rules, separated by commas.")],
    settings: Settings = None,
    how: NoiseOptions,
    data_dir: DataDir = None,
    out: Annotated[
        Path,
        option(
            "FILE",
            "The figure to write: .svg, .pdf or .png; the numbers go to a .json file next to it.",
            "--out",
            "-o",
        ),
    ] = Path("microscope.svg"),
    trust_code: TrustCode = False,
) -> None:
    """Compare the gradients of learning rules with the true one.

    \b
    Examples:
      tsslbp microscope digits --rules "TSSLBP, TSSLBP.published" --set network=16 --set padding=0
      tsslbp microscope runs/first --rules "TSSLBP, TSSLBP.published" --directions 16

    The weights are the initial ones, or those of a run. The true gradient is that of the loss,
    smoothed by noise on the weights, for the first batch of training images. The full gradient can
    be estimated for at most 2,000 weights; larger networks need --directions.
    """  # noqa: D301
    from ..rules import from_config, split_rules

    names = split_rules(rules)
    if not names or len(set(names)) < len(names):
        raise InvalidInput(f"--rules expects different learning rules, got {rules!r}")
    named = {name: from_config(name) for name in names}
    if out.suffix not in figures.svg.SUFFIXES:
        known = ", ".join(figures.svg.SUFFIXES)
        raise InvalidInput(f"--out must end in {known}, got {out}")
    require("the microscope needs", "study", "matplotlib", "scipy")
    wanted, checkpoint, source = _opened(recipe, settings or [], trust_code)
    widths = options.numbers("--widths", how.widths, float)
    noise = analysis.microscope.Noise(widths, how.rounds, how.directions, wanted.seed)
    data_set = options.load_checked(wanted, data_dir)
    images, labels = options.first_batch(wanted, data_set)
    batch = analysis.microscope.Batch(training.build_loss(wanted), images.double(), labels)
    nets = {}
    for name, rule in named.items():
        one = replace(wanted, rule=rule)
        net = training.build_for(one, data_set, impl="reference", trust_code=True)
        training.check_rule(net, one)
        if checkpoint is not None:
            training.load_weights(net, checkpoint, source)
        else:
            training.start_from_weights(net, one)
        nets[name] = net.double().eval()
    with printing.working("measuring"):
        layers = analysis.microscope.examine(nets, batch, noise)
    printing.say(f"{recipe}, {source}, {len(labels)} images of {data_set.name}")
    printing.print_note(data_set.note)
    printing.print_microscope(layers, widths)
    figure = _figure(layers, widths)
    figures.svg.annotate(figure, f"{recipe}, {source}\n{data_set.note}")
    record = {
        "recipe": recipe,
        "weights": source,
        "experiment": experiment.settings_table(wanted),
        "note": data_set.note,
        "images": len(labels),
        "widths": list(widths),
        "rounds": how.rounds,
        "directions": how.directions,
        "control_width": analysis.microscope.CONTROL_WIDTH,
        "rules": names,
        "layers": [layer.to_table() for layer in layers],
        "environment": run_folder.describe_environment(),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    figures.svg.save(figure, out, "gradient microscope")
    write_file(out.with_suffix(".json"), f"{text}\n")
    printing.say(f"\nfigure saved in {out}, numbers in {out.with_suffix('.json')}")


def _opened(
    recipe: str, settings: Sequence[str], trust_code: bool
) -> tuple[Experiment, dict[str, Tensor] | None, str]:
    """The experiment of a recipe or run, the run's checkpoint, and a name for the weights."""
    folder = Path(recipe)
    is_run = os.path.isfile(folder / "config.toml")
    if not is_run and (recipe in experiment.recipe_names() or not os.path.isdir(folder)):
        wanted = options.experiment_of(recipe, settings, {}, trust_code)
        return wanted, None, f"weights of {wanted.weights}" if wanted.weights else "initial weights"
    run = run_folder.Run.open(folder)
    experiment.check_trust(run.experiment, trust_code)
    name = training.default_checkpoint(run)
    tensors, _ = run.load_checkpoint(name, run_folder.WEIGHTS)
    return experiment.with_settings(run.experiment, settings), tensors, f"checkpoint {name}"


def _figure(layers: Sequence[LayerCosines], widths: Sequence[float]) -> Figure:
    import numpy as np

    def rows(cosines: Sequence[Cosine]) -> Array:
        nothing = [np.nan] * 3
        return np.array([[x.value, *x.interval] if x.interval else nothing for x in cosines])

    return figures.microscope.microscope(
        widths,
        {one.name: {rule: rows(row) for rule, row in one.truth.items()} for one in layers},
        {one.name: one.between for one in layers},
        {one.name: np.nan if one.control.value is None else one.control.value for one in layers},
    )
