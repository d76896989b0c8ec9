"""GPU benchmark: ``python benchmarks/gpu/bench.py [--json FILE] [--quick]``.

Checks come first, then the card itself, the neuron alone, training steps of whole networks, and one
linear layer over many steps. Each is compared with other libraries if they are installed. Every
measurement is repeated, and the median is reported; the host waits for the device before and after
each repetition. The benchmark takes about eight minutes on one GPU. Without a GPU it runs on the
CPU with small sizes (``--quick``), which only shows that it works.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import peers
import tsslbp
from tsslbp import training
from tsslbp.data.images import augment
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.network.description import LayerPlan, plan
from tsslbp.run.environment import describe_environment
from tsslbp.training.device import WARM_UP, DeviceSteps, configure

RECIPES = {  # recipes whose training step is measured, and the shape of their images
    "mnist": (1, 28, 28),
    "fashion-mnist-cnn": (1, 28, 28),
    "cifar10-cnn1": (3, 32, 32),
    "cifar10-cnn2": (3, 32, 32),
}
PRECISIONS = ("float32", "tf32", "bf16")
PEERS = ("snntorch", "spikingjelly", "cupy-cuda12x", "cupy-cuda13x")  # peers and their packages
Row = dict[str, Any]
console = Console(width=120)


class Bench:
    """The device, and how long to measure on it."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.gpu = device != "cpu"
        self.repetitions = 3 if quick else 10

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], calls: int = 1) -> float:
        """Return the median time of a call, in rounds of `calls` between two waits."""
        for _ in range(3):
            run()
        times = []
        for _ in range(self.repetitions):
            self.wait()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            self.wait()
            times.append((time.perf_counter() - start) / calls)
        return statistics.median(times)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, device=self.device).to(dtype)


# Checks


def check(bench: Bench) -> list[str]:
    """Stop if a result is wrong; return what was checked."""
    for time_steps in (5, 100):
        current = (bench.normal(time_steps, 5000) * 0.5 + 0.3).requires_grad_()
        grad = bench.normal(time_steps, 5000)
        ours, exact = (tsslbp.lif(current, impl=impl) for impl in ("auto", "reference"))
        ours_back, exact_back = (torch.autograd.grad(of, current, grad)[0] for of in (ours, exact))
        _close(ours, exact, 1e-6, f"PSC, T = {time_steps}")
        _close(ours_back, exact_back, 1e-5, f"gradient, T = {time_steps}")
    steps = _device_steps(bench, load_recipe("mnist"), (1, 28, 28), images=500)
    first = _train(steps, 0, 1)
    last = _train(steps, 1, steps.per_epoch)[-1]
    if not (all(result.finite for result in (first[0], last)) and last.loss < first[0].loss):
        raise SystemExit(f"the captured step does not learn: {first[0]}, later {last}")
    return ["neuron against reference, T = 5 and 100", "a captured step learns"]


def _close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    error = (actual - expected).abs().max() / expected.abs().max()
    if not error <= tolerance:
        raise SystemExit(f"{what}: differs by {error:.2g} of the largest magnitude")


def _train(steps: DeviceSteps, first: int, last: int) -> list[Any]:
    if first == 0:
        steps.begin(1, 0)
    for step in range(first, last):
        steps.run(step)
    return steps.read(last)


# The card


def card_section(bench: Bench) -> Row:
    """Measure the bandwidth of a copy, and the rate of a matrix product in each precision."""
    values, size = (1 << 20, 512) if bench.quick else (1 << 28, 8192)
    source = torch.zeros(values, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source))
    row: Row = {"copy GB/s": 2 * source.nbytes / seconds / 1e9}
    for precision in PRECISIONS:
        torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (bench.normal(size, size, dtype=dtype) for _ in range(2))
        seconds = bench.seconds(partial(torch.mm, a, b))
        row[f"{precision} TFLOP/s"] = 2 * size**3 / seconds / 1e12
    show("The card", [row])
    return row


# The neuron alone


