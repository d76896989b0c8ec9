"""Benchmark: ``python benchmarks/run.py [--quick] [--rules] [--json FILE]``.

Checks come first: a wrong result is not timed. All times are measured in this process, in which the
cases take turns; memory is measured in a separate process for each case.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from unittest.mock import patch

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import record_function

import peers
import tsslbp
from peers import Case, Size
from timing import Timing, first_step, interleave, parts, peak_memory, per_doubling
from tsslbp import training
from tsslbp.data.images import augment
from tsslbp.errors import InvalidInput
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.export import to_onnx, to_plain
from tsslbp.kernels import events
from tsslbp.network.description import LayerPlan, plan
from tsslbp.rules import DERIVATIVES, from_config
from tsslbp.run.environment import describe_environment

BASELINE, DENSE, OURS = (
    "ReLU, without time steps (PyTorch)",
    "dense matrix products alone",
    "tsslbp",
)
SPIKING = ("snnTorch", "Norse", "SpikingJelly")
PARAMETERS = 210_375
TIME_STEPS = (1, 2, 5, 30, 100)  # for the neuron operation alone
COMPARED_RULES = (
    "TSSLBP",
    "TSSLBP.published",
    "TSSLBP(warm_up=always)",
    *(f"Surrogate(derivative={one})" for one in DERIVATIVES),
    "Surrogate(through_reset=true)",
    "SLAYER",
    "EventProp",
    "NA",
    "SpikeBP",
)
QUICK_RULES = ("TSSLBP", "SLAYER", "EventProp", "NA")
EVENT_LAYERS = (  # input [F, C, H, W], outputs, window, padding
    ("MNIST, second convolution", (250, 15, 12, 12), 40, 5, 0),
    ("CIFAR-10, second convolution", (50, 96, 16, 16), 128, 3, 1),
    ("CIFAR-10, fifth convolution", (50, 256, 8, 8), 256, 3, 1),
    ("MNIST, linear", (250, 640, 1, 1), 300, 1, 0),
    ("Fashion-MNIST, linear", (250, 400, 1, 1), 400, 1, 0),
    ("CIFAR-10, linear", (250, 4096, 1, 1), 1024, 1, 0),
)
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
LINEAR_DENSITIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.2)
PARTS = {  # of a training step, by the outermost operations of each
    "event-driven convolution, forward": ("_Product",),
    "event-driven convolution, gradient of the weights": ("_weight_gradient",),
    "the same convolution, gradient of the input": ("_input_gradient",),
    "first convolution and linear layers": (
        *("aten::conv2d", "aten::convolution_backward", "aten::linear", "aten::matmul", "aten::mm"),
    ),
    "neurons, forward": ("_Layer",),
    "neurons, backward": ("_Gradient",),
    "clipping and optimiser": (
        *("aten::_foreach_norm", "aten::linalg_vector_norm", "aten::_foreach_mul_"),
        *("aten::_foreach_clamp_min_", "aten::_foreach_clamp_max_"),
        "Optimizer.step#AdamW.step",
    ),
}
TRAINED_RATES = (0.12, 0.19, 0.18)  # firing rates on MNIST after two epochs of `tsslbp train mnist`
EVALUATED = 200  # images in a batch of an evaluation
LEARNING_STEPS, SEW_LEARNING_STEPS = 40, 10
QUICK = Size(batch=4)
MB = 1e6

Row = dict[str, Any]
console = Console(width=100)


def main() -> None:
    """Run the checks and the sections, print them, and write them to a file if requested."""
    parser = argparse.ArgumentParser(description="Benchmark of one training step and of its parts.")
    parser.add_argument("--quick", action="store_true", help="few repetitions, small sizes")
    parser.add_argument("--rules", action="store_true", help="only the learning rules")
    parser.add_argument("--threads", type=int, help="threads of PyTorch and of the kernels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    training.keep_freed_memory()  # as in training; this also benefits the peers

    result: dict[str, Any] = {"environment": _environment(), "quick": arguments.quick}
    console.print(_machine(result["environment"]))
    if not arguments.rules:
        cases, result["unavailable"] = _available_cases()
        result["checks"] = check(cases, arguments.quick)
        result["step"] = step_section(cases, arguments.quick)
        result["trained"] = trained_section(arguments.quick)
        result["parts"] = parts_section(arguments.quick)
        result["sew"] = sew_section(arguments.quick)
        result["first step"] = first_step_section(arguments.quick)
        result["neuron"] = neuron_section(arguments.quick)
        result["inference"] = inference_section(cases[OURS].model, arguments.quick)
        result["growth"] = growth_section(arguments.quick)
        result["events"] = events_section(arguments.quick)
        result["cifar10"] = cifar10_section(arguments.quick)
    result["rules"] = rules_section(arguments.quick)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def _environment() -> Row:
    peers_used = ("snntorch", "norse", "spikingjelly", "onnxruntime")
    versions = {name: _version(name) for name in peers_used}
    measured = {"peers": versions, "threads": torch.get_num_threads()}
    return describe_environment() | measured | {"vectors": torch.backends.cpu.get_cpu_capability()}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except ModuleNotFoundError:
        return None


def _machine(environment: Row) -> str:
    versions = ", ".join(f"{name} {of}" for name, of in environment["peers"].items() if of)
    return (
        f"{environment.get('cpu') or environment['platform']}, {environment['vectors']}, "
        f"{environment['threads']} threads; "
        f"Python {environment['python']}, torch {environment['torch']}, {versions}"
    )


def _available_cases() -> tuple[dict[str, Case], dict[str, str]]:
    """Return all cases that can be built, and the reason for each that cannot."""
    cases, unavailable = {}, {}
    for name in peers.CASES:
        try:
            cases[name] = peers.make(name)
        except ImportError as error:
            unavailable[name] = str(error)
            console.print(f"without {name}: {error}", markup=False)
    return cases, unavailable


# Checks


def check(cases: Mapping[str, Case], quick: bool) -> list[str]:
    """Stop if a case is not what its name says; return what was checked."""
    passed = []
    images, labels = peers.batch(QUICK if quick else Size())
    for name, case in cases.items():
        count = sum(weight.numel() for weight in case.model.parameters())
        _require(count == PARAMETERS, f"{name}: {count:,} parameters, expected {PARAMETERS:,}")
    passed.append(f"every network has {PARAMETERS:,} parameters")

    counts = {name: cases[name].model(images) for name in SPIKING if name in cases}
    for name, other in counts.items():
        difference = (other - next(iter(counts.values()))).abs().mean().item()
        _require(difference < 0.01, f"{name}: spike counts differ by {difference:.2g} on average")
        _require(other.sum().item() > 0, f"{name}: the output layer is silent")
    passed.append("with equal weights the peers' output neurons fire equally often")

    for name, case in cases.items():
        if name != DENSE:
            _check_learning(name, case, images, labels)
    passed.append("every case reaches all its weights and learns a batch")

    for time_steps in TIME_STEPS:
        _check_neuron(time_steps)
    passed.append("fused neurons give the reference's spikes and gradients")
    for line in passed:
        console.print(f"checked: {line}")
    return passed


def _check_learning(
    name: str, case: Case, images: Tensor, labels: Tensor, steps: int = LEARNING_STEPS
) -> None:
    losses = [case.step(images, labels) for _ in range(steps)]
    _require(losses[-1] < 0.8 * losses[0], f"{name}: loss from {losses[0]:.3g} to {losses[-1]:.3g}")
    for weight in case.model.parameters():
        reached = weight.grad is not None and bool(weight.grad.isfinite().all() & weight.grad.any())
        _require(reached, f"{name}: a weight of shape {tuple(weight.shape)} gets no gradient")


def _check_neuron(time_steps: int) -> None:
    current, incoming = _currents(time_steps, 10_000)
    results = []
    for impl in ("cpu", "reference"):
        psc = tsslbp.lif(current, impl=impl)
        results.append((psc, *torch.autograd.grad(psc, current, incoming)))
    (psc, gradient), (expected, expected_gradient) = results
    _require(torch.allclose(psc, expected), f"neuron, T = {time_steps}: PSC differs")
    limit = 1e-5 * expected_gradient.abs().max()
    largest = (gradient - expected_gradient).abs().max()
    _require(bool(largest <= limit), f"neuron, T = {time_steps}: gradient off by {largest:.2g}")


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise SystemExit(f"check failed: {complaint}")


# Sections


def step_section(cases: Mapping[str, Case], quick: bool) -> list[Row]:
    """Measure one training step of every case."""
    images, labels = peers.batch()
    steps = {name: partial(case.step, images, labels) for name, case in cases.items()}
    timings = interleave(steps, 3 if quick else 40, 1 if quick else 3)
    measured = {OURS} if quick else timings.keys() - {DENSE}  # a process for each
    rows = [
        {
            "case": name,
            "best ms": timing.best * 1e3,
            "median ms": timing.median * 1e3,
            "times ReLU": timing.median / timings[BASELINE].median,
            "times tsslbp": timing.median / timings[OURS].median,
            "peak MB": peak_memory(name, Size()) / MB if name in measured else None,
        }
        for name, timing in timings.items()
    ]
    _show("One training step: 15C5-P2-40C5-P2-300, batch 50, T = 5", rows)
    return rows


def trained_section(quick: bool) -> list[Row]:
    """Compare step and evaluation with ReLU's, at the firing rates of a trained network."""
    images, labels = peers.batch()
    cases = {name: peers.make(name) for name in (BASELINE, OURS)}
    _fire_as_trained(cases[OURS].model, images)
    many = peers.batch(Size(batch=EVALUATED))[0]
    timed: dict[str, dict[str, Callable[[], object]]] = {
        "training step": {name: partial(one.step, images, labels) for name, one in cases.items()},
        "evaluation": {name: partial(_evaluate, one.model, many) for name, one in cases.items()},
    }
    rows = []
    for what, calls in timed.items():
        found = interleave(calls, 3 if quick else 40)
        ours, baseline = found[OURS].median, found[BASELINE].median
        rows.append({"what": what, "ms": ours * 1e3, "times ReLU": ours / baseline})
    _show(f"Firing rates as on MNIST after two epochs: {TRAINED_RATES}", rows)
    return rows


