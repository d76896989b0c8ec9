"""`to_onnx`: a network as an ONNX model, through `torch.export`."""

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
from .facts import as_text, facts
from .plain import to_plain

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
INPUT, OUTPUT, BATCH = "images", "output", "batch"
PREDICTION = "the class with the largest output summed over time"
TRACED = 2  # images in the batch that the graph is traced with; 0 and 1 would be taken for fixed


@final
class Normalisation(nn.Module):
    """`tsslbp.data.normalise` of such images as `images`, ``[N, C, H, W]``."""

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
    """A network for inference as an ONNX model of opset 20; the loop over T steps is unrolled.

    The model takes ``images`` and returns ``output``, ``[T, N, classes]``, what `net` returns: of a
    `Network` the PSC. Its class is the one with the largest sum over time, which `metadata_props`
    say, with T, the number of classes and the version. N is free. What is traced is `to_plain`'s
    module in float32, so results are those of ``impl="reference"`` but for the order in which sums
    are added up.

    Args:
        net: the network, in float32 and on the CPU.
        frames: whether the model takes spike trains ``[T, N, C, H, W]`` instead of static images
            ``[N, C, H, W]``.
        pixels: makes `tsslbp.data.normalise` by `mean` and `std` a part of the model, which then
            takes raw images: ``torch.uint8``, 0 to 255, or ``torch.float32``.
        mean, std: one number, or one for each channel.
        metadata: more entries of `metadata_props`; what is no text is written as JSON.

    Returns:
        The model; ``onnx.save(model, "net.onnx")`` writes it.

    Raises:
        InvalidInput: a package of the extra ``exchange`` is missing, `torch.export` cannot trace
            the network, or frames are to be normalised.
    """
    require("ONNX needs", "exchange", "onnx", "onnxscript")
    import onnx

    if frames and pixels is not None:
        raise InvalidInput("frames of events are taken as they are: there is nothing to normalise")
    shape = [net.time_steps] * frames + [TRACED, *net.input_shape]
    example = torch.zeros(shape, dtype=pixels or torch.float32)
    module = to_plain(net)
    if pixels is not None:
        module = nn.Sequential(Normalisation(example, mean, std), module)
    model = _traced(module, example, 1 if frames else 0)
    for node in model.graph.node:  # where it was traced, with the paths of this machine
        del node.metadata_props[:]
    known = facts(net, PREDICTION, metadata)
    onnx.helper.set_model_props(model, {key: as_text(value) for key, value in known.items()})
    return model


def _traced(module: nn.Module, example: Tensor, batch_axis: int) -> ModelProto:
    """The model of a module; `batch_axis` of its input is free."""
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
                f"torch.export cannot trace the network: {reason[:300]}; what depends on values of "
                "the input, in a module of one's own, has no place in a graph"
            ) from error
    assert program is not None  # as it is with dynamo
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed here, and on its insides."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