def neuron_section(bench: Bench, card: Row) -> Iterator[Row]:
    """Measure the PSC of LIF neurons, forward and backward, relative to the copy's bandwidth."""
    values = 1 << (16 if bench.quick else 26)
    dtypes = [torch.float32, torch.bfloat16] if bench.gpu else [torch.float32]
    for steps in (5, 30, 100, 500):
        for dtype in dtypes:
            for name, run in _neurons().items():
                neurons = values // steps // 16 * 16
                current = bench.normal(steps, neurons, dtype=dtype) * 0.5 + 0.3
                row: Row = {"T": steps, "dtype": str(dtype)[6:], "neuron": name}
                try:
                    row |= _neuron_row(bench, run, current.requires_grad_(), card)
                except Exception as error:  # a peer may not support this case
                    if name == "tsslbp":
                        raise
                    row |= {"failed": type(error).__name__}
                yield row


def _neurons() -> dict[str, Callable[[Tensor], Tensor]]:
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "tsslbp": tsslbp.lif,
        "PyTorch loop": partial(tsslbp.lif, impl="reference"),
    }
    try:
        found["SpikingJelly"] = partial(_fresh, peers.SpikingJellyNeurons().cell)
    except ImportError:
        console.print("without SpikingJelly: it is not installed")
    return found


def _fresh(cell: Any, x: Tensor) -> Tensor:
    cell.reset()
    found: Tensor = cell(x)
    return found


def _neuron_row(
    bench: Bench, run: Callable[[Tensor], Tensor], current: Tensor, card: Row
) -> dict[str, float]:
    """Return times and rates; forward moves two arrays, backward three."""
    source = current.detach()
    calls = 3 if bench.gpu else 1  # several calls hide the host's work for the next one
    forward = bench.seconds(partial(run, source), calls)
    output = run(current)
    grad = torch.ones_like(output)
    back = partial(torch.autograd.grad, output, current, grad, retain_graph=True)
    row: Row = {}
    for name, arrays, seconds in (
        ("forward", 2, forward),
        ("backward", 3, bench.seconds(back, calls)),
    ):
        rate = arrays * source.nbytes / seconds / 1e9
        row |= {f"{name} GB/s": rate, f"{name} / copy": rate / card["copy GB/s"]}
    return row


# Training steps


def step_section(bench: Bench, card: Row) -> Iterator[Row]:
    """Measure steps of the study's networks at batch 50, on random images."""
    for name in ("mnist", "cifar10-cnn1") if bench.quick else RECIPES:
        for precision in PRECISIONS if bench.gpu else ("float32",):
            row: Row = {"network": name, "by": "tsslbp", "precision": precision}
            yield row | _step_row(bench, name, precision, card)
        for peer in ("snnTorch", "SpikingJelly"):
            row = {"network": name, "by": peer, "precision": "tf32" if bench.gpu else "float32"}
            try:
                row |= _peer_row(bench, name, peer)
            except Exception as error:  # the peer is not installed, or does not support this
                row |= {"failed": type(error).__name__}
            yield row


def _step_row(bench: Bench, name: str, precision: str, card: Row) -> Row:
    configure(bench.device, precision)
    recipe, shape = _recipe(bench, name), RECIPES[name]
    steps = _device_steps(bench, recipe, shape, 2500, precision)
    _train(steps, 0, WARM_UP)  # PyTorch tries algorithms here, some of which need much memory
    if bench.gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    _train(steps, WARM_UP, 2 * WARM_UP)  # the step is captured here
    count = 5 if bench.quick else 40
    times = []
    for _ in range(3 if bench.quick else 10):
        steps.begin(1, 0)
        bench.wait()
        start = time.perf_counter()
        for step in range(count):
            steps.run(step)
        bench.wait()
        times.append((time.perf_counter() - start) / count)
    seconds = statistics.median(times)
    operations = step_operations(recipe, shape)
    row: Row = {
        "ms": seconds * 1e3,
        "images/s": recipe.batch_size / seconds,
        "TFLOP/s": operations / seconds / 1e12,
        "/ card": operations / seconds / 1e12 / card[f"{precision} TFLOP/s"],
    }
    if bench.gpu:
        row["peak MB"] = torch.cuda.max_memory_allocated() / 1e6
    if steps.augments:
        row["augmentation / step"] = _augmentation(bench, steps) / seconds
    return row


