"""Print the peak memory of a case's training step in bytes: ``peak.py CASE T BATCH CHANNELS``.

A process of its own for each case, started by `timing.peak_memory`.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import peers
from tsslbp import training

STEPS = 5


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where a process's ru_maxrss is at least its parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    name, *numbers = sys.argv[1:]
    size = peers.Size(*map(int, numbers))
    training.keep_freed_memory()
    step = peers.make(name, size).step
    images, labels = peers.batch(size)
    step(images[:1], labels[:1])
    before = _peak()
    for _ in range(STEPS):
        step(images, labels)
    print(_peak() - before)


if __name__ == "__main__":
    main()
