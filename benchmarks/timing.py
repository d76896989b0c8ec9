"""Measurement of time by interleaved repetitions, and of memory in a fresh process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from peers import Size

WARM_UP = 3  # calls before the first measured call


class Timing(NamedTuple):
    """Seconds per call."""

    best: float
    median: float


def interleave(
    cases: Mapping[str, Callable[[], object]], repetitions: int, calls: int = 1
) -> dict[str, Timing]:
    """Time all cases in turn, `repetitions` times, so that all run under the same conditions.

    Args:
        cases: functions to call, by name.
        repetitions: number of rounds.
        calls: calls of one case per round, timed together.
    """
    for run in cases.values():
        for _ in range(WARM_UP):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repetitions):
        for name, run in cases.items():
            start = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: Timing(min(of), statistics.median(of)) for name, of in seconds.items()}


def parts(
    run: Callable[[], object], operations: Mapping[str, Sequence[str]], calls: int
) -> dict[str, float]:
    """Return the seconds per call that each part of a function takes, by PyTorch's profiler.

    Args:
        run: the function.
        operations: names of the operations of each part; operations within them do not count again.
        calls: calls over which times are averaged.

    Returns:
        Times by part, and that of "everything else".
    """
    part_of = {name: part for part, names in operations.items() for name in names}
    seconds = dict.fromkeys(operations, 0.0)
    for _ in range(WARM_UP):
        run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        whole = time.perf_counter() - start

    def add(event: FunctionEvent) -> None:
        if event.name in part_of:
            seconds[part_of[event.name]] += event.cpu_time_total / 1e6
        else:
            for child in event.cpu_children:
                add(child)

    for event in profiler.events():
        if event.cpu_parent is None:
            add(event)
    seconds["everything else"] = whole - sum(seconds.values())
    return {part: of / calls for part, of in seconds.items()}


def peak_memory(name: str, size: Size) -> int:
    """Return the bytes that the training step of case `name` adds to a process at its peak.

    They are measured in a fresh process, above the peak of importing, building, and a step with one
    image.
    """
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), name]
    command += [str(number) for number in astuple(size)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return int(_output(command, environment).splitlines()[-1])


def first_step(name: str, cache: str) -> float:
    """Return the seconds of the first training step of case `name` in a fresh process.

    `cache` is the folder of the compiled kernels ("": the usual one); if it is empty, the step
    compiles them.
    """
    command = [sys.executable, str(Path(__file__).with_name("first.py")), name]
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": threads}
    return float(_output(command, environment).splitlines()[-1])


def _output(command: Sequence[str], environment: Mapping[str, str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout


def per_doubling(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the factor by which `values` grow when the size doubles: 2 if proportional.

    It is computed from the least-squares line through the logarithms.
    """
    slope = np.polyfit(np.log2(sizes), np.log2(values), 1)[0]
    return float(2**slope)