def _recipe(bench: Bench, name: str) -> Experiment:
    """Return a recipe, with a narrow network if CIFAR-10's would take too long."""
    recipe = load_recipe(name)
    if bench.quick and recipe.data == "cifar10":
        return replace(recipe, network="4C3-P2-16", padding=1)
    return recipe


def _augmentation(bench: Bench, steps: DeviceSteps) -> float:
    """Return the seconds that a step's crops and mirroring take on the device."""
    padding = steps.experiment.crop_padding
    drawn = augment.draw(steps.size, padding, True, torch.Generator().manual_seed(0))
    placement = augment.Placement(*(part.to(bench.device) for part in drawn))
    run: Callable[[], object]
    run = partial(augment.apply, steps.images[: steps.size], placement, padding)
    if bench.gpu:
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        run = graph.replay
    return bench.seconds(run, 10)


def _device_steps(
    bench: Bench,
    recipe: Experiment,
    shape: tuple[int, int, int],
    images: int,
    precision: str = "float32",
) -> DeviceSteps:
    """Return the recipe's training step on random images, whose brightness depends on the class."""
    torch.manual_seed(0)
    labels = torch.arange(images) % peers.CLASSES
    pictures = torch.rand(images, *shape)
    for label in range(peers.CLASSES):
        pictures[labels == label, :, :, 2 * label : 2 * label + 3] += 1
    net = training.build_network(recipe, shape, peers.CLASSES).to(bench.device)
    if bench.gpu:
        net.set_precision(precision)
    optimizer = training.build_optimizer(recipe, net)
    split = training.Split(pictures, labels).to(bench.device)
    return DeviceSteps(net.train(), optimizer, split, recipe, capture=bench.gpu)


def step_operations(recipe: Experiment, shape: tuple[int, int, int]) -> float:
    """Return the floating-point operations of a step's products: forward, and twice that backward.

    The first layer is computed once for all time steps, and its input has no gradient.
    """
    total = 0.0
    for index, layer in enumerate(plan(recipe.network, shape, peers.CLASSES, recipe.padding)):
        forward = 2.0 * layer.parameters * _places(layer) * recipe.batch_size
        total += 2 * forward if index == 0 else 3 * forward * recipe.time_steps
    return total


def _places(layer: LayerPlan) -> int:
    """Return the number of positions at which a convolution's kernel is applied."""
    if layer.kind != "conv":
        return 1
    return math.prod(side + 2 * layer.padding - layer.kernel + 1 for side in layer.in_shape[1:])


class PeerNet(nn.Module):
    """The same layers with a peer's neurons, average pooling, and time folded into the batch."""

    def __init__(self, layers: list[LayerPlan], neurons: Callable[[], nn.Module], steps: int):
        super().__init__()
        self.steps, self.layers = steps, layers
        self.neurons = nn.ModuleList(neurons() for _ in layers)
        self.connections = nn.ModuleList(map(peers.dense_layer, layers))
        with torch.no_grad():
            for weight in self.parameters():
                nn.init.kaiming_normal_(weight).mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.layers, self.connections, self.neurons, strict=True)
        for index, (layer, connection, neurons) in enumerate(parts):
            if layer.kind == "linear":
                x = x.flatten(1)
            current = connection(x)
            if index == 0:
                current = current.expand(self.steps, *current.shape)
            else:
                current = current.view(self.steps, -1, *current.shape[1:])
            x = neurons(current).flatten(0, 1)
            if layer.pool > 1:
                x = functional.avg_pool2d(x, layer.pool)
        return x.view(self.steps, -1, x.shape[-1]).sum(0)


