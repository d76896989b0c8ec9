"""Network descriptions: from ``"15C5-P2-40C5-P2-300"`` to a plan with every shape.

``15C5`` is a convolution with 15 output channels and a 5 x 5 kernel, ``P2`` is sum pooling over
2 x 2 windows, and a bare number is a linear layer. A spiking output layer, with one neuron per
class, always follows and is not written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..checked import as_whole, check_whole
from ..errors import InvalidInput, shown

MOST_PARAMETERS = 10**10
_MOST_DIGITS = 18  # of a number; Python reads no number of thousands of digits

Shape = tuple[int, ...]  # of one sample at one time step: (C, H, W) or (features,)


@dataclass(frozen=True)
class LayerPlan:
    """One layer with its shapes; it includes the pooling that follows a convolution."""

    name: str  # conv1, conv2, linear3, ..., output
    kind: str  # "conv", "pool" or "linear"
    in_shape: Shape
    out_shape: Shape  # after the pooling
    kernel: int = 0
    padding: int = 0
    pool: int = 1

    @property
    def units(self) -> int:
        """Output channels of a convolution, or neurons of a linear layer."""
        return self.out_shape[0]

    @property
    def neurons(self) -> int:
        """Number of spiking neurons before the pooling; 0 in a layer that only pools."""
        if self.kind == "conv":
            return self.units * math.prod(
                side + 2 * self.padding - self.kernel + 1 for side in self.in_shape[1:]
            )
        return self.units if self.kind == "linear" else 0

    @property
    def parameters(self) -> int:
        if self.kind == "conv":
            return self.in_shape[0] * self.units * self.kernel**2
        return math.prod(self.in_shape) * self.units if self.kind == "linear" else 0


def plan(
    description: str,
    input_shape: Shape,
    classes: int,
    padding: int | Sequence[int] = 0,
    neunorm: bool = False,
) -> list[LayerPlan]:
    """Plan the layers of a description, including the output layer.

    Args:
        description: layers joined by ``-``.
        input_shape: ``(C, H, W)``.
        classes: number of neurons of the output layer.
        padding: padding of the convolutions: one number, or one for each.
        neunorm: whether NeuNorm follows the convolutions; there must then be at least one.

    Raises:
        InvalidInput: a number is out of range, or a layer cannot be parsed or does not fit the
            shape before it; the message gives the position.
    """
    input_shape = checked_shape(input_shape)
    classes = check_whole("classes", classes)
    texts = description.split("-")
    matches = [_read(description, texts, index) for index in range(len(texts))]
    paddings = _paddings(padding, sum(match["conv"] is not None for match in matches))
    layers: list[LayerPlan] = []
    shape: Shape = input_shape
    for index, match in enumerate(matches):
        place = _position(description, texts, index)
        number = len(layers) + 1
        if match["linear"]:
            layer = LayerPlan(f"linear{number}", "linear", shape, (int(match["linear"]),))
        elif len(shape) == 1:
            raise InvalidInput(f"network: only a linear layer can follow a linear layer, {place}")
        elif match["conv"]:
            layer = _plan_conv(number, match, shape, paddings.pop(0), place)
        else:
            before = layers[-1] if layers and layers[-1].kind == "conv" else None
            layer = _plan_pool(number, int(match["pool"]), shape, before, place)
            if layer.kind == "conv":
                layers.pop()
        layers.append(layer)
        shape = layer.out_shape
    layers.append(LayerPlan("output", "linear", shape, (classes,)))
    parameters = sum(layer.parameters for layer in layers)
    if parameters > MOST_PARAMETERS:
        raise InvalidInput(
            f"network {description!r} would have {parameters:,} parameters, more than "
            f"{MOST_PARAMETERS:,}: check its numbers for a typing error"
        )
    if neunorm and not any(layer.kind == "conv" for layer in layers):
        raise InvalidInput(
            f"neunorm follows convolutions, and {description!r} has none: "
            "add one or set neunorm = false"
        )
    return layers


def checked_shape(input_shape: Sequence[int]) -> Shape:
    """Return the shape ``(C, H, W)`` of images as plain integers.

    Raises:
        InvalidInput: it is not three positive whole numbers.
    """
    sides = tuple(map(as_whole, input_shape)) if isinstance(input_shape, Iterable) else ()
    if len(sides) != 3:
        is_row = (as_whole(input_shape) or 0) >= 1
        row = f", such as (1, 1, {shown(input_shape)})" if is_row else ""
        raise InvalidInput(
            f"input_shape must be (C, H, W), channels, height and width{row}, "
            f"got {shown(input_shape)}"
        )
    whole = tuple(side for side in sides if side is not None and 1 <= side < 2**63)
    if len(whole) != 3:
        raise InvalidInput(f"input_shape must be (C, H, W), got {shown(tuple(input_shape))}")
    return whole


def note_on_output(description: str, classes: int) -> str:
    """Return a note if the last layer is as large as the output layer, otherwise ""."""
    if description.rpartition("-")[2] != str(classes):
        return ""
    return (
        f"the {classes} at the end of {description} is a hidden layer: the output layer of "
        f"{classes} classes is added automatically"
    )


def summary(
    description: str, time_steps: int, layers: Sequence[LayerPlan], neunorm: bool = False
) -> str:
    """Describe the network and its layers with shapes and parameters, one line per layer."""
    rows = [("layer", "connection", "output", "parameters")]
    rows.append(("input", "", _times(layers[0].in_shape), ""))
    total = 0
    for part in layers:
        rows.append((part.name, _connection(part), _times(part.out_shape), f"{part.parameters:,}"))
        total += part.parameters
        if neunorm and part.kind == "conv":
            weights = math.prod(part.out_shape)
            rows.append(("", "NeuNorm", "", f"{weights:,}"))
            total += weights
    rows.append(("total", "", "", f"{total:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}".rstrip()
        for a, b, c, d in rows
    ]
    return "\n".join([f"Network({description!r}, time_steps={time_steps})", *lines])


def _read(description: str, texts: list[str], index: int) -> re.Match[str]:
    pattern = r"(?P<conv>[1-9]\d*)C(?P<kernel>[1-9]\d*)|P(?P<pool>[1-9]\d*)|(?P<linear>[1-9]\d*)"
    match = re.fullmatch(pattern, texts[index], re.ASCII)
    if match is None:
        raise InvalidInput(
            f"network: cannot read {_position(description, texts, index)}; expected a convolution "
            "such as 15C5, a pooling such as P2, or a number of neurons such as 300, joined by '-'"
        )
    if max(len(number or "") for number in match.groups()) > _MOST_DIGITS:
        raise InvalidInput(
            f"network: a number is too large in {_position(description, texts, index)}"
        )
    return match


def _position(description: str, texts: list[str], index: int) -> str:
    character = sum(len(text) + 1 for text in texts[:index]) + 1
    return f"{texts[index]!r} at character {character} of {description!r}"


def _paddings(padding: int | Sequence[int], convolutions: int) -> list[int]:
    paddings = list(padding) if isinstance(padding, Sequence) else [padding] * convolutions
    if len(paddings) != convolutions:
        raise InvalidInput(
            f"padding must be one number or one for each of the {convolutions} convolutions, "
            f"got {len(paddings)} numbers; padding = 1 would pad all of them by one pixel"
        )
    return [check_whole("padding", pad, 0) for pad in paddings]


def _plan_conv(
    number: int, match: re.Match[str], shape: Shape, padding: int, place: str
) -> LayerPlan:
    kernel = int(match["kernel"])
    sides = tuple(side + 2 * padding - kernel + 1 for side in shape[1:])
    if min(sides) < 1:
        raise InvalidInput(
            f"network: the kernel does not fit into {shape[1]} x {shape[2]} values with padding "
            f"{padding}, {place}; the images are too small for this network"
        )
    out_shape = (int(match["conv"]), *sides)
    return LayerPlan(f"conv{number}", "conv", shape, out_shape, kernel, padding)


def _plan_pool(
    number: int, size: int, shape: Shape, before: LayerPlan | None, place: str
) -> LayerPlan:
    """Plan a pooling, alone or as part of the convolution before it."""
    if size > min(shape[1:]):
        raise InvalidInput(
            f"network: the window does not fit into {shape[1]} x {shape[2]} values, {place}; "
            "the images are too small for this network"
        )
    out_shape = (shape[0], shape[1] // size, shape[2] // size)
    if before is None or before.pool > 1:
        return LayerPlan(f"pool{number}", "pool", shape, out_shape, pool=size)
    return replace(before, out_shape=out_shape, pool=size)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)


def _connection(part: LayerPlan) -> str:
    if part.kind == "linear":
        return "linear"
    pool = f"sum pooling {part.pool} x {part.pool}" if part.pool > 1 else ""
    if part.kind == "pool":
        return pool
    convolution = f"convolution {part.kernel} x {part.kernel}, padding {part.padding}"
    return ", ".join(filter(None, [convolution, pool]))
