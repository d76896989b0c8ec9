"""An experiment as data: everything that a training run depends on, as one validated record.

A recipe is a TOML file with the keys of `Experiment`. Some ship with the package (`recipe_names`);
a file of the user's own, and the configuration in a run's folder, are read in the same way.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tomli_w

from ..errors import InvalidInput, nearest
from ..rules import TSSLBP, Rule, as_table, from_config, to_config
from .binning import Binning

Protocol = Literal["published", "validated"]
Loss = Literal["kernel", "count", "softmax"]
ConvInit = Literal["uniform", "kaiming"]
DropoutKind = Literal["rows", "neurons"]
Precision = Literal["float32", "tf32", "bf16"]
Activation = Literal["relu"]


class Allowed(NamedTuple):
    """The values that a type below allows: in words, and as a test."""

    text: str
    holds: Callable[[Any], bool]


Text = Annotated[str, Allowed("text that is not empty", lambda text: text.strip() != "")]
Natural = Annotated[int, Allowed("a whole number of at least 0", lambda n: n >= 0)]
Count = Annotated[int, Allowed("a whole number of at least 1", lambda n: n >= 1)]
Bit = Annotated[int, Allowed("0 or 1", lambda n: n in (0, 1))]
Seed = Annotated[int, Allowed("a whole number from 0 to 2^63 - 1", lambda n: 0 <= n < 2**63)]
NonNegative = Annotated[float, Allowed("a number of at least 0", lambda x: x >= 0)]
Positive = Annotated[float, Allowed("a number above 0", lambda x: x > 0)]
TimeConstant = Annotated[float, Allowed("a number of at least 1", lambda x: x >= 1)]
Share = Annotated[float, Allowed("a number of at least 0 and below 1", lambda x: 0 <= x < 1)]
Betas = Annotated[
    tuple[float, float],
    Allowed(
        "a list of two numbers of at least 0 and below 1",
        lambda pair: all(0 <= beta < 1 for beta in pair),
    ),
]
ScaleTable = Annotated[
    Mapping[str, Positive],
    Allowed(
        "a table of two such numbers, conv and linear",
        lambda table: set(table) == {"conv", "linear"},
    ),
]


@dataclass(frozen=True)
class Experiment:
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
        neunorm: whether `tsslbp.network.layers.NeuNorm` stands behind every convolution.
        dropout: probability of dropout behind every hidden layer.
        dropout_kind: what is dropped from images, ``"rows"`` or single ``"neurons"``, see
            `tsslbp.network.layers`; from linear layers it is neurons.
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
    protocol: Protocol = "validated"
    validation_images: Count = 5000
    train_images: Count | None = None
    padding: Natural | tuple[Natural, ...] = 0
    time_steps: Count = 5
    tau_m: TimeConstant = 5.0
    tau_s: TimeConstant = 3.0
    threshold: Positive = 1.0
    weight_scale: Positive | ScaleTable = 1.0
    conv_init: ConvInit = "uniform"
    pool_scale: Positive = 1.1
    neunorm: bool = False
    dropout: Share = 0.0
    dropout_kind: DropoutKind = "rows"
    rule: Rule = TSSLBP()  # noqa: RUF009 (frozen)
    loss: Loss = "kernel"
    target_filters: Count = 2
    desired_train: tuple[Bit, ...] | None = None
    desired_count: NonNegative | None = None
    undesired_count: NonNegative | None = None
    epochs: Count = 100
    batch_size: Count = 50
    learning_rate: Positive = 0.0005
    weight_decay: NonNegative = 0.01
    betas: Betas = (0.9, 0.999)
    gradient_clip: Positive = 1.0
    weight_limit: Positive = 4.0
    patience: Count | None = None
    precision: Precision = "float32"
    seed: Seed = 0
    binning: Binning | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, _fit(value, hint))
            except _Misfit:
                message = f"{name} must be {_expected(hint)}, got {value!r}"
                if get_origin(hint) is Literal:
                    message += nearest(str(value), get_args(hint))
                raise InvalidInput(message) from None
        _check_channels(self)
        _check_loss(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Experiment:
        """Make an experiment from the keys of a recipe.

        Raises:
            InvalidInput: a key is unknown (the nearest known one is named) or missing, or its
                value is not allowed.
        """
        for key in table:
            _check_known(key)
        for field in fields(cls):
            if field.default is MISSING and field.name not in table:
                raise InvalidInput(f"missing key {field.name!r}, {_expected(_hints()[field.name])}")
        return cls(**table)

    def to_table(self) -> dict[str, Any]:
        """Return every key that is set, as a table that TOML can hold and `from_table` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None}


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    files = _recipes().iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name_or_path: str | Path) -> Experiment:
    """Read a recipe that ships with the package, or a file whose path ends in ``.toml``.

    A relative path to a ``.npz`` file in a user's recipe starts from the recipe's folder.

    Raises:
        InvalidInput: there is no such recipe, or it cannot be read (names the file, and the line
            or the key).
    """
    name = str(name_or_path)
    if not name.endswith(".toml"):
        names = recipe_names()
        if name.endswith(".npz"):
            raise InvalidInput(
                f"{name} holds data, not a recipe: write a .toml file with the line "
                f'data = "{Path(name).name}", see docs/guide.md'
            )
        if name not in names:
            raise InvalidInput(
                f"unknown recipe {name!r}{nearest(name, names)}; known: {', '.join(names)}, "
                "or a path that ends in .toml"
            )
        text = (_recipes() / f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, f"recipe {name}", Path())
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"cannot read the recipe {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"cannot read the recipe {name}: it is not UTF-8 text") from None
    return _parse(text, name, Path(name).parent)