def _peer_row(bench: Bench, name: str, peer: str) -> Row:
    recipe, shape = _recipe(bench, name), RECIPES[name]
    neurons = {"snnTorch": peers.SnnTorchNeurons, "SpikingJelly": peers.SpikingJellyNeurons}[peer]
    configure(bench.device, "tf32" if bench.gpu else "float32")
    layers = plan(recipe.network, shape, peers.CLASSES, recipe.padding)
    model = PeerNet(layers, neurons, recipe.time_steps).to(bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, fused=True)
    images = torch.rand(recipe.batch_size, *shape, device=bench.device)
    labels = torch.arange(recipe.batch_size, device=bench.device) % peers.CLASSES

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()

    if bench.gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = bench.seconds(step)
    row: Row = {"ms": seconds * 1e3, "images/s": recipe.batch_size / seconds}
    if bench.gpu:
        row["peak MB"] = torch.cuda.max_memory_allocated() / 1e6
    return row


# The public protocol of the open-neuromorphic comparison of libraries


def linear_section(bench: Bench) -> Iterator[Row]:
    """Measure ``Linear(n, n)`` and LIF, batch 16, T = 500: forward, and backward of the sum."""
    configure(bench.device, "float32")
    steps = 50 if bench.quick else 500
    for features in (64,) if bench.quick else (4096, 8192, 16384):
        layer = nn.Linear(features, features).to(bench.device)
        x = bench.normal(steps, 16, features)
        ours: dict[str, Callable[[Tensor], Tensor]] = {
            "tsslbp": tsslbp.spikes,
            "PyTorch loop": partial(tsslbp.spikes, impl="reference"),
        }
        for name, fire in (_neurons() | ours).items():
            row: Row = {"n": features, "neuron": name}
            forward, both = _passes(layer, x, fire)
            try:
                seconds = bench.seconds(forward), bench.seconds(both)
            except Exception as error:
                if name == "tsslbp":
                    raise
                yield row | {"failed": type(error).__name__}
                continue
            row |= {"forward ms": seconds[0] * 1e3, "backward ms": (seconds[1] - seconds[0]) * 1e3}
            yield row


def _passes(
    layer: nn.Module, x: Tensor, fire: Callable[[Tensor], Tensor]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the forward pass alone, and forward with backward."""
    return lambda: fire(layer(x)).sum(), lambda: fire(layer(x)).sum().backward()


# Output


def show(title: str, rows: list[Row]) -> None:
    table = Table(title=title, title_justify="left")
    names = dict.fromkeys(name for row in rows for name in row)
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        cells = (row.get(name, "") for name in names)
        table.add_row(*(f"{of:.3g}" if isinstance(of, float) else str(of) for of in cells))
    console.print(table)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark on one GPU.")
    parser.add_argument("--quick", action="store_true", help="small sizes, on the CPU as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    arguments = parser.parse_args()
    if not (torch.cuda.is_available() or arguments.quick):
        raise SystemExit("PyTorch finds no GPU; use --quick for small sizes on the CPU")
    bench = Bench("cuda" if torch.cuda.is_available() else "cpu", arguments.quick)
    name = torch.cuda.get_device_name() if bench.gpu else "CPU"
    console.print(f"{name}, PyTorch {torch.__version__}")
    configure(bench.device, "float32")
    result: Row = {"device": name, "quick": bench.quick, "environment": describe_environment()}
    result["peers"] = {peer: of for peer in PEERS if (of := _version(peer))}

    def save() -> None:  # after every row, so that a time limit loses only the remaining rows
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")

    result["checks"] = check(bench)
    for line in result["checks"]:
        console.print(f"checked: {line}")
    result["card"] = card = card_section(bench)
    for name, title, section in (
        ("step", "Training steps, batch 50", step_section(bench, card)),
        ("neuron", "Neurons alone", neuron_section(bench, card)),
        ("linear", "Linear(n, n) and LIF, batch 16", linear_section(bench)),
    ):
        result[name] = rows = []
        for row in section:
            rows.append(row)
            save()
        show(title, rows)


if __name__ == "__main__":
    main()
