"""An experiment as data: everything that determines a training run, as one checked record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from ..checked import Allowed, Checked, Count, Natural, NonNegative, Parsed, Positive, Text
from ..errors import InvalidInput
from ..rules import TSSLBP, Rule, from_config
from .binning import Binning
from .networks import is_described, settings_of_network

ProtocolName = Literal["published", "validated"]
Bit = Annotated[int, Allowed("0 or 1", lambda n: n in (0, 1))]
Seed = Annotated[int, Allowed("a whole number from 0 to 2^63 - 1", lambda n: 0 <= n < 2**63)]
TimeConstant = Annotated[float, Allowed("a number of at least 1", lambda x: x >= 1)]
Probability = Annotated[float, Allowed("a number of at least 0 and below 1", lambda x: 0 <= x < 1)]
ScaleTable = Annotated[
    Mapping[str, Positive],
    Allowed("a table of two such numbers, conv and linear", lambda t: set(t) == {"conv", "linear"}),
]
Degrees = Annotated[float, Allowed("a number of degrees from 0 to 180", lambda x: 0 <= x <= 180)]
NetworkSettings = Annotated[
    Mapping[str, Any],
    Parsed("a table of numbers, text, true or false, and lists of those", settings_of_network),
]
Checksum = Annotated[
    str,
    Allowed(
        "64 hexadecimal digits",
        lambda text: len(text) == 64 and set(text) <= set("0123456789abcdef"),
    ),
]
Name = Annotated[
    str,
    Allowed(
        "one line of text, of at most 60 characters",
        lambda text: text.strip() != "" and text.isprintable() and len(text) <= 60,
    ),
]
RuleOrName = Annotated[Rule, Parsed("a rule's name or table", from_config)]

NEEDS = {  # keys that apply only with certain values of another key: that key, and the values
    "label_smoothing": ("loss", ("softmax", "tet")),
    "tet_weight": ("loss", ("tet",)),
    "momentum": ("optimizer", ("sgd",)),
    "betas": ("optimizer", ("adamw",)),
    "final_learning_rate": ("schedule", ("cosine",)),
    "step_epochs": ("schedule", ("step",)),
    "step_factor": ("schedule", ("step",)),
}


@dataclass(frozen=True)
class Experiment(Checked, called=""):
    """One training run, described completely. The defaults are those of the revised code.

    Values are checked and converted to the types below at construction: whole numbers are accepted
    as numbers, lists as tuples, and a rule's name or table as the rule.

    Attributes:
        name: name of the recipe's runs in tables and reports; None: they are named after the
            nearest shipped recipe, and those of a user's recipe after its file.
        changed: keys that were changed from the recipe of that name, which tables and reports show
            next to it. The program writes them; nothing depends on them.
        description: what the recipe promises: command, hardware, time, expected accuracy.
        data: name of a data set, path of a ``.npz`` file, or path with a slash of a folder of
            images, see `tsslbp.data.load`.
        binning: how the recordings of an event camera become T frames, a table of the fields of
            `tsslbp.data.Binning`; None for images, and for the defaults.
        mean, std: normalisation of the pixel values (in 0..1): one number per channel, or one for
            all channels.
        crop_padding: each training image is padded with this many black pixels on each side and
            cropped at random to its own size; 0: no crop.
        horizontal_flip: whether each training image is mirrored left to right with probability 1/2.
        roll: each training image, or all frames of a recording, are shifted at random by up to this
            many pixels along both axes; pixels that leave on one side return on the other.
        cutout: side of a square around a random pixel that is set to the mean (0 after
            normalisation), in each training image or in all frames of a recording; 0: none.
        rotate: largest angle, in degrees, by which each training image is rotated.
        translate: largest distance by which each training image is shifted, as a fraction of its
            sides.
        brightness: pixels of each training image are multiplied by a number between 1 minus this
            and 1 plus this.
        mixup: parameter alpha of the distribution Beta(alpha, alpha), from which the weight is
            drawn at which each training image of a batch, and its loss, is mixed with another
            image; 0: no mixing.
        protocol: ``"published"``: train on all training images and report the best test epoch;
            ``"validated"``: hold out `validation_images` of them, which choose the epoch.
        train_images: number of the remaining images to train on, always the same ones; None: all.
        network: layers such as ``"15C5-P2-40C5-P2-300"``, see `tsslbp.network.description`; or
            ``"nets.py:make"``, a function in your own file; or the name of a network in
            `tsslbp.models`. A network that a script trained by `tsslbp.fit` is ``"module:"`` and
            the name of its class.
        network_settings: keyword arguments of such a function, a flat table.
        network_checksum: SHA-256 of the file, if it is a copy that this program has put next to the
            configuration, in the folder of a run or a study. Its code is executed only if it is
            trusted, see `tsslbp.training.build_network`.
        weights: trained weights to start from, instead of random ones: a run folder, a file of
            tensors (safetensors), or the name of a pretrained network; see
            `tsslbp.experiment.weights`.
        weights_partial: whether weights that do not fit are ignored; otherwise all must fit.
        weights_checksum: SHA-256 of the file of weights, in the configuration that a run keeps.
        freeze: names of layers that are not trained, such as ``"conv1"``; the optimiser excludes
            their parameters. Running statistics of a `BatchNorm` still follow the data.
        padding: padding of the convolutions: one number, or one for each.
        time_steps: T.
        tau_m, tau_s: time constants of membrane and synapse, in time steps.
        threshold: membrane potential that a neuron must exceed to fire.
        weight_scale: factor on the initial weights: one number, or one each for ``conv`` and
            ``linear``.
        conv_init: distribution of the initial convolution weights.
        pool_scale: factor on the sums of the pooling.
        neunorm: whether `tsslbp.layers.NeuNorm` follows every convolution.
        dropout: probability of dropout after every hidden layer.
        dropout_kind: what dropout drops in images, ``"rows"`` or single ``"neurons"``, see
            `tsslbp.layers`; in linear layers it drops neurons.
        rule: learning rule.
        loss: ``"kernel"`` (van Rossum), ``"count"``, ``"softmax"`` or ``"tet"`` (cross-entropy at
            each time step), see `tsslbp.losses`.
        target_filters, desired_train: settings of the kernel loss; None selects its default train.
        desired_count, undesired_count: targets of the count loss, which needs both.
        label_smoothing: fraction of the target that is shared equally by all classes, for the
            losses softmax and tet.
        tet_weight: weight of the regularisation term in the tet loss, lambda in the paper.
        epochs: passes over the training images.
        batch_size: images per batch.
        accumulate: number of batches whose gradients are added for one training step. The step is
            the same as with one batch of all their images, but needs less memory. Exceptions are
            what uses the whole batch: a `tsslbp.layers.BatchNorm` takes its statistics from each
            batch, and dropout masks and the scales of some rules (``warm_up=layer``, NA) differ.
        optimizer: ``"adamw"``, or ``"sgd"``, stochastic gradient descent with momentum.
        learning_rate: largest learning rate of the optimiser.
        weight_decay: weight decay of the optimiser; for sgd it is added to the gradients.
            Only the weights of connections decay, not those of norms, biases and constants of
            neurons.
        betas: betas of AdamW.
        momentum: momentum of sgd.
        schedule: learning rate after the warm-up: ``"constant"``; ``"cosine"``: decreasing to
            `final_learning_rate` along half a cosine; ``"step"``: multiplied by `step_factor`
            every `step_epochs` epochs, or after each epoch in a list of them, counted from the
            first. See `tsslbp.training.build.learning_rate`.
        warm_up_epochs: epochs in which the learning rate rises linearly; may be a fraction. Not to
            be confused with the warm-up of a learning rule.
        average_weights: decay, per step, of the exponential moving average of the weights, which is
            evaluated in addition to the weights themselves; None: no average.
        gradient_clip: bound of the norm of the gradient over all weights.
        weight_limit: bound of every weight's magnitude after a step. Parameters of fewer than two
            dimensions are not bounded.
        patience: epochs without a better accuracy after which training stops; None: never. The
            accuracy is that on validation images if some are held out, otherwise on test images.
        precision: precision of matrix products: ``"float32"``, or on a GPU ``"tf32"`` (inputs
            rounded to 11 bits) or ``"bf16"``, see `Network.set_precision`.
        seed: seed of initialisation, order, augmentation and dropout.
        activation: ``"relu"``: train the network with ReLU instead of its neurons, see
            `tsslbp.analysis.convert`; None: train the spiking network.

    Raises:
        InvalidInput: a value has the wrong type, is out of range, or contradicts another value.

    Source: the public TSSL-BP code, see docs/reproduction.md.
    """

    data: Text
    network: Text
    description: str = ""
    name: Name | None = None
    changed: tuple[Text, ...] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Positive, ...] = (1.0,)
    crop_padding: Natural = 0
    horizontal_flip: bool = False
    roll: Natural = 0
    cutout: Natural = 0
    rotate: Degrees = 0.0
    translate: Probability = 0.0
    brightness: Probability = 0.0
    mixup: NonNegative = 0.0
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
    loss: Literal["kernel", "count", "softmax", "tet"] = "kernel"
    target_filters: Count = 2
    desired_train: tuple[Bit, ...] | None = None
    desired_count: NonNegative | None = None
    undesired_count: NonNegative | None = None
    label_smoothing: Probability = 0.0
    tet_weight: Probability = 0.001
    epochs: Count = 100
    batch_size: Count = 50
    accumulate: Count = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 0.0005
    weight_decay: NonNegative = 0.01
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    momentum: Probability = 0.9
    schedule: Literal["constant", "cosine", "step"] = "constant"
    warm_up_epochs: NonNegative = 0.0
    final_learning_rate: NonNegative = 0.0
    step_epochs: Count | tuple[Count, ...] | None = None
    step_factor: Probability = 0.1
    average_weights: Probability | None = None
    gradient_clip: Positive = 1.0
    weight_limit: Positive = 4.0
    patience: Count | None = None
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    seed: Seed = 0
    binning: Binning | None = None
    activation: Literal["relu"] | None = None
    network_settings: NetworkSettings = field(default_factory=dict, hash=False)
    network_checksum: Checksum | None = None
    weights: Text | None = None
    weights_partial: bool = False
    weights_checksum: Checksum | None = None
    freeze: tuple[Text, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        means, stds = len(self.mean), len(self.std)
        if means != stds and 1 not in (means, stds):
            raise InvalidInput(
                "mean and std must have one number, or one number per channel, "
                f"got {means} and {stds} numbers"
            )
        _check_loss(self)
        _check_keys_of(self)
        _check_network(self)
        _check_schedule(self)
        if self.weights_partial and self.weights is None:
            raise InvalidInput("weights_partial needs weights, but none are given: set weights")

    def to_table(self) -> dict[str, Any]:
        """Return every key that is set; an empty table counts as not set."""
        table = super().to_table()
        if not self.network_settings:
            del table["network_settings"]
        return table


def _check_loss(experiment: Experiment) -> None:
    if experiment.loss == "kernel":
        train = experiment.desired_train or (0, 1)  # every default train begins like this
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
            raise InvalidInput(f"missing key {missing!r}, which loss = 'count' requires")
        if desired <= undesired:
            raise InvalidInput(
                f"desired_count must be above undesired_count, got {desired} and {undesired}"
            )


def _check_keys_of(experiment: Experiment) -> None:
    """Raise `InvalidInput` for a key that is set but has no effect."""
    defaults = {field.name: field.default for field in fields(Experiment)}
    for key, (other, values) in NEEDS.items():
        if getattr(experiment, key) != defaults[key] and getattr(experiment, other) not in values:
            allowed = " or ".join(map(repr, values))
            raise InvalidInput(
                f"{key} applies only with {other} = {allowed}, got {other} = "
                f"{getattr(experiment, other)!r}"
            )


def _check_network(experiment: Experiment) -> None:
    if is_described(experiment.network) and experiment.network_settings:
        raise InvalidInput(
            "network_settings applies only to a function that builds the network, such as network "
            f"= 'nets.py:make' or 'vgg', got network = {experiment.network!r}"
        )


def _check_schedule(experiment: Experiment) -> None:
    steps = experiment.step_epochs
    if experiment.schedule == "step" and steps is None:
        raise InvalidInput("missing key 'step_epochs', which schedule = 'step' requires")
    if isinstance(steps, tuple) and list(steps) != sorted(set(steps)):
        raise InvalidInput(f"step_epochs must increase, got {list(steps)}")