def parts_section(quick: bool) -> list[Row]:
    """Measure what the parts of a trained network's step take, by PyTorch's profiler."""
    images, labels = peers.batch()
    case, steps = peers.make(OURS), 3 if quick else 60
    _fire_as_trained(case.model, images)
    names = "_weight_gradient", "_input_gradient"
    labelled = {name: record_function(name)(getattr(events, name)) for name in names}
    with patch.multiple(events, **labelled):
        seconds = parts(partial(case.step, images, labels), PARTS, steps)
    whole = sum(seconds.values())
    rows = [{"part": part, "ms": of * 1e3, "share": of / whole} for part, of in seconds.items()]
    _show("Parts of a training step, with the firing rates of a trained network", rows)
    return rows


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor) -> Tensor:
    output: Tensor = model.eval()(images)
    return output


def _fire_as_trained(model: nn.Module, images: Tensor) -> None:
    """Scale the weights of each hidden layer until its neurons fire at `TRAINED_RATES`."""
    network = cast("tsslbp.Network", model)
    for number, wanted in enumerate(TRAINED_RATES):
        weight, low, high = list(network.parameters())[number].data, 0.0, 64.0
        fresh = weight.clone()
        for _ in range(20):
            middle = (low + high) / 2
            torch.mul(fresh, middle, out=weight)
            rate = list(network.activity(images).values())[number].firing_rate
            low, high = (middle, high) if rate < wanted else (low, middle)


