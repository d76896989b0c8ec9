"""A custom network: wraps any module with `LIF` neurons for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from ..checked import check_whole
from ..errors import Error, InvalidInput
from ..layers import LIF, BatchNorm
from ..layers.lif import sharing
from ..neuron import Neuron, reference
from ..neuron.reference import Mean, Shared, Trace
from .description import checked_shape
from .network import Activity, Model, activity_of, check_images

TRIED = 2  # images of the first forward pass, which counts the neurons

Watch = Callable[[str, LIF, Tensor, Tensor], None]  # layer name, layer, its input, its output


@final
class CustomNetwork(Model):
    """A module that you define, with what `tsslbp.training` needs to know about it.

    Every `tsslbp.layers.LIF` that the forward pass calls is a spiking layer. Its name is the
    module's path, such as ``"3"`` or ``"block1.body.2"``. If a module is called twice in a pass,
    the second call counts as another layer, ``"3 (2)"``. The constructor runs the module once, on
    images of zeros in evaluation mode.

    Args:
        module: maps static images ``[N, C, H, W]`` or spike trains ``[T, N, C, H, W]`` to
            ``[T, N, classes]``, from the first step to the last. Between calls it keeps no state
            except buffers that training changes, such as those of `tsslbp.layers.BatchNorm`.
        input_shape: ``(C, H, W)``.
        classes: number of classes.
        time_steps: T.
        frames: whether the first run uses spike trains instead of images.
        description: name of the network in messages.

    Attributes:
        has_output_layer: whether the module returns the PSC of an output layer of neurons.

    Shape:
        As for `tsslbp.Network`.

    Raises:
        InvalidInput: the module fails, contains no `LIF`, or returns a tensor of the wrong shape;
            or an input is invalid.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: Sequence[int],
        classes: int,
        time_steps: int,
        *,
        frames: bool = False,
        description: str = "the network",
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise InvalidInput(
                f"{description} must be a torch.nn.Module, got {type(module).__name__}"
            )
        self.module, self.description = module, description
        self.input_shape, self.classes = checked_shape(input_shape), check_whole("classes", classes)
        self.time_steps, self.frames = check_whole("time_steps", time_steps), frames
        lifs = [part for part in module.modules() if isinstance(part, LIF)]
        if not lifs:
            raise InvalidInput(
                f"{description} contains no tsslbp.layers.LIF, so it has no spiking neurons: "
                "add one after each connection"
            )
        self.waits_for_device = any(lif.learnable for lif in lifs)
        self.has_output_layer = any(lif.start.output_psc for lif in lifs)
        self._neuron_counts = self._try(frames)

    @property
    def neuron_counts(self) -> dict[str, int]:
        return dict(self._neuron_counts)

    @property
    def neurons(self) -> dict[str, Neuron]:
        """The present constants of every spiking layer, by layer name."""
        return {name: self.layer(name).neurons.neuron for name in self._neuron_counts}

    def layer(self, name: str) -> LIF:
        """Return the `LIF` of a layer named in `neuron_counts`."""
        lif = self.module if isinstance(self.module, LIF) else None
        found = lif or self.module.get_submodule(name.partition(" (")[0])
        assert isinstance(found, LIF)
        return found

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weights of all connections (`Model.connection_weights`).

        The keys are the names of the module's parameters.
        """
        connections = set(self.connection_weights())
        return {
            name: weight for name, weight in self.module.named_parameters() if weight in connections
        }

    def summary(self) -> str:
        """Describe T, each layer's neurons, and the number of parameters, one line per layer."""
        counts = self.neuron_counts
        width = max(len(name) for name in counts)
        lines = [f"{self.description}, T = {self.time_steps}"]
        for name, count in counts.items():
            constants = self.neurons[name]
            rule = type(self.layer(name).start.rule).__name__
            lines.append(
                f"{name:<{width}}  {count:>9,} neurons, tau_m {constants.tau_m:.4g}, tau_s "
                f"{constants.tau_s:.4g}, threshold {constants.threshold:.4g}, {rule}"
            )
        total = sum(weight.numel() for weight in self.module.parameters())
        return "\n".join([*lines, f"{sum(counts.values()):,} neurons, {total:,} parameters"])

    def forward(self, x: Tensor, mean: Mean | None = None) -> Tensor:
        """Return ``[T, N, classes]``; with `mean`, `x` is a part of a batch (see `neuron.Shared`).

        Raises:
            InvalidInput: the input or the module's output is invalid, or a `BatchNorm` would have
                to normalise a batch that is split over several processes.
        """
        check_images(x, self.input_shape, self.time_steps, self._dtype, self.statistics)
        if mean and self.training and any(isinstance(p, BatchNorm) for p in self.module.modules()):
            raise InvalidInput(
                "BatchNorm takes its statistics over the whole batch, which cannot be split over "
                "processes: train in one process"
            )
        # Without an output layer of neurons, each layer scales its gradient on its own.
        shared = Shared(mean) if mean or self.has_output_layer else None
        with sharing(shared):
            output: Tensor = self.module(x)
        self._check_output(output, x.shape[x.ndim - 4])
        return output

    @torch.no_grad()
    def trace(self, x: Tensor) -> dict[str, Trace]:
        """Return potential, increment, spikes and PSC ``[T, N, ...]`` of every `LIF`."""
        found: dict[str, Trace] = {}

        def note(name: str, lif: LIF, x: Tensor, output: Tensor) -> None:
            found[name] = reference.simulate(lif.current(x), lif.neurons.neuron)

        self._watch(x, note)
        return found

    @torch.no_grad()
    def activity(self, x: Tensor, mean: Mean = torch.div) -> dict[str, Activity]:
        """Return firing rate and fraction in warm-up of every `LIF`; costs about a forward pass.

        Running averages are not changed. `mean` is as for `tsslbp.Network.activity`.
        """
        found: dict[str, Activity] = {}

        def note(name: str, lif: LIF, x: Tensor, output: Tensor) -> None:
            found[name] = activity_of(_spikes(lif, x, output), lif.neurons, mean)

        self._watch(x, note)
        return found

    @torch.no_grad()
    def first_nonfinite(self, x: Tensor) -> str | None:
        for name, weight in self.module.named_parameters():
            if not torch.isfinite(weight).all():
                return f"the weights {name}"
        found: list[str] = []

        def note(name: str, lif: LIF, x: Tensor, output: Tensor) -> None:
            if not found and not torch.isfinite(x).all():
                found.append(f"the input of layer {name}")

        self._watch(x, note)
        return found[0] if found else None

    @property
    def _dtype(self) -> torch.dtype:
        weights = (weight.dtype for weight in self.module.parameters())
        return next(weights, torch.get_default_dtype())

    def _try(self, frames: bool) -> dict[str, int]:
        """Return the number of neurons of every layer, in the order in which they are called."""
        counts: dict[str, int] = {}

        def note(name: str, lif: LIF, x: Tensor, output: Tensor) -> None:
            counts[name] = _spikes(lif, x, output)[0, 0].numel()

        with torch.no_grad():
            self._call(TRIED, frames, False, note)
        if not counts:
            raise InvalidInput(
                f"the forward pass of {self.description} calls none of its tsslbp.layers.LIF"
            )
        return counts

    def try_training(self, images: int) -> None:
        """Run the module once in training mode, on zeros; buffers and random numbers are restored.

        Args:
            images: number of images, such as that of an epoch's last batch.

        Raises:
            InvalidInput: it fails, or its output has no gradient.
        """
        cuda = [weight.device for weight in self.module.parameters() if weight.is_cuda][:1]
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            output = self._call(images, self.frames, True, lambda *_: None)
        if not output.requires_grad:
            raise InvalidInput(
                f"the output of {self.description} has no gradient in training: does its forward "
                "pass detach it, or run under torch.no_grad()?"
            )

    def _call(self, images: int, frames: bool, training: bool, watch: Watch) -> Tensor:
        """Return the output for images of zeros, in training or in evaluation mode."""
        shape = [self.time_steps] * frames + [images, *self.input_shape]
        device = next((weight.device for weight in self.module.parameters()), None)
        modes = {part: part.training for part in self.modules()}
        self.train(training)
        what = f"{self.description}{' in training' if training else ''}"
        try:
            return self._watch(torch.zeros(shape, dtype=self._dtype, device=device), watch)
        except Error as error:
            said = str(error)
            if not said.startswith(self.description):
                said = f"{what}, for an input {shape}: {said}"
            raise InvalidInput(said) from error
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InvalidInput(
                f"{what} failed for an input {shape}: {type(error).__name__}: {reason}"
            ) from error
        finally:
            for part, mode in modes.items():
                part.training = mode

    def _watch(self, x: Tensor, watch: Watch) -> Tensor:
        """Return the output, having called `watch` after every `LIF`; buffers are restored."""
        calls: dict[LIF, int] = {}
        with ExitStack() as stack:
            stack.enter_context(_buffers_kept(self.module))
            for path, part in self.module.named_modules():
                if isinstance(part, LIF):

                    def hook(lif: LIF, inputs: Any, output: Tensor, path: str = path) -> None:
                        calls[lif] = calls.get(lif, 0) + 1
                        name = path or "lif"
                        name += f" ({calls[lif]})" if calls[lif] > 1 else ""
                        watch(name, lif, inputs[0], output)

                    stack.callback(part.register_forward_hook(hook).remove)
            output: Tensor = self(x)
            return output

    def _check_output(self, output: object, images: int) -> None:
        expected = [self.time_steps, images, self.classes]
        if not isinstance(output, Tensor):
            got, hint = type(output).__name__, ""
        elif (shape := list(output.shape)) != expected:
            got, hint = str(shape), _shape_hint(shape, expected)
        elif not output.dtype.is_floating_point:
            got, hint = f"numbers of type {output.dtype}", "; return floating-point numbers"
        else:
            return
        raise InvalidInput(
            f"{self.description} must return [T, N, classes] = {expected}, got {got}{hint}"
        )


def _shape_hint(shape: list[int], expected: list[int]) -> str:
    """Guess why an output has the wrong shape, as the end of a message."""
    steps, images, classes = expected
    if shape == [images, steps, classes]:
        return ", which looks like [N, T, classes]: return its .transpose(0, 1)"
    if shape == expected[1:]:
        return "; return the outputs of every step, not their sum or mean over time"
    if len(shape) == 3 and shape[0] != steps:
        return f"; does its first LIF have time_steps={steps}?"
    if shape[:-1] == expected[:-1]:
        return f"; does its last connection have {classes} outputs?"
    return ""


def _spikes(lif: LIF, x: Tensor, output: Tensor) -> Tensor:
    """Return the spikes ``[T, N, ...]`` of a layer that was called with `x`."""
    if lif.start.pool == 1 and not lif.start.output_psc:
        return output
    return lif.spikes(x)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore all buffers, such as running averages, which a pass in training mode changes."""
    before = {buffer: buffer.clone() for buffer in module.buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before.items():
                buffer.copy_(value)
