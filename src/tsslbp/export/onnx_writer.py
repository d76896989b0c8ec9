"""`to_onnx`: converts a network to an ONNX model through `torch.export`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from ..data.dataset import channel_statistics, normalised
from ..errors import InvalidInput, require
from ..network import CustomNetwork, Network
from .facts import as_text, check_network, facts
from .plain import to_plain

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
INPUT, OUTPUT, BATCH = "images", "output", "batch"
PREDICTION = "the class with the largest output summed over time"
FRAMES = "frames of recordings [T, N, C, H, W]"
NORMALISED = "images [N, C, H, W], normalised as for training"
RAW = "raw images [N, C, H, W] of type {}, which the model normalises"
TRACED = 2  # images in the traced batch; sizes 0 and 1 would be treated as constant


@final
class Normalisation(nn.Module):
    """`tsslbp.data.normalise` for images of the type of `images`, ``[N, C, H, W]``."""

    shift: Tensor
    scale: Tensor

    def __init__(
        self, images: Tensor, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> None:
        super().__init__()
        shift, scale = channel_statistics(images, mean, std)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> Tensor:
        return normalised(images, self.shift, self.scale)


def to_onnx(
    net: Network | CustomNetwork,
    *,
    frames: bool = False,
    pixels: torch.dtype | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    metadata: Mapping[str, Any] | None = None,
) -> ModelProto:
    """Convert a network for inference to an ONNX model of opset 20; the loop over T is unrolled.

    The model maps ``images`` to ``output``, ``[T, N, classes]``, the output of `net`: for a
    `Network` the PSC. The predicted class has the largest sum over time; `metadata_props` say so,
    and give T, the number of classes, the version, and whether the images must be normalised. N is
    dynamic. The traced module is that of `to_plain` in float32, so the results are those of
    ``impl="reference"`` up to the order of summation.

    Args:
        net: the network; it is not changed.
        frames: whether the model takes spike trains ``[T, N, C, H, W]`` instead of static images
            ``[N, C, H, W]``.
        pixels: includes `tsslbp.data.normalise` by `mean` and `std` in the model, which then takes
            raw images: ``torch.uint8``, 0 to 255, or ``torch.float32``.
        mean, std: one number, or one per channel; only with `pixels`.
        metadata: further entries of `metadata_props`; values that are not text become JSON.

    Returns:
        The model; write it with ``onnx.save(model, "net.onnx")``.

    Raises:
        InvalidInput: a package of the extra ``exchange`` is not installed, `torch.export` cannot
            trace the network, `pixels` is given for frames, or `mean` or `std` without `pixels`, or
            `metadata` cannot be written.
    """
    require("ONNX needs", "exchange", "onnx", "onnxscript")
    import onnx

    check_network(net)
    if frames and pixels is not None:
        raise InvalidInput("frames of events are not normalised: leave out pixels, mean and std")
    if pixels is None and not (mean == 0 and std == 1):
        raise InvalidInput(
            "mean and std are only used with pixels, the type of the images to normalise: give it, "
            "or leave them out"
        )
    if pixels not in (None, torch.uint8, torch.float32):
        raise InvalidInput(f"pixels must be torch.uint8 or torch.float32, got {pixels}")
    given = FRAMES if frames else NORMALISED
    if pixels is not None:
        given = RAW.format(str(pixels).removeprefix("torch."))
    known = facts(net, {"input": given, "prediction": PREDICTION}, metadata)
    shape = [net.time_steps] * frames + [TRACED, *net.input_shape]
    example = torch.zeros(shape, dtype=pixels or torch.float32)
    module = to_plain(net).to("cpu", torch.float32)
    if pixels is not None:
        module = nn.Sequential(Normalisation(example, mean, std), module)
    model = _traced(module, example, 1 if frames else 0)
    for node in model.graph.node:  # remove the tracing information with paths of this machine
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, {key: as_text(value) for key, value in known.items()})
    return model


def _traced(module: nn.Module, example: Tensor, batch_axis: int) -> ModelProto:
    """Return the model of a module; the size of `batch_axis` of its input is dynamic."""
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({batch_axis: BATCH},),
                verbose=False,
            )
        except Exception as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise InvalidInput(
                f"torch.export cannot trace the network: {reason[:300]}; remove code of a custom "
                "module that depends on the values of its input"
            ) from error
    assert program is not None  # as it is with dynamo
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages on packages that are not needed and on its internals."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