def sew_section(quick: bool) -> list[Row]:
    """Measure one training step of a residual network with two blocks, here and in its peers.

    All networks have the same initial weights, neurons and surrogate derivative, so their first
    losses must agree.
    """
    images, labels = peers.batch(QUICK if quick else Size())
    cases: dict[str, Case] = {}
    for name in peers.SEW_CASES:
        with suppress(ImportError):  # already reported
            cases[name] = peers.make_sew(name)
    losses = {name: case.step(images, labels) for name, case in cases.items()}
    for name, loss in losses.items():
        away = abs(loss - losses[OURS])
        _require(away < 0.01, f"{name}: first loss of the residual network off by {away:.2g}")
    for name, case in cases.items():
        _check_learning(name, case, images, labels, SEW_LEARNING_STEPS)
    console.print("checked: the residual networks have equal losses at equal weights, and learn")
    steps = {name: partial(case.step, images, labels) for name, case in cases.items()}
    timings = interleave(steps, 1 if quick else 20)
    rows = [
        {
            "case": name,
            "best ms": timing.best * 1e3,
            "median ms": timing.median * 1e3,
            "times tsslbp": timing.median / timings[OURS].median,
        }
        for name, timing in timings.items()
    ]
    size = "two blocks of 32 and 64 channels, 28 x 28, batch 50, T = 4"
    _show(f"One training step of a residual network (SEW): {size}", rows)
    return rows


