"""Drawings of a run: its picture, and the figures of `tsslbp draw`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import analysis, data, figures, training
from .. import network as networks
from .. import run as run_folder
from . import options, printing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..data import DataSet, Images
    from ..network import CustomNetwork, Network
    from ..run import Run
    from ..training import Training


def draw_picture(run: Run, trained: Training) -> None:
    """Draw a test image's spikes and the training curve into the run's folder."""
    path = run.folder / "picture.png"
    try:
        figures.svg.save_png(_picture(run, trained), path, dpi=120)
    except ImportError:
        printing.say("no picture, because matplotlib is missing: pip install 'tsslbp[figures]'")
    except Exception as error:  # whatever it is, the run is trained
        printing.say(f"no picture: {' '.join(str(error).split()) or type(error).__name__}")
    else:
        printing.say(f"picture saved in {path}")


def _picture(run: Run, trained: Training) -> Figure:
    from ..losses import predict

    net, data_set = trained.net, trained.data
    assert isinstance(net, (networks.Network, networks.CustomNetwork))
    net.set_precision("float32")
    image = data_set.test_images[:1]
    pixels = data.normalise(image, run.experiment.mean, run.experiment.std)
    pixels = pixels.to(training.device_of(net))
    return figures.run.run_picture(
        analysis.inspection.picture(image),
        int(data_set.test_labels[0]),
        int(predict(net(pixels).detach())),
        {name: trace.spikes.cpu().numpy() for name, trace in net.trace(pixels).items()},
        run_folder.read_epochs(run),
        data_set.class_names,
    )


def figures_of_run(run: Run) -> dict[str, Figure]:
    """Figures of the run's records, by name; an interrupted epoch has none."""
    import numpy as np

    drawn: dict[str, Figure] = {}
    epochs = run_folder.read_epochs(run)
    if steps := run_folder.read_steps(run):
        accuracies = steps["correct"] / steps["images"]
        name = f"{run_folder.results.label(run.experiment)}, seed {run.experiment.seed}"
        curve = np.arange(1, len(accuracies) + 1), accuracies
        drops = [drop["step"] + 1 for one in epochs for drop in one.get("drops", ())]
        drawn["training"] = figures.run.training_curves({name: curve}, {name: drops})
    if epochs:
        drawn["layers"] = figures.run.layers_over_training(epochs)
    return drawn


def figures_of_network(
    run: Run, net: Network | CustomNetwork, data_set: DataSet, number: int
) -> dict[str, Figure]:
    """Figures of a checkpoint's weights, by name; one follows the test image of this number."""
    wanted = run.experiment
    _, _, test = training.splits(wanted, data_set)
    matrix = analysis.inspection.confusion_matrix(net, test, wanted.mean, wanted.std)
    batch = options.first_batch(wanted, data_set)
    gradients = analysis.inspection.gradients(net, training.build_loss(wanted), *batch)
    image, label = test.images[number : number + 1], int(test.labels[number])
    pixels = data.normalise(image, wanted.mean, wanted.std)
    return {
        "confusion": figures.run.confusion(matrix.numpy(), data_set.class_names),
        f"image-{number}": follow(net, image, pixels, label, data_set.class_names),
        "histograms": figures.run.histograms(
            {name: one.numpy() for name, one in analysis.inspection.weights(net).items()},
            {name: one.numpy() for name, one in gradients.items()},
        ),
    }


def follow(
    net: Network | CustomNetwork,
    image: Images,
    pixels: Tensor,
    label: int | None,
    class_names: Sequence[str],
) -> Figure:
    """The spikes and potentials that an image causes, see `tsslbp.figures.run.image_trace`.

    Args:
        net: in evaluation mode.
        image: ``[1, C, H, W]`` as it is drawn, or the frames of a recording.
        pixels: the same, normalised.
        label: the true class, if it is known.
        class_names: what the classes are called.
    """
    from ..losses import predict

    traces = net.trace(pixels)
    return figures.run.image_trace(
        analysis.inspection.picture(image),
        label,
        int(predict(net(pixels).detach())),
        {name: trace.spikes[:, 0].numpy() for name, trace in traces.items()},
        {name: trace.potential[:, 0].numpy() for name, trace in traces.items()},
        {name: neuron.threshold for name, neuron in net.neurons.items()},
        class_names,
        output="" if not net.has_output_layer else list(traces)[-1],
    )
