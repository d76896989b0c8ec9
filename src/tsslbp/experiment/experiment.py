"""An experiment as data: everything that a training run depends on, as one checked record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from ..checked import Allowed, Checked, Count, Natural, NonNegative, Parsed, Positive, Text
from ..errors import InvalidInput
from ..rules import TSSLBP, Rule, from_config
from .binning import Binning

ProtocolName = Literal["published", "validated"]
Bit = Annotated[int, Allowed("0 or 1", lambda n: n in (0, 1))]
Seed = Annotated[int, Allowed("a whole number from 0 to 2^63 - 1", lambda n: 0 <= n < 2**63)]
TimeConstant = Annotated[float, Allowed("a number of at least 1", lambda x: x >= 1)]
Probability = Annotated[float, Allowed("a number of at least 0 and below 1", lambda x: 0 <= x < 1)]
ScaleTable = Annotated[
    Mapping[str, Positive],
    Allowed("a table of two such numbers, conv and linear", lambda t: set(t) == {"conv", "linear"}),
]
RuleOrName = Annotated[Rule, Parsed("a rule's name or table", from_config)]


@dataclass(frozen=True)
class Experiment(Checked, called=""):
    """One training run, described completely. The defaults are those of the revised code.

    Values are checked and brought to the types below at construction: whole numbers serve as
    numbers, lists as tuples, and a rule's name or table as the rule.

    Attributes:
        description: the recipe's promise: command, hardware, time, expected accuracy.
        data: name of a data set, or path to a ``.npz`` file.
        binning: how the recordings of an event camera become T frames, a table of the fields of
            `tsslbp.data.Binning`; None for images, and for the defaults.
        mean, std: normalisation of the pixel values (in 0..1), per channel or one for all.
        crop_padding: each training image is cropped at random, to its own size, from itself with
            so many black pixels on each side; 0: not at all.
        horizontal_flip: whether each training image is mirrored left to right with odds 1:1.
        protocol: ``"published"``: train on all training images, report the best test epoch;
            ``"validated"``: hold `validation_images` of them out and let these choose the epoch.
        train_images: train on so many of those that are left, always the same; None: on all.
        network: layers such as ``"15C5-P2-40C5-P2-300"``, see `tsslbp.network.description`.
        padding: of the convolutions, one number or one for each.
        time_steps: T.
        tau_m, tau_s: time constants of membrane and synapse, in time steps.
        threshold: membrane potential above which a neuron spikes.
        weight_scale: factor on the initial weights, or one each for ``conv`` and ``linear``.
        conv_init: distribution of the initial convolution weights.
        pool_scale: factor on the sums of the pooling.
        neunorm: whether `tsslbp.layers.NeuNorm` stands behind every convolution.
        dropout: probability of dropout behind every hidden layer.
        dropout_kind: what is dropped from images, ``"rows"`` or single ``"neurons"``, see
            `tsslbp.layers`; from linear layers it is neurons.
        rule: learning rule.
        loss: ``"kernel"`` (van Rossum), ``"count"`` or ``"softmax"``, see `tsslbp.losses`.
        target_filters, desired_train: of the kernel loss; None is its default train.
        desired_count, undesired_count: of the count loss, which needs both.
        epochs: passes over the training images.
        batch_size: images in a training step.
        learning_rate, weight_decay, betas: of AdamW.
        gradient_clip: bound of the gradient's norm over all weights.
        weight_limit: bound of every weight's magnitude after a step.
        patience: epochs without a better test accuracy after which training stops; None: never.
        precision: of matrix products: ``"float32"``, or on a GPU ``"tf32"`` (inputs rounded to 11
            bits) or ``"bf16"``, see `Network.set_precision`.
        seed: of initialisation, order, augmentation and dropout.
        activation: ``"relu"``: what is trained is the network with ReLU in the place of its
            neurons, see `tsslbp.analysis.convert`; None: the spiking network.

    Raises:
        InvalidInput: a value is of the wrong type or outside its range, or two do not fit.

    Source: the public TSSL-BP code, see docs/reproduction.md.
    """

    data: Text
    network: Text
    description: str = ""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Positive, ...] = (1.0,)
    crop_padding: Natural = 0
    horizontal_flip: bool = False
    protocol: ProtocolName = "validated"
    validation_images: Count = 5000
    train_images: Count | None = None
    padding: Natural | tuple[Natural, ...] = 0
    time_steps: Count = 5
    tau_m: TimeConstant = 5.0
    tau_s: TimeConstant = 3.0
    threshold: Positive = 1.0
    weight_scale: Positive | ScaleTable = 1.0
    conv_init: Literal["uniform", "kaiming"] = "uniform"
    pool_scale: Positive = 1.1
    neunorm: bool = False
    dropout: Probability = 0.0
    dropout_kind: Literal["rows", "neurons"] = "rows"
    rule: RuleOrName = TSSLBP()  # noqa: RUF009 (frozen)
    loss: Literal["kernel", "count", "softmax"] = "kernel"
    target_filters: Count = 2
    desired_train: tuple[Bit, ...] | None = None
    desired_count: NonNegative | None = None
    undesired_count: NonNegative | None = None
    epochs: Count = 100
    batch_size: Count = 50
    learning_rate: Positive = 0.0005
    weight_decay: NonNegative = 0.01
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    gradient_clip: Positive = 1.0
    weight_limit: Positive = 4.0
    patience: Count | None = None
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    seed: Seed = 0
    binning: Binning | None = None
    activation: Literal["relu"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        means, stds = len(self.mean), len(self.std)
        if means != stds and 1 not in (means, stds):
            raise InvalidInput(
                "mean and std must have one number, or one for each channel, "
                f"got {means} and {stds}"
            )
        _check_loss(self)


def _check_loss(experiment: Experiment) -> None:
    if experiment.loss == "kernel":
        train = experiment.desired_train or (0, 1)  # how every default train begins
        if not any(train[: experiment.time_steps]):
            raise InvalidInput(
                f"desired_train must have a spike within time_steps = {experiment.time_steps}, "
                f"got {list(train)}{'' if experiment.desired_train else ', ... by default'}; "
                "set another desired_train, such as [1], or another loss"
            )
    if experiment.loss == "count":
        desired, undesired = experiment.desired_count, experiment.undesired_count
        if desired is None or undesired is None:
            missing = "desired_count" if desired is None else "undesired_count"
            raise InvalidInput(f"missing key {missing!r}, which loss = 'count' needs")
        if desired <= undesired:
            raise InvalidInput(
                f"desired_count must be above undesired_count, got {desired} and {undesired}"
            )