def first_step_section(quick: bool) -> list[Row]:
    """Measure the first step of a process, with kernels to compile and with cached kernels.

    With `quick`, it is measured only with the kernels that are cached on this machine.
    """
    with TemporaryDirectory() as new:
        kinds = {"kept": ""} if quick else {"new": new, "kept": new}
        rows = [{"kernels": kind, "s": first_step(OURS, to)} for kind, to in kinds.items()]
    _show("First step of a process", rows)
    return rows


def neuron_section(quick: bool) -> list[Row]:
    """Measure the neuron alone: forward moves two arrays, backward three, a copy two."""
    values = 1 << (20 if quick else 22)
    rows = []
    for time_steps in TIME_STEPS:
        current, incoming = _currents(time_steps, values // time_steps)
        psc = tsslbp.lif(current)
        source, copy = current.detach(), torch.empty_like(current)
        timings = interleave(
            {
                "copy": partial(copy.copy_, source),
                "forward": partial(tsslbp.lif, source),
                "backward": partial(_backward, psc, current, incoming),
            },
            5 if quick else 60,
        )
        row: Row = {"T": time_steps, "neurons": current.shape[1]}
        for name, arrays in (("copy", 2), ("forward", 2), ("backward", 3)):
            row[f"{name} ms"] = timings[name].median * 1e3
            row[f"{name} GB/s"] = arrays * current.nbytes / timings[name].median / 1e9
        rows.append(row)
    _show("LIF neurons and synaptic filter alone (float32), compared with a copy", rows)
    return rows


def rules_section(quick: bool) -> list[Row]:
    """Compare the backward pass of every learning rule with TSSL-BP's on the same values."""
    values = 1 << (18 if quick else 21)
    rules = QUICK_RULES if quick else COMPARED_RULES
    rows = []
    for time_steps in (5, 30):
        current, incoming = _currents(time_steps, values // time_steps)
        pscs = {text: tsslbp.lif(current, rule=from_config(text), impl="cpu") for text in rules}
        cases = {text: partial(_backward, psc, current, incoming) for text, psc in pscs.items()}
        timings = interleave(cases, 5 if quick else 40)
        rows += [
            {
                "rule": text,
                "T": time_steps,
                "backward ms": timing.median * 1e3,
                "times TSSLBP": timing.median / timings["TSSLBP"].median,
            }
            for text, timing in timings.items()
        ]
    _show("Learning rules: the neuron's backward pass (float32)", rows)
    return rows


def inference_section(net: nn.Module, quick: bool) -> list[Row]:
    """Measure inference of the MNIST network by tsslbp, plain PyTorch and onnxruntime.

    The network has learned a batch in the checks, so that all layers fire. All use the same number
    of threads, and their outputs must agree. Without onnxruntime its row is omitted. With `quick`,
    the network is one that takes less time to export.
    """
    if quick:
        net = tsslbp.Network("16", peers.batch()[0].shape[1:], classes=10, time_steps=2)
    assert isinstance(net, tsslbp.Network)
    plain = to_plain(net.eval())
    runs: dict[str, Callable[[Tensor], Tensor]] = {OURS: net, "plain PyTorch": plain}
    with suppress(ImportError, InvalidInput):
        runs["onnxruntime"] = _onnxruntime(net)
    rows: list[Row] = []
    with torch.no_grad():
        for batch in (1, 50):
            images, _ = peers.batch(Size(batch=batch))
            for name, run in runs.items():
                agree = (run(images) - net(images)).abs() < 1e-4
                _require(
                    agree.float().mean().item() > 0.99, f"{name}: its outputs differ from ours"
                )
            cases = {name: partial(run, images) for name, run in runs.items()}
            timings = interleave(cases, 5 if quick else 60)
            rows += [
                {
                    "batch": batch,
                    "case": name,
                    "best ms": timing.best * 1e3,
                    "median ms": timing.median * 1e3,
                    "times tsslbp": timing.median / timings[OURS].median,
                }
                for name, timing in timings.items()
            ]
    _show("Inference: 15C5-P2-40C5-P2-300, T = 5", rows)
    return rows


def _onnxruntime(net: tsslbp.Network) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = to_onnx(net).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def growth_section(quick: bool) -> list[Row]:
    """Measure time and memory of tsslbp's step over T, batch and width (first channels).

    With `quick`, T is doubled once. The factors are those from the usual size on.
    """
    if quick:
        axes = {"T": [Size(), replace(Size(), time_steps=10)]}
    else:
        axes = {
            "T": [replace(Size(), time_steps=one) for one in (1, 2, 5, 10, 20, 40)],
            "batch": [replace(Size(), batch=50 << i) for i in range(4)],
            "width": [replace(Size(), channels=15 << i) for i in range(4)],
        }
    sizes = dict.fromkeys(size for column in axes.values() for size in column)
    steps = {str(size): _step_of(size) for size in sizes}
    timings = interleave(steps, 3 if quick else 15)
    memory = {str(size): peak_memory(OURS, size) for size in sizes}
    rows = [_growth(axis, column, timings, memory) for axis, column in axes.items()]
    _show("Growth of tsslbp's step, and its factor when the size doubles", rows)
    return rows


def _growth(
    axis: str, column: Sequence[Size], timings: Mapping[str, Timing], memory: Mapping[str, int]
) -> Row:
    attribute = {"T": "time_steps", "batch": "batch", "width": "channels"}[axis]
    values = [getattr(size, attribute) for size in column]
    seconds = [timings[str(size)].median for size in column]
    peaks = [memory[str(size)] for size in column]
    first = values.index(getattr(Size(), attribute))  # below, what does not grow prevails
    return {
        "over": axis,
        "sizes": values,
        "ms": [second * 1e3 for second in seconds],
        "time, doubled": per_doubling(values[first:], seconds[first:]),
        "MB": [peak / MB for peak in peaks],
        "memory, doubled": per_doubling(values[first:], peaks[first:]),
    }


def events_section(quick: bool) -> list[Row]:
    """Compare event-driven connections with dense products, forward and backward."""
    rows = []
    for name, shape, outputs, window, padding in EVENT_LAYERS[::3] if quick else EVENT_LAYERS:
        weight = torch.randn(outputs, shape[1], window, window).div_(shape[1])
        densities = LINEAR_DENSITIES if window == 1 else DENSITIES
        for density in densities[::3] if quick else densities:
            x = (torch.rand(shape) < density).float().contiguous(memory_format=torch.channels_last)
            timings = interleave(_products(x, weight, padding), 3 if quick else 15)
            ours, dense = timings["events"].median, timings["dense"].median
            rows.append(
                {
                    "layer": name,
                    "not zero": density,
                    "events ms": ours * 1e3,
                    "dense ms": dense * 1e3,
                    "times dense": ours / dense,
                    "chosen": "events" if events.is_faster(*_layer(x, weight)) else "dense",
                }
            )
    _show("Event-driven and dense products, forward and backward (float32)", rows)
    return rows


def _layer(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as in a network: with a time axis, and a 1 x 1 window as a linear layer."""
    return (x.flatten(1)[None], weight.flatten(1)) if weight.shape[-1] == 1 else (x[None], weight)


def _products(x: Tensor, weight: Tensor, padding: int) -> dict[str, Callable[[], object]]:
    """Return both ways to compute a layer."""

    def conv2d(x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(memory_format=torch.channels_last)
        return functional.conv2d(x.flatten(0, 1), weight, padding=padding)[None]

    is_linear = weight.shape[-1] == 1
    x, weight = (one.detach().requires_grad_() for one in _layer(x, weight))
    by_events = events.linear if is_linear else partial(events.conv2d, padding=padding)
    ways = {"events": by_events, "dense": functional.linear if is_linear else conv2d}
    grad = torch.randn_like(by_events(x, weight).detach())

    def run(way: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(way(x, weight), [x, weight], grad)

    return {name: partial(run, way) for name, way in ways.items()}


def cifar10_section(quick: bool) -> list[Row]:
    """Compare CNN1's step with its connections as dense products, both at batch 50.

    The first layer is computed once, the others for all time steps, forward and backward. Crops and
    mirroring, which a training adds, are timed separately.
    """
    recipe = load_recipe("cifar10-cnn1")
    if quick:
        recipe = replace(recipe, network="16C3-P2-32", padding=(1,), batch_size=5)
    shape = (3, 32, 32)
    net = training.build_network(recipe, shape, peers.CLASSES)
    optimizer, loss = training.build_optimizer(recipe, net), training.build_loss(recipe)
    images = torch.randn(recipe.batch_size, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(recipe.batch_size) % peers.CLASSES
    layers = plan(recipe.network, shape, peers.CLASSES, recipe.padding)
    cases: dict[str, Callable[[], object]] = {
        "tsslbp": partial(training.train_step, net, optimizer, loss, images, labels),
        "dense matrix products alone": partial(_dense_products, _dense_layers(recipe, layers)),
        "crops and mirror images": partial(_augment, recipe, torch.zeros(images.shape).byte()),
    }
    timings = interleave(cases, 2 if quick else 5)
    floor = timings["dense matrix products alone"].median
    rows = [
        {"case": name, "median s": timing.median, "times dense": timing.median / floor}
        for name, timing in timings.items()
    ]
    _show(f"CIFAR-10: {recipe.network}, batch {recipe.batch_size}, T = {recipe.time_steps}", rows)
    return rows


def _augment(recipe: Experiment, pixels: Tensor) -> None:
    padding, random = recipe.crop_padding, torch.Generator().manual_seed(0)
    drawn = augment.draw(len(pixels), padding, recipe.horizontal_flip, random)
    augment.apply(pixels, drawn, padding)


def _dense_layers(
    recipe: Experiment, layers: Sequence[LayerPlan]
) -> list[tuple[nn.Module, Tensor]]:
    """Return PyTorch's layers, channels last, each with an input of 0s and 1s."""
    found: list[tuple[nn.Module, Tensor]] = []
    for index, layer in enumerate(layers):
        frames = recipe.batch_size * (recipe.time_steps if index else 1)
        shape = layer.in_shape if layer.kind == "conv" else (math.prod(layer.in_shape),)
        x = torch.randint(2, (frames, *shape)).float()
        if layer.kind == "conv":
            x = x.to(memory_format=torch.channels_last)
        found.append((peers.dense_layer(layer), x.requires_grad_(index > 0)))
    return found


def _dense_products(layers: Sequence[tuple[nn.Module, Tensor]]) -> None:
    for layer, x in layers:
        y = layer(x)
        wanted = [*layer.parameters(), *([x] if x.requires_grad else [])]
        torch.autograd.grad(y, wanted, torch.ones_like(y))


def _step_of(size: Size) -> Callable[[], object]:
    return partial(peers.make(OURS, size).step, *peers.batch(size))


def _currents(time_steps: int, neurons: int) -> tuple[Tensor, Tensor]:
    """Return currents ``[T, neurons]`` that make some neurons fire, and a gradient for the PSC."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(time_steps, neurons, generator=generator).mul_(0.5).add_(0.3)
    return current.requires_grad_(), torch.randn(time_steps, neurons, generator=generator)


def _backward(psc: Tensor, current: Tensor, incoming: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(psc, current, incoming, retain_graph=True)


# Output


def _show(title: str, rows: Sequence[Row]) -> None:
    table = Table(title=escape(title), title_justify="left")
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console.print()
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(part) for part in value)
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