def save(experiment: Experiment, path: Path) -> None:
    """Write the experiment as a recipe; a path to a ``.npz`` file becomes absolute."""
    table = experiment.to_table()
    table["data"] = _absolute(experiment.data, Path())
    Path(path).write_text(tomli_w.dumps(table, multiline_strings=True), encoding="utf-8")


def with_settings(
    experiment: Experiment, settings: Iterable[str], changes: Mapping[str, Any] | None = None
) -> Experiment:
    """Return the experiment with ``"key=value"`` settings applied in order, then `changes`.

    Values are TOML; text may go without quotation marks. A dotted key sets a part of a
    table: ``rule.warm_up=always``, ``weight_scale.conv=5``, ``binning.window=3``; another
    ``rule.name`` brings its own fields. A relative path to a ``.npz`` file starts from the current
    folder and becomes absolute. Of the changes, values by key, those that are None are left out.

    Raises:
        InvalidInput: a setting cannot be read, or the experiment does not allow it.
    """
    table = experiment.to_table()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidInput(f"expected a setting key=value, got {setting!r}")
        name, dot, part = key.strip().partition(".")
        _check_known(name)
        if dot:
            fresh = (name, part) == ("rule", "name")
            before = {} if fresh else _as_table(name, table.get(name))
            table[name] = before | {part: parse_value(text)}
        else:
            is_text = _hints()[name] in (str, Text)
            table[name] = _text(text) if is_text else parse_value(text)
    table |= {key: value for key, value in (changes or {}).items() if value is not None}
    changed = Experiment.from_table(table)
    return replace(changed, data=_absolute(changed.data, Path()))


def parse_value(text: str) -> Any:
    """Return the TOML value that a text is; other text as it is."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


class _Misfit(Exception):
    """A value is not of the type that is asked for."""


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Experiment, include_extras=True)


def _fit(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint`, or raise _Misfit."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        fitted = _fit(value, args[0])
        if args[1].holds(fitted):
            return fitted
    elif origin in (Union, UnionType):
        for option in args:
            with suppress(_Misfit):
                return _fit(value, option)
    elif origin is tuple and isinstance(value, (list, tuple)) and value:
        items = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(items) == len(value):
            return tuple(map(_fit, value, items))
    elif origin is Mapping and isinstance(value, Mapping):
        return {key: _fit(item, args[1]) for key, item in value.items()}
    elif hint is float and isinstance(value, (int, float)):
        if type(value) is not bool and abs(value) <= sys.float_info.max:  # not NaN
            return float(value)
    elif (origin is Literal and value in args) or type(value) is hint:
        return value
    elif hint is Binning and isinstance(value, (Mapping, Binning)):
        return value if isinstance(value, Binning) else Binning.from_table(value)
    elif hint is Rule and isinstance(value, (str, Mapping, Rule)):
        return from_config(value)
    raise _Misfit


def _expected(hint: Any) -> str:
    """Say in words what `_fit` accepts."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str(args[1].text)
    if origin in (Union, UnionType):
        return " or ".join(_expected(option) for option in args if option is not NoneType)
    if origin is tuple:
        return f"a list (not empty), each item {_expected(args[0])}"
    if origin is Literal:
        return f"one of {', '.join(args)}"
    words = {bool: "true or false", float: "a finite number", str: "text"}
    tables = {Rule: "a rule's name or table", Binning: "a table"}
    return (words | tables)[hint]


def _check_known(key: str) -> None:
    if key not in _hints():
        raise InvalidInput(f"unknown key {key!r}{nearest(key, _hints())}")


def _check_channels(experiment: Experiment) -> None:
    counts = {len(experiment.mean), len(experiment.std)}
    if len(counts - {1}) > 1:
        raise InvalidInput(
            "mean and std must have one number, or one for each channel, "
            f"got {len(experiment.mean)} and {len(experiment.std)}"
        )


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


def _recipes() -> Traversable:
    return resources.files(__package__) / "recipes"


def _parse(text: str, source: str, folder: Path) -> Experiment:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = f"line {text.count(chr(10)) + 1}, the end of the file"
        reason = str(error).replace("end of document", last)
        raise InvalidInput(f"{source} is not valid TOML: {reason}") from None
    try:
        experiment = Experiment.from_table(table)
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error}") from None
    return replace(experiment, data=_absolute(experiment.data, folder))


def _absolute(data: str, folder: Path) -> str:
    return str((folder / data).resolve()) if data.endswith(".npz") else data


def _plain(value: Any) -> Any:
    if isinstance(value, Rule):
        return to_config(value)
    if isinstance(value, Binning):
        return value.to_table()
    return list(value) if isinstance(value, tuple) else value


def _as_table(name: str, value: Any) -> dict[str, Any]:
    if name == "binning" and value is None:
        return {}
    if name == "weight_scale" and not isinstance(value, dict):
        return {"conv": value, "linear": value}
    if name == "rule" and isinstance(value, str):
        return as_table(value)
    if isinstance(value, dict):
        return value
    raise InvalidInput(f"{name} is not a table, so no part of it can be set")


def _text(text: str) -> str:
    value = parse_value(text)
    return value if isinstance(value, str) else text.strip()
